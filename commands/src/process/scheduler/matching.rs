//! Which agents may have a task, and which of them had best have it.
//!
//! Hard: capabilities, assignees, required and excluded labels, cost, agents to keep
//! apart from, and for a while the agent that a task is sticky to. Among those that fit
//! the most points win: each preferred label, closeness to that agent, hands less full,
//! lower cost. Of equal ones the longest waiting claim, or the least recently served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::AgentId;
use domain::capability::Need;
use domain::queue::Scoring;
use domain::task::{Affinity, Candidate, Kin, MAX_CANDIDATES, Rejected, Rejection};

use super::entry::Entry;
use crate::process::roster::{Abilities, AgentFacts, Roster};

/// What a task asks of its agent. Tasks of one shape share a lane of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shape {
    pub capabilities: Vec<Need>,
    pub assignees: Vec<String>,
    pub affinity: Option<Arc<Affinity>>,
    /// Whom it is sticky to, once that is known.
    pub near: Option<Near>,
    /// Nobody else may have it yet.
    pub waits: bool,
    pub apart: Vec<AgentId>,
}

/// Whom a task is sticky to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Near {
    Agent(AgentId),
    /// All that have this value of the label.
    Label(Box<str>, Box<str>),
}

impl Near {
    fn is(&self, id: AgentId, agent: &AgentFacts) -> bool {
        match self {
            Self::Agent(near) => *near == id,
            Self::Label(label, value) => agent.labels.value(label) == Some(&**value),
        }
    }
}

impl Shape {
    /// Of a task that asks for these; words that a later release would refuse fit nobody.
    pub fn new(capabilities: &[String], mut assignees: Vec<String>, affinity: &Affinity) -> Self {
        let need = |word: &String| Need::parse(word).unwrap_or_else(|_| Need::exactly(word));
        let mut capabilities: Vec<Need> = capabilities.iter().map(need).collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        assignees.sort_unstable();
        assignees.dedup();
        assignees.shrink_to_fit();
        let affinity = (!affinity.is_empty()).then(|| Arc::new(affinity.clone()));
        Self { capabilities, assignees, affinity, ..Self::default() }
    }

    /// Whether somebody of these abilities can do tasks of this shape.
    pub fn can(&self, abilities: &[String]) -> bool {
        self.capabilities.iter().all(|need| need.is_met_by(abilities))
    }

    /// Whether every agent that can do it may have it, and by load and cost alone.
    pub fn is_plain(&self) -> bool {
        self.assignees.is_empty() && self.affinity.is_none()
    }

    /// What speaks against an agent.
    pub fn judge(&self, id: AgentId, agent: &AgentFacts) -> Result<(), Rejection> {
        if self.can(&agent.capabilities) {
            self.judge_able(id, agent)
        } else {
            Err(Rejection::Capability)
        }
    }

    /// The same of an agent that can do it.
    fn judge_able(&self, id: AgentId, agent: &AgentFacts) -> Result<(), Rejection> {
        let meant = |who: &String| *who == agent.name || *who == id.to_string();
        if !self.assignees.is_empty() && !self.assignees.iter().any(meant) {
            return Err(Rejection::Assignee);
        }
        let Some(affinity) = &self.affinity else { return Ok(()) };
        let has = |label: &str, values: &[String]| agent.labels.has(label, values);
        if !affinity.required.iter().all(|term| has(&term.label, &term.values))
            || affinity.excluded.iter().any(|term| has(&term.label, &term.values))
        {
            return Err(Rejection::Label);
        }
        if affinity.max_cost.is_some_and(|most| agent.cost > most) {
            return Err(Rejection::Cost);
        }
        if self.apart.contains(&id) {
            return Err(Rejection::Apart);
        }
        if self.waits && self.near.as_ref().is_some_and(|near| !near.is(id, agent)) {
            return Err(Rejection::Sticky);
        }
        Ok(())
    }

    /// How well an agent fits that holds so many tasks: the most points are best.
    pub fn points(&self, id: AgentId, agent: &AgentFacts, held: usize, by: &Scoring) -> i64 {
        let mut points =
            -(i64::from(by.load) * load(agent, held)) - i64::from(by.cost) * i64::from(agent.cost);
        if let Some(affinity) = &self.affinity {
            let liked = affinity.preferred.iter();
            let liked = liked.filter(|term| agent.labels.has(&term.label, &term.values));
            let liked: i64 = liked.map(|term| i64::from(term.points)).sum();
            points += i64::from(by.preferred) * liked;
        }
        if self.near.as_ref().is_some_and(|near| near.is(id, agent)) {
            points += i64::from(by.sticky) * 100;
        }
        points
    }
}

/// How full its hands are, in percent.
fn load(agent: &AgentFacts, held: usize) -> i64 {
    (100 * held / agent.slots.max(1)) as i64
}

/// Points against an agent by load and cost as they count where nothing else is set.
pub(super) fn burden(agent: &AgentFacts, held: usize) -> u64 {
    load(agent, held).unsigned_abs() + u64::from(agent.cost)
}

/// Somebody who could take a task: its burden, then what decides between equal ones (the
/// number of its claim, or when it was last served).
pub(super) type Asker = (u64, u64, AgentId);
/// Askers by what they can do, the best first.
pub(super) type Listed = BTreeMap<Abilities, BTreeSet<Asker>>;

/// The best of those that could take a task.
#[derive(Debug, Default)]
pub(super) struct Match {
    /// Points and asker, the best first.
    pub best: Vec<(i64, Asker)>,
    /// How many fit.
    pub of: usize,
    pub rejected: Rejected,
}

impl Match {
    fn take(&mut self, points: i64, asker: Asker) {
        let order =
            |(points, (_, tie, agent)): &(i64, Asker)| (std::cmp::Reverse(*points), *tie, *agent);
        let new = (points, asker);
        let at = self.best.partition_point(|known| order(known) <= order(&new));
        if at < MAX_CANDIDATES {
            self.best.truncate(MAX_CANDIDATES - 1);
            self.best.insert(at, new);
        }
    }

    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate =
            |(score, (_, _, agent)): &(i64, Asker)| Candidate { id: agent.0, score: *score };
        self.best.iter().map(candidate).collect()
    }
}

/// What the choice of an agent looks at.
pub(super) struct Matcher<'a> {
    pub roster: &'a Roster,
    pub scoring: &'a Scoring,
    /// Tasks that an agent holds, or is about to.
    pub held: &'a dyn Fn(AgentId) -> usize,
}

impl Matcher<'_> {
    /// The best of all that are listed.
    pub fn of_all(&self, shape: &Shape, listed: &Listed) -> Match {
        let mut found = Match::default();
        let plain = shape.is_plain() && *self.scoring == Scoring::default();
        for (abilities, askers) in listed {
            if !shape.can(abilities) {
                found.rejected.add(Rejection::Capability, askers.len());
            } else if plain {
                found.of += askers.len();
                for asker in askers.iter().take(MAX_CANDIDATES) {
                    found.take(-i64::try_from(asker.0).unwrap_or(i64::MAX), *asker);
                }
            } else {
                askers.iter().for_each(|asker| self.look(shape, *asker, &mut found));
            }
        }
        found
    }

    /// The best of these.
    pub fn of_these(&self, shape: &Shape, askers: impl Iterator<Item = Asker>) -> Match {
        let mut found = Match::default();
        for asker in askers {
            let able = self.roster.get(asker.2).is_some_and(|a| shape.can(&a.capabilities));
            if able {
                self.look(shape, asker, &mut found);
            } else {
                found.rejected.add(Rejection::Capability, 1);
            }
        }
        found
    }

    fn look(&self, shape: &Shape, asker: Asker, found: &mut Match) {
        let Some(agent) = self.roster.get(asker.2) else { return };
        match shape.judge_able(asker.2, agent) {
            Ok(()) => {
                found.of += 1;
                let points = shape.points(asker.2, agent, (self.held)(asker.2), self.scoring);
                found.take(points, asker);
            }
            Err(why) => found.rejected.add(why, 1),
        }
    }
}

/// The shape of a task as what is known of other agents makes it, if that changes it.
pub(super) fn reshaped(entry: &Entry, roster: &Roster, now: i64) -> Option<Arc<Shape>> {
    let affinity = entry.shape.affinity.as_ref()?;
    let agent = |kin: Kin| match kin {
        Kin::Parent => entry.kin.as_ref()?.agent,
        Kin::Previous => entry.previous,
    };
    let mut apart: Vec<AgentId> =
        affinity.apart_from.iter().filter_map(|kin| agent(*kin)).collect();
    apart.sort_unstable();
    let sticky = affinity.sticky.as_ref();
    let near = sticky.and_then(|sticky| {
        let near = agent(sticky.to)?;
        let Some(label) = &sticky.label else { return Some(Near::Agent(near)) };
        let value = roster.get(near)?.labels.value(label)?;
        Some(Near::Label(label.as_str().into(), value.into()))
    });
    let gone = match &near {
        Some(Near::Agent(near)) => roster.get(*near).is_none_or(AgentFacts::is_gone),
        Some(Near::Label(..)) | None => false,
    };
    let waits = near.is_some() && !gone && entry.sticks_until().is_some_and(|until| now < until);
    let same = entry.shape.near == near && entry.shape.waits == waits && entry.shape.apart == apart;
    (!same).then(|| Arc::new(Shape { near, waits, apart, ..(*entry.shape).clone() }))
}
