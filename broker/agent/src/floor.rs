//! Where an agent's jobs run, and what keeps work coming: claims, pushes, control words.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::agent::{AgentState, RegisterAgent};
use domain::task::{Assignment, ClaimTasks, MAX_CLAIM, MAX_CLAIM_WAIT_MS};
use domain::{Code, Json, TaskId};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::agent::{REGISTER_PATIENCE, ready, register};
use crate::control::{Control, Phase, Word};
use crate::job::Shop;
use crate::notice::Notice;
use crate::transport::{Heard, Said};
use crate::{Error, Handler};

/// How often a wait looks again, should a word have been missed.
const LOOK: Duration = Duration::from_secs(2);
/// After a claim that got no answer or a refusal.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);

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
pub(crate) struct Floor<H> {
    pub(crate) shop: Arc<Shop<H>>,
    pub(crate) description: RegisterAgent,
    pub(crate) beat_every: Duration,
    pub(crate) slots: usize,
    pub(crate) running: AtomicUsize,
    /// What runs here, by its lease: a push that comes twice is one task.
    pub(crate) taken: Mutex<HashSet<(TaskId, u64)>>,
    pub(crate) freed: Notify,
    /// Wants a heartbeat at once.
    pub(crate) beat: Notify,
    /// The server itself wants this agent to end.
    pub(crate) sent_away: AtomicBool,
}

impl<H: Handler> Floor<H> {
    pub(crate) fn running(&self) -> usize {
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
    pub(crate) async fn empty(&self, control: &Control) {
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

    pub(crate) async fn claim(self: Arc<Self>, queue: String, wait: Duration, rounds: Option<u32>) {
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
    pub(crate) async fn hear(self: Arc<Self>, mut heard: mpsc::Receiver<Heard>) {
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

    pub(crate) async fn beat(self: Arc<Self>) {
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
    pub(crate) async fn wake(self: Arc<Self>) {
        let mut wakes = self.shop.control.wakes();
        while wakes.changed().await.is_ok() {
            (self.shop.shared.notices)(Notice::Woken);
        }
    }

    /// Tells when the connection is gone; claims wait for its return without a word.
    pub(crate) async fn mind(self: Arc<Self>) {
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
    pub(crate) async fn be_ready(&self) -> Result<(), Error> {
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
