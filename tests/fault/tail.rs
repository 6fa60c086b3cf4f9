//! Sixteen writers against readers that follow the log's end: nothing skipped, nothing
//! reordered (R3), while transactions are rolled back, held open and killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::task::{TaskCancelled, TaskEvent};
use domain::{Event, Recorded};
use rand::Rng;
use rand::rngs::StdRng;
use store::{Append, Feed, Leases, Log, Reader, StoreError, Writer};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::plan::Plan;
use crate::support::{self, TestDb};

const WRITERS: u64 = 16;
/// Events of one read.
const PAGE: usize = 1_000;

/// What the writers share.
struct Writers {
    log: Log,
    db: TestDb,
    token: i64,
    wanted: u64,
    committed: AtomicU64,
    stop: CancellationToken,
}

fn event() -> Event {
    Event::Task(TaskEvent::Cancelled(TaskCancelled {
        queue: "default".into(),
        reason: None,
        cascade: true,
    }))
}

impl Writers {
    /// Appends batches until all together have written enough.
    async fn write(self: Arc<Self>, mut dice: StdRng) {
        let mut writer: Option<Writer> = None;
        while self.committed.load(Ordering::Relaxed) < self.wanted {
            let alive = match writer.take().filter(|writer| !writer.is_closed()) {
                Some(writer) => writer,
                None => match self.log.writer().await {
                    Ok(writer) => writer,
                    Err(_) => continue,
                },
            };
            let count = dice.random_range(1..=200);
            let fails = dice.random_ratio(1, 10);
            let mut batch = Append::default();
            for _ in 0..count {
                batch.events.push(support::new_event(Uuid::new_v4(), 1, event()).hashed());
            }
            if fails {
                // The same version of a stream twice: positions are taken and rolled back.
                let again = batch.events[0].stream_id;
                batch.events.push(support::new_event(again, 1, event()).hashed());
            }
            match alive.append(self.token, &batch).await {
                Ok(_) => {
                    assert!(!fails, "a version was written twice");
                    self.committed.fetch_add(count, Ordering::Relaxed);
                }
                // Whether it was committed is unknown after a kill: the log will tell.
                Err(error) => assert!(fails == error.is_conflict() || is_cut(&error), "{error}"),
            }
            writer = Some(alive);
        }
        self.stop.cancel();
    }

    /// Takes positions by hand, holds them, and gives half of them back.
    async fn hold(self: Arc<Self>, mut dice: StdRng) {
        while !self.stop.is_cancelled() {
            let Ok((mut client, connection)) =
                tokio_postgres::connect(&self.db.service_url, NoTls).await
            else {
                continue;
            };
            tokio::spawn(connection);
            let held: Result<(), tokio_postgres::Error> = async {
                let transaction = client.transaction().await?;
                transaction.execute(HELD, &[&dice.random_range(1..=50_i64)]).await?;
                sleep(Duration::from_millis(dice.random_range(20..300))).await;
                if dice.random_bool(0.5) { transaction.commit().await } else { Ok(()) }
            }
            .await;
            drop(held);
            sleep(Duration::from_millis(dice.random_range(50..500))).await;
        }
    }

    /// Kills writers in the middle of what they do.
    async fn cut(self: Arc<Self>, mut dice: StdRng) {
        let mut cuts = 0;
        while !self.stop.is_cancelled() {
            self.db
                .sql(
                    "SELECT count(pg_terminate_backend(pid)) FROM (
                         SELECT pid FROM pg_stat_activity
                         WHERE datname = current_database() AND pid <> pg_backend_pid()
                           AND query LIKE '%log_head SET position%' AND state <> 'idle'
                         ORDER BY random() LIMIT 2) victims",
                )
                .await;
            cuts += 1;
            sleep(Duration::from_millis(dice.random_range(50..400))).await;
        }
        assert!(cuts > 3, "{cuts} cuts");
    }
}

/// Events like the first one, in a transaction that its writer holds open.
const HELD: &str = "
    WITH h AS (UPDATE log_head SET position = position + $1 WHERE shard = 0
               RETURNING position - $1 AS base)
    INSERT INTO events
    SELECT h.base + n, e.epoch, e.tenant, e.stream_type, gen_random_uuid(), 1, e.event_type,
           e.schema_version, gen_random_uuid(), gen_random_uuid(), e.actor, e.correlation_id,
           e.causation_position, e.trace, e.occurred_at, e.recorded_at, e.payload, e.hash
    FROM h, events e, generate_series(1, $1) n WHERE e.position = 1";

fn is_cut(error: &StoreError) -> bool {
    // Cut off, or too long in line behind somebody who holds the head.
    error.is_transient()
}

/// What a reader got, in the order in which it got it.
#[derive(Default)]
struct Got(Vec<(u64, Uuid)>);

impl Got {
    fn take(&mut self, events: &[Arc<Recorded>]) {
        self.0.extend(events.iter().map(|event| (event.position, event.event_id)));
    }

    fn at(&self) -> u64 {
        self.0.last().map_or(0, |(position, _)| *position)
    }
}

/// Asks the log again and again, without a pause: the keenest eye for what becomes visible
/// too early.
async fn poll(log: Log, stop: CancellationToken) -> Got {
    let mut got = Got::default();
    loop {
        let last = stop.is_cancelled();
        match log.read(got.at(), PAGE).await {
            Ok(events) if events.is_empty() && last => return got,
            Ok(events) => got.take(&events),
            Err(hole @ StoreError::Hole { .. }) => panic!("{hole}"),
            Err(_) => {}
        }
    }
}

/// Follows as the product's own readers do.
async fn follow(reader: Reader, stop: CancellationToken) -> Got {
    let mut got = Got::default();
    loop {
        let last = stop.is_cancelled();
        let next = tokio::time::timeout(Duration::from_secs(1), reader.next(got.at(), PAGE));
        match next.await {
            Ok(Ok(events)) => got.take(&events),
            Ok(Err(hole @ StoreError::Hole { .. })) => panic!("{hole}"),
            Ok(Err(_)) => {}
            Err(_) if last => return got,
            Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_the_logs_end_miss_nothing_of_sixteen_writers() {
    let plan = Plan::from_env();
    let db = support::database().await;
    let log = support::log(&db).await;
    let leases = Leases::new(log.pool().clone());
    let lease = leases.acquire("processor", "fault", Duration::from_secs(60), true).await;
    let token = lease.unwrap().unwrap().token;
    support::append(&log, vec![(Uuid::new_v4(), vec![event()])]).await;
    let writers = Arc::new(Writers {
        log: log.clone(),
        db: db.clone(),
        token: leases_token(&db, token).await,
        wanted: plan.events,
        committed: AtomicU64::new(0),
        stop: CancellationToken::new(),
    });
    let done = CancellationToken::new();
    let polling = tokio::spawn(poll(log.clone(), done.clone()));
    let feed = Feed::at(0);
    let _listening = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(store::listen(
        db.service_url.clone(),
        feed.clone(),
    )));
    let following = tokio::spawn(follow(Reader { log: log.clone(), feed }, done.clone()));

    let mut working = JoinSet::new();
    for n in 0..WRITERS {
        working.spawn(writers.clone().write(plan.dice(n)));
    }
    for n in WRITERS..WRITERS + 2 {
        working.spawn(writers.clone().hold(plan.dice(n)));
    }
    working.spawn(writers.clone().cut(plan.dice(WRITERS + 2)));
    while let Some(ended) = working.join_next().await {
        ended.unwrap();
    }
    done.cancel();
    let (polled, followed) = (polling.await.unwrap(), following.await.unwrap());
    compare(&log, &[("polling", polled), ("following", followed)]).await;
}

/// The token that the head carries: `append` above took the lease once more.
async fn leases_token(db: &TestDb, least: i64) -> i64 {
    let token = db.sql("SELECT token FROM log_head").await.unwrap().parse().unwrap();
    assert!(token >= least);
    token
}

async fn compare(log: &Log, readers: &[(&str, Got)]) {
    let head = log.head().await.unwrap().position;
    let client = log.pool().get().await.unwrap();
    let sql = "SELECT position, event_id FROM events WHERE position > $1
               ORDER BY position LIMIT 100000";
    let mut at = 0;
    while at < head {
        let rows = client.query(sql, &[&(at as i64)]).await.unwrap();
        assert!(!rows.is_empty(), "the log ends at {at}, its head says {head}");
        for row in rows {
            let expected = (row.get::<_, i64>(0) as u64, row.get::<_, Uuid>(1));
            assert_eq!(expected.0, at + 1, "the log has a hole");
            for (name, got) in readers {
                assert_eq!(got.0.get(at as usize), Some(&expected), "the {name} reader");
            }
            at = expected.0;
        }
    }
    for (name, got) in readers {
        assert_eq!(got.0.len() as u64, head, "the {name} reader");
        println!("the {name} reader got {head} events, each once and in order");
    }
}
