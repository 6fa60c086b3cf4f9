//! `taffrail queue`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::fail::Failure;
use super::human::{duration, now, passed, text};
use super::submit::read_payload;
use super::table::Cell;
use super::task::Page;
use super::{App, op};

/// What can be asked about queues.
#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// List queues with their depths
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Show a queue: depths by priority and state, oldest age, rates
    Get {
        /// The queue's name
        #[arg(value_parser = token)]
        name: String,
    },
    /// Give nothing out until the queue is resumed
    Pause(Change),
    /// Give tasks out again
    Resume(Change),
    /// Give out what waits; what comes later waits until the queue is resumed
    Drain(Change),
    /// Cancel every task that waits in the queue
    Purge {
        #[command(flatten)]
        change: Change,
        /// Only tell how many tasks that would be
        #[arg(long)]
        dry_run: bool,
        /// Do not wait for the operation's end
        #[arg(long)]
        no_wait: bool,
    },
    /// Set the queue's policy as a whole
    Configure {
        /// The queue's name
        #[arg(value_parser = token)]
        name: String,
        /// The policy as JSON, @FILE, or - for stdin; {} is the default policy
        policy: String,
    },
}

/// Which queue, and why.
#[derive(Debug, Args)]
pub struct Change {
    /// The queue's name
    #[arg(value_parser = token)]
    name: String,
    /// Why, for people
    #[arg(long)]
    reason: Option<String>,
}

impl Change {
    fn body(&self) -> Value {
        self.reason.as_ref().map_or(json!({}), |reason| json!({ "reason": reason }))
    }
}

/// A word that may stand in a path and in a subject.
pub fn token(text: &str) -> Result<String, String> {
    if domain::ids::is_token(text) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 of the characters A-Z a-z 0-9 _ - are expected".into())
    }
}

/// Does it.
pub async fn run(app: &App, verb: QueueVerb) -> Result<(), Failure> {
    let client = app.client()?;
    match verb {
        QueueVerb::List { page } => {
            let answer = client.queues(&page.with(vec![])).await?;
            app.out.list(
                &answer,
                &["QUEUE", "WAITING", "RUNNING", "DEAD", "OLDEST", "PRIORITIES"],
                row,
            )
        }
        QueueVerb::Get { name } => {
            let queue = client.queue(&name).await?;
            app.out.show(&queue, |out| {
                let rows: Vec<(&str, Cell)> = queue
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.as_str(), counts(value).into()))
                    .collect();
                out.fields(&rows)
            })
        }
        QueueVerb::Pause(by) => change(app, &by, "pause", "paused").await,
        QueueVerb::Resume(by) => change(app, &by, "resume", "active").await,
        QueueVerb::Drain(by) => change(app, &by, "drain", "draining").await,
        QueueVerb::Purge { change, dry_run: true, .. } => {
            let answer = client.preview_purge(&change.name).await?;
            let waiting = text(&answer, "waiting");
            app.out.show(&answer, |_| format!("{waiting} tasks wait and would be cancelled\n"))
        }
        QueueVerb::Purge { change, no_wait, .. } => {
            let answer = client.change_queue(&change.name, "purge", &change.body()).await?;
            op::conclude(app, &client, answer, !no_wait, None).await
        }
        QueueVerb::Configure { name, policy } => {
            let answer = client.configure_queue(&name, &read_payload(&policy)?).await?;
            app.out.show(&answer, |_| format!("queue {name} has a new policy\n"))
        }
    }
}

async fn change(app: &App, by: &Change, command: &str, state: &str) -> Result<(), Failure> {
    let answer = app.client()?.change_queue(&by.name, command, &by.body()).await?;
    app.out.show(&answer, |_| format!("queue {} is {state}\n", by.name))
}

fn row(queue: &Value) -> Vec<Cell> {
    let state = |name: &str| queue["by_state"][name].as_u64().unwrap_or_default();
    let oldest = passed(queue["oldest_queued_at"].as_str(), now());
    vec![
        text(queue, "name").into(),
        text(queue, "depth").into(),
        (state("assigned") + state("in_progress")).to_string().into(),
        (state("failed") + state("dead")).to_string().into(),
        oldest.map(duration).unwrap_or_default().into(),
        counts(&queue["by_priority"]).into(),
    ]
}

/// `done 3, queued 1`, without what is zero.
fn counts(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| value.as_f64() != Some(0.0))
            .map(|(name, value)| match value {
                Value::Object(_) => format!("{name} ({})", counts(value)),
                Value::String(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Bool(_)
                | Value::Null => format!("{name} {value}"),
            })
            .collect::<Vec<_>>()
            .join(", "),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Number(_) | Value::Bool(_) | Value::Array(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_leave_out_what_is_zero() {
        let value = json!({ "done": 3, "queued": 0, "by": { "high": 1 } });
        assert_eq!(counts(&value), "by (high 1), done 3");
    }

    #[test]
    fn a_queue_name_cannot_leave_its_place_in_a_path() {
        assert!(token("default").is_ok());
        for bad in ["", "a/b", "..", "a.b", "a b", "*", ">"] {
            assert!(token(bad).is_err(), "{bad}");
        }
    }
}
