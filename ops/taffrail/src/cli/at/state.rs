//! What `at` is at: where one is, which row is shown, what is typed. Pure: keys and answers come
//! in, wishes come out.

use serde_json::Value;

use super::super::human::text;
use super::fetch::Direction;
use super::rows::{Moment, Watched, short_type};

/// What a key asks the outside for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Quit,
    /// What is under way is of no use any more.
    Stop,
    /// To a position.
    Go(u64),
    /// To a position or an instant, as typed.
    GoTo(String),
    Jump(Jump),
    Search(String, Direction),
    /// Another row is to be kept in view, as typed.
    Watch(String),
}

/// To the next event of the same stream, type or actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// `stream`, `type` or `actor`.
    pub by: &'static str,
    pub value: String,
    pub direction: Direction,
}

/// What is being typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typing {
    Place,
    Search,
    Row,
}

/// What stands on the last line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Note {
    #[default]
    None,
    Asking(String),
    Failed(String),
}

/// All of it.
#[derive(Debug, Default)]
pub struct State {
    pub server: String,
    pub moment: Moment,
    pub watched: Option<Watched>,
    /// The event itself, or one of the rows: 0 is the event.
    pub tab: usize,
    /// The kind of row that is looked at: stepping on keeps to it where there is one.
    pub kind: Option<&'static str>,
    /// Fields that did not change are left out.
    pub changed_only: bool,
    pub scroll: u16,
    pub typing: Option<Typing>,
    pub typed: String,
    pub searched: String,
    pub help: bool,
    pub note: Note,
    /// Where one is going: several steps add up while the answer is under way.
    pub going: Option<u64>,
}

impl State {
    /// At a first moment.
    pub fn new(server: String, moment: Moment, watched: Option<Watched>) -> Self {
        let mut state = Self { server, watched, ..Self::default() };
        state.arrived(moment);
        state
    }

    /// A question is on its way.
    pub fn asks(&mut self, wish: &Wish) {
        self.note = match wish {
            Wish::Go(_) => Note::None,
            Wish::GoTo(text) => Note::Asking(format!("going to {text} …")),
            Wish::Jump(Jump { by, .. }) => Note::Asking(format!("looking for this {by} …")),
            Wish::Search(text, _) => Note::Asking(format!("searching for `{text}` …")),
            Wish::Watch(text) => Note::Asking(format!("looking for {text} …")),
            Wish::Quit | Wish::Stop => Note::None,
        };
        if !matches!(wish, Wish::Go(_)) {
            self.going = None;
        }
    }

    /// A moment came in.
    pub fn arrived(&mut self, moment: Moment) {
        let moved = moment.position != self.moment.position;
        self.moment = moment;
        self.going = None;
        self.note = Note::None;
        if moved {
            self.scroll = 0;
        }
        // The row of the kind that one looks at, else the first one.
        let rows = &self.moment.rows;
        let same = self.kind.and_then(|kind| rows.iter().position(|row| row.kind == kind));
        let first = usize::from(!rows.is_empty());
        self.tab = match (self.kind, same) {
            (Some("event"), _) => 0,
            (_, Some(index)) => index + 1,
            (_, None) => first,
        };
    }

    /// It did not work.
    pub fn failed(&mut self, why: String) {
        self.note = Note::Failed(why);
        self.going = None;
    }

    /// A search has come so far.
    pub fn searching(&mut self, at: u64) {
        self.note = Note::Asking(format!(
            "searching for `{}`: at {at} of {}; esc stops",
            self.searched, self.moment.head
        ));
    }

    /// Whether something is under way that can be stopped.
    pub fn is_busy(&self) -> bool {
        matches!(self.note, Note::Asking(_)) || self.going.is_some()
    }

    /// So many events on, within the log.
    pub fn step(&mut self, by: i64) -> Option<Wish> {
        let from = self.going.unwrap_or(self.moment.position);
        let to = from.saturating_add_signed(by).clamp(1, self.moment.head.max(1));
        if to == from && by > 0 {
            // The log may have grown since.
            self.note = Note::Failed("this is the newest event".into());
            return Some(Wish::GoTo((from + 1).to_string()));
        }
        if to == from {
            self.note = Note::Failed("this is the first event".into());
            return None;
        }
        self.going = Some(to);
        Some(Wish::Go(to))
    }

    /// To the next event with the same value as this one.
    pub fn jump(&mut self, by: &'static str, direction: Direction) -> Option<Wish> {
        let event = &self.moment.event;
        let value = match by {
            "stream" => text(event, "subject"),
            "type" => short_type(event),
            _ => text(event, "actor"),
        };
        Some(Wish::Jump(Jump { by, value, direction }))
    }

    /// To what caused this event.
    pub fn cause(&mut self) -> Option<Wish> {
        match cause(&self.moment.event) {
            Some(position) if position < self.moment.position => Some(Wish::Go(position)),
            Some(_) | None => {
                let actor = text(&self.moment.event, "actor");
                self.note = Note::Failed(format!("{actor} asked for it by itself"));
                None
            }
        }
    }

    /// What was typed is done with.
    pub fn entered(&mut self) -> Option<Wish> {
        let typed = std::mem::take(&mut self.typed).trim().to_owned();
        let typing = self.typing.take()?;
        match typing {
            Typing::Row if typed.is_empty() => {
                self.watched = None;
                Some(Wish::Go(self.moment.position))
            }
            _ if typed.is_empty() => None,
            Typing::Place => Some(Wish::GoTo(typed)),
            Typing::Row => Some(Wish::Watch(typed)),
            Typing::Search => {
                self.searched.clone_from(&typed);
                Some(Wish::Search(typed, Direction::Forward))
            }
        }
    }

    /// To another tab.
    pub fn turn(&mut self, by: usize) {
        let tabs = self.moment.rows.len() + 1;
        self.tab = (self.tab + by) % tabs;
        self.kind = Some(match self.tab.checked_sub(1).and_then(|i| self.moment.rows.get(i)) {
            Some(row) => row.kind,
            None => "event",
        });
        self.scroll = 0;
    }
}

/// The position that an event names as its cause.
pub fn cause(event: &Value) -> Option<u64> {
    event["causationid"].as_str()?.parse().ok()
}
