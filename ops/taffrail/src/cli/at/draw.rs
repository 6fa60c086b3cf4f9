//! The screen. Pure: the same state gives the same characters; 80 columns by 24 lines are
//! enough. What changed is said by a mark and a word, never by colour alone.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};
use serde_json::Value;

use super::super::human::{clock, text};
use super::super::table::{Paint, printable};
use super::super::top::draw::{Looks, popup};
use super::rows::{Change, Field, RowAt, short_type};
use super::state::{Note, State, Typing, cause};

/// Columns of a field's name.
const NAME: usize = 22;

/// Draws everything; the state's scrolling is kept within what there is.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, looks: Looks) {
    let list = (frame.area().height / 3).clamp(3, 15);
    let [head, events, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(list),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, head, state, looks);
    log(frame, events, state, looks);
    pane(frame, body, state, looks);
    footer(frame, foot, state, looks);
    if state.help {
        popup(frame, " keys ", help());
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, looks: Looks) {
    let dim = |text: &str| looks.span(text, Paint::Dim);
    let event = &state.moment.event;
    let moment = &state.moment;
    let going = match state.going {
        Some(to) => looks.span(format!("  going to {to} …"), Paint::Yellow),
        None => Span::raw(""),
    };
    let mut first = vec![
        looks.strong("taffrail at"),
        dim("  position "),
        looks.strong(moment.position.to_string()),
        dim(&format!(" of {}", moment.head)),
        Span::raw(format!("  {}", instant(&text(event, "time")))),
        going,
    ];
    // The address is the first to go where there is no room.
    let used: usize = first.iter().map(Span::width).sum();
    if used + state.server.len() + 2 <= usize::from(area.width) {
        first.push(dim(&format!("  {}", state.server)));
    }
    let because = match cause(event) {
        Some(cause) => format!("  because of {cause}"),
        None => "  of its own accord".to_owned(),
    };
    let names = Names::of(state);
    let subject = names.told(&text(event, "subject"));
    let second = vec![
        looks.strong(short_type(event)),
        Span::raw(format!("  {subject}")),
        dim("  by "),
        Span::raw(names.who(event)),
        dim(&because),
    ];
    frame.render_widget(Paragraph::new(vec![first.into(), second.into()]), area);
}

/// To the millisecond.
fn instant(text: &str) -> String {
    match chrono::DateTime::parse_from_rfc3339(text) {
        Ok(at) => at.to_utc().format("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        Err(_) => printable(text, false),
    }
}

fn titled(title: Line<'static>) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title)
}

/// The events around the present one, which stands in the middle.
fn log(frame: &mut Frame<'_>, area: Rect, state: &State, looks: Looks) {
    let block = titled(Line::from(vec![Span::raw(" "), looks.strong("log"), Span::raw(" ")]));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let moment = &state.moment;
    let lines = &moment.lines;
    let own = lines.iter().position(|line| line["position"] == moment.position);
    let height = usize::from(inner.height);
    let first = own.unwrap_or(lines.len()).saturating_sub(height / 2);
    let first = first.min(lines.len().saturating_sub(height));
    let stream = text(&moment.event, "subject");
    let mut shown: Vec<Line> = Vec::new();
    let visible: Vec<&Value> = lines.iter().skip(first).take(height).collect();
    let names = Names::of(state);
    let widths = widths(&visible, &names);
    for line in visible {
        let here = line["position"] == moment.position;
        // What belongs to the same stream stands out from what only lies between.
        let same = line["stream_id"] == *stream;
        shown.push(log_line(line, here, same, widths, &names));
    }
    if own.is_none() {
        let text = "the list is a moment behind the log; any step asks again";
        shown.push(Line::from(looks.span(text, Paint::Yellow)));
    }
    frame.render_widget(Paragraph::new(shown), inner);
}

/// How wide the types and the actors of the shown lines are, within reason.
fn widths(lines: &[&Value], names: &Names) -> (usize, usize) {
    let widest = |of: &dyn Fn(&Value) -> String, most: usize| {
        let widths = lines.iter().map(|line| of(line).chars().count());
        widths.max().unwrap_or_default().min(most)
    };
    (widest(&|line| text(line, "type"), 22), widest(&|line| names.who(line), 18))
}

fn log_line(
    line: &Value,
    here: bool,
    same: bool,
    (kinds, actors): (usize, usize),
    names: &Names,
) -> Line<'static> {
    let style = if same { Style::new() } else { Style::new().add_modifier(Modifier::DIM) };
    let style = if here { style.add_modifier(Modifier::REVERSED) } else { style };
    let told = format!(
        "{}{:>7} {} {:<kinds$} {:<actors$} {}",
        if here {
            "▶"
        } else if same {
            "•"
        } else {
            " "
        },
        text(line, "position"),
        clock(&printable(&text(line, "occurred_at"), false)),
        short(&printable(&text(line, "type"), false), kinds),
        short(&names.who(line), actors),
        names.told(&text(line, "summary")),
    );
    Line::styled(told, style)
}

/// What the rows at hand are called: ids say nothing to people.
struct Names(Vec<(String, String)>);

impl Names {
    fn of(state: &State) -> Self {
        let rows = state.moment.rows.iter();
        let named = rows.filter(|row| row.id.len() == 36 && row.name() != row.id);
        Self(named.map(|row| (row.id.clone(), row.name())).collect())
    }

    fn told(&self, text: &str) -> String {
        let known = self.0.iter().filter(|(id, _)| text.contains(id.as_str()));
        let told = known.fold(text.to_owned(), |told, (id, name)| told.replace(id, name));
        printable(&told, false)
    }

    /// Who asked. Ids of one minute begin alike, so of an unknown agent's the end is shown.
    fn who(&self, line: &Value) -> String {
        let actor = self.told(&text(line, "actor"));
        match actor.strip_prefix("agent:") {
            Some(id) if id.len() == 36 && id.is_ascii() => format!("agent …{}", &id[28..]),
            Some(name) => format!("agent {name}"),
            None => actor,
        }
    }
}

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// The event or one of its rows.
fn pane(frame: &mut Frame<'_>, area: Rect, state: &mut State, looks: Looks) {
    let block = titled(tabs(state, looks));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let row = state.tab.checked_sub(1).and_then(|index| state.moment.rows.get(index));
    let width = usize::from(inner.width);
    let lines = match row {
        Some(row) => row_lines(row, state, width, looks),
        None => event_lines(&state.moment.event, width, looks),
    };
    let most = lines.len().saturating_sub(usize::from(inner.height));
    state.scroll = state.scroll.min(u16::try_from(most).unwrap_or(u16::MAX));
    frame.render_widget(Paragraph::new(lines).scroll((state.scroll, 0)), inner);
}

fn tabs(state: &State, looks: Looks) -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    let names = std::iter::once(("event".to_owned(), false)).chain(
        state.moment.rows.iter().map(|row| (format!("{} {}", row.kind, row.name()), changed(row))),
    );
    for (index, (name, changed)) in names.enumerate() {
        let name = format!(" {}{} ", short(&name, 26), if changed { " *" } else { "" });
        spans.push(if index == state.tab {
            Span::styled(name, Style::new().add_modifier(Modifier::REVERSED))
        } else {
            looks.span(name, Paint::Plain)
        });
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

fn changed(row: &RowAt) -> bool {
    row.problem.is_none() && row.before != row.after
}

fn row_lines(row: &RowAt, state: &State, width: usize, looks: Looks) -> Vec<Line<'static>> {
    if let Some(problem) = &row.problem {
        return vec![Line::from(looks.span(printable(problem, false), Paint::Red))];
    }
    let position = state.moment.position;
    let said = match (&row.before, &row.after) {
        (None, None) => format!("there is no such {} at {position}", row.kind),
        (None, Some(_)) => format!("it came to be with {position}"),
        (Some(_), None) => format!("it is gone with {position}"),
        (Some(before), Some(after)) if before == after => {
            format!("{position} left it as it was")
        }
        (Some(_), Some(_)) => format!("before → after {position}"),
    };
    let mut lines = vec![Line::from(looks.span(said, Paint::Dim))];
    let fields = row.fields();
    let wanted = fields.iter().filter(|f| !state.changed_only || f.change != Change::Same);
    // Of a row that is new every field is: the marks would say nothing.
    let whole = row.before.is_none() || row.after.is_none();
    for field in wanted {
        lines.extend(field_lines(field, whole, width, looks));
    }
    lines
}

fn field_lines(field: &Field, whole: bool, width: usize, looks: Looks) -> Vec<Line<'static>> {
    let name = format!("{:<NAME$} ", short(&field.name, NAME));
    let room = width.saturating_sub(NAME + 3);
    let named = |mark: &str, name: String, value: Vec<Span<'static>>, strong: bool| {
        let name = if strong { looks.strong(name) } else { looks.span(name, Paint::Dim) };
        let mut spans = vec![Span::raw(format!("{mark} ")), name];
        spans.extend(value);
        Line::from(spans)
    };
    match field.change {
        Change::Same => {
            let value = looks.span(short(&field.after, room), Paint::Dim);
            vec![named(" ", name, vec![value], false)]
        }
        Change::Appeared => {
            let paint = if whole { Paint::Plain } else { Paint::Green };
            let value = looks.span(short(&field.after, room), paint);
            vec![named("+", name, vec![value], !whole)]
        }
        Change::Gone => {
            let value = looks.span(short(&field.before, room), Paint::Red);
            vec![named("-", name, vec![value], true)]
        }
        Change::Changed if field.usual => {
            let value = looks.span(short(&field.after, room), Paint::Dim);
            vec![named("~", name, vec![value], false)]
        }
        Change::Changed => {
            let both = field.before.chars().count() + field.after.chars().count() + 3;
            if both <= room {
                let value = vec![
                    looks.span(field.before.clone(), Paint::Red),
                    Span::raw(" → "),
                    looks.span(field.after.clone(), Paint::Green),
                ];
                return vec![named("~", name, value, true)];
            }
            let blank = format!("{:<NAME$} ", "");
            let before = looks.span(short(&field.before, room), Paint::Red);
            let after = looks.span(short(&field.after, room.saturating_sub(2)), Paint::Green);
            vec![
                named("~", name, vec![before], true),
                named(" ", blank, vec![Span::raw("→ "), after], true),
            ]
        }
    }
}

/// What the event says, then its envelope.
fn event_lines(event: &Value, width: usize, looks: Looks) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut put = |name: &str, value: &Value, paint: Paint| {
        let value = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                value.to_string()
            }
        };
        // Long values go on below: here is the place where all of it is shown.
        let value: Vec<char> = printable(&value, false).chars().collect();
        let room = width.saturating_sub(NAME + 3).max(10);
        for (index, part) in value.chunks(room).enumerate() {
            let name = if index == 0 { short(name, NAME) } else { String::new() };
            lines.push(Line::from(vec![
                looks.span(format!("  {name:<NAME$} "), Paint::Dim),
                looks.span(part.iter().collect::<String>(), paint),
            ]));
        }
    };
    for (name, value) in event["data"].as_object().into_iter().flatten() {
        put(name, value, Paint::Plain);
    }
    for (name, value) in event.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "data" | "specversion" | "datacontenttype") {
            put(name, value, Paint::Dim);
        }
    }
    lines
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State, looks: Looks) {
    let line = match (&state.typing, &state.note) {
        (Some(typing), _) => {
            let ask = match typing {
                Typing::Place => "position or instant: ",
                Typing::Search => "/",
                Typing::Row => "row (task TASK-7, agent ada; empty for none): ",
            };
            Line::from(vec![
                looks.strong(ask),
                Span::raw(printable(&state.typed, false)),
                Span::raw("▏"),
            ])
        }
        (None, Note::Failed(why)) => Line::from(looks.span(printable(why, false), Paint::Red)),
        (None, Note::Asking(what)) => Line::from(looks.span(printable(what, false), Paint::Cyan)),
        (None, Note::None) => {
            let keys = [
                ("← →", "step"),
                ("s t a", "alike"),
                ("b", "cause"),
                ("g", "go"),
                ("/", "search"),
                ("tab", "row"),
                ("?", "help"),
                ("q", "quit"),
            ];
            let mut spans = Vec::new();
            for (key, what) in keys {
                spans.push(looks.strong(key));
                spans.push(looks.span(format!(" {what}  "), Paint::Dim));
            }
            Line::from(spans)
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn help() -> Vec<Line<'static>> {
    [
        "← → h l         one event back, on; page up, page down: ten; home, end",
        "s t a           to the next event of this stream, type, actor",
        "S T A           to the one before",
        "b               back to what caused it",
        "g :             go to a position or an instant (2026-01-31T12:00:00Z)",
        "/ n N           search events for a text; again, again backwards",
        "tab shift-tab   another row; the event itself is the first tab",
        "w               keep a row in view: task TASK-7, agent ada, queue default",
        "c               changed fields alone, or all",
        "↑ ↓ j k         scroll; esc stops a search; q, ctrl-c end",
        "",
        "▶ this event  • same stream  * changed  ~ changed  + new  - gone",
    ]
    .map(Line::from)
    .to_vec()
}
