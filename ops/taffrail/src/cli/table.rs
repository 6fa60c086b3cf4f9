//! Tables for people: aligned, coloured by state, never wider than the screen.

use comfy_table::{ColumnConstraint, Table};

/// A colour of the terminal's own palette, so that it suits light and dark ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// Headers and what matters less.
    Dim,
    /// Went well.
    Green,
    /// Under way.
    Cyan,
    /// Waits or needs a look.
    Yellow,
    /// Went wrong.
    Red,
}

impl Paint {
    const ALL: [Self; 6] =
        [Self::Plain, Self::Dim, Self::Green, Self::Cyan, Self::Yellow, Self::Red];

    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Cyan => "36",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }

    /// The colour of a state of a task, an agent or an operation, or of a priority.
    pub fn of(word: &str) -> Self {
        match word {
            "done" | "ready" | "succeeded" | "accepted" | "completed" | "ok" => Self::Green,
            "assigned" | "in_progress" | "review" | "busy" | "running" | "warming"
            | "deploying" | "validating" | "validated" | "submitted" | "duplicate" => Self::Cyan,
            "queued" | "inbox" | "blocked" | "degraded" | "draining" | "hibernating" | "high"
            | "created" => Self::Yellow,
            "failed" | "dead" | "unhealthy" | "force_stopped" | "critical" | "refused"
            | "invalid" | "error" => Self::Red,
            "cancelled" | "offline" | "retired" | "archived" | "low" | "background" => Self::Dim,
            _ => Self::Plain,
        }
    }
}

/// A cell: its text, and how it is painted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell(pub String, pub Paint);

impl Cell {
    /// A state or priority, in its colour.
    pub fn state(word: &str) -> Self {
        Self(word.to_owned(), Paint::of(word))
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(text.into(), Paint::Plain)
    }
}

/// First of the private characters that carry a painted ASCII character through the layout:
/// comfy-table counts escape sequences as text, these as one column each.
const BASE: u32 = 0xE000;

/// Lays out rows under headers. The last column takes what room is left and is cut there.
pub fn render(headers: &[&str], rows: Vec<Vec<Cell>>, width: Option<u16>, colour: bool) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let dim = |title: &&str| mark(&printable(title, false), Paint::Dim);
    table.set_header(headers.iter().map(dim).collect::<Vec<_>>());
    let longest = width.map_or(200, usize::from).max(20);
    for row in rows {
        table.add_row(
            row.into_iter()
                .map(|Cell(text, paint)| mark(&cut(&printable(&text, false), longest), paint))
                .collect::<Vec<_>>(),
        );
    }
    let columns = table.column_count();
    if let Some(last) = columns.checked_sub(1) {
        let used: usize =
            table.column_max_content_widths()[..last].iter().map(|w| usize::from(*w) + 2).sum();
        let room = longest.saturating_sub(used).max(16);
        let cells: Vec<usize> = (0..table.row_count()).collect();
        for index in cells {
            if let Some(row) = table.row_mut(index) {
                row.max_height(1);
            }
        }
        if let Some(column) = table.column_mut(last) {
            let room = u16::try_from(room).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::UpperBoundary(comfy_table::Width::Fixed(room)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(&paint(line.trim_end(), colour));
        text.push('\n');
    }
    text
}

/// `name: value` lines, aligned.
pub fn fields(rows: &[(&str, Cell)], colour: bool) -> String {
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, Cell(value, painted)) in rows {
        let name = paint(&mark(&format!("{name:<widest$}"), Paint::Dim), colour);
        let value = printable(value, true).replace('\n', &format!("\n{:widest$}  ", ""));
        text.push_str(&format!("{name}  {}\n", paint(&mark(&value, *painted), colour)));
    }
    text
}

/// Text in a colour, where colours are wanted.
pub fn painted(text: &str, colour: Paint, wanted: bool) -> String {
    if wanted && colour != Paint::Plain {
        format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code())
    } else {
        text.to_owned()
    }
}

/// Takes out what would steer the terminal, or be taken for paint: whoever submits a task
/// must not be able to move the cursor of whoever looks at it.
pub fn printable(text: &str, lines: bool) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\n' if lines => Some(c),
            '\n' | '\r' | '\t' => Some(' '),
            // Direction overrides can make a text read as another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
            '\u{e000}'..='\u{f8ff}' => Some('\u{fffd}'),
            c if c.is_control() => None,
            c => Some(c),
        })
        .collect()
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn mark(text: &str, paint: Paint) -> String {
    let index = Paint::ALL.iter().position(|p| *p == paint).unwrap_or_default() as u32;
    if paint == Paint::Plain {
        return text.to_owned();
    }
    let marked = |c: char| match c {
        '!'..='~' => char::from_u32(BASE + index * 128 + u32::from(c)).unwrap_or(c),
        c => c,
    };
    text.chars().map(marked).collect()
}

fn paint(line: &str, colour: bool) -> String {
    let mut text = String::with_capacity(line.len());
    let mut now = Paint::Plain;
    for c in line.chars() {
        let offset = u32::from(c).wrapping_sub(BASE);
        let (paint, c) = match Paint::ALL.get((offset / 128) as usize) {
            Some(paint) => (*paint, char::from_u32(offset % 128).unwrap_or(c)),
            // A blank or a character outside ASCII keeps the colour of its word.
            None if c != ' ' && !c.is_ascii() => (now, c),
            None => (Paint::Plain, c),
        };
        if colour && paint != now {
            text.push_str(&format!(
                "\u{1b}[{}m",
                if paint == Paint::Plain { "0" } else { paint.code() }
            ));
        }
        now = paint;
        text.push(c);
    }
    if colour && now != Paint::Plain {
        text.push_str("\u{1b}[0m");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec!["1".into(), Cell::state("done"), "short".into()],
            vec!["22".into(), Cell::state("in_progress"), "a title that is much too long".into()],
        ]
    }

    #[test]
    fn columns_are_aligned_and_the_last_one_is_cut() {
        let text = render(&["ID", "STATE", "TITLE"], rows(), Some(34), false);
        insta::assert_snapshot!(text, @r"
        ID  STATE        TITLE
        1   done         short
        22  in_progress  a title that i…
        ");
    }

    #[test]
    fn a_state_has_its_colour_and_nothing_else_has() {
        let text = render(&["ID", "STATE", "TITLE"], rows(), Some(80), true);
        assert!(text.contains("\u{1b}[32mdone\u{1b}[0m"), "{text:?}");
        assert!(text.contains("\u{1b}[36min_progress\u{1b}[0m"), "{text:?}");
        assert!(text.contains("  short\n"), "{text:?}");
    }

    #[test]
    fn a_title_cannot_steer_the_terminal() {
        let evil = "a\u{1b}[2Jb\u{7}\r\nc\u{202e}d\u{e0ff}";
        let text = render(&["TITLE"], vec![vec![evil.into()]], Some(80), true);
        assert!(text.contains("a[2Jb  cd\u{fffd}"), "{text:?}");
        assert_eq!(text.matches('\u{1b}').count(), 2, "the header's alone: {text:?}");
    }

    #[test]
    fn fields_are_aligned_and_keep_their_lines() {
        let text =
            fields(&[("id", "1".into()), ("state", Cell("a\nb".into(), Paint::Plain))], false);
        assert_eq!(text, "id     1\nstate  a\n       b\n");
    }
}
