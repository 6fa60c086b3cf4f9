//! Silence, standstill and signs of life: what heartbeats change becomes an event, they do
//! not.

mod stall;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use domain::agent::{AgentCommand, AgentState, AssessAgent, Reason, ReportAgent};
use domain::profile::Watch;
use domain::{AgentId, Event, Outcome, Recorded, TenantId};

use super::roster::{AgentFacts, Roster, agent_of};
use super::{Manager, Moment, command_id};
use crate::{CommandEnvelope, Observation};
use stall::Stalls;

/// Who the commands are from.
const ACTOR: &str = "manager:watchdog";
/// A first heartbeat makes an agent ready within this time; a look costs a map access
/// per agent.
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// Not oftener, however short the time to live.
const SHORTEST_LOOK: Duration = Duration::from_millis(200);
/// Silence after which an agent is unhealthy, when nobody said so.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long it may be that before it is restarted, or given up.
const RESTART_AFTER: Duration = Duration::from_secs(60);
/// What still comes so soon after an end may have been on its way.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// What is known of an agent beside the log.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    /// The last sign of life.
    pub seen: Option<Observation>,
    /// When its silence is a fault, where its profile has a word on that.
    pub watch: Option<Watch>,
}

/// Where signs of life are seen.
pub type Look = Box<dyn Fn(&TenantId, AgentId) -> Signs + Send>;

/// Tells agents that fell silent, or whose work stands still, from those that are well.
pub struct Watchdog {
    roster: Roster,
    signs: Look,
    /// Where neither agent nor profile says anything.
    usual: Watch,
    /// Silence counts from here at the earliest: a restart of ours is no fault of the
    /// fleet (reliability D38). Set when the first look is taken.
    began: Option<Instant>,
    looked: Option<Instant>,
    /// Spoke through an event since the last look.
    spoke: HashSet<AgentId>,
    heard: HashMap<AgentId, Instant>,
    stalls: Stalls,
    /// Agents that are degraded for work that stands still.
    stalled: HashSet<AgentId>,
    under_way: HashSet<uuid::Uuid>,
    shortest: Duration,
}

impl Watchdog {
    /// A watchdog that knows nobody yet.
    pub fn new(signs: Look, usual: Watch) -> Self {
        Self {
            roster: Roster::default(),
            signs,
            usual,
            began: None,
            looked: None,
            spoke: HashSet::new(),
            heard: HashMap::new(),
            stalls: Stalls::default(),
            stalled: HashSet::new(),
            under_way: HashSet::new(),
            shortest: Duration::MAX,
        }
    }

    fn period(&self) -> Duration {
        let shortest = self.shortest.min(self.stalls.shortest().unwrap_or(Duration::MAX));
        (shortest / 3).clamp(SHORTEST_LOOK, LONGEST_LOOK)
    }
}

impl Manager for Watchdog {
    fn apply(&mut self, event: &Recorded) {
        if let Some(agent) = agent_of(&event.actor) {
            self.spoke.insert(agent);
        }
        if let Ok(Event::Task(happened)) = event.event() {
            self.stalls.apply(event, happened);
        }
        if let Some(id) = self.roster.apply(event)
            && let Some(facts) = self.roster.get(id)
        {
            let after = facts.watch.unhealthy_after_ms.map(Duration::from_millis);
            let short = [facts.ttl, after].into_iter().flatten();
            self.shortest = short.fold(self.shortest, Duration::min);
            // Whatever was decided about it, its silence is measured anew; not by our own
            // conclusion from that silence.
            if &*event.actor != ACTOR {
                self.spoke.insert(id);
            }
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
            let Signs { seen, watch } = (self.signs)(&facts.tenant, id);
            let heard = self.heard.get(&id).copied().unwrap_or(began).max(began);
            let watch = facts.watch.or(&watch.unwrap_or_default()).or(&self.usual);
            let counter = seen.as_ref().and_then(|seen| seen.progress_seq);
            let usual = watch.stall_ms.map(Duration::from_millis);
            let still = self.stalls.stalled(id, counter, usual, now.instant);
            let sight = Sight { seen: seen.as_ref(), heard, watch: &watch, now: now.instant };
            let command = match still {
                Some((task, time)) if facts.state.takes_work() => {
                    self.stalled.insert(id);
                    let ms = time.as_millis();
                    let reason = format!("task {task} has made no progress for {ms} ms");
                    (facts.state != AgentState::Degraded)
                        .then(|| assess(id, facts, AgentState::Degraded, reason))
                        .or_else(|| sight.silence(id, facts))
                }
                Some(_) => sight.judge(id, facts),
                None if self.stalled.remove(&id) && facts.state == AgentState::Degraded => {
                    Some(ready(id, facts, ACTOR, "its tasks get on again"))
                }
                None => sight.judge(id, facts),
            };
            if let Some(command) = command
                && self.under_way.insert(command.command_id)
            {
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

/// What is seen of one agent.
struct Sight<'a> {
    seen: Option<&'a Observation>,
    /// When it was last heard of otherwise.
    heard: Instant,
    watch: &'a Watch,
    now: Instant,
}

impl Sight<'_> {
    fn silent(&self) -> Duration {
        let heard = self.seen.map_or(self.heard, |seen| seen.received.max(self.heard));
        self.now.saturating_duration_since(heard)
    }

    /// What an agent's silence asks for.
    fn silence(&self, id: AgentId, facts: &AgentFacts) -> Option<CommandEnvelope> {
        use AgentState as S;
        let expected = self.seen.is_some() || facts.by_itself || &*facts.since_actor == ACTOR;
        let silent = self.silent();
        let unhealthy =
            self.watch.unhealthy_after_ms.map_or(UNHEALTHY_AFTER, Duration::from_millis);
        let given_up = self.watch.restart_after_ms.map_or(RESTART_AFTER, Duration::from_millis);
        if !expected || !counts(facts.state) {
            return None;
        }
        // Who is managed is restarted in the end, and does not just go.
        let gone = facts.ttl.or((!facts.managed).then_some(unhealthy + given_up));
        if gone.is_some_and(|gone| silent > gone) {
            let ms = gone.unwrap_or_default().as_millis();
            return Some(assess(id, facts, S::Offline, format!("silent for longer than {ms} ms")));
        }
        let told = matches!(facts.state, S::Unhealthy | S::Draining);
        (silent > unhealthy && !told).then(|| {
            let ms = unhealthy.as_millis();
            assess(id, facts, S::Unhealthy, format!("silent for longer than {ms} ms"))
        })
    }

    /// What an agent's signs, or their absence, ask for.
    fn judge(&self, id: AgentId, facts: &AgentFacts) -> Option<CommandEnvelope> {
        use AgentState as S;
        if facts.state.is_final() {
            return self.late(id, facts);
        }
        if let Some(command) = self.silence(id, facts) {
            return Some(command);
        }
        // What its node sees of its process is not mended by a heartbeat.
        if facts.since_actor.starts_with("node:") {
            return None;
        }
        let limit = self.watch.unhealthy_after_ms.map_or(UNHEALTHY_AFTER, Duration::from_millis);
        let limit = facts.ttl.unwrap_or(limit);
        let fresh =
            self.seen.filter(|seen| self.now.saturating_duration_since(seen.received) <= limit)?;
        match fresh.observed_state.as_deref().and_then(word) {
            Some(said @ (S::Degraded | S::Unhealthy | S::Blocked | S::Failed)) => {
                // What it is told to do outweighs what it says of itself.
                let free =
                    facts.state == S::Offline || counts(facts.state) && facts.state != S::Draining;
                (said != facts.state && free && !facts.held_back)
                    .then(|| assess(id, facts, said, "its own heartbeat says so".into()))
            }
            said => {
                // Without a word about its state, a heartbeat only tells that it is there.
                let fits = match facts.state {
                    S::Blocked | S::Degraded | S::Warming => {
                        matches!(said, Some(S::Ready | S::Busy))
                    }
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

    /// A heartbeat after the end is recorded, once; it changes nothing.
    fn late(&self, id: AgentId, facts: &AgentFacts) -> Option<CommandEnvelope> {
        let seen = self.seen.filter(|seen| seen.received > self.heard + LATE_AFTER)?;
        let said = seen.observed_state.as_deref().and_then(word);
        let observed_state =
            said.filter(|said| said.can_be_observed()).unwrap_or(AgentState::Ready);
        let reason = Some("a heartbeat after its end".into());
        let body = AgentCommand::Report(ReportAgent { observed_state, reason });
        let command_id = command_id(id.0, ACTOR, format_args!("late:{}", facts.since));
        Some(CommandEnvelope {
            causation_position: Some(facts.since),
            ..CommandEnvelope::new(facts.tenant.clone(), id.0, body, command_id, ACTOR)
        })
    }
}

/// Whether silence means something in a state.
fn counts(state: AgentState) -> bool {
    use AgentState as S;
    match state {
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

fn assess(id: AgentId, facts: &AgentFacts, state: AgentState, reason: String) -> CommandEnvelope {
    let body = AgentCommand::Assess(AssessAgent { state, reason });
    about(id, facts, ACTOR, body, state.as_str())
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
