//! What starting in isolation costs.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::StartError;
use crate::spec::Spec;
use crate::start::Sandbox;

/// Time to start, microseconds: from the call until the program was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half are faster.
    pub p50_us: u64,
    /// 95 of 100 are faster.
    pub p95_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// Bare starts against starts in isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// `true`, started as it is.
    pub bare: Spread,
    /// `true`, in a sandbox.
    pub sandboxed: Spread,
    /// How many were then started at once.
    pub concurrent: u32,
    /// Until the last of them was executed, microseconds.
    pub concurrent_us: u64,
    /// What it would take if every core started one after the other without loss, microseconds.
    pub ideal_us: u64,
    /// How many of them failed.
    pub failed: u32,
}

impl Sandbox {
    /// Measures starts one after the other and `concurrent` at once, in folders below `dir`.
    ///
    /// # Errors
    /// When a single start fails.
    pub async fn measure(
        &self,
        dir: &Path,
        rounds: u32,
        concurrent: u32,
    ) -> Result<Figures, StartError> {
        let spec = Spec::new(["true"]);
        self.run_once(&dir.join("first"), &spec, &[]).await?; // the level is found out by now
        let (mut bare, mut sandboxed) = (Vec::new(), Vec::new());
        // In turn, so that a busy moment of the host meets both.
        for round in 0..rounds {
            let begun = Instant::now();
            let child = tokio::process::Command::new("true").stdout(Stdio::null()).spawn();
            bare.push(begun.elapsed());
            let mut child = child.map_err(|error| StartError::supervisor("true", error))?;
            let _ = child.wait().await;
            let run = dir.join(format!("single-{round}"));
            let begun = Instant::now();
            let handle = self.start(&run, &spec).await?;
            sandboxed.push(begun.elapsed());
            let _ = handle.wait().await;
            let _ = std::fs::remove_dir_all(run);
        }
        let sandboxed = spread(sandboxed);
        let mut spec = Spec::new(["sleep", "60"]);
        spec.limits.wall_ms = Some(60_000);
        let mut starting = tokio::task::JoinSet::new();
        let begun = Instant::now();
        for number in 0..concurrent {
            let (sandbox, spec) = (self.clone(), spec.clone());
            let run = dir.join(format!("many-{number}"));
            starting.spawn(async move { sandbox.start(&run, &spec).await });
        }
        let started = starting.join_all().await;
        let concurrent_us = micros(begun.elapsed());
        let failed = started.iter().filter(|started| started.is_err()).count();
        for handle in started.into_iter().flatten() {
            let _ = handle.kill();
            let _ = handle.wait().await;
            let _ = std::fs::remove_dir_all(handle.dir());
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Figures {
            bare: spread(bare),
            sandboxed,
            concurrent,
            concurrent_us,
            ideal_us: u64::from(concurrent) * sandboxed.p50_us / cores as u64,
            failed: u32::try_from(failed).unwrap_or(u32::MAX),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    let at = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1) - 1;
        times.get(rank).copied().map_or(0, micros)
    };
    Spread { p50_us: at(50), p95_us: at(95), max_us: at(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(spread(times), Spread { p50_us: 50, p95_us: 95, max_us: 100 });
        assert_eq!(spread(vec![Duration::from_micros(7)]).p95_us, 7);
    }
}
