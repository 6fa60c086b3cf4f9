//! The sealer on its own database: what it writes, and what it does after a crash, a restore
//! and a change behind its back. TIM-3.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commands::Clock;
use domain::Timestamp;
use replay::seal::key::{KEY_FILE, next_path, read_public, write_new};
use replay::seal::tree::{consistent, included};
use replay::seal::{Kind, Outside, Seal, SealFile, Sealer, Table};
use store::{Leases, Log};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::done;
use crate::support::{self, TestDb, run_dir, unique, until};

struct Sealing {
    sealer: Arc<Sealer>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Sealing {
    async fn on(log: &Log, folder: &std::path::Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let leases = Leases::new(log.pool().clone());
        let lease = leases.acquire("sealer", "test", Duration::from_secs(60), true).await.unwrap();
        let outside: Vec<Arc<dyn Outside>> = vec![Arc::new(SealFile::of(folder))];
        let clock = Clock::read_at(Timestamp::UNIX_EPOCH);
        let reader = support::reader(log).await;
        let sealer = Sealer::new(reader, clock, folder.join(KEY_FILE), outside).unwrap();
        let (sealer, cancel) = (Arc::new(sealer), CancellationToken::new());
        let task = tokio::spawn({
            let (sealer, cancel, token) = (sealer.clone(), cancel.clone(), lease.unwrap().token);
            async move { sealer.run(token, cancel).await }
        });
        Self { sealer, cancel, task }
    }

    async fn up_to(&self, position: u64) {
        let sealed = self.sealer.sealed();
        until("it is sealed", async || sealed.borrow().position >= position).await;
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

fn folder() -> PathBuf {
    run_dir().join(format!("sealer-{}", unique()))
}

async fn append(log: &Log, tasks: usize) -> u64 {
    let tasks = (0..tasks).map(|n| (Uuid::new_v4(), done(&format!("sealed {n}"))));
    support::append(log, tasks.collect()).await.last().unwrap().position
}

fn published(folder: &std::path::Path) -> Vec<Seal> {
    SealFile::of(folder).read().unwrap()
}

/// As the owner, behind the guards.
async fn behind(db: &TestDb, statements: &str) {
    db.sql(&format!("SET session_replication_role = replica; {statements}")).await;
}

#[tokio::test]
async fn what_is_sealed_is_proven_event_by_event_and_size_by_size() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let folder = folder();
    let first = append(&log, 20).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(first).await;
    // More than a kept node's leaves, in steps of their own.
    let head = append(&log, 400).await;
    sealing.up_to(head).await;
    sealing.stop().await;

    let table = Table::new(log.pool().clone());
    let seals = table.after(0, 100).await.unwrap();
    let last = seals.last().unwrap().clone();
    assert_eq!((last.size, seals.first().unwrap().size), (head, first));
    assert_eq!(published(&folder), seals, "the same outside");
    for event in log.read(0, 10_000).await.unwrap() {
        let position = event.position;
        if position > 8 && position < head - 8 && !position.is_multiple_of(17) {
            continue;
        }
        let (leaf, path) = table.inclusion(position, head).await.unwrap();
        assert_eq!(leaf, replay::seal::leaf::leaf_of(&event));
        assert_eq!(included(position - 1, head, leaf, &path), Some(last.root), "{position}");
    }
    for size in [1, 2, first, 255, 256, 257, 511, 512, 513, head - 1, head] {
        let (old, path) =
            (table.root(size).await.unwrap(), table.consistency(size, head).await.unwrap());
        assert!(consistent(size, &old, head, &last.root, &path), "{size}");
    }
    let kept = db.sql("SELECT count(*) FROM seal_nodes WHERE height = 8").await.unwrap();
    assert_eq!(kept, (head / 256).to_string());
    // Nobody changes a seal, not even the one who wrote it.
    for change in ["UPDATE seals SET size = 1", "DELETE FROM seals", "TRUNCATE seals"] {
        for url in [&db.service_url, &db.admin_url, &db.gateway_url] {
            assert!(TestDb::refused(url, change).await.is_some(), "{change}");
        }
    }
}

#[tokio::test]
async fn a_backlog_is_sealed_in_steps_and_a_standby_without_the_lease_writes_nothing() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let head = append(&log, 1_500).await;
    let folder = folder();
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(head).await;
    let size = || published(&folder).last().map_or(0, |seal| seal.size);
    until("it is published", async || size() == head).await;
    let seals = published(&folder);
    assert!(seals.iter().all(|seal| seal.size > 0) && seals.last().unwrap().size == head);
    // Another one takes the lease: what the first still tries is refused.
    let leases = Leases::new(log.pool().clone());
    leases.acquire("sealer", "other", Duration::from_secs(60), true).await.unwrap();
    append(&log, 1_200).await;
    // Longer than an interval: it has tried by then.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let last = Table::new(log.pool().clone()).last().await.unwrap().unwrap();
    assert_eq!(last.size, head, "written without the lease");
    assert_eq!(published(&folder).last().unwrap().size, head);
    sealing.stop().await;
}

#[tokio::test]
async fn seals_that_a_crash_took_from_the_database_come_back_from_outside() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let folder = folder();
    let first = append(&log, 10).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(first).await;
    let second = append(&log, 300).await;
    sealing.up_to(second).await;
    sealing.stop().await;
    let seals = published(&folder);
    assert!(seals.len() >= 2);
    behind(&db, "DELETE FROM seals WHERE number > 1; DELETE FROM seal_nodes").await;

    let third = append(&log, 5).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(third).await;
    sealing.stop().await;
    let again = Table::new(log.pool().clone()).after(0, 100).await.unwrap();
    assert_eq!(again[..seals.len()], seals[..], "the very same");
    assert_eq!(again, published(&folder));
    assert!(again.iter().all(|seal| seal.left.is_none() && seal.epoch == 1), "one chain");
}

#[tokio::test]
async fn after_a_restore_a_new_chain_names_where_it_left_the_old_one() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let folder = folder();
    let kept = append(&log, 10).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(kept).await;
    let lost = append(&log, 10).await;
    sealing.up_to(lost).await;
    sealing.stop().await;
    let before = published(&folder);
    // An older copy is put back: events, seals and head as they were.
    behind(
        &db,
        &format!(
            "DELETE FROM events WHERE position > {kept}; DELETE FROM seals WHERE size > {kept};
             UPDATE log_head SET position = {kept}"
        ),
    )
    .await;
    let head = append(&log, 3).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(head).await;
    sealing.stop().await;
    let seals = published(&folder);
    let (old, new) = seals.split_at(before.len());
    assert_eq!(old, before, "what was published stays");
    let left = new[0].left.unwrap();
    assert_eq!((left.number, left.size, left.sealed), (1, kept, lost));
    assert_eq!(left.hash, seals[0].hash());
    assert_eq!((new[0].epoch, new[0].number), (2, before.len() as u64 + 1));
    assert_eq!(log.head().await.unwrap().epoch, 2);
    assert!(new[1..].iter().all(|seal| seal.left.is_none()));
}

#[tokio::test]
async fn nothing_is_sealed_on_top_of_what_was_changed_and_wrong_nodes_are_made_anew() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let folder = folder();
    let head = append(&log, 200).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(head).await;
    sealing.stop().await;
    // Nodes are a cache: one that is wrong is no alarm.
    behind(&db, "UPDATE seal_nodes SET hash = sha256('x') WHERE height = 8 AND index = 1").await;
    let sealing = Sealing::on(&log, &folder).await;
    let more = append(&log, 1).await;
    sealing.up_to(more).await;
    sealing.stop().await;
    let table = Table::new(log.pool().clone());
    let last = table.last().await.unwrap().unwrap();
    assert_eq!(table.root(more).await.unwrap(), last.root);

    behind(&db, "UPDATE events SET recorded_at = recorded_at + interval '1 us' WHERE position = 9; DELETE FROM seal_nodes").await;
    append(&log, 1).await;
    let sealing = Sealing::on(&log, &folder).await;
    let sealed = sealing.sealer.sealed();
    until("it stands still", async || sealed.borrow().failing).await;
    assert_eq!(table.last().await.unwrap().unwrap(), last);
    // Put right again, it goes on by itself.
    behind(&db, "UPDATE events SET recorded_at = recorded_at - interval '1 us' WHERE position = 9")
        .await;
    sealing.up_to(more + 1).await;
    assert!(!sealing.sealer.sealed().borrow().failing);
    sealing.stop().await;
}

#[tokio::test]
async fn a_key_is_followed_by_the_next_one_that_both_sign_for() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let folder = folder();
    let first = append(&log, 3).await;
    let sealing = Sealing::on(&log, &folder).await;
    sealing.up_to(first).await;
    let path = folder.join(KEY_FILE);
    let old = read_public(&path).unwrap()[0];
    let next = replay::seal::key::fresh();
    write_new(&next_path(&path), &next).unwrap();
    until("it took the key", async || !next_path(&path).exists()).await;
    let second = append(&log, 3).await;
    sealing.up_to(second).await;
    sealing.stop().await;
    let new = next.verifying_key().to_bytes();
    assert_eq!(read_public(&path).unwrap(), [new]);
    let seals = published(&folder);
    let kinds: Vec<_> = seals.iter().map(|seal| (seal.kind, seal.key)).collect();
    assert_eq!(kinds, [(Kind::Seal, old), (Kind::Rotation, old), (Kind::Seal, new)]);
    assert_eq!(seals[1].next.unwrap().key, new);
    // Whoever knows the first key alone can follow.
    let mut chain = replay::seal::chain::Chain::trusting(&[old]);
    seals.iter().for_each(|seal| chain.push(seal).unwrap());
    let mut chain = replay::seal::chain::Chain::trusting(&[new]);
    assert!(chain.push(&seals[0]).unwrap_err().contains("none of those given"));
}
