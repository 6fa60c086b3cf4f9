//! `taffrail at`: the log event by event, with the rows before and after each.

mod draw;
mod fetch;
mod keys;
mod rows;
mod state;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;

use clap::Args;
use client::{Client, Error};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::draw::draw;
use self::fetch::Found;
use self::rows::Moment;
use self::state::{Jump, State, Wish};
use super::App;
use super::fail::Failure;
use super::top::draw::Looks;
use super::top::screen::{Input, Screen};

/// `taffrail at`
#[derive(Debug, Args)]
pub struct AtArgs {
    /// A position, or an instant such as 2026-01-31T12:00:00Z: the last event until then; the
    /// newest event when absent
    #[arg(value_name = "POSITION|TIME", allow_negative_numbers = true)]
    moment: Option<String>,
    /// A row to look at as well, such as `task TASK-7`, `agent ada` or `queue default`
    #[arg(long, value_name = "ROW")]
    row: Option<String>,
}

/// Does it.
pub async fn run(app: &App, args: AtArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let watched = match args.row.as_deref() {
        Some(text) => Some(fetch::watched(&client, text).await?),
        None => None,
    };
    let position = fetch::place(&client, args.moment.as_deref()).await?;
    let moment = fetch::moment(&client, position, watched.as_ref()).await?;
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !terminal || !app.out.is_human() {
        let rows: Vec<_> = moment.rows.iter().map(rows::RowAt::document).collect();
        return app.out.document(&json!({
            "position": moment.position,
            "head": moment.head,
            "event": moment.event,
            "rows": rows,
        }));
    }
    let server = client.base().trim_end_matches('/').to_owned();
    live(app, client, State::new(server, moment, watched)).await
}

/// What comes back from the server, each with the number of the question.
enum News {
    Moment(u64, Result<Box<Moment>, Failure>),
    /// How far a search has come.
    Searching(u64, u64),
    Found(u64, Result<Found, Error>),
    Watched(u64, Result<rows::Watched, Failure>),
}

/// The screen until somebody quits.
async fn live(app: &App, client: Client, mut state: State) -> Result<(), Failure> {
    let mut screen = Screen::open()?;
    let looks = Looks { colour: app.out.colour, plain: false };
    let mut asking = Asking::new(client);
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|source| Failure::Io { what: "cannot hear SIGTERM".into(), source })?;
    loop {
        let drawn = screen.terminal.draw(|frame| draw(frame, &mut state, looks));
        drawn.map_err(Failure::writing)?;
        let wish = tokio::select! {
            input = screen.inputs.recv() => match input {
                Some(Input::Key(key)) => state.key(key),
                Some(Input::Resized) => None,
                None => return Ok(()),
            },
            Some(news) = asking.news.recv() => asking.hear(&mut state, news),
            _ = end.recv() => return Ok(()),
        };
        match wish {
            Some(Wish::Quit) => return Ok(()),
            Some(wish) => asking.ask(&mut state, wish),
            None => {}
        }
    }
}

/// Asks in the background: one question at a time, the newest counts.
struct Asking {
    client: Client,
    news: mpsc::Receiver<News>,
    teller: mpsc::Sender<News>,
    /// The number of the newest question; answers to older ones are dropped.
    number: u64,
    work: Option<JoinHandle<()>>,
}

impl Asking {
    fn new(client: Client) -> Self {
        let (teller, news) = mpsc::channel(16);
        Self { client, news, teller, number: 0, work: None }
    }

    fn ask(&mut self, state: &mut State, wish: Wish) {
        if let Some(work) = self.work.take() {
            work.abort();
        }
        self.number += 1;
        let (client, teller, number) = (self.client.clone(), self.teller.clone(), self.number);
        let watched = state.watched.clone();
        let from = state.moment.position;
        state.asks(&wish);
        self.work = Some(tokio::spawn(async move {
            let news = match wish {
                Wish::Quit | Wish::Stop => return,
                Wish::Go(position) => {
                    let moment = fetch::moment(&client, position, watched.as_ref()).await;
                    News::Moment(number, moment.map(Box::new))
                }
                Wish::GoTo(text) => {
                    let moment = async {
                        let place = fetch::place(&client, Some(&text)).await?;
                        fetch::moment(&client, place, watched.as_ref()).await
                    };
                    News::Moment(number, moment.await.map(Box::new))
                }
                Wish::Jump(Jump { by, value, direction }) => {
                    News::Found(number, fetch::next(&client, by, &value, from, direction).await)
                }
                Wish::Search(text, direction) => {
                    let told = teller.clone();
                    // Where the screen does not keep up, the next word will do.
                    let tell = move |at| drop(told.try_send(News::Searching(number, at)));
                    News::Found(number, fetch::search(&client, &text, from, direction, tell).await)
                }
                Wish::Watch(text) => News::Watched(number, fetch::watched(&client, &text).await),
            };
            let _ = teller.send(news).await;
        }));
    }

    /// Takes an answer in; may ask for the next.
    fn hear(&self, state: &mut State, news: News) -> Option<Wish> {
        match news {
            News::Moment(number, moment) if number == self.number => {
                match moment {
                    Ok(moment) => state.arrived(*moment),
                    Err(failure) => state.failed(failure.text()),
                }
                None
            }
            News::Searching(number, at) if number == self.number => {
                state.searching(at);
                None
            }
            News::Found(number, found) if number == self.number => match found {
                Ok(Found::At(position)) => Some(Wish::Go(position)),
                Ok(Found::Nothing(why)) => {
                    state.failed(why);
                    None
                }
                Err(error) => {
                    state.failed(error.to_string());
                    None
                }
            },
            News::Watched(number, watched) if number == self.number => match watched {
                Ok(watched) => {
                    state.watched = Some(watched);
                    Some(Wish::Go(state.moment.position))
                }
                Err(failure) => {
                    state.failed(failure.text());
                    None
                }
            },
            News::Moment(..) | News::Searching(..) | News::Found(..) | News::Watched(..) => None,
        }
    }
}
