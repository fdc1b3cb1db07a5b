//! One HTML file with everything in it: the bars, charts, and every table.

use std::fmt::Write;

use super::bars::{Bar, table as bars_table};
use super::results::{Figure, Measured, Results};
use super::scenarios::Group;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1f24;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}th,td{border-bottom:1px solid #d9dee4;padding:.25rem .6rem;text-align:right}\
th:first-child,td:first-child{text-align:left}figure{display:inline-block;margin:0 1rem 1rem 0}figcaption{font-weight:600}\
svg text{font:11px system-ui,sans-serif;fill:#57606a}h2{margin-top:2.5rem}h3{margin-bottom:0}\
@media(prefers-color-scheme:dark){body{color:#d9dee4;background:#14171a}th,td{border-color:#343a41}svg text{fill:#98a1ab}}";

const COLOURS: [&str; 7] =
    ["#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bc4c00"];

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
        table(&bars_table(bars)),
    );
    page.push_str("<h2>Charts</h2>");
    let group = |group| results.scenarios.iter().filter(move |scenario| scenario.group == group);
    for scenario in group(Group::Latency).chain(group(Group::Throughput)) {
        page.push_str(&latency(scenario));
    }
    for scheme in ["https", "http"] {
        let prefix = format!("{scheme}-size-");
        let sweep: Vec<_> =
            group(Group::Sizes).filter(|scenario| scenario.name.starts_with(&prefix)).collect();
        let over_size = |figure| over(&sweep, |scenario| scenario.size as f64, figure);
        let scheme = scheme.to_uppercase();
        page.push_str(&chart(
            &format!("{scheme} to COS: MiB/s over size"),
            &over_size(Figure::MibPerSecond),
            |x| super::scenarios::size(x as u64),
        ));
        page.push_str(&chart(
            &format!("{scheme} to COS: CPU s/GiB over size"),
            &over_size(Figure::CpuPerGib),
            |x| super::scenarios::size(x as u64),
        ));
    }
    let slow: Vec<_> = group(Group::Memory)
        .filter(|scenario| scenario.name.starts_with("slow-") && !scenario.name.contains("window"))
        .collect();
    page.push_str(&chart(
        "Peak RSS (MiB) over slow uploads in flight",
        &over(&slow, |scenario| scenario.connections as f64, Figure::PeakRss),
        |x| format!("{x:.0}"),
    ));
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

type Series = (String, Vec<(f64, f64)>);

fn over(scenarios: &[&Measured], x: impl Fn(&Measured) -> f64, figure: Figure) -> Vec<Series> {
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

/// Milliseconds over the share of uploads, stretched towards the slowest.
fn latency(scenario: &Measured) -> String {
    let series: Vec<Series> = scenario
        .peers
        .iter()
        .map(|peer| {
            let points = peer.latency.iter().map(|(share, ms)| (1.0 / (1.0 - share), *ms));
            (peer.name.clone(), points.collect())
        })
        .collect();
    let title = format!("Latency (ms): {}", scenario.title());
    chart(&title, &series, |x| format!("{}%", 100.0 - 100.0 / x))
}

/// Lines over two logarithmic axes, as SVG.
fn chart(title: &str, series: &[Series], label: impl Fn(f64) -> String) -> String {
    const WIDTH: f64 = 520.0;
    const HEIGHT: f64 = 300.0;
    const LEFT: f64 = 56.0;
    let all = || series.iter().flat_map(|(_, points)| points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let span = |values: Vec<f64>| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        (least.ln(), if most > least { most.ln() } else { least.ln() + 1.0 })
    };
    if all().count() < 2 {
        return String::new();
    }
    let (left, right) = span(all().map(|(x, _)| *x).collect());
    let (low, high) = span(all().map(|(_, y)| *y).collect());
    let across = |x: f64| LEFT + (x.ln() - left) / (right - left) * (WIDTH - LEFT - 12.0);
    let down = |y: f64| HEIGHT - 24.0 - (y.ln() - low) / (high - low) * (HEIGHT - 40.0);

    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg width={WIDTH} height={} viewBox='0 0 {WIDTH} {}' role=img>",
        escape(title),
        HEIGHT + 20.0,
        HEIGHT + 20.0
    );
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let (x, y) = ((left + (right - left) * part).exp(), (low + (high - low) * part).exp());
        let (at_x, at_y) = (across(x), down(y));
        let _ = write!(
            svg,
            "<line x1={LEFT} x2={WIDTH} y1={at_y:.0} y2={at_y:.0} stroke=#8884 />\
             <text x={} y={:.0} text-anchor=end>{}</text><text x={at_x:.0} y={} text-anchor=middle>{}</text>",
            LEFT - 6.0,
            at_y + 4.0,
            super::results::number(y),
            HEIGHT - 6.0,
            label(x),
        );
    }
    for (index, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line: Vec<_> = points
            .iter()
            .filter(|(x, y)| *x > 0.0 && *y > 0.0)
            .map(|(x, y)| format!("{:.1},{:.1}", across(*x), down(*y)))
            .collect();
        let _ = write!(
            svg,
            "<polyline fill=none stroke='{colour}' stroke-width=2 points='{}'/>\
             <text x={} y={} style='fill:{colour}'>{}</text>",
            line.join(" "),
            LEFT + 88.0 * index as f64,
            HEIGHT + 14.0,
            escape(name),
        );
    }
    svg.push_str("</svg></figure>");
    svg
}

/// A Markdown table of ours as HTML.
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
