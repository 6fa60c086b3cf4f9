//! What happened and what would have happened, side by side.

use std::collections::{BTreeMap, HashMap};

use domain::{AgentId, TaskId, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use super::tally::{AgentNumbers, Given, Numbers, Told};
use super::world::Assumed;

/// Queues that a report names; the busiest.
const MOST_QUEUES: usize = 64;
/// Agents that a report names; the busiest.
const MOST_AGENTS: usize = 200;

/// What became of the question. Its identity is `fork_id`; nothing of it is in the log but
/// this.
#[derive(Debug, Clone, Serialize)]
pub struct ForkReport {
    /// Its own; the operation's id.
    pub fork_id: Uuid,
    /// The last position that stayed as it was.
    pub from: u64,
    /// The last position that counts.
    pub to: u64,
    /// The instants of the first and the last event between.
    pub began: Timestamp,
    #[expect(missing_docs, reason = "as above")]
    pub ended: Timestamp,
    /// What chance went by.
    pub seed: u64,
    /// The changes that were asked for.
    pub changes: serde_json::Value,
    /// Every assignment is the same, at the same instant, and so are all numbers.
    pub identical: bool,
    /// The position at which the fork left the record: up to there everything came out as it
    /// was. Absent: it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_at: Option<u64>,
    /// Decisions made once more while it followed the record.
    pub decisions: Redone,
    /// What tasks decided, decided once more while it followed the record.
    pub commands: Redone,
    /// What happened.
    pub happened: Numbers,
    /// What would have happened.
    pub what_if: Numbers,
    /// What would have happened by the same model with nothing changed: its distance from
    /// `happened` is the model's error. Absent where the fork never left the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Numbers>,
    /// By queue.
    pub queues: BTreeMap<String, Pair<Numbers>>,
    /// By agent.
    pub agents: Vec<AgentPair>,
    /// Assignments compared.
    pub assignments: Assignments,
    /// The first assignment that is not the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_difference: Option<FirstDifference>,
    /// What the log does not say and was assumed.
    pub assumptions: Vec<Assumption>,
}

/// Things done once more, by what came out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Redone {
    /// The same.
    pub identical: u64,
    /// Something else.
    pub different: u64,
    /// Nobody can know: the log does not have all that they were made on.
    pub unknown: u64,
}

/// The same thing twice.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "as in ForkReport")]
pub struct Pair<T> {
    pub happened: T,
    pub what_if: T,
}

/// An agent twice.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "as in ForkReport")]
pub struct AgentPair {
    pub agent_id: AgentId,
    pub name: String,
    /// Only the fork has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub added: bool,
    pub happened: AgentNumbers,
    pub what_if: AgentNumbers,
}

/// Assignments by whether both have them; the nth of a task is compared with the nth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Assignments {
    /// To the same agent.
    pub same_agent: u64,
    /// To another one.
    pub other_agent: u64,
    /// Only in what happened.
    pub only_happened: u64,
    /// Only in what would have happened.
    pub only_what_if: u64,
}

/// The first assignment, in their order, that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstDifference {
    /// Of the event, where it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// What happened there; absent where nothing more did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub happened: Option<Assigned>,
    /// What would have happened in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_if: Option<Assigned>,
}

/// Who got what, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "plain")]
pub struct Assigned {
    pub task_id: TaskId,
    pub agent_id: AgentId,
    pub at: Timestamp,
}

/// Something that the log does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assumption {
    /// A stable word.
    pub code: &'static str,
    /// For people.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// One world's outcome.
pub(super) struct Outcome<'a> {
    pub told: Told,
    pub given: &'a [Given],
}

fn time(us: i64) -> Timestamp {
    Timestamp::from_timestamp_micros(us).unwrap_or_default()
}

impl From<&Given> for Assigned {
    fn from(given: &Given) -> Self {
        Self { task_id: given.task, agent_id: given.agent, at: time(given.at_us) }
    }
}

/// Both outcomes by queue, agent and assignment.
pub(super) struct Compared {
    pub identical: bool,
    pub queues: BTreeMap<String, Pair<Numbers>>,
    pub agents: Vec<AgentPair>,
    pub assignments: Assignments,
    pub first_difference: Option<FirstDifference>,
}

impl Compared {
    pub fn of(happened: &Outcome<'_>, what_if: &Outcome<'_>, added: &[AgentId]) -> Self {
        let same =
            |(a, b): (&Given, &Given)| (a.task, a.agent, a.at_us) == (b.task, b.agent, b.at_us);
        let identical = happened.given.len() == what_if.given.len()
            && happened.given.iter().zip(what_if.given).all(same)
            && happened.told.all == what_if.told.all
            && happened.told.queues == what_if.told.queues;
        Self {
            identical,
            queues: queues(&happened.told, &what_if.told),
            agents: agents(&happened.told, &what_if.told, added),
            assignments: assignments(happened.given, what_if.given),
            first_difference: first(happened.given, what_if.given),
        }
    }
}

fn queues(happened: &Told, what_if: &Told) -> BTreeMap<String, Pair<Numbers>> {
    let mut names: Vec<&String> = happened.queues.keys().chain(what_if.queues.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |told: &Told, name: &String| told.queues.get(name).cloned().unwrap_or_default();
    let busy = |name: &String| of(happened, name).assigned + of(what_if, name).assigned;
    names.sort_by_key(|name| std::cmp::Reverse(busy(name)));
    names.truncate(MOST_QUEUES);
    let pair = |name| Pair { happened: of(happened, name), what_if: of(what_if, name) };
    names.into_iter().map(|name| (name.clone(), pair(name))).collect()
}

fn agents(happened: &Told, what_if: &Told, added: &[AgentId]) -> Vec<AgentPair> {
    let mut ids: Vec<AgentId> =
        happened.agents.keys().chain(what_if.agents.keys()).copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let mut all: Vec<AgentPair> = ids
        .into_iter()
        .map(|agent_id| {
            let (was, would) = (happened.agents.get(&agent_id), what_if.agents.get(&agent_id));
            let name = would.or(was).map(|(name, _)| name.clone()).unwrap_or_default();
            let numbers = |of: Option<&(String, AgentNumbers)>| of.map(|(_, n)| n.clone());
            AgentPair {
                agent_id,
                name,
                added: added.contains(&agent_id),
                happened: numbers(was).unwrap_or_default(),
                what_if: numbers(would).unwrap_or_default(),
            }
        })
        .collect();
    let busy = |pair: &AgentPair| pair.happened.assigned + pair.what_if.assigned;
    all.sort_by(|a, b| (busy(b), &a.name).cmp(&(busy(a), &b.name)));
    all.truncate(MOST_AGENTS);
    all
}

fn assignments(happened: &[Given], what_if: &[Given]) -> Assignments {
    let mut left: HashMap<(TaskId, u32), AgentId> = HashMap::new();
    let mut nth: HashMap<TaskId, u32> = HashMap::new();
    for given in happened {
        let n = nth.entry(given.task).or_default();
        left.insert((given.task, *n), given.agent);
        *n += 1;
    }
    nth.clear();
    let mut counts = Assignments::default();
    for given in what_if {
        let n = nth.entry(given.task).or_default();
        match left.remove(&(given.task, *n)) {
            Some(agent) if agent == given.agent => counts.same_agent += 1,
            Some(_) => counts.other_agent += 1,
            None => counts.only_what_if += 1,
        }
        *n += 1;
    }
    counts.only_happened = left.len() as u64;
    counts
}

fn first(happened: &[Given], what_if: &[Given]) -> Option<FirstDifference> {
    let most = happened.len().max(what_if.len());
    let differs = |nth: &usize| {
        let key = |all: &[Given]| all.get(*nth).map(|given| (given.task, given.agent));
        key(happened) != key(what_if)
    };
    let nth = (0..most).find(differs)?;
    Some(FirstDifference {
        position: happened.get(nth).map(|given| given.position),
        happened: happened.get(nth).map(Assigned::from),
        what_if: what_if.get(nth).map(Assigned::from),
    })
}

/// What was assumed, in words; what was not is left out.
pub(super) fn assumptions(
    assumed: Assumed,
    left: bool,
    twins: u64,
    unasked: u64,
) -> Vec<Assumption> {
    let mut all = Vec::new();
    let mut add = |code, what: &str, count| {
        if count > 0 {
            all.push(Assumption { code, what: what.into(), count });
        }
    };
    if left {
        add(
            "run_of_the_task",
            "a task takes as long, and ends, as it did with the agent that had it",
            assumed.other_agent,
        );
        add(
            "run_drawn",
            "a run that never happened goes like one drawn from those of the same queue and type",
            assumed.drawn,
        );
        add(
            "run_cut",
            "a run that somebody else or the end of the stretch cut off goes on like one drawn",
            assumed.cut,
        );
        add(
            "run_unknown",
            "no run to draw from: the task is never finished",
            assumed.nothing_to_draw,
        );
        add(
            "command_refused",
            "an operator's command that the task's new state refuses is left out",
            assumed.refused,
        );
        add("agent_added", "an added agent asks for work like the agent that it is like", twins);
        add(
            "ways_unknown",
            "an agent of which no claim is known asks every queue that the others ask",
            assumed.unknown_ways,
        );
        add(
            "agent_idle",
            "a ready agent that took no work in the whole record is left idle",
            unasked,
        );
    }
    all
}
