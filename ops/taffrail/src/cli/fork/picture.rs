//! The comparison as a picture: an SVG of its own, readable on light and dark pages.

use std::fmt::Write as _;

use serde_json::Value;

use super::time;
use crate::cli::human::text;

const WIDTH: f64 = 820.0;
/// Names end here, bars begin.
const LEFT: f64 = 190.0;
/// Bars end here, figures begin.
const RIGHT: f64 = 700.0;
/// Okabe and Ito's palette: told apart by colour-blind readers too, on either ground.
const WAS: &str = "#8a8f98";
const WOULD: &str = "#0072b2";
const CONTROL: &str = "#d55e00";
const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#24292f}\
                     .dim{fill:#57606a}.h{font-weight:600;font-size:13px}.rule{stroke:#d0d7de}\
                     @media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}\
                     .rule{stroke:#3d444d}}</style>";
/// Queues and agents that are drawn.
const MOST: usize = 10;

/// Draws a report.
pub fn draw(report: &Value) -> String {
    let mut picture = Picture { body: String::new(), y: 92.0 };
    let spread = ["p50", "p90", "p99", "max"];
    let bars = spread.map(|p| (p.to_owned(), pair(report, &format!("wait_ms/{p}"))));
    let control = |p: &str| report.pointer(&format!("/control/wait_ms/{p}"))?.as_f64();
    let ticks = spread.iter().filter_map(|p| control(p)).collect();
    picture.panel("Wait for an agent, all tasks", bars.into(), ticks, 0.0, time);
    let queues = report["queues"].as_object();
    let mut queues: Vec<_> = queues.into_iter().flatten().collect();
    if queues.len() > 1 {
        let busy = |pair: &Value| pair["happened"]["assigned"].as_u64().unwrap_or_default();
        queues.sort_by_key(|(_, pair)| std::cmp::Reverse(busy(pair)));
        let bars =
            queues.iter().take(MOST).map(|(name, of)| ((*name).clone(), pair(of, "wait_ms/p90")));
        picture.panel("Wait by queue, p90", bars.collect(), vec![], 0.0, time);
    }
    let count = |name: &str, path: &str| (name.to_owned(), pair(report, path));
    let ends = [
        count("done", "completed"),
        count("failed", "failed"),
        count("dead", "dead"),
        count("open at the end", "open"),
        count("failed attempts", "failed_attempts"),
        count("expired leases", "expired_leases"),
    ];
    let ends = ends.into_iter().filter(|(_, (was, would))| was + would > 0.0).collect();
    picture.panel("What became of them", ends, vec![], 0.0, |n| format!("{n:.0}"));
    let agents = report["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let busy = agents.iter().take(MOST).map(|agent| {
        let added = if agent["added"] == true { " (added)" } else { "" };
        (format!("{}{added}", text(agent, "name")), pair(agent, "utilisation"))
    });
    let percent = |share| format!("{:.0} %", 100.0 * share);
    picture.panel("How busy agents are", busy.collect(), vec![], 1.0, percent);
    page(report, &picture)
}

fn page(report: &Value, picture: &Picture) -> String {
    let (from, to) = (&report["from"], &report["to"]);
    let changes = report["changes"].to_string();
    let changes: String = match changes.as_str() {
        "{}" => "nothing changed".into(),
        long if long.chars().count() > 110 => long.chars().take(109).chain(['…']).collect(),
        short => short.into(),
    };
    let height = picture.y;
    let control = if report["control"].is_null() {
        String::new()
    } else {
        format!(
            "<rect x=\"280\" y=\"56\" width=\"2.5\" height=\"12\" fill=\"{CONTROL}\"/>\
             <text x=\"290\" y=\"66\">the model with nothing changed</text>"
        )
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" \
         role=\"img\" aria-label=\"What happened and what would have happened\">\n{STYLE}\n\
         <text x=\"16\" y=\"26\" style=\"font-size:16px;font-weight:600\">What if</text>\
         <text class=\"dim\" x=\"804\" y=\"26\" text-anchor=\"end\">positions {from} to {to}</text>\n\
         <text class=\"dim\" x=\"16\" y=\"46\">{}</text>\n\
         <rect x=\"16\" y=\"58\" width=\"12\" height=\"8\" rx=\"2\" fill=\"{WAS}\"/>\
         <text x=\"34\" y=\"66\">happened</text>\
         <rect x=\"112\" y=\"58\" width=\"12\" height=\"8\" rx=\"2\" fill=\"{WOULD}\"/>\
         <text x=\"130\" y=\"66\">would have happened</text>{control}\n{}</svg>\n",
        escaped(&changes),
        picture.body,
    )
}

/// Both sides of a figure.
fn pair(of: &Value, path: &str) -> (f64, f64) {
    let side = |side: &str| {
        of.pointer(&format!("/{side}/{path}")).and_then(Value::as_f64).unwrap_or_default()
    };
    (side("happened"), side("what_if"))
}

struct Picture {
    body: String,
    y: f64,
}

impl Picture {
    /// Bars in pairs, on one scale from zero to the longest or `least`; a tick across each pair
    /// where there is one.
    fn panel(
        &mut self,
        title: &str,
        bars: Vec<(String, (f64, f64))>,
        ticks: Vec<f64>,
        least: f64,
        shown: impl Fn(f64) -> String,
    ) {
        if bars.is_empty() {
            return;
        }
        let all = bars.iter().map(|(_, (was, would))| was.max(*would)).chain(ticks.clone());
        let most = all.fold(least, f64::max);
        let scale = if most > 0.0 { (RIGHT - LEFT) / most } else { 0.0 };
        let right = WIDTH - 16.0;
        let y = self.y;
        let _ = writeln!(
            self.body,
            "<path class=\"rule\" d=\"M16 {:.1}H{right:.1}\"/><text class=\"h\" x=\"16\" y=\"{:.1}\">{}</text>",
            y - 6.0,
            y + 14.0,
            escaped(title)
        );
        self.y += 26.0;
        for (nth, (name, (was, would))) in bars.into_iter().enumerate() {
            let y = self.y;
            let tick = ticks.get(nth).map(|tick| tick * scale);
            let name: String = name.chars().take(26).collect();
            let _ = writeln!(
                self.body,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 10.0,
                y + 15.0,
                escaped(&name)
            );
            for (nth, (number, colour)) in [(was, WAS), (would, WOULD)].into_iter().enumerate() {
                let top = y + 11.0 * nth as f64;
                let width = (number * scale).max(if number > 0.0 { 1.5 } else { 0.0 });
                // Not under the tick.
                let tick = tick.filter(|tick| (-4.0..60.0).contains(&(tick - width)));
                let after = tick.map_or(width, |tick| tick + 2.0) + 6.0;
                let class = if nth == 0 { " class=\"dim\"" } else { "" };
                let _ = writeln!(
                    self.body,
                    "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"9\" rx=\"2\" \
                     fill=\"{colour}\"/><text{class} x=\"{:.1}\" y=\"{:.1}\" style=\"font-size:11px\">{}</text>",
                    LEFT + after,
                    top + 8.5,
                    escaped(&shown(number))
                );
            }
            if let Some(tick) = tick {
                let x = LEFT + tick - 1.25;
                let _ = writeln!(
                    self.body,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"2.5\" height=\"26\" fill=\"{CONTROL}\"/>",
                    y - 3.0
                );
            }
            self.y += 30.0;
        }
        self.y += 16.0;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_picture_shows_both_sides_and_breaks_on_no_name() {
        let numbers = |wait: f64| json!({ "completed": 5, "wait_ms": { "p50": wait, "p90": wait, "p99": wait, "max": wait } });
        let agent = json!({ "name": "<ada> & \"co\"", "added": true,
            "happened": { "utilisation": 0.0 }, "what_if": { "utilisation": 0.5 } });
        let report = json!({ "from": 1, "to": 9, "changes": { "lease_ms": 5 },
            "happened": numbers(2_000.0), "what_if": numbers(500.0), "control": numbers(1_900.0),
            "queues": {},
            "agents": [agent] });
        let picture = draw(&report);
        assert!(picture.contains("2.0 s") && picture.contains("500 ms"), "{picture}");
        assert!(picture.contains("&lt;ada&gt; &amp; &quot;co&quot; (added)"), "{picture}");
        assert!(picture.contains("50 %") && !picture.contains("NaN"), "{picture}");
        // A tick for each percentile, and the one that explains them.
        assert_eq!(picture.matches(CONTROL).count(), 5);
        assert_eq!(picture.matches("<svg").count(), 1);
    }
}
