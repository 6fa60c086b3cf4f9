//! The lists: queues, agents, operations, and the tasks of one of them.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};
use serde_json::Value;

use super::super::human::gist;
use super::super::table::{Paint, printable};
use super::draw::Looks;
use super::model::{Agent, Look, Operation, Queue, brief, percentile, rate, short, shown};
use super::state::{Pane, State};

/// From here on there is room for what 80 columns cannot hold.
const WIDE: u16 = 118;

/// How the lists share the screen.
pub mod heights {
    /// Lines of a list with its title and header; an empty one says so.
    pub fn wanted(lines: usize) -> u16 {
        u16::try_from(lines.max(1)).unwrap_or(u16::MAX).saturating_add(2)
    }

    /// What each list gets: a third where it needs that much, the chosen list what is left.
    pub fn shared(total: u16, wanted: [u16; 3], chosen: usize) -> [u16; 3] {
        let mut given = wanted.map(|lines| lines.min(total / 3));
        let order = [chosen, (chosen + 1) % 3, (chosen + 2) % 3];
        for list in order {
            let left = total - given.iter().sum::<u16>();
            given[list] += (wanted[list] - given[list]).min(left);
        }
        given
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn short_lists_leave_their_room_to_the_chosen_one() {
            assert_eq!(shared(21, [3, 3, 3], 0), [3, 3, 3]);
            assert_eq!(shared(21, [40, 40, 40], 1), [7, 7, 7]);
            assert_eq!(shared(21, [40, 4, 40], 2), [7, 4, 10]);
            assert_eq!(shared(21, [40, 4, 3], 1), [14, 4, 3]);
            assert_eq!(shared(2, [9, 9, 9], 0), [2, 0, 0]);
        }
    }
}

/// A column: its title, its width, and whether it holds numbers.
#[derive(Clone, Copy)]
struct Column(&'static str, Constraint, bool);

const fn words(title: &'static str, width: u16) -> Column {
    Column(title, Constraint::Length(width), false)
}

const fn numbers(title: &'static str, width: u16) -> Column {
    Column(title, Constraint::Length(width), true)
}

const fn rest(title: &'static str) -> Column {
    Column(title, Constraint::Fill(1), false)
}

/// A cell's text and its paint.
type Painted = (String, Paint);

fn plain(text: impl Into<String>) -> Painted {
    (text.into(), Paint::Plain)
}

fn state(word: &str) -> Painted {
    (word.to_owned(), Paint::of(word))
}

/// The three lists of the first screen, one below the other.
pub fn overview(frame: &mut Frame<'_>, area: Rect, at: &State, look: &Look, looks: Looks) {
    let lines = Pane::ALL.map(|pane| at.lines(pane));
    let wanted = [0, 1, 2].map(|pane| heights::wanted(lines[pane].len()));
    let given = heights::shared(area.height, wanted, at.pane as usize);
    let areas: [Rect; 3] = Layout::vertical(given.map(Constraint::Length)).areas(area);
    let wide = area.width >= WIDE;
    for (pane, (lines, area)) in Pane::ALL.into_iter().zip(lines.into_iter().zip(areas)) {
        let index = lines.iter().map(|(index, _)| *index);
        let (name, all, columns, rows): (_, _, Vec<Column>, Vec<Vec<Painted>>) = match pane {
            Pane::Queues => {
                let rows = index.filter_map(|index| look.queues.get(index));
                let rows = rows.map(|queue| queue_row(queue, wide)).collect();
                ("Queues", look.queues.len(), queue_columns(wide), rows)
            }
            Pane::Agents => {
                let rows = index.filter_map(|index| look.agents.get(index)).map(agent_row);
                ("Agents", look.agents.len(), agent_columns(), rows.collect())
            }
            Pane::Operations => {
                let rows = index.filter_map(|index| look.operations.get(index)).map(operation_row);
                ("Operations", look.operations.len(), operation_columns(), rows.collect())
            }
        };
        let focused = !looks.plain && at.pane == pane;
        let shown = rows.len();
        let count = if shown == all { all.to_string() } else { format!("{shown} of {all}") };
        let title = format!("{name} {count}");
        let title = if focused { looks.strong(title) } else { Span::raw(title) };
        let title = Line::from(vec![Span::raw(" "), title, Span::raw(" ")]);
        let block = Block::new().borders(Borders::TOP).title(title);
        let chosen = at.chosen_at(pane).filter(|_| focused);
        list(frame, area, block, &columns, rows, chosen, looks);
    }
}

/// The tasks at the trail's end.
pub fn tasks(frame: &mut Frame<'_>, area: Rect, at: &State, look: &Look, looks: Looks) {
    let found = at.tasks();
    let columns = [
        words("TASK", 11),
        words("STATE", 11),
        words("PRIO", 10),
        numbers("TRY", 5),
        numbers("AGE", 5),
        words("AGENT", 12),
        rest("TITLE"),
    ];
    let name = |id: &str| {
        let known = look.agents.iter().find(|agent| agent.id == id);
        known.map(|agent| agent.name.clone()).unwrap_or_default()
    };
    let row = |task: &&Value| {
        vec![
            plain(shown(task, "number")),
            state(&shown(task, "state")),
            state(&shown(task, "priority")),
            plain(format!("{}/{}", shown(task, "attempt"), shown(task, "max_attempts"))),
            plain(age(task, "created_at", look)),
            plain(name(task["agent_id"].as_str().unwrap_or_default())),
            plain(printable(&gist(&task["title"], 200), false)),
        ]
    };
    let rows = found.iter().map(row).collect();
    list(frame, area, Block::new(), &columns, rows, at.task_at(), looks);
}

/// How long ago a time of an answer was when the look was taken.
pub fn age(value: &Value, field: &str, look: &Look) -> String {
    let then =
        value[field].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    let passed = then.map(|then| look.now.signed_duration_since(then).to_std().unwrap_or_default());
    passed.map(brief).unwrap_or_default()
}

fn list(
    frame: &mut Frame<'_>,
    area: Rect,
    block: Block<'_>,
    columns: &[Column],
    rows: Vec<Vec<Painted>>,
    chosen: Option<usize>,
    looks: Looks,
) {
    if rows.is_empty() {
        let none = Paragraph::new(looks.span("none", Paint::Dim)).block(block);
        frame.render_widget(none, area);
        return;
    }
    let aligned = |text: Span<'static>, right: bool| {
        let line = Line::from(text);
        Cell::from(if right { line.right_aligned() } else { line })
    };
    let header = columns
        .iter()
        .map(|Column(title, _, right)| aligned(looks.span(*title, Paint::Dim), *right));
    let row = |cells: Vec<Painted>| {
        let cells = cells.into_iter().zip(columns);
        Row::new(cells.map(|((text, paint), column)| aligned(looks.span(text, paint), column.2)))
    };
    let table = Table::new(rows.into_iter().map(row), columns.iter().map(|column| column.1))
        .header(Row::new(header))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(chosen));
}

fn queue_columns(wide: bool) -> Vec<Column> {
    let mut columns = vec![
        Column("QUEUE", Constraint::Min(12), false),
        words("STATE", 8),
        numbers("WAIT", 5),
        numbers("TIMED", 5),
        numbers("DEPS", 5),
        numbers("HELD", 5),
        numbers("DEAD", 5),
        numbers("OLDEST", 6),
        numbers("IN/S", 5),
        numbers("OUT/S", 5),
    ];
    if wide {
        columns.extend([
            numbers("C/H/N/L/B", 16),
            numbers("W50", 5),
            numbers("W99", 5),
            numbers("R50", 5),
            numbers("R99", 5),
        ]);
    }
    columns
}

/// Nothing instead of a zero: what is there stands out.
fn count(count: u64, paint: Paint) -> Painted {
    if count == 0 { ("·".into(), Paint::Dim) } else { (short(count), paint) }
}

fn queue_row(queue: &Queue, wide: bool) -> Vec<Painted> {
    let unknown = || plain("?");
    let mut cells = vec![
        plain(&queue.name),
        if queue.state == "active" {
            plain("active")
        } else {
            (queue.state.clone(), Paint::Yellow)
        },
        count(queue.waiting, Paint::Plain),
        queue.timed.map_or_else(unknown, |timed| count(timed, Paint::Plain)),
        queue.dependent.map_or_else(unknown, |dependent| count(dependent, Paint::Plain)),
        count(queue.held, Paint::Cyan),
        count(queue.dead, Paint::Red),
        plain(queue.oldest.map_or("·".into(), brief)),
        plain(rate(queue.rates.0)),
        plain(rate(queue.rates.1)),
    ];
    if wide {
        cells.extend([
            plain(queue.by_priority.map(short).join("/")),
            plain(percentile(queue.wait, |l| l.p50)),
            plain(percentile(queue.wait, |l| l.p99)),
            plain(percentile(queue.run, |l| l.p50)),
            plain(percentile(queue.run, |l| l.p99)),
        ]);
    }
    cells
}

fn agent_columns() -> Vec<Column> {
    vec![
        words("AGENT", 20),
        words("STATE", 11),
        numbers("SLOTS", 7),
        numbers("LOAD", 5),
        numbers("BEAT", 5),
        words("TASK", 11),
        rest("TITLE"),
    ]
}

fn agent_row(agent: &Agent) -> Vec<Painted> {
    let more = agent.tasks.len().saturating_sub(1);
    let task = match (agent.tasks.first(), more) {
        (None, _) => String::new(),
        (Some(first), 0) => first.clone(),
        (Some(first), more) => format!("{first} +{more}"),
    };
    vec![
        plain(&agent.name),
        state(&agent.state),
        plain(format!("{}/{}", agent.tasks.len(), short(agent.slots))),
        plain(agent.load.map_or("·".into(), |load| format!("{:.0}%", load * 100.0))),
        plain(agent.silent.map_or("·".into(), brief)),
        plain(task),
        plain(&agent.title),
    ]
}

fn operation_columns() -> Vec<Column> {
    vec![
        words("KIND", 20),
        words("STATE", 10),
        numbers("DONE", 11),
        numbers("AGE", 5),
        words("ON", 20),
        rest("MESSAGE"),
    ]
}

fn operation_row(operation: &Operation) -> Vec<Painted> {
    let done = match (operation.done, operation.total) {
        (0, None) => "·".into(),
        (done, None) => short(done),
        (done, Some(total)) => format!("{}/{}", short(done), short(total)),
    };
    vec![
        plain(&operation.kind),
        state(&operation.state),
        plain(done),
        plain(operation.age.map_or("·".into(), brief)),
        plain(&operation.resource),
        plain(&operation.message),
    ]
}
