//! Silence and signs of life: what heartbeats change becomes an event, they do not.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use domain::agent::{AgentCommand, AgentState, Reason, ReportAgent};
use domain::{AgentId, Outcome, Recorded, TenantId};

use super::roster::{AgentFacts, Roster, agent_of};
use super::{Manager, Moment, command_id};
use crate::{CommandEnvelope, Observation};

/// Who the commands are from.
const ACTOR: &str = "manager:watchdog";
/// A first heartbeat makes an agent ready within this time; a look costs a map access
/// per agent.
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// Not oftener, however short the time to live.
const SHORTEST_LOOK: Duration = Duration::from_millis(200);

/// Where heartbeats are seen.
pub type Signs = Box<dyn Fn(&TenantId, AgentId) -> Option<Observation> + Send>;

/// Tells agents that fell silent from those that came back.
pub struct Watchdog {
    roster: Roster,
    signs: Signs,
    /// Silence counts from here at the earliest: a restart of ours is no fault of the
    /// fleet (reliability D38). Set when the first look is taken.
    began: Option<Instant>,
    looked: Option<Instant>,
    /// Spoke through an event since the last look.
    spoke: HashSet<AgentId>,
    heard: HashMap<AgentId, Instant>,
    under_way: HashSet<uuid::Uuid>,
    shortest_ttl: Duration,
}

impl Watchdog {
    /// A watchdog that knows nobody yet.
    pub fn new(signs: Signs) -> Self {
        Self {
            roster: Roster::default(),
            signs,
            began: None,
            looked: None,
            spoke: HashSet::new(),
            heard: HashMap::new(),
            under_way: HashSet::new(),
            shortest_ttl: Duration::MAX,
        }
    }

    fn period(&self) -> Duration {
        (self.shortest_ttl / 3).clamp(SHORTEST_LOOK, LONGEST_LOOK)
    }
}

impl Manager for Watchdog {
    fn apply(&mut self, event: &Recorded) {
        if let Some(agent) = agent_of(&event.actor) {
            self.spoke.insert(agent);
        }
        if let Some(id) = self.roster.apply(event)
            && let Some(facts) = self.roster.get(id)
        {
            self.shortest_ttl = self.shortest_ttl.min(facts.ttl);
            // Whatever was decided about it, its silence is measured anew.
            self.spoke.insert(id);
        }
    }

    fn react(&mut self, now: Moment) -> Vec<CommandEnvelope> {
        let began = *self.began.get_or_insert(now.instant);
        if self.looked.is_some_and(|at| now.instant.duration_since(at) < self.period()) {
            return Vec::new();
        }
        self.looked = Some(now.instant);
        for agent in self.spoke.drain() {
            self.heard.insert(agent, now.instant);
        }
        let mut commands = Vec::new();
        for (id, facts) in self.roster.iter() {
            let seen = (self.signs)(&facts.tenant, id);
            let heard = self.heard.get(&id).copied().unwrap_or(began);
            let Some(command) = judge(id, facts, seen.as_ref(), heard.max(began), now.instant)
            else {
                continue;
            };
            if self.under_way.insert(command.command_id) {
                commands.push(command);
            }
        }
        commands
    }

    fn settle(&mut self, command: &CommandEnvelope, outcome: &Outcome, _now: Moment) {
        use domain::Status as S;
        match outcome.status {
            // Not taken: the next look asks again.
            S::Busy => drop(self.under_way.remove(&command.command_id)),
            // Decided once and for all; the set is bounded by being emptied now and then,
            // a question too many is answered as a duplicate.
            S::Accepted | S::Refused | S::Invalid | S::Duplicate => {
                if self.under_way.len() > 100_000 {
                    self.under_way.clear();
                }
            }
        }
    }

    fn due(&self, now: Moment) -> Option<Duration> {
        let passed = self.looked.map_or(Duration::MAX, |at| now.instant.duration_since(at));
        Some(self.period().saturating_sub(passed))
    }
}

/// What one agent's signs, or their absence, ask for.
fn judge(
    id: AgentId,
    facts: &AgentFacts,
    seen: Option<&Observation>,
    heard: Instant,
    now: Instant,
) -> Option<CommandEnvelope> {
    use AgentState as S;
    let heard = seen.map_or(heard, |seen| seen.received.max(heard));
    let silent = now.saturating_duration_since(heard);
    let expected = seen.is_some() || facts.by_itself || &*facts.since_actor == ACTOR;
    let counts = match facts.state {
        S::Created
        | S::Warming
        | S::Ready
        | S::Busy
        | S::Blocked
        | S::Degraded
        | S::Unhealthy
        | S::Draining => true,
        S::Validating
        | S::Validated
        | S::Deploying
        | S::Hibernating
        | S::Offline
        | S::Retired
        | S::Failed
        | S::ForceStopped => false,
    };
    if silent > facts.ttl {
        let reason = format!("silent for longer than {} ms", facts.ttl.as_millis());
        return (counts && expected).then(|| report(id, facts, S::Offline, reason));
    }
    let fresh = seen.filter(|seen| now.saturating_duration_since(seen.received) <= facts.ttl)?;
    match fresh.observed_state.as_deref().and_then(word) {
        Some(said @ (S::Degraded | S::Unhealthy | S::Blocked | S::Failed)) => {
            // What it is told to do outweighs what it says of itself.
            let free = facts.state == S::Offline || counts && facts.state != S::Draining;
            (said != facts.state && free && !facts.held_back)
                .then(|| report(id, facts, said, "its own heartbeat says so".into()))
        }
        said => {
            // Without a word about its state, a heartbeat only tells that it is there.
            let fits = match facts.state {
                S::Blocked | S::Degraded | S::Warming => matches!(said, Some(S::Ready | S::Busy)),
                S::Created | S::Unhealthy | S::Offline => said != Some(S::Offline),
                S::Validating
                | S::Validated
                | S::Deploying
                | S::Ready
                | S::Busy
                | S::Hibernating
                | S::Draining
                | S::Retired
                | S::Failed
                | S::ForceStopped => false,
            };
            (fits && !facts.held_back).then(|| ready(id, facts, ACTOR, "its heartbeats arrive"))
        }
    }
}

fn word(text: &str) -> Option<AgentState> {
    AgentState::ALL.into_iter().find(|state| state.as_str() == text)
}

/// The command that makes an agent ready out of the state it is in.
pub(crate) fn ready(id: AgentId, facts: &AgentFacts, actor: &str, reason: &str) -> CommandEnvelope {
    let body = AgentCommand::MarkReady(Reason { reason: Some(reason.into()) });
    about(id, facts, actor, body, "ready")
}

fn report(id: AgentId, facts: &AgentFacts, state: AgentState, reason: String) -> CommandEnvelope {
    let body = ReportAgent { observed_state: state, reason: Some(reason) };
    about(id, facts, ACTOR, AgentCommand::Report(body), state.as_str())
}

fn about(
    id: AgentId,
    facts: &AgentFacts,
    actor: &str,
    body: AgentCommand,
    word: &str,
) -> CommandEnvelope {
    // The body must not depend on when it is asked: a restarted watchdog asks again
    // under the same id.
    let command_id = command_id(id.0, actor, format_args!("{word}:{}", facts.version));
    CommandEnvelope {
        causation_position: Some(facts.since),
        expected_version: Some(facts.version),
        ..CommandEnvelope::new(facts.tenant.clone(), id.0, body, command_id, actor)
    }
}
