//! Reads what is left: the log, the results, the stream, the read models.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::StreamExt;
use parking_lot::Mutex;
use replay::Difference;
use store::Log;
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

use crate::checker::{Mirrored, Model, ResultRow, RoleToken, World};
use crate::doors::Doors;
use crate::system::System;

/// Events or messages of one read.
const PAGE: usize = 2_000;

/// How far everything is.
#[derive(Debug)]
pub struct Standing {
    pub head: u64,
    models: u64,
    stream: u64,
}

impl Standing {
    fn is_level(&self) -> bool {
        self.models >= self.head && self.stream >= self.head
    }
}

/// Waits until read models and stream have come as far as the log was at the first look.
pub async fn level(system: &System, doors: &Doors, patience: Duration) -> Result<u64, String> {
    let began = Instant::now();
    let mut head = None;
    let mut last = None;
    while began.elapsed() < patience {
        let looked = tokio::time::timeout(Duration::from_secs(5), standing(system, doors));
        if let Ok(Some(standing)) = looked.await {
            let head = *head.get_or_insert(standing.head);
            let standing = Standing { head, ..standing };
            if standing.is_level() {
                return Ok(head);
            }
            last = Some(standing);
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err(format!("after {patience:?}: {last:?}"))
}

async fn standing(system: &System, doors: &Doors) -> Option<Standing> {
    let sql = "SELECT position, (SELECT min(position) FROM read.checkpoints) FROM log_head";
    let row = system.sql().await?.query_one(sql, &[]).await.ok()?;
    let jetstream = jetstream::new(doors.nats.clone());
    let stream = jetstream.get_stream(broker::streams::EVENTS).await.ok()?;
    Some(Standing {
        head: row.get::<_, i64>(0) as u64,
        models: row.get::<_, i64>(1) as u64,
        stream: stream.cached_info().state.last_sequence,
    })
}

/// Everything up to a position; `rebuild`: the read models are also held against tables
/// that a rebuild fills, in all their columns.
pub async fn collect(
    system: &System,
    doors: &Doors,
    head: u64,
    tokens: Vec<RoleToken>,
    rebuild: bool,
) -> World {
    let log = log(system);
    let mut events = Vec::new();
    while (events.len() as u64) < head {
        let left = usize::try_from(head - events.len() as u64).unwrap();
        // By hand and not by the log's own reader, whose alarm would hide a hole.
        let page = page(&log, events.len() as u64, left.min(PAGE)).await;
        if page.is_empty() {
            break;
        }
        events.extend(page);
    }
    let client = system.sql().await.unwrap();
    World {
        epoch: log.head().await.unwrap().epoch,
        head,
        events,
        results: results(&client).await,
        mirror: mirror(doors, head).await,
        models: models(&log, rebuild).await,
        tokens,
        subscribed: true,
    }
}

/// The log, as the service reads it.
fn log(system: &System) -> Log {
    let urls = migrations::service_urls(&system.database_url).unwrap();
    Log::new(store::connect_pool(&urls.service, 16).unwrap(), &urls.service)
}

async fn page(log: &Log, offset: u64, limit: usize) -> Vec<Arc<domain::Recorded>> {
    let sql = format!(
        "SELECT {} FROM events e ORDER BY e.position OFFSET $1 LIMIT $2",
        store::RECORDED_COLUMNS
    );
    let client = log.pool().get().await.unwrap();
    let rows = client.query(&sql, &[&(offset as i64), &(limit as i64)]).await.unwrap();
    rows.iter().map(|row| store::recorded_from_row(row).unwrap()).collect()
}

async fn results(client: &Client) -> Vec<ResultRow> {
    let sql = "SELECT command_id, stream_id, version, position, events, problem::jsonb->>'type'
               FROM command_results";
    let rows = client.query(sql, &[]).await.unwrap();
    let slug = |uri: String| uri.rsplit('/').next().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| ResultRow {
            command_id: row.get(0),
            stream_id: row.get(1),
            version: row.get::<_, i64>(2) as u64,
            position: row.get::<_, i64>(3) as u64,
            events: row
                .get::<_, &str>(4)
                .split(',')
                .filter(|name| !name.is_empty())
                .map(Into::into)
                .collect(),
            refused: row.get::<_, Option<String>>(5).map(slug),
        })
        .collect()
}

async fn mirror(doors: &Doors, head: u64) -> Vec<Mirrored> {
    let jetstream = jetstream::new(doors.nats.clone());
    let stream = jetstream.get_stream(broker::streams::EVENTS).await.unwrap();
    let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut found = Vec::new();
    loop {
        let mut batch = consumer.fetch().max_messages(PAGE).messages().await.unwrap();
        let before = found.len();
        while let Some(message) = batch.next().await {
            let message = message.unwrap();
            let sequence = message.info().unwrap().stream_sequence;
            let headers = message.headers.clone().unwrap_or_default();
            let header = |name: &str| {
                headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
            };
            found.push(Mirrored {
                sequence,
                position: header("Taffrail-Position").parse().unwrap_or_default(),
                epoch: header("Taffrail-Epoch").parse().unwrap_or_default(),
                subject: message.subject.to_string(),
                event_id: header("ce-id"),
                hash: header("Taffrail-Hash"),
                payload: message.payload.to_vec(),
            });
        }
        if found.len() == before || found.last().is_some_and(|last| last.sequence >= head) {
            break;
        }
    }
    found.retain(|message| message.sequence <= head);
    found
}

/// Both ways of comparing: rows against a fold in memory, all columns against tables that
/// a rebuild fills.
async fn models(log: &Log, rebuild: bool) -> Vec<Model> {
    futures::future::join_all(projections::Model::ALL.map(|model| compared(model, log, rebuild)))
        .await
}

async fn compared(model: projections::Model, log: &Log, rebuild: bool) -> Model {
    let compared = replay::compare(model, log).await.unwrap();
    let told = |row: &Difference| {
        format!("row {}: {:?} instead of {:?}", row.key, row.found, row.expected)
    };
    let mut differing: Vec<String> = compared.differing.iter().map(told).collect();
    if rebuild && differing.is_empty() {
        let rebuilt = replay::rebuild(model, log, |_, _| {}).await.unwrap();
        if rebuilt.differing != Some(0) {
            differing.push(format!("a rebuild found {:?} differing rows", rebuilt.differing));
        }
    }
    Model { name: compared.model, position: compared.position, differing }
}

/// Looks at the leases all the time.
pub struct Sampler {
    seen: Arc<Mutex<Vec<RoleToken>>>,
    _looking: AbortOnDropHandle<()>,
}

impl Sampler {
    pub fn start(system: Arc<System>) -> Self {
        let seen = Arc::<Mutex<Vec<RoleToken>>>::default();
        let looking = tokio::spawn(look(system, seen.clone()));
        Self { seen, _looking: AbortOnDropHandle::new(looking) }
    }

    pub fn seen(&self) -> Vec<RoleToken> {
        self.seen.lock().clone()
    }
}

async fn look(system: Arc<System>, seen: Arc<Mutex<Vec<RoleToken>>>) {
    let mut client = None;
    let mut last: HashMap<String, RoleToken> = HashMap::new();
    loop {
        sleep(Duration::from_millis(100)).await;
        if client.is_none() {
            client = system.sql().await;
        }
        let Some(asked) = &client else { continue };
        let sql = "SELECT role, token, holder FROM leases";
        let Ok(rows) = asked.query(sql, &[]).await else {
            client = None;
            continue;
        };
        for row in rows {
            let token = RoleToken { role: row.get(0), token: row.get(1), holder: row.get(2) };
            if last.insert(token.role.clone(), token.clone()).as_ref() != Some(&token) {
                seen.lock().push(token);
            }
        }
    }
}
