//! The settings that requests see: one immutable snapshot for all workers, which a reload replaces as a whole. A request
//! keeps the snapshot that it began with.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::{Extensions, ServiceRequest};
use actix_web::web;
use tokio::sync::watch;

use super::upstreams::Upstreams;
use crate::http::state::{AppState, Worker};

/// What one reload publishes.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub shared: Arc<AppState>,
    pub upstreams: Upstreams,
}

/// One worker's view: it looks for a newer snapshot at the beginning of each request, by one atomic load.
#[derive(Clone)]
pub(super) struct WorkerSnapshot(Rc<RefCell<Seen>>);

struct Seen {
    newest: watch::Receiver<Snapshot>,
    worker: web::Data<Worker>,
    /// Contains `worker`, as requests look for it.
    data: Rc<Extensions>,
}

impl WorkerSnapshot {
    /// Must be called on the worker's thread.
    pub fn new(mut newest: watch::Receiver<Snapshot>) -> Self {
        let Snapshot { shared, upstreams } = newest.borrow_and_update().clone();
        let worker = web::Data::new(Worker {
            wechat: upstreams.wechat(&shared.settings),
            upstream: upstreams.cos(),
            api: upstreams.api(),
            hooks: upstreams.hooks(),
            auth_server: upstreams.auth_server(),
            shared,
        });
        let data = data_of(&worker);
        Self(Rc::new(RefCell::new(Seen { newest, worker, data })))
    }

    /// Gives a request the newest snapshot.
    pub fn attach(&self, request: &mut ServiceRequest) {
        let mut seen = self.0.borrow_mut();
        // An error: the gateway shuts down, and nothing will change any more.
        if seen.newest.has_changed().unwrap_or(false) {
            seen.update();
        }
        request.add_data_container(seen.data.clone());
    }

    /// Whether `cors.origins` lists an origin, by the newest snapshot that a request of this worker was given.
    pub fn lists_origin(&self, origin: &[u8]) -> bool {
        self.0.borrow().worker.shared.origins.is_listed(origin)
    }

    pub fn worker(&self) -> web::Data<Worker> {
        self.0.borrow().worker.clone()
    }
}

impl Seen {
    /// The connections of the worker stay, except those to a back end or an auth server whose settings have changed.
    fn update(&mut self) {
        let Snapshot { shared, upstreams } = self.newest.borrow_and_update().clone();
        let before = &self.worker;
        self.worker = web::Data::new(Worker {
            wechat: before.wechat.clone(),
            upstream: before.upstream.clone(),
            api: before.api.clone(),
            hooks: upstreams.hooks(),
            auth_server: upstreams.auth_server_after(before.auth_server.as_ref()),
            shared,
        });
        self.data = data_of(&self.worker);
    }
}

fn data_of(worker: &web::Data<Worker>) -> Rc<Extensions> {
    let mut data = Extensions::new();
    data.insert(worker.clone());
    Rc::new(data)
}
