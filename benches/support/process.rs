//! The CPU seconds and resident memory of a process and its descendants, from `/proc`.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::BoxError;

/// A process with its descendants.
pub struct Tree(Vec<u32>);

impl Tree {
    /// The processes as of now; later ones are not counted.
    pub fn of(root: u32) -> Self {
        let mut tree = vec![root];
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|process| Some((process, stat(process)?.parent)))
            .collect();
        let mut next = 0;
        while let Some(parent) = tree.get(next).copied() {
            next += 1;
            tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| process));
        }
        Self(tree)
    }

    /// CPU seconds, user and system.
    pub fn cpu(&self) -> f64 {
        self.0.iter().filter_map(|process| stat(*process)).map(|stat| stat.cpu).sum()
    }

    /// Resident KiB now.
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The peak of resident memory since [`Self::forget_peak`], in KiB.
    pub fn peak_rss(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Resets the peak.
    pub fn forget_peak(&self) {
        for process in &self.0 {
            let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
        }
    }

    fn memory(&self, figure: &str) -> u64 {
        let of = |process: &u32| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with(figure))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.0.iter().filter_map(of).sum()
    }
}

struct Stat {
    parent: u32,
    cpu: f64,
}

fn stat(process: u32) -> Option<Stat> {
    /// `USER_HZ`, the same on every Linux.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before the last parenthesis may contain any character.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, cpu: (ticks(11)? + ticks(12)?) / TICKS })
}

/// Raises this process's limit of file descriptors, which its children inherit, as far as the system allows; gives it.
pub fn raise_nofile_limit() -> Result<usize, BoxError> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX))
}

/// The sizes of the first processor's caches, `L1d 32K, L1i 32K, L2 1024K, L3 36608K`; empty where the system does not
/// tell them. `folder`: of the system's files on them.
pub fn caches(folder: &Path) -> String {
    let read = |index: usize, file: &str| {
        let text = fs::read_to_string(folder.join(format!("index{index}/{file}"))).ok()?;
        Some(text.trim().to_owned())
    };
    let cache = |index| {
        let (level, size) = (read(index, "level")?, read(index, "size")?);
        let kind = match read(index, "type").as_deref() {
            Some("Data") => "d",
            Some("Instruction") => "i",
            _ => "",
        };
        Some(format!("L{level}{kind} {size}"))
    };
    (0..).map_while(cache).collect::<Vec<_>>().join(", ")
}

/// This machine in one line: processor, cores, caches, memory, kernel, and how TCP is paced, on loopback too.
pub fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or("?").trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = value(&read("/proc/meminfo"), "MemTotal");
    let memory = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024 / 1024;
    let kernel = read("/proc/sys/kernel/osrelease");
    let model = value(&read("/proc/cpuinfo"), "model name");
    // Text after the third number is the distribution's.
    let kernel = kernel.split(['-', '+']).next().unwrap_or_default().trim();
    let congestion = read("/proc/sys/net/ipv4/tcp_congestion_control");
    let caches = caches(Path::new("/sys/devices/system/cpu/cpu0/cache"));
    let caches = if caches.is_empty() { caches } else { format!(" ({caches})") };
    let congestion = congestion.trim();
    format!("{model}, {cores} cores{caches}, {memory} GiB, Linux {kernel}, TCP {congestion}")
}
