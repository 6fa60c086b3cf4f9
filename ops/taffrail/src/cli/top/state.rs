//! What `top` is at: where one looks, what is chosen, what is asked. Pure: keys and looks
//! come in, wishes come out.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::model::{Look, items, shown};

/// The lists of the first screen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    Queues,
    Agents,
    Operations,
}

impl Pane {
    /// From top to bottom.
    pub const ALL: [Self; 3] = [Self::Queues, Self::Agents, Self::Operations];
}

/// A place below the first screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A queue's tasks.
    Queue(String),
    /// An agent's tasks.
    Agent { id: String, name: String },
    /// A task with what it waits for.
    Task { id: String, number: String },
    /// An operation.
    Operation { id: String, kind: String },
}

impl Place {
    /// As the trail names it.
    pub fn title(&self) -> String {
        match self {
            Self::Queue(name) => format!("queue {name}"),
            Self::Agent { name, .. } => format!("agent {name}"),
            Self::Task { number, .. } => number.clone(),
            Self::Operation { kind, .. } => kind.clone(),
        }
    }

    /// Whether it is a list to choose from.
    pub fn is_list(&self) -> bool {
        matches!(self, Self::Queue(_) | Self::Agent { .. })
    }
}

/// What a place shows.
#[derive(Debug, Clone)]
pub struct Detail {
    pub place: Place,
    /// The list, or the thing itself.
    pub main: Value,
    /// A task's reasons.
    pub more: Value,
}

/// Something to be agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub queue: String,
    /// `pause` or `resume`.
    pub command: &'static str,
}

/// What a key asks the outside for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Quit,
    /// Another place is shown: ask for it now.
    Look,
    Change(Change),
}

/// What stands below the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Note {
    #[default]
    None,
    /// Something was done.
    Done(String),
    /// The server did not answer, and what to do about it.
    Away { problem: String, again: Duration },
    /// The server said no.
    Refused(String),
}

/// All of it.
#[derive(Debug, Default)]
pub struct State {
    /// The server's address.
    pub server: String,
    /// The last look; none before the first answer.
    pub look: Option<Look>,
    pub pane: Pane,
    /// The chosen line of each pane, by its name: lines come and go.
    pub chosen: [Option<String>; 3],
    /// From the first screen down.
    pub trail: Vec<Place>,
    /// The chosen line of the list at the trail's end.
    pub task: Option<String>,
    pub detail: Option<Detail>,
    /// Only lines with this text are shown.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub help: bool,
    pub ask: Option<Change>,
    pub note: Note,
    /// How far a long text is scrolled.
    pub scroll: u16,
}

impl State {
    /// A look came in.
    pub fn looked(&mut self, look: Look) {
        self.look = Some(look);
        if matches!(self.note, Note::Away { .. }) {
            self.note = Note::None;
        }
    }

    /// What the trail's end shows came in; late answers about another place are dropped.
    pub fn detailed(&mut self, detail: Detail) {
        if self.trail.last() == Some(&detail.place) {
            self.detail = Some(detail);
        }
    }

    /// The lines of a pane that the filter lets through, each with its name.
    pub fn lines(&self, pane: Pane) -> Vec<(usize, String)> {
        let Some(look) = &self.look else { return Vec::new() };
        let named: Vec<(String, String)> = match pane {
            Pane::Queues => look
                .queues
                .iter()
                .map(|q| (q.name.clone(), format!("{} {}", q.name, q.state)))
                .collect(),
            Pane::Agents => look
                .agents
                .iter()
                .map(|a| (a.id.clone(), format!("{} {} {}", a.name, a.state, a.tasks.join(" "))))
                .collect(),
            Pane::Operations => look
                .operations
                .iter()
                .map(|o| (o.id.clone(), format!("{} {} {}", o.kind, o.state, o.resource)))
                .collect(),
        };
        let passing = named.into_iter().enumerate().filter(|(_, (_, text))| self.passes(text));
        passing.map(|(index, (name, _))| (index, name)).collect()
    }

    /// The tasks of the list at the trail's end that the filter lets through.
    pub fn tasks(&self) -> Vec<&Value> {
        let Some(detail) = self.detail.as_ref().filter(|d| Some(&d.place) == self.trail.last())
        else {
            return Vec::new();
        };
        let text = |task: &Value| {
            ["number", "id", "state", "priority", "title", "type"].map(|f| shown(task, f)).join(" ")
        };
        items(&detail.main).filter(|task| self.passes(&text(task))).collect()
    }

    fn passes(&self, text: &str) -> bool {
        self.filter.is_empty() || text.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Where the chosen line of a pane stands among its lines.
    pub fn chosen_at(&self, pane: Pane) -> Option<usize> {
        let lines = self.lines(pane);
        at(
            &lines.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
            &self.chosen[pane as usize],
        )
    }

    /// Where the chosen task stands in the list at the trail's end.
    pub fn task_at(&self) -> Option<usize> {
        let ids: Vec<_> =
            self.tasks().iter().map(|task| task["id"].as_str().unwrap_or_default()).collect();
        at(&ids, &self.task)
    }

    /// A key was pressed.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]
    pub fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Wish::Quit);
        }
        if self.typing {
            self.type_filter(key.code);
            return None;
        }
        if let Some(change) = self.ask.take() {
            let agreed = matches!(key.code, KeyCode::Char('y' | 'Y') | KeyCode::Enter);
            return agreed.then_some(Wish::Change(change));
        }
        if self.help {
            self.help = false;
            return None;
        }
        self.note = match std::mem::take(&mut self.note) {
            Note::Done(_) | Note::Refused(_) | Note::None => Note::None,
            away @ Note::Away { .. } => away,
        };
        match key.code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p') => self.ask = self.change(),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(2),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::PageUp => self.move_by(-10),
            KeyCode::PageDown => self.move_by(10),
            KeyCode::Home | KeyCode::Char('g') => self.move_by(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.move_by(isize::MAX),
            KeyCode::Enter | KeyCode::Right => return self.deeper(),
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => return self.back(),
            _ => {}
        }
        None
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys are no text")]
    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    /// To another pane of the first screen.
    fn turn(&mut self, by: usize) {
        if self.trail.is_empty() {
            let at = (self.pane as usize + by) % Pane::ALL.len();
            self.pane = Pane::ALL[at];
        }
    }

    fn move_by(&mut self, by: isize) {
        let to = |at: Option<usize>, length: usize| match at {
            Some(at) => at.saturating_add_signed(by).min(length.saturating_sub(1)),
            None => 0,
        };
        match self.trail.last() {
            None => {
                let lines = self.lines(self.pane);
                let at = to(self.chosen_at(self.pane), lines.len());
                self.chosen[self.pane as usize] = lines.get(at).map(|(_, name)| name.clone());
            }
            Some(place) if place.is_list() => {
                let tasks = self.tasks();
                let at = to(self.task_at(), tasks.len());
                self.task = tasks.get(at).and_then(|task| task["id"].as_str()).map(str::to_owned);
            }
            Some(_) => {
                let by = i16::try_from(by).unwrap_or(if by < 0 { i16::MIN } else { 500 });
                self.scroll = self.scroll.saturating_add_signed(by).min(500);
            }
        }
    }

    fn deeper(&mut self) -> Option<Wish> {
        let next = match self.trail.last() {
            None => self.chosen_place()?,
            Some(place) if place.is_list() => {
                let tasks = self.tasks();
                let task = tasks.get(self.task_at()?)?;
                Place::Task { id: task["id"].as_str()?.to_owned(), number: shown(task, "number") }
            }
            Some(_) => return None,
        };
        self.trail.push(next);
        self.arrive(None)
    }

    fn chosen_place(&self) -> Option<Place> {
        let look = self.look.as_ref()?;
        let (index, _) = self.lines(self.pane).get(self.chosen_at(self.pane)?)?.clone();
        Some(match self.pane {
            Pane::Queues => Place::Queue(look.queues.get(index)?.name.clone()),
            Pane::Agents => {
                let agent = look.agents.get(index)?;
                Place::Agent { id: agent.id.clone(), name: agent.name.clone() }
            }
            Pane::Operations => {
                let operation = look.operations.get(index)?;
                Place::Operation { id: operation.id.clone(), kind: operation.kind.clone() }
            }
        })
    }

    /// First the filter goes, then the place.
    fn back(&mut self) -> Option<Wish> {
        if !self.filter.is_empty() {
            self.filter.clear();
            return None;
        }
        let left = self.trail.pop()?;
        let task = match left {
            Place::Task { id, .. } => Some(id),
            Place::Queue(_) | Place::Agent { .. } | Place::Operation { .. } => None,
        };
        self.arrive(task)
    }

    /// At the trail's end, which is another one now.
    fn arrive(&mut self, task: Option<String>) -> Option<Wish> {
        (self.task, self.detail, self.scroll) = (task, None, 0);
        self.filter.clear();
        Some(Wish::Look)
    }

    /// What `p` would do to the queue that is chosen or looked into.
    fn change(&self) -> Option<Change> {
        let look = self.look.as_ref()?;
        let queue = match self.trail.first() {
            Some(Place::Queue(name)) => look.queues.iter().find(|queue| queue.name == *name)?,
            None if self.pane == Pane::Queues => {
                let (index, _) =
                    self.lines(Pane::Queues).get(self.chosen_at(Pane::Queues)?)?.clone();
                look.queues.get(index)?
            }
            Some(_) | None => return None,
        };
        let command = if queue.state == "active" { "pause" } else { "resume" };
        Some(Change { queue: queue.name.clone(), command })
    }
}

/// Where a name stands; the first line when it is gone or was never chosen.
fn at(names: &[&str], chosen: &Option<String>) -> Option<usize> {
    let found = chosen.as_ref().and_then(|chosen| names.iter().position(|name| name == chosen));
    found.or((!names.is_empty()).then_some(0))
}
