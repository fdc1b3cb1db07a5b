//! The state that both sides of the sandbox share. Only the sandbox's thread uses it, so it needs no locks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::fault::Faults;
use super::keys::Keys;
use super::link::Links;
use super::multipart::MultipartStore;
use super::record::Record;
use super::store::Store;
use super::token::Tokens;

pub struct SandboxState {
    pub env: String,
    pub bucket: String,
    pub appid: String,
    pub secret: String,
    pub component_appid: String,
    pub upload_limit: Option<Duration>,
    pub post_crc: bool,
    pub links: Links,
    pub keys: RefCell<Keys>,
    pub tokens: RefCell<Tokens>,
    pub store: RefCell<Store>,
    pub multipart: RefCell<MultipartStore>,
    pub faults: RefCell<Faults>,
    pub record: Rc<Record>,
    /// Notified when the idle connections of a side must be reset.
    pub drop_idle_wechat: Notify,
    pub drop_idle_cos: Notify,
    /// Notified when the faults are cleared; stalled connections are reset then.
    pub faults_cleared: Notify,
}

impl SandboxState {
    pub fn drop_idle(&self, cos: bool) {
        self.idle(cos).notify_waiters();
    }

    pub fn clear_faults(&self) {
        self.faults.borrow_mut().clear();
        self.faults_cleared.notify_waiters();
    }

    pub fn idle(&self, cos: bool) -> &Notify {
        if cos { &self.drop_idle_cos } else { &self.drop_idle_wechat }
    }
}
