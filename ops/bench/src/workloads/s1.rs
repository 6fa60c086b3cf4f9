//! S1: decisions of the scheduler, in this process and without a server: 10,000 agents
//! in 50 sets of capabilities, all busy, and tasks that wait for one of those sets each.
//!
//! A step is what a busy fleet does: an agent ends its task and asks for the next one
//! (or, where tasks are pushed, only ends it), and a new task comes. The latency is
//! what the scheduler takes from the event to the command that assigns.

use std::time::{Duration, Instant};

use ::commands::CommandEnvelope;
use ::commands::process::Trial;
use anyhow::{Context as _, ensure};
use domain::agent::{AgentCommand, RegisterAgent};
use domain::queue::{ConfigureQueue, LimitPolicy, QueueCommand, QueuePolicy, queue_id};
use domain::task::{SubmitTask, TaskCommand, TaskEvent};
use domain::values::{Labels, Priority};
use domain::{
    AgentId, Aggregate, Command, Event, Facts, Json, Recorded, TaskId, TenantId, Timestamp,
};
use uuid::Uuid;

use crate::cell::{Cell, Context, Host, Params};
use crate::load::Samples;

const AGENTS: u64 = 10_000;
const SETS: u64 = 50;
const QUEUE: &str = "default";

/// The cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (waiting, way, limits) in [
        (1_000, "claim", false),
        (100_000, "claim", false),
        (100_000, "push", false),
        (100_000, "claim", true),
        (1_000_000, "claim", false),
    ] {
        let params = Params::default()
            .with("waiting", waiting)
            .with("agents", AGENTS)
            .with("sets", SETS)
            .with("way", way)
            .with("limits", if limits { "1,000 keys" } else { "none" });
        let cell = Cell::new("scheduler", "S1", params, move |context| async move {
            tokio::task::spawn_blocking(move || run(&context, waiting, way == "push", limits))
                .await
                .context("the measurement broke down")?
        });
        cells.push(cell.host(Host::Bare).unit("decisions"));
    }
    cells
}

/// Where and when an event was recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub position: u64,
    /// Its place in its stream.
    pub version: u64,
    pub time: Timestamp,
}

/// An event as a manager in the processor's own process gets it.
pub(super) fn recorded(
    tenant: &TenantId,
    stream: Uuid,
    at: At,
    event: &Event,
    actor: &str,
) -> Recorded {
    let recorded = Recorded {
        position: at.position,
        epoch: 1,
        tenant: tenant.clone(),
        stream_type: event.stream_type(),
        stream_id: stream,
        version: at.version,
        event_type: event.name().into(),
        schema_version: event.schema_version(),
        event_id: Uuid::nil(),
        command_id: Uuid::nil(),
        actor: actor.into(),
        correlation_id: None,
        causation_position: None,
        trace: None,
        occurred_at: at.time,
        recorded_at: at.time,
        payload: event.payload().into(),
        hash: [0; 32],
        decoded: Default::default(),
    };
    // Read already, as what comes from the processor of the same process.
    let _ = recorded.event();
    recorded
}

/// A log that nobody keeps: events are made, folded and dropped.
struct Fleet {
    trial: Trial,
    tenant: TenantId,
    position: u64,
    tasks: u64,
    start: Timestamp,
    begun: Instant,
    limits: bool,
    seed: u64,
}

impl Fleet {
    fn now(&self) -> Timestamp {
        self.start + self.begun.elapsed()
    }

    fn draw(&mut self, below: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same in every run.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// The events that a command leads to, on a stream in a given state.
    fn events(
        &mut self,
        stream: Uuid,
        state: &mut Aggregate,
        version: u64,
        command: &Command,
        actor: &str,
    ) -> anyhow::Result<Vec<Recorded>> {
        let facts = Facts::new(self.now(), actor);
        let events = state.decide(command, &facts)?;
        let mut made = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            state.apply(&event);
            self.position += 1;
            made.push(self.recorded(stream, version + index as u64 + 1, &event, actor));
        }
        Ok(made)
    }

    fn recorded(&self, stream: Uuid, version: u64, event: &Event, actor: &str) -> Recorded {
        let at = At { position: self.position, version, time: self.now() };
        recorded(&self.tenant, stream, at, event, actor)
    }

    fn agent(n: u64) -> AgentId {
        AgentId(Uuid::from_u128(1 << 100 | u128::from(n)))
    }

    fn word(n: u64) -> Vec<String> {
        vec![format!("model-{}", n % SETS), "tools".into()]
    }

    fn register(&mut self, n: u64) -> anyhow::Result<()> {
        let id = Self::agent(n);
        let mut new = RegisterAgent::named(format!("agent-{n}"));
        new.capabilities = Self::word(n);
        let mut state = Aggregate::new(domain::StreamType::Agent);
        let actor = format!("agent:{id}");
        let register = AgentCommand::Register(new).into();
        let mut events = self.events(id.0, &mut state, 0, &register, &actor)?;
        let ready = AgentCommand::MarkReady(Default::default()).into();
        events.extend(self.events(id.0, &mut state, events.len() as u64, &ready, &actor)?);
        events.iter().for_each(|event| self.trial.apply(event));
        Ok(())
    }

    fn submission(&mut self) -> anyhow::Result<Recorded> {
        self.tasks += 1;
        let n = self.tasks;
        let mut new = SubmitTask::titled(format!("Summarise document {n}"));
        new.capabilities = vec![format!("model-{}", self.draw(SETS))];
        new.priority = Priority::ALL[self.draw(5) as usize];
        new.payload = Json::of(&serde_json::json!({ "document": n, "model": "large" }));
        if self.limits {
            new.labels = Labels::Words(vec![format!("customer-{}", self.draw(1_000))]);
        }
        let mut state = Aggregate::new(domain::StreamType::Task);
        let id = Uuid::from_u128(u128::from(n));
        let submit = TaskCommand::Submit(new).into();
        let made = self.events(id, &mut state, 0, &submit, "bench")?;
        made.into_iter().next().context("a submission without an event")
    }

    /// The assignment that the scheduler asked for.
    fn assigned(&mut self, command: &CommandEnvelope) -> anyhow::Result<Recorded> {
        let Command::Task(TaskCommand::Assign(to)) = &command.command else {
            anyhow::bail!("the scheduler asked for `{}`", command.command.name());
        };
        self.position += 1;
        let event = TaskEvent::Assigned(domain::task::TaskAssigned {
            agent_id: to.agent_id,
            attempt: 1,
            lease_token: 1,
            lease_expires_at: self.now() + Duration::from_secs(30),
            queue: QUEUE.into(),
            reason: to.reason.clone(),
            decision: to.decision.clone(),
        });
        Ok(self.recorded(command.stream_id, 2, &Event::Task(event), &command.actor))
    }

    fn completed(&mut self, task: TaskId, agent: AgentId) -> Recorded {
        self.position += 1;
        let event = TaskEvent::Completed(domain::task::TaskCompleted {
            result: Json::null(),
            agent_id: Some(agent),
            queue: QUEUE.into(),
            ran_ms: 1,
        });
        self.recorded(task.0, 3, &Event::Task(event), &format!("agent:{agent}"))
    }
}

fn run(context: &Context, waiting: u64, push: bool, limits: bool) -> anyhow::Result<Samples> {
    let waiting = if context.quick { waiting.min(10_000) } else { waiting };
    let mut fleet = Fleet {
        trial: Trial::default(),
        tenant: TenantId::default_tenant(),
        position: 0,
        tasks: 0,
        start: Timestamp::UNIX_EPOCH + chrono::Duration::days(20_000),
        begun: Instant::now(),
        limits,
        seed: context.budget.seed,
    };
    if limits {
        let key = "task.labels[0]".into();
        let limit = LimitPolicy { key, max_running: Some(40), guaranteed: 1, rate: None };
        let policy = QueuePolicy { limits: vec![limit], ..QueuePolicy::default() };
        let set = QueueCommand::Configure(ConfigureQueue { queue: QUEUE.into(), policy });
        let mut state = Aggregate::new(domain::StreamType::Queue);
        let id = queue_id(&fleet.tenant, QUEUE);
        for event in fleet.events(id, &mut state, 0, &set.into(), "bench")? {
            fleet.trial.apply(&event);
        }
    }
    for n in 0..AGENTS {
        fleet.register(n)?;
    }
    let mut holds: Vec<Option<TaskId>> = vec![None; AGENTS as usize];
    let before = resident()?;
    for _ in 0..waiting + AGENTS {
        let event = fleet.submission()?;
        fleet.trial.apply(&event);
    }
    let (tasks, after) = (waiting + AGENTS, resident()?);
    for n in 0..AGENTS {
        let now = fleet.now();
        fleet.trial.advance(now);
        let agent = Fleet::agent(n);
        if push {
            fleet.trial.listen(agent, Instant::now());
        }
        let commands = match push {
            true => fleet.trial.decide(),
            false => fleet.trial.claim(&fleet.tenant.clone(), QUEUE, agent, 1),
        };
        settle(&mut fleet, &mut holds, &commands)?;
    }
    let busy = holds.iter().flatten().count();
    ensure!(busy as u64 >= AGENTS * 9 / 10, "only {busy} agents have a task");

    let (mut samples, mut submits) = (Samples::default(), Samples::default());
    let window = context.budget.warm + context.budget.measure;
    let (begun, mut decided) = (Instant::now(), 0u64);
    while begun.elapsed() < window {
        let counted = begun.elapsed() >= context.budget.warm;
        let n = fleet.draw(AGENTS);
        let agent = Fleet::agent(n);
        let Some(task) = holds[n as usize].take() else { continue };
        let (completed, tenant) = (fleet.completed(task, agent), fleet.tenant.clone());
        let now = fleet.now();
        let at = Instant::now();
        fleet.trial.advance(now);
        fleet.trial.apply(&completed);
        let commands = match push {
            true => fleet.trial.decide(),
            false => fleet.trial.claim(&tenant, QUEUE, agent, 1),
        };
        let took = at.elapsed();
        settle(&mut fleet, &mut holds, &commands)?;
        let event = fleet.submission()?;
        let at = Instant::now();
        fleet.trial.apply(&event);
        let commands = fleet.trial.decide();
        let submitted = at.elapsed();
        settle(&mut fleet, &mut holds, &commands)?;
        if counted {
            decided += 1;
            samples.record(took);
            submits.record(submitted);
        }
    }
    samples.ops = decided;
    samples.seconds = context.budget.measure.as_secs_f64();
    let per_task = after.saturating_sub(before) as f64 / tasks as f64;
    let at = |quantile| submits.histogram.value_at_quantile(quantile) as f64;
    Ok(samples
        .with("bytes_per_waiting_task", per_task)
        .with("submit_p50_us", at(0.5))
        .with("submit_p99_us", at(0.99))
        .with("busy_agents", holds.iter().flatten().count() as f64))
}

/// Folds the assignments that were asked for.
fn settle(
    fleet: &mut Fleet,
    holds: &mut [Option<TaskId>],
    commands: &[CommandEnvelope],
) -> anyhow::Result<()> {
    for command in commands {
        let event = fleet.assigned(command)?;
        fleet.trial.apply(&event);
        let Command::Task(TaskCommand::Assign(to)) = &command.command else { continue };
        let n = (to.agent_id.0.as_u128() & u128::from(u64::MAX)) as usize;
        holds[n] = Some(TaskId(command.stream_id));
    }
    Ok(())
}

/// Memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages = text.split_whitespace().nth(1).context("no resident set")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}
