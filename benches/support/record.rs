//! What is kept of a run: its figures and tables under `benches/runs/`, and the README's part of them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::BoxError;
use super::bars;
use super::results::{Figure, Results, number};

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

/// What an upload costs: so much each, and so much for each of its bytes.
fn capacity(results: &Results) -> String {
    let cpu = |scenario: &str, figure| {
        results.scenario(scenario)?.peer("gateway").map(|us| us.median(figure))
    };
    let mut text = String::from(
        "| to COS over | CPU per upload of 64 KiB | CPU per GiB of large files |\n|---|---:|---:|\n",
    );
    for scheme in ["https", "http"] {
        let small = cpu(&format!("{scheme}-small"), Figure::CpuPer1000);
        let large = cpu(&format!("{scheme}-large"), Figure::CpuPerGib);
        if let (Some(small), Some(large)) = (small, large) {
            let _ = writeln!(
                text,
                "| {} | {} ms | {} s |",
                scheme.to_uppercase(),
                number(small),
                number(large)
            );
        }
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
