//! Past events published once more, for dashboards and debugging: `log.replay`.
//!
//! Invariant: they go to subjects of their own (`taffrail.<tenant>.replay.<name>.…`), which no
//! stream takes and nobody of ours listens to; nothing is appended, decided or delivered twice.
//! Over core NATS, not a stream: the log has every event already, a replay can be asked for
//! again, and nobody has to clean up after it. Whoever is too slow misses messages, and sees
//! that from the positions.

use std::sync::Arc;
use std::time::Duration;

use broker::envelope::{event_headers, header};
use broker::subject;
use commands::{Boxed, Errand, Work};
use domain::operation::OperationProgress;
use domain::{Code, Json, Problem, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use store::Log;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// The kind of operation that this carries out; see [`PublishInput`].
pub const PUBLISH: &str = "log.replay";

/// Replays under way at once: a slow one lasts for hours, and other operations need places too.
const AT_ONCE: usize = 2;
/// After so long a replay ends, wherever it is.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Events read at a time.
const PAGE: usize = 512;
/// Between two words of progress.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What is to be published, and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishInput {
    /// The first position.
    pub from: u64,
    /// The last position.
    pub to: u64,
    /// How many times faster than it happened; absent: as fast as possible.
    #[serde(default)]
    pub speed: Option<f64>,
    /// Gaps between events are no longer than so many milliseconds of recorded time.
    #[serde(default)]
    pub skip_idle_ms: Option<u64>,
    /// The word in the subject; the operation's id where none is given.
    #[serde(default)]
    pub name: Option<String>,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishReport {
    /// Where to: the subject of everything that belongs to it.
    pub subject: String,
    /// Events published: those of the tenant.
    pub published: u64,
    /// The last position that was looked at.
    pub position: u64,
    /// How long it took.
    pub ms: u64,
}

/// Carries out `log.replay`.
#[derive(Debug, Clone)]
pub struct PublishWork {
    log: Log,
    nats: async_nats::Client,
    places: Arc<Semaphore>,
}

impl PublishWork {
    /// Reads a log and publishes through a connection.
    pub fn new(log: Log, nats: async_nats::Client) -> Self {
        Self { log, nats, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn publish(self, errand: Errand) -> Result<Json, Problem> {
        let _place = self.places.try_acquire().map_err(|_| {
            Problem::new(Code::Busy, format!("{AT_ONCE} replays are under way: cancel one first"))
        })?;
        let Errand { id, tenant, accepted, progress, .. } = errand;
        let input: PublishInput = accepted
            .input
            .read()
            .map_err(|error| Problem::new(Code::InvalidBody, format!("input: {error}")))?;
        let name = input.name.clone().unwrap_or_else(|| id.to_string());
        let epoch = self.log.head().await.map_err(unread)?.epoch;
        let (begin, total) = (Instant::now(), input.to.saturating_sub(input.from) + 1);
        let mut pace = Pace::new(input.speed, input.skip_idle_ms);
        let mut told = begin;
        let (mut position, mut published) = (input.from.saturating_sub(1), 0);
        while position < input.to {
            let left = usize::try_from(input.to - position).unwrap_or(PAGE);
            let events = self.log.read(position, left.min(PAGE)).await.map_err(unread)?;
            if events.is_empty() {
                break;
            }
            for event in &events {
                if event.tenant == tenant {
                    let due = begin + pace.due(event.recorded_at);
                    if due > begin + LONGEST {
                        return Err(too_long(position));
                    }
                    // Cancelling ends the wait with the work.
                    sleep_until(due).await;
                    let mut headers = event_headers(event, epoch);
                    headers.insert(header::REPLAY, name.as_str());
                    let to = subject::replay(event, &name);
                    let sent = self.nats.publish_with_headers(to, headers, event.payload.clone());
                    sent.await.map_err(away)?;
                    published += 1;
                }
                position = event.position;
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    if told - begin > LONGEST {
                        return Err(too_long(position));
                    }
                    let message = format!("{published} events published, at position {position}");
                    let done = position + 1 - input.from;
                    // Whoever is too slow to listen misses a word; the next one comes.
                    let _ =
                        progress.try_send(OperationProgress { done, total: Some(total), message });
                }
            }
            // As fast as the server takes them, and no faster.
            self.nats.flush().await.map_err(away)?;
        }
        let ms = begin.elapsed().as_millis() as u64;
        let subject = subject::replay_all(&tenant, &name);
        let report = PublishReport { subject, published, position, ms };
        self.end(&tenant, &name, &report).await?;
        Ok(Json::of(&report))
    }

    /// Tells the listeners that nothing more comes.
    async fn end(
        &self,
        tenant: &TenantId,
        name: &str,
        report: &PublishReport,
    ) -> Result<(), Problem> {
        let body = Json::of(report).as_str().to_owned();
        let sent = self.nats.publish(subject::replay_end(tenant, name), body.into());
        sent.await.map_err(away)?;
        self.nats.flush().await.map_err(away)
    }
}

impl Work for PublishWork {
    fn takes(&self, kind: &str) -> bool {
        kind == PUBLISH
    }

    fn run(&self, errand: Errand) -> Boxed<Result<Json, Problem>> {
        Box::pin(self.clone().publish(errand))
    }
}

fn unread(error: store::StoreError) -> Problem {
    Problem::new(Code::Unavailable, format!("the log cannot be read: {error}"))
}

fn away(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Unavailable, format!("NATS takes no messages: {error}"))
}

fn too_long(position: u64) -> Problem {
    let hours = LONGEST.as_secs() / 3_600;
    let detail = format!(
        "a replay ends after {hours} h; the last position published is {position}: go on from \
         there, faster or without idle times"
    );
    Problem::new(Code::NotPossible, detail)
}

/// When each event is due, from the begin on.
struct Pace {
    speed: Option<f64>,
    idle: Option<chrono::TimeDelta>,
    last: Option<Timestamp>,
    /// Recorded time that has passed, without what is skipped.
    passed: chrono::TimeDelta,
}

impl Pace {
    fn new(speed: Option<f64>, skip_idle_ms: Option<u64>) -> Self {
        let idle = skip_idle_ms
            .map(|ms| chrono::TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 2)));
        Self { speed, idle, last: None, passed: chrono::TimeDelta::zero() }
    }

    fn due(&mut self, at: Timestamp) -> Duration {
        let Some(speed) = self.speed else { return Duration::ZERO };
        let gap = self.last.map_or(chrono::TimeDelta::zero(), |last| at - last);
        self.last = Some(at);
        self.passed += self.idle.map_or(gap, |idle| gap.min(idle));
        let passed = self.passed.to_std().unwrap_or_default().as_secs_f64() / speed;
        Duration::try_from_secs_f64(passed).unwrap_or(Duration::MAX).min(LONGEST * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + chrono::TimeDelta::milliseconds(ms)
    }

    fn dues(speed: Option<f64>, idle: Option<u64>, times: &[i64]) -> Vec<u64> {
        let mut pace = Pace::new(speed, idle);
        times.iter().map(|ms| pace.due(at(*ms)).as_millis() as u64).collect()
    }

    #[test]
    fn events_are_due_at_the_recorded_pace_times_the_speed() {
        let times = [5_000, 5_000, 6_000, 66_000];
        assert_eq!(dues(Some(1.0), None, &times), [0, 0, 1_000, 61_000]);
        assert_eq!(dues(Some(10.0), None, &times), [0, 0, 100, 6_100]);
        assert_eq!(dues(Some(0.5), None, &times), [0, 0, 2_000, 122_000]);
        assert_eq!(dues(None, None, &times), [0, 0, 0, 0]);
        // A minute in which nothing happened is made short.
        assert_eq!(dues(Some(10.0), Some(2_000), &times), [0, 0, 100, 300]);
        // A hundred years at a hundredth of the speed: beyond what is waited for, not a panic.
        let years = dues(Some(0.01), None, &[0, 3_155_760_000_000]);
        assert!(years[1] > LONGEST.as_millis() as u64);
    }
}
