//! The terminal: taken over, given back whatever happens, and its keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc;

use super::super::fail::Failure;

/// How long the thread that reads keys may take to notice the end.
const NOTICE: Duration = Duration::from_millis(100);

/// What comes from the terminal.
pub enum Input {
    Key(KeyEvent),
    /// It has another size.
    Resized,
}

/// The terminal while it is ours. Dropped, it is as it was; a panic gives it back before it
/// speaks (ratatui's hook).
pub struct Screen {
    pub terminal: DefaultTerminal,
    pub inputs: mpsc::Receiver<Input>,
    ended: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal over.
    pub fn open() -> Result<Self, Failure> {
        let failed = |source| Failure::Io { what: "cannot take over the terminal".into(), source };
        let terminal = ratatui::try_init().map_err(failed)?;
        let (sender, inputs) = mpsc::channel(64);
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        std::thread::spawn(move || read(&sender, &over));
        Ok(Self { terminal, inputs, ended })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

fn read(sender: &mpsc::Sender<Input>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let input = match event::poll(NOTICE) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let input = match input {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
            Ok(Event::Resize(..)) => Input::Resized,
            Ok(_) => continue,
            // No terminal any more: the receiver sees the channel close.
            Err(_) => return,
        };
        if sender.blocking_send(input).is_err() {
            return;
        }
    }
}
