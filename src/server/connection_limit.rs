//! The connections of one worker: how many there may be, and which one is closed at the limit.
//!
//! A flood of connections must neither take the descriptors that running uploads need nor keep a probe of `/healthz`
//! waiting. So at the limit a new connection is accepted and another one is closed, in this order:
//!
//! 1. a connection whose response was sent and whose request's rest is only read to be discarded (lingering close),
//! 2. the connection that has been idle longest,
//! 3. a connection whose client does not read its response,
//! 4. the connection whose request has been handled longest without being authenticated.
//!
//! Within each of these classes the connection that has been in it longest is closed first. A connection with an
//! authenticated request is never closed for another. If all have one, the new connection is over the limit: only
//! health checks on it are answered, and every other request is refused. At most 8 connections of a worker are over the
//! limit; one more closes the oldest of them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::h2_flood::FloodDetector;
use super::load_shed_log::LoadShedLog;

/// Connections over the limit, on each worker.
const OVER_LIMIT: usize = 8;
/// Connections that a worker needs besides its limit: those over the limit, and those that are being closed.
pub const SPARE: usize = 2 * OVER_LIMIT;
/// A connection that has been idle for this long has sent its last response to the end.
const SENT_WITHIN: Duration = Duration::from_millis(500);

/// The limits of one worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    pub connections: usize,
    /// Requests that run at once: each may need descriptors of its own.
    pub requests: usize,
    /// How long a client may read nothing of a response.
    pub write_timeout: Duration,
}

/// Why a connection may be closed for a new one; the classes are closed in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ShedClass {
    /// Its response was sent, and the rest of its request is read and discarded.
    Lingering,
    /// It has no request.
    Idle,
    /// A response is being sent.
    SendingResponse,
    /// Its requests are handled, and none of them is authenticated yet.
    Unauthenticated,
}

/// A connection's position in the order of closing: within a class, the connection that has been in it longest is
/// first.
type ShedKey = (ShedClass, u64);

/// The connections of one worker.
pub struct Connections {
    limits: WorkerLimits,
    /// Connections within the limit.
    admitted: Cell<usize>,
    /// Running requests, health checks aside.
    requests: Cell<usize>,
    /// Connections that may be closed for a new one, in the order in which they would be closed.
    sheddable: RefCell<BTreeMap<ShedKey, Rc<ConnectionHandle>>>,
    over_limit: RefCell<VecDeque<Rc<ConnectionHandle>>>,
    /// Counts up with every entry of `sheddable`.
    next_entry: Cell<u64>,
    load_shed_log: Arc<LoadShedLog>,
}

/// A connection as its requests see it.
pub struct ConnectionHandle {
    connections: Rc<Connections>,
    over_limit: bool,
    /// Its key in `sheddable`, and when it got it.
    shed_key: Cell<Option<(ShedKey, Instant)>>,
    /// Requests that are handled.
    running: Cell<usize>,
    /// Of these, the authenticated ones.
    authenticated: Cell<usize>,
    /// Responses that are not yet sent to their end.
    sending: Cell<usize>,
    /// Of these, the ones after which the rest of a request is discarded.
    lingering: Cell<usize>,
    /// Of these, the ones with a chunk that the client has not taken yet.
    unsent: Cell<usize>,
    /// When a chunk of a response was last taken from its handler, which is when the chunk before it was sent.
    last_progress: Cell<Option<Instant>>,
    /// It closes when there is nothing to read: requests that were received before are still served.
    closing: Cell<bool>,
    /// It closes at once.
    aborted: Cell<bool>,
    /// The socket takes no more bytes.
    write_blocked: Cell<bool>,
    /// Wakes the connection's reading.
    reader: RefCell<Option<Waker>>,
    /// For h2 the reading side times responses, since windows delay these, and not the socket.
    is_h2: Cell<bool>,
    flood_detector: FloodDetector,
}

impl Connections {
    pub fn new(limits: WorkerLimits, load_shed_log: Arc<LoadShedLog>) -> Rc<Self> {
        Rc::new(Self {
            limits,
            admitted: Cell::new(0),
            requests: Cell::new(0),
            sheddable: RefCell::default(),
            over_limit: RefCell::default(),
            next_entry: Cell::new(0),
            load_shed_log,
        })
    }

    /// Counts a new connection; the caller must report its end with [`ConnectionHandle::closed`].
    pub fn admit(self: &Rc<Self>) -> Rc<ConnectionHandle> {
        self.load_shed_log.metrics.connected();
        let has_slot = self.admitted.get() < self.limits.connections || self.shed_one();
        let handle = Rc::new(ConnectionHandle {
            connections: self.clone(),
            over_limit: !has_slot,
            shed_key: Cell::new(None),
            running: Cell::new(0),
            authenticated: Cell::new(0),
            sending: Cell::new(0),
            lingering: Cell::new(0),
            unsent: Cell::new(0),
            last_progress: Cell::new(None),
            closing: Cell::new(false),
            aborted: Cell::new(false),
            write_blocked: Cell::new(false),
            reader: RefCell::default(),
            is_h2: Cell::new(false),
            flood_detector: FloodDetector::default(),
        });
        if has_slot {
            self.admitted.set(self.admitted.get() + 1);
            handle.update_shed_class();
        } else {
            let mut over_limit = self.over_limit.borrow_mut();
            let oldest = if over_limit.len() >= OVER_LIMIT { over_limit.pop_front() } else { None };
            over_limit.push_back(handle.clone());
            drop(over_limit);
            if let Some(oldest) = oldest {
                oldest.shed();
            }
        }
        handle
    }

    /// Closes the first connection that may be closed; `false` where there is none.
    fn shed_one(&self) -> bool {
        self.load_shed_log.shed();
        let first = self.sheddable.borrow().first_key_value().map(|(_, handle)| handle.clone());
        first.inspect(|handle| handle.shed()).is_some()
    }

    /// Whether one more request, on `handle`, may run. At the limit the connection whose request has been handled
    /// longest without being authenticated is closed for it.
    fn has_request_slot(&self, handle: &Rc<ConnectionHandle>) -> bool {
        if self.requests.get() < self.limits.requests {
            return true;
        }
        let sheddable = self.sheddable.borrow();
        let mut unauthenticated =
            sheddable.range((ShedClass::Unauthenticated, 0)..).map(|(_, handle)| handle);
        let longest = unauthenticated.find(|other| !Rc::ptr_eq(other, handle)).cloned();
        drop(sheddable);
        longest.inspect(|handle| handle.shed()).is_some()
    }

    /// Closes every connection that has no request and has sent its responses.
    pub fn close_idle(&self) {
        let now = Instant::now();
        let has_sent_all = |handle: &&Rc<ConnectionHandle>| {
            handle.shed_key.get().is_some_and(|((class, _), since)| {
                class == ShedClass::Idle && now.duration_since(since) >= SENT_WITHIN
            })
        };
        let idle: Vec<_> = self.sheddable.borrow().values().filter(has_sent_all).cloned().collect();
        idle.iter().for_each(|handle| handle.close());
    }
}

impl ConnectionHandle {
    /// Counts a new request, which runs until the returned value is dropped. A health check is never refused.
    pub fn begin_request(self: &Rc<Self>, is_health_check: bool) -> RunningRequest {
        self.running.set(self.running.get() + 1);
        self.update_shed_class();
        let connections = &self.connections;
        let has_slot =
            !self.is_over_limit() && (is_health_check || connections.has_request_slot(self));
        let (counted, refused) = (has_slot && !is_health_check, !has_slot && !is_health_check);
        if counted {
            connections.requests.set(connections.requests.get() + 1);
        }
        if refused {
            connections.load_shed_log.shed();
        }
        let caller = Caller { handle: self.clone(), is_authenticated: Cell::new(false) };
        RunningRequest { handle: self.clone(), caller: Rc::new(caller), counted, refused }
    }

    /// Whether it is over the limit or about to be closed.
    fn is_over_limit(&self) -> bool {
        self.over_limit || self.closing.get()
    }

    /// Requests that run on it, and responses that are not sent to their end.
    pub fn requests(&self) -> usize {
        self.running.get() + self.sending.get()
    }

    /// What was received over it, if it carries h2.
    pub fn flood_detector(&self) -> &FloodDetector {
        &self.flood_detector
    }

    pub fn set_h2(&self) {
        self.is_h2.set(true);
    }

    pub fn is_h2(&self) -> bool {
        self.is_h2.get()
    }

    /// Makes the connection poll its reading, and so set its timer.
    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow().as_ref() {
            reader.wake_by_ref();
        }
    }

    /// How long its client may read nothing of what is sent.
    pub fn write_timeout(&self) -> Duration {
        self.connections.limits.write_timeout
    }

    /// By when its client must have read something of a response; `None` while no chunk is unsent.
    pub fn response_deadline(&self) -> Option<Instant> {
        let last = self.last_progress.get().filter(|_| self.unsent.get() > 0);
        last.map(|last| last + self.write_timeout())
    }

    /// Closes the connection at once, whatever runs on it.
    pub fn abort(&self) {
        self.aborted.set(true);
        self.close();
    }

    pub fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// Whether to close, now that there is nothing to read. If not, `reader` is woken when that may have changed.
    pub fn should_close(&self, reader: &Waker) -> bool {
        let closes = self.aborted.get() || (self.closing.get() && self.requests() == 0);
        let mut waker = self.reader.borrow_mut();
        if !closes && !waker.as_ref().is_some_and(|waker| waker.will_wake(reader)) {
            *waker = Some(reader.clone());
        }
        closes
    }

    /// The connection was closed, by either side.
    pub fn closed(self: &Rc<Self>) {
        self.close();
        if self.over_limit {
            self.connections.over_limit.borrow_mut().retain(|handle| !Rc::ptr_eq(handle, self));
        }
        self.connections.load_shed_log.metrics.disconnected();
        self.connections.load_shed_log.check_over();
    }

    /// Records whether the socket takes what is written.
    pub fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.set(blocked);
    }

    /// Closes it for another connection: at once if a request runs or a response is being sent.
    fn shed(&self) {
        if self.requests() > 0 || self.write_blocked.get() { self.abort() } else { self.close() }
    }

    /// Closes it as soon as its requests are done and there is nothing to read.
    fn close(&self) {
        if !self.closing.replace(true) && !self.over_limit {
            self.connections.admitted.set(self.connections.admitted.get() - 1);
        }
        self.mark_active();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Enters it among the connections that may be closed, by what it does now, or takes it out.
    fn update_shed_class(self: &Rc<Self>) {
        let class = match (self.running.get(), self.sending.get(), self.lingering.get()) {
            (1.., _, _) if self.authenticated.get() > 0 => None,
            (1.., _, _) => Some(ShedClass::Unauthenticated),
            (0, 0, _) => Some(ShedClass::Idle),
            (0, sending, lingering) if sending == lingering => Some(ShedClass::Lingering),
            _ => Some(ShedClass::SendingResponse),
        };
        if self.shed_key.get().map(|((class, _), _)| class) == class {
            return;
        }
        self.mark_active();
        let Some(class) = class.filter(|_| !self.is_over_limit()) else {
            return;
        };
        let entry = self.connections.next_entry.get();
        self.connections.next_entry.set(entry + 1);
        self.shed_key.set(Some(((class, entry), Instant::now())));
        self.connections.sheddable.borrow_mut().insert((class, entry), self.clone());
    }

    /// Takes it out of the connections that may be closed.
    fn mark_active(&self) {
        if let Some((key, _)) = self.shed_key.take() {
            self.connections.sheddable.borrow_mut().remove(&key);
        }
    }
}

/// A request that runs on a connection.
pub struct RunningRequest {
    handle: Rc<ConnectionHandle>,
    caller: Rc<Caller>,
    /// It counts towards the limit of requests.
    counted: bool,
    refused: bool,
}

impl RunningRequest {
    /// Whether it is refused for lack of slots.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether its connection closes after it.
    pub fn is_last(&self) -> bool {
        self.refused || self.handle.is_over_limit()
    }

    /// Its connection.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Where its authentication is to be reported.
    pub fn caller(&self) -> Rc<Caller> {
        self.caller.clone()
    }

    /// Its response is ready to be sent. From now on the request needs nothing but its connection, which may be closed
    /// for another. `lingers`: the rest of the request is discarded after the response.
    pub fn into_sending(self, lingers: bool) -> SendingResponse {
        let handle = &self.handle;
        handle.sending.set(handle.sending.get() + 1);
        handle.lingering.set(handle.lingering.get() + usize::from(lingers));
        let sending =
            SendingResponse { handle: handle.clone(), lingers, is_unsent: Cell::new(false) };
        sending.chunk_produced();
        sending
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let Self { handle, counted, caller, .. } = self;
        // Set, so that a later report changes nothing: the request is over.
        let was_authenticated = caller.is_authenticated.replace(true);
        handle.authenticated.set(handle.authenticated.get() - usize::from(was_authenticated));
        if *counted {
            handle.connections.requests.set(handle.connections.requests.get() - 1);
        }
        handle.running.set(handle.running.get() - 1);
        handle.update_shed_class();
    }
}

/// The caller of a running request.
pub struct Caller {
    handle: Rc<ConnectionHandle>,
    is_authenticated: Cell<bool>,
}

impl Caller {
    /// The request has a valid credential, or needs none: its connection is not closed for another until it is done.
    pub fn set_authenticated(&self) {
        if !self.is_authenticated.replace(true) {
            self.handle.authenticated.set(self.handle.authenticated.get() + 1);
            self.handle.update_shed_class();
        }
    }
}

/// A response that is not yet sent to its end.
pub struct SendingResponse {
    handle: Rc<ConnectionHandle>,
    lingers: bool,
    /// A chunk of it is not yet taken by the client.
    is_unsent: Cell<bool>,
}

impl SendingResponse {
    /// Its handler produced a chunk, which the client has not taken yet.
    pub fn chunk_produced(&self) {
        self.handle.last_progress.set(Some(Instant::now()));
        if !self.is_unsent.replace(true) {
            self.handle.unsent.set(self.handle.unsent.get() + 1);
            if self.handle.is_h2() {
                self.handle.wake_reader();
            }
        }
    }

    /// Its handler was asked for a chunk and has none yet: the client has taken all the chunks before.
    pub fn awaits_handler(&self) {
        if self.is_unsent.replace(false) {
            self.handle.unsent.set(self.handle.unsent.get() - 1);
        }
    }
}

impl Drop for SendingResponse {
    fn drop(&mut self) {
        self.awaits_handler();
        let Self { handle, lingers, .. } = self;
        handle.sending.set(handle.sending.get() - 1);
        handle.lingering.set(handle.lingering.get() - usize::from(*lingers));
        handle.last_progress.set(Some(Instant::now()));
        handle.update_shed_class();
    }
}
