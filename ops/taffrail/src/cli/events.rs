//! `taffrail events`

use clap::Args;
use client::{EventFilter, Followed};
use serde_json::{Value, json};

use super::App;
use super::fail::Failure;
use super::human::{clock, gist, short_id, text};
use super::out::{Output, Printer};
use super::table::{Cell, Paint, printable};

/// What one page holds at most.
const PAGE: u32 = 200;

/// `taffrail events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on, or behind --after; ends with Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only behind this position
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Of this type, such as task.submitted; several with commas
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Of this stream (a task's, an agent's … id)
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Of this actor; not with --follow
    #[arg(long, conflicts_with = "follow")]
    actor: Option<String>,
    /// Of this correlation; not with --follow
    #[arg(long, conflicts_with = "follow", value_name = "ID")]
    correlation: Option<String>,
    /// At most so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl EventsArgs {
    /// Whether it goes on with what happens from now on.
    pub fn follows(&self) -> bool {
        self.follow
    }
}

/// Does it.
pub async fn run(app: &App, args: EventsArgs) -> Result<(), Failure> {
    let filter = EventFilter {
        after: args.after,
        kind: args.kind,
        stream: args.stream,
        actor: args.actor,
        correlation: args.correlation,
    };
    if args.follow {
        follow(app, &filter, args.limit).await
    } else {
        pages(app, filter, args.limit).await
    }
}

/// Page after page; without a limit one page.
async fn pages(app: &App, mut filter: EventFilter, limit: Option<u64>) -> Result<(), Failure> {
    let client = app.client()?;
    let mut left = limit.unwrap_or(PAGE.into());
    let mut all = Vec::new();
    let mut last = Value::Null;
    while left > 0 {
        let wanted = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let mut page = client.events(&filter, wanted).await?;
        let Value::Array(items) = page["items"].take() else { break };
        let next = items.last().and_then(position).filter(|_| items.len() as u32 == wanted);
        left = left.saturating_sub(items.len() as u64);
        match app.out.output {
            Output::Json | Output::Yaml => all.extend(items),
            Output::Table | Output::Jsonl => {
                for event in &items {
                    write(&app.out, event)?;
                }
            }
        }
        last = page;
        match next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if matches!(app.out.output, Output::Json | Output::Yaml) {
        last["items"] = json!(all);
        return app.out.document(&last);
    }
    Ok(())
}

async fn follow(app: &App, filter: &EventFilter, limit: Option<u64>) -> Result<(), Failure> {
    let mut follow = app.client()?.follow_events(filter);
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        match follow.next().await? {
            Some(Followed::Event { event, .. }) => {
                write(&app.out, &event)?;
                left -= 1;
            }
            Some(Followed::Reset { position }) => {
                let from = position.map(|at| format!(" from {at}")).unwrap_or_default();
                eprintln!("the log is another one than before; going on{from}");
            }
            None => return Ok(()),
        }
    }
    Ok(())
}

/// One event at a time, so that a reader sees it when it happens.
fn write(out: &Printer, event: &Value) -> Result<(), Failure> {
    match out.output {
        Output::Table => out.text(&line(out, event)),
        Output::Json | Output::Jsonl => out.text(&format!("{event}\n")),
        Output::Yaml => {
            out.text("---\n")?;
            out.document(event)
        }
    }
}

fn position(event: &Value) -> Option<u64> {
    let sequence = &event["sequence"];
    sequence.as_str().map_or(sequence.as_u64(), |digits| digits.parse().ok())
}

/// Position, time, type, stream, actor and the gist, in columns that hold without a look ahead.
fn line(out: &Printer, event: &Value) -> String {
    let kind = text(event, "type");
    let kind = kind.strip_prefix("dev.taffrail.").unwrap_or(&kind);
    let kind = kind.rsplit_once(".v").map_or(kind, |(kind, _)| kind);
    let Cell(_, paint) = Cell::state(kind.rsplit('.').next().unwrap_or_default());
    let paint = match kind.rsplit('.').next() {
        Some("attempt_failed" | "dead_lettered" | "lease_expired") => Paint::Red,
        Some("started" | "reconnected" | "registered") => Paint::Cyan,
        _ => paint,
    };
    let plain = |text: &str| printable(text, false);
    format!(
        "{:>8}  {}  {}  {}  {}  {}\n",
        position(event).unwrap_or_default(),
        out.paint(&plain(&clock(&text(event, "time"))), Paint::Dim),
        out.paint(&format!("{:<22}", plain(kind)), paint),
        plain(&short_id(&text(event, "subject"))),
        plain(&format!("{:<12}", actor(&text(event, "actor")))),
        plain(&summary(&event["data"])),
    )
    .trim_end()
    .to_owned()
        + "\n"
}

/// `agent:<id>` with the short form of the id.
fn actor(actor: &str) -> String {
    match actor.split_once(':') {
        Some((kind, id)) => format!("{kind}:{}", short_id(id)),
        None => actor.to_owned(),
    }
}

/// What an event is about, in a few words.
fn summary(data: &Value) -> String {
    let parts =
        ["title", "name", "error", "result", "reason", "message", "observed_state", "queue"];
    let found = parts.iter().find(|name| !data[**name].is_null());
    match found {
        Some(name) => gist(&data[*name], 80),
        None => gist(data, 80),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "sequence": "00000000000000000042",
            "time": "2026-01-02T03:04:05.678901Z",
            "type": "dev.taffrail.task.attempt_failed.v1",
            "subject": "01890a5d-ac96-774b-bcce-b302099a8057",
            "actor": "agent:01890a5d-ac96-774b-bcce-b302099a8058",
            "data": { "error": { "message": "exit code 1: boom\nand more" }, "queue": "default" },
        });
        let out = Printer::new(Output::Table, true, false);
        assert_eq!(
            line(&out, &event),
            "      42  03:04:05.678  task.attempt_failed     b302099a8057  \
             agent:b302099a8058  exit code 1: boom and more\n"
        );
    }
}
