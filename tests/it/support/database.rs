//! A migrated database per test, on the one PostgreSQL of the run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use commands::{Clock, Executor, Processor, ProcessorConfig};
use domain::{Event, Recorded, TenantId, Timestamp, event_id};
use servers::Postgres;
use store::{Append, Feed, Leases, Log, NewEvent, Reader};
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{background, programs, run_dir, unique};

const TEMPLATE: &str = "taffrail_template";

/// A database of a test's own.
#[derive(Clone)]
pub struct TestDb {
    pub name: String,
    pub admin_url: String,
    pub service_url: String,
    pub gateway_url: String,
}

async fn postgres() -> &'static Postgres {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            let starting = background().spawn(async {
                let (options, programs) = programs();
                let dir = run_dir().join("postgres");
                Postgres::start(&programs.postgres, &dir, options).await.unwrap()
            });
            let server = starting.await.unwrap();
            sql(&server.address().url("postgres"), &format!("CREATE DATABASE {TEMPLATE}")).await;
            migrations::migrate(&server.address().url(TEMPLATE)).await.unwrap();
            server
        })
        .await
}

/// A PostgreSQL for a test that changes the server itself.
pub async fn postgres_of_its_own() -> Postgres {
    let dir = run_dir().join(format!("postgres-{}", unique()));
    let starting = background().spawn(async move {
        let (options, programs) = programs();
        Postgres::start(&programs.postgres, &dir, options).await.unwrap()
    });
    starting.await.unwrap()
}

/// Ends a server of a test's own.
pub async fn stop_postgres(server: Postgres) {
    background().spawn(async move { server.stop().await }).await.unwrap();
}

/// A fresh, migrated database.
pub async fn database() -> TestDb {
    // A template must have no other session while it is copied.
    static COPYING: Mutex<()> = Mutex::const_new(());
    let server = postgres().await;
    let name = format!("test_{}", unique());
    {
        let _one_at_a_time = COPYING.lock().await;
        let copy = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
        sql(&server.address().url("postgres"), &copy).await;
    }
    let admin_url = server.address().url(&name);
    let urls = migrations::service_urls(&admin_url).unwrap();
    TestDb { name, admin_url, service_url: urls.service, gateway_url: urls.gateway }
}

impl TestDb {
    /// The database of a product.
    pub fn at(admin_url: &str) -> Self {
        let urls = migrations::service_urls(admin_url).unwrap();
        let (service_url, gateway_url) = (urls.service, urls.gateway);
        Self { name: String::new(), admin_url: admin_url.into(), service_url, gateway_url }
    }

    /// Runs statements as the owner; the first value of the last row, if any.
    pub async fn sql(&self, statements: &str) -> Option<String> {
        sql(&self.admin_url, statements).await
    }

    /// Runs statements as a service would, and tells whether they were refused.
    pub async fn refused(url: &str, statements: &str) -> Option<String> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query(statements).await.err().map(|error| {
            error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
        })
    }
}

async fn sql(url: &str, statements: &str) -> Option<String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(statements).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    messages.into_iter().rev().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// The log of a test's database, as the service sees it.
pub async fn log(db: &TestDb) -> Log {
    Log::new(store::connect_pool(&db.service_url, 8).unwrap(), &db.service_url)
}

/// A reader of a log with a feed of its own.
pub async fn reader(log: &Log) -> Reader {
    Reader { log: log.clone(), feed: Feed::at(log.head().await.unwrap().position) }
}

/// Appends events to the default tenant's streams, as a processor would.
pub async fn append(log: &Log, streams: Vec<(Uuid, Vec<Event>)>) -> Vec<Arc<Recorded>> {
    append_as(log, &TenantId::default_tenant(), streams).await
}

/// Appends events to a tenant's streams.
pub async fn append_as(
    log: &Log,
    tenant: &TenantId,
    streams: Vec<(Uuid, Vec<Event>)>,
) -> Vec<Arc<Recorded>> {
    let leases = Leases::new(log.pool().clone());
    let lease = leases.acquire("processor", "test", Duration::from_secs(60), true).await.unwrap();
    let token = lease.unwrap().token;
    let mut batch = Append::default();
    for (stream_id, events) in streams {
        let known = log.read_stream(tenant, stream_id, 0, 100_000).await.unwrap();
        let mut version = known.last().map_or(0, |event| event.version);
        for event in events {
            version += 1;
            let mut new = new_event(stream_id, version, event);
            new.tenant = tenant.clone();
            batch.events.push(new.hashed());
        }
    }
    let written = log.writer().await.unwrap().append(token, &batch).await.unwrap();
    batch.recorded(written)
}

/// An event that nobody decided, for a stream of the default tenant.
pub fn new_event(stream_id: Uuid, version: u64, event: Event) -> NewEvent {
    let command_id = Uuid::new_v4();
    NewEvent {
        tenant: TenantId::default_tenant(),
        stream_type: event.stream_type(),
        stream_id,
        version,
        event_type: event.name(),
        schema_version: event.schema_version(),
        event_id: event_id(command_id, 0),
        command_id,
        actor: "test".into(),
        correlation_id: None,
        causation_position: None,
        trace: None,
        occurred_at: Timestamp::UNIX_EPOCH + chrono::Duration::seconds(version as i64),
        payload: Bytes::from(event.payload()),
        event,
    }
}

/// A running processor on a test's database.
pub struct TestProcessor {
    pub door: Processor,
    pub feed: Feed,
    pub log: Log,
    pub cancel: CancellationToken,
    pub done: tokio::task::JoinHandle<()>,
}

impl TestProcessor {
    pub fn executor(&self) -> Arc<dyn Executor> {
        Arc::new(self.door.clone())
    }

    pub fn reader(&self) -> Reader {
        Reader { log: self.log.clone(), feed: self.feed.clone() }
    }

    /// Drains it and waits for its end.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.done.await.unwrap();
    }
}

/// Starts a processor and waits until it decides.
pub async fn processor(db: &TestDb) -> TestProcessor {
    let processor = processor_with(db, ProcessorConfig::default(), true).await;
    let mut active = processor.door.active();
    active.wait_for(|active| *active).await.unwrap();
    processor
}

/// Starts a processor; `force` takes the lease from whoever holds it.
pub async fn processor_with(db: &TestDb, config: ProcessorConfig, force: bool) -> TestProcessor {
    let log = log(db).await;
    let feed = Feed::at(log.head().await.unwrap().position);
    let clock = Clock::read_at(Timestamp::UNIX_EPOCH);
    let (door, role) = commands::processor(log.clone(), feed.clone(), clock, config);
    let cancel = CancellationToken::new();
    let holder = format!("test {}", unique());
    let done = tokio::spawn({
        let cancel = cancel.clone();
        async move { role.run(&holder, force, cancel).await }
    });
    TestProcessor { door, feed, log, cancel, done }
}
