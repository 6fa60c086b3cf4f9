//! `taffrail why`: because of what something happened, and what came of it.

mod dot;
mod tree;

use clap::Args;
use client::Client;
use serde_json::Value;

use super::App;
use super::fail::Failure;

/// `taffrail why`
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// An event (position or id), a task (id or number such as TASK-7) or an agent (id or name)
    #[arg(allow_negative_numbers = true)]
    subject: String,
    /// As a graph in Graphviz' language: `taffrail why 42 --dot | dot -Tsvg > why.svg`
    #[arg(long)]
    dot: bool,
    /// Levels up and down, 1 to 64
    #[arg(long, value_name = "LEVELS")]
    depth: Option<u32>,
    /// Entries in all, 1 to 1,000
    #[arg(long, value_name = "ENTRIES")]
    limit: Option<u32>,
    /// Of an event's effects only those behind this position: where an answer was cut
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
}

/// Does it.
pub async fn run(app: &App, args: WhyArgs) -> Result<(), Failure> {
    let client = app.client()?;
    let mut query = Vec::new();
    query.extend(args.depth.map(|depth| ("depth", depth.to_string())));
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    query.extend(args.after.map(|after| ("after", after.to_string())));
    let answer = asked(&client, &args.subject, &query).await?;
    if args.dot {
        return app.out.text(&dot::graph(&answer));
    }
    app.out.show(&answer, |out| tree::tree(&answer, out.width(), out.colour))
}

/// The kinds of things that a word may stand for, the likeliest first.
fn kinds(subject: &str) -> &'static [&'static str] {
    let task = subject.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("task-"));
    if !subject.is_empty() && subject.bytes().all(|b| b.is_ascii_digit())
        || subject.starts_with('-')
    {
        &["event"]
    } else if is_id(subject) {
        &["task", "agent", "event"]
    } else if task {
        &["task", "agent"]
    } else {
        &["agent"]
    }
}

fn is_id(text: &str) -> bool {
    let shape = |(at, b): (usize, u8)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}

async fn asked(
    client: &Client,
    subject: &str,
    how: &[(&'static str, String)],
) -> Result<Value, Failure> {
    let mut last = None;
    for kind in kinds(subject) {
        let mut query = vec![(*kind, subject.to_owned())];
        query.extend(how.iter().cloned());
        match client.causes(&query).await {
            Ok(answer) => return Ok(answer),
            // An id may be anything's; a number or name too: the next kind is tried.
            Err(error) if matches!(error.status(), Some(400 | 404)) => {
                last.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let Some(error) = last else { return Err(Failure::Usage("nothing to explain".into())) };
    let only = kinds(subject).len() == 1;
    if error.status() == Some(404) && !only {
        return Err(Failure::Usage(format!(
            "nothing is called `{subject}`: no {}; `taffrail audit` and `taffrail events` list \
             what there is",
            kinds(subject).join(", no ")
        )));
    }
    Err(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_tried_as_what_it_looks_like() {
        assert_eq!(kinds("42"), ["event"]);
        assert_eq!(kinds("-1"), ["event"], "refused with a word about positions");
        assert_eq!(kinds("task-7"), ["task", "agent"]);
        assert_eq!(kinds("ada"), ["agent"]);
        assert_eq!(kinds("0192d3c4-5b6a-7c8d-9e0f-112233445566"), ["task", "agent", "event"]);
        assert_eq!(kinds("0192d3c4-5b6a-7c8d-9e0f-11223344556g"), ["agent"]);
    }
}
