//! What is different in a fork, ready to be applied.

use std::collections::{HashMap, HashSet};

use domain::agent::{AgentAsked, AgentEvent, AgentRegistered, UpdateAgent};
use domain::expression::Condition;
use domain::fork::{ForkChanges, ForkTasks};
use domain::problem::FieldError;
use domain::queue::{QueueConfigured, QueueEvent, queue_id};
use domain::task::{TaskEvent, TaskNoted, TaskSubmitted};
use domain::values::Labels;
use domain::{AgentId, Event, Json, Problem, StreamType, TenantId};
use serde_json::json;
use uuid::Uuid;

/// An event that only the fork has.
pub(super) struct Added {
    pub kind: StreamType,
    pub stream: Uuid,
    pub event: Event,
}

/// What becomes of an event of the log in a fork.
pub(super) enum Told {
    /// It is the same.
    Same,
    /// It says something else.
    Other(Box<Event>),
    /// It does not happen.
    Never,
}

/// An agent that only the fork has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Twin {
    pub id: AgentId,
    /// Whose ways it has.
    pub like: Option<AgentId>,
}

#[derive(Debug)]
struct Which {
    tasks: ForkTasks,
    condition: Option<Condition>,
}

impl Which {
    fn of(tasks: &ForkTasks) -> Self {
        let condition = tasks.condition.as_ref().and_then(|c| Condition::parse(c, "task").ok());
        Self { tasks: tasks.clone(), condition }
    }

    fn holds(&self, new: &TaskSubmitted, facts: &mut Option<serde_json::Value>) -> bool {
        self.tasks.queue.as_ref().is_none_or(|queue| *queue == new.queue)
            && self.tasks.kind.as_ref().is_none_or(|kind| *kind == new.kind)
            && (self.tasks.condition.is_none()
                || self.condition.as_ref().is_some_and(|condition| {
                    condition.holds(facts.get_or_insert_with(|| facts_of(new)))
                }))
    }
}

/// What a condition looks at: the same as a limit's expression.
fn facts_of(new: &TaskSubmitted) -> serde_json::Value {
    json!({
        "title": new.title,
        "type": new.kind,
        "queue": new.queue,
        "priority": new.priority,
        "capabilities": new.capabilities,
        "labels": new.labels,
        "assignees": new.assignees,
        "parent_id": new.parent_id,
        "concurrency_key": new.concurrency_key,
        "payload": new.payload,
    })
}

/// Changes of a fork, with what they need to know of the agents.
#[derive(Debug)]
pub(super) struct Changed {
    tenant: TenantId,
    asked: ForkChanges,
    retry: Vec<Which>,
    priorities: Vec<Which>,
    /// Agents as they last described themselves.
    agents: HashMap<AgentId, AgentRegistered>,
    names: HashMap<String, AgentId>,
    /// Those that come later, as they say at first.
    came: HashMap<AgentId, AgentRegistered>,
    removed: HashSet<AgentId>,
    slots: HashMap<AgentId, u32>,
    /// Submissions that came out differently.
    pub changed: u64,
}

impl Changed {
    pub fn new(
        tenant: TenantId,
        asked: ForkChanges,
        came: HashMap<AgentId, AgentRegistered>,
    ) -> Self {
        let retry = asked.retry.iter().map(|retry| Which::of(&retry.tasks)).collect();
        let priorities = asked.priorities.iter().map(|other| Which::of(&other.tasks)).collect();
        Self {
            tenant,
            asked,
            retry,
            priorities,
            agents: HashMap::new(),
            names: HashMap::new(),
            came,
            removed: HashSet::new(),
            slots: HashMap::new(),
            changed: 0,
        }
    }

    /// Learns how agents are, before the fork begins.
    pub fn learn(&mut self, id: AgentId, happened: &AgentEvent) {
        match happened {
            AgentEvent::Registered(said) | AgentEvent::Reconnected(said) => {
                self.names.insert(said.name.clone(), id);
                self.agents.insert(id, said.clone());
            }
            AgentEvent::Updated(changes) => {
                let Some(known) = self.agents.get_mut(&id) else { return };
                if let Some(slots) = changes.slots {
                    known.slots = slots;
                }
                if let Some(capabilities) = &changes.capabilities {
                    known.capabilities.clone_from(capabilities);
                }
                if let Some(labels) = &changes.labels {
                    known.labels = labels.clone();
                }
                known.cost = changes.cost.unwrap_or(known.cost);
            }
            AgentEvent::Ready(_)
            | AgentEvent::DeployRequested(_)
            | AgentEvent::Reported(_)
            | AgentEvent::Draining(_)
            | AgentEvent::Hibernated(_)
            | AgentEvent::Woken(_)
            | AgentEvent::Restarted(_)
            | AgentEvent::Retired(_)
            | AgentEvent::ForceStopped(_)
            | AgentEvent::Validated(_)
            | AgentEvent::Placed(_)
            | AgentEvent::Observed(_)
            | AgentEvent::Assessed(_)
            | AgentEvent::RestartScheduled(_)
            | AgentEvent::Quarantined(_)
            | AgentEvent::HandedBack(_)
            | AgentEvent::Drifted(_)
            | AgentEvent::RoundBegun(_)
            | AgentEvent::RoundEnded(_)
            | AgentEvent::Ignored(_) => {}
        }
    }

    fn agent(&self, who: &str, pointer: String) -> Result<AgentId, FieldError> {
        let there = |id: &AgentId| self.agents.contains_key(id) || self.came.contains_key(id);
        let by_id = who.parse().ok().map(AgentId).filter(there);
        // Of a name that changed hands the one who had it at the start.
        let came = || {
            let mut ids: Vec<_> =
                self.came.iter().filter(|(_, said)| said.name == who).map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids.first().copied()
        };
        by_id.or_else(|| self.names.get(who).copied()).or_else(came).ok_or_else(|| {
            let message = format!("there was no agent {who} in the stretch");
            FieldError::new(pointer, "unknown_agent", message)
        })
    }

    /// What is different from the start, as events, and the agents that are new.
    ///
    /// # Errors
    /// When an agent is named that was not there.
    pub fn begin(
        &mut self,
        known: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Added>, Vec<Twin>), Problem> {
        let (mut events, mut clones, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        let at = |rest: String| format!("/changes/{rest}");
        for (queue, policy) in &self.asked.queues {
            if !known(queue) {
                let message = format!("there was no queue {queue} in the stretch");
                faults.push(FieldError::new(
                    at(format!("queues/{queue}")),
                    "unknown_queue",
                    message,
                ));
            }
            let configured = QueueConfigured { queue: queue.clone(), policy: policy.clone() };
            events.push(Added {
                kind: StreamType::Queue,
                stream: queue_id(&self.tenant, queue),
                event: Event::Queue(QueueEvent::Configured(configured)),
            });
        }
        for (list, whose) in [
            ("retry", self.asked.retry.iter().map(|r| &r.tasks).collect::<Vec<_>>()),
            ("priorities", self.asked.priorities.iter().map(|p| &p.tasks).collect()),
        ] {
            for (nth, tasks) in whose.into_iter().enumerate() {
                if let Some(queue) = tasks.queue.as_ref().filter(|queue| !known(queue)) {
                    let message = format!("there was no queue {queue} in the stretch");
                    let pointer = at(format!("{list}/{nth}/tasks/queue"));
                    faults.push(FieldError::new(pointer, "unknown_queue", message));
                }
            }
        }
        let agent = |id: AgentId, event| Added { kind: StreamType::Agent, stream: id.0, event };
        for (nth, who) in self.asked.agents.remove.iter().enumerate() {
            match self.agent(who, at(format!("agents/remove/{nth}"))) {
                Ok(id) => {
                    self.removed.insert(id);
                    let reason = Some("removed in the fork".into());
                    let asked = AgentAsked { reason, ..AgentAsked::default() };
                    if self.agents.contains_key(&id) {
                        events.push(agent(id, Event::Agent(AgentEvent::Draining(asked))));
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        for (who, slots) in &self.asked.agents.slots {
            match self.agent(who, at(format!("agents/slots/{who}"))) {
                Ok(id) => {
                    self.slots.insert(id, *slots);
                    let changes = UpdateAgent { slots: Some(*slots), ..UpdateAgent::default() };
                    if self.agents.contains_key(&id) {
                        events.push(agent(id, Event::Agent(AgentEvent::Updated(changes))));
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        for (nth, more) in self.asked.agents.add.iter().enumerate() {
            let like = match &more.like {
                Some(who) => match self.agent(who, at(format!("agents/add/{nth}/like"))) {
                    Ok(id) => Some(id),
                    Err(fault) => {
                        faults.push(fault);
                        continue;
                    }
                },
                None => None,
            };
            for count in 0..more.count {
                let said = like.and_then(|id| self.agents.get(&id).or_else(|| self.came.get(&id)));
                let mut said = said.cloned().unwrap_or_else(|| plain(&more.capabilities));
                let id = AgentId(Uuid::new_v5(
                    &Uuid::NAMESPACE_OID,
                    format!("fork:{nth}:{count}").as_bytes(),
                ));
                said.name = format!("{}+{}", said.name, nth * 1_000 + count as usize + 1);
                said.slots = more.slots.unwrap_or(said.slots);
                said.profile = Json::null();
                said.led = false;
                events.push(agent(id, Event::Agent(AgentEvent::Registered(said))));
                events.push(agent(id, Event::Agent(AgentEvent::Ready(TaskNoted::default()))));
                clones.push(Twin { id, like });
            }
        }
        if faults.is_empty() { Ok((events, clones)) } else { Err(Problem::invalid(faults)) }
    }

    /// What becomes of an event of the log.
    pub fn told(&mut self, stream: Uuid, event: &Event) -> Told {
        if let Event::Task(TaskEvent::Submitted(new)) = event {
            return self.submitted(new);
        }
        if let Event::Queue(QueueEvent::Configured(set)) = event {
            let ours = self.asked.queues.contains_key(&set.queue);
            return if ours { Told::Never } else { Told::Same };
        }
        let Event::Agent(happened) = event else { return Told::Same };
        if self.removed.contains(&AgentId(stream)) {
            return Told::Never;
        }
        let Some(slots) = self.slots.get(&AgentId(stream)).copied() else { return Told::Same };
        let other = if let AgentEvent::Registered(said) = happened {
            AgentEvent::Registered(AgentRegistered { slots, ..said.clone() })
        } else if let AgentEvent::Reconnected(said) = happened {
            AgentEvent::Reconnected(AgentRegistered { slots, ..said.clone() })
        } else if let AgentEvent::Updated(changes) = happened {
            AgentEvent::Updated(UpdateAgent { slots: Some(slots), ..changes.clone() })
        } else {
            return Told::Same;
        };
        Told::Other(Box::new(Event::Agent(other)))
    }

    fn submitted(&mut self, new: &TaskSubmitted) -> Told {
        let mut facts = None;
        let priority = self.priorities.iter().position(|which| which.holds(new, &mut facts));
        let retry = self.retry.iter().position(|which| which.holds(new, &mut facts));
        if priority.is_none() && retry.is_none() {
            return Told::Same;
        }
        let mut other = new.clone();
        if let Some(nth) = priority {
            other.priority = self.asked.priorities[nth].priority;
        }
        if let Some(nth) = retry {
            other.retry = self.asked.retry[nth].policy.clone();
        }
        if other == *new {
            return Told::Same;
        }
        self.changed += 1;
        Told::Other(Box::new(Event::Task(TaskEvent::Submitted(other))))
    }

    /// Whether failures are tried again otherwise.
    pub fn retries(&self) -> bool {
        !self.retry.is_empty()
    }

    /// The length of the leases that the scheduler gives.
    pub fn lease_ms(&self) -> Option<u64> {
        self.asked.lease_ms
    }
}

fn plain(capabilities: &[String]) -> AgentRegistered {
    AgentRegistered {
        name: "fork".into(),
        role: "worker".into(),
        session_key: String::new(),
        capabilities: capabilities.to_vec(),
        labels: Labels::default(),
        slots: 1,
        memory_context: None,
        profile: Json::null(),
        version: None,
        endpoint: None,
        ttl_ms: None,
        cost: 0,
        watch: None,
        rounds: None,
        led: false,
    }
}
