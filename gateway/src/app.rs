//! What every handler works with.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use broker::subject::AgentWord;
use commands::{AgentWire, Boxed, Claims, Clock, Executor, Ids};
use domain::frame::{ControlFrame, Listen};
use domain::task::Assignment;
use domain::{AgentId, Code, Problem, TenantId};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use projections::{Gathered, Queries};
use store::Reader;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Caller, Tokens};
use crate::error::ApiError;
use crate::events::hub::Hub;
use crate::health::Health;
use crate::metrics::{Counter, Gauge, Histogram, Metrics};
use crate::room::Room;

/// The doors to the other rooms, as the wiring hands them over.
pub struct Doors {
    /// Has commands decided.
    pub executor: Arc<dyn Executor>,
    /// Answers claims.
    pub claims: Arc<dyn Claims>,
    /// What heartbeats told lately.
    pub wire: Arc<dyn AgentWire>,
    /// Takes heartbeats that come over HTTP.
    pub heartbeats: Arc<dyn Heartbeats>,
    /// Brings agents' log lines.
    pub logs: Arc<dyn AgentLogs>,
    /// The agents' wire, for those on a WebSocket.
    pub agents: Arc<dyn AgentDoor>,
    /// The read models.
    pub queries: Queries,
    /// The log, followed by position.
    pub reader: Reader,
    /// Fresh ids.
    pub ids: Ids,
    /// The database's time.
    pub clock: Clock,
    /// Who may come in.
    pub tokens: Tokens,
    /// How the parts are.
    pub health: Health,
    /// The figures of this process.
    pub metrics: Metrics,
    /// How much is taken at once.
    pub limits: Limits,
}

/// Takes a heartbeat to where those of the agents' wire go.
pub trait Heartbeats: Send + Sync + 'static {
    /// Hands over the body; answers `{ "ok", "desired_state" }` as JSON.
    fn beat(
        &self,
        tenant: TenantId,
        agent: AgentId,
        body: domain::Json,
    ) -> Boxed<Result<domain::Json, Problem>>;
}

/// Brings the log lines of an agent.
pub trait AgentLogs: Send + Sync + 'static {
    /// The lines that are kept, behind a place or all of them, and then those to come.
    fn open(
        &self,
        tenant: TenantId,
        agent: AgentId,
        after: Option<u64>,
    ) -> Boxed<Result<LogStream, Problem>>;
}

/// An agent's log lines from a place on, without end.
pub struct LogStream {
    /// How many of them are there already.
    pub kept: u64,
    /// In order.
    pub lines: BoxStream<'static, broker::logs::KeptLine>,
}

/// The agents' wire, for agents that come over a WebSocket.
pub trait AgentDoor: Send + Sync + 'static {
    /// Whether a process answers for the agent already.
    fn answered(&self, tenant: TenantId, agent: AgentId) -> Boxed<bool>;

    /// What is said to the agent from now on.
    fn listen(
        &self,
        tenant: TenantId,
        agent: AgentId,
        to: Vec<Listen>,
    ) -> Boxed<Result<BoxStream<'static, ForAgent>, Problem>>;

    /// Says a heartbeat or a log line on the agent's behalf; it may be lost.
    fn say(
        &self,
        tenant: TenantId,
        agent: AgentId,
        word: AgentWord,
        body: domain::Json,
    ) -> Boxed<()>;

    /// Tells who asked that the agent is there.
    fn here(&self, asker: String) -> Boxed<()>;
}

/// What an agent is told.
#[derive(Debug)]
pub enum ForAgent {
    /// A task that is pushed to it.
    Task(Box<Assignment>),
    /// A control word.
    Control(ControlFrame),
    /// Somebody asks whether it is there, and wants to hear of it at this inbox.
    There(String),
}

/// How much is taken at once (reliability D44).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections; further ones wait in the listener's backlog.
    pub connections: usize,
    /// Requests that change something and are under way; further ones wait a moment and
    /// are turned away.
    pub commands: usize,
    /// Open SSE and WebSocket streams of this process.
    pub streams: usize,
    /// Open SSE and WebSocket streams of one principal.
    pub streams_per_principal: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4_096, commands: 2_048, streams: 1_000, streams_per_principal: 100 }
    }
}

/// The gateway's state; a clone is the same gateway.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// See [`App`].
pub struct Inner {
    /// The doors to the other rooms.
    pub doors: Doors,
    pub(crate) hub: Hub,
    pub(crate) figures: Figures,
    pub(crate) room: Arc<Room>,
    /// Requests under way, also those whose caller has gone.
    pub(crate) tracker: TaskTracker,
    /// Fires when the process leaves: streams end.
    pub(crate) closing: CancellationToken,
    streams: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// What is counted of every request.
pub(crate) struct Figures {
    pub(crate) under_way: Arc<AtomicUsize>,
    refusals: HashMap<&'static str, Counter>,
    pub(crate) stalled: Counter,
    pub(crate) by_class: [Counter; 5],
    pub(crate) seconds: Histogram,
    pub(crate) streams: Gauge,
    pub(crate) stream_events: Counter,
}

impl Figures {
    fn of(metrics: &Metrics, room: &Arc<Room>, queries: &Queries) -> Self {
        let under_way = Arc::<AtomicUsize>::default();
        let count = under_way.clone();
        let help = "HTTP requests under way, without open streams.";
        metrics
            .ask("taffrail_http_requests_under_way", help, &[], move || count.load(Relaxed) as f64);
        let (name, help) = ("taffrail_http_commands", "Changing requests, by their place.");
        let seats = room.clone();
        metrics.ask(name, help, &[("place", "seated")], move || seats.taken() as f64);
        let seats = room.clone();
        metrics.ask(name, help, &[("place", "waiting")], move || seats.waiting() as f64);
        let gathered = |name, help, look: fn(Gathered) -> u64| {
            let queries = queries.clone();
            metrics.ask_total(name, help, &[], move || look(queries.gathered()) as f64);
        };
        let help = "Reads by id answered.";
        gathered("taffrail_reads_by_id_total", help, |gathered| gathered.reads);
        let help = "Queries that answered them.";
        gathered("taffrail_reads_by_id_queries_total", help, |gathered| gathered.queries);
        let waiting = queries.clone();
        let help = "Reads by id that wait for their query to begin.";
        metrics.ask("taffrail_reads_by_id_waiting", help, &[], move || {
            waiting.gathered().waiting as f64
        });
        let refusal = |code: &Code| {
            let (name, slug) = ("taffrail_http_refusals_total", code.slug());
            (slug, metrics.counter(name, "HTTP requests refused, by code.", &[("code", slug)]))
        };
        let class = |class| {
            let name = "taffrail_http_requests_total";
            metrics.counter(
                name,
                "HTTP requests answered, by class of status.",
                &[("status", class)],
            )
        };
        Self {
            under_way,
            refusals: Code::ALL.iter().map(refusal).collect(),
            stalled: metrics.counter(
                "taffrail_http_stalled_total",
                "Connections dropped because the peer did not read.",
                &[],
            ),
            by_class: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            seconds: metrics.seconds(
                "taffrail_http_request_seconds",
                "Time to the head of the answer.",
                &[],
            ),
            streams: metrics.gauge("taffrail_http_streams", "Open SSE and WebSocket streams.", &[]),
            stream_events: metrics.counter(
                "taffrail_http_stream_events_total",
                "Events sent on SSE and WebSocket streams.",
                &[],
            ),
        }
    }
}

impl Figures {
    /// Counts a refusal.
    pub(crate) fn refused(&self, code: Code) {
        if let Some(counter) = self.refusals.get(code.slug()) {
            counter.add(1);
        }
    }

    /// Counts a request until the guard goes.
    pub(crate) fn one_more(&self) -> UnderWay {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(self.under_way.clone())
    }
}

/// A request under way.
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl App {
    /// A gateway in front of these doors.
    pub fn new(doors: Doors) -> Self {
        let room = Room::of(doors.limits.commands);
        let figures = Figures::of(&doors.metrics, &room, &doors.queries);
        let hub = Hub::new(doors.reader.clone());
        let (tracker, closing, streams) = Default::default();
        Self(Arc::new(Inner { doors, hub, figures, room, tracker, closing, streams }))
    }

    /// Room for one more stream of a caller, given back when the guard goes.
    pub(crate) fn stream_slot(&self, caller: &Caller) -> Result<StreamSlot, ApiError> {
        let limits = self.doors.limits;
        let mut open = self.streams.lock();
        let mine = open.get(&caller.principal).copied().unwrap_or_default();
        let all: usize = open.values().sum();
        if mine >= limits.streams_per_principal || all >= limits.streams {
            let detail = format!(
                "at most {} open streams per principal and {} in all",
                limits.streams_per_principal, limits.streams
            );
            let problem = Problem::new(Code::RateLimited, detail);
            return Err(Problem { retry_after_ms: Some(5_000), ..problem }.into());
        }
        *open.entry(caller.principal.clone()).or_default() += 1;
        self.figures.streams.set((all + 1) as f64);
        Ok(StreamSlot { app: self.clone(), principal: caller.principal.clone() })
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Holds the room of one open stream.
pub(crate) struct StreamSlot {
    app: App,
    principal: Arc<str>,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.app.streams.lock();
        if let Some(mine) = open.get_mut(&self.principal) {
            *mine -= 1;
            if *mine == 0 {
                open.remove(&self.principal);
            }
        }
        self.app.figures.streams.set(open.values().sum::<usize>() as f64);
    }
}
