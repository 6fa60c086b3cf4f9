//! The relay on real servers: the stream is the log, whatever happens to either.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::{Client, jetstream};
use broker::{Relay, streams, subject};
use domain::task::{TaskCancelled, TaskEvent};
use domain::{Event, Recorded};
use futures::StreamExt;
use store::{Log, Reader};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{self, TestNats, until};

/// A message of the mirror, as far as it tells the log.
#[derive(Debug, PartialEq, Eq)]
struct Mirrored {
    sequence: u64,
    subject: String,
    epoch: u64,
    hash: String,
    payload: Vec<u8>,
}

impl Mirrored {
    fn expected(event: &Recorded, epoch: u64) -> Self {
        Self {
            sequence: event.position,
            subject: subject::event(event),
            epoch,
            hash: event.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            payload: event.payload.to_vec(),
        }
    }
}

async fn mirror(client: &Client) -> Vec<Mirrored> {
    let jetstream = jetstream::new(client.clone());
    let Ok(stream) = jetstream.get_stream(streams::EVENTS).await else { return Vec::new() };
    let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut found = Vec::new();
    loop {
        let mut batch = consumer.fetch().max_messages(1_000).messages().await.unwrap();
        let before = found.len();
        while let Some(message) = batch.next().await {
            let message = message.unwrap();
            let headers = message.headers.as_ref().unwrap();
            let header = |name: &str| headers.get(name).unwrap().to_string();
            let sequence = message.info().unwrap().stream_sequence;
            assert_eq!(header("Taffrail-Position"), sequence.to_string());
            assert_eq!(header("ce-sequence"), format!("{sequence:020}"));
            found.push(Mirrored {
                sequence,
                subject: message.subject.to_string(),
                epoch: header("Taffrail-Epoch").parse().unwrap(),
                hash: header("Taffrail-Hash"),
                payload: message.payload.to_vec(),
            });
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Waits until the stream has come as far as the log, then compares all of it.
async fn assert_mirrors(log: &Log, client: &Client, epoch: u64) {
    let head = log.head().await.unwrap();
    assert_eq!(head.epoch, epoch);
    let jetstream = jetstream::new(client.clone());
    until("the stream has come as far as the log", async || {
        let stream = jetstream.get_stream(streams::EVENTS).await;
        stream.is_ok_and(|stream| stream.cached_info().state.last_sequence == head.position)
    })
    .await;
    let events = log.read(0, 1_000_000).await.unwrap();
    let expected: Vec<Mirrored> =
        events.iter().map(|event| Mirrored::expected(event, epoch)).collect();
    let found = mirror(client).await;
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

/// Appends so many events, each to a stream of its own.
async fn append(log: &Log, count: usize) -> Vec<Arc<Recorded>> {
    let event = || {
        Event::Task(TaskEvent::Cancelled(TaskCancelled {
            queue: "default".into(),
            reason: None,
            cascade: true,
        }))
    };
    support::append(log, (0..count).map(|_| (Uuid::new_v4(), vec![event()])).collect()).await
}

/// A relay that runs until dropped.
struct Running {
    relay: Arc<Relay>,
    reader: Reader,
    cancel: CancellationToken,
}

impl Running {
    async fn start(nats: &TestNats, log: &Log) -> Self {
        let client = broker::connect(&nats.url, Some(&nats.token), "relay").await.unwrap();
        let reader = support::reader(log).await;
        let relay = Arc::new(Relay::new(client, reader.clone()));
        let cancel = CancellationToken::new();
        tokio::spawn({
            let (relay, cancel) = (relay.clone(), cancel.clone());
            async move { relay.run(cancel).await }
        });
        Self { relay, reader, cancel }
    }

    /// Appends, and tells this relay's feed as the processor of its process would.
    async fn append(&self, count: usize) {
        let events = append(&self.reader.log, count).await;
        self.reader.feed.publish(&events);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_the_log_and_follows_it() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    append(&log, 3_000).await;
    let running = Running::start(&nats, &log).await;
    let client = nats.client().await;
    assert_mirrors(&log, &client, 1).await;
    // Handed over in memory, and found by asking.
    running.append(700).await;
    append(&log, 300).await;
    assert_mirrors(&log, &client, 1).await;
    let standing = *running.relay.standing().borrow();
    assert_eq!((standing.epoch, standing.relayed), (1, 4_000));
    assert_eq!(running.relay.lag(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_nats_under_load_leaves_no_gap() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    let running = Running::start(&nats, &log).await;
    for round in 0..4 {
        running.append(500).await;
        match round % 2 {
            0 => nats.restart().await,
            _ => nats.kill().await,
        }
        running.append(500).await;
    }
    until("the server is back", async || nats_answers(&nats).await).await;
    assert_mirrors(&log, &nats.client().await, 1).await;
}

async fn nats_answers(nats: &TestNats) -> bool {
    async_nats::ConnectOptions::with_token(nats.token.clone()).connect(&nats.url).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_store_grows_back_identical_under_load() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    let running = Running::start(&nats, &log).await;
    running.append(1_000).await;
    assert_mirrors(&log, &nats.client().await, 1).await;
    let load = async {
        for _ in 0..20 {
            running.append(100).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(load, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        nats.wipe_store_and_restart().await;
    });
    assert_mirrors(&log, &nats.client().await, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_that_is_deleted_purged_or_tampered_with_is_made_anew() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    let running = Running::start(&nats, &log).await;
    running.append(100).await;
    let client = nats.client().await;
    assert_mirrors(&log, &client, 1).await;

    let jetstream = jetstream::new(client.clone());
    jetstream.delete_stream(streams::EVENTS).await.unwrap();
    assert_mirrors(&log, &client, 1).await;

    let stream = jetstream.get_stream(streams::EVENTS).await.unwrap();
    stream.delete_message(50).await.unwrap();
    let remade = || running.relay.counters().remade.load(std::sync::atomic::Ordering::Relaxed);
    until("the hole is noticed", async || remade() == 1).await;
    assert_mirrors(&log, &client, 1).await;

    jetstream.get_stream(streams::EVENTS).await.unwrap().purge().await.unwrap();
    until("the purge is noticed", async || remade() == 2).await;
    assert_mirrors(&log, &client, 1).await;

    let forged = subject::event(&log.read(0, 1).await.unwrap()[0]);
    jetstream.publish(forged, "{}".into()).await.unwrap().await.unwrap();
    until("the foreign message is noticed", async || remade() == 3).await;
    running.append(10).await;
    assert_mirrors(&log, &client, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_at_once_leave_one_identical_stream() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    append(&log, 500).await;
    let (first, second) = tokio::join!(Running::start(&nats, &log), Running::start(&nats, &log));
    for _ in 0..30 {
        let events = append(&log, 100).await;
        first.reader.feed.publish(&events);
        second.reader.feed.publish(&events);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_mirrors(&log, &nats.client().await, 1).await;
    let lost: u64 = [&first, &second]
        .iter()
        .map(|running| {
            running.relay.counters().lost_races.load(std::sync::atomic::Ordering::Relaxed)
        })
        .sum();
    assert!(lost < 60, "{lost} lost races: they spin");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_database_begins_a_new_epoch() {
    let nats = support::nats().await;
    let client = nats.client().await;
    let newer = support::database().await;
    let log = support::log(&newer).await;
    let running = Running::start(&nats, &log).await;
    running.append(200).await;
    assert_mirrors(&log, &client, 1).await;
    drop(running);

    // Shorter than the stream: the stream is ahead.
    let older = support::database().await;
    let log = support::log(&older).await;
    append(&log, 50).await;
    let reader = support::reader(&log).await;
    let relay = Relay::new(client.clone(), reader);
    let standing = relay.reconcile().await.unwrap();
    assert_eq!((standing.epoch, standing.relayed), (2, 0));
    let running = Running::start(&nats, &log).await;
    assert_mirrors(&log, &client, 2).await;
    drop(running);

    // Longer, but with another past: the hashes differ. Its own epoch is older, too.
    let other = support::database().await;
    let log = support::log(&other).await;
    append(&log, 120).await;
    let running = Running::start(&nats, &log).await;
    until("the epochs are told apart", async || log.head().await.unwrap().epoch == 3).await;
    assert_mirrors(&log, &client, 3).await;
    running.append(10).await;
    assert_mirrors(&log, &client, 3).await;
    drop(running);

    // A generation that somebody else began: the stream follows it.
    log.bump_epoch().await.unwrap();
    let running = Running::start(&nats, &log).await;
    until("the new epoch is carried", async || running.relay.standing().borrow().epoch == 4).await;
    assert_mirrors(&log, &client, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_relay_notices_an_older_copy() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    let running = Running::start(&nats, &log).await;
    running.append(100).await;
    let client = nats.client().await;
    assert_mirrors(&log, &client, 1).await;
    // What putting back a copy taken at position 60 leaves behind.
    db.sql(
        "ALTER TABLE events DISABLE TRIGGER USER; DELETE FROM events WHERE position > 60; \
         ALTER TABLE events ENABLE TRIGGER USER; UPDATE log_head SET position = 60;",
    )
    .await;
    until("the new epoch begins", async || log.head().await.unwrap().epoch == 2).await;
    assert_mirrors(&log, &client, 2).await;
    running.append(20).await;
    assert_mirrors(&log, &client, 2).await;
    assert_eq!(running.reader.feed.head(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_to_postgresql_are_waited_out() {
    let (db, nats) = (support::database().await, support::nats().await);
    let log = support::log(&db).await;
    let running = Running::start(&nats, &log).await;
    for _ in 0..5 {
        append(&log, 100).await;
        db.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_mirrors(&log, &nats.client().await, 1).await;
    drop(running);
}
