//! How the settings are loaded: the layers are read in their order, then the sections, then the rules are checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::auth::{Auth, Links};
use super::fault::Faults;
use super::layers::{self, Layers, Reader};
use super::model::{
    Console, Cors, Cos, Hooks, MetricsListener, Receipts, Redis, Resumable, Sandbox, Server,
    Settings, Telemetry, Upload, Wechat,
};
use super::names::Profile;
use super::quota::Quota;
use super::{rules, values};

pub(super) const DEFAULT: &str = include_str!("../../config/default.toml");
pub(super) const SANDBOX: &str = include_str!("../../config/sandbox.toml");
pub(super) const PRODUCTION: &str = include_str!("../../config/production.toml");

impl Settings {
    /// Loads the settings with the process's environment: `GATEWAY_PROFILE` (where `profile` is `None`), `PORT` (in
    /// production), and `GATEWAY__*`.
    pub fn load(profile: Option<&str>, config_file: Option<&Path>) -> Result<Self, Faults> {
        let mut layers = Layers::default();
        let mut env = HashMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if !(name == "GATEWAY_PROFILE" || name == "PORT" || layers::is_variable(&name)) {
                continue;
            }
            match value.into_string() {
                Ok(value) => drop(env.insert(name, value)),
                Err(_) => layers.fault(&name, "is not UTF-8"),
            }
        }
        Self::read(profile, config_file, env, layers)
    }

    /// As [`Settings::load`], with `env` instead of the process's environment.
    pub fn from_layers(
        profile: Option<&str>,
        config_file: Option<&Path>,
        env: HashMap<String, String>,
    ) -> Result<Self, Faults> {
        Self::read(profile, config_file, env, Layers::default())
    }

    /// Checks the rules between settings of which a reload has taken over only a part.
    pub fn check_reloaded(&self) -> Result<(), Faults> {
        let mut reader = Reader::from(Layers::default());
        rules::check(self, Some(self.profile), &mut reader);
        match reader.finish() {
            faults if faults.is_empty() => Ok(()),
            faults => Err(Faults(faults)),
        }
    }

    fn read(
        profile: Option<&str>,
        config_file: Option<&Path>,
        env: HashMap<String, String>,
        mut layers: Layers,
    ) -> Result<Self, Faults> {
        let variable =
            |name: &str| env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let name =
            profile.or_else(|| variable("GATEWAY_PROFILE")).unwrap_or(Profile::Sandbox.name());
        let profile: Option<Profile> = name
            .parse()
            .map_err(|problem| {
                layers
                    .fault("profile", format!("{name:?} {problem} (--profile or GATEWAY_PROFILE)"))
            })
            .ok();

        layers.built_in(DEFAULT);
        match profile {
            Some(Profile::Sandbox) => layers.built_in(SANDBOX),
            Some(Profile::Production) => layers.built_in(PRODUCTION),
            None => {}
        }
        if profile == Some(Profile::Production)
            && let Some(port) = variable("PORT")
        {
            layers.port(port);
        }
        if let Some(path) = config_file {
            layers.file(path);
        }
        layers.environment(env);

        let renamed = layers.renamed();
        let mut reader = Reader::from(layers);
        let settings = Self {
            renamed,
            profile: profile.unwrap_or(Profile::Sandbox),
            server: Server::read(&mut reader),
            cors: Cors { origins: reader.list("cors.origins", values::origin) },
            wechat: Wechat::read(&mut reader),
            cos: Cos::read(&mut reader),
            upload: Upload::read(&mut reader),
            auth: Auth::read(&mut reader),
            quotas: Quota::read_all(&mut reader),
            links: Links::read(&mut reader),
            resumable: Resumable::read(&mut reader),
            hooks: Hooks::read(&mut reader),
            receipts: Receipts { key: reader.optional("receipts.key", values::sealing_key) },
            redis: Redis {
                url: reader.optional("redis.url", values::redis_url),
                ca_file: reader.optional("redis.ca_file", values::text).map(PathBuf::from),
            },
            console: Console { enabled: reader.flag("console.enabled") },
            telemetry: Telemetry::read(&mut reader),
            metrics: MetricsListener {
                bind: reader.optional("metrics.bind", values::socket_address),
            },
            sandbox: Sandbox::read(&mut reader),
        };
        rules::check(&settings, profile, &mut reader);
        match reader.finish() {
            faults if faults.is_empty() => Ok(settings),
            faults => Err(Faults(faults)),
        }
    }
}
