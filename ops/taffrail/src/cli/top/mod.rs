//! `taffrail top`: what goes on, live.

pub(super) mod draw;
mod fetch;
mod lists;
mod model;
pub(super) mod screen;
mod state;
#[cfg(test)]
mod tests;
mod thing;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use client::{Client, Error};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use self::draw::{Looks, draw, full_height};
use self::model::{Answers, Look, Rates};
use self::screen::{Input, Screen};
use self::state::{Change, Detail, Note, State, Wish};
use super::App;
use super::fail::Failure;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// First and longest wait for a server that does not answer.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Columns of a plain frame where the terminal does not say.
const PLAIN_WIDTH: u16 = 120;

/// `taffrail top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one frame as plain text and end; so it is, too, where stdout is no terminal
    #[arg(long)]
    once: bool,
}

/// Does it.
pub async fn run(app: &App, args: TopArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let watched = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || !watched || !app.out.is_human() {
        return once(app, &client).await;
    }
    // What no waiting mends is said at once, on a terminal that is still the shell's.
    if let Err(error) = client.queues(&[]).await
        && !error.retryable()
    {
        return Err(error.into());
    }
    live(app, client).await
}

/// One frame: two looks a second apart, so that the rates are those of now.
async fn once(app: &App, client: &Client) -> Result<(), Failure> {
    if !app.out.is_human() {
        let Answers { queues, agents, operations, metrics, .. } = fetch::answers(client).await?;
        let agents: Vec<_> = agents.iter().flat_map(model::items).collect();
        return app.out.document(&serde_json::json!({
            "position": queues["position"],
            "queues": queues["items"],
            "agents": agents,
            "operations": operations["items"],
            "metrics": metrics,
        }));
    }
    let mut rates = Rates::default();
    rates.tell(&mut fetch::look(client).await?, Instant::now());
    sleep(EVERY).await;
    let mut look = fetch::look(client).await?;
    rates.tell(&mut look, Instant::now());
    let mut state = State { server: server(client), ..State::default() };
    state.looked(look);
    app.out.text(&frame(&state, app.out.width().unwrap_or(PLAIN_WIDTH)))
}

/// The first screen as text, every line of every list.
fn frame(state: &State, width: u16) -> String {
    let size = TestBackend::new(width, full_height(state));
    let looks = Looks { colour: false, plain: true };
    // Writing into memory cannot fail.
    let Ok(mut terminal) = Terminal::new(size);
    let Ok(_) = terminal.draw(|frame| draw(frame, state, looks));
    text(&terminal)
}

/// What stands on a screen in memory.
fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for line in buffer.content().chunks(usize::from(buffer.area.width).max(1)) {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn server(client: &Client) -> String {
    client.base().trim_end_matches('/').to_owned()
}

/// What comes back from the server.
enum News {
    Look(Result<Look, Error>),
    Detail(Result<Detail, Error>),
    Changed(Change, Result<(), Error>),
}

/// The screen until somebody quits.
async fn live(app: &App, client: Client) -> Result<(), Failure> {
    let mut screen = Screen::open()?;
    let looks = Looks { colour: app.out.colour, plain: false };
    let mut state = State { server: server(&client), ..State::default() };
    let mut asking = Asking::new(client);
    let mut tick = interval(EVERY);
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|source| Failure::Io { what: "cannot hear SIGTERM".into(), source })?;
    loop {
        let drawn = screen.terminal.draw(|frame| draw(frame, &state, looks));
        drawn.map_err(Failure::writing)?;
        tokio::select! {
            input = screen.inputs.recv() => match input {
                Some(Input::Key(key)) => match state.key(key) {
                    Some(Wish::Quit) => return Ok(()),
                    Some(Wish::Look) => asking.detail(&state),
                    Some(Wish::Change(change)) => asking.change(change),
                    None => {}
                },
                Some(Input::Resized) => {}
                None => return Ok(()),
            },
            Some(news) = asking.news.recv() => asking.hear(app, &mut state, news),
            _ = tick.tick() => asking.tick(&state),
            _ = end.recv() => return Ok(()),
        }
    }
}

/// Asks in the background, one look at a time.
struct Asking {
    client: Client,
    news: mpsc::Receiver<News>,
    teller: mpsc::Sender<News>,
    rates: Rates,
    looking: bool,
    /// The server does not answer: not before this time, and how long the next wait is.
    again: Option<(Instant, Duration)>,
}

impl Asking {
    fn new(client: Client) -> Self {
        let (teller, news) = mpsc::channel(16);
        Self { client, news, teller, rates: Rates::default(), looking: false, again: None }
    }

    fn tick(&mut self, state: &State) {
        if self.looking || self.again.is_some_and(|(at, _)| Instant::now() < at) {
            return;
        }
        self.looking = true;
        let (client, teller) = (self.client.clone(), self.teller.clone());
        tokio::spawn(async move { teller.send(News::Look(fetch::look(&client).await)).await });
        self.detail(state);
    }

    fn detail(&self, state: &State) {
        let Some(place) = state.trail.last().cloned() else { return };
        let (client, teller) = (self.client.clone(), self.teller.clone());
        tokio::spawn(async move {
            teller.send(News::Detail(fetch::detail(&client, &place).await)).await
        });
    }

    fn change(&self, change: Change) {
        let (client, teller) = (self.client.clone(), self.teller.clone());
        tokio::spawn(async move {
            let done = fetch::change(&client, &change.queue, change.command).await.map(drop);
            teller.send(News::Changed(change, done)).await
        });
    }

    fn hear(&mut self, app: &App, state: &mut State, news: News) {
        match news {
            News::Look(Ok(mut look)) => {
                (self.looking, self.again) = (false, None);
                self.rates.tell(&mut look, Instant::now());
                state.looked(look);
            }
            News::Look(Err(error)) => {
                self.looking = false;
                let wait = self.again.map_or(AGAIN.0, |(_, wait)| (wait * 2).min(AGAIN.1));
                self.again = Some((Instant::now() + wait, wait));
                state.note = Note::Away { problem: advice(&error, &state.server), again: wait };
                // Started anew it may listen elsewhere; the runtime file tells.
                if let Ok(client) = app.client() {
                    state.server = server(&client);
                    self.client = client;
                }
            }
            News::Detail(Ok(detail)) => state.detailed(detail),
            // The look that runs beside it says what is wrong with the server.
            News::Detail(Err(error)) if error.retryable() => {}
            News::Detail(Err(error)) => state.note = Note::Refused(error.to_string()),
            News::Changed(change, Ok(())) => {
                let done = if change.command == "pause" { "paused" } else { "resumed" };
                state.note = Note::Done(format!("queue {} is {done}", change.queue));
            }
            News::Changed(_, Err(error)) => {
                state.note = Note::Refused(advice(&error, &state.server));
            }
        }
    }
}

/// What went wrong, and what to do about it.
fn advice(error: &Error, server: &str) -> String {
    if matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. }) {
        return format!("no answer from {server}: is `taffrail up` running? (--url names another)");
    }
    if matches!(error.status(), Some(401 | 403)) {
        return "the token is not taken: set TAFFRAIL_TOKEN to a valid one".into();
    }
    error.to_string()
}
