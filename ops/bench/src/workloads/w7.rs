//! W7: a start on a data folder that has a history, and what a server holds in memory.
//!
//! The log is filled while only the private PostgreSQL runs; a first start relays and
//! projects it. Then the server is ended, with SIGTERM or with -9 (its PostgreSQL and
//! nats-server die with it), and started again; two impatient callers, one over HTTP and one
//! over NATS, send a command from the moment of the start on.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use ::commands::Ids;
use anyhow::{Context as _, ensure};
use domain::StreamType;
use hyper::{Method, StatusCode};
use servers::{DataDir, Embedded};
use store::Log;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::fill::{self, Filled, Plan};
use super::w2_agent::{Wire, body};
use super::{settle, settle::number};
use crate::cell::{Cell, Context, Host, Params};
use crate::commands::tenant;
use crate::counters::resident;
use crate::http::Connection;
use crate::line::median;
use crate::load::Samples;
use crate::server::Server;
use crate::target::Target;

/// Events of the log: all, and those of a quick look.
const EVENTS: (u64, u64) = (1_000_000, 50_000);
/// One task in ten events is open.
const OPEN: u64 = 10;
/// Restarts of one round.
const RESTARTS: u32 = 3;
/// How long relay and read models may take for the whole log.
const CATCH_UP: Duration = Duration::from_secs(900);
/// How long a command may stay without an answer after a start.
const PATIENCE: Duration = Duration::from_secs(120);
/// One try of a caller who does not know whether anybody listens yet.
const ONE_TRY: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// What a server may do by itself after a start before its memory is looked at.
const REST: Duration = Duration::from_secs(2);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let restart = |how: End| {
        let params =
            Params::default().with("end", if how == End::Killed { "kill -9" } else { "SIGTERM" });
        Cell::new("restart", "W7", params, move |context| run(context, how))
            .host(Host::Bare)
            .unit("restarts")
    };
    let idle = Cell::new("restart", "W7", Params::default().with("memory", "idle"), idle);
    vec![restart(End::Killed).main(), restart(End::Asked), idle.unit("looks").main()]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Asked,
}

/// The memory of a server that was just started and has nothing to do.
async fn idle(context: Context) -> anyhow::Result<Samples> {
    let begun = Instant::now();
    sleep(REST).await;
    let pid = context.target.pid;
    context.budget.probe.open().await;
    sleep(context.budget.measure).await;
    context.budget.probe.close().await;
    Ok(Samples::timed(1, begun.elapsed()).with("resident_mb", megabytes(pid)))
}

async fn run(context: Context, how: End) -> anyhow::Result<Samples> {
    let folder = context.folder.join("up");
    let events = if context.quick { EVENTS.1 } else { EVENTS.0 };
    let filled = filled(&context, &folder, Plan::of_events(events, events / OPEN)).await?;
    let program = context.product.program().to_owned();

    let begun = Instant::now();
    let server = Server::start(&program, &folder, &[]).await?;
    let first_ready = begun.elapsed();
    let target = Target::outside(server);
    settle::settled(&target, CATCH_UP).await?;
    let caught_up = begun.elapsed();
    check(&target, filled.tasks).await?;
    let mut samples = Samples::default()
        .with("events", filled.head as f64)
        .with("open_tasks", (events / OPEN) as f64)
        .with("first_start_ready_s", first_ready.as_secs_f64())
        .with("caught_up_s", caught_up.as_secs_f64())
        .with("resident_mb_caught_up", megabytes(target.pid));

    let mut target = target;
    let (mut ready, mut over_nats, mut over_http) = (Vec::new(), Vec::new(), Vec::new());
    let mut tasks = filled.tasks;
    for _ in 0..RESTARTS {
        // What a running server would have written out by now; the crash finds the rest.
        target.database().await?.batch_execute("CHECKPOINT").await?;
        let before = Before::of(&target);
        end(target, how).await?;
        let started = again(&program, &folder, &before).await?;
        samples.ops += 1;
        samples.seconds += started.first().as_secs_f64();
        samples.record(started.first());
        ready.push(started.server.started_in.as_secs_f64() * 1e3);
        over_http.push(started.http.as_secs_f64() * 1e3);
        over_nats.push(started.nats.as_secs_f64() * 1e3);
        target = Target::outside(started.server);
        settle::settled(&target, CATCH_UP).await?;
        tasks += 2;
        check(&target, tasks).await?;
    }
    sleep(REST).await;
    let memory = megabytes(target.pid);
    target.stop().await;
    Ok(samples
        .with("ready_ms", median(ready))
        .with("first_over_http_ms", median(over_http))
        .with("first_over_nats_ms", median(over_nats))
        .with("resident_mb", memory))
}

/// The log, filled while PostgreSQL runs alone.
pub(super) async fn filled(context: &Context, folder: &Path, plan: Plan) -> anyhow::Result<Filled> {
    std::fs::create_dir_all(folder)?;
    let lock = DataDir::lock(folder)?;
    let options = context.product.servers();
    let looking = options.clone();
    let programs = tokio::task::spawn_blocking(move || servers::locate(&looking)).await??;
    let embedded = Embedded::start(&programs, &lock, &options).await?;
    let postgres = embedded.postgres();
    let url = postgres.url(&postgres.database);
    migrations::migrate(&url).await?;
    let service = migrations::service_urls(&url)?.service;
    let log = Log::new(store::connect_pool(&service, 4)?, &service);
    let filled = fill::fill(&log, plan).await;
    drop(log);
    embedded.stop().await;
    filled
}

/// Every task is in the read model, and no event was lost on the way.
pub(super) async fn check(target: &Target, tasks: u64) -> anyhow::Result<()> {
    let database = target.database().await?;
    let rows = number(&database, "SELECT count(*) FROM read.tasks").await?;
    ensure!(rows == tasks, "{rows} rows of {tasks} tasks");
    let hole = "SELECT (SELECT position FROM log_head) - (SELECT count(*) FROM events)";
    ensure!(number(&database, hole).await? == 0, "the log has a hole");
    Ok(())
}

/// What outlives a restart.
struct Before {
    token: String,
    nats_url: String,
    nats_token: Option<String>,
}

impl Before {
    fn of(target: &Target) -> Self {
        Self {
            token: target.token.clone(),
            nats_url: target.nats_url.clone(),
            nats_token: target.nats_token.clone(),
        }
    }
}

async fn end(target: Target, how: End) -> anyhow::Result<()> {
    if how == End::Asked {
        target.server().context("no server")?.stop().await?;
    }
    // -9 for who is still there; returns when its servers are gone as well.
    target.stop().await;
    Ok(())
}

struct Started {
    server: Server,
    http: Duration,
    nats: Duration,
}

impl Started {
    fn first(&self) -> Duration {
        self.http.min(self.nats)
    }
}

/// Starts it again, with callers at both doors from the first moment on.
async fn again(program: &Path, folder: &Path, before: &Before) -> anyhow::Result<Started> {
    // Nobody else is likely to take it in between.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    let more = ["--http-addr", address.as_str()];
    // Ids that stay the same: a try whose answer was lost must not become a second task.
    let (key, task, command) = (Ids.fresh(), Ids.fresh(), Ids.fresh());
    let (server, http, nats) = tokio::try_join!(
        Server::start(program, folder, &more),
        first(begun, || over_http(&address, &before.token, key)),
        first(begun, || over_nats(before, task, command)),
    )?;
    Ok(Started { server, http, nats })
}

/// Tries until a command is accepted; when that was.
async fn first<F: Future<Output = anyhow::Result<()>>>(
    begun: Instant,
    once: impl Fn() -> F,
) -> anyhow::Result<Duration> {
    loop {
        match timeout(ONE_TRY, once()).await {
            Ok(Ok(())) => return Ok(begun.elapsed()),
            Ok(Err(error)) if begun.elapsed() > PATIENCE => return Err(error),
            Ok(Err(_)) | Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn over_http(address: &str, token: &str, key: Uuid) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, token).await?;
    let key = format!("\"{key}\"");
    let headers = [("idempotency-key", key.as_str())];
    let task = body(&fill::submission(0, "w7"));
    let answer = connection.send(Method::POST, "/v1/tasks", &headers, task).await?;
    ensure!(answer.status == StatusCode::CREATED, "{}", answer.status);
    Ok(())
}

async fn over_nats(before: &Before, task: Uuid, command: Uuid) -> anyhow::Result<()> {
    let client = crate::nats::connect(&before.nats_url, before.nats_token.as_deref()).await?;
    let wire = Wire { client, tenant: tenant() };
    let subject = broker::subject::request(&wire.tenant, StreamType::Task, task, "submit");
    wire.once(subject, command, body(&fill::submission(0, "w7"))).await
}

fn megabytes(pid: u32) -> f64 {
    resident(pid) as f64 / 1e6
}
