//! Asking the server.

use std::time::SystemTime;

use client::{Client, Error};
use futures::try_join;
use serde_json::{Value, json};

use super::model::{Answers, Look};
use super::state::{Detail, Place};

/// Agents are asked for by pages of this length, and this many of them.
const PAGE: usize = 200;
const AGENT_PAGES: usize = 5;
/// Operations and tasks of a list: more than a screen has lines.
const LINES: usize = 100;

/// One look, as answers: five questions at the same time.
pub async fn answers(client: &Client) -> Result<Answers, Error> {
    let some = [("limit", LINES.to_string())];
    let held = [("state", "assigned,in_progress,blocked".to_owned()), ("limit", PAGE.to_string())];
    let standing = [("standing", "true".to_owned())];
    let (queues, agents, operations, metrics, held) = try_join!(
        client.queues(&standing),
        agents(client),
        client.operations(&some),
        client.get("v1/metrics", &[]),
        client.tasks(&held),
    )?;
    Ok(Answers { queues, agents, operations, metrics, held })
}

async fn agents(client: &Client) -> Result<Vec<Value>, Error> {
    let mut pages: Vec<Value> = Vec::new();
    while pages.len() < AGENT_PAGES {
        let mut query = vec![("limit", PAGE.to_string())];
        if let Some(last) = pages.last() {
            let Some(next) = last["next"].as_str() else { break };
            query.push(("cursor", next.to_owned()));
        }
        pages.push(client.agents(&query).await?);
    }
    Ok(pages)
}

/// One look.
pub async fn look(client: &Client) -> Result<Look, Error> {
    let answers = answers(client).await?;
    Ok(Look::of(&answers, SystemTime::now().into()))
}

/// What a deeper place shows.
pub async fn detail(client: &Client, place: &Place) -> Result<Detail, Error> {
    let limit = ("limit", LINES.to_string());
    match place {
        Place::Queue(name) => {
            let query = [("queue", name.clone()), limit];
            let list = client.tasks(&query).await?;
            Ok(Detail { place: place.clone(), main: list, more: client.queue(name).await? })
        }
        Place::Agent { id, .. } => {
            let query = [("agent", id.clone()), limit];
            let list = client.tasks(&query).await?;
            Ok(Detail { place: place.clone(), main: list, more: Value::Null })
        }
        Place::Task { id, .. } => {
            let (main, more) = try_join!(client.task(id), client.why(id))?;
            Ok(Detail { place: place.clone(), main, more })
        }
        Place::Operation { id, .. } => {
            let main = client.get(&format!("v1/operations/{id}"), &[]).await?;
            Ok(Detail { place: place.clone(), main, more: Value::Null })
        }
    }
}

/// Pauses or resumes a queue.
pub async fn change(client: &Client, queue: &str, command: &str) -> Result<Value, Error> {
    let body = json!({ "reason": format!("{command} in taffrail top") });
    client.change_queue(queue, command, &body).await
}
