//! Progress of long work, on stderr and only for people.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out::Printer;

/// A bar for so many steps; invisible for programs and with `--quiet`.
pub fn bar(out: &Printer, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target(out));
    style(&bar, "{bar:32} {pos}/{len} {per_sec} {msg}");
    bar
}

/// A sign of life for work of unknown length.
pub fn spinner(out: &Printer, message: String) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target(out));
    style(&bar, "{spinner} {elapsed} {msg}");
    bar.set_message(message);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Shows what an operation says of itself.
pub fn follow(bar: &ProgressBar, operation: &serde_json::Value) {
    let progress = &operation["progress"];
    if let (Some(done), Some(total)) = (progress["done"].as_u64(), progress["total"].as_u64())
        && total > 0
    {
        if bar.length() != Some(total) {
            bar.set_length(total);
            style(bar, "{bar:32} {pos}/{len} {msg}");
        }
        bar.set_position(done);
    }
    let word = progress["message"].as_str().or(operation["state"].as_str()).unwrap_or_default();
    bar.set_message(super::table::printable(word, false));
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn target(out: &Printer) -> ProgressDrawTarget {
    // indicatif draws nothing by itself where stderr is no terminal.
    if out.is_human() && !out.quiet {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}
