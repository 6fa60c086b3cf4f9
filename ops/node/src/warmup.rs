//! The steps between a process's start and its readiness.

use std::time::Duration;

use domain::agent::Phase;
use domain::profile::{WarmUp, WarmUpStep};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::probe::{Finding, Subject, connect};

/// Between two tries to reach a port.
const PAUSE: Duration = Duration::from_millis(100);

/// Does one step after the other, each told before it begins.
///
/// # Errors
/// The step that failed, and why.
pub(crate) async fn run(
    subject: &Subject,
    warm_up: &WarmUp,
    tell: &mpsc::Sender<Finding>,
) -> Result<(), String> {
    let whole = Instant::now() + Duration::from_millis(warm_up.timeout_ms());
    let count = warm_up.steps.len();
    for (index, step) in warm_up.steps.iter().enumerate() {
        let words = format!("step {} of {count}: {}", index + 1, step.kind.as_str());
        let _ = tell.send(Finding::Is(Phase::Warming, Some(words.clone()))).await;
        let own = step.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let until = own.map_or(whole, |own| own.min(whole));
        one(subject, step, until).await.map_err(|why| format!("warm-up {words}: {why}"))?;
    }
    Ok(())
}

async fn one(subject: &Subject, step: &WarmUpStep, until: Instant) -> Result<(), String> {
    let begin = Instant::now();
    if let Some(command) = &step.command {
        let within = until.saturating_duration_since(begin);
        return match subject.run.exec(command, within).await {
            Ok(word) if word.success => Ok(()),
            Ok(word) => Err(word.detail),
            Err(error) => Err(error.to_string()),
        };
    }
    let Some(tcp) = &step.tcp else { return Ok(()) };
    let mut last = String::from("no answer");
    let reached = async {
        // What it waits for is just being started.
        while let Err(why) = connect(&tcp.host, tcp.port).await {
            last = why;
            sleep(PAUSE).await;
        }
    };
    let reached = timeout_at(until, reached).await;
    reached.map_err(|_| format!("{last} (for {} ms)", begin.elapsed().as_millis()))
}
