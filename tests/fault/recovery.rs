//! How long until it works again (R12).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domain::StreamType;
use tokio::time::sleep;
use uuid::Uuid;

use crate::client::{LIVENESS, Probes, Shared};
use crate::doors::{Door, Order, task};
use crate::history::Answer;
use crate::system::System;

/// Between two probes.
const STEP: Duration = Duration::from_millis(20);
/// Probes on their way at a time.
const PROBES: usize = 40;
/// The number of the client that probes.
const PROBER: usize = 1_000;

/// From a fault until it works again; absent: not within the time allowed.
#[derive(Debug, Clone)]
pub struct Recovery {
    pub fault: String,
    /// The gateway that was hit answers.
    pub gateway: Option<Duration>,
    /// A command that was sent after the fault is acknowledged.
    pub first: Option<Duration>,
    /// The read models are less than a second behind the log.
    pub models: Option<Duration>,
    /// The stream of events is.
    pub stream: Option<Duration>,
}

/// Watches from the moment of a fault; `hit` is the gateway that was struck.
pub async fn watch(
    shared: &Arc<Shared>,
    system: &System,
    fault: String,
    struck: Instant,
    hit: Option<String>,
) -> Recovery {
    let (gateway, (first, (models, stream))) = tokio::join!(answers(struck, hit), async {
        let first = acknowledged(shared, struck).await;
        (first, caught_up(shared, system, struck).await)
    });
    Recovery { fault, gateway, first, models, stream }
}

async fn answers(struck: Instant, hit: Option<String>) -> Option<Duration> {
    let url = format!("{}/livez", hit?);
    let client = reqwest::Client::new();
    // Its last answer may still be on the way.
    sleep(STEP).await;
    while struck.elapsed() < LIVENESS {
        let asked = client.get(&url).timeout(Duration::from_millis(500)).send().await;
        if asked.is_ok_and(|answer| answer.status().is_success()) {
            return Some(struck.elapsed());
        }
        sleep(STEP).await;
    }
    None
}

/// One command after the other is sent, without waiting: what was under way when the
/// fault struck would only show how patient the clients are.
async fn acknowledged(shared: &Arc<Shared>, struck: Instant) -> Option<Duration> {
    let first = Arc::new(AtomicBool::new(false));
    let mut probes: Probes = Probes::new();
    let mut n = 0;
    while struck.elapsed() < LIVENESS {
        if probes.len() < PROBES {
            let (shared, first) = (shared.clone(), first.clone());
            n += 1;
            probes.spawn(async move {
                let door = if n % 2 == 0 { Door::Http } else { Door::Request };
                let body = task("probes", "a probe");
                let id = Uuid::new_v4();
                let order = Order::new(door, StreamType::Task, "submit", body, id);
                let answer = shared.attempt(PROBER, n / 2, &order).await;
                let accepted = matches!(answer, Answer::Accepted(_));
                (accepted && !first.swap(true, Ordering::Relaxed)).then(|| struck.elapsed())
            });
        }
        sleep(STEP).await;
        while let Some(ended) = probes.try_join_next() {
            if let Ok(Some(took)) = ended {
                // The others are seen through: their outcomes belong to the history.
                shared.probes.lock().push(probes);
                return Some(took);
            }
        }
    }
    None
}

/// When the read models, and when the stream, were again less than a second behind.
async fn caught_up(
    shared: &Shared,
    system: &System,
    struck: Instant,
) -> (Option<Duration>, Option<Duration>) {
    let behind = "SELECT count(*) FROM events WHERE position = $1
                  AND recorded_at < clock_timestamp() - interval '1 second'";
    let checkpoint = "SELECT min(position) + 1 FROM read.checkpoints";
    let jetstream = async_nats::jetstream::new(shared.doors.nats.clone());
    let (mut models, mut stream) = (None, None);
    let mut client = None;
    while struck.elapsed() < shared.patience() && (models.is_none() || stream.is_none()) {
        if client.is_none() {
            client = system.sql().await;
        }
        let looked = async {
            let client = client.as_ref()?;
            let level = async |next: i64| -> Option<bool> {
                Some(client.query_one(behind, &[&next]).await.ok()?.get::<_, i64>(0) == 0)
            };
            if models.is_none() {
                let next = client.query_one(checkpoint, &[]).await.ok()?.get(0);
                models = level(next).await?.then(|| struck.elapsed());
            }
            if stream.is_none() {
                let events = jetstream.get_stream(broker::streams::EVENTS).await.ok();
                let last = events.map(|events| events.cached_info().state.last_sequence);
                let there = match last {
                    Some(last) => level(last as i64 + 1).await?,
                    None => false,
                };
                stream = there.then(|| struck.elapsed());
            }
            Some(())
        };
        if !matches!(tokio::time::timeout(Duration::from_secs(2), looked).await, Ok(Some(()))) {
            client = None;
        }
        sleep(STEP * 2).await;
    }
    (models, stream)
}

/// The table of a run: per kind of fault how often, and median and worst times.
pub fn table(recoveries: &[Recovery]) -> String {
    type Of = fn(&Recovery) -> Option<Duration>;
    let mut kinds: BTreeMap<&str, Vec<&Recovery>> = BTreeMap::new();
    for recovery in recoveries {
        kinds.entry(&recovery.fault).or_default().push(recovery);
    }
    let columns: [Of; 4] = [|r| r.gateway, |r| r.first, |r| r.models, |r| r.stream];
    let mut text = String::from(
        "| what was hit | times | gateway answers | first command | read models | stream |\n\
         |---|---|---|---|---|---|\n",
    );
    for (kind, of_it) in kinds {
        text.push_str(&format!("| {kind} | {} |", of_it.len()));
        for column in columns {
            let mut times: Vec<Duration> = of_it.iter().filter_map(|r| column(r)).collect();
            times.sort();
            match (times.get(times.len() / 2), times.last()) {
                (Some(middle), Some(worst)) => text.push_str(&format!(
                    " {:.2} ({:.2}) |",
                    middle.as_secs_f64(),
                    worst.as_secs_f64()
                )),
                _ => text.push_str(" – |"),
            }
        }
        text.push('\n');
    }
    text
}
