//! `--target`: the load test of a deployment of the user's own. It says what it is going to do and asks; then come one
//! upload as a check, the load, and the deletion of what was stored.
//!
//! One thread, HTTP/1.1. Knows nothing of the peers.

pub mod arguments;
mod calls;
mod connection;
mod drive;
mod report;
mod steps;

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use bytesize::ByteSize;
use futures::future::join_all;
use secrecy::SecretString;

use super::{BoxError, load, process, request};
use arguments::{RunPlan, TargetArguments};
use calls::{Calls, Form};
use connection::Client;
use drive::LoadEnd;
use report::{Deletion, Report};
use steps::StepError;

/// The variable with the key.
const KEY: &str = "GATEWAY_KEY";
/// Where a run reads and writes.
pub struct Io<'a> {
    pub input: &'a mut dyn BufRead,
    /// Whether a person can type into `input`.
    pub is_terminal: bool,
    /// The report.
    pub out: &'a mut dyn Write,
    /// What is going to be done, and what is going on.
    pub progress: &'a mut dyn Write,
}

/// Runs in the terminal; Ctrl-C ends the load early, and then the deletion. The key may be in the environment.
pub fn run_in_terminal(arguments: &TargetArguments, json: Option<&Path>) -> Result<bool, BoxError> {
    let key = std::env::var(KEY).ok().filter(|key| !key.is_empty()).map(SecretString::from);
    let io = Io {
        input: &mut io::stdin().lock(),
        is_terminal: io::stdin().is_terminal(),
        out: &mut io::stdout().lock(),
        progress: &mut io::stderr().lock(),
    };
    run(arguments, key, json, io, async || drop(tokio::signal::ctrl_c().await))
}

/// Runs as the arguments say; `json` is also written. False if an upload failed, the run ended early, or a file
/// remains that should not. An error: the run was not begun, and nothing was sent.
pub fn run(
    arguments: &TargetArguments,
    key: Option<SecretString>,
    json: Option<&Path>,
    io: Io<'_>,
    interrupted: impl AsyncFn(),
) -> Result<bool, BoxError> {
    let target = arguments.target.as_deref().ok_or("--target is missing")?;
    let plan = arguments.plan(target, key)?;
    let tls = connection::tls(plan.ca.as_deref())?;
    let client = Client::new(&plan.base, tls, plan.timeout())?;
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let calls = Calls { plan: &plan, run: format!("{now}-{:08x}", fastrand::u32(..)) };
    let Io { input, is_terminal, out, progress } = io;
    writeln!(progress, "{}", announcement(&calls))?;
    confirm(&plan, input, is_terminal, progress)?;
    let mut json = json.map(File::create).transpose()?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = runtime.block_on(measure(&calls, client, progress, interrupted));
    let (report, is_good) = match run {
        Ok(run) => run,
        Err(error) => {
            writeln!(progress, "{error}")?;
            return Ok(false);
        }
    };
    out.write_all(report.markdown().as_bytes())?;
    if let Some(json) = &mut json {
        serde_json::to_writer_pretty(&mut *json, &report)?;
        writeln!(json)?;
    }
    Ok(is_good)
}

/// What the run is going to do.
fn announcement(calls: &Calls<'_>) -> String {
    let plan = calls.plan;
    let place = match calls.path("") {
        Some(folder) => format!("under {folder}"),
        None => "at paths that the gateway generates (upload.path_template)".to_owned(),
    };
    let time = match plan.rate {
        Some(rate) => format!("{rate} uploads/s for {} s", plan.seconds),
        None => format!("for up to {} s", plan.seconds),
    };
    let last = if plan.keep {
        "The files are left there (--keep)."
    } else {
        "They are deleted at the end; any that remain are named."
    };
    format!(
        "This uploads to {}: {time}, {} at once, at most {} files of {} and one of {}, {} in all, {place}.\n\
         Each file costs calls of WeChat's quota (an upload link; a deletion), traffic, and storage until it is \
         deleted, in the real environment. {last}",
        plan.target(),
        plan.connections,
        plan.uploads,
        ByteSize(plan.size),
        ByteSize(plan.check_size),
        ByteSize(plan.bytes()),
    )
}

/// Asks for the target's host, unless `--yes` is given.
fn confirm(
    plan: &RunPlan,
    input: &mut dyn BufRead,
    is_terminal: bool,
    progress: &mut dyn Write,
) -> Result<(), BoxError> {
    if plan.yes {
        return Ok(());
    }
    if !is_terminal {
        return Err("nothing was sent: without a terminal, this needs --yes".into());
    }
    write!(progress, "Type {} to begin: ", plan.host())?;
    progress.flush()?;
    let mut typed = String::new();
    input.read_line(&mut typed)?;
    if typed.trim() == plan.host() { Ok(()) } else { Err("nothing was sent: not confirmed".into()) }
}

/// The check, the load and the deletion; whether all is well.
async fn measure(
    calls: &Calls<'_>,
    mut client: Client,
    progress: &mut dyn Write,
    interrupted: impl AsyncFn(),
) -> Result<(Report, bool), StepError> {
    let plan = calls.plan;
    let (first, stored) = steps::check(calls, &mut client).await?;
    writeln!(
        progress,
        "checked: {} stored as {} in {:.1} ms; downloaded again: {}",
        ByteSize(first.size),
        calls.clean(&stored.path),
        first.total_ms(),
        first.download
    )?;
    let version = calls.version(&mut client).await;
    if !plan.keep {
        steps::delete_check(calls, &mut client, &stored).await?;
    }

    let mut clients = vec![client];
    for _ in 1..plan.connections {
        clients.push(clients[0].another());
    }
    // A connection that cannot be opened is counted with its first upload.
    join_all(clients.iter_mut().map(Client::open)).await;
    let form = Form::new(plan.size);
    let deleting = clients[0].another();
    let mut tally = drive::run(calls, &form, clients, interrupted()).await;
    writeln!(progress, "{} uploads in {:.1} s", tally.uploads, tally.seconds)?;

    let mut files = std::mem::take(&mut tally.files);
    let mut report = Report::new(plan, &calls.run, first, &tally);
    report.version = version;
    report.deletion = if plan.keep {
        files.push(stored.file_id);
        Deletion::of_none(calls, &files)
    } else {
        steps::delete(calls, deleting, &files, progress, &interrupted).await?
    };
    let is_complete = matches!(tally.end, Some(LoadEnd::Uploads | LoadEnd::Time));
    let is_good = report.is_good() && is_complete && (plan.keep || report.deletion.remaining == 0);
    Ok((report, is_good))
}
