//! Charts as SVG files that are readable on a light and on a dark page.

use std::fmt::Write;

use super::results::number;

/// A chart has its own background, since the page's theme may differ from the reader's.
const STYLE: &str = "<style>.ground{fill:#fff}text{font:12px system-ui,sans-serif;fill:#57606a}\
.title{font-weight:600;fill:#1b1f24}.value{fill:#1b1f24}.rule{stroke:#d9dee4}.bar{fill:#afb8c1}.ours{fill:#0969da}\
@media(prefers-color-scheme:dark){.ground{fill:#14171a}text{fill:#98a1ab}.title,.value{fill:#d9dee4}.rule{stroke:#343a41}\
.bar{fill:#57606a}.ours{fill:#4493f8}}</style>";

/// Readable on both backgrounds.
const COLOURS: [&str; 7] =
    ["#1f7ae0", "#d1453b", "#2f9e4f", "#b07d16", "#9166e8", "#7d8590", "#d9722e"];

/// A named line of points.
pub type Series = (String, Vec<(f64, f64)>);

/// Bars of one figure.
pub struct Bars {
    pub title: String,
    /// Each bar's label and value.
    pub bars: Vec<(String, f64)>,
}

fn svg(width: f64, height: f64, content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">{STYLE}<rect class=\"ground\" width=\"{width}\" \
         height=\"{height}\" rx=\"8\"/>{content}</svg>\n"
    )
}

/// Panels of horizontal bars, two in a row; those of `ours` are highlighted.
pub fn bars(panels: &[Bars], ours: &str) -> String {
    const WIDTH: f64 = 400.0;
    const LINE: f64 = 24.0;
    const LEFT: f64 = 104.0;
    let rows = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or_default();
    let height = 52.0 + LINE * rows as f64;
    let mut content = String::new();
    for (index, panel) in panels.iter().enumerate() {
        let (left, top) = ((index % 2) as f64 * WIDTH, (index / 2) as f64 * height);
        let _ = write!(
            content,
            "<text class=\"title\" x=\"{}\" y=\"{}\">{}</text>",
            left + 16.0,
            top + 28.0,
            escape(&panel.title)
        );
        let most = panel.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        for (row, (name, value)) in panel.bars.iter().enumerate() {
            let y = top + 42.0 + LINE * row as f64;
            let length = value / most * (WIDTH - LEFT - 76.0);
            let class = if name == ours { "bar ours" } else { "bar" };
            let _ = write!(
                content,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{class}\" x=\"{:.0}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"16\" rx=\"2\"/>\
                 <text class=\"value\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                left + LEFT - 8.0,
                y + 12.5,
                escape(name),
                left + LEFT,
                left + LEFT + length + 6.0,
                y + 12.5,
                number(*value),
            );
        }
    }
    svg(WIDTH * 2.0, height * panels.len().div_ceil(2) as f64 + 12.0, &content)
}

/// Lines over two logarithmic axes; `None` if there is nothing to draw. `marks` are the labels of the horizontal axis.
pub fn lines(title: &str, series: &[Series], marks: &[(f64, String)]) -> Option<String> {
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 340.0;
    const LEFT: f64 = 60.0;
    let all = || series.iter().flat_map(|(_, points)| points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let span = |values: Vec<f64>| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        (least.ln(), if most > least { most.ln() } else { least.ln() + 1.0 })
    };
    if all().count() < 2 {
        return None;
    }
    let (left, right) = span(all().map(|(x, _)| *x).collect());
    let (low, high) = span(all().map(|(_, y)| *y).collect());
    let across = |x: f64| LEFT + (x.ln() - left) / (right - left) * (WIDTH - LEFT - 28.0);
    let down = |y: f64| HEIGHT - 62.0 - (y.ln() - low) / (high - low) * (HEIGHT - 110.0);

    let mut content = format!("<text class=\"title\" x=\"16\" y=\"28\">{}</text>", escape(title));
    for step in 0..=4 {
        let y = (low + (high - low) * f64::from(step) / 4.0).exp();
        let _ = write!(
            content,
            "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{:.0}\" y2=\"{:.0}\"/>\
             <text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            WIDTH - 16.0,
            down(y),
            down(y),
            LEFT - 8.0,
            down(y) + 4.0,
            number(y),
        );
    }
    for (x, name) in marks.iter().filter(|(x, _)| (left..=right).contains(&x.ln())) {
        let _ = write!(
            content,
            "<text x=\"{:.0}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            across(*x),
            HEIGHT - 42.0,
            escape(name),
        );
    }
    for (index, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line: Vec<_> = points
            .iter()
            .filter(|(x, y)| *x > 0.0 && *y > 0.0)
            .map(|(x, y)| format!("{:.1},{:.1}", across(*x), down(*y)))
            .collect();
        let x = LEFT + 98.0 * index as f64;
        let _ = write!(
            content,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <rect fill=\"{colour}\" x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" rx=\"2\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            line.join(" "),
            HEIGHT - 25.0,
            x + 15.0,
            HEIGHT - 16.0,
            escape(name),
        );
    }
    Some(svg(WIDTH, HEIGHT, &content))
}

/// Escapes text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
