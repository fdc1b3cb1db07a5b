//! The connections of one worker: how many there may be, and which of them goes when there are too many.
//!
//! A flood of connections must neither take the descriptors that running uploads need nor keep a probe of `/healthz`
//! waiting. So nobody is left before the door: who comes last is let in, and who has waited longest without a request
//! must leave. Where nobody waits, because requests run on all connections, the newcomer has no place: he is told how
//! we are, and refused whatever else he asks for; and the newest of those without a place push the oldest out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::h2::Account;
use crate::metrics::Metrics;

/// Connections without a place.
const STANDING: usize = 8;
/// Connections above the room: for those without a place, and for those who are just leaving.
pub const SPARE: usize = 2 * STANDING;
/// A reply that was made is sent within this; an idle connection may be closed then.
const SETTLED: Duration = Duration::from_millis(500);

/// How much one worker may have.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub connections: usize,
    /// That run at once: each may need descriptors of its own.
    pub requests: usize,
}

/// The connections of one worker.
pub struct Connections {
    room: Room,
    /// Connections that have a place.
    seated: Cell<usize>,
    /// Requests that run.
    served: Cell<usize>,
    /// Connections on which no request runs, in the order in which they began to wait.
    waiting: RefCell<BTreeMap<u64, Rc<Seat>>>,
    standing: RefCell<VecDeque<Rc<Seat>>>,
    turn: Cell<u64>,
    shedding: Arc<Shedding>,
}

/// A connection as its requests know it.
pub struct Seat {
    connections: Rc<Connections>,
    standing: bool,
    /// Its place among those who wait, and since when.
    waits: Cell<Option<(u64, Instant)>>,
    requests: Cell<usize>,
    /// It ends as soon as there is nothing to read: what has come already is answered.
    leaving: Cell<bool>,
    /// It ends at once.
    broken: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    account: Account,
}

impl Connections {
    pub fn new(room: Room, shedding: Arc<Shedding>) -> Rc<Self> {
        Rc::new(Self {
            room,
            seated: Cell::new(0),
            served: Cell::new(0),
            waiting: RefCell::default(),
            standing: RefCell::default(),
            turn: Cell::new(0),
            shedding,
        })
    }

    /// A client has connected; whoever calls says when it is gone ([`Seat::vacate`]).
    pub fn enter(self: &Rc<Self>) -> Rc<Seat> {
        self.shedding.metrics.connected();
        let room = self.seated.get() < self.room.connections || self.longest_waiting_leaves();
        let seat = Rc::new(Seat {
            connections: self.clone(),
            standing: !room,
            waits: Cell::new(None),
            requests: Cell::new(0),
            leaving: Cell::new(false),
            broken: Cell::new(false),
            reader: RefCell::default(),
            account: Account::default(),
        });
        if room {
            self.seated.set(self.seated.get() + 1);
            seat.wait();
        } else {
            let mut standing = self.standing.borrow_mut();
            let oldest = if standing.len() >= STANDING { standing.pop_front() } else { None };
            standing.push_back(seat.clone());
            drop(standing);
            match oldest {
                Some(oldest) if oldest.requests() > 0 => oldest.break_off(),
                Some(oldest) => oldest.leave(),
                None => {}
            }
        }
        seat
    }

    fn longest_waiting_leaves(&self) -> bool {
        self.shedding.began();
        let longest = self.waiting.borrow().first_key_value().map(|(_, seat)| seat.clone());
        longest.as_ref().inspect(|seat| seat.leave()).is_some()
    }

    /// Closes every connection on which no request runs and no reply is being sent any more.
    pub fn close_idle(&self) {
        let now = Instant::now();
        let settled = |seat: &&Rc<Seat>| {
            seat.waits.get().is_some_and(|(_, since)| now.duration_since(since) >= SETTLED)
        };
        let idle: Vec<_> = self.waiting.borrow().values().filter(settled).cloned().collect();
        idle.iter().for_each(|seat| seat.leave());
    }
}

impl Seat {
    /// A request has come; it runs until what is returned is dropped. One that only asks how we are is never refused.
    pub fn begin(self: &Rc<Self>, asks_for_health: bool) -> Running {
        self.rise();
        self.requests.set(self.requests.get() + 1);
        let connections = &self.connections;
        let room = connections.served.get() < connections.room.requests && !self.is_standing();
        let (served, refused) = (room && !asks_for_health, !room && !asks_for_health);
        if served {
            connections.served.set(connections.served.get() + 1);
        }
        if refused {
            connections.shedding.began();
        }
        Running { seat: self.clone(), served, refused }
    }

    /// Whether it has no place, or has it no more.
    fn is_standing(&self) -> bool {
        self.standing || self.leaving.get()
    }

    /// Requests that run on it.
    pub fn requests(&self) -> usize {
        self.requests.get()
    }

    /// What came over it, if it is one of h2.
    pub fn account(&self) -> &Account {
        &self.account
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

    /// There is nothing to read from it. Whether that is its end; otherwise `reader` is woken when it must leave.
    pub fn is_over(&self, reader: &Waker) -> bool {
        let over = self.leaving.get() && self.requests() == 0;
        let mut known = self.reader.borrow_mut();
        if !over && !known.as_ref().is_some_and(|known| known.will_wake(reader)) {
            *known = Some(reader.clone());
        }
        over
    }

    /// The client has disconnected, or we have.
    pub fn vacate(self: &Rc<Self>) {
        self.leave();
        if self.standing {
            self.connections.standing.borrow_mut().retain(|seat| !Rc::ptr_eq(seat, self));
        }
        self.connections.shedding.metrics.disconnected();
        self.connections.shedding.may_be_over();
    }

    fn leave(&self) {
        if !self.leaving.replace(true) && !self.standing {
            self.connections.seated.set(self.connections.seated.get() - 1);
        }
        self.rise();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wait(self: &Rc<Self>) {
        if self.is_standing() {
            return;
        }
        let turn = self.connections.turn.get();
        self.connections.turn.set(turn + 1);
        self.waits.set(Some((turn, Instant::now())));
        self.connections.waiting.borrow_mut().insert(turn, self.clone());
    }

    fn rise(&self) {
        if let Some((turn, _)) = self.waits.take() {
            self.connections.waiting.borrow_mut().remove(&turn);
        }
    }
}

/// A request that runs on a connection.
pub struct Running {
    seat: Rc<Seat>,
    served: bool,
    refused: bool,
}

impl Running {
    /// Whether there is no room for it.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether its connection shall not stay for another.
    pub fn is_last(&self) -> bool {
        self.refused || self.seat.is_standing()
    }

    /// Its connection.
    pub fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Self { seat, served, .. } = self;
        if *served {
            seat.connections.served.set(seat.connections.served.get() - 1);
        }
        seat.requests.set(seat.requests.get() - 1);
        if seat.requests.get() == 0 {
            seat.wait();
        }
    }
}

/// Says once that connections are being sent away, not once for each, and once that it is over. Shared by all workers.
pub struct Shedding {
    metrics: Arc<Metrics>,
    episode: Mutex<Option<Episode>>,
}

struct Episode {
    began: Instant,
    last: Instant,
}

/// When nobody had to go for this long, it is over: a flood comes in waves.
const CALM: Duration = Duration::from_secs(5);

impl Shedding {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, episode: Mutex::new(None) })
    }

    /// Somebody has to go, or is refused.
    fn began(&self) {
        self.metrics.shed();
        let now = Instant::now();
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *episode {
            Some(episode) => episode.last = now,
            None => {
                *episode = Some(Episode { began: now, last: now });
                tracing::warn!(
                    "too many connections: those that wait longest are closed, and while none waits, requests on new \
                     ones are refused"
                );
            }
        }
    }

    fn may_be_over(&self) {
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Episode { began, .. }) =
            episode.take_if(|episode| episode.last.elapsed() >= CALM)
        {
            tracing::info!(lasted = ?began.elapsed(), "there is room for every connection again");
        }
    }
}
