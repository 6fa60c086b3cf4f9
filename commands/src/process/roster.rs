//! What the log says of the agents, as far as managers need it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::agent::{AgentEvent, AgentRegistered, AgentState, state_after};
use domain::profile::Watch;
use domain::values::Labels;
use domain::{AgentId, Event, Recorded, TenantId};

/// What an agent can do, sorted; agents that can do the same are listed together.
pub type Abilities = Arc<[String]>;

/// Labels by name; those that are words have the value "".
#[derive(Debug, Clone, Default)]
pub struct Labelled(Arc<[(Box<str>, Box<str>)]>);

impl Labelled {
    /// The labels as they were given.
    pub fn of(labels: &Labels) -> Self {
        let mut all: Vec<(Box<str>, Box<str>)> = match labels {
            Labels::Words(words) => {
                words.iter().map(|word| (word.as_str().into(), "".into())).collect()
            }
            Labels::Pairs(pairs) => pairs
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
        };
        all.sort_unstable();
        Self(all.into())
    }

    /// The value of a label that it has.
    pub fn value(&self, label: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(name, _)| (**name).cmp(label));
        found.ok().map(|at| &*self.0[at].1)
    }

    /// Whether it has a label, with one of these values if there are any.
    pub fn has(&self, label: &str, values: &[String]) -> bool {
        let value = self.value(label);
        value.is_some_and(|value| values.is_empty() || values.iter().any(|one| one == value))
    }
}

/// One agent.
#[derive(Debug, Clone)]
pub struct AgentFacts {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: AgentState,
    /// Told to drain or to sleep and not told otherwise since: no sign of life alone
    /// brings it back, also when it was offline in between.
    pub held_back: bool,
    /// What it can do, sorted.
    pub capabilities: Abilities,
    /// What is said of it.
    pub labels: Labelled,
    /// What it costs in comparison.
    pub cost: u32,
    /// Tasks it holds at once.
    pub slots: usize,
    /// Silence after which it counts as offline, where it said so.
    pub ttl: Option<Duration>,
    /// When its silence is taken for a fault, where somebody said so.
    pub watch: Watch,
    /// It has a profile: a node starts and stops it.
    pub managed: bool,
    /// It registered itself: silence means something even before its first heartbeat.
    pub by_itself: bool,
    /// Position of the event that led to its state: the cause of commands about it.
    pub since: u64,
    /// Of its stream. Commands about its state expect it and derive their ids from it:
    /// what a manager concludes must not undo what an operator decided meanwhile.
    pub version: u64,
    /// Who caused that event.
    pub since_actor: Arc<str>,
}

impl AgentFacts {
    /// Whether a sign of life makes it ready, when it is not.
    pub fn can_be_revived(&self) -> bool {
        use AgentState as S;
        match self.state {
            S::Created
            | S::Validating
            | S::Validated
            | S::Deploying
            | S::Warming
            | S::Blocked
            | S::Unhealthy
            | S::Offline => !self.held_back,
            S::Ready
            | S::Busy
            | S::Degraded
            | S::Hibernating
            | S::Draining
            | S::Retired
            | S::Failed
            | S::ForceStopped => false,
        }
    }

    /// It does not come back.
    pub fn is_gone(&self) -> bool {
        use AgentState as S;
        match self.state {
            S::Retired | S::Failed | S::ForceStopped => true,
            S::Created
            | S::Validating
            | S::Validated
            | S::Deploying
            | S::Warming
            | S::Ready
            | S::Busy
            | S::Blocked
            | S::Degraded
            | S::Unhealthy
            | S::Hibernating
            | S::Draining
            | S::Offline => false,
        }
    }

    /// What it is wanted to be, which is not what it is (invariant 11).
    pub fn desired_state(&self) -> &'static str {
        use AgentState as S;
        match self.state {
            S::Draining | S::Hibernating | S::Retired | S::ForceStopped => self.state.as_str(),
            S::Created
            | S::Validating
            | S::Validated
            | S::Deploying
            | S::Warming
            | S::Ready
            | S::Busy
            | S::Blocked
            | S::Degraded
            | S::Unhealthy
            | S::Offline
            | S::Failed => {
                if self.held_back {
                    S::Draining.as_str()
                } else {
                    S::Ready.as_str()
                }
            }
        }
    }

    fn describe(&mut self, said: &AgentRegistered) {
        self.name.clone_from(&said.name);
        self.capabilities = sorted(&said.capabilities);
        self.labels = Labelled::of(&said.labels);
        self.cost = said.cost;
        self.slots = said.slots as usize;
        self.ttl = said.ttl_ms.map(Duration::from_millis);
        self.watch = said.watch.clone().unwrap_or_default();
        self.managed = !said.profile.is_null();
    }
}

/// All agents by id.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    all: HashMap<AgentId, AgentFacts>,
    /// Who has a name, or had it last.
    names: HashMap<TenantId, HashMap<String, AgentId>>,
}

impl Roster {
    /// Folds one event; names the agent that it was about.
    pub fn apply(&mut self, event: &Recorded) -> Option<AgentId> {
        let Ok(Event::Agent(happened)) = event.event() else { return None };
        let id = AgentId(event.stream_id);
        if let AgentEvent::Registered(new) = happened {
            let mut facts = AgentFacts {
                tenant: event.tenant.clone(),
                name: String::new(),
                state: AgentState::Created,
                held_back: false,
                capabilities: Abilities::default(),
                labels: Labelled::default(),
                cost: 0,
                slots: 1,
                ttl: None,
                watch: Watch::default(),
                managed: false,
                by_itself: is_agent(&event.actor, id),
                since: event.position,
                version: event.version,
                since_actor: event.actor.clone(),
            };
            facts.describe(new);
            let names = self.names.entry(event.tenant.clone()).or_default();
            names.insert(facts.name.clone(), id);
            self.all.insert(id, facts);
            return Some(id);
        }
        let facts = self.all.get_mut(&id)?;
        facts.version = event.version;
        match happened {
            AgentEvent::Reconnected(said) => {
                facts.describe(said);
                facts.by_itself = is_agent(&event.actor, id);
                facts.held_back = false;
            }
            AgentEvent::Updated(changes) => {
                if let Some(capabilities) = &changes.capabilities {
                    facts.capabilities = sorted(capabilities);
                }
                if let Some(labels) = &changes.labels {
                    facts.labels = Labelled::of(labels);
                }
                if let Some(cost) = changes.cost {
                    facts.cost = cost;
                }
                if let Some(slots) = changes.slots {
                    facts.slots = slots as usize;
                }
                if let Some(watch) = &changes.watch {
                    facts.watch = watch.clone();
                }
                if let Some(profile) = &changes.profile {
                    facts.managed = !profile.is_null();
                }
                return Some(id);
            }
            AgentEvent::Draining(_) | AgentEvent::Hibernated(_) => facts.held_back = true,
            AgentEvent::Ready(_)
            | AgentEvent::Woken(_)
            | AgentEvent::Restarted(_)
            | AgentEvent::DeployRequested(_) => facts.held_back = false,
            // They say nothing of its state: what was concluded from it stands.
            AgentEvent::Placed(_)
            | AgentEvent::Observed(_)
            | AgentEvent::RestartScheduled(_)
            | AgentEvent::HandedBack(_)
            | AgentEvent::Drifted(_)
            | AgentEvent::RoundBegun(_)
            | AgentEvent::RoundEnded(_)
            | AgentEvent::Ignored(_) => {
                facts.state = state_after(Some(facts.state), happened).unwrap_or(facts.state);
                return Some(id);
            }
            AgentEvent::Registered(_)
            | AgentEvent::Reported(_)
            | AgentEvent::Validated(_)
            | AgentEvent::Assessed(_)
            | AgentEvent::Quarantined(_)
            | AgentEvent::Retired(_)
            | AgentEvent::ForceStopped(_) => {}
        }
        facts.state = state_after(Some(facts.state), happened).unwrap_or(facts.state);
        facts.since = event.position;
        facts.since_actor = event.actor.clone();
        Some(id)
    }

    /// One agent.
    pub fn get(&self, id: AgentId) -> Option<&AgentFacts> {
        self.all.get(&id)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (AgentId, &AgentFacts)> {
        self.all.iter().map(|(id, facts)| (*id, facts))
    }

    /// The agent that an assignee is: by id, or by name.
    pub fn assignee(&self, tenant: &TenantId, who: &str) -> Option<AgentId> {
        let named = || self.names.get(tenant)?.get(who).copied();
        let id = who.parse().ok().map(AgentId).filter(|id| self.all.contains_key(id));
        id.or_else(named)
    }
}

/// The agent that an actor is, if it is one.
pub(crate) fn agent_of(actor: &str) -> Option<AgentId> {
    actor.strip_prefix("agent:")?.parse().ok().map(AgentId)
}

fn is_agent(actor: &str, id: AgentId) -> bool {
    agent_of(actor) == Some(id)
}

fn sorted(words: &[String]) -> Abilities {
    let mut words = words.to_vec();
    words.sort_unstable();
    words.dedup();
    words.into()
}
