//! `doctor --slow`: a form that takes minutes, and what COS says of it. COS's limit is not documented.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

use super::checks::{Checks, host};
use super::form::{end, post};
use super::report::Report;
use crate::cos::relay::AttemptTimes;
use crate::file_stream::{FileEvent, Source};
use crate::settings::CosRoad;

const STEP: &str = "slow";
/// Of the file, in bytes.
const LENGTH: usize = 1 << 20;
/// Pieces of the file, sent in equal intervals: more than one a second, so that no proxy finds the connection idle.
const PIECES: u32 = 256;
const PIECE: [u8; LENGTH / PIECES as usize] = [b'1'; LENGTH / PIECES as usize];

/// Sends the file over `duration`, and removes it again.
pub(super) async fn check(checks: &Checks<'_>, duration: Duration, report: &mut Report) {
    let link = match checks.link(STEP).await {
        Ok((link, _)) => link,
        Err(fault) => return report.failed(STEP, &fault),
    };
    let bar = bar();
    let began = Instant::now();
    let (result, times) = post(checks, &link, paced(duration, bar.clone()), LENGTH).await;
    let took = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let seconds = duration.as_secs();
    match result {
        Ok(_) => {
            report.line(
                "ok",
                STEP,
                format!("1 MiB over {seconds} s as one form: stored, after {took:.1} s"),
            );
            report.advice(stored_advice(checks, duration));
        }
        Err(error) if error.is_too_slow() => {
            let when = match times {
                AttemptTimes { verdict: Some(_), .. } => "after its last byte",
                AttemptTimes { verdict: None, .. } => "before its last byte",
            };
            report.line(
                "note",
                STEP,
                format!(
                    "1 MiB over {seconds} s as one form: COS refused it with UserNetworkTooSlow after {took:.1} s, {when}"
                ),
            );
            report.advice(refused_advice(checks, duration));
            // COS stores nothing that it refuses.
            return;
        }
        Err(error) => {
            let mut fault = checks.cos_fault(&error, host(&link.link.url));
            fault.what =
                format!("1 MiB over {seconds} s as one form, after {took:.1} s: {}", fault.what);
            report.failed(STEP, &fault);
        }
    }
    if let Err(fault) = checks.delete(&link.link.file_id).await {
        report.failed(STEP, &fault);
    }
}

fn stored_advice(checks: &Checks<'_>, duration: Duration) -> String {
    let seconds = duration.as_secs();
    let limit = checks.settings.cos.slow_limit;
    if limit.is_zero() {
        return "cos.slow_limit = \"0s\" is right for clients that need no longer than that"
            .to_owned();
    }
    if limit >= duration {
        return format!(
            "that is no longer than cos.slow_limit (\"{}\"), which can stay",
            text(limit)
        );
    }
    format!(
        "cos.slow_limit can be raised to \"{seconds}s\": fewer files of slow clients are buffered; slow clients need no \
         cos.via = \"api\" for that long"
    )
}

fn refused_advice(checks: &Checks<'_>, duration: Duration) -> String {
    let (seconds, cos) = (duration.as_secs(), &checks.settings.cos);
    if cos.via == CosRoad::Api {
        return "with cos.via = \"api\" this does not matter: files of slow clients are sent in parts".to_owned();
    }
    if cos.slow_limit.is_zero() || cos.slow_limit >= duration {
        return format!(
            "set cos.slow_limit to less than \"{seconds}s\" (the default is \"150s\"), so that files of slow clients are \
             buffered first; cos.via = \"api\" needs no buffering"
        );
    }
    format!(
        "with cos.slow_limit = \"{}\", files of slow clients are buffered first if they fit into \
         upload.max_buffered_file; larger ones need cos.via = \"api\"",
        text(cos.slow_limit)
    )
}

/// As a setting has it.
fn text(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

fn bar() -> ProgressBar {
    const TEMPLATE: &str = "sending slowly {wide_bar} {bytes:>10} / {total_bytes} {elapsed:>4}";
    let style = ProgressStyle::with_template(TEMPLATE);
    let bar = ProgressBar::new(LENGTH as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The file, whose last piece comes after `duration`.
fn paced(duration: Duration, bar: ProgressBar) -> Source {
    let began = Instant::now();
    let pieces = stream::iter(1..=PIECES).then(move |number| {
        let bar = bar.clone();
        async move {
            sleep_until(began + duration * number / PIECES).await;
            bar.inc(PIECE.len() as u64);
            Ok(FileEvent::Content(Bytes::from_static(&PIECE)))
        }
    });
    Box::pin(pieces.chain(stream::iter([Ok(end())])))
}
