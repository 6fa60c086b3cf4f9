//! W6: questions over HTTP: one task, a page of tasks, the numbers of a tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

use super::{beside, many, settle};
use crate::cell::{Cell, Context, Mode, Params};
use crate::http::Connection;
use crate::load::{Arrivals, Client, Reply, Samples, closed, open};

/// Tasks in the read model, and in a quick look.
const TASKS: (u64, u64) = (100_000, 10_000);
/// Tasks of a page.
const PAGE: usize = 50;
/// Connections of an open loop: more than are ever needed at half of the capacity.
const SPARE: usize = 128;
/// Clients that find out the capacity which an open loop takes a half of.
const CAPACITY_CLIENTS: usize = 32;
/// Every so many answers one is read as a document.
const READ_EVERY: usize = 64;
/// How long the read models may take to have all tasks.
const SETTLE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Query {
    Task,
    Page,
    Metrics,
}

impl Query {
    const ALL: [Self; 3] = [Self::Task, Self::Page, Self::Metrics];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Page => "page of 50 by state",
            Self::Metrics => "metrics",
        }
    }
}

/// The cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for query in Query::ALL {
        for connections in [1, 32, 128] {
            let params =
                Params::default().with("query", query.as_str()).with("connections", connections);
            let cell = Cell::new("query", "W6", params, move |context| {
                capacity(context, query, connections)
            })
            .unit("requests");
            cells.push(match (query, connections) {
                (Query::Task, 32) => {
                    cell.limit("axum GET task conns=32 (client on the same cores)").main()
                }
                (Query::Task, _) | (Query::Page | Query::Metrics, _) => cell,
            });
        }
        let params = Params::default().with("query", query.as_str()).with("load", "50 %");
        let cell = Cell::new("query", "W6", params, move |context| latency(context, query));
        cells.push(cell.mode(Mode::Open).unit("requests"));
    }
    cells
}

async fn capacity(context: Context, query: Query, connections: usize) -> anyhow::Result<Samples> {
    let asked = Arc::new(Asked::prepare(&context, query).await?);
    let clients = asked.clients(&context, connections).await?;
    closed(&context.budget, clients).await
}

async fn latency(context: Context, query: Query) -> anyhow::Result<Samples> {
    let asked = Arc::new(Asked::prepare(&context, query).await?);
    let clients = asked.clients(&context, CAPACITY_CLIENTS).await?;
    let full = closed(&beside::part(&context.budget, 0.25), clients).await?;
    let rate = full.ops as f64 / full.seconds / 2.0;
    let (idle, free) = mpsc::channel(SPARE);
    for client in asked.clients(&context, SPARE).await? {
        idle.send(client).await?;
    }
    let free = Arc::new(Mutex::new(free));
    let samples = open(&context.budget, Arrivals::Poisson, rate, move |_| {
        let (idle, free) = (idle.clone(), free.clone());
        async move {
            let mut client = free.lock().await.recv().await.context("no connection is left")?;
            let reply = client.operate().await;
            idle.send(client).await?;
            reply
        }
    })
    .await?;
    Ok(samples.with("rate", rate).with("capacity", rate * 2.0))
}

/// What is asked for.
struct Asked {
    query: Query,
    ids: Vec<Uuid>,
    next: AtomicUsize,
}

impl Asked {
    async fn prepare(context: &Context, query: Query) -> anyhow::Result<Self> {
        let tasks = if context.quick { TASKS.1 } else { TASKS.0 };
        let nats = context.target.nats().await?;
        let ids = many::submit(&nats, "default", (0, tasks)).await?;
        settle::settled(&context.target, SETTLE).await?;
        // A table that grew slowly would have been looked after on the way.
        context.target.database().await?.batch_execute("VACUUM (ANALYZE) read.tasks").await?;
        Ok(Self { query, ids, next: AtomicUsize::new(0) })
    }

    async fn clients(
        self: &Arc<Self>,
        context: &Context,
        count: usize,
    ) -> anyhow::Result<Vec<Asker>> {
        let target = &context.target;
        let connections = Connection::several(&target.http, &target.token, count).await?;
        let asker = |connection| Asker { connection, asked: self.clone() };
        Ok(connections.into_iter().map(asker).collect())
    }
}

struct Asker {
    connection: Connection,
    asked: Arc<Asked>,
}

impl Client for Asker {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        let Asked { query, ids, next } = &*self.asked;
        let nth = next.fetch_add(1, Ordering::Relaxed);
        // A stride that shares no factor with the number of tasks meets all, in no order.
        let id = ids[nth.wrapping_mul(7_919) % ids.len()];
        let path = match query {
            Query::Task => format!("/v1/tasks/{id}"),
            Query::Page => format!("/v1/tasks?state=queued&limit={PAGE}"),
            Query::Metrics => "/v1/metrics".to_owned(),
        };
        let body = self.connection.get(&path).await?;
        if nth.is_multiple_of(READ_EVERY) {
            check(*query, id, &body, ids.len())?;
        }
        Ok(Reply::read())
    }
}

/// An answer is what was asked for, not merely an answer.
fn check(query: Query, id: Uuid, body: &Bytes, tasks: usize) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_slice(body).context("an answer")?;
    match query {
        Query::Task => ensure!(answer["id"] == id.to_string(), "another task: {answer}"),
        Query::Page => {
            let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
            let queued = items.iter().filter(|task| task["state"] == "queued").count();
            ensure!(queued == PAGE, "{queued} tasks of a page of {PAGE}: {answer}");
        }
        Query::Metrics => {
            ensure!(answer.to_string().contains(&tasks.to_string()), "other numbers: {answer}");
        }
    }
    Ok(())
}
