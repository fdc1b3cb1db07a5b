//! Which settings a running gateway takes over when they have changed, and which need a restart.

use std::path::PathBuf;

use super::fault::Faults;
use super::model::{Settings, Upload};

/// Where settings come from besides the process's environment: the options of the command line.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `--profile`
    pub profile: Option<String>,
    /// `--config`
    pub file: Option<PathBuf>,
}

impl Source {
    pub fn load(&self) -> Result<Settings, Faults> {
        Settings::load(self.profile.as_deref(), self.file.as_deref())
    }
}

/// Sections that are taken over as a whole.
const SECTIONS: [&str; 6] = ["auth.", "cors.", "hooks.", "links.", "quota.", "receipts."];
/// Buffers are allocated by these, so they stay as at the start; the rest of `upload` is taken over.
const BUFFERS: [&str; 4] = [
    "upload.max_buffered_file",
    "upload.memory_budget",
    "upload.replay_window",
    "upload.replay_window_max",
];

impl Settings {
    /// The names of the settings that have another value in `newer`, sorted.
    pub fn changed(&self, newer: &Self) -> Vec<String> {
        let (old, new) = (self.lines(), newer.lines());
        let differ = |one: &[(String, String)], other: &[(String, String)]| -> Vec<String> {
            let lines = one.iter().filter(|line| other.binary_search(line).is_err());
            lines.map(|(key, _)| key.clone()).collect()
        };
        let mut changed = differ(&old, &new);
        changed.extend(differ(&new, &old));
        changed.sort();
        changed.dedup();
        changed
    }

    /// Whether a change of the setting `key` to its value in `newer` is taken over without a restart.
    pub fn can_reload(&self, newer: &Self, key: &str) -> bool {
        match key {
            _ if key.starts_with("server.tls.") => {
                self.server.tls.is_some() && newer.server.tls.is_some()
            }
            "wechat.warm_links" => true,
            _ if key.starts_with("hooks.") => self.has_hooks() == newer.has_hooks(),
            _ if key.starts_with("upload.") => !BUFFERS.contains(&key),
            _ => SECTIONS.iter().any(|section| key.starts_with(section)),
        }
    }

    /// These settings with what is taken over from `newer`.
    pub fn reloaded(&self, newer: &Self) -> Self {
        let mut settings = self.clone();
        settings.auth.clone_from(&newer.auth);
        settings.cors.clone_from(&newer.cors);
        settings.links.clone_from(&newer.links);
        settings.quotas.clone_from(&newer.quotas);
        settings.wechat.warm_links = newer.wechat.warm_links;
        settings.receipts.clone_from(&newer.receipts);
        settings.upload = Upload {
            max_buffered_file: self.upload.max_buffered_file,
            memory_budget: self.upload.memory_budget,
            replay_window: self.upload.replay_window,
            replay_window_max: self.upload.replay_window_max,
            ..newer.upload.clone()
        };
        if self.has_hooks() == newer.has_hooks() {
            settings.hooks.clone_from(&newer.hooks);
        }
        if self.server.tls.is_some() && newer.server.tls.is_some() {
            settings.server.tls.clone_from(&newer.server.tls);
        }
        settings
    }

    fn has_hooks(&self) -> bool {
        self.hooks.stored_url.is_some()
    }

    /// The files whose content is read at the start and at each reload.
    pub fn files(&self) -> Vec<PathBuf> {
        let tls = self.server.tls.iter().flat_map(|tls| [tls.cert.clone(), tls.key.clone()]);
        tls.chain(self.auth.jwt.key_file.clone()).collect()
    }
}
