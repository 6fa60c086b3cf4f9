//! An agent's life: registered, ready, at work, gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use domain::agent::{AgentState, RegisterAgent, ReportAgent};
use domain::task::{Assignment, ClaimTasks, MAX_CLAIM, MAX_CLAIM_WAIT_MS};
use domain::{AgentId, Code, StreamType};
use futures::StreamExt;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use crate::control::{Control, Phase, Word};
use crate::identity::agent_id;
use crate::job::Shop;
use crate::logs::Logs;
use crate::notice::{Notice, Notices};
use crate::options::Options;
use crate::wire::{Ask, Wire, accepted};
use crate::{Error, Handler};

const BEAT_EVERY: Duration = Duration::from_secs(2);
/// A server that starts may take its migrations' time.
const REGISTER_PATIENCE: Duration = Duration::from_secs(30);
const GOODBYE_PATIENCE: Duration = Duration::from_secs(3);
/// After a claim that got no answer or a refusal.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
/// How long claims under way are listened to after a drain has begun.
const LATE_CLAIMS: Duration = Duration::from_millis(500);
/// Lives of one name that are looked through for one that is not retired.
const LIVES: u32 = 64;

/// How an agent's run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All tasks were answered for.
    Drained,
    /// It was told to stop; running tasks were handed back.
    Stopped,
}

/// A registered agent, ready to run.
pub struct Agent {
    wire: Wire,
    options: Options,
    control: Control,
    notices: Notices,
}

impl Agent {
    /// Connects, registers under the options' name and says that it is ready.
    ///
    /// The id follows from tenant and name. A name that somebody registered under another
    /// id (over HTTP, say) is taken over together with that id.
    ///
    /// # Errors
    /// When the server cannot be reached in time or does not take this agent, or when it
    /// is running already.
    pub async fn connect(url: &str, token: Option<&str>, options: Options) -> Result<Self, Error> {
        let nats = Wire::connect(url, token, &options).await?;
        let name = &options.description.name;
        let mut id = agent_id(&options.tenant, name, 1);
        let mut life = 1;
        let wire = loop {
            let wire = Wire::new(nats.clone(), options.tenant.clone(), id);
            if wire.is_answered().await {
                return Err(Error::Running { name: name.clone(), id });
            }
            match register(&wire, &options.description).await {
                Ok(()) => break wire,
                Err(Error::Refused { what, problem }) => {
                    let holder = problem.conflicting_id.map(AgentId).filter(|other| *other != id);
                    let retired = problem.state.as_deref() == Some(AgentState::Retired.as_str());
                    life += 1;
                    id = match holder {
                        _ if life > LIVES => return Err(Error::Refused { what, problem }),
                        Some(holder) if problem.code() == Some(Code::NameTaken) => holder,
                        Some(_) | None if retired => agent_id(&options.tenant, name, life),
                        Some(_) | None => return Err(Error::Refused { what, problem }),
                    };
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Self { wire, options, control: Control::new(), notices: Arc::new(|_| {}) })
    }

    /// Its id.
    pub fn id(&self) -> AgentId {
        self.wire.agent()
    }

    /// What ends it from outside.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Where it tells what happens to it; the function must not block.
    pub fn on_notice(&mut self, tell: impl Fn(Notice<'_>) + Send + Sync + 'static) {
        self.notices = Arc::new(tell);
    }

    /// Works until told to end, by [`Control`] or by the server.
    ///
    /// # Errors
    /// When the subscriptions are not taken.
    pub async fn run(self, handler: impl Handler) -> Result<Ended, Error> {
        let Self { wire, options, control, notices } = self;
        let (logs, publisher) = Logs::new(wire.clone());
        let shop = Arc::new(Shop {
            wire: wire.clone(),
            handler: Arc::new(handler),
            name: options.description.name.as_str().into(),
            lease_ms: options.lease_ms(),
            control: control.clone(),
            logs,
            notices: Arc::clone(&notices),
            progress_seq: Arc::default(),
            run: Uuid::new_v4(),
        });
        let floor = Arc::new(Floor {
            shop,
            slots: options.slots(),
            description: options.description.clone(),
            running: AtomicUsize::new(0),
            freed: Notify::new(),
            sent_away: AtomicBool::new(false),
        });

        let mut helpers = JoinSet::new();
        let words = wire.subscribe("control").await?;
        helpers.spawn(Arc::clone(&floor).obey(words));
        if options.queues.is_empty() {
            let pushes = wire.subscribe("tasks").await?;
            helpers.spawn(Arc::clone(&floor).take_pushes(pushes));
        }
        helpers.spawn(Arc::clone(&floor).beat());
        helpers.spawn(Arc::clone(&floor).mind());
        ready(&wire, REGISTER_PATIENCE).await?;
        notices(Notice::Ready { id: wire.agent(), name: &options.description.name });

        let mut claims = JoinSet::new();
        let default = ["default".to_owned()];
        let queues = if options.queues.is_empty() { &default[..] } else { &options.queues };
        for queue in queues {
            claims.spawn(Arc::clone(&floor).claim(queue.clone(), options.claim_wait));
        }

        control.reached(Phase::Draining).await;
        notices(Notice::Draining { running: floor.running() });
        // So that no task is given to a claim that nobody waits for any more; who was sent
        // away is passed over already.
        if !floor.sent_away.load(Ordering::Acquire) {
            let noted = Noted { reason: "the agent is to end" };
            let _ = tell(&wire, "drain", &noted, GOODBYE_PATIENCE).await;
        }
        let _ = tokio::time::timeout(LATE_CLAIMS, async {
            while claims.join_next().await.is_some() {}
        })
        .await;
        claims.shutdown().await;
        floor.empty(&control).await;

        let ended = match control.phase() {
            Phase::Running | Phase::Draining => Ended::Drained,
            Phase::Stopping => Ended::Stopped,
        };
        helpers.shutdown().await;
        let offline = ReportAgent { observed_state: AgentState::Offline, reason: None };
        if let Err(error) = tell(&wire, "report", &offline, GOODBYE_PATIENCE).await {
            tracing::debug!(%error, "the end is not reported");
        }
        drop(floor);
        let _ = tokio::time::timeout(GOODBYE_PATIENCE, publisher).await;
        wire.flush().await;
        Ok(ended)
    }
}

/// A reason for people.
#[derive(Debug, Serialize)]
struct Noted {
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Heartbeat {
    observed_state: AgentState,
    slots_free: usize,
    load: f64,
    progress_seq: u64,
}

/// Where the jobs run: at most `slots` at a time.
struct Floor<H> {
    shop: Arc<Shop<H>>,
    description: RegisterAgent,
    slots: usize,
    running: AtomicUsize,
    freed: Notify,
    /// The server itself wants this agent to end.
    sent_away: AtomicBool,
}

impl<H: Handler> Floor<H> {
    fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    fn free(&self) -> usize {
        self.slots.saturating_sub(self.running())
    }

    /// Begins a job, or hands the task back when there is no room or time for it.
    fn take(self: &Arc<Self>, task: Assignment, lease_known: bool) {
        let more = |running: usize| (running < self.slots).then_some(running + 1);
        let fits = self.shop.control.phase() == Phase::Running
            && self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok();
        let floor = Arc::clone(self);
        tokio::spawn(async move {
            if fits {
                let _place = Place(Arc::clone(&floor));
                Arc::clone(&floor.shop).run(task, lease_known).await;
            } else {
                floor.shop.hand_back(&task, "the agent has no free slot").await;
            }
        });
    }

    /// Waits until nothing runs.
    async fn empty(&self, control: &Control) {
        // Turns an overdue drain into a stop while we wait.
        let limit = control.reached(Phase::Stopping);
        let done = async {
            loop {
                let freed = self.freed.notified();
                if self.running() == 0 {
                    return;
                }
                // The sleep covers a place that is freed between the look and the wait.
                tokio::select! { () = freed => {}, () = sleep(BEAT_EVERY) => {} }
            }
        };
        tokio::pin!(limit, done);
        tokio::select! {
            () = &mut done => return,
            () = &mut limit => {}
        }
        done.await;
    }

    async fn claim(self: Arc<Self>, queue: String, wait: Duration) {
        let wait_ms = (wait.as_millis() as u64).min(MAX_CLAIM_WAIT_MS);
        let mut told = false;
        while self.shop.control.phase() == Phase::Running {
            let max = self.free().min(MAX_CLAIM as usize) as u32;
            if max == 0 {
                let freed = self.freed.notified();
                if self.free() == 0 {
                    tokio::select! { () = freed => {}, () = sleep(CLAIM_PAUSE) => {} }
                }
                continue;
            }
            let agent_id = self.shop.wire.agent();
            let lease_ms = Some(self.shop.lease_ms);
            let claim = ClaimTasks { agent_id, max, wait_ms, lease_ms, start: true };
            match self.shop.wire.claim(&queue, &claim).await {
                Ok(claimed) => {
                    told = false;
                    for task in claimed.tasks {
                        self.take(task, true);
                    }
                }
                Err(error) => {
                    if let Error::Refused { problem, .. } = &error
                        && self.is_sent_away(problem)
                    {
                        self.sent_away.store(true, Ordering::Release);
                        self.shop.control.drain(None);
                        return;
                    }
                    // Another log than the one that we registered in: a store made anew.
                    if let Error::Refused { problem, .. } = &error
                        && problem.code() == Some(Code::NotFound)
                        && register(&self.shop.wire, &self.description).await.is_ok()
                        && ready(&self.shop.wire, REGISTER_PATIENCE).await.is_ok()
                    {
                        continue;
                    }
                    // Once per outage: the next line comes when it is over.
                    if !std::mem::replace(&mut told, true) {
                        (self.shop.notices)(Notice::Waiting(&error.to_string()));
                    }
                    sleep(CLAIM_PAUSE).await;
                }
            }
        }
    }

    /// Control words are lost while the connection is; a claim's refusal says the same.
    fn is_sent_away(&self, problem: &domain::Problem) -> bool {
        let gone = [AgentState::Draining, AgentState::Retired, AgentState::ForceStopped];
        gone.iter().any(|state| problem.state.as_deref() == Some(state.as_str()))
    }

    async fn take_pushes(self: Arc<Self>, mut pushes: async_nats::Subscriber) {
        while let Some(message) = pushes.next().await {
            // The server's question whether anybody listens.
            if message.payload.is_empty() {
                continue;
            }
            match serde_json::from_slice(&message.payload) {
                Ok(task) => self.take(task, false),
                Err(error) => tracing::warn!(%error, "a pushed task cannot be read"),
            }
        }
    }

    async fn beat(self: Arc<Self>) {
        let mut ticks = interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (running, slots_free) = (self.running(), self.free());
            let observed_state = match slots_free {
                0 => AgentState::Busy,
                _ => AgentState::Ready,
            };
            let beat = Heartbeat {
                observed_state,
                slots_free,
                load: running as f64 / self.slots as f64,
                progress_seq: self.shop.progress_seq.load(Ordering::Relaxed),
            };
            self.shop.wire.say("heartbeat", &beat).await;
        }
    }

    /// Tells when the connection is gone; claims wait for its return without a word.
    async fn mind(self: Arc<Self>) {
        let mut link = self.shop.wire.link();
        while link.wait_for(|link| !link.up).await.is_ok() {
            (self.shop.notices)(Notice::Waiting("the connection to NATS is gone"));
            if link.wait_for(|link| link.up).await.is_err() {
                return;
            }
        }
    }

    async fn obey(self: Arc<Self>, mut words: async_nats::Subscriber) {
        while let Some(message) = words.next().await {
            match Word::parse(&message.payload) {
                Some(Word::Drain) => {
                    self.sent_away.store(true, Ordering::Release);
                    self.shop.control.drain(None);
                }
                Some(Word::Stop) => {
                    self.sent_away.store(true, Ordering::Release);
                    self.shop.control.stop();
                }
                Some(Word::Wake) => {
                    if let Err(error) = ready(&self.shop.wire, REGISTER_PATIENCE).await {
                        tracing::warn!(%error, "not woken");
                    }
                }
                Some(Word::Reload) => {
                    let mut done = register(&self.shop.wire, &self.description).await;
                    if done.is_ok() {
                        done = ready(&self.shop.wire, REGISTER_PATIENCE).await;
                    }
                    if let Err(error) = done {
                        tracing::warn!(%error, "not reloaded");
                    }
                }
                // Another process of this name asks whether we are still there.
                None if message.payload.is_empty() => {
                    if let Some(asker) = message.reply {
                        self.shop.wire.answer(asker).await;
                    }
                }
                None => tracing::warn!("an unknown control word is passed over"),
            }
        }
    }
}

/// A taken slot; free again when the job ends, however it ends.
struct Place<H>(Arc<Floor<H>>);

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_waiters();
    }
}

async fn register(wire: &Wire, description: &RegisterAgent) -> Result<(), Error> {
    tell(wire, "register", description, REGISTER_PATIENCE).await
}

async fn ready(wire: &Wire, patience: Duration) -> Result<(), Error> {
    tell(wire, "mark_ready", &serde_json::json!({}), patience).await
}

/// A command of the agent about itself. Each call is a new command: the agent may come
/// and go any number of times.
async fn tell<B: Serialize>(
    wire: &Wire,
    command: &'static str,
    body: &B,
    patience: Duration,
) -> Result<(), Error> {
    let ask = Ask {
        kind: StreamType::Agent,
        id: wire.agent().0,
        command,
        command_id: Uuid::new_v4(),
        body,
        traceparent: None,
        patience,
    };
    accepted(&format!("agent {command}"), wire.ask(&ask).await?).map(|_| ())
}
