//! Plots as SVG: small, hand-built, readable on light and dark pages.

use std::fmt::Write as _;

use crate::line::Line;
use crate::table::thousands;

const WIDTH: f64 = 760.0;
/// Okabe and Ito's palette: told apart by colour-blind readers too, on either ground.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7a7a7a"];
const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#24292f}\
                     .dim{fill:#57606a}.grid{stroke:#d0d7de}.mark{stroke:#24292f}\
                     @media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}\
                     .grid{stroke:#3d444d}.mark{stroke:#e6edf3}}</style>";

fn page(height: f64, title: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" \
         role=\"img\" aria-label=\"{title}\">\n{STYLE}\n\
         <text x=\"10\" y=\"20\" font-weight=\"600\">{title}</text>\n{body}</svg>\n",
        title = escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A cell's name in a plot.
fn name(line: &Line) -> String {
    format!("{} {}", line.workload, line.label())
}

/// Latency by percentile; the percentiles' axis is logarithmic in what is left of 100 %.
#[must_use]
pub fn latency(title: &str, lines: &[&Line]) -> String {
    const LEFT: f64 = 60.0;
    const TOP: f64 = 40.0;
    const HEIGHT: f64 = 300.0;
    const RIGHT: f64 = WIDTH - 20.0;
    const TICKS: [(f64, &str); 5] =
        [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let all = || lines.iter().flat_map(|line| shown(line)).map(|(_, ms)| ms);
    let low = decade(all().fold(f64::INFINITY, f64::min)).min(0.1);
    let high = decade(all().fold(0.0, f64::max)).max(low) * 10.0;
    let left_of = |quantile: f64| -(1.0 - quantile).log10();
    let (first, last) = (left_of(TICKS[0].0), left_of(TICKS[4].0));
    let x = |q: f64| LEFT + (left_of(q) - first) / (last - first) * (RIGHT - LEFT);
    let y = |ms: f64| TOP + HEIGHT - (ms / low).log10() / (high / low).log10() * HEIGHT;
    let mut body = String::new();
    for (quantile, label) in TICKS {
        let x = x(quantile);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{:.1}\"/><text class=\"dim\" x=\"{x:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            TOP + HEIGHT,
            TOP + HEIGHT + 18.0
        );
    }
    let mut at = low;
    while at <= high * 1.001 {
        let y = y(at);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text class=\"dim\" x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{} ms</text>",
            LEFT - 6.0,
            y + 4.0,
            crate::line::round(at)
        );
        at *= 10.0;
    }
    let mut below = TOP + HEIGHT + 42.0;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> =
            shown(line).map(|(q, ms)| format!("{:.1},{:.1}", x(q), y(ms.max(low)))).collect();
        let _ = writeln!(
            body,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <path stroke=\"{colour}\" stroke-width=\"3\" d=\"M{LEFT} {:.1}h18\"/>\
             <text x=\"{:.1}\" y=\"{below:.1}\">{}</text>",
            points.join(" "),
            below - 4.0,
            LEFT + 26.0,
            escaped(&format!("{} ({}/s)", name(line), thousands(line.ops_per_s)))
        );
        below += 18.0;
    }
    page(below, title, &body)
}

/// The points between 50 and 99.99 %.
fn shown(line: &Line) -> impl Iterator<Item = (f64, f64)> {
    line.percentiles.iter().copied().filter(|(q, ms)| (0.5..=0.9999).contains(q) && *ms > 0.0)
}

fn decade(ms: f64) -> f64 {
    if ms.is_finite() && ms > 0.0 { 10f64.powf(ms.log10().floor()) } else { 0.1 }
}

/// A bar per cell, as long as its part of the limit; the stroke at the end is the limit.
#[must_use]
pub fn throughput(title: &str, lines: &[&Line]) -> String {
    const LEFT: f64 = 10.0;
    const FULL: f64 = 480.0;
    let mut body = String::new();
    let mut top = 36.0;
    for line in lines {
        let Some((limit, ratio)) = line.limit.as_ref().zip(line.ratio()) else { continue };
        let words = format!(
            "{}/s = {ratio:.2} × {}/s",
            thousands(line.ops_per_s),
            thousands(limit.ops_per_s)
        );
        let _ = writeln!(
            body,
            "<text x=\"{LEFT}\" y=\"{:.1}\">{} <tspan class=\"dim\">of {}</tspan></text>\
             <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{}\"/>\
             <path class=\"mark\" stroke-width=\"2\" d=\"M{:.1} {:.1}v16\"/>\
             <text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\">{words}</text>",
            top + 12.0,
            escaped(&name(line)),
            escaped(&limit.cell),
            top + 18.0,
            (ratio.min(1.1) * FULL).max(1.0),
            COLOURS[0],
            LEFT + FULL,
            top + 16.0,
            LEFT + 1.1 * FULL + 10.0,
            top + 28.0,
        );
        top += 44.0;
    }
    page(top + 6.0, title, &body)
}
