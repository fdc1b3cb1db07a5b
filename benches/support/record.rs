//! Records a run: its figures, tables and charts under `benches/runs/`, and the part of them in docs/*/performance.md.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::BoxError;
use super::bars::{self, Language};
use super::chart::{self, Bars};
use super::report;
use super::results::{Figure, Results, number};
use super::scenarios::{Group, size};

const BEGIN: &str = "<!-- benches/runs: begin -->\n";
const END: &str = "<!-- benches/runs: end -->";

/// Writes `benches/runs/DATE.json` and `.md`, the charts, and the tables of docs/*/performance.md. Of a run by a thread that
/// polls, only `DATE-polling.json` and `.md`. Gives the Markdown file's path.
pub fn run(root: &Path, results: &Results) -> Result<PathBuf, BoxError> {
    let folder = root.join("benches/runs");
    fs::create_dir_all(&folder)?;
    let kind = if results.polling { "-polling" } else { "" };
    let file = folder.join(format!("{}{kind}.md", results.date));
    fs::write(file.with_extension("json"), serde_json::to_vec(results)?)?;
    fs::write(&file, page(results))?;
    if !results.polling {
        guides(root, results)?;
    }
    Ok(file)
}

/// Writes the charts of a run, and puts them and its tables between the markers of the guides' pages on
/// performance, in both languages.
pub fn guides(root: &Path, results: &Results) -> Result<(), BoxError> {
    let charts = charts(results);
    for (name, svg) in &charts {
        fs::write(root.join(chart_path(results, name)), svg)?;
    }
    let names: Vec<_> = charts.iter().map(|(name, _)| *name).collect();
    for (file, language) in [
        ("docs/en/performance.md", Language::English),
        ("docs/zh/performance.md", Language::Chinese),
    ] {
        let file = root.join(file);
        let text = fs::read_to_string(&file)?;
        let (before, rest) = text.split_once(BEGIN).ok_or("the page has no place for it")?;
        let (_, after) = rest.split_once(END).ok_or("the page has no place for it")?;
        let section = section(results, &names, language);
        fs::write(&file, format!("{before}{BEGIN}{section}{END}{after}"))?;
    }
    Ok(())
}

fn chart_path(results: &Results, chart: &str) -> String {
    format!("benches/runs/{}-{chart}.svg", results.date)
}

/// The charts of a run, by name.
fn charts(results: &Results) -> Vec<(&'static str, String)> {
    let panels: Vec<_> = [
        (
            "https-large",
            "HTTPS to COS, 4 large files: CPU s/GiB, less is better",
            Figure::CpuPerGib,
        ),
        ("http-large", "HTTP to COS, 4 large files: CPU s/GiB, less is better", Figure::CpuPerGib),
        (
            "https-small",
            "HTTPS to COS, 32 × 64 KiB: uploads/s, more is better",
            Figure::UploadsPerSecond,
        ),
        (
            "http-small",
            "HTTP to COS, 32 × 64 KiB: uploads/s, more is better",
            Figure::UploadsPerSecond,
        ),
    ]
    .into_iter()
    .filter_map(|(scenario, title, figure)| {
        let peers = results.scenario(scenario)?.peers.iter();
        let bars = peers.map(|peer| (peer.name.clone(), peer.median(figure))).collect();
        Some(Bars { title: title.to_owned(), bars })
    })
    .collect();
    let sweep: Vec<_> = results
        .scenarios
        .iter()
        .filter(|scenario| scenario.group == Group::Sizes && scenario.name.starts_with("https-"))
        .collect();
    // Records of before links in advance have only the second.
    let latency = results.scenario("latency-warm").or_else(|| results.scenario("latency"));
    let over_size = report::over(&sweep, |scenario| scenario.size as f64, Figure::CpuPerGib);
    [
        ("cost", (!panels.is_empty()).then(|| chart::bars(&panels, "gateway"))),
        (
            "latency",
            latency.and_then(|scenario| {
                report::latency(scenario, &format!("Latency (ms): {}", scenario.what))
            }),
        ),
        (
            "sizes",
            chart::lines(
                "HTTPS to COS: CPU s/GiB over the file's size",
                &over_size,
                &report::sizes(&sweep),
            ),
        ),
    ]
    .into_iter()
    .filter_map(|(name, svg)| Some((name, svg?)))
    .collect()
}

fn origin(results: &Results, language: Language) -> String {
    let versions: Vec<_> = results
        .versions
        .iter()
        .map(
            |(name, version)| {
                if version.contains(name) { version.clone() } else { format!("{name} {version}") }
            },
        )
        .collect();
    let Results { date, commit, machine, command, .. } = results;
    let versions = versions.join(", ");
    match language {
        Language::English => {
            format!("{date}, commit {commit}, on {machine}; {versions}. `{command}`")
        }
        Language::Chinese => {
            format!("{date}，提交 {commit}，机器：{machine}；{versions}。`{command}`")
        }
    }
}

fn section(results: &Results, charts: &[&str], language: Language) -> String {
    let mut text = bars::table(&bars::all(results), language);
    for name in charts {
        let title = match *name {
            "cost" => language.of(
                "CPU and uploads a second, beside the peers",
                "CPU 与每秒上传数，与对照程序并列",
            ),
            "latency" => language.of("Latency over the share of uploads", "各百分位的延迟"),
            _ => language.of("CPU over the file's size", "不同文件大小的 CPU"),
        };
        let _ = write!(text, "\n![{title}](../../{})\n", chart_path(results, name));
    }
    let _ = write!(text, "\n{}", capacity(results, language));
    let (origin, date) = (origin(results, language), &results.date);
    let _ = match language {
        Language::English => write!(
            text,
            "\nBold: the goal is reached; ✗: the bar does not hold. {origin}\n([all figures](../../benches/runs/{date}.md)).\n"
        ),
        Language::Chinese => {
            write!(
                text,
                "\n粗体：已达到目标；✗：未达到底线。{origin}\n（[全部数据](../../benches/runs/{date}.md)）。\n"
            )
        }
    };
    text
}

/// The cost of an upload and the capacity of a core. The fixed cost is a small upload's cost minus that of its bytes.
fn capacity(results: &Results, language: Language) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    /// The share of a core that is planned for; the rest is for bursts.
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
    let formula = format!("`N × M × 0.7 / ({each} ms + size × {gib} s/GiB)`");
    let _ = match language {
        Language::English => write!(
            text,
            "To COS over HTTPS an upload costs a core **{each} ms and {gib} s for each GiB** of it. So `N` replicas of \
             `M` cores, kept at 70 %, carry {formula} uploads a second:\n\n\
             | file | uploads/s for each core | MiB/s for each core |\n|---|---:|---:|\n"
        ),
        Language::Chinese => write!(
            text,
            "经 HTTPS 上传到 COS，每次上传消耗单核 **{each} ms，外加每 GiB {gib} s**。因此 `N` 个副本、每个 `M` 核、负载保持在 \
             70 % 时，每秒可承载 {formula} 次上传：\n\n\
             | 文件大小 | 每核每秒上传数 | 每核 MiB/s |\n|---|---:|---:|\n"
        ),
    };
    for bytes in [4096, 65_536, 1 << 20, 8 << 20, 100 << 20, 1 << 30] {
        let share = bytes as f64 / GIB;
        let rate = LOAD / (fixed + by_gib * share);
        let (rate, volume) = (number(rate), number(rate * share * 1024.0));
        let _ = writeln!(text, "| {} | {rate} | {volume} |", size(bytes));
    }
    if let Some(memory) =
        results.scenario("memory-200").and_then(|run| run.rss_per_upload("gateway"))
    {
        let memory = number(memory);
        let _ = match language {
            Language::English => {
                writeln!(
                    text,
                    "\nEach of 200 uploads of 8 MiB in flight adds {memory} MiB of memory, with the default window."
                )
            }
            Language::Chinese => {
                writeln!(
                    text,
                    "\n200 个 8 MiB 的上传同时进行且使用默认窗口时，每个占用 {memory} MiB 内存。"
                )
            }
        };
    }
    text
}

fn page(results: &Results) -> String {
    if results.polling {
        return polling_page(results);
    }
    let mut page = format!(
        "# Load test of {}\n\n{}\n\nMedians over the rounds; CPU ratio: each peer's CPU per GiB against the gateway's \
         in the same round.\n\n{}\n{}\n",
        results.date,
        origin(results, Language::English),
        bars::table(&bars::all(results), Language::English),
        capacity(results, Language::English)
    );
    for scenario in &results.scenarios {
        let _ = write!(page, "\n## {}\n\n{}", scenario.title(), scenario.table("gateway"));
    }
    page
}

fn polling_page(results: &Results) -> String {
    let mut page = format!(
        "# Peers that never sleep, {}\n\n{}\n\nClients, WeChat and COS are one thread that polls, on a processor of \
         its own; each relay has one worker on another. Medians over the rounds, and of the rounds' ratios.\n",
        results.date,
        origin(results, Language::English),
    );
    for scenario in &results.scenarios {
        let reference = scenario.peers.first().map_or("gateway", |first| &first.name);
        let _ = write!(page, "\n## {}\n\n{}", scenario.title(), scenario.costs(reference));
    }
    page
}
