//! What is kept of a run: its figures and tables under `benches/runs/`, and the README's part of them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::BoxError;
use super::bars;
use super::results::{Figure, Results, number};
use super::scenarios::size;

const BEGIN: &str = "<!-- benches/runs: begin -->\n";
const END: &str = "<!-- benches/runs: end -->";

/// Writes `benches/runs/DATE.json` and `.md`, and the README's tables. Gives the Markdown file.
pub fn run(root: &Path, results: &Results) -> Result<PathBuf, BoxError> {
    let folder = root.join("benches/runs");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.md", results.date));
    fs::write(file.with_extension("json"), serde_json::to_vec(results)?)?;
    fs::write(&file, page(results))?;
    readme(root, results)?;
    Ok(file)
}

/// Puts the tables of a run between the README's markers.
pub fn readme(root: &Path, results: &Results) -> Result<(), BoxError> {
    let file = root.join("README.md");
    let text = fs::read_to_string(&file)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the README has no place for it")?;
    let (_, after) = rest.split_once(END).ok_or("the README has no place for it")?;
    fs::write(&file, format!("{before}{BEGIN}{}{END}{after}", section(results)))?;
    Ok(())
}

fn origin(results: &Results) -> String {
    let versions: Vec<_> = results
        .versions
        .iter()
        .map(
            |(name, version)| {
                if version.contains(name) { version.clone() } else { format!("{name} {version}") }
            },
        )
        .collect();
    format!(
        "{}, commit {}, on {}; {}. `{}`",
        results.date,
        results.commit,
        results.machine,
        versions.join(", "),
        results.command
    )
}

fn section(results: &Results) -> String {
    let mut text = bars::table(&bars::all(results));
    let _ = write!(text, "\n{}\n", capacity(results));
    let _ = write!(
        text,
        "\nBold: the goal is reached. {}\n([all figures](benches/runs/{}.md)).\n",
        origin(results),
        results.date
    );
    text
}

/// What an upload costs, and what a core carries: the fixed part is what is left of a small upload without its bytes.
fn capacity(results: &Results) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    /// Of a core; the rest is for bursts.
    const LOAD: f64 = 0.7;
    let cpu = |scenario: &str, figure| {
        results.scenario(scenario)?.peer("gateway").map(|us| us.median(figure))
    };
    let mut text = String::new();
    let small = cpu("https-small", Figure::CpuPer1000);
    let (Some(small), Some(by_gib)) = (small, cpu("https-large", Figure::CpuPerGib)) else {
        return text;
    };
    let fixed = (small / 1000.0 - by_gib * 65536.0 / GIB).max(0.0);
    let (each, gib) = (number(fixed * 1000.0), number(by_gib));
    let _ = write!(
        text,
        "To COS over HTTPS an upload costs a core **{each} ms and {gib} s for each GiB** of it. So `N` replicas of `M` \
         cores, kept at 70 %, carry `N × M × 0.7 / ({each} ms + size × {gib} s/GiB)` uploads a second:\n\n\
         | file | uploads/s for each core | MiB/s for each core |\n|---|---:|---:|\n"
    );
    for bytes in [4096, 65_536, 1 << 20, 8 << 20, 100 << 20, 1 << 30] {
        let share = bytes as f64 / GIB;
        let rate = LOAD / (fixed + by_gib * share);
        let (rate, volume) = (number(rate), number(rate * share * 1024.0));
        let _ = writeln!(text, "| {} | {rate} | {volume} |", size(bytes));
    }
    if let Some(memory) =
        results.scenario("memory-200").and_then(|run| run.rss_per_upload("gateway"))
    {
        let _ = writeln!(text, "\nEach upload in flight adds {} MiB of memory.", number(memory));
    }
    text
}

fn page(results: &Results) -> String {
    let mut page = format!(
        "# Load test of {}\n\n{}\n\nMedians over the rounds; CPU ratio: each peer's CPU per GiB against the gateway's \
         in the same round.\n\n{}\n{}\n",
        results.date,
        origin(results),
        bars::table(&bars::all(results)),
        capacity(results)
    );
    for scenario in &results.scenarios {
        let _ = write!(page, "\n## {}\n\n{}", scenario.title(), scenario.table("gateway"));
    }
    page
}
