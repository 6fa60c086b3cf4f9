//! Who listens for pushed tasks: asked over the wire, believed for a while.

use std::time::{Duration, Instant};

use domain::{AgentId, TenantId};

use super::core::Scheduler;
use super::entry::Shape;
use crate::process::roster::Abilities;

/// How long "nobody listens" is believed.
const DEAF: Duration = Duration::from_secs(5);
/// Deaf agents looked at in one pass.
const MOST_LOOKS: usize = 256;

#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) enum Hearing {
    #[default]
    Unknown,
    Asked,
    Listens,
    Deaf(Instant),
    /// It let a lease run out. A subscription alone does not show that anybody is behind
    /// it (a process may hang with its connection open), so it is asked again only after
    /// it has shown a sign of life; `None` until the next look, which starts the waiting.
    Doubted(Option<Instant>),
}

/// What only this process knows of an agent.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub hearing: Hearing,
    /// When it was last given something, as a count; the least recent comes first.
    pub given: u64,
    /// Its place among the listeners, while it has one.
    pub listed: Option<(u64, Abilities)>,
    pub claimed: Option<Instant>,
    /// It stands among the deaf.
    pub in_turn: bool,
}

impl Scheduler {
    pub(super) fn listens(&self, agent: AgentId) -> bool {
        self.live.get(&agent).is_some_and(|live| live.hearing == Hearing::Listens)
    }

    /// Whom to ask whether they listen: those of whom nothing is known, and those who
    /// were deaf a while ago and could have a waiting task. `seen` tells when an agent
    /// last gave a sign of life over the wire.
    pub(super) fn ask(
        &mut self,
        deaf: bool,
        now: Instant,
        most: usize,
        seen: impl Fn(&TenantId, AgentId) -> Option<Instant>,
    ) -> Vec<(TenantId, AgentId)> {
        let mut asked = Vec::new();
        self.doubted.retain(|agent| {
            let Some(facts) = self.board.roster.get(*agent) else { return false };
            let Some(live) = self.live.get_mut(agent) else { return false };
            let Hearing::Doubted(since) = &mut live.hearing else { return false };
            let since = *since.get_or_insert(now);
            let lives = seen(&facts.tenant, *agent).is_some_and(|seen| seen > since);
            if lives {
                live.hearing = Hearing::Unknown;
                self.unheard.insert(*agent);
            }
            !lives
        });
        while asked.len() < most
            && let Some(agent) = self.unheard.pop_first()
        {
            let Some(facts) = self.board.roster.get(agent) else { continue };
            let live = self.live.entry(agent).or_default();
            if facts.state.takes_work() && live.hearing == Hearing::Unknown {
                live.hearing = Hearing::Asked;
                asked.push((facts.tenant.clone(), agent));
            }
        }
        // A fleet that only claims is deaf: a look at all of it each time would hold the
        // decisions up.
        let looks = if deaf { self.deaf.len().min(MOST_LOOKS) } else { 0 };
        for _ in 0..looks {
            if asked.len() >= most {
                break;
            }
            let Some(agent) = self.deaf.pop_front() else { break };
            let Some(live) = self.live.get_mut(&agent) else { continue };
            let Hearing::Deaf(since) = live.hearing else {
                live.in_turn = false;
                continue;
            };
            self.deaf.push_back(agent);
            let Some(facts) = self.board.roster.get(agent) else { continue };
            if now.saturating_duration_since(since) >= DEAF
                && self.board.waiting.any(&facts.tenant)
                && (self.next(agent, None).is_some() || !self.undelivered(agent).is_empty())
            {
                asked.push((facts.tenant.clone(), agent));
            }
        }
        for (_, agent) in &asked {
            self.live.entry(*agent).or_default().hearing = Hearing::Asked;
        }
        asked
    }

    /// What the agent's wire answered.
    pub(super) fn heard(&mut self, agent: AgentId, listens: bool, now: Instant) {
        let hearing = if listens { Hearing::Listens } else { Hearing::Deaf(now) };
        let live = self.live.entry(agent).or_default();
        // The doubt came while it was asked: the answer says nothing against it.
        if matches!(live.hearing, Hearing::Doubted(_)) {
            return;
        }
        live.hearing = hearing;
        if !listens && !live.in_turn {
            live.in_turn = true;
            self.deaf.push_back(agent);
        }
        self.relist(agent);
        if listens {
            self.board.touch(agent);
        }
    }

    /// What is known of an agent's ears may be out of date: it connected anew.
    pub(super) fn reconnected(&mut self, agent: AgentId) {
        self.live.entry(agent).or_default().hearing = Hearing::Unknown;
        self.doubted.remove(&agent);
        self.unheard.insert(agent);
        self.relist(agent);
    }

    /// The agent let a lease run out: nothing is pushed to it before it shows that it lives.
    pub(super) fn doubt(&mut self, agent: AgentId) {
        self.live.entry(agent).or_default().hearing = Hearing::Doubted(None);
        self.unheard.remove(&agent);
        self.doubted.insert(agent);
        self.relist(agent);
    }

    /// The agent spoke, by a claim or a command that changed something.
    pub(super) fn spoke(&mut self, agent: AgentId) {
        if self.doubted.contains(&agent) {
            self.reconnected(agent);
        }
    }

    /// Puts an agent where it belongs among the listeners.
    pub(super) fn relist(&mut self, agent: AgentId) {
        let free = self.board.free_slots(agent) > 0;
        let Some(facts) = self.board.roster.get(agent) else { return };
        self.waiters.list(agent, Some(&facts.capabilities).filter(|_| free));
        let Some(live) = self.live.get_mut(&agent) else { return };
        let wanted = (free && live.hearing == Hearing::Listens)
            .then(|| (live.given, facts.capabilities.clone()));
        if wanted == live.listed {
            return;
        }
        let lists = self.listeners.entry(facts.tenant.clone()).or_default();
        if let Some((given, abilities)) = live.listed.take()
            && let Some(list) = lists.get_mut(&abilities)
        {
            list.remove(&(given, agent));
            if list.is_empty() {
                lists.remove(&abilities);
            }
        }
        if let Some((given, abilities)) = &wanted {
            lists.entry(abilities.clone()).or_default().insert((*given, agent));
        }
        live.listed = wanted;
    }

    /// The least recently served listener with a free slot that a task of a shape fits.
    pub(super) fn listener(&self, tenant: &TenantId, shape: &Shape) -> Option<AgentId> {
        if !shape.assignees.is_empty() {
            let meant = shape.assignees.iter();
            let agents = meant.filter_map(|who| self.board.roster.assignee(tenant, who));
            let listed = agents.filter_map(|agent| {
                let (given, abilities) = self.live.get(&agent)?.listed.as_ref()?;
                shape.can(abilities).then_some((*given, agent))
            });
            return listed.min().map(|(_, agent)| agent);
        }
        let lists = self.listeners.get(tenant)?;
        let able = lists.iter().filter(|(abilities, _)| shape.can(abilities));
        able.filter_map(|(_, list)| list.first()).min().map(|(_, agent)| *agent)
    }

    /// The oldest claim on a queue that a task of a shape fits and that has room for it.
    pub(super) fn claimant(&self, tenant: &TenantId, queue: &str, shape: &Shape) -> Option<u64> {
        if shape.assignees.is_empty() {
            return self.waiters.first(tenant, queue, shape);
        }
        let meant = shape.assignees.iter();
        let agents = meant.filter_map(|who| self.board.roster.assignee(tenant, who));
        let fit = agents.filter(|agent| {
            let facts = self.board.roster.get(*agent);
            facts.is_some_and(|facts| facts.tenant == *tenant && shape.can(&facts.capabilities))
        });
        fit.filter_map(|agent| self.waiters.first_of(agent, queue)).min()
    }
}
