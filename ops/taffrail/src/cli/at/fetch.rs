//! Asking the server: over its public routes alone.

use client::{Client, Error};
use futures::future::join_all;
use futures::try_join;
use serde_json::Value;

use super::super::fail::Failure;
use super::super::human::text;
use super::rows::{Moment, RowAt, Watched, touched};

/// Lines of the log that are read around a position: more than a screen shows.
const AROUND: u64 = 40;
/// Events of a page when searching.
const PAGE: u32 = 200;
/// Pages that a search reads at most: a million events.
const SEARCHED: u32 = 5_000;

/// What is searched from where one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Back,
}

/// What a jump or a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    At(u64),
    /// There is none, for people.
    Nothing(String),
}

/// The position that a text means: itself, or the last one until an instant.
pub async fn place(client: &Client, given: Option<&str>) -> Result<u64, Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    let head = head(client).await?;
    if head == 0 {
        return usage("the log is empty: nothing has happened yet".into());
    }
    let Some(given) = given.map(str::trim) else { return Ok(head) };
    if let Ok(position) = given.parse::<i128>() {
        return match u64::try_from(position) {
            _ if position < 1 => usage(format!("positions begin at 1, {given} is before them")),
            Ok(position) if position <= head => Ok(position),
            Ok(_) | Err(_) => usage(format!("the log ends at position {head}")),
        };
    }
    if chrono::DateTime::parse_from_rfc3339(given).is_err() {
        return usage(format!(
            "`{given}` is neither a position nor an instant with its zone, such as \
             2026-01-31T12:00:00Z"
        ));
    }
    let query =
        [("to", given.to_owned()), ("outcome", "event".to_owned()), ("limit", "1".to_owned())];
    let page = client.audit(&query).await?;
    match page["items"][0]["position"].as_u64() {
        Some(position) => Ok(position),
        None => usage(format!("nothing had happened by {given}")),
    }
}

async fn head(client: &Client) -> Result<u64, Error> {
    // The smallest page there is says how far the log goes.
    let query = [("after", i64::MAX.to_string()), ("limit", "1".to_owned())];
    let page = client.get("v1/events", &query).await?;
    Ok(page["position"].as_u64().unwrap_or_default())
}

/// The log at a position, with the rows that its event touched.
pub async fn moment(
    client: &Client,
    position: u64,
    watched: Option<&Watched>,
) -> Result<Moment, Failure> {
    let (from, to) = (position.saturating_sub(AROUND).max(1), position.saturating_add(AROUND));
    let around = [
        ("from", from.to_string()),
        ("to", to.to_string()),
        ("order", "oldest".to_owned()),
        ("outcome", "event".to_owned()),
        ("limit", "200".to_owned()),
    ];
    let one = [("after", (position - 1).to_string()), ("limit", "1".to_owned())];
    let (mut page, mut lines) = try_join!(client.get("v1/events", &one), client.audit(&around))?;
    let event = page["items"][0].take();
    let Some(at) = text(&event, "sequence").parse().ok() else {
        return Err(Failure::Usage(format!("there is no event at position {position}")));
    };
    let Value::Array(lines) = lines["items"].take() else {
        return Err(Failure::Usage("the server answered without lines".into()));
    };
    let mut wanted: Vec<Watched> = watched.cloned().into_iter().collect();
    wanted.extend(touched(&event).into_iter().filter(|row| Some(row) != watched));
    let rows = join_all(wanted.into_iter().map(|row| row_at(client, row, at))).await;
    let head = page["position"].as_u64().unwrap_or_default();
    Ok(Moment { position: at, head, event, lines, rows })
}

/// A row as of a position and as of the one before.
async fn row_at(client: &Client, Watched { kind, id }: Watched, position: u64) -> RowAt {
    let path = format!("v1/{}/{id}", collection(kind));
    let row = RowAt { kind, id, ..RowAt::default() };
    match try_join!(as_of(client, &path, position - 1), as_of(client, &path, position)) {
        Ok((before, after)) => RowAt { before, after, ..row },
        Err(error) => RowAt { problem: Some(error.to_string()), ..row },
    }
}

/// A row as of a position, where it was there.
async fn as_of(client: &Client, path: &str, position: u64) -> Result<Option<Value>, Error> {
    // Before the first event there was nothing.
    if position == 0 {
        return Ok(None);
    }
    match client.get(path, &[("as_of", position.to_string())]).await {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

const fn collection(kind: &str) -> &'static str {
    match kind.as_bytes() {
        b"task" => "tasks",
        b"agent" => "agents",
        b"operation" => "operations",
        b"schedule" => "schedules",
        b"node" => "nodes",
        b"profile" => "profiles",
        _ => "queues",
    }
}

/// Reads `task TASK-7`, `agent ada`, `queue default`.
pub async fn watched(client: &Client, given: &str) -> Result<Watched, Failure> {
    const KINDS: [&str; 7] = ["task", "agent", "queue", "operation", "schedule", "node", "profile"];
    let mut words = given.split([' ', ':', '/']).filter(|word| !word.is_empty());
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let kind = KINDS.iter().find(|kind| first.trim_end_matches('s') == **kind);
    let (Some(kind), Some(id), None) = (kind, second, words.next()) else {
        let kinds = KINDS.join(", ");
        return Err(Failure::Usage(format!(
            "a row is named by its kind and its name, such as `task TASK-7`; kinds: {kinds}"
        )));
    };
    let safe = |id: &str| {
        !id.is_empty()
            && id.chars().all(|c| c.is_alphanumeric() || "-_.~".contains(c))
            && !id.chars().all(|c| c == '.')
    };
    if !safe(id) {
        return Err(Failure::Usage(format!("`{id}` is no name of a {kind}")));
    }
    let is_id = id.len() == 36 && id.bytes().filter(|b| *b == b'-').count() == 4;
    let id = if *kind == "agent" && !is_id {
        // The API knows agents by their ids.
        let found = client.causes(&[("agent", id.to_owned()), ("limit", "1".into())]).await?;
        let nodes = found["nodes"].as_array().into_iter().flatten();
        let mut agents = nodes.filter(|node| node["stream_type"] == "agent");
        agents.find_map(|node| node["stream_id"].as_str().map(str::to_owned)).unwrap_or_default()
    } else {
        id.to_owned()
    };
    Ok(Watched { kind, id })
}

/// The next event, or the one before, of a stream, a type or an actor.
pub async fn next(
    client: &Client,
    by: &'static str,
    value: &str,
    from: u64,
    direction: Direction,
) -> Result<Found, Error> {
    let (bound, order, whither) = match direction {
        Direction::Forward => (("from", from + 1), "oldest", "further on"),
        Direction::Back if from <= 1 => {
            return Ok(Found::Nothing("this is the first event".into()));
        }
        Direction::Back => (("to", from - 1), "newest", "before"),
    };
    let query = [
        (by, value.to_owned()),
        (bound.0, bound.1.to_string()),
        ("order", order.to_owned()),
        ("outcome", "event".to_owned()),
        ("limit", "1".to_owned()),
    ];
    let page = client.audit(&query).await?;
    Ok(match page["items"][0]["position"].as_u64() {
        Some(position) => Found::At(position),
        None => Found::Nothing(format!("no event of this {by} {whither}")),
    })
}

/// The next event whose text has a word in it, from where one is on.
pub async fn search(
    client: &Client,
    wanted: &str,
    from: u64,
    direction: Direction,
    tell: impl Fn(u64) + Send,
) -> Result<Found, Error> {
    let wanted = wanted.to_lowercase();
    let mut at = from;
    for _ in 0..SEARCHED {
        let after = match direction {
            Direction::Forward => at,
            Direction::Back if at <= 1 => break,
            Direction::Back => at.saturating_sub(u64::from(PAGE) + 1),
        };
        let query = [("after", after.to_string()), ("limit", PAGE.to_string())];
        let mut page = client.get("v1/events", &query).await?;
        let Value::Array(mut items) = page["items"].take() else { break };
        let place = |event: &Value| text(event, "sequence").parse::<u64>().unwrap_or_default();
        if direction == Direction::Back {
            items.retain(|event| place(event) < at);
            items.reverse();
        }
        let found = items.iter().find(|event| event.to_string().to_lowercase().contains(&wanted));
        if let Some(event) = found {
            return Ok(Found::At(place(event)));
        }
        let Some(last) = items.last().map(place) else { break };
        at = last;
        tell(at);
    }
    let whither = match direction {
        Direction::Forward => "from here on",
        Direction::Back => "before",
    };
    Ok(Found::Nothing(format!("no event with `{wanted}` {whither}")))
}
