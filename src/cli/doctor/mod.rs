//! `doctor`: checks the settings step by step by uploading, downloading and deleting a 1-byte file through each service
//! that they name. For a step that fails it says what to change and where. It needs no running gateway.
//!
//! - `report`: what is printed, and the exit code; `advice`: what to change for an error
//! - `back_end`: the owner's back end, which is not sent anything
//! - `checks`: the steps of both roads to COS; `form`, `api`: those of one
//! - `slow`, `probe`: what is tried only if asked for

mod advice;
mod api;
mod back_end;
mod checks;
mod form;
mod probe;
mod report;
mod slow;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::task::TaskTracker;

use crate::app::{self, AppError, Upstreams};
use crate::settings::{CosRoad, Settings};
use checks::Checks;
use report::{Fault, Report};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also send 1 MiB over 210 s as one form, and report whether COS accepts a form that takes so long
    #[arg(long)]
    slow: bool,
    /// How long --slow sends; for tests
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 210,
        value_parser = clap::value_parser!(u64).range(1..=600),
        requires = "slow",
        hide = true
    )]
    slow_seconds: u64,
    /// Also call COS's own API with an upload link's signature, and report whether that works without keys
    #[arg(long)]
    probe: bool,
}

/// Prints the result of each step; the exit code is 0 if all of them succeeded, otherwise 1.
pub fn run(settings: Settings, args: &DoctorArgs) -> ExitCode {
    let mut report = Report::default();
    let result = actix_web::rt::System::new().block_on(check(settings, args, &mut report));
    if let Err(error) = result {
        report.failed("start", &Fault { what: error.to_string(), change: String::new() });
    }
    report.finish()
}

async fn check(settings: Settings, args: &DoctorArgs, report: &mut Report) -> Result<(), AppError> {
    let warnings = settings.warnings();
    report.line("ok", "settings", format!("{} profile, no faults", settings.profile.name()));
    warnings.iter().for_each(|warning| report.line("note", "settings", warning));
    report.step("listen", checks::listen(&settings));

    let (settings, _sandbox) = app::with_sandbox(settings)?;
    let checks =
        Checks { upstreams: Upstreams::new(&settings, &TaskTracker::new())?, settings: &settings };
    if let Some(public_url) = &settings.server.public_url {
        checks.public_url(public_url, report).await;
    }
    if settings.redis.url.is_some() {
        report.step("redis", checks.redis().await);
    }
    if let Some(url) = &settings.hooks.stored_url {
        report.step("hooks", checks.hooks(url).await);
    }
    if let Some(url) = &settings.auth.forward.url {
        checks.forward_auth(url, report).await;
    }
    if let (Some(url), Some(fetcher)) =
        (&settings.auth.jwt.jwks_url, checks.upstreams.jwks_fetcher())
    {
        report.step("jwks", back_end::jwks(url, &fetcher).await);
    }
    let has_token = report.step("token", checks.token().await).is_some();
    let is_working = match settings.cos.via {
        CosRoad::Form => form::check(&checks, has_token, report).await,
        CosRoad::Api => api::check(&checks, has_token, report).await,
    };
    if args.slow {
        let duration = Duration::from_secs(args.slow_seconds);
        match is_working {
            true => slow::check(&checks, duration, report).await,
            false => report.skipped(&["slow"]),
        }
    }
    if args.probe {
        match is_working {
            true => probe::check(&checks, report).await,
            false => report.skipped(&["probe"]),
        }
    }
    Ok(())
}
