//! `taffrail schedule`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::App;
use super::fail::Failure;
use super::human::{age, gist, text};
use super::submit::{read_payload, seconds};
use super::table::Cell;
use super::task::Page;

/// What can be done about schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleVerb {
    /// Make a schedule
    Create(Box<CreateArgs>),
    /// List schedules, the newest first
    List {
        /// Only in these states: active, paused, completed; with commas between
        #[arg(long, value_name = "STATES")]
        state: Option<String>,
        /// Only of these kinds: cron, interval, at, event; with commas between
        #[arg(long, value_name = "KINDS")]
        kind: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show a schedule
    Get {
        /// The schedule
        id: Uuid,
    },
    /// Show when it fires next
    Next {
        /// The schedule
        id: Uuid,
        /// How many times, at most 100 [default: 10]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Let it fire no more until it is resumed
    Pause(Named),
    /// Let it fire again
    Resume(Named),
    /// Fire it now
    Trigger(Named),
    /// End it for ever
    Delete(Named),
    /// Fire it once for each slot of a range of the past, at most 1,000
    Backfill {
        /// The schedule
        id: Uuid,
        /// The beginning (RFC 3339)
        #[arg(long, value_name = "TIME")]
        from: String,
        /// The end, itself not in the range (RFC 3339)
        #[arg(long, value_name = "TIME")]
        to: String,
    },
}

/// A schedule and why.
#[derive(Debug, Args)]
pub struct Named {
    /// The schedule
    id: Uuid,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// `taffrail schedule create`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("when").required(true).args(["cron", "every", "at", "on_event"]))]
pub struct CreateArgs {
    /// The schedule's name
    pub name: String,
    /// A cron pattern: minute, hour, day of month, month, day of week
    #[arg(long, value_name = "PATTERN")]
    pub cron: Option<String>,
    /// The pattern's time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, conflicts_with_all = ["every", "at", "on_event"], value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Again and again after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub every: Option<Duration>,
    /// Once, at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// For each event of a type, such as task.completed
    #[arg(long, value_name = "TYPE")]
    pub on_event: Option<String>,
    /// Only if this holds: CEL over `event`
    #[arg(long, conflicts_with_all = ["cron", "every", "at"], value_name = "CEL")]
    pub filter: Option<String>,
    /// The title of the task to submit [default: the schedule's name]
    #[arg(long)]
    pub title: Option<String>,
    /// The task to submit: the body of a task as JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub task: Option<String>,
    /// What becomes of missed slots: skip, run_once or run_all [default: run_once]
    #[arg(long, value_name = "POLICY")]
    pub misfire: Option<String>,
    /// How many are made up for at most, under run_all [default: 100]
    #[arg(long, value_name = "N")]
    pub misfire_limit: Option<u32>,
    /// How late a slot may fire before it is missed [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub grace: Option<Duration>,
    /// While an earlier task is open: allow, skip or queue [default: allow]
    #[arg(long, value_name = "POLICY")]
    pub overlap: Option<String>,
    /// The same key again is the same schedule, for ever
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

impl CreateArgs {
    /// The request's body: what was not given is left to the server.
    pub fn body(&self) -> Result<Value, Failure> {
        let mut task = match &self.task {
            Some(given) => read_payload(given)?,
            None => json!({}),
        };
        let Some(fields) = task.as_object_mut() else {
            return Err(Failure::Usage("the task is no JSON object".into()));
        };
        if self.title.is_some() || !fields.contains_key("title") {
            let title = self.title.as_ref().unwrap_or(&self.name);
            fields.insert("title".into(), json!(title));
        }
        let on_event = self.on_event.as_ref().map(|kind| match &self.filter {
            Some(filter) => json!({ "type": kind, "filter": filter }),
            None => json!({ "type": kind }),
        });
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        let mut body = Map::new();
        for (name, value) in [
            ("name", json!(self.name)),
            ("cron", json!(self.cron)),
            ("timezone", json!(self.timezone)),
            ("interval_ms", json!(ms(self.every))),
            ("at", json!(self.at)),
            ("on_event", json!(on_event)),
            ("task", task),
            ("misfire", json!(self.misfire)),
            ("misfire_limit", json!(self.misfire_limit)),
            ("grace_ms", json!(ms(self.grace))),
            ("overlap", json!(self.overlap)),
        ] {
            if !value.is_null() {
                body.insert(name.into(), value);
            }
        }
        Ok(Value::Object(body))
    }
}

/// Does it.
pub async fn run(app: &App, verb: ScheduleVerb) -> Result<(), Failure> {
    let client = app.client()?;
    let (named, name, done) = match verb {
        ScheduleVerb::Create(args) => {
            let body = args.body()?;
            let answer = client.create_schedule(&body, args.idempotency_key.as_deref()).await?;
            return app.out.show(&answer, |_| format!("schedule {}\n", text(&answer, "id")));
        }
        ScheduleVerb::List { state, kind, page } => {
            let filter = page.with(vec![("state", state), ("kind", kind)]);
            let answer = client.schedules(&filter).await?;
            let headers = ["ID", "NAME", "STATE", "WHEN", "NEXT", "LAST", "FIRED", "MISSED"];
            return app.out.list(&answer, &headers, row);
        }
        ScheduleVerb::Get { id } => {
            let schedule = client.schedule(id).await?;
            return show(app, &schedule);
        }
        ScheduleVerb::Next { id, limit } => {
            let query: Vec<_> = limit.map(|n| ("limit", n.to_string())).into_iter().collect();
            let answer = client.next_runs(id, &query).await?;
            return app.out.show(&answer, |_| {
                let items = answer["items"].as_array().into_iter().flatten();
                items.filter_map(|at| Some(format!("{}\n", at.as_str()?))).collect()
            });
        }
        ScheduleVerb::Backfill { id, from, to } => {
            let body = json!({ "from": from, "to": to });
            let answer = client.command_schedule(id, "backfill", &body).await?;
            return app.out.show(&answer, |_| format!("schedule {id} is filled up\n"));
        }
        ScheduleVerb::Pause(named) => (named, "pause", "paused"),
        ScheduleVerb::Resume(named) => (named, "resume", "resumed"),
        ScheduleVerb::Trigger(named) => (named, "trigger", "triggered"),
        ScheduleVerb::Delete(named) => (named, "delete", "deleted"),
    };
    let Named { id, reason } = named;
    let body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
    let answer = client.command_schedule(id, name, &body).await?;
    app.out.show(&answer, |_| format!("schedule {id} is {done}\n"))
}

fn show(app: &App, schedule: &Value) -> Result<(), Failure> {
    app.out.show(schedule, |out| {
        let rows: Vec<(&str, Cell)> = schedule
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| match name.as_str() {
                "state" => ("state", Cell::state(&text(schedule, "state"))),
                name => (name, gist(value, 2_000).into()),
            })
            .collect();
        out.fields(&rows)
    })
}

fn row(schedule: &Value) -> Vec<Cell> {
    vec![
        text(schedule, "id").into(),
        text(schedule, "name").into(),
        Cell::state(&text(schedule, "state")),
        when(schedule).into(),
        text(schedule, "next_run_at").into(),
        age(&text(schedule, "last_run_at")).into(),
        text(schedule, "fired").into(),
        text(schedule, "misfires").into(),
    ]
}

/// When it fires, in a few words.
fn when(schedule: &Value) -> String {
    match text(schedule, "kind").as_str() {
        "cron" => format!("{} {}", text(schedule, "cron"), text(schedule, "timezone")),
        "interval" => {
            let ms = schedule["interval_ms"].as_u64().unwrap_or_default();
            format!("every {}", super::human::duration(Duration::from_millis(ms)))
        }
        "at" => format!("at {}", text(schedule, "at")),
        _ => format!("on {}", text(schedule, "/on_event/type")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, ClientVerb, Verb};
    use super::*;

    fn body(words: &[&str]) -> Option<Value> {
        let line = ["taffrail", "schedule", "create"].iter().chain(words);
        let Verb::Client(ClientVerb::Schedule(ScheduleVerb::Create(args))) =
            Cli::try_parse_from(line).ok()?.verb
        else {
            panic!("{words:?}")
        };
        Some(args.body().expect("a body"))
    }

    #[test]
    fn a_schedule_has_the_fields_that_were_given_and_one_time() {
        let nightly = body(&["nightly", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin"]);
        let expected = json!({ "name": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin",
            "task": { "title": "nightly" } });
        assert_eq!(nightly, Some(expected));
        let task = r#"{"queue":"q","title":"old"}"#;
        let often = ["s", "--every", "1.5", "--task", task, "--title", "t", "--overlap", "skip"];
        let expected = json!({ "name": "s", "interval_ms": 1500, "overlap": "skip",
            "task": { "queue": "q", "title": "t" } });
        assert_eq!(body(&often), Some(expected));
        for bad in [
            &["s"][..],
            &["s", "--every", "5", "--cron", "* * * * *"],
            &["s", "--every", "5", "--timezone", "UTC"],
            &["s", "--at", "2030-01-01T00:00:00Z", "--filter", "true"],
        ] {
            assert_eq!(body(bad), None, "{bad:?}");
        }
    }
}
