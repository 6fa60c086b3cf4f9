//! W3: from the submission of a task to the moment at which its handler starts.
//!
//! The handler is one of the agent SDK's, in this process; the SDK begins it when the server
//! has committed that the work is started, so three commits lie in between (submit, assign,
//! start). `at=received` ends earlier, when the assignment has reached the agent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::commands::Ids;
use agent::{Agent, Control, Handler, Options, Verdict, Work};
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use domain::Json;
use domain::task::Assignment;
use hyper::StatusCode;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::beside::{self, Load};
use super::fill;
use super::w2_agent::{Fleet, Hook, Tally, Wire, body, number};
use crate::cell::{Cell, Context, Mode, Params};
use crate::commands::tenant;
use crate::http::Connection;
use crate::load::{Arrivals, Reply, Samples, open};
use crate::target::Target;

/// Tasks that the agent has room for: at these rates it is never the one who is late.
const SLOTS: u32 = 256;
/// A task whose handler has not begun by then has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// HTTP connections that submissions go over.
const CONNECTIONS: usize = 32;
/// Share of W1's capacity that runs beside.
const BESIDE: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Nats,
    Http,
}

/// How the agent gets its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It waits in a claim.
    Claimed,
    /// It listens, and the scheduler pushes.
    Pushed,
}

#[derive(Debug, Clone, Copy)]
struct Variant {
    door: Door,
    way: Way,
    /// When the assignment has come, not when the handler starts.
    received: bool,
    rate: f64,
    beside: bool,
}

/// The cells.
pub fn cells() -> Vec<Cell> {
    let plain = Variant {
        door: Door::Nats,
        way: Way::Claimed,
        received: false,
        rate: 100.0,
        beside: false,
    };
    let variants = [
        plain,
        Variant { way: Way::Pushed, ..plain },
        Variant { received: true, ..plain },
        Variant { door: Door::Http, ..plain },
        Variant { rate: 1_000.0, ..plain },
        Variant { beside: true, ..plain },
        Variant { beside: true, way: Way::Pushed, ..plain },
    ];
    let cell = |(nth, variant): (usize, Variant)| {
        let params = Params::default()
            .with("submit", if variant.door == Door::Nats { "nats req" } else { "http" })
            .with("agent", if variant.way == Way::Claimed { "claims" } else { "is pushed to" })
            .with("at", if variant.received { "received" } else { "handler" })
            .with("rate", variant.rate)
            .with("beside", if variant.beside { "50 % W1" } else { "idle" });
        let cell = Cell::new("latency", "W3", params, move |context| run(context, variant))
            .mode(Mode::Open)
            .unit("tasks")
            .counted(if variant.beside { &["submit", "update"] } else { &["submit"] });
        if nth < 2 { cell.main() } else { cell }
    };
    variants.into_iter().enumerate().map(cell).collect()
}

async fn run(context: Context, variant: Variant) -> anyhow::Result<Samples> {
    let target = &context.target;
    let queue = "w3";
    let begun = Begun::default();
    let worker = match (variant.received, variant.way) {
        (true, _) => AtWork::raw(target, queue, &begun).await?,
        (false, way) => AtWork::sdk(target, queue, way, &begun).await?,
    };
    let submit = Submit::open(target, variant.door, queue).await?;
    warm_up(&submit, &begun).await?;

    let load = if variant.beside { Some(Load::prepare(target).await?) } else { None };
    let mut companions = Vec::new();
    let mut behind = None;
    if let Some(load) = &load {
        let full = load.capacity(&beside::part(&context.budget, 0.25), beside::CLIENTS).await?;
        let rate = full.ops as f64 / full.seconds * BESIDE;
        companions.push(full);
        let (load, budget) = (load.clone(), beside::unprobed(&context.budget));
        let running = tokio::spawn(async move {
            let operation = move |_| {
                let load = load.clone();
                async move { super::w1a::reply(&load.command().await?) }
            };
            open(&budget, Arrivals::Poisson, rate, operation).await
        });
        behind = Some((rate, running));
    }

    let arrivals = if variant.beside { Arrivals::Poisson } else { Arrivals::Constant };
    let operation = {
        let (submit, begun) = (submit.clone(), begun.clone());
        // Behind those of the warm-up.
        move |n| task(submit.clone(), begun.clone(), WARM_UP + n)
    };
    let mut samples = open(&context.budget, arrivals, variant.rate, operation).await?;
    samples.acknowledged += WARM_UP;
    if let Some((rate, running)) = behind {
        companions.push(running.await??);
        samples = samples.with("beside_per_s", rate);
    }
    let beforehand = load.as_ref().map_or(0, Load::acknowledged);
    beside::acknowledge(&mut samples, &companions.iter().collect::<Vec<_>>(), beforehand);
    worker.end().await?;
    ensure!(begun.0.lock().is_empty(), "tasks whose handler never began");
    Ok(samples)
}

/// Tasks one after the other before the schedule begins: registration, first push and the
/// first statements of every connection are no part of it.
const WARM_UP: u64 = 20;

async fn warm_up(submit: &Submit, begun: &Begun) -> anyhow::Result<()> {
    for n in 0..WARM_UP {
        task(submit.clone(), begun.clone(), n).await.context("a first task")?;
    }
    Ok(())
}

/// Submits a task and waits for its handler; ready when it has begun.
async fn task(submit: Submit, begun: Begun, n: u64) -> anyhow::Result<Reply> {
    let (sender, receiver) = oneshot::channel();
    begun.0.lock().insert(n, sender);
    let began =
        async { timeout(PATIENCE, receiver).await.context("no handler began")?.context("") };
    tokio::try_join!(submit.submit(n), began)?;
    Ok(Reply::command())
}

/// Who waits for which task's handler.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>);

impl Begun {
    fn begin(&self, task: &Assignment) {
        let Ok(n) = number(task) else { return };
        if let Some(waiting) = self.0.lock().remove(&n) {
            // Who waited may have given up.
            let _ = waiting.send(());
        }
    }
}

impl Handler for Begun {
    async fn handle(&self, work: Work) -> Verdict {
        self.begin(work.assignment());
        Verdict::Done(Json::null())
    }
}

impl Hook for Begun {
    fn received(&self, task: &Assignment) {
        self.begin(task);
    }
}

/// An agent, running.
struct AtWork {
    running: JoinHandle<anyhow::Result<()>>,
    control: Option<Control>,
    stop: CancellationToken,
}

impl AtWork {
    async fn sdk(target: &Target, queue: &str, way: Way, begun: &Begun) -> anyhow::Result<Self> {
        let mut options = Options::named(format!("w3-{}", Ids.fresh()));
        options.description.slots = SLOTS;
        // Without a queue of its own it claims from `default`, which stays empty.
        if way == Way::Claimed {
            options.queues = vec![queue.to_owned()];
        }
        let token = target.nats_token.as_deref();
        let agent = Agent::connect(&target.nats_url, token, options).await?;
        let control = Some(agent.control());
        let begun = begun.clone();
        let running = tokio::spawn(async move {
            agent.run(begun).await?;
            Ok(())
        });
        Ok(Self { running, control, stop: CancellationToken::new() })
    }

    async fn raw(target: &Target, queue: &str, begun: &Begun) -> anyhow::Result<Self> {
        let clients = [target.nats().await?];
        let fleet = Fleet::register(&clients, queue, 1, SLOTS as usize).await?;
        let stop = CancellationToken::new();
        let (tally, ended) = (Arc::new(Tally::hooked(Arc::new(begun.clone()))), stop.clone());
        let running = tokio::spawn(async move { fleet.work(&tally, &ended).await });
        Ok(Self { running, control: None, stop })
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        if let Some(control) = self.control {
            control.drain(None);
        }
        timeout(PATIENCE, self.running).await.context("the agent does not end")??
    }
}

/// The door that tasks are submitted through.
#[derive(Clone)]
struct Submit {
    queue: Arc<str>,
    wire: Wire,
    http: Option<(mpsc::Sender<Connection>, Idle)>,
}

type Idle = Arc<tokio::sync::Mutex<mpsc::Receiver<Connection>>>;

impl Submit {
    async fn open(target: &Target, door: Door, queue: &str) -> anyhow::Result<Self> {
        let http = match door {
            Door::Nats => None,
            Door::Http => {
                let (idle, free) = mpsc::channel(CONNECTIONS);
                for connection in
                    Connection::several(&target.http, &target.token, CONNECTIONS).await?
                {
                    idle.send(connection).await?;
                }
                Some((idle, Arc::new(tokio::sync::Mutex::new(free))))
            }
        };
        let wire = Wire { client: target.nats().await?, tenant: tenant() };
        Ok(Self { queue: queue.into(), wire, http })
    }

    async fn submit(&self, n: u64) -> anyhow::Result<()> {
        let body: Bytes = body(&fill::submission(n, &self.queue));
        let Some((idle, free)) = &self.http else {
            self.wire.submit(Ids.fresh(), body).await?;
            return Ok(());
        };
        let mut connection = free.lock().await.recv().await.context("no connection is left")?;
        let answer = connection.post("/v1/tasks", body).await?;
        idle.send(connection).await?;
        if answer.status != StatusCode::CREATED {
            bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(())
    }
}
