//! The report: one HTML file with the bars, the charts and every table.

use std::fmt::Write;

use super::bars::{Bar, Language, table as bars_table};
use super::chart::{Series, escape, lines};
use super::results::{Figure, Measured, Results};
use super::scenarios::Group;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1f24;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}th,td{border-bottom:1px solid #d9dee4;padding:.25rem .6rem;text-align:right}\
th:first-child,td:first-child{text-align:left}figure{display:inline-block;margin:0 1rem 1rem 0}h2{margin-top:2.5rem}h3{margin-bottom:0}\
@media(prefers-color-scheme:dark){body{color:#d9dee4;background:#14171a}th,td{border-color:#343a41}}";

/// The whole page.
pub fn html(results: &Results, bars: &[Bar]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>tcb-upload-gateway: load test</title>\
         <meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>Load test</h1>"
    );
    let versions: Vec<_> =
        results.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
    let _ = write!(
        page,
        "<p>{} · {} · commit {}<br><code>{}</code><br>{}</p><h2>Bars</h2>{}",
        results.date,
        escape(&results.machine),
        results.commit,
        escape(&results.command),
        escape(&versions.join(" · ")),
        table(&bars_table(bars, Language::English)),
    );
    page.push_str("<h2>Charts</h2>");
    let group = |group| results.scenarios.iter().filter(move |scenario| scenario.group == group);
    for scenario in group(Group::Latency).chain(group(Group::Throughput)) {
        let title = format!("Latency (ms): {}", scenario.title());
        page.push_str(&figure(latency(scenario, &title)));
    }
    for scheme in ["https", "http"] {
        let prefix = format!("{scheme}-size-");
        let sweep: Vec<_> =
            group(Group::Sizes).filter(|scenario| scenario.name.starts_with(&prefix)).collect();
        let over_size = |figure| over(&sweep, |scenario| scenario.size as f64, figure);
        let scheme = scheme.to_uppercase();
        page.push_str(&figure(lines(
            &format!("{scheme} to COS: MiB/s over size"),
            &over_size(Figure::MibPerSecond),
            &sizes(&sweep),
        )));
        page.push_str(&figure(lines(
            &format!("{scheme} to COS: CPU s/GiB over size"),
            &over_size(Figure::CpuPerGib),
            &sizes(&sweep),
        )));
    }
    let slow: Vec<_> = group(Group::Memory)
        .filter(|scenario| scenario.name.starts_with("slow-") && !scenario.name.contains("window"))
        .collect();
    let marks: Vec<_> = slow
        .iter()
        .map(|scenario| (scenario.connections as f64, scenario.connections.to_string()))
        .collect();
    page.push_str(&figure(lines(
        "Peak RSS (MiB) over slow uploads in flight",
        &over(&slow, |scenario| scenario.connections as f64, Figure::PeakRss),
        &marks,
    )));
    page.push_str("<h2>Tables</h2>");
    for scenario in &results.scenarios {
        let _ = write!(
            page,
            "<h3>{}</h3>{}",
            escape(&scenario.title()),
            table(&scenario.table("gateway"))
        );
    }
    page.push_str("</html>");
    page
}

/// A figure of each peer over `x`, the parameter in which the scenarios differ.
pub fn over(scenarios: &[&Measured], x: impl Fn(&Measured) -> f64, figure: Figure) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for scenario in scenarios {
        for peer in &scenario.peers {
            let point = (x(scenario), peer.median(figure));
            match series.iter_mut().find(|(name, _)| *name == peer.name) {
                Some((_, points)) => points.push(point),
                None => series.push((peer.name.clone(), vec![point])),
            }
        }
    }
    series
}

/// The labels of the horizontal axis for scenarios that differ in size.
pub fn sizes(scenarios: &[&Measured]) -> Vec<(f64, String)> {
    let sizes = scenarios.iter().map(|scenario| scenario.size);
    sizes.map(|bytes| (bytes as f64, super::scenarios::size(bytes))).collect()
}

/// Milliseconds over the share of uploads, from the median on, with the axis stretched towards the slowest.
pub fn latency(scenario: &Measured, title: &str) -> Option<String> {
    let across = |share: f64| 1.0 / (1.0 - share);
    let series: Vec<Series> = scenario
        .peers
        .iter()
        .map(|peer| {
            let slower = peer.latency.iter().filter(|(share, _)| *share >= 0.5);
            (peer.name.clone(), slower.map(|(share, ms)| (across(*share), *ms)).collect())
        })
        .collect();
    let marks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
        .map(|share| (across(share), format!("{}%", (share * 1e7).round() / 1e5)));
    lines(title, &series, &marks)
}

/// A chart as HTML; empty if there is none.
fn figure(chart: Option<String>) -> String {
    chart.map(|svg| format!("<figure>{svg}</figure>")).unwrap_or_default()
}

/// Converts a Markdown table of this bench to HTML.
fn table(markdown: &str) -> String {
    let mut html = String::from("<table>");
    for (index, line) in markdown.lines().enumerate() {
        if line.starts_with("|---") {
            continue;
        }
        let cell = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for text in line.trim_matches('|').split('|') {
            let _ = write!(html, "<{cell}>{}</{cell}>", escape(text.trim()));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    html
}
