//! Asks a process how it is: once at its start, then again and again.

mod ask;

use std::sync::Arc;
use std::time::Duration;

use domain::AgentId;
use domain::agent::Phase;
use domain::profile::{Probe, Profile};
use rand::Rng;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::driver::Run;
use crate::health::{Health, Threshold};
use crate::link::Link;
use crate::warmup;

/// Questions that a node asks at once, over all its agents.
pub(crate) const AT_ONCE: usize = 32;

/// One process under observation.
#[derive(Clone)]
pub(crate) struct Subject {
    pub agent: AgentId,
    pub run: Arc<dyn Run>,
    pub link: Link,
    pub permits: Arc<Semaphore>,
}

/// What is found out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// It is in this phase now.
    Is(Phase, Option<String>),
    /// It did not start up or warm up: it has to go.
    Failed(String),
}

/// Whether there is anything to wait for between the start and the readiness.
pub(crate) fn waits(profile: &Profile) -> bool {
    let probes = profile.probes.as_ref();
    probes.is_some_and(|probes| probes.startup.is_some() || probes.readiness.is_some())
        || profile.warm_up.as_ref().is_some_and(|warm_up| !warm_up.steps.is_empty())
}

/// Finds out until the process is gone; `from` is the phase that it was left in.
pub(crate) async fn watch(
    subject: Subject,
    profile: Arc<Profile>,
    from: Phase,
    tell: mpsc::Sender<Finding>,
) {
    let probes = profile.probes.clone().unwrap_or_default();
    let known = matches!(from, Phase::Ready | Phase::NotReady | Phase::Unhealthy);
    if !known {
        if let Some(startup) = &probes.startup
            && let Err(why) = until_good(&subject, startup).await
        {
            let _ = tell.send(Finding::Failed(format!("startup probe: {why}"))).await;
            return;
        }
        if let Some(steps) = &profile.warm_up
            && let Err(why) = warmup::run(&subject, steps, &tell).await
        {
            let _ = tell.send(Finding::Failed(why)).await;
            return;
        }
        if probes.readiness.is_none() && tell.send(Finding::Is(Phase::Ready, None)).await.is_err() {
            return;
        }
    }

    let (turns, mut turned) = mpsc::channel(8);
    let ask = |probe: Option<Probe>, which| {
        let (subject, turns) = (subject.clone(), turns.clone());
        async move {
            if let Some(probe) = probe {
                again_and_again(&subject, &probe, which, turns).await;
            }
        }
    };
    let live = ask(probes.liveness.clone(), Which::Liveness);
    let ready = ask(probes.readiness.clone(), Which::Readiness);
    drop(turns);
    let weigh = async {
        let mut health = Health::of(from);
        let mut begun = known || probes.readiness.is_none();
        while let Some((which, good, why)) = turned.recv().await {
            match which {
                Which::Liveness => health.live = good,
                Which::Readiness => health.ready = good,
            }
            begun |= which == Which::Readiness && good;
            // One that was never ready is still starting, unless it is dead.
            if !begun && health.phase() != Phase::Unhealthy {
                continue;
            }
            if tell.send(Finding::Is(health.phase(), why)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(live, ready, weigh);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Liveness,
    Readiness,
}

impl Which {
    fn word(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

async fn again_and_again(
    subject: &Subject,
    probe: &Probe,
    which: Which,
    turns: mpsc::Sender<(Which, bool, Option<String>)>,
) {
    let mut threshold = Threshold::of(probe);
    let mut next = Instant::now() + Duration::from_millis(probe.initial_delay_ms);
    loop {
        sleep_until(next).await;
        let begin = Instant::now();
        let answer = ask::once(subject, probe).await;
        if let Some(good) = threshold.note(answer.is_ok()) {
            let why = answer.err().map(|why| format!("{} probe: {why}", which.word()));
            if turns.send((which, good, why)).await.is_err() {
                return;
            }
        }
        next = begin + period(probe);
    }
}

/// Asks until the answers are good, or bad.
async fn until_good(subject: &Subject, probe: &Probe) -> Result<(), String> {
    let mut threshold = Threshold::of(probe);
    let mut next = Instant::now() + Duration::from_millis(probe.initial_delay_ms);
    loop {
        sleep_until(next).await;
        let begin = Instant::now();
        let answer = ask::once(subject, probe).await;
        match (threshold.note(answer.is_ok()), answer) {
            (Some(true), _) => return Ok(()),
            (Some(false), Err(why)) => return Err(why),
            (Some(false) | None, _) => {}
        }
        next = begin + period(probe);
    }
}

fn period(probe: &Probe) -> Duration {
    let jitter = probe.jitter.clamp(0.0, 1.0);
    let part = 1.0 + jitter * rand::rng().random_range(-1.0..=1.0);
    // Never a loop without a pause, whatever the jitter.
    Duration::from_millis((probe.period_ms as f64 * part) as u64).max(Duration::from_millis(10))
}

pub(crate) use ask::connect;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_spread_as_far_as_the_jitter_says() {
        let probe = |jitter| Probe { period_ms: 1_000, jitter, ..Probe::default() };
        assert_eq!(period(&probe(0.0)), Duration::from_secs(1));
        let all: Vec<_> = (0..200).map(|_| period(&probe(0.5)).as_millis()).collect();
        assert!(all.iter().all(|ms| (500..=1_500).contains(ms)), "{all:?}");
        assert!(all.iter().any(|ms| *ms < 900) && all.iter().any(|ms| *ms > 1_100), "{all:?}");
    }

    #[test]
    fn liveness_alone_is_nothing_to_wait_for() {
        let profile = |text: &str| serde_json::from_str::<Profile>(text).unwrap();
        assert!(!waits(&profile(r#"{"probes": {"liveness": {"tcp": {"port": 1}}}}"#)));
        assert!(!waits(&profile(r#"{"warm_up": {"steps": []}}"#)));
        assert!(waits(&profile(r#"{"probes": {"readiness": {"tcp": {"port": 1}}}}"#)));
        assert!(waits(&profile(r#"{"probes": {"startup": {"tcp": {"port": 1}}}}"#)));
        assert!(waits(&profile(r#"{"warm_up": {"steps": [{"command": "true"}]}}"#)));
    }
}
