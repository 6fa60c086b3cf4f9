//! Leases that heartbeats extend: an agent may name in its heartbeat what it works on, each
//! task with its lease's token. Where less than half of such a lease is left, it runs for
//! its whole length again.
//!
//! Only what is named is extended: a process that lives while its work hangs does not name
//! the work, and the lease runs out as ever. The token is looked at here, so that a stale
//! one costs no command, and again when the command is decided.

use std::collections::HashMap;
use std::time::Duration;

use domain::task::{ExtendTask, MIN_LEASE_MS, TaskCommand, TaskEvent};
use domain::{AgentId, Event, Outcome, Recorded, Status, TaskId, TenantId, Timestamp};

use super::{Manager, Moment, command_id};
use crate::{CommandEnvelope, Holding};

/// A heartbeat that nobody looked at for so long extends nothing: its sender may be gone.
const FRESH: Duration = Duration::from_secs(2);
/// How often heartbeats are looked at; the shortest lease has 500 ms left at its half.
const LOOK: Duration = Duration::from_millis(200);

/// Where heartbeats that name tasks are seen; each is told once.
pub type Holdings = Box<dyn Fn() -> Vec<Holding> + Send>;

/// A lease that runs.
#[derive(Debug)]
struct Lease {
    tenant: TenantId,
    agent: AgentId,
    token: u64,
    since: Timestamp,
    until: Timestamp,
    cause: u64,
    /// An extension is under way.
    asked: bool,
}

/// Extends leases that heartbeats ask for.
pub struct Extensions {
    holdings: Holdings,
    leases: HashMap<TaskId, Lease>,
}

impl Extensions {
    /// With no lease known yet.
    pub fn new(holdings: Holdings) -> Self {
        Self { holdings, leases: HashMap::new() }
    }

    fn extend(
        &mut self,
        said: &Holding,
        task: TaskId,
        token: u64,
        now: Timestamp,
    ) -> Option<CommandEnvelope> {
        let lease = self.leases.get_mut(&task)?;
        let its = lease.tenant == said.tenant && lease.agent == said.agent && lease.token == token;
        let length = lease.until - lease.since;
        if !its || lease.asked || lease.until - now >= length / 2 {
            return None;
        }
        lease.asked = true;
        let lease_ms = u64::try_from(length.num_milliseconds()).unwrap_or(0).max(MIN_LEASE_MS);
        let body = ExtendTask { lease_token: token, lease_ms: Some(lease_ms) };
        let cause = format_args!("{token}:{}", lease.until.timestamp_micros());
        Some(CommandEnvelope {
            causation_position: Some(lease.cause),
            // In the agent's name: it asks, and only the holder may.
            ..CommandEnvelope::new(
                lease.tenant.clone(),
                task.0,
                TaskCommand::Extend(body),
                command_id(task.0, "heartbeat", cause),
                format!("agent:{}", lease.agent),
            )
        })
    }
}

impl Manager for Extensions {
    fn apply(&mut self, event: &Recorded) {
        use TaskEvent as E;
        let Ok(Event::Task(happened)) = event.event() else { return };
        let task = TaskId(event.stream_id);
        match happened {
            E::Assigned(to) => {
                let lease = Lease {
                    tenant: event.tenant.clone(),
                    agent: to.agent_id,
                    token: to.lease_token,
                    since: event.recorded_at,
                    until: to.lease_expires_at,
                    cause: event.position,
                    asked: false,
                };
                self.leases.insert(task, lease);
            }
            E::LeaseExtended(to) => {
                if let Some(lease) = self.leases.get_mut(&task) {
                    (lease.since, lease.until) = (event.recorded_at, to.lease_expires_at);
                    (lease.cause, lease.asked) = (event.position, false);
                }
            }
            E::Unassigned(_)
            | E::Released(_)
            | E::ReviewRequested(_)
            | E::AttemptFailed(_)
            | E::LeaseExpired(_)
            | E::Completed(_)
            | E::Cancelled(_) => drop(self.leases.remove(&task)),
            E::Submitted(_)
            | E::Updated(_)
            | E::Started(_)
            | E::Progressed(_)
            | E::Blocked(_)
            | E::Unblocked(_)
            | E::Approved(_)
            | E::Rejected(_)
            | E::Failed(_)
            | E::DeadLettered(_)
            | E::Requeued(_)
            | E::Archived(_)
            | E::Escalated(_)
            | E::Overdue(_) => {}
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let mut commands = Vec::new();
        for said in (self.holdings)() {
            if now.instant.saturating_duration_since(said.received) > FRESH {
                continue;
            }
            for (task, token) in &said.tasks {
                commands.extend(self.extend(&said, *task, *token, now.time));
            }
        }
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, _: Moment) {
        // Its event, or that of the lease's end, is on the way here; where it was not
        // taken, the next heartbeat asks again.
        if matches!(outcome.status, Status::Busy | Status::Invalid)
            && let Some(lease) = self.leases.get_mut(&TaskId(command.stream_id))
        {
            lease.asked = false;
        }
    }

    fn due(&self, _: Moment) -> Option<Duration> {
        (!self.leases.is_empty()).then_some(LOOK)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use domain::task::AssignTask;
    use parking_lot::Mutex;

    use super::*;
    use crate::process::tests::memory::{Memory, tenant};

    struct World {
        memory: Memory,
        said: Arc<Mutex<Vec<Holding>>>,
        extensions: Extensions,
        folded: usize,
        task: TaskId,
        agent: AgentId,
    }

    /// A task in the hands of agent 7 under token 1, for ten seconds.
    fn world() -> World {
        let memory = Memory::new();
        let (task, agent) = (memory.task(1, |_| {}), memory.agent(7, |_| {}));
        let to = AssignTask { lease_ms: Some(10_000), ..AssignTask::to(agent) };
        memory.tell(task.0, TaskCommand::Assign(to), "operator");
        let said: Arc<Mutex<Vec<Holding>>> = Arc::default();
        let heard = said.clone();
        let extensions = Extensions::new(Box::new(move || std::mem::take(&mut *heard.lock())));
        World { memory, said, extensions, folded: 0, task, agent }
    }

    impl World {
        /// The agent says that it works under a token; how many commands come of it.
        fn beat(&mut self, agent: AgentId, token: u64, age: Duration) -> usize {
            for event in self.memory.events().iter().skip(self.folded) {
                self.extensions.apply(event);
                self.folded += 1;
            }
            let instant = Instant::now() + Duration::from_secs(100);
            let (tenant, received, tasks) = (tenant(), instant - age, vec![(self.task, token)]);
            self.said.lock().push(Holding { tenant, agent, received, tasks });
            let moment = Moment { time: self.memory.clock.now(), instant };
            let commands = self.extensions.react(moment);
            for command in &commands {
                let outcome = self.memory.decide(command.clone());
                self.extensions.settle(command, &outcome, moment);
            }
            commands.len()
        }

        fn left_ms(&self) -> i64 {
            let lease = &self.extensions.leases[&self.task];
            (lease.until - self.memory.clock.now()).num_milliseconds()
        }
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_lease_is_extended_by_its_whole_length_once_less_than_half_is_left() {
        let mut world = world();
        let agent = world.agent;
        assert_eq!(world.beat(agent, 1, NOW), 0, "all of it is left");
        world.memory.pass(Duration::from_secs(4));
        assert_eq!(world.beat(agent, 1, NOW), 0, "more than half is left");
        world.memory.pass(Duration::from_secs(2));
        assert_eq!(world.beat(agent, 1, NOW), 1);
        assert_eq!(world.memory.count("lease_extended"), 1);
        assert_eq!(world.beat(agent, 1, NOW), 0, "no event per heartbeat");
        assert!((9_000..=10_000).contains(&world.left_ms()), "{}", world.left_ms());
        world.memory.pass(Duration::from_secs(6));
        assert_eq!(world.beat(agent, 1, NOW), 1, "and again");
    }

    #[test]
    fn a_stale_token_another_agent_and_an_old_heartbeat_extend_nothing() {
        let mut world = world();
        let agent = world.agent;
        let other = world.memory.agent(8, |_| {});
        world.memory.pass(Duration::from_secs(6));
        assert_eq!(world.beat(agent, 2, NOW), 0);
        assert_eq!(world.beat(other, 1, NOW), 0);
        assert_eq!(world.beat(agent, 1, FRESH * 2), 0);
        let to = AssignTask { lease_ms: Some(10_000), ..AssignTask::to(other) };
        world.memory.tell(world.task.0, TaskCommand::Reassign(to), "operator");
        world.memory.pass(Duration::from_secs(6));
        assert_eq!(world.beat(agent, 1, NOW), 0, "it is another's by now");
        assert_eq!(world.memory.count("lease_extended"), 0);
        assert_eq!(world.beat(other, 2, NOW), 1);
    }

    #[test]
    fn what_was_not_taken_is_asked_for_again() {
        let mut world = world();
        let agent = world.agent;
        world.memory.pass(Duration::from_secs(6));
        world.memory.busy.store(1, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(world.beat(agent, 1, NOW), 1);
        assert_eq!(world.memory.count("lease_extended"), 0);
        assert_eq!(world.beat(agent, 1, NOW), 1);
        assert_eq!(world.memory.count("lease_extended"), 1);
    }
}
