//! An agent's life: registered, ready, at work, gone.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::agent::{AgentState, RegisterAgent, ReportAgent};
use domain::frame::Listen;
use domain::task::{Assignment, ClaimTasks, MAX_CLAIM, MAX_CLAIM_WAIT_MS};
use domain::{AgentId, Code, Json, StreamType, TaskId};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use crate::control::{Control, Phase, Word};
use crate::identity::agent_id;
use crate::job::Shop;
use crate::journal::Journal;
use crate::logs::Logs;
use crate::notice::{Notice, Notices};
use crate::options::Options;
use crate::route::{Route, Server};
use crate::transport::{Heard, Said};
use crate::wire::{Ask, Wire, accepted};
use crate::work::Shared;
use crate::{Error, Handler};

/// How often a wait looks again, should a word have been missed.
const LOOK: Duration = Duration::from_secs(2);
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
    journal: Option<Journal>,
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
        let server = Server { url: url.to_owned(), token: token.map(ToOwned::to_owned) };
        Self::over(Route::Nats(server), options).await
    }

    /// The same over any route. With an id in the options it comes back as that agent.
    ///
    /// # Errors
    /// When the server cannot be reached in time or does not take this agent, or when it
    /// is running already.
    pub async fn over(route: Route, options: Options) -> Result<Self, Error> {
        let transport = route.open(&options).await?;
        let name = &options.description.name;
        let known = options.id;
        let mut id = known.unwrap_or_else(|| agent_id(&options.tenant, name, 1));
        let mut life = 1;
        let wire = loop {
            let wire = Wire::new(Arc::clone(&transport), id);
            if wire.attach().await? {
                return Err(Error::Running { name: name.clone(), id });
            }
            if known.is_some() {
                break wire;
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
        let journal = options.journal.as_deref();
        let journal = journal.map(|folder: &Path| Journal::open(folder, id)).transpose()?;
        let (control, notices) = (Control::new(), Arc::new(|_: Notice<'_>| {}));
        Ok(Self { wire, options, journal, control, notices })
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
        let Self { wire, options, journal, control, notices } = self;
        let (logs, publisher) = Logs::new(wire.clone());
        let shop = Arc::new(Shop {
            handler: Arc::new(handler),
            lease_ms: options.lease_ms(),
            control: control.clone(),
            run: Uuid::new_v4(),
            shared: Shared {
                agent_name: options.description.name.as_str().into(),
                wire: wire.clone(),
                logs,
                notices: Arc::clone(&notices),
                progress_seq: Arc::default(),
                generation: options.generation,
                journal,
            },
        });
        let floor = Arc::new(Floor {
            shop: Arc::clone(&shop),
            slots: options.slots(),
            description: options.description.clone(),
            beat_every: options.beat_every(),
            running: AtomicUsize::new(0),
            taken: Mutex::default(),
            freed: Notify::new(),
            beat: Notify::new(),
            sent_away: AtomicBool::new(false),
        });

        let mut helpers = JoinSet::new();
        let mut listen = vec![Listen::Control];
        if options.queues.is_empty() && options.rounds.is_none() {
            listen.push(Listen::Tasks);
        }
        let heard = wire.listen(listen).await?;
        helpers.spawn(Arc::clone(&floor).hear(heard));
        helpers.spawn(Arc::clone(&floor).beat());
        helpers.spawn(Arc::clone(&floor).mind());
        helpers.spawn(Arc::clone(&floor).wake());
        helpers.spawn(shop.deliver_kept());
        floor.be_ready().await?;
        notices(Notice::Ready { id: wire.agent(), name: &options.description.name });

        let mut claims = JoinSet::new();
        let default = ["default".to_owned()];
        let queues = if options.queues.is_empty() { &default[..] } else { &options.queues };
        for queue in queues {
            let rounds = options.rounds;
            claims.spawn(Arc::clone(&floor).claim(queue.clone(), options.claim_wait, rounds));
        }
        let all_rounds = async {
            if options.rounds.is_none() {
                std::future::pending::<()>().await;
            }
            while claims.join_next().await.is_some() {}
        };
        tokio::select! {
            () = control.reached(Phase::Draining) => {}
            () = all_rounds => control.drain(None),
        }

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
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// Where the jobs run: at most `slots` at a time.
struct Floor<H> {
    shop: Arc<Shop<H>>,
    description: RegisterAgent,
    beat_every: Duration,
    slots: usize,
    running: AtomicUsize,
    /// What runs here, by its lease: a push that comes twice is one task.
    taken: Mutex<HashSet<(TaskId, u64)>>,
    freed: Notify,
    /// Wants a heartbeat at once.
    beat: Notify,
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
        let lease = (task.task_id, task.lease.token);
        if !self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(lease) {
            return;
        }
        let more = |running: usize| (running < self.slots).then_some(running + 1);
        let fits = self.shop.control.phase() == Phase::Running
            && self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok();
        let floor = Arc::clone(self);
        tokio::spawn(async move {
            let _place = Place { floor: Arc::clone(&floor), lease, fits };
            if fits {
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
                tokio::select! { () = freed => {}, () = sleep(LOOK) => {} }
            }
        };
        tokio::pin!(limit, done);
        tokio::select! {
            () = &mut done => return,
            () = &mut limit => {}
        }
        done.await;
    }

    async fn claim(self: Arc<Self>, queue: String, wait: Duration, rounds: Option<u32>) {
        let wait_ms = (wait.as_millis() as u64).min(MAX_CLAIM_WAIT_MS);
        let wire = &self.shop.shared.wire;
        let mut told = false;
        let mut wakes = self.shop.control.wakes();
        let mut round = 0;
        while self.shop.control.phase() == Phase::Running && rounds.is_none_or(|n| round < n) {
            let max = self.free().min(MAX_CLAIM as usize) as u32;
            if max == 0 {
                let freed = self.freed.notified();
                if self.free() == 0 {
                    tokio::select! { () = freed => {}, () = sleep(CLAIM_PAUSE) => {} }
                }
                continue;
            }
            let agent_id = wire.agent();
            wakes.mark_unchanged();
            let lease_ms = Some(self.shop.lease_ms);
            let claim = ClaimTasks { agent_id, max, wait_ms, lease_ms, start: true };
            let claimed = tokio::select! {
                biased;
                claimed = wire.claim(&queue, &claim) => claimed,
                // A claim that waits may wait in a scheduler that is gone.
                Ok(()) = wakes.changed() => continue,
            };
            match claimed {
                Ok(claimed) => {
                    told = false;
                    round += 1;
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
                        && self.describe().await.is_ok()
                    {
                        continue;
                    }
                    // Once per outage: the next line comes when it is over.
                    if !std::mem::replace(&mut told, true) {
                        (self.shop.shared.notices)(Notice::Waiting(&error.to_string()));
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

    /// Takes what the server says of its own accord.
    async fn hear(self: Arc<Self>, mut heard: mpsc::Receiver<Heard>) {
        while let Some(what) = heard.recv().await {
            match what {
                Heard::Task(task) => {
                    let lease_known = task.started;
                    self.take(*task, lease_known);
                }
                // Tasks that come behind it do not wait for what the word asks for.
                Heard::Word(word) => {
                    tokio::spawn(Arc::clone(&self).obey(word));
                }
            }
        }
    }

    async fn beat(self: Arc<Self>) {
        let mut ticks = interval(self.beat_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = self.beat.notified() => {} }
            let (running, slots_free) = (self.running(), self.free());
            let observed_state = match slots_free {
                0 => AgentState::Busy,
                _ => AgentState::Ready,
            };
            let shared = &self.shop.shared;
            let beat = Heartbeat {
                observed_state,
                slots_free,
                load: running as f64 / self.slots as f64,
                progress_seq: shared.progress_seq.load(Ordering::Relaxed),
                generation: shared.generation,
            };
            shared.wire.say(Said::Heartbeat(Json::of(&beat))).await;
        }
    }

    /// Tells whoever runs us that we were woken.
    async fn wake(self: Arc<Self>) {
        let mut wakes = self.shop.control.wakes();
        while wakes.changed().await.is_ok() {
            (self.shop.shared.notices)(Notice::Woken);
        }
    }

    /// Tells when the connection is gone; claims wait for its return without a word.
    async fn mind(self: Arc<Self>) {
        let mut link = self.shop.shared.wire.link();
        while link.wait_for(|link| !link.up).await.is_ok() {
            (self.shop.shared.notices)(Notice::Waiting("the connection is gone"));
            if link.wait_for(|link| link.up).await.is_err() {
                return;
            }
        }
    }

    async fn obey(self: Arc<Self>, word: Word) {
        let done = match word {
            Word::Drain => {
                self.sent_away.store(true, Ordering::Release);
                self.shop.control.drain(None);
                Ok(())
            }
            Word::Stop => {
                self.sent_away.store(true, Ordering::Release);
                self.shop.control.stop();
                Ok(())
            }
            Word::Wake => {
                self.shop.control.wake();
                ready(&self.shop.shared.wire, REGISTER_PATIENCE).await
            }
            Word::Beat => {
                self.beat.notify_one();
                Ok(())
            }
            Word::Reload => self.describe().await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, ?word, "the control word was not carried out");
        }
    }

    /// Says that it is ready; who was registered from outside and is not known after all
    /// describes itself first.
    async fn be_ready(&self) -> Result<(), Error> {
        match ready(&self.shop.shared.wire, REGISTER_PATIENCE).await {
            Err(Error::Refused { problem, .. }) if problem.code() == Some(Code::NotFound) => {
                self.describe().await
            }
            done => done,
        }
    }

    async fn describe(&self) -> Result<(), Error> {
        register(&self.shop.shared.wire, &self.description).await?;
        ready(&self.shop.shared.wire, REGISTER_PATIENCE).await
    }
}

/// A taken slot; free again when the job ends, however it ends.
struct Place<H> {
    floor: Arc<Floor<H>>,
    lease: (TaskId, u64),
    /// It holds a slot; else the task was handed back.
    fits: bool,
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        self.floor.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.lease);
        if self.fits {
            self.floor.running.fetch_sub(1, Ordering::AcqRel);
            self.floor.freed.notify_waiters();
        }
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
