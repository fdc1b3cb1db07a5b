//! Reloads the settings without a restart: on SIGHUP, and when one of their files has changed. All or nothing: settings
//! that cannot be used change nothing.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::error::AppError;
use super::file_stamps::FileStamps;
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
    /// Settings that fit each other in the files, but not what is taken over of them.
    #[error(
        "{faults}\nuntil a restart, these changed settings have their former values: {pending}"
    )]
    Partly { faults: Faults, pending: String },
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
    /// The files as they were when they were last read: that of the settings, those that `loaded` names, and those that
    /// settings name which could not be used.
    pub applied: FileStamps,
    pub snapshots: watch::Sender<Snapshot>,
    pub tls: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    pub delivery: Option<Rc<Delivery>>,
}

impl Reloader {
    /// Runs as long as the process.
    pub async fn run(mut self, mut hangup: Signal) {
        let shutdown = self.snapshots.borrow().shared.shutdown.clone();
        let mut last = self.applied.clone();
        let mut looks = interval(INTERVAL);
        // Looks that were missed must not follow each other at once: both would see a file that is being written.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let cause = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = hangup.recv() => {
                    self.reopen_audit_log();
                    "SIGHUP"
                }
                _ = looks.tick() => {
                    let stamps = self.applied.now();
                    let is_stable = stamps == last;
                    last = stamps;
                    if last == self.applied || !is_stable {
                        continue;
                    }
                    "a file has changed"
                }
            };
            // Before the files are read: a change during the reload leads to another one.
            self.applied = self.applied.now();
            self.reload(cause);
            last.clone_from(&self.applied);
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

    /// Watches the file of the settings, and `named` files.
    fn watch(&mut self, named: impl IntoIterator<Item = PathBuf>) {
        self.applied.set_files(self.source.file.iter().cloned().chain(named));
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
        self.watch(self.loaded.files().into_iter().chain(newer.files()));
        let pending: Vec<_> = {
            let names = self.started.changed(&newer).into_iter();
            names.filter(|name| !self.started.can_reload(&newer, name)).collect()
        };
        // Not those of the snapshot: in them the sandbox has replaced what the settings say of WeChat and COS.
        if let Err(faults) = self.started.reloaded(&newer).check_reloaded() {
            return Err(match pending.is_empty() {
                true => faults.into(),
                false => ReloadError::Partly { faults, pending: names(&pending) },
            });
        }
        let changed: Vec<_> = {
            let names = self.loaded.changed(&newer).into_iter();
            names.filter(|name| self.started.can_reload(&newer, name)).collect()
        };
        let Snapshot { shared, upstreams } = self.snapshots.borrow().clone();
        let settings = shared.settings.reloaded(&newer);
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
        if !pending.is_empty() {
            tracing::warn!(settings = names(&pending), "changed settings need a restart");
        }
        self.loaded = newer;
        self.watch(self.loaded.files());
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
