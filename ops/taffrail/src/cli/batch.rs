//! `taffrail task batch`: many tasks out of a file, each with its own outcome.

use std::path::PathBuf;

use clap::Args;
use client::Client;
use serde_json::{Value, json};

use super::App;
use super::fail::Failure;
use super::out::Output;
use super::progress;
use super::submit::read_input;

/// What one request may hold.
const PER_REQUEST: usize = 1_000;
/// What one request may weigh, with room for its frame.
const BYTES_PER_REQUEST: usize = 768 * 1024;
/// What is read at all: a million small tasks.
const MAX_FILE: u64 = 1024 * 1024 * 1024;

/// `taffrail task batch`
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// Tasks as POST /v1/tasks takes them: a JSON array, or one per line; - for stdin
    pub file: PathBuf,
}

/// Does it.
pub async fn run(app: &App, client: &Client, args: BatchArgs) -> Result<(), Failure> {
    let tasks = parse(&read_input(&args.file, MAX_FILE)?)?;
    let bar = progress::bar(&app.out, tasks.len() as u64);
    let (mut done, mut bad, mut outcomes) = (0usize, 0usize, Vec::new());
    for part in parts(&tasks) {
        let answer = client.submit_tasks(part).await.inspect_err(|_| {
            app.out.hint(&format!("{done} of {} were sent before", tasks.len()));
        })?;
        let results = answer["outcomes"].as_array();
        let results = results.map(Vec::as_slice).unwrap_or_default();
        for (index, outcome) in results.iter().enumerate() {
            let accepted = is_accepted(outcome);
            if !accepted {
                bad += 1;
            }
            let line = done + index + 1;
            match app.out.output {
                Output::Jsonl => app.out.document(outcome)?,
                Output::Json | Output::Yaml => outcomes.push(outcome.clone()),
                Output::Table if !accepted => {
                    bar.suspend(|| app.out.text(&format!("item {line}: {}\n", told(outcome))))?
                }
                Output::Table => {}
            }
        }
        done += part.len();
        bar.set_position(done as u64);
    }
    bar.finish_and_clear();
    match app.out.output {
        Output::Json | Output::Yaml => app.out.document(&json!({ "outcomes": outcomes }))?,
        Output::Table => app.out.text(&format!("{} accepted, {bad} not\n", done - bad))?,
        Output::Jsonl => {}
    }
    match bad {
        0 => Ok(()),
        _ => Err(Failure::BadEnd(format!("{bad} of {done} tasks were not accepted"))),
    }
}

fn is_accepted(outcome: &Value) -> bool {
    match outcome["status"].as_str() {
        Some("duplicate") => outcome["problem"].is_null(),
        Some(word) => word == "accepted",
        None => outcome["problem"].is_null() && outcome["error"].is_null(),
    }
}

fn told(outcome: &Value) -> String {
    let problem = &outcome["problem"];
    let title = problem["title"].as_str().or(outcome["status"].as_str()).unwrap_or("refused");
    let text = match problem["detail"].as_str() {
        Some(detail) => format!("{title}: {detail}"),
        None => title.to_owned(),
    };
    super::table::printable(&text, false)
}

/// Cuts the tasks into requests, in order.
fn parts(tasks: &[Value]) -> Vec<&[Value]> {
    let mut parts = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (index, task) in tasks.iter().enumerate() {
        let size = task.to_string().len() + 1;
        if index > from && (index - from == PER_REQUEST || bytes + size > BYTES_PER_REQUEST) {
            parts.push(&tasks[from..index]);
            (from, bytes) = (index, 0);
        }
        bytes += size;
    }
    if from < tasks.len() {
        parts.push(&tasks[from..]);
    }
    parts
}

fn parse(text: &str) -> Result<Vec<Value>, Failure> {
    let tasks: Vec<Value> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
            .map_err(|error| Failure::Usage(format!("no JSON array: {error}")))?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parse = |(index, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| Failure::Usage(format!("line {} is no JSON: {error}", index + 1)))
        };
        lines.map(parse).collect::<Result<_, _>>()?
    };
    match tasks.iter().position(|task| !task.is_object()) {
        Some(at) => Err(Failure::Usage(format!("item {} is no JSON object", at + 1))),
        None if tasks.is_empty() => Err(Failure::Usage("there is no task in the input".into())),
        None => Ok(tasks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_an_array_or_lines() {
        let two = vec![json!({ "title": "a" }), json!({ "title": "b" })];
        assert_eq!(parse("[{\"title\":\"a\"},\n{\"title\":\"b\"}]").unwrap(), two);
        assert_eq!(parse("{\"title\":\"a\"}\n\n{\"title\":\"b\"}\n").unwrap(), two);
        for (bad, word) in [("", "no task"), ("[1]", "item 1"), ("{}\n{", "line 2"), ("[", "array")]
        {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn requests_stay_within_number_and_size() {
        let small = vec![json!({ "title": "a" }); 2_500];
        let sizes: Vec<usize> = parts(&small).iter().map(|part| part.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let large = vec![json!({ "payload": "x".repeat(300 * 1024) }); 5];
        let sizes: Vec<usize> = parts(&large).iter().map(|part| part.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn a_repeat_counts_as_what_was_decided_first() {
        assert!(is_accepted(&json!({ "status": "accepted" })));
        assert!(is_accepted(&json!({ "status": "duplicate" })));
        assert!(!is_accepted(&json!({ "status": "duplicate", "problem": {} })));
        assert!(!is_accepted(&json!({ "status": "refused", "problem": {} })));
    }
}
