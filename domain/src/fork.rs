//! What can be asked of a fork: a stretch of the log, and what is to be different in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::capability::check_offered;
use crate::expression::Condition;
use crate::macros::Body;
use crate::problem::{FieldError, Problem};
use crate::queue::QueuePolicy;
use crate::task::{MAX_LEASE_MS, MIN_LEASE_MS, RetryPolicy};
use crate::values::{Check, Priority};

/// Most entries of any list of changes.
pub const MAX_CHANGES: usize = 64;
/// Most agents that one entry adds.
pub const MAX_ADDED: u32 = 1_000;

/// A stretch of the log, and what is to be different in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkRequest {
    /// The last position that stays as it was; 0: from the first event on.
    pub from: u64,
    /// The last position that counts; the head when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// What is different behind `from`; nothing: what happened is decided once more.
    #[serde(default)]
    pub changes: ForkChanges,
    /// What chance goes by where something has to be drawn; 1 when absent.
    #[serde(default = "one")]
    pub seed: u64,
    /// A fork that this one should begin from: refused. A fork has no log of its own; ask for
    /// both changes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Uuid>,
}

fn one() -> u64 {
    1
}

/// What is different in a fork.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForkChanges {
    /// Policies that hold from the start in place of whatever is set, by queue.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub queues: BTreeMap<String, QueuePolicy>,
    /// How failures are tried again, for tasks submitted behind `from`; the first that
    /// applies counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retry: Vec<ForkRetry>,
    /// Another urgency, for tasks submitted behind `from`; the first that applies counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<ForkPriority>,
    /// More agents, fewer, or others.
    #[serde(skip_serializing_if = "ForkAgents::is_empty")]
    pub agents: ForkAgents,
    /// The length of every lease that the scheduler gives, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// Which tasks a change is about; what is absent leaves it open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForkTasks {
    /// Of this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Of this type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// For which this CEL condition over `task`, as it was submitted, holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// Another retry policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkRetry {
    /// For which tasks; all when absent.
    #[serde(default)]
    pub tasks: ForkTasks,
    /// The policy.
    pub policy: RetryPolicy,
}

/// Another urgency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkPriority {
    /// For which tasks; all when absent.
    #[serde(default)]
    pub tasks: ForkTasks,
    /// The urgency.
    pub priority: Priority,
}

/// Other agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForkAgents {
    /// More of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<ForkClones>,
    /// Agents, by name or id, that take no more work; what they have they finish.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// How many tasks agents, by name or id, hold at once.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, u32>,
}

/// Agents that were not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForkClones {
    /// How many.
    pub count: u32,
    /// They are like this agent, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// They can do this, where they are like nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Tasks that each holds at once; as the agent that they are like, or 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
}

impl ForkAgents {
    /// The same agents.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ForkRequest {
    /// The end of the stretch, if it lies in a log with this head.
    ///
    /// # Errors
    /// A problem that names the fields at fault.
    pub fn end(&self, head: u64) -> Result<u64, Problem> {
        self.check().map_err(Problem::invalid)?;
        let to = self.to.unwrap_or(head);
        let beyond = |field: &str, position: u64| {
            let message = format!("position {position} lies beyond the head, which is {head}");
            let fault = FieldError::new(format!("/{field}"), "in_the_future", message);
            Problem::invalid(vec![fault])
        };
        if to > head {
            return Err(beyond("to", to));
        }
        if self.from >= to {
            return Err(beyond("from", self.from));
        }
        Ok(to)
    }
}

impl ForkChanges {
    /// Nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Only the order in which tasks are given out, or the end of failed attempts, can be
    /// different: as long as no decision comes out differently, all stays as it was.
    pub fn keeps_capacity(&self) -> bool {
        self.queues.is_empty() && self.agents.is_empty() && self.lease_ms.is_none()
    }
}

impl ForkTasks {
    fn faults(&self, check: Check, at: &str) -> Check {
        let mut check = check.maybe(&format!("{at}/type"), self.kind.as_ref(), 128);
        if let Some(queue) = &self.queue {
            check = check.token(&format!("{at}/queue"), queue);
        }
        if let Some(Err(fault)) =
            self.condition.as_ref().map(|text| Condition::parse(text, "task").map(drop))
        {
            check = check.rule(false, &format!("{at}/condition"), "not_a_condition", &fault);
        }
        check
    }
}

impl Body for ForkRequest {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let ForkChanges { queues, retry, priorities, agents, lease_ms } = &self.changes;
        let few = |check: Check, field: &str, count: usize| {
            let most = format!("at most {MAX_CHANGES} entries");
            check.rule(count <= MAX_CHANGES, &format!("changes/{field}"), "too_many", &most)
        };
        let not_reversed = self.to.is_none_or(|to| to > self.from);
        let mut check = Check::default()
            .rule(not_reversed, "to", "out_of_range", "`to` must lie behind `from`")
            .rule(
                self.of.is_none(),
                "of",
                "not_possible",
                "a fork cannot begin from a fork, which has no log of its own: \
                 ask for the changes of both at once",
            );
        for (field, count) in [
            ("queues", queues.len()),
            ("retry", retry.len()),
            ("priorities", priorities.len()),
            ("agents/add", agents.add.len()),
            ("agents/remove", agents.remove.len()),
            ("agents/slots", agents.slots.len()),
        ] {
            check = few(check, field, count);
        }
        for (nth, retry) in retry.iter().enumerate().take(MAX_CHANGES) {
            let at = format!("changes/retry/{nth}");
            check = retry.tasks.faults(check, &format!("{at}/tasks"));
            check = retry.policy.check(check, &format!("{at}/policy"));
        }
        for (nth, priority) in priorities.iter().enumerate().take(MAX_CHANGES) {
            check = priority.tasks.faults(check, &format!("changes/priorities/{nth}/tasks"));
        }
        for (nth, clones) in agents.add.iter().enumerate().take(MAX_CHANGES) {
            let field = |name: &str| format!("changes/agents/add/{nth}/{name}");
            check = check
                .range(&field("count"), clones.count.into(), 1, MAX_ADDED.into())
                .range(&field("slots"), clones.slots.unwrap_or(1).into(), 1, 1_000)
                .maybe(&field("like"), clones.like.as_ref(), 128)
                .rule(
                    clones.like.is_none() || clones.capabilities.is_empty(),
                    &field("capabilities"),
                    "conflict",
                    "either `like` or `capabilities`: an agent that is like another can do the same",
                );
            check = check_offered(check, &field("capabilities"), &clones.capabilities, 256);
        }
        for (nth, name) in agents.remove.iter().enumerate().take(MAX_CHANGES) {
            check = check.text(&format!("changes/agents/remove/{nth}"), name, 1, 128);
        }
        for (name, slots) in agents.slots.iter().take(MAX_CHANGES) {
            let field = format!("changes/agents/slots/{}", crate::json::escaped(name));
            check = check.text(&field, name, 1, 128).range(&field, (*slots).into(), 1, 1_000);
        }
        if let Some(ms) = lease_ms {
            check = check.range("changes/lease_ms", *ms, MIN_LEASE_MS, MAX_LEASE_MS);
        }
        for (name, policy) in queues.iter().take(MAX_CHANGES) {
            let at = format!("changes/queues/{}", crate::json::escaped(name));
            check = policy.faults(check.token(&at, name), &format!("{at}/"));
        }
        check.done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(body: &str) -> Vec<(String, String)> {
        let read: Result<ForkRequest, _> = crate::json::read(body.as_bytes());
        let faults = match read {
            Ok(request) => request.check().err().unwrap_or_default(),
            Err(fault) => vec![fault],
        };
        faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn a_fork_is_asked_for_with_positions_in_order_and_changes_within_limits() {
        assert_eq!(faults(r#"{"from":0}"#), []);
        let all = r#"{"from":7,"to":9,"seed":3,"changes":{"queues":{"mail":{"aging_ms":5}},
            "retry":[{"tasks":{"type":"pay"},"policy":{"max_attempts":5}}],
            "priorities":[{"tasks":{"condition":"task.labels.vip == 'yes'"},"priority":"high"}],
            "agents":{"add":[{"count":2,"like":"ada"}],"remove":["bob"],"slots":{"eve":4}},
            "lease_ms":5000}}"#;
        assert_eq!(faults(all), []);
    }

    #[test]
    fn a_stretch_lies_in_the_log() {
        let of = |from, to| ForkRequest { from, to, ..ForkRequest::default() }.end(10);
        assert_eq!(of(0, None), Ok(10));
        assert_eq!(of(9, Some(10)), Ok(10));
        let pointer = |result: Result<u64, Problem>| result.unwrap_err().errors[0].pointer.clone();
        assert_eq!(pointer(of(0, Some(11))), "/to");
        assert_eq!(pointer(of(10, None)), "/from");
        assert_eq!(pointer(of(5, Some(5))), "/to");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field() {
        let only = |body: &str, pointer: &str, code: &str| {
            assert_eq!(faults(body), [(pointer.to_owned(), code.to_owned())], "{body}");
        };
        only(r#"{"from":9,"to":9}"#, "/to", "out_of_range");
        only(r#"{"from":9,"to":3}"#, "/to", "out_of_range");
        let of = r#"{"from":0,"of":"6f7c2f8e-1f6d-4a3e-9a53-6c2b8f0f4a11"}"#;
        only(of, "/of", "not_possible");
        let change = |change: &str| format!(r#"{{"from":0,"changes":{{{change}}}}}"#);
        let add = r#""agents":{"add":[{"count":0}]}"#;
        only(&change(add), "/changes/agents/add/0/count", "out_of_range");
        let both = r#""agents":{"add":[{"count":1,"like":"a","capabilities":["b"]}]}"#;
        only(&change(both), "/changes/agents/add/0/capabilities", "conflict");
        let policy = r#""queues":{"a":{"weight":0}}"#;
        only(&change(policy), "/changes/queues/a/weight", "out_of_range");
        let cel = r#""priorities":[{"tasks":{"condition":"now"},"priority":"low"}]"#;
        only(&change(cel), "/changes/priorities/0/tasks/condition", "not_a_condition");
        let attempts = r#""retry":[{"policy":{"max_attempts":0}}]"#;
        only(&change(attempts), "/changes/retry/0/policy/max_attempts", "out_of_range");
        only(&change(r#""lease_ms":1"#), "/changes/lease_ms", "out_of_range");
        for body in [r#"{"from":-1}"#, r#"{"from":1.5}"#, r#"{"form":1}"#, r#"{"to":1}"#] {
            assert_eq!(faults(body).len(), 1, "{body}");
        }
    }
}
