//! The one runner: reads by position, feeds every manager, executes what they ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::profile::Watch;
use domain::{Event, Recorded};
use parking_lot::Mutex;
use store::StoreError;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lifecycle::{AgentWork, FleetWork, LifecycleHandle};
use super::operations::Operations;
use super::perform::Session;
use super::purge::PurgeWork;
use super::scheduler::{self, Scheduler, SchedulerHandle};
use super::{
    Deadlines, Extensions, Manager, Schedules, Source, Subtasks, Watchdog, operations, until,
    watchdog::Signs,
};
use crate::fence::barrier;
use crate::{AgentWire, Clock, Executor, Nodes, Observation, Work};

/// Events read at once.
const PAGE: usize = 1_024;
/// The safety net behind every wake-up (reliability D21).
const POLL: Duration = Duration::from_millis(250);
/// How often deaf agents are asked again whether they listen.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// What can be set.
#[derive(Debug, Clone)]
pub struct ManagersConfig {
    /// How long [`Managers::run`] waits at its end for what is under way.
    pub grace: Duration,
    /// How long dead letters are kept before they are archived; for ever when absent.
    pub dead_letters_kept: Option<Duration>,
    /// After how long a task that stands still is escalated; never when absent.
    pub escalate_after: Option<Duration>,
    /// When silence is taken for a fault, where neither agent nor profile says so.
    pub watch: Watch,
}

impl Default for ManagersConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(2),
            dead_letters_kept: None,
            escalate_after: None,
            watch: Watch::default(),
        }
    }
}

/// Scheduler, lease watcher, watchdog, schedules and operations, as one role.
pub struct Managers {
    source: Arc<dyn Source>,
    executor: Arc<dyn Executor>,
    wire: Arc<dyn AgentWire>,
    clock: Clock,
    works: Arc<[Arc<dyn Work>]>,
    config: ManagersConfig,
    handle: Arc<SchedulerHandle>,
}

impl Managers {
    /// The managers, and the door for claims; the door is open while they run.
    ///
    /// `works` carry out operations by kind, before the command that an operation may
    /// carry is looked at.
    pub fn new(
        source: Arc<dyn Source>,
        executor: Arc<dyn Executor>,
        wire: Arc<dyn AgentWire>,
        clock: Clock,
        works: Vec<Arc<dyn Work>>,
        config: ManagersConfig,
    ) -> (Self, Arc<SchedulerHandle>) {
        let handle = Arc::new(SchedulerHandle::default());
        let mut works = works;
        works.push(Arc::new(PurgeWork(handle.clone())));
        works.push(Arc::new(AgentWork(handle.clone())));
        works.push(Arc::new(FleetWork(handle.clone())));
        let works = works.into();
        let managers =
            Self { source, executor, wire, clock, works, config, handle: handle.clone() };
        (managers, handle)
    }

    /// The door for nodes; open while they run.
    pub fn nodes(&self) -> Arc<dyn Nodes> {
        Arc::new(LifecycleHandle(self.handle.clone()))
    }

    /// Folds the log from its start, then acts until cancelled. To be called while this
    /// process holds the managers' lease, whose token is the `fence` of its commands, and
    /// again when it has got it anew.
    ///
    /// # Errors
    /// When the log has a hole or was replaced by another one: fold it anew. A log that
    /// cannot be reached is waited for.
    pub async fn run(
        &self,
        fence: Option<i64>,
        cancel: CancellationToken,
    ) -> Result<(), StoreError> {
        let token = fence.unwrap_or_default();
        let session = Arc::new(Session {
            scheduler: Mutex::new(Scheduler::under(
                token.unsigned_abs(),
                self.config.escalate_after,
            )),
            lifecycle: Arc::default(),
            source: self.source.clone(),
            executor: self.executor.clone(),
            wire: self.wire.clone(),
            clock: self.clock.clone(),
            fence,
            folded: watch::Sender::new(0),
            wake: Notify::new(),
            cancel: cancel.child_token(),
            tasks: TaskTracker::new(),
        });
        let weak = Arc::downgrade(&session);
        let demand = move |agent| {
            weak.upgrade().is_some_and(|session| session.scheduler.lock().is_work_for(agent))
        };
        session.lifecycle.lock().with(Box::new(demand), self.config.watch.clone());
        let ended = Run::new(session.clone(), self.works.clone(), &self.config)
            .until_cancelled(&self.handle)
            .await;
        self.handle.set(None);
        session.cancel.cancel();
        session.tasks.close();
        if tokio::time::timeout(self.config.grace, session.tasks.wait()).await.is_err() {
            let left = session.tasks.len();
            tracing::warn!(left, "the managers end before all that was under way");
        }
        ended
    }
}

struct Run {
    session: Arc<Session>,
    managers: Vec<Arc<Mutex<dyn Manager>>>,
    operations: Arc<Mutex<Operations>>,
    works: Arc<[Arc<dyn Work>]>,
    position: u64,
    epoch: Option<u64>,
    /// Everything that stood in the log at the start is folded: act from here on.
    live: bool,
    probed: Option<Instant>,
}

impl Run {
    fn new(session: Arc<Session>, works: Arc<[Arc<dyn Work>]>, config: &ManagersConfig) -> Self {
        let (retention, watch) = (config.dead_letters_kept, config.watch.clone());
        let watched = session.clone();
        let wire = session.wire.clone();
        let signs = move |tenant: &_, agent| {
            let now = Instant::now();
            let own = watched.wire.observed(tenant, agent);
            let (vouched, watch) = {
                let lifecycle = watched.lifecycle.lock();
                (lifecycle.vouched(agent, now), lifecycle.watch(agent))
            };
            // A node stands for its agents' processes until they speak for themselves.
            let vouched =
                vouched.filter(|(_, placed)| own.as_ref().is_none_or(|own| own.received < *placed));
            // Whoever claims is there, heartbeat or not.
            let claimed = watched.scheduler.lock().claimed(agent, now);
            let other = claimed.max(vouched.map(|(at, _)| at));
            let seen = match (own, other) {
                (Some(own), Some(at)) => {
                    Some(Observation { received: own.received.max(at), ..own })
                }
                (Some(own), None) => Some(own),
                (None, Some(at)) => Some(Observation::seen(at, watched.clock.now())),
                (None, None) => None,
            };
            Signs { seen, watch }
        };
        let lifecycle: Arc<Mutex<dyn Manager>> = session.lifecycle.clone();
        Self {
            session,
            managers: vec![
                Arc::new(Mutex::new(Deadlines::new(retention))),
                Arc::new(Mutex::new(Extensions::new(Box::new(move || wire.holdings())))),
                Arc::new(Mutex::new(Watchdog::new(Box::new(signs), watch))),
                Arc::new(Mutex::new(Schedules::default())),
                Arc::new(Mutex::new(Subtasks::default())),
                lifecycle,
            ],
            operations: Arc::default(),
            works,
            position: 0,
            epoch: None,
            live: false,
            probed: None,
        }
    }

    async fn until_cancelled(mut self, handle: &SchedulerHandle) -> Result<(), StoreError> {
        let session = self.session.clone();
        let mut known = session.source.watch();
        let start = loop {
            match session.source.head().await {
                Ok(head) => break head,
                Err(error) if error.is_transient() => self.wait_for_log(&error).await,
                Err(error) => return Err(error),
            }
            if session.cancel.is_cancelled() {
                return Ok(());
            }
        };
        self.catch_up(start).await?;
        // From here on nothing of an earlier manager is taken any more: what it had taken
        // is folded before anything is decided.
        let start = match session.fence {
            Some(token) => {
                let outcome = session.execute(&barrier(token), u32::MAX).await;
                start.max(outcome.decision().position)
            }
            None => start,
        };
        let mut polled = Instant::now();
        while !session.cancel.is_cancelled() {
            let before = self.position;
            let head = *known.borrow_and_update();
            if head > self.position || start > self.position || polled.elapsed() >= POLL {
                polled = Instant::now();
                match session.source.after(self.position, PAGE).await {
                    Ok(events) => self.fold(&events)?,
                    Err(error) if error.is_transient() => self.wait_for_log(&error).await,
                    Err(error) => return Err(error),
                }
            }
            if !self.live && self.position >= start {
                self.live = true;
                tracing::info!(position = self.position, "the managers have caught up");
                self.react();
                handle.set(Some(session.clone()));
            } else if self.live {
                self.react();
            }
            let progress = self.position > before;
            if progress && self.position < start.max(*known.borrow()) {
                tokio::task::yield_now().await;
                continue;
            }
            let idle = self.idle();
            tokio::select! {
                () = session.cancel.cancelled() => {}
                _ = known.changed() => {}
                () = session.wake.notified() => {}
                () = tokio::time::sleep(idle) => {}
            }
        }
        Ok(())
    }

    /// Folds what stood in the log at the start; what a lost connection leaves of it comes
    /// by pages.
    async fn catch_up(&mut self, start: u64) -> Result<(), StoreError> {
        let began = Instant::now();
        let Some(mut pages) = self.session.source.scan(self.position, start) else {
            return Ok(());
        };
        while !self.session.cancel.is_cancelled() {
            match pages.next().await {
                Ok(events) if events.is_empty() => break,
                Ok(events) => self.fold(&events)?,
                Err(error) if error.is_transient() => {
                    self.wait_for_log(&error).await;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let ms = began.elapsed().as_millis() as u64;
        tracing::debug!(position = self.position, ms, "the managers folded the log");
        Ok(())
    }

    async fn wait_for_log(&self, error: &StoreError) {
        tracing::warn!(%error, position = self.position, "the managers cannot read the log");
        self.session.pause(POLL).await;
    }

    fn fold(&mut self, events: &[Arc<Recorded>]) -> Result<(), StoreError> {
        for event in events {
            let expected = self.position + 1;
            if event.position != expected {
                return Err(StoreError::Hole { expected, found: event.position });
            }
            // An older copy was put back: what is folded here may never have happened.
            if self.live && self.epoch.is_some_and(|epoch| epoch != event.epoch) {
                return Err(StoreError::Hole { expected, found: event.position });
            }
            self.epoch = Some(event.epoch);
            if let Err(error) = event.event() {
                tracing::warn!(%error, position = event.position, "an event that no manager reads");
            }
            self.session.scheduler.lock().apply(event);
            for manager in &self.managers {
                manager.lock().apply(event);
            }
            self.operations.lock().apply(event);
            if self.live {
                self.control(event);
            }
            self.position = event.position;
        }
        self.session.folded.send_replace(self.position);
        Ok(())
    }

    /// Tells an agent what was decided about it, whoever decided.
    fn control(&self, event: &Recorded) {
        let Ok(Event::Agent(happened)) = event.event() else { return };
        let Some(word) = operations::control_word(happened) else { return };
        let (tenant, agent) = (event.tenant.clone(), event.stream_id.into());
        let session = self.session.clone();
        self.session.tasks.spawn(async move { session.wire.control(tenant, agent, word).await });
    }

    fn react(&mut self) {
        let session = &self.session;
        let now = session.now();
        scheduler::serve(session);
        scheduler::look_up(session);
        scheduler::escalate(session);
        // Those who connected just now at once, the deaf not at every event.
        let due = self.probed.is_none_or(|at| now.instant.duration_since(at) >= PROBE_EVERY);
        scheduler::probe(session, due);
        if due {
            self.probed = Some(now.instant);
        }
        for manager in &self.managers {
            let commands = manager.lock().react(now);
            for command in commands {
                let (session, manager) = (session.clone(), manager.clone());
                session.tasks.clone().spawn(async move {
                    let outcome = session.execute(&command, 1).await;
                    manager.lock().settle(&command, &outcome, session.now());
                    session.wake.notify_one();
                });
            }
        }
        for (tenant, node) in session.lifecycle.lock().take_calls() {
            let session = session.clone();
            session.tasks.clone().spawn(async move { session.wire.call_node(tenant, node).await });
        }
        operations::start(session, &self.operations, &self.works);
    }

    /// How long nothing needs to be done if nothing happens.
    fn idle(&self) -> Duration {
        let now = self.session.now();
        let dues = self.managers.iter().filter_map(|manager| manager.lock().due(now));
        let task = self.session.scheduler.lock().next_due();
        let task = task.map(|at| until(now.time, at));
        // Timers tick in whole milliseconds: rather a little late than twice.
        let least = dues.chain(task).min().unwrap_or(POLL).min(POLL);
        least.max(Duration::from_millis(1))
    }
}
