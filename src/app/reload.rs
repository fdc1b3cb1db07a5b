//! Reloads the settings without a restart: on SIGHUP, and when one of their files has changed. All or nothing: settings
//! that cannot be used change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::error::AppError;
use super::snapshot::Snapshot;
use super::state;
use crate::hooks::delivery::Delivery;
use crate::settings::{Faults, Settings, Source};

/// How often the files are looked at. A change is taken over once two looks have seen the same, so that a file that is
/// being written, or a certificate whose key follows, is not read too early.
const INTERVAL: Duration = Duration::from_secs(1);
/// Names of changed settings in a line of the log.
const MAX_NAMES: usize = 20;

/// Why changed settings are not taken over.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("{0}")]
    Settings(#[from] Faults),
    #[error("{0}")]
    App(#[from] AppError),
}

/// What a reload needs. Belongs to the main thread.
pub(super) struct Reloader {
    pub source: Source,
    /// As loaded at the start: other values of what needs a restart are told at each reload.
    pub started: Settings,
    /// As loaded last.
    pub loaded: Settings,
    pub snapshots: watch::Sender<Snapshot>,
    pub tls: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    pub delivery: Option<Rc<Delivery>>,
}

/// What tells a file from what it was: `None` where it cannot be read. Links are followed, so that the swap of a link to
/// a folder (a mounted secret of Kubernetes) is seen.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Reloader {
    /// Runs as long as the process.
    pub async fn run(mut self, mut hangup: Signal) {
        let shutdown = self.snapshots.borrow().shared.shutdown.clone();
        let mut applied = self.stamps();
        let mut last = applied.clone();
        let mut looks = tokio::time::interval(INTERVAL);
        loop {
            let cause = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = hangup.recv() => {
                    self.reopen_audit_log();
                    "SIGHUP"
                }
                _ = looks.tick() => {
                    let stamps = self.stamps();
                    let is_stable = stamps == last;
                    last = stamps;
                    if last == applied || !is_stable {
                        continue;
                    }
                    "a file has changed"
                }
            };
            // Before the files are read: a change during the reload leads to another one.
            applied = self.stamps();
            self.reload(cause);
            // Files that are named now for the first time have just been read.
            let stamps = self.stamps();
            applied.retain(|file, _| stamps.contains_key(file));
            for (file, stamp) in stamps {
                applied.entry(file).or_insert(stamp);
            }
            last.clone_from(&applied);
        }
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: the gateway shuts down, so the settings are not reloaded");
        }
    }

    /// A program that rotates log files sends SIGHUP once it has renamed them.
    fn reopen_audit_log(&self) {
        if let Err(error) = self.snapshots.borrow().shared.audit.reopen() {
            tracing::error!(%error, "the audit log cannot be opened again; the former file is written on");
        }
    }

    fn stamps(&self) -> BTreeMap<PathBuf, Stamp> {
        let files = self.source.file.iter().cloned().chain(self.loaded.files());
        let stamp = |file: &PathBuf| {
            let data = fs::metadata(file).ok()?;
            Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
        };
        files.map(|file| (file.clone(), stamp(&file))).collect()
    }

    fn reload(&mut self, cause: &'static str) {
        let shared = self.snapshots.borrow().shared.clone();
        let result = self.try_reload();
        shared.reload_failed.store(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(changed) => {
                shared.metrics.reload("applied");
                tracing::info!(cause, changed = names(&changed), "the settings were reloaded");
            }
            Err(error) => {
                shared.metrics.reload("failed");
                let error = error.to_string().replace('\n', "; ");
                tracing::error!(
                    cause,
                    error,
                    "the changed settings cannot be used; nothing changes"
                );
            }
        }
    }

    /// Returns the names of the settings that have changed.
    fn try_reload(&mut self) -> Result<Vec<String>, ReloadError> {
        let newer = self.source.load()?;
        let Snapshot { shared, upstreams } = self.snapshots.borrow().clone();
        let settings = shared.settings.reloaded(&newer);
        settings.check_reloaded()?;
        let changed: Vec<_> = {
            let names = self.loaded.changed(&newer).into_iter();
            names.filter(|name| self.started.can_reload(&newer, name)).collect()
        };
        let tls = match (&self.tls, &settings.server.tls) {
            (Some(sender), Some(files)) => {
                Some((sender, crate::net::tls::server(files).map_err(AppError::from)?))
            }
            _ => None,
        };
        let keeps_forward = !changed.iter().any(|name| affects_forward(name));
        let jwks = upstreams.jwks.clone();
        let upstreams = upstreams.reloaded(&settings, keeps_forward)?;
        let shared = Arc::new(state::reloaded(&shared, settings, &upstreams)?);

        // Nothing fails from here on.
        let has_other_keys = changed.iter().any(|name| name == "upload.path_template");
        shared.wechat.warm_links().reload(shared.settings.wechat.warm_links, has_other_keys);
        if let Some((sender, config)) = tls {
            sender.send_replace(config);
        }
        if let (Some(delivery), Some(hooks)) = (&self.delivery, upstreams.hooks()) {
            delivery.replace(hooks);
        }
        upstreams.start_jwks(jwks.as_ref());
        self.snapshots.send_replace(Snapshot { shared, upstreams });
        newer.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let pending = self.started.changed(&newer).into_iter();
        let pending: Vec<_> =
            pending.filter(|name| !self.started.can_reload(&newer, name)).collect();
        if !pending.is_empty() {
            tracing::warn!(settings = names(&pending), "changed settings need a restart");
        }
        self.loaded = newer;
        Ok(changed)
    }
}

/// Whether the auth server's cached clients depend on a setting.
fn affects_forward(name: &str) -> bool {
    ["auth.forward", "auth.rate", "quota.", "upload."].iter().any(|from| name.starts_with(from))
}

fn names(all: &[String]) -> String {
    match all.len().saturating_sub(MAX_NAMES) {
        0 => all.join(", "),
        more => format!("{} and {more} more", all[..MAX_NAMES].join(", ")),
    }
}
