//! The screen. Pure: the same state gives the same characters; 80 columns by 24 lines are
//! enough, and what is wider shows more.
//!
//! Colours are the terminal's own and mean a state, never decoration; where none are wanted,
//! words and reversed lines say the same.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::super::table::Paint;
use super::lists::{heights, overview, tasks};
use super::model::{Look, percentile, rate, short};
use super::state::{Note, Pane, Place, State};
use super::thing;

/// How the screen is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looks {
    /// Whether colours are wanted.
    pub colour: bool,
    /// For scripts: nothing that speaks of keys.
    pub plain: bool,
}

impl Looks {
    /// A paint of the command line's as a style.
    pub fn style(self, paint: Paint) -> Style {
        let colour = |colour| if self.colour { Style::new().fg(colour) } else { Style::new() };
        match paint {
            Paint::Plain => Style::new(),
            Paint::Dim => Style::new().add_modifier(Modifier::DIM),
            Paint::Green => colour(Color::Green),
            Paint::Cyan => colour(Color::Cyan),
            Paint::Yellow => colour(Color::Yellow),
            Paint::Red => colour(Color::Red),
        }
    }

    /// A text in a paint.
    pub fn span(self, text: impl Into<String>, paint: Paint) -> Span<'static> {
        Span::styled(text.into(), self.style(paint))
    }

    /// A word that stands out without a colour.
    pub fn strong(self, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), Style::new().add_modifier(Modifier::BOLD))
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, state: &State, looks: Looks) {
    let foot = u16::from(!looks.plain);
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(foot)])
            .areas(frame.area());
    header(frame, head, state, looks);
    match (&state.look, state.trail.last()) {
        (None, _) => waiting(frame, body, state, looks),
        (Some(look), None) => overview(frame, body, state, look, looks),
        (Some(look), Some(place)) => below(frame, body, state, look, place, looks),
    }
    if !looks.plain {
        footer(frame, foot, state, looks);
    }
    if let Some(change) = &state.ask {
        let text = format!("{} queue {}?", change.command, change.queue);
        popup(frame, " sure? ", vec![text.into(), "".into(), "y yes   any other key no".into()]);
    } else if state.help {
        popup(frame, " keys ", help());
    }
}

/// How many lines show all there is, for a frame that nobody scrolls.
pub fn full_height(state: &State) -> u16 {
    let Some(_) = &state.look else { return 4 };
    let lists = Pane::ALL.map(|pane| heights::wanted(state.lines(pane).len()));
    lists.iter().fold(2, |sum: u16, height| sum.saturating_add(*height))
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, looks: Looks) {
    let Some(look) = &state.look else {
        let line = Line::from(vec![
            looks.strong("taffrail top"),
            Span::raw(format!("  {}", state.server)),
        ]);
        frame.render_widget(Paragraph::new(line), area);
        return;
    };
    let dim = |text: &str| looks.span(text, Paint::Dim);
    // The address last: it is what may be cut.
    let mut first = vec![
        looks.strong("taffrail top"),
        Span::raw(look.now.format("  %H:%M:%SZ").to_string()),
        dim("  position "),
        Span::raw(look.position.to_string()),
    ];
    first.extend(slots(look, looks));
    first.push(Span::raw(format!("  {}", state.server)));
    let second = vec![
        dim("in/s "),
        Span::raw(format!("{:<6}", rate(look.rates.0))),
        dim("out/s "),
        Span::raw(format!("{:<6}", rate(look.rates.1))),
        dim("wait p50 "),
        Span::raw(format!("{:<6}", percentile(look.wait, |l| l.p50))),
        dim("p99 "),
        Span::raw(format!("{:<6}", percentile(look.wait, |l| l.p99))),
        dim("run p50 "),
        Span::raw(format!("{:<6}", percentile(look.run, |l| l.p50))),
        dim("p99 "),
        Span::raw(format!("{:<6}", percentile(look.run, |l| l.p99))),
    ];
    frame.render_widget(Paragraph::new(vec![first.into(), second.into()]), area);
}

/// How much of the fleet is at work.
fn slots(look: &Look, looks: Looks) -> [Span<'static>; 2] {
    let up = |state: &str| !matches!(state, "offline" | "retired" | "failed" | "force_stopped");
    let there: Vec<_> = look.agents.iter().filter(|agent| up(&agent.state)).collect();
    let taken: usize = there.iter().map(|agent| agent.tasks.len()).sum();
    let slots: u64 = there.iter().map(|agent| agent.slots).sum();
    [looks.span("  slots ", Paint::Dim), Span::raw(format!("{taken}/{}", short(slots)))]
}

/// Before the first answer.
fn waiting(frame: &mut Frame<'_>, area: Rect, state: &State, looks: Looks) {
    let line = match &state.note {
        Note::Away { .. } => Line::default(),
        Note::None | Note::Done(_) | Note::Refused(_) => {
            Line::from(looks.span(format!("asking {} …", state.server), Paint::Dim))
        }
    };
    frame.render_widget(Paragraph::new(vec![Line::default(), line]), area);
}

/// A place below the first screen.
fn below(
    frame: &mut Frame<'_>,
    area: Rect,
    state: &State,
    look: &Look,
    place: &Place,
    looks: Looks,
) {
    let trail: Vec<String> = state.trail.iter().map(Place::title).collect();
    let block = Block::new().borders(ratatui::widgets::Borders::TOP).title(Line::from(vec![
        Span::raw(" "),
        looks.strong(trail.join(" › ")),
        Span::raw(" "),
    ]));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(detail) = state.detail.as_ref().filter(|detail| detail.place == *place) else {
        let line = Line::from(looks.span("asking …", Paint::Dim));
        frame.render_widget(Paragraph::new(line), inner);
        return;
    };
    match place {
        Place::Queue(name) => {
            let queue = look.queues.iter().find(|queue| queue.name == *name);
            let words =
                queue.map(|queue| thing::queue(queue, &detail.more, looks)).unwrap_or_default();
            let top = u16::try_from(words.len()).unwrap_or(0);
            let [top, rest] =
                Layout::vertical([Constraint::Length(top), Constraint::Min(0)]).areas(inner);
            frame.render_widget(Paragraph::new(words), top);
            tasks(frame, rest, state, look, looks);
        }
        Place::Agent { .. } => tasks(frame, inner, state, look, looks),
        Place::Task { .. } => text(frame, inner, state, thing::task(detail, look, looks)),
        Place::Operation { .. } => text(frame, inner, state, thing::operation(detail, looks)),
    }
}

fn text(frame: &mut Frame<'_>, area: Rect, state: &State, lines: Vec<Line<'static>>) {
    let most = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(1);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((state.scroll.min(most), 0));
    frame.render_widget(text, area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State, looks: Looks) {
    let line = if state.typing {
        Line::from(vec![looks.strong("/"), Span::raw(format!("{}▏", state.filter))])
    } else {
        match &state.note {
            Note::Away { problem, again } => {
                let text = format!("{problem} — again in {} s", again.as_secs());
                Line::from(looks.span(text, Paint::Red))
            }
            Note::Refused(problem) => Line::from(looks.span(problem.clone(), Paint::Red)),
            Note::Done(what) => Line::from(looks.span(what.clone(), Paint::Green)),
            Note::None => keys(state, looks),
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// The keys that mean something here.
fn keys(state: &State, looks: Looks) -> Line<'static> {
    let mut keys: Vec<(&str, &str)> = match state.trail.last() {
        None => vec![("tab", "pane"), ("↑↓", "choose"), ("enter", "open")],
        Some(place) if place.is_list() => {
            vec![("↑↓", "choose"), ("enter", "open"), ("esc", "back")]
        }
        Some(_) => vec![("↑↓", "scroll"), ("esc", "back")],
    };
    let on_queue = match state.trail.first() {
        None => state.pane == Pane::Queues,
        Some(place) => matches!(place, Place::Queue(_)),
    };
    if on_queue {
        keys.push(("p", "pause/resume"));
    }
    keys.extend([("/", "filter"), ("?", "help"), ("q", "quit")]);
    let mut spans = Vec::new();
    if !state.filter.is_empty() {
        spans.push(looks.span(format!("/{}  ", state.filter), Paint::Yellow));
    }
    for (key, what) in keys {
        spans.push(looks.strong(key));
        spans.push(looks.span(format!(" {what}  "), Paint::Dim));
    }
    Line::from(spans)
}

fn help() -> Vec<Line<'static>> {
    [
        "tab, shift-tab   to another list",
        "↑ ↓ j k          another line; page up, page down, home, end too",
        "enter →          into it: a queue's or an agent's tasks, a task's why",
        "esc ←            back; clears the filter first",
        "p                pauses the chosen queue or resumes it, after a question",
        "/                shows only lines with a text; esc ends it",
        "?                this",
        "q, ctrl-c        the end",
        "",
        "WAIT nobody has them, of these TIMED for a time and DEPS for other tasks;",
        "HELD agents have them; OLDEST waits so long; IN/S OUT/S over 10 seconds;",
        "C/H/N/L/B waiting by priority, critical to background.",
    ]
    .map(Line::from)
    .to_vec()
}

/// A box in the middle, no larger than the screen.
pub fn popup(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let widest = lines.iter().map(Line::width).max().unwrap_or_default();
    let width = u16::try_from(widest + 4).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let (x, y) = ((area.width - width) / 2, (area.height - height) / 2);
    let place = Rect { x, y, width, height };
    frame.render_widget(Clear, place);
    let block =
        Block::bordered().title(title.to_owned()).padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(lines).block(block), place);
}
