//! The servers as `taffrail up` and every other test here use them: real processes, real
//! crashes.
//!
//! Every test has a folder of its own; the programs and the prepared cluster come from the
//! cache, which the first start fills.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use servers::{DataDir, Embedded, LockError, Nats, Options, Programs, ServerState};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// Long enough for a loaded machine, short enough to notice a hang.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn data_addresses_and_secrets_survive_a_stop() {
    let folder = Folder::new();
    let (options, programs) = found().await;

    let data = DataDir::lock(&folder.0).unwrap();
    let first = Embedded::start(&programs, &data, &options).await.unwrap();
    let (postgres, nats) = (first.postgres(), first.nats());
    sql(&postgres.url(&postgres.database), "CREATE TABLE kept AS SELECT 7 AS answer").await;
    let pids = [first.postgres_pid().unwrap(), first.nats_pid().unwrap()];
    assert!(first.healthy().borrow().ready());
    let stopped = first.stop().await;
    assert!(stopped.postgres.clean && stopped.nats.clean, "{stopped:?}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)));

    let second = Embedded::start(&programs, &data, &options).await.unwrap();
    assert_eq!((second.postgres(), second.nats()), (postgres.clone(), nats));
    let kept = sql(&postgres.url(&postgres.database), "SELECT answer FROM kept").await;
    assert_eq!(kept.as_deref(), Some("7"));
    second.stop().await;
}

#[tokio::test]
async fn a_second_holder_of_the_folder_is_told_who_the_first_is() {
    let folder = Folder::new();
    let data = DataDir::lock(&folder.0).unwrap();
    data.note_holder("http://127.0.0.1:7117");
    let Err(LockError::Held { holder, .. }) = DataDir::lock(&folder.0) else {
        panic!("two holders of one folder");
    };
    assert_eq!(holder, format!("pid {}, http://127.0.0.1:7117", std::process::id()));
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let folder = Folder::new();
    let (options, programs) = found().await;
    let data = DataDir::lock(&folder.0).unwrap();
    let servers = Embedded::start(&programs, &data, &options).await.unwrap();
    let address = servers.postgres();
    let wrong = address.url("postgres").replace(&address.password, "guess");
    let error = tokio_postgres::connect(&wrong, NoTls).await.err().unwrap();
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INVALID_PASSWORD));
    servers.stop().await;
}

#[tokio::test]
async fn a_killed_postgres_comes_back_at_the_same_address() {
    let folder = Folder::new();
    let (options, programs) = found().await;
    let data = DataDir::lock(&folder.0).unwrap();
    let servers = Embedded::start(&programs, &data, &options).await.unwrap();
    let url = servers.postgres().url("taffrail");
    sql(&url, "CREATE TABLE kept AS SELECT 7 AS answer").await;
    // A statement in flight keeps its backend busy, and the shared memory in use.
    let busy = tokio::spawn(sleep_in_postgres(url.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;

    let mut health = servers.healthy();
    let before = servers.postgres_pid().unwrap();
    kill(before);
    let down = |health: &servers::Health| health.postgres == ServerState::Restarting;
    in_time(health.wait_for(down)).await.unwrap();
    in_time(health.wait_for(|health| health.ready())).await.unwrap();

    assert_ne!(servers.postgres_pid(), Some(before));
    assert_eq!(sql(&url, "SELECT answer FROM kept").await.as_deref(), Some("7"));
    busy.abort();
    servers.stop().await;
}

#[tokio::test]
async fn a_killed_nats_comes_back_at_the_same_address() {
    let folder = Folder::new();
    let (options, programs) = found().await;
    let nats = Nats::start(&programs.nats, &folder.0, &options).await.unwrap();
    let address = nats.address();
    let before = nats.pid().unwrap();
    nats.kill();
    in_time(async {
        while nats.pid().is_none_or(|pid| pid == before) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(listens(&address.url));

    // And by hand: down for as long as it is told to.
    assert!(nats.halt().await.clean);
    assert!(!listens(&address.url));
    nats.restart().await.unwrap();
    assert!(listens(&address.url));
    nats.stop().await;
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_behind() {
    let folder = Folder::new();
    let (options, programs) = found().await;
    let nats = Nats::start(&programs.nats, &folder.0, &options).await.unwrap();
    let pid = nats.pid().unwrap();
    drop(nats);
    in_time(gone(pid)).await;
}

#[tokio::test]
async fn secrets_are_in_no_argument_and_no_log() {
    let folder = Folder::new();
    let (options, programs) = found().await;
    let data = DataDir::lock(&folder.0).unwrap();
    let servers = Embedded::start(&programs, &data, &options).await.unwrap();
    let secrets = [servers.postgres().password, servers.nats().token];
    let mut seen = String::new();
    for pid in [servers.postgres_pid().unwrap(), servers.nats_pid().unwrap()] {
        seen += &std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    }
    for log in ["postgres.log", "nats.log"] {
        seen += &std::fs::read_to_string(data.path().join("logs").join(log)).unwrap();
    }
    assert!(secrets.iter().all(|secret| !secret.is_empty() && !seen.contains(secret.as_str())));
    servers.stop().await;
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("taffrail-servers-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn found() -> (Options, Programs) {
    let options = Options::from_env(Path::new(env!("CARGO_BIN_EXE_taffrail")));
    let wanted = options.clone();
    let programs = tokio::task::spawn_blocking(move || servers::locate(&wanted)).await.unwrap();
    (options, programs.unwrap_or_else(|error| panic!("{error}")))
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("takes too long")
}

/// Runs one statement; the first column of the first row as text.
async fn sql(url: &str, statement: &str) -> Option<String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(statement).await.unwrap();
    connection.abort();
    messages.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0).map(str::to_owned)
    })
}

async fn sleep_in_postgres(url: String) {
    let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return };
    tokio::spawn(connection);
    let count = "SELECT count(*) FROM generate_series(1, 10000000000)";
    drop(client.simple_query(count).await); // ends by the crash
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// A zombie is not alive, whoever has yet to reap it.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn gone(pid: u32) {
    let started = Instant::now();
    while is_alive(pid) {
        assert!(started.elapsed() < SOON, "{pid} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn listens(url: &str) -> bool {
    std::net::TcpStream::connect(url.trim_start_matches("nats://")).is_ok()
}
