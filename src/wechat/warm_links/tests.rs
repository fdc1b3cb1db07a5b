//! The pools with a clock of the tests.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use uuid::Uuid;

use super::pools::{Ask, MAX_LINK_SIZE, MAX_LINKS, MAX_POOLS, Now, Pools, START_CREDIT};
use super::{AUTO, DropReason};
use crate::key::{Key, KeyShape};
use crate::metrics::Metrics;
use crate::metrics::warm_links::WarmLinkMetrics;
use crate::wechat::wire::UploadLink;

const LATENCY: Duration = Duration::from_millis(60);
const MIDNIGHT: i64 = 86_400;

/// Pools, WeChat that responds after some time, and a clock.
struct World {
    pools: Pools,
    metrics: WarmLinkMetrics,
    began: Instant,
    at: Duration,
    /// Unix time at the beginning.
    unix: i64,
    /// Seconds; `None`: the link does not say.
    life: Option<i64>,
    latency: Duration,
    in_flight: Vec<(Duration, Ask)>,
    uploads: u64,
    given: HashSet<String>,
    random: fastrand::Rng,
}

impl World {
    fn new() -> Self {
        let metrics = Metrics::new([].into_iter()).expect("metrics").warm_links;
        Self {
            pools: Pools::new(AUTO, metrics.clone()),
            metrics,
            began: Instant::now(),
            at: Duration::ZERO,
            unix: 0,
            life: Some(900),
            latency: LATENCY,
            in_flight: Vec::new(),
            uploads: 0,
            given: HashSet::new(),
            random: fastrand::Rng::with_seed(7),
        }
    }

    fn now(&self) -> Now {
        Now { instant: self.began + self.at, unix: self.unix + self.at.as_secs() as i64 }
    }

    fn link(&self, key: &Key) -> UploadLink {
        let times = self.life.map(|life| format!("q-sign-time=100;{}&", 100 + life));
        UploadLink {
            url: format!("https://cos/bucket/{key}"),
            token: "token".to_owned().into(),
            authorization: format!("q-ak=x&{}q-signature=x", times.unwrap_or_default()).into(),
            file_id: format!("cloud://env.bucket/{key}"),
            cos_file_id: "id".to_owned().into(),
        }
    }

    /// Lets time pass: what was asked for arrives, and pools are swept every 5 s.
    fn wait(&mut self, time: Duration) {
        let until = self.at + time;
        loop {
            let sweep = Duration::from_secs(5 * (self.at.as_secs() / 5 + 1));
            let arrival = self.in_flight.iter().map(|(at, _)| *at).min();
            let next = arrival.map_or(sweep, |arrival| arrival.min(sweep));
            if next > until {
                self.at = until;
                return;
            }
            self.at = next;
            let now = self.now();
            if next == sweep {
                self.pools.sweep(now);
            }
            while let Some(index) = self.in_flight.iter().position(|(at, _)| *at <= next) {
                let (_, ask) = self.in_flight.swap_remove(index);
                let link = self.link(&ask.key);
                self.pools.received(ask, Some(link), now);
            }
            self.ask();
        }
    }

    fn ask(&mut self) {
        while let Some(ask) = self.pools.next_ask(self.now()) {
            let age = self.now().instant - ask.asked_at;
            self.in_flight.push((self.at + self.latency - age, ask));
        }
    }

    /// An upload to `folder`; gives the key of the link that was ready.
    fn upload_until(&mut self, folder: &str, until: Option<i64>) -> Option<Key> {
        let uuid = Uuid::now_v7();
        let key = Key::parse(format!("{folder}/{uuid}.png")).expect("a key");
        let shape = KeyShape::of(&key, uuid).expect("a shape");
        let now = self.now();
        let (taken, _) = self.pools.take(shape, until, now);
        self.uploads += 1;
        self.ask();
        let (key, link) = taken?;
        assert_eq!(link.url, format!("https://cos/bucket/{key}"));
        assert!(key.as_str().starts_with(&format!("{folder}/")), "{key}");
        assert!(self.given.insert(key.to_string()), "{key} is given twice");
        Some(key)
    }

    fn upload(&mut self, folder: &str) -> Option<Key> {
        self.upload_until(folder, None)
    }

    /// Independent uploads to one folder. Gives the part that found a link.
    fn poisson(&mut self, per_second: f64, time: Duration) -> f64 {
        let (end, mut uploads, mut warm) = (self.at + time, 0.0, 0.0);
        loop {
            let pause = -(1.0 - self.random.f64()).ln() / per_second;
            self.wait(Duration::from_secs_f64(pause));
            if self.at > end {
                return warm / uploads;
            }
            uploads += 1.0;
            warm += f64::from(u8::from(self.upload("a").is_some()));
        }
    }

    fn unused(&self) -> u64 {
        self.metrics.dropped_in_all()
    }

    /// Whether every link is accounted for.
    fn check(&self) {
        let WarmLinkMetrics { asked, failed, used, ready, .. } = &self.metrics;
        let known = failed.get() + used.get() + self.unused() + self.in_flight.len() as u64;
        assert_eq!(asked.get(), known + ready.get() as u64);
        let most = START_CREDIT + self.uploads as f64 / 20.0;
        assert!((self.unused() as f64) <= most, "{} of {} unused", self.unused(), self.uploads);
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn in_steady_load_uploads_find_links_and_hardly_any_is_lost() {
    for (per_second, least) in [(20.0, 0.99), (100.0, 0.98), (1.0, 0.98), (1.0 / 30.0, 0.9)] {
        let mut world = World::new();
        world.poisson(per_second, 2 * MINUTE);
        // Of rare uploads for longer: otherwise there are too few to tell.
        let warm = world.poisson(per_second, if per_second < 2.0 { 1000 } else { 8 } * MINUTE);
        assert!(warm >= least, "{per_second}: {warm}");
        world.check();
        let lost = world.unused() as f64 / world.uploads as f64;
        assert!(lost <= 0.05, "{per_second}: {lost}");
    }
}

#[test]
fn at_most_64_calls_run_at_a_time() {
    let mut world = World::new();
    world.pools.set_limit(256);
    world.latency = MINUTE;
    for _ in 0..10_000 {
        world.upload("a");
        world.wait(Duration::from_millis(1));
    }
    assert_eq!(world.in_flight.len(), 64);
    assert_eq!(world.metrics.asked.get(), 64);
    world.wait(MINUTE);
    for _ in 0..100 {
        world.upload("a");
        world.wait(Duration::from_millis(1));
    }
    assert_eq!((world.in_flight.len(), world.metrics.asked.get()), (64, 128), "and then others");
    world.check();
}

#[test]
fn below_one_upload_a_minute_nothing_is_asked_for() {
    let mut world = World::new();
    for _ in 0..200 {
        world.wait(Duration::from_secs(76));
        assert_eq!(world.upload("a"), None);
    }
    assert_eq!(world.metrics.asked.get(), 0);
}

#[test]
fn a_rate_that_falls_to_zero_leaves_nothing() {
    let mut world = World::new();
    world.poisson(20.0, 6 * MINUTE);
    world.wait(LATENCY);
    assert!((1..10).contains(&world.metrics.ready.get()));
    let asked = world.metrics.asked.get();
    world.wait(6 * MINUTE);
    assert_eq!((world.metrics.ready.get(), world.metrics.pools.get()), (0, 0));
    assert_eq!(world.metrics.asked.get(), asked, "what nothing takes is not renewed");
    world.check();
}

/// Whatever the load is, the links that are lost are bounded by the uploads.
#[test]
fn bursts_lose_few_links() {
    let mut world = World::new();
    for burst in 0..300_u32 {
        for _ in 0..(5 + burst % 40) {
            world.upload("a");
            world.wait(Duration::from_millis(20));
        }
        world.wait(20 * MINUTE);
        world.check();
    }
    assert!(world.metrics.used.get() > 0);
}

#[test]
fn links_of_a_short_life_are_used_in_time_or_not_asked_for() {
    for life in [1, 4, 30, 120] {
        let mut world = World::new();
        world.life = Some(life);
        let max_age = Duration::from_secs(life as u64) / 2;
        let mut ready_since = Vec::new();
        for _ in 0..2000 {
            let pause = Duration::from_millis(world.random.u64(0..1000));
            world.wait(pause);
            // Those that are ready now cannot be older than this.
            ready_since.retain(|since| world.at - *since < max_age);
            ready_since.push(world.at);
            world.upload("a");
        }
        world.check();
        assert!(world.unused() <= 100 + START_CREDIT as u64, "{life}: {}", world.unused());
        world.wait(max_age);
        world.wait(Duration::from_secs(5));
        assert_eq!(world.metrics.ready.get(), 0, "{life}: too old");
    }
}

#[test]
fn a_link_is_not_used_when_half_of_its_life_is_over() {
    for (life, lasts) in [(Some(60), 30), (Some(900), 450), (None, 450), (Some(1 << 40), 450)] {
        let mut world = World::new();
        world.life = life;
        world.poisson(20.0, MINUTE);
        world.wait(LATENCY);
        assert!(world.metrics.ready.get() > 0);
        // Not by `wait`: sweeps are not relied on.
        world.at += Duration::from_secs(lasts - 1);
        let used = world.metrics.used.get();
        assert!(world.upload("a").is_some(), "{life:?}");
        world.at += Duration::from_secs(1);
        world.in_flight.clear();
        assert_eq!(world.upload("a"), None, "{life:?}");
        assert_eq!(world.metrics.used.get(), used + 1);
    }
}

#[test]
fn no_link_with_the_date_of_yesterday_is_used_or_asked_for() {
    let mut world = World::new();
    world.unix = MIDNIGHT - 62;
    while world.now().unix < MIDNIGHT {
        world.upload_until("2026/03/04", Some(MIDNIGHT));
        world.wait(Duration::from_millis(50));
    }
    assert!(world.metrics.used.get() > 0 && world.metrics.ready.get() > 0);
    // An upload whose key was made just before.
    assert_eq!(world.upload_until("2026/03/04", Some(MIDNIGHT)), None);
    let asked = world.metrics.asked.get();
    assert_eq!(world.upload_until("2026/03/05", Some(2 * MIDNIGHT)), None);
    world.wait(Duration::from_secs(5));
    assert_eq!(world.metrics.ready.get(), 0, "those of yesterday are dropped");
    assert_eq!(world.metrics.asked.get(), asked);
    for _ in 0..100 {
        world.upload_until("2026/03/05", Some(2 * MIDNIGHT));
        world.wait(Duration::from_millis(50));
    }
    assert!(world.metrics.ready.get() > 0);
    world.check();
}

/// A link that arrives after midnight is not stored.
#[test]
fn a_link_that_arrives_after_the_end_of_its_date_is_dropped() {
    let mut world = World::new();
    world.unix = MIDNIGHT - 1;
    for _ in 0..5 {
        world.upload_until("2026/03/04", Some(MIDNIGHT));
    }
    assert_eq!(world.in_flight.len(), 1);
    world.latency = Duration::from_secs(2);
    world.at = Duration::from_secs(2);
    let (_, ask) = world.in_flight.pop().expect("one");
    let link = world.link(&ask.key);
    world.pools.received(ask, Some(link), world.now());
    assert_eq!((world.metrics.ready.get(), world.unused()), (0, 1));
}

/// A stranger's uploads, to ever other folders.
#[test]
fn folders_and_links_have_a_bound() {
    let mut world = World::new();
    world.poisson(20.0, 5 * MINUTE);
    for n in 0..3000 {
        assert_eq!(world.upload(&format!("strange/{n}")), None);
        assert!(world.metrics.pools.get() as usize <= MAX_POOLS);
        if n % 50 == 0 {
            assert!(world.upload("a").is_some(), "the folder in use keeps its links");
            world.wait(Duration::from_secs(1));
        }
    }
    let asked = world.metrics.asked.get();
    // With many uploads in each, they are as many pools as there may be, and links as far as uploads have paid for them.
    for n in 0..MAX_POOLS + 50 {
        for _ in 0..50 {
            world.upload(&format!("busy/{n}"));
        }
        world.wait(LATENCY);
        let open = world.metrics.ready.get() as usize + world.in_flight.len();
        assert!(open <= MAX_LINKS);
    }
    assert_eq!(world.metrics.pools.get() as usize, MAX_POOLS, "at the bound");
    assert_eq!(world.metrics.ready.get() as usize + world.in_flight.len(), MAX_LINKS);
    assert!(world.metrics.asked.get() - asked >= MAX_LINKS as u64 - 10);
    world.check();
}

#[test]
fn failures_and_what_cannot_be_stored_count_as_lost() {
    let count = |counter: &IntCounter| counter.get();
    let mut world = World::new();
    for _ in 0..1000 {
        world.upload("a");
        for (_, ask) in std::mem::take(&mut world.in_flight) {
            let (mut link, fails) = (world.link(&ask.key), world.random.bool());
            link.url = "x".repeat(MAX_LINK_SIZE + 1);
            world.pools.received(ask, fails.then_some(link), world.now());
        }
        world.at += Duration::from_millis(50);
    }
    assert!(count(&world.metrics.failed) > 10 && world.unused() > 10);
    let lost = count(&world.metrics.failed) + world.unused();
    assert!(lost as f64 <= START_CREDIT + 50.0, "{lost}");
    assert_eq!(world.metrics.ready.get(), 0);
    world.check();
}

#[test]
fn switched_off_or_refused_nothing_is_left_and_it_begins_anew() {
    let mut world = World::new();
    world.poisson(20.0, MINUTE);
    world.pools.clear(DropReason::Refused);
    assert_eq!((world.metrics.ready.get(), world.metrics.pools.get()), (0, 0));
    // What was in flight arrives for pools that are no more.
    world.wait(LATENCY);
    assert_eq!(world.metrics.ready.get(), 0);
    world.poisson(20.0, MINUTE);
    assert!(world.upload("a").is_some());
    world.pools.set_limit(0);
    world.wait(MINUTE);
    let asked = world.metrics.asked.get();
    for _ in 0..100 {
        assert_eq!(world.upload("a"), None);
    }
    assert_eq!((world.metrics.asked.get(), world.metrics.pools.get()), (asked, 0));
    world.pools.set_limit(2);
    world.poisson(20.0, MINUTE);
    world.wait(LATENCY);
    assert_eq!(world.metrics.ready.get(), 2);
    world.check();
}
