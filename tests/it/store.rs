//! The event store alone: KRN-1, KRN-7, KRN-11.

use std::time::Duration;

use domain::task::{SubmitTask, TaskCommand};
use domain::{Aggregate, Command, Event, Facts, StreamType, TenantId, Timestamp};
use store::{Leases, StoreError};
use uuid::Uuid;

use crate::support::{self, TestDb};

fn submitted(title: &str) -> Event {
    let command = Command::from(TaskCommand::Submit(SubmitTask::titled(title)));
    let facts = Facts::new(Timestamp::UNIX_EPOCH, "test");
    let mut events = Aggregate::new(StreamType::Task).decide(&command, &facts).unwrap();
    events.remove(0)
}

#[tokio::test]
async fn positions_are_contiguous_and_the_bytes_are_those_that_were_hashed() {
    let db = support::database().await;
    let log = support::log(&db).await;
    for batch in 0..5 {
        let streams = (0..=batch).map(|n| (Uuid::new_v4(), vec![submitted(&format!("{n}"))]));
        support::append(&log, streams.collect()).await;
    }
    let events = log.read(0, 100).await.unwrap();
    assert_eq!(events.len(), 15);
    for (position, event) in (1..).zip(&events) {
        assert_eq!(event.position, position);
        assert_eq!(event.hash, event.expected_hash());
        assert_eq!(event.event().unwrap().payload(), &event.payload[..]);
    }
    assert!(events.windows(2).all(|pair| pair[0].recorded_at <= pair[1].recorded_at));
    let shown = db.sql("SELECT payload->>'title' FROM event_log WHERE position = 15").await;
    assert_eq!(shown.as_deref(), Some("4"));
}

#[tokio::test]
async fn the_database_refuses_changes_of_the_log_also_to_its_owner() {
    let db = support::database().await;
    let log = support::log(&db).await;
    support::append(&log, vec![(Uuid::new_v4(), vec![submitted("kept")])]).await;
    for table in ["events", "command_results"] {
        for change in [
            format!("UPDATE {table} SET actor = 'x'"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
        ] {
            for url in [&db.admin_url, &db.service_url, &db.gateway_url] {
                let refusal = TestDb::refused(url, &change).await;
                assert!(refusal.is_some(), "{change} passed");
            }
        }
    }
    assert_eq!(db.sql("SELECT actor FROM events").await.as_deref(), Some("test"));
}

#[tokio::test]
async fn the_services_own_nothing() {
    let db = support::database().await;
    let owned = db
        .sql(
            "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
             WHERE r.rolname LIKE 'taffrail\\_%'",
        )
        .await;
    assert_eq!(owned.as_deref(), Some("0"));
    for url in [&db.service_url, &db.gateway_url] {
        assert!(TestDb::refused(url, "CREATE TABLE mine ()").await.is_some());
    }
}

#[tokio::test]
async fn the_gateway_sees_no_tenant_but_the_one_it_names() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let other = TenantId::parse("other").unwrap();
    support::append(&log, vec![(Uuid::new_v4(), vec![submitted("ours")])]).await;
    support::append_as(&log, &other, vec![(Uuid::new_v4(), vec![submitted("theirs")])]).await;
    let (gateway, connection) =
        tokio_postgres::connect(&db.gateway_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let count = async |tenant: Option<&str>| -> i64 {
        gateway.batch_execute("BEGIN").await.unwrap();
        if let Some(tenant) = tenant {
            let sql = "SELECT set_config('app.tenant', $1, true)";
            gateway.query_one(sql, &[&tenant]).await.unwrap();
        }
        let row = gateway.query_one("SELECT count(*) FROM events", &[]).await.unwrap();
        gateway.batch_execute("COMMIT").await.unwrap();
        row.get(0)
    };
    assert_eq!(count(None).await, 0);
    assert_eq!(count(Some("other")).await, 1);
    // After the transaction the setting is empty, not unset: still no rows.
    assert_eq!(count(None).await, 0);
    assert_eq!(count(Some("")).await, 0);
}

#[tokio::test]
async fn a_stale_token_appends_nothing() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let leases = Leases::new(log.pool().clone());
    let ttl = Duration::from_secs(60);
    let old = leases.acquire("processor", "a", ttl, false).await.unwrap().unwrap();
    assert_eq!(leases.acquire("processor", "b", ttl, false).await.unwrap(), None);
    let new = leases.acquire("processor", "b", ttl, true).await.unwrap().unwrap();
    assert!(new.token > old.token);
    assert!(leases.renew(&old, ttl).await.unwrap().is_none());

    let writer = log.writer().await.unwrap();
    let nothing = store::Append::default();
    let refused = writer.append(old.token, &nothing).await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
    let base = writer.append(new.token, &nothing).await.unwrap().base;
    assert_eq!(base, 0);
}

#[tokio::test]
async fn a_lost_race_for_a_version_writes_nothing() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let stream = Uuid::new_v4();
    support::append(&log, vec![(stream, vec![submitted("first")])]).await;
    let leases = Leases::new(log.pool().clone());
    let lease = leases.acquire("processor", "x", Duration::from_secs(60), true).await.unwrap();
    let mut batch = store::Append::default();
    for id in [Uuid::new_v4(), stream] {
        batch.events.push(support::new_event(id, 1, submitted("second")).hashed());
    }
    let writer = log.writer().await.unwrap();
    let error = writer.append(lease.unwrap().token, &batch).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(log.head().await.unwrap().position, 1);
    assert_eq!(log.read(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_snapshot_changes_no_fold() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let key = (TenantId::default_tenant(), Uuid::new_v4());
    support::append(&log, vec![(key.1, vec![submitted("long")])]).await;
    let whole = log.rehydrate(std::slice::from_ref(&key)).await.unwrap();
    log.keep_snapshot(&key, &whole.streams[&key]).await.unwrap();
    let ended = Event::decode(StreamType::Task, "cancelled", 1, br#"{"queue":"default"}"#).unwrap();
    support::append(&log, vec![(key.1, vec![ended])]).await;

    let from_snapshot = log.rehydrate(std::slice::from_ref(&key)).await.unwrap();
    db.sql("DELETE FROM snapshots").await;
    let from_start = log.rehydrate(std::slice::from_ref(&key)).await.unwrap();
    assert_eq!(from_snapshot.streams[&key].version, 2);
    assert_eq!(from_snapshot.streams[&key].state, from_start.streams[&key].state);
    // One of another fold is ignored, not trusted.
    log.keep_snapshot(&key, &whole.streams[&key]).await.unwrap();
    db.sql("UPDATE snapshots SET fold = 'older', state = '\\x7b7d'").await;
    let ignored = log.rehydrate(std::slice::from_ref(&key)).await.unwrap();
    assert_eq!(ignored.streams[&key].state, from_start.streams[&key].state);
}

#[tokio::test]
async fn an_unfit_server_is_refused_with_the_remedy() {
    let db = support::database().await;
    let (client, connection) =
        tokio_postgres::connect(&db.service_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    store::check_server(&client).await.unwrap();
    client.batch_execute("SET synchronous_commit = off").await.unwrap();
    let refusal = store::check_server(&client).await.unwrap_err().to_string();
    assert!(refusal.contains("synchronous_commit is `off`"), "{refusal}");
}

#[tokio::test]
async fn a_gateway_that_would_see_every_tenant_is_refused() {
    let db = support::database().await;
    let check = async |url: &str| {
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        store::check_tenant_wall(&client).await.map_err(|error| error.to_string())
    };
    check(&db.gateway_url).await.unwrap();
    assert!(check(&db.service_url).await.unwrap_err().contains("taffrail_service"));
    assert!(check(&db.admin_url).await.is_err());
    db.sql("ALTER TABLE read.tasks DISABLE ROW LEVEL SECURITY").await;
    assert!(check(&db.gateway_url).await.unwrap_err().contains("read.tasks"));
}

#[tokio::test]
async fn a_cursor_behind_all_that_can_be_finds_nothing() {
    let db = support::database().await;
    let log = support::log(&db).await;
    support::append(&log, vec![(Uuid::new_v4(), vec![submitted("one")])]).await;
    let reader = support::reader(&log).await;
    for cursor in [2, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        assert!(reader.after(cursor, 10).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_server_that_may_lose_commits_is_refused_with_the_remedy() {
    let server = support::postgres_of_its_own().await;
    let url = server.address().url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for name in ["fsync", "full_page_writes"] {
        let change = format!("ALTER SYSTEM SET {name} = off");
        client.batch_execute(&change).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        support::until("the setting is in force", async || {
            let sql = format!("SELECT current_setting('{name}')");
            client.query_one(&sql, &[]).await.unwrap().get::<_, &str>(0) == "off"
        })
        .await;
        let refusal = store::check_server(&client).await.unwrap_err().to_string();
        assert!(refusal.contains(&format!("{name}=off")), "{refusal}");
        assert!(refusal.contains(&format!("ALTER SYSTEM SET {name} = on")), "{refusal}");
        client.batch_execute(&format!("ALTER SYSTEM RESET {name}")).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        support::until("the setting is back", async || store::check_server(&client).await.is_ok())
            .await;
    }
    support::stop_postgres(server).await;
}

#[tokio::test]
async fn a_scan_reads_what_pages_read() {
    let db = support::database().await;
    let log = support::log(&db).await;
    let streams = (0..700).map(|_| (Uuid::new_v4(), crate::engine::done("t"))).collect();
    support::append(&log, streams).await;
    // With and without what may be absent.
    db.sql(
        "ALTER TABLE events DISABLE TRIGGER append_only;
         UPDATE events SET correlation_id = event_id, causation_position = 7, trace = 'a-b'
         WHERE position % 2 = 0",
    )
    .await;
    let paged = log.read(10, 5_000).await.unwrap();
    let mut scan = log.scan(10, 2_790);
    let mut scanned = Vec::new();
    loop {
        let page = scan.next().await.unwrap();
        if page.is_empty() {
            break;
        }
        scanned.extend(page);
    }
    assert_eq!(scanned.len(), 2_780);
    for (one, other) in scanned.iter().zip(&paged) {
        assert_eq!(one.event().unwrap(), other.event().unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }
    assert!(log.scan(2_800, 9_000).next().await.unwrap().is_empty(), "behind the end is nothing");

    db.sql("DELETE FROM events WHERE position = 500").await;
    let mut scan = log.scan(0, 2_800);
    let hole = loop {
        match scan.next().await {
            Ok(page) => assert!(!page.is_empty(), "the hole was passed over"),
            Err(error) => break error,
        }
    };
    assert!(matches!(hole, StoreError::Hole { expected: 500, found: 501 }), "{hole}");
}
