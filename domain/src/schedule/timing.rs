//! When a schedule fires.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cron::CronTimes;
use crate::catalogue::Event;
use crate::decide::Timestamp;
use crate::ids::StreamType;

/// Slots that are counted at most; of more it is said that they are at least so many.
pub const MOST_COUNTED: u64 = 1_000;

/// What makes a schedule fire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// A cron pattern in a time zone.
    Cron {
        /// Five or six fields.
        pattern: String,
        /// IANA name.
        timezone: String,
    },
    /// Again and again after the same time.
    Interval {
        /// The time between two slots, in milliseconds.
        interval_ms: u64,
        /// The instant from which it is counted.
        from: DateTime<Utc>,
    },
    /// Once.
    At {
        /// When.
        at: DateTime<Utc>,
    },
    /// An event that happened.
    Event(OnEvent),
}

/// Which events fire a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OnEvent {
    /// The event's type, such as `task.completed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A condition in CEL over `event`; every event of the type where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl OnEvent {
    /// The stream's type and the event's name; `None` where there is no such event.
    pub fn parts(&self) -> Option<(StreamType, &'static str)> {
        let (stream, event) = self.kind.split_once('.')?;
        let stream: StreamType = stream.parse().ok()?;
        let known = Event::types(stream).iter().map(|(name, _)| *name);
        known.into_iter().find(|name| *name == event).map(|name| (stream, name))
    }
}

/// The word for a [`When`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// By a cron pattern.
    Cron,
    /// Again and again.
    Interval,
    /// Once.
    At,
    /// On an event.
    Event,
}

impl ScheduleKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Cron, Self::Interval, Self::At, Self::Event];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::Interval => "interval",
            Self::At => "at",
            Self::Event => "event",
        }
    }
}

impl When {
    /// Its word.
    pub const fn kind(&self) -> ScheduleKind {
        match self {
            Self::Cron { .. } => ScheduleKind::Cron,
            Self::Interval { .. } => ScheduleKind::Interval,
            Self::At { .. } => ScheduleKind::At,
            Self::Event(_) => ScheduleKind::Event,
        }
    }
}

/// The slots of a schedule in time: the instants at which it is to fire.
#[derive(Debug, Clone)]
pub enum Timing {
    /// By a cron pattern.
    Cron(Box<CronTimes>),
    /// `from` and every so many microseconds before and after it.
    Interval {
        /// Where one slot lies.
        from: Timestamp,
        /// The distance.
        micros: i64,
    },
    /// Once.
    At(Timestamp),
    /// No slots in time.
    Event,
}

impl Timing {
    /// The slots that a [`When`] speaks of; one that no release of ours let in has none.
    pub fn of(when: &When) -> Self {
        match when {
            When::Cron { pattern, timezone } => CronTimes::parse(pattern, timezone)
                .map_or(Self::Event, |times| Self::Cron(Box::new(times))),
            When::Interval { interval_ms, from } => {
                let micros = i64::try_from(*interval_ms).unwrap_or(i64::MAX).saturating_mul(1_000);
                Self::Interval { from: *from, micros: micros.max(1) }
            }
            When::At { at } => Self::At(*at),
            When::Event(_) => Self::Event,
        }
    }

    /// The first slot after an instant.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(times) => times.next_after(after),
            Self::Interval { from, micros } => {
                let passed = (after - *from).num_microseconds()?;
                let ahead = passed.div_euclid(*micros).checked_add(1)?.checked_mul(*micros)?;
                from.checked_add_signed(TimeDelta::microseconds(ahead))
            }
            Self::At(at) => (*at > after).then_some(*at),
            Self::Event => None,
        }
    }

    /// Whether an instant is a slot.
    pub fn is_slot(&self, at: Timestamp) -> bool {
        self.next_after(at - TimeDelta::microseconds(1)) == Some(at)
    }

    /// The last slot after an instant and not after a later one.
    pub fn last_within(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let first = self.next_after(after).filter(|slot| *slot <= until)?;
        if let Self::Interval { micros, .. } = self {
            let behind = (until - first).num_microseconds()?.div_euclid(*micros);
            return first.checked_add_signed(TimeDelta::microseconds(behind * micros));
        }
        // A window that ends now and has a slot in it; at worst it has all of them.
        let mut window = TimeDelta::hours(1);
        let mut last = loop {
            let begin = (until - window).max(after);
            match self.next_after(begin).filter(|slot| *slot <= until) {
                Some(slot) => break slot,
                None if begin <= after => break first,
                None => window = window * 8,
            }
        };
        while let Some(next) = self.next_after(last).filter(|slot| *slot <= until) {
            last = next;
        }
        Some(last)
    }

    /// How many slots lie after an instant and before another, counted up to
    /// [`MOST_COUNTED`].
    pub fn count_between(&self, after: Timestamp, before: Timestamp) -> u64 {
        let mut at = after;
        let mut count = 0;
        while count < MOST_COUNTED
            && let Some(next) = self.next_after(at).filter(|slot| *slot < before)
        {
            (at, count) = (next, count + 1);
        }
        count
    }

    /// The next slots after an instant.
    pub fn upcoming(&self, after: Timestamp, most: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(after), |slot| self.next_after(*slot))
            .take(most)
            .collect()
    }
}
