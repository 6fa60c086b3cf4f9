//! Lines as rows for people.

use crate::line::Line;

/// The headers of [`row`].
pub const HEADERS: [&str; 11] = [
    "WORKLOAD", "CELL", "MODE", "RATE/S", "MIN", "MAX", "P50 MS", "P99 MS", "ERRORS", "RATIO",
    "LIMIT",
];

/// A line's cells.
#[must_use]
pub fn row(line: &Line) -> Vec<String> {
    let ms = |figure: Option<f64>| figure.map_or_else(|| "-".into(), |ms| format!("{ms}"));
    let limit = line.limit.as_ref();
    vec![
        line.workload.clone(),
        line.limit_name().map_or_else(|| line.label(), Into::into),
        line.mode.clone(),
        thousands(line.ops_per_s),
        thousands(line.min),
        thousands(line.max),
        ms(line.p50_ms),
        ms(line.p99_ms),
        line.errors.to_string(),
        line.ratio().map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
        limit.map_or_else(
            || "-".into(),
            |limit| format!("{} ({}/s)", limit.cell, thousands(limit.ops_per_s)),
        ),
    ]
}

/// The headers of [`goals`].
pub const GOAL_HEADERS: [&str; 5] = ["WORKLOAD", "TARGET", "AT MOST", "MEASURED", "HOLDS"];

/// A line's targets that are figures by themselves.
pub fn goals(line: &Line) -> impl Iterator<Item = Vec<String>> {
    line.goals.iter().map(|goal| {
        vec![
            line.workload.clone(),
            goal.what.clone(),
            thousands(goal.at_most),
            thousands(goal.figure),
            if goal.holds { "yes" } else { "NO" }.into(),
        ]
    })
}

/// A number that people can read: `12,345`; small ones keep their digits.
#[must_use]
pub fn thousands(figure: f64) -> String {
    if figure.abs() < 1_000.0 {
        return format!("{}", crate::line::round(figure));
    }
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if figure < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(thousands(1_234_567.8), "1,234,568");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(0.5), "0.5");
        assert_eq!(thousands(-12_000.0), "-12,000");
    }
}
