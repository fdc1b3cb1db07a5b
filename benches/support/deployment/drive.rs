//! The load: connections that upload one after the other (closed loop) or by a schedule (open loop), until the time or
//! the number of uploads is reached, most uploads fail, or the run is interrupted.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use futures::future::{Either, join_all, select};
use hdrhistogram::Histogram;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::calls::{Calls, Failure, Form, STAGES, Stored};
use super::connection::Client;
use super::load::histogram;
use super::process::Tree;

/// A run ends early when more than half of its latest uploads have failed, of at least [`FEW`].
const LATEST: usize = 100;
const FEW: usize = 20;
/// Further kinds of errors are counted together.
const MAX_LABELS: usize = 30;
/// How long a deployment that is slower than the open loop's rate is given for what is left, in seconds.
const MAX_BACKLOG: u64 = 60;

/// Why the load ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadEnd {
    #[error("all uploads were sent")]
    Uploads,
    #[error("the time was over")]
    Time,
    #[error("more than half of the latest uploads failed")]
    Failures,
    #[error("the deployment asked for a pause of {0:?}, which is longer than the rest of the run")]
    Pause(Duration),
    #[error("the deployment is slower than the rate")]
    Backlog,
    #[error("interrupted")]
    Interrupted,
}

/// What the load has given. Histograms are in nanoseconds.
pub struct Tally {
    pub end: Option<LoadEnd>,
    pub seconds: f64,
    pub failed: u64,
    /// How often each kind of error occurred.
    pub errors: BTreeMap<String, u64>,
    pub first_error: Option<String>,
    /// Failed uploads whose files may be stored.
    pub unknown: u64,
    /// Stored files: their ids, which are also what is deleted. Paths of those that may be stored, where they are known.
    pub files: Vec<String>,
    /// Stored files.
    pub uploads: u64,
    /// The folder of all stored files, as far as they share one.
    pub folder: Option<String>,
    /// Scheduled uploads that were not sent.
    pub unsent: u64,
    /// From the time that an upload is begun, or should be by the schedule, to its response.
    pub latency: Histogram<u64>,
    /// Of the latency, the wait for a free connection or for the end of a pause: in an open loop.
    pub wait: Histogram<u64>,
    /// Of the latency, each of [`STAGES`].
    pub stages: [Histogram<u64>; STAGES.len()],
    /// Of the latency, what is left.
    pub rest: Histogram<u64>,
    /// How long the uploads were paused by `Retry-After`, one pause after the other.
    pub paused: Duration,
    /// Connections that were opened, before the load and for it.
    pub connections: u64,
    /// CPU seconds of this process.
    pub cpu: f64,
}

impl Tally {
    fn new() -> Self {
        Self {
            end: None,
            seconds: 0.0,
            failed: 0,
            errors: BTreeMap::new(),
            first_error: None,
            unknown: 0,
            files: Vec::new(),
            uploads: 0,
            folder: None,
            unsent: 0,
            latency: histogram(),
            wait: histogram(),
            stages: STAGES.map(|_| histogram()),
            rest: histogram(),
            paused: Duration::ZERO,
            connections: 0,
            cpu: 0.0,
        }
    }

    /// Adds a stored file, which is to be deleted.
    fn add_file(&mut self, stored: &Stored) {
        self.uploads += 1;
        let folder = match &self.folder {
            None => stored.path.rsplit_once('/').map_or("", |(folder, _)| folder),
            Some(folder) => shared_folder(folder, &stored.path),
        };
        self.folder = Some(folder.to_owned());
        self.files.push(stored.file_id.clone());
    }

    /// Adds a failure; `path` is where the file may be, if it is known.
    fn add_failure(&mut self, failure: &Failure, path: Option<String>) {
        self.failed += 1;
        let label = failure.label();
        let is_known = self.errors.contains_key(&label) || self.errors.len() < MAX_LABELS;
        let label = if is_known { label } else { "other errors".to_owned() };
        *self.errors.entry(label).or_default() += 1;
        self.first_error.get_or_insert_with(|| failure.to_string());
        match failure {
            Failure::Damaged { file_id } => self.files.push(file_id.clone()),
            _ if failure.is_outcome_unknown() => {
                self.unknown += 1;
                self.files.extend(path);
            }
            _ => {}
        }
    }

    fn add_times(&mut self, stored: &Stored, scheduled: Instant, sent: Instant) {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanoseconds(scheduled.elapsed()));
        self.wait.saturating_record(nanoseconds(sent - scheduled));
        let mut rest = sent.elapsed();
        for (histogram, stage) in self.stages.iter_mut().zip(stored.stages) {
            if let Some(milliseconds) = stage {
                let time = Duration::from_secs_f64(milliseconds / 1e3);
                histogram.saturating_record(nanoseconds(time));
                rest = rest.saturating_sub(time);
            }
        }
        self.rest.saturating_record(nanoseconds(rest));
    }

    fn finish(&mut self, end: LoadEnd) {
        self.end.get_or_insert(end);
    }
}

/// The folder that contains both, without a slash at its end.
fn shared_folder<'a>(folder: &'a str, path: &str) -> &'a str {
    let mut shared = folder;
    while !shared.is_empty() && !path.strip_prefix(shared).is_some_and(|rest| rest.starts_with('/'))
    {
        shared = shared.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    shared
}

/// A load that runs.
struct Drive<'a> {
    calls: &'a Calls<'a>,
    form: &'a Form,
    began: Instant,
    /// The number of the next upload.
    next: Cell<u64>,
    /// No upload is begun before.
    resume: Cell<Instant>,
    stop: CancellationToken,
    tally: RefCell<Tally>,
    /// Whether each of the latest uploads failed.
    latest: RefCell<VecDeque<bool>>,
}

/// Runs the load. `interrupt` ends it early; uploads in flight are awaited.
pub async fn run(
    calls: &Calls<'_>,
    form: &Form,
    clients: Vec<Client>,
    interrupt: impl Future<Output = ()>,
) -> Tally {
    let process = Tree::of(std::process::id());
    let cpu = process.cpu();
    let began = Instant::now();
    let drive = Drive {
        calls,
        form,
        began,
        next: Cell::new(0),
        resume: Cell::new(began),
        stop: CancellationToken::new(),
        tally: RefCell::new(Tally::new()),
        latest: RefCell::default(),
    };
    let connections =
        Box::pin(join_all(clients.into_iter().map(|client| drive.connection(client))));
    match select(connections, Box::pin(interrupt)).await {
        Either::Left(_) => {}
        Either::Right(((), connections)) => {
            drive.end(LoadEnd::Interrupted);
            connections.await;
        }
    }
    let next = drive.next.get();
    let mut tally = drive.tally.into_inner();
    tally.seconds = began.elapsed().as_secs_f64();
    tally.cpu = process.cpu() - cpu;
    if tally.end == Some(LoadEnd::Backlog) {
        tally.unsent += calls.plan.uploads - next;
    }
    tally
}

impl Drive<'_> {
    fn end(&self, end: LoadEnd) {
        self.tally.borrow_mut().finish(end);
        self.stop.cancel();
    }

    /// The time up to which uploads are begun.
    fn limit(&self) -> Instant {
        let seconds = self.calls.plan.seconds;
        let backlog = self.calls.plan.rate.map_or(0, |_| seconds.min(MAX_BACKLOG));
        self.began + Duration::from_secs(seconds + backlog)
    }

    /// Waits until `time`; false if the run has ended.
    async fn wait_until(&self, time: Instant) -> bool {
        let wait = time.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return !self.stop.is_cancelled();
        }
        tokio::select! {
            () = sleep(wait) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// Waits until uploads are not paused; false if the run has ended.
    async fn resumed(&self) -> bool {
        while Instant::now() < self.resume.get() {
            if !self.wait_until(self.resume.get()).await {
                return false;
            }
        }
        !self.stop.is_cancelled()
    }

    async fn connection(&self, mut client: Client) {
        while let Some((number, scheduled)) = self.next_upload().await {
            let name = number.to_string();
            let sent = Instant::now();
            let scheduled = scheduled.unwrap_or(sent);
            match self.calls.upload(&mut client, self.form, &name).await {
                Ok(stored) => {
                    self.add_latest(false);
                    let mut tally = self.tally.borrow_mut();
                    tally.add_file(&stored);
                    tally.add_times(&stored, scheduled, sent);
                }
                Err(failure) => self.failed(&failure, self.calls.path(&name)),
            }
        }
        self.tally.borrow_mut().connections += client.connections;
    }

    /// The number of the next upload, and when it is scheduled in an open loop; `None` at the run's end.
    async fn next_upload(&self) -> Option<(u64, Option<Instant>)> {
        let plan = self.calls.plan;
        if plan.rate.is_none() && !self.resumed().await {
            return None;
        }
        if self.stop.is_cancelled() {
            return None;
        }
        let number = self.next.get();
        if number >= plan.uploads {
            // The schedule of an open loop has as many uploads as its time allows.
            self.tally.borrow_mut().finish(LoadEnd::Uploads);
            return None;
        }
        if Instant::now() >= self.limit() {
            let end = if plan.rate.is_some() { LoadEnd::Backlog } else { LoadEnd::Time };
            self.tally.borrow_mut().finish(end);
            return None;
        }
        self.next.set(number + 1);
        let Some(rate) = plan.rate else { return Some((number, None)) };
        let scheduled = self.began + Duration::from_secs_f64(number as f64 / rate);
        if self.wait_until(scheduled).await && self.resumed().await {
            return Some((number, Some(scheduled)));
        }
        None
    }

    fn add_latest(&self, has_failed: bool) {
        let mut latest = self.latest.borrow_mut();
        latest.push_back(has_failed);
        if latest.len() > LATEST {
            latest.pop_front();
        }
    }

    /// Whether too many of the latest uploads have failed.
    fn is_hopeless(&self) -> bool {
        let latest = self.latest.borrow();
        let failed = latest.iter().filter(|failed| **failed).count();
        latest.len() >= FEW && failed * 2 > latest.len()
    }

    fn failed(&self, failure: &Failure, path: Option<String>) {
        self.add_latest(true);
        let mut tally = self.tally.borrow_mut();
        tally.add_failure(failure, path);
        let now = Instant::now();
        let before = self.resume.get().max(now);
        let pause = failure.pause();
        if let Some(pause) = pause {
            let resume = (now + pause.min(Duration::from_secs(3_600))).max(before);
            tally.paused += resume - before;
            self.resume.set(resume);
        }
        drop(tally);
        if self.is_hopeless() {
            self.end(LoadEnd::Failures);
        } else if let Some(pause) = pause
            && self.resume.get() >= self.limit()
        {
            self.end(LoadEnd::Pause(pause));
        }
    }
}
