//! Who listens for pushed tasks: asked over the wire, believed for a while.

use std::time::{Duration, Instant};

use domain::{AgentId, TenantId};

use super::core::Scheduler;
use super::entry::Entry;
use super::matching::{Asker, Match, Matcher, Shape, burden};
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
    pub listed: Option<(Asker, Abilities)>,
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
                && (!self.turns(agent, None).best.is_empty() || !self.undelivered(agent).is_empty())
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

    /// Puts an agent where it belongs among those that could take something.
    pub(super) fn relist(&mut self, agent: AgentId) {
        let free = self.board.free_slots(agent) > 0;
        let held = self.board.count_held(agent);
        let Some(facts) = self.board.roster.get(agent) else { return };
        let burden = burden(facts, held);
        self.waiters.list(agent, Some((&facts.capabilities, burden)).filter(|_| free));
        let Some(live) = self.live.get_mut(&agent) else { return };
        let wanted = (free && live.hearing == Hearing::Listens)
            .then(|| ((burden, live.given, agent), facts.capabilities.clone()));
        if wanted == live.listed {
            return;
        }
        let lists = self.listeners.entry(facts.tenant.clone()).or_default();
        if let Some((asker, abilities)) = live.listed.take()
            && let Some(list) = lists.get_mut(&abilities)
        {
            list.remove(&asker);
            if list.is_empty() {
                lists.remove(&abilities);
            }
        }
        if let Some((asker, abilities)) = &wanted {
            lists.entry(abilities.clone()).or_default().insert(*asker);
        }
        live.listed = wanted;
    }

    /// The listeners with a free slot that a task fits, the best first.
    pub(super) fn best_listeners(&self, entry: &Entry) -> Match {
        let listed = |agent| Some(self.live.get(&agent)?.listed.as_ref()?.0);
        self.matched(entry, |matcher| match self.meant(entry) {
            Some(agents) => matcher.of_these(&entry.shape, agents.into_iter().filter_map(listed)),
            None => match self.listeners.get(&entry.tenant) {
                Some(listed) => matcher.of_all(&entry.shape, listed),
                None => Match::default(),
            },
        })
    }

    /// The waiting claims on a task's queue that it fits and that have room, the best first.
    pub(super) fn best_claims(&self, entry: &Entry) -> Match {
        let listed = |agent| self.waiters.first_of(agent, &entry.queue);
        self.matched(entry, |matcher| match self.meant(entry) {
            Some(agents) => matcher.of_these(&entry.shape, agents.into_iter().filter_map(listed)),
            None => match self.waiters.asking(&entry.tenant, &entry.queue) {
                Some(listed) => matcher.of_all(&entry.shape, listed),
                None => Match::default(),
            },
        })
    }

    fn matched(&self, entry: &Entry, choose: impl FnOnce(&Matcher<'_>) -> Match) -> Match {
        let held = |agent| self.board.count_held(agent);
        let scoring = self.board.waiting.scoring(&entry.tenant, &entry.queue);
        choose(&Matcher { roster: &self.board.roster, scoring: &scoring, held: &held })
    }

    /// The few agents that a task is meant for, where it names them.
    fn meant(&self, entry: &Entry) -> Option<Vec<AgentId>> {
        let Shape { assignees, .. } = &*entry.shape;
        let of_tenant = |agent: &AgentId| {
            self.board.roster.get(*agent).is_some_and(|facts| facts.tenant == entry.tenant)
        };
        let meant = assignees.iter();
        let agents = meant.filter_map(|who| self.board.roster.assignee(&entry.tenant, who));
        let mut agents: Vec<AgentId> = agents.filter(of_tenant).collect();
        agents.sort_unstable();
        agents.dedup();
        (!assignees.is_empty()).then_some(agents)
    }
}
