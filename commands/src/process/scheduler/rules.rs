//! The policy of a queue, ready to be asked, and the meters of its limits.

use std::sync::Arc;

use domain::queue::{
    KeyExpression, LimitKey, LimitPolicy, QueueEvent, QueueMode, QueuePolicy, QueueState, Scoring,
};
use domain::values::Priority;

use super::entry::Rank;

/// What holds for a queue.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub state: QueueState,
    /// Position of the event that led to the state; 0 where none did.
    pub state_cause: u64,
    /// The same of the policy.
    pub policy_cause: u64,
    pub mode: QueueMode,
    /// By level.
    pub weights: [u32; 5],
    pub aging_us: Option<i64>,
    /// Beside the tenant's other queues.
    pub weight: u32,
    pub scoring: Scoring,
    /// On all that runs of the tenant.
    pub tenant: Option<Limit>,
    /// On all that runs of the queue.
    pub queue: Option<Limit>,
    /// On each concurrency key; one at a time where the policy says nothing.
    pub key: Limit,
    pub expressions: Vec<Expression>,
}

/// A limit by an expression.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub text: Arc<str>,
    pub program: Arc<KeyExpression>,
    pub limit: Limit,
}

/// What may run, and begin, of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limit {
    pub max_running: Option<usize>,
    pub guaranteed: usize,
    pub rate: Option<Rate>,
}

/// The parameters of the generic cell rate algorithm (ITU-T I.371, "virtual scheduling").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub interval_us: i64,
    /// How much earlier than its turn one may come: a burst less one.
    pub tolerance_us: i64,
}

/// A concurrency key without a policy.
const ONE_AT_A_TIME: Limit = Limit { max_running: Some(1), guaranteed: 0, rate: None };

impl Limit {
    fn of(policy: &LimitPolicy) -> Self {
        Self {
            max_running: policy.max_running.map(|max| max as usize),
            guaranteed: policy.guaranteed as usize,
            rate: policy.rate.map(|rate| {
                let interval_us = i64::try_from(rate.interval_us()).unwrap_or(i64::MAX / 4);
                let tolerance_us = interval_us.saturating_mul(i64::from(rate.burst) - 1);
                Rate { interval_us, tolerance_us }
            }),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(&QueuePolicy::default())
    }
}

impl Rules {
    fn of(policy: &QueuePolicy) -> Self {
        let mut rules = Self {
            state: QueueState::Active,
            state_cause: 0,
            policy_cause: 0,
            mode: policy.mode,
            weights: policy.weights.all(),
            aging_us: policy.aging_ms.and_then(|ms| i64::try_from(ms).ok()).map(|ms| ms * 1_000),
            weight: policy.weight,
            scoring: policy.scoring,
            tenant: None,
            queue: None,
            key: ONE_AT_A_TIME,
            expressions: Vec::new(),
        };
        for policy in &policy.limits {
            let limit = Limit::of(policy);
            match LimitKey::parse(&policy.key) {
                Ok(LimitKey::Tenant) => rules.tenant = Some(limit),
                Ok(LimitKey::Queue) => rules.queue = Some(limit),
                Ok(LimitKey::ConcurrencyKey) => rules.key = limit,
                Ok(LimitKey::Expression(program)) => {
                    let text = policy.key.as_str().into();
                    rules.expressions.push(Expression { text, program: Arc::new(program), limit });
                }
                // It was read when the command was checked; a later release may be stricter.
                Err(why) => tracing::warn!(key = policy.key, why, "a limit is left out"),
            }
        }
        rules
    }

    /// Folds one event of the queue.
    pub fn apply(&mut self, event: &QueueEvent, position: u64) {
        let state = match event {
            QueueEvent::Configured(new) => {
                let (state, state_cause) = (self.state, self.state_cause);
                *self =
                    Self { state, state_cause, policy_cause: position, ..Self::of(&new.policy) };
                return;
            }
            QueueEvent::Paused(_) => QueueState::Paused,
            QueueEvent::Resumed(_) => QueueState::Active,
            QueueEvent::Draining(_) => QueueState::Draining,
        };
        (self.state, self.state_cause) = (state, position);
    }

    /// Nothing was ever decided about the queue.
    pub fn is_default(&self) -> bool {
        self.state_cause == 0 && self.policy_cause == 0
    }

    /// Whether a task waits until the queue is resumed: it came after the drain began.
    pub fn parks(&self, position: u64) -> bool {
        self.state == QueueState::Draining && position > self.state_cause
    }

    /// The urgency that a task counts as: its priority, and one more for each full
    /// waiting time of `aging_ms`.
    pub fn level(&self, rank: &Rank, now: i64) -> usize {
        let priority = rank.priority as usize;
        let Some(aging) = self.aging_us else { return priority };
        let steps = usize::try_from(now.saturating_sub(rank.since).max(0) / aging);
        priority.saturating_sub(steps.unwrap_or(usize::MAX))
    }

    /// The limit of an expression, while the policy has it.
    pub fn expression(&self, text: &str) -> Option<&Limit> {
        self.expressions.iter().find(|known| &*known.text == text).map(|known| &known.limit)
    }
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// One more may be given out; whether fewer run than are guaranteed.
    Open { below: bool },
    /// One more may be given out at this time, in microseconds.
    Until(i64),
    /// As many run as may.
    Full,
}

/// What runs of one key, and when the next may begin.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter {
    pub running: usize,
    /// The theoretical arrival time of the next one, in microseconds.
    arrival: i64,
    /// Who took last, and the time as it was before: what can be undone.
    last: Option<(u64, i64)>,
}

impl Meter {
    /// One more runs; `by` is its position in the log.
    pub fn take(&mut self, limit: Option<&Limit>, at: i64, by: u64) {
        self.running += 1;
        if let Some(rate) = limit.and_then(|limit| limit.rate) {
            self.last = Some((by, self.arrival));
            self.arrival = self.arrival.max(at).saturating_add(rate.interval_us);
        }
    }

    pub fn free(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// What was taken did not come about. Its turn comes back while nobody came after it:
    /// taken off later, it could let two pass at once, where the burst is one.
    pub fn refund(&mut self, by: u64) {
        if let Some((_, before)) = self.last.take_if(|(last, _)| *last == by) {
            self.arrival = before;
        }
    }

    pub fn standing(&self, limit: &Limit, now: i64) -> Standing {
        if limit.max_running.is_some_and(|max| self.running >= max) {
            return Standing::Full;
        }
        if let Some(rate) = limit.rate {
            let opens = self.arrival.saturating_sub(rate.tolerance_us);
            if now < opens {
                return Standing::Until(opens);
            }
        }
        Standing::Open { below: self.running < limit.guaranteed }
    }

    /// Until when it must be remembered though nothing runs.
    pub fn remembered_until(&self) -> i64 {
        self.arrival
    }
}

/// The priority's number of a level, for people.
pub(super) fn level_name(level: usize) -> &'static str {
    Priority::ALL.get(level).copied().unwrap_or(Priority::Background).as_str()
}

#[cfg(test)]
mod tests {
    use domain::queue::RatePolicy;

    use super::*;

    #[test]
    fn a_rate_lets_a_burst_pass_and_then_one_per_interval() {
        let policy = LimitPolicy {
            key: "queue".into(),
            max_running: None,
            guaranteed: 0,
            rate: Some(RatePolicy { per_s: 10.0, burst: 3 }),
        };
        let (limit, mut meter) = (Limit::of(&policy), Meter::default());
        let (mut given, start) = (Vec::new(), 1_000_000_000);
        for ms in 0..1_000 {
            let now = start + ms * 1_000;
            while let Standing::Open { .. } = meter.standing(&limit, now) {
                meter.take(Some(&limit), now, 0);
                given.push(ms);
            }
        }
        assert_eq!(given[..5], [0, 0, 0, 100, 200]);
        assert_eq!(given.len(), 12, "ten per second, and the burst's two more");
    }

    #[test]
    fn a_turn_that_was_not_used_comes_back_only_to_the_last() {
        let limit =
            Limit { rate: Some(Rate { interval_us: 100, tolerance_us: 0 }), ..Limit::default() };
        let mut meter = Meter::default();
        meter.take(Some(&limit), 1_000, 1);
        assert_eq!(meter.standing(&limit, 1_050), Standing::Until(1_100));
        meter.refund(1);
        assert_eq!(meter.standing(&limit, 1_050), Standing::Open { below: false });
        meter.take(Some(&limit), 1_050, 2);
        meter.take(Some(&limit), 1_150, 3);
        meter.refund(2);
        assert_eq!(meter.standing(&limit, 1_150), Standing::Until(1_250));
    }

    #[test]
    fn a_key_is_below_its_guarantee_then_open_then_full() {
        let limit = Limit { max_running: Some(2), guaranteed: 1, rate: None };
        let mut meter = Meter::default();
        assert_eq!(meter.standing(&limit, 0), Standing::Open { below: true });
        meter.take(Some(&limit), 0, 0);
        assert_eq!(meter.standing(&limit, 0), Standing::Open { below: false });
        meter.take(Some(&limit), 0, 0);
        assert_eq!(meter.standing(&limit, 0), Standing::Full);
        meter.free();
        assert_eq!(meter.standing(&limit, 0), Standing::Open { below: false });
    }

    #[test]
    fn a_task_that_waits_counts_as_more_urgent_step_by_step() {
        let policy = QueuePolicy { aging_ms: Some(1_000), ..QueuePolicy::default() };
        let rules = Rules::of(&policy);
        let rank = Rank {
            priority: Priority::Background,
            since: 5_000_000,
            position: 1,
            task: domain::TaskId::nth(1),
        };
        let at = |us| rules.level(&rank, us);
        assert_eq!(
            [at(0), at(5_999_999), at(6_000_000), at(9_000_000), at(99_000_000)],
            [4, 4, 3, 0, 0]
        );
    }
}
