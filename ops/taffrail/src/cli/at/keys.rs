//! What the keys mean.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::fetch::Direction::{Back, Forward};
use super::state::{Note, State, Typing, Wish};

impl State {
    /// A key was pressed.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]
    pub fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Wish::Quit);
        }
        if self.typing.is_some() {
            return self.type_key(key.code);
        }
        if self.help {
            self.help = false;
            return None;
        }
        if matches!(self.note, Note::Failed(_)) {
            self.note = Note::None;
        }
        let head = self.moment.head;
        match key.code {
            KeyCode::Char('q') => Some(Wish::Quit),
            KeyCode::Esc if self.is_busy() => {
                (self.note, self.going) = (Note::None, None);
                Some(Wish::Stop)
            }
            KeyCode::Left | KeyCode::Char('h') => self.step(-1),
            KeyCode::Right | KeyCode::Char('l') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown => self.step(10),
            KeyCode::Home => Some(Wish::Go(1)),
            KeyCode::End => Some(Wish::Go(head.max(1))),
            KeyCode::Char('s') => self.jump("stream", Forward),
            KeyCode::Char('S') => self.jump("stream", Back),
            KeyCode::Char('t') => self.jump("type", Forward),
            KeyCode::Char('T') => self.jump("type", Back),
            KeyCode::Char('a') => self.jump("actor", Forward),
            KeyCode::Char('A') => self.jump("actor", Back),
            KeyCode::Char('b') => self.cause(),
            KeyCode::Char('n') if !self.searched.is_empty() => {
                Some(Wish::Search(self.searched.clone(), Forward))
            }
            KeyCode::Char('N') if !self.searched.is_empty() => {
                Some(Wish::Search(self.searched.clone(), Back))
            }
            KeyCode::Char('g' | ':') => self.types(Typing::Place),
            KeyCode::Char('/') => self.types(Typing::Search),
            KeyCode::Char('w') => self.types(Typing::Row),
            KeyCode::Char('c') => {
                (self.changed_only, self.scroll) = (!self.changed_only, 0);
                None
            }
            KeyCode::Tab => {
                self.turn(1);
                None
            }
            KeyCode::BackTab => {
                let tabs = self.moment.rows.len();
                self.turn(tabs);
                None
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.scroll = self.scroll.saturating_sub(1);
                None
            }
            KeyCode::Down | KeyCode::Char('j') => {
                self.scroll = self.scroll.saturating_add(1);
                None
            }
            KeyCode::Char('?') => {
                self.help = true;
                None
            }
            _ => None,
        }
    }

    fn types(&mut self, what: Typing) -> Option<Wish> {
        self.typed.clear();
        self.typing = Some(what);
        None
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys are no text")]
    fn type_key(&mut self, code: KeyCode) -> Option<Wish> {
        match code {
            KeyCode::Enter => return self.entered(),
            KeyCode::Esc => {
                self.typing = None;
                self.typed.clear();
            }
            KeyCode::Backspace => {
                self.typed.pop();
            }
            // More than any position, instant or name has.
            KeyCode::Char(c) if self.typed.chars().count() < 200 => self.typed.push(c),
            _ => {}
        }
        None
    }
}
