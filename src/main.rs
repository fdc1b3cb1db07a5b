//! The `tcb-upload-gateway` binary.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use tcb_upload_gateway::app::{self, App, FileStamps};
use tcb_upload_gateway::cli::{self, Arguments, Command};
use tcb_upload_gateway::settings::Source;
use tcb_upload_gateway::telemetry;

/// Small uploads take an eighth less CPU than with glibc's allocator (benches/runs/NOTES.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Of sysexits.h: the arguments or settings cannot be used.
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match &arguments.command {
        Some(Command::Upload(upload)) => return cli::upload::run(upload),
        Some(Command::HashKey(hash_key)) => return cli::hash_key::run(hash_key),
        Some(Command::Doctor(_)) | None => {}
    }
    let source = Source { profile: arguments.profile, file: arguments.config };
    let stamps = FileStamps::of(source.file.clone());
    let settings = match source.load() {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("the settings cannot be used:\n{faults}");
            return ExitCode::from(EX_USAGE);
        }
    };
    if let Err(error) = telemetry::check(&settings.telemetry) {
        eprintln!("the settings cannot be used:\n{error}");
        return ExitCode::from(EX_USAGE);
    }
    if arguments.check {
        if let Err(error) = app::check(&settings) {
            eprintln!("the settings cannot be used:\n{error}");
            return ExitCode::from(EX_USAGE);
        }
        print!("{}", settings.describe());
        settings.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
        return ExitCode::SUCCESS;
    }
    if arguments.health {
        return match app::probe(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(Command::Doctor(doctor)) = &arguments.command {
        return cli::doctor::run(settings, doctor);
    }
    if let Err(error) = telemetry::start(&settings.telemetry) {
        eprintln!("{error}");
        return ExitCode::from(EX_USAGE);
    }
    settings.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));

    let run = async { App::build(settings, source, stamps)?.run_until_stopped().await };
    match actix_web::rt::System::new().block_on(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}
