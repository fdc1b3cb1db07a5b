//! The connections of one worker: how many there may be, and which of them goes when there are too many.
//!
//! A flood of connections must neither take the descriptors that running uploads need nor keep a probe of `/healthz`
//! waiting. At the limit a new connection is accepted, and another one is closed: one whose request was answered and is
//! only read to be discarded, otherwise the one that has been idle longest, otherwise one whose response the client does
//! not read, otherwise the one whose request has been handled longest without its caller being known. Where requests of
//! known callers are handled on all of them the new connection is over the limit: it is told of the gateway's health, and
//! refused whatever else it asks for; and the newest of those over the limit close the oldest.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::h2_flood::FloodDetector;
use crate::metrics::Metrics;

/// Connections without a place.
const OVER_LIMIT: usize = 8;
/// Connections above the room: for those without a place, and for those who are just leaving.
pub const SPARE: usize = 2 * OVER_LIMIT;
/// A reply that was made is sent within this; an idle connection may be closed then.
const SETTLED: Duration = Duration::from_millis(500);

/// How much one worker may have.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    pub connections: usize,
    /// That run at once: each may need descriptors of its own.
    pub requests: usize,
    /// How long a client may take none of a response.
    pub write_timeout: Duration,
}

/// What a connection does that may be closed to make room; the first is the first to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rest {
    /// The rest of an answered request is read and discarded.
    Draining,
    /// There is no request.
    Idle,
    /// A response is being sent.
    SendingResponse,
    /// Requests are handled, none of which has shown who calls.
    Unknown,
}

/// The connections of one worker.
pub struct Connections {
    room: WorkerLimits,
    /// Connections that have a place.
    admitted: Cell<usize>,
    /// Requests that run.
    served: Cell<usize>,
    /// Connections on which no request of a known caller runs, in the order in which they are closed.
    waiting: RefCell<BTreeMap<(Rest, u64), Rc<ConnectionHandle>>>,
    over_limit: RefCell<VecDeque<Rc<ConnectionHandle>>>,
    turn: Cell<u64>,
    load_shed_log: Arc<LoadShedLog>,
}

/// A connection as its requests know it.
pub struct ConnectionHandle {
    connections: Rc<Connections>,
    over_limit: bool,
    /// Its key among those that may be closed, and since when.
    waits: Cell<Option<((Rest, u64), Instant)>>,
    /// Requests that are handled.
    running: Cell<usize>,
    /// Those of them whose callers are known.
    known: Cell<usize>,
    /// Responses that are not sent to their end.
    responding: Cell<usize>,
    /// Those of them behind which the rest of a request is discarded.
    draining: Cell<usize>,
    /// Responses of which a piece waits for the client to take it.
    unsent: Cell<usize>,
    /// When a piece of a response was last taken from its handler, which is when the one before was sent.
    progress: Cell<Option<Instant>>,
    /// It ends as soon as there is nothing to read: what has come already is answered.
    leaving: Cell<bool>,
    /// It ends at once.
    broken: Cell<bool>,
    /// The client does not take what was written last.
    blocked: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    /// h2: its reader has a clock for responses, which wait for windows rather than for the socket.
    is_h2: Cell<bool>,
    flood_detector: FloodDetector,
}

impl Connections {
    pub fn new(room: WorkerLimits, load_shed_log: Arc<LoadShedLog>) -> Rc<Self> {
        Rc::new(Self {
            room,
            admitted: Cell::new(0),
            served: Cell::new(0),
            waiting: RefCell::default(),
            over_limit: RefCell::default(),
            turn: Cell::new(0),
            load_shed_log,
        })
    }

    /// A client has connected; whoever calls says when it is gone ([`ConnectionHandle::closed`]).
    pub fn enter(self: &Rc<Self>) -> Rc<ConnectionHandle> {
        self.load_shed_log.metrics.connected();
        let room = self.admitted.get() < self.room.connections || self.longest_waiting_leaves();
        let handle = Rc::new(ConnectionHandle {
            connections: self.clone(),
            over_limit: !room,
            waits: Cell::new(None),
            running: Cell::new(0),
            known: Cell::new(0),
            responding: Cell::new(0),
            draining: Cell::new(0),
            unsent: Cell::new(0),
            progress: Cell::new(None),
            leaving: Cell::new(false),
            broken: Cell::new(false),
            blocked: Cell::new(false),
            reader: RefCell::default(),
            is_h2: Cell::new(false),
            flood_detector: FloodDetector::default(),
        });
        if room {
            self.admitted.set(self.admitted.get() + 1);
            handle.rest();
        } else {
            let mut over_limit = self.over_limit.borrow_mut();
            let oldest = if over_limit.len() >= OVER_LIMIT { over_limit.pop_front() } else { None };
            over_limit.push_back(handle.clone());
            drop(over_limit);
            if let Some(oldest) = oldest {
                oldest.close();
            }
        }
        handle
    }

    fn longest_waiting_leaves(&self) -> bool {
        self.load_shed_log.began();
        let first = self.waiting.borrow().first_key_value().map(|(_, handle)| handle.clone());
        first.inspect(|handle| handle.close()).is_some()
    }

    /// Whether there is room for one more request, on `handle`, which the longest running one of an unknown caller may have to
    /// make.
    fn serves_one_more(&self, handle: &Rc<ConnectionHandle>) -> bool {
        if self.served.get() < self.room.requests {
            return true;
        }
        let last = self.waiting.borrow();
        let mut unknown = last.range((Rest::Unknown, 0)..).map(|(_, handle)| handle);
        let longest = unknown.find(|other| !Rc::ptr_eq(other, handle)).cloned();
        drop(last);
        longest.inspect(|handle| handle.close()).is_some()
    }

    /// Closes every connection on which no request runs and no reply is being sent any more.
    pub fn close_idle(&self) {
        let now = Instant::now();
        let settled = |handle: &&Rc<ConnectionHandle>| {
            handle.waits.get().is_some_and(|((rest, _), since)| {
                rest == Rest::Idle && now.duration_since(since) >= SETTLED
            })
        };
        let idle: Vec<_> = self.waiting.borrow().values().filter(settled).cloned().collect();
        idle.iter().for_each(|handle| handle.leave());
    }
}

impl ConnectionHandle {
    /// A request has come; it runs until what is returned is dropped or answered. One that only asks for the gateway's
    /// health is never refused.
    pub fn begin(self: &Rc<Self>, asks_for_health: bool) -> RunningRequest {
        self.running.set(self.running.get() + 1);
        self.rest();
        let connections = &self.connections;
        let room = !self.is_over_limit() && (asks_for_health || connections.serves_one_more(self));
        let (served, refused) = (room && !asks_for_health, !room && !asks_for_health);
        if served {
            connections.served.set(connections.served.get() + 1);
        }
        if refused {
            connections.load_shed_log.began();
        }
        let caller = Caller { handle: self.clone(), is_known: Cell::new(false) };
        RunningRequest { handle: self.clone(), caller: Rc::new(caller), served, refused }
    }

    /// Whether it is over the limit, or about to be closed.
    fn is_over_limit(&self) -> bool {
        self.over_limit || self.leaving.get()
    }

    /// Requests that run on it, and responses that are not sent to their end.
    pub fn requests(&self) -> usize {
        self.running.get() + self.responding.get()
    }

    /// What came over it, if it is one of h2.
    pub fn flood_detector(&self) -> &FloodDetector {
        &self.flood_detector
    }

    /// It carries h2.
    pub fn set_h2(&self) {
        self.is_h2.set(true);
    }

    /// Whether it carries h2.
    pub fn is_h2(&self) -> bool {
        self.is_h2.get()
    }

    /// Has the connection read on, and so look at its clock.
    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow().as_ref() {
            reader.wake_by_ref();
        }
    }

    /// How long its client may take none of what is sent.
    pub fn write_timeout(&self) -> Duration {
        self.connections.room.write_timeout
    }

    /// When its client will have taken nothing of any response for too long; `None` where none waits for it.
    pub fn response_deadline(&self) -> Option<Instant> {
        let last = self.progress.get().filter(|_| self.unsent.get() > 0);
        last.map(|last| last + self.write_timeout())
    }

    /// Ends the connection, whatever runs on it.
    pub fn break_off(&self) {
        self.broken.set(true);
        self.leave();
    }

    /// Whether it ends here and now.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// There is nothing to read from it. Whether that is its end; otherwise `reader` is woken when it must close.
    pub fn is_over(&self, reader: &Waker) -> bool {
        let over = self.broken.get() || (self.leaving.get() && self.requests() == 0);
        let mut known = self.reader.borrow_mut();
        if !over && !known.as_ref().is_some_and(|known| known.will_wake(reader)) {
            *known = Some(reader.clone());
        }
        over
    }

    /// The client has disconnected, or we have.
    pub fn closed(self: &Rc<Self>) {
        self.leave();
        if self.over_limit {
            self.connections.over_limit.borrow_mut().retain(|handle| !Rc::ptr_eq(handle, self));
        }
        self.connections.load_shed_log.metrics.disconnected();
        self.connections.load_shed_log.may_be_over();
    }

    /// Whether the client takes what is written.
    pub fn set_blocked(&self, blocked: bool) {
        self.blocked.set(blocked);
    }

    /// Makes room: at once where something runs or is being sent, be it the end of an answered request's response.
    fn close(&self) {
        if self.requests() > 0 || self.blocked.get() { self.break_off() } else { self.leave() }
    }

    fn leave(&self) {
        if !self.leaving.replace(true) && !self.over_limit {
            self.connections.admitted.set(self.connections.admitted.get() - 1);
        }
        self.mark_active();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Puts it where it belongs among those that may be closed.
    fn rest(self: &Rc<Self>) {
        let rest = match (self.running.get(), self.responding.get(), self.draining.get()) {
            (1.., _, _) if self.known.get() > 0 => None,
            (1.., _, _) => Some(Rest::Unknown),
            (0, 0, _) => Some(Rest::Idle),
            (0, responding, draining) if responding == draining => Some(Rest::Draining),
            _ => Some(Rest::SendingResponse),
        };
        if self.waits.get().map(|((rest, _), _)| rest) == rest {
            return;
        }
        self.mark_active();
        let Some(rest) = rest.filter(|_| !self.is_over_limit()) else {
            return;
        };
        let turn = self.connections.turn.get();
        self.connections.turn.set(turn + 1);
        self.waits.set(Some(((rest, turn), Instant::now())));
        self.connections.waiting.borrow_mut().insert((rest, turn), self.clone());
    }

    fn mark_active(&self) {
        if let Some((key, _)) = self.waits.take() {
            self.connections.waiting.borrow_mut().remove(&key);
        }
    }
}

/// A request that runs on a connection.
pub struct RunningRequest {
    handle: Rc<ConnectionHandle>,
    caller: Rc<Caller>,
    served: bool,
    refused: bool,
}

impl RunningRequest {
    /// Whether there is no room for it.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether its connection shall not stay for another.
    pub fn is_last(&self) -> bool {
        self.refused || self.handle.is_over_limit()
    }

    /// Its connection.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// What is to be told once its caller is known.
    pub fn caller(&self) -> Rc<Caller> {
        self.caller.clone()
    }

    /// Its response is made. From here on the request needs nothing but its connection, which may be closed to make room.
    /// `drains`: the rest of the request is discarded behind the response.
    pub fn answered(self, drains: bool) -> SendingResponse {
        let handle = &self.handle;
        handle.responding.set(handle.responding.get() + 1);
        handle.draining.set(handle.draining.get() + usize::from(drains));
        let responding =
            SendingResponse { handle: handle.clone(), drains, is_unsent: Cell::new(false) };
        responding.gave();
        responding
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let Self { handle, served, caller, .. } = self;
        // Told later it changes nothing: the request is over.
        handle.known.set(handle.known.get() - usize::from(caller.is_known.replace(true)));
        if *served {
            handle.connections.served.set(handle.connections.served.get() - 1);
        }
        handle.running.set(handle.running.get() - 1);
        handle.rest();
    }
}

/// The caller of a running request, as its connection knows it.
pub struct Caller {
    handle: Rc<ConnectionHandle>,
    is_known: Cell<bool>,
}

impl Caller {
    /// A valid credential was shown, or none is asked for: the request runs to its end.
    pub fn is_known(&self) {
        if !self.is_known.replace(true) {
            self.handle.known.set(self.handle.known.get() + 1);
            self.handle.rest();
        }
    }
}

/// A response that is not sent to its end.
pub struct SendingResponse {
    handle: Rc<ConnectionHandle>,
    drains: bool,
    /// A piece of it waits for the client.
    is_unsent: Cell<bool>,
}

impl SendingResponse {
    /// Its handler gave a piece, which the client has yet to take.
    pub fn gave(&self) {
        self.handle.progress.set(Some(Instant::now()));
        if !self.is_unsent.replace(true) {
            self.handle.unsent.set(self.handle.unsent.get() + 1);
            if self.handle.is_h2() {
                self.handle.wake_reader();
            }
        }
    }

    /// Its handler was asked for a piece and has none yet: the client has taken all before.
    pub fn awaits_handler(&self) {
        if self.is_unsent.replace(false) {
            self.handle.unsent.set(self.handle.unsent.get() - 1);
        }
    }
}

impl Drop for SendingResponse {
    fn drop(&mut self) {
        self.awaits_handler();
        let Self { handle, drains, .. } = self;
        handle.responding.set(handle.responding.get() - 1);
        handle.draining.set(handle.draining.get() - usize::from(*drains));
        handle.progress.set(Some(Instant::now()));
        handle.rest();
    }
}

/// Says once that connections are being sent away, not once for each, and once that it is over. Shared by all workers.
pub struct LoadShedLog {
    metrics: Arc<Metrics>,
    overload: Mutex<Option<Overload>>,
}

struct Overload {
    began: Instant,
    last: Instant,
}

/// When nobody had to go for this long, it is over: a flood comes in waves.
const CALM: Duration = Duration::from_secs(5);

impl LoadShedLog {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, overload: Mutex::new(None) })
    }

    /// Somebody has to go, or is refused.
    fn began(&self) {
        self.metrics.shed();
        let now = Instant::now();
        let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *overload {
            Some(overload) => overload.last = now,
            None => {
                *overload = Some(Overload { began: now, last: now });
                tracing::warn!(
                    "too many connections: those without a running request are closed, and while there are none, \
                     requests on new connections are refused"
                );
            }
        }
    }

    fn may_be_over(&self) {
        let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Overload { began, .. }) =
            overload.take_if(|overload| overload.last.elapsed() >= CALM)
        {
            tracing::info!(lasted = ?began.elapsed(), "there is room for every connection again");
        }
    }
}
