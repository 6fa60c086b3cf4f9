//! A sitting: all cells in turn, round after round, each against servers of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cell::{Budget, Cell, Context, Host};
use crate::counters::{Probe, Used};
use crate::hw::Hw;
use crate::line::{Line, Round, Sitting, join_limits};
use crate::load::Samples;
use crate::product::Product;
use crate::target::Target;

/// Seed of whatever is drawn.
const SEED: u64 = 0x7aff_7a11;
/// Part of a cell's time that goes into warming up.
const WARM: f64 = 0.25;

/// How long and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seconds of a cell's window.
    pub seconds: f64,
    /// Rounds of each cell.
    pub rounds: usize,
    /// Where servers keep their data: on the disk that is to be measured.
    pub folder: PathBuf,
    /// Smaller fillings: a quick look instead of a measurement.
    pub quick: bool,
    /// When the sitting began, UTC, for the lines.
    pub date: String,
}

/// Measures all cells; `tell` hears what is under way.
///
/// # Errors
/// When a cell cannot be measured, or the log lacks what was acknowledged.
pub async fn sitting(
    product: Arc<dyn Product>,
    cells: &[Cell],
    plan: &Plan,
    tell: &(dyn Fn(&str) + Send + Sync),
) -> anyhow::Result<Vec<Line>> {
    let folder = Folder::make(&plan.folder)?;
    let mut bare = None;
    let mut sitting = Sitting { date: plan.date.clone(), hw: Hw::here(), ..Sitting::default() };
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); cells.len()];
    for round in 0..plan.rounds {
        for (cell, rounds) in cells.iter().zip(&mut rounds) {
            tell(&format!("round {} of {}: {cell}", round + 1, plan.rounds));
            let measured = measure(&product, cell, plan, &folder.0, &mut bare, &mut sitting).await;
            let measured = measured.with_context(|| cell.to_string())?;
            tell(&format!("  {:.0} {}/s", rate(&measured.samples), cell.unit));
            rounds.push(measured);
        }
    }
    if let Some(bare) = bare.and_then(Arc::into_inner) {
        bare.stop().await;
    }
    let mut lines: Vec<Line> =
        cells.iter().zip(&rounds).map(|(cell, rounds)| Line::of(cell, rounds, &sitting)).collect();
    join_limits(&mut lines, cells);
    Ok(lines)
}

fn rate(samples: &Samples) -> f64 {
    samples.ops as f64 / samples.seconds.max(1e-9)
}

async fn measure(
    product: &Arc<dyn Product>,
    cell: &Cell,
    plan: &Plan,
    folder: &Path,
    bare: &mut Option<Arc<Target>>,
    sitting: &mut Sitting,
) -> anyhow::Result<Round> {
    let target = match (cell.host, &*bare) {
        (Host::Bare, Some(target)) => target.clone(),
        (Host::Bare | Host::Inside(_) | Host::Outside, _) => {
            let name = if cell.host == Host::Bare { "bare" } else { "target" };
            Arc::new(Target::start(product, cell.host, &folder.join(name)).await?)
        }
    };
    if cell.host == Host::Bare {
        *bare = Some(target.clone());
    }
    if sitting.postgres.is_empty() {
        (sitting.postgres, sitting.nats) = target.versions().await?;
    }
    let own = folder.join("cell");
    std::fs::create_dir_all(&own)?;
    let measured = against(product, cell, plan, &target, &own).await;
    let _ = std::fs::remove_dir_all(&own);
    if cell.host != Host::Bare {
        match Arc::into_inner(target) {
            Some(target) => target.stop().await,
            None => bail!("the cell did not let go of its server"),
        }
        std::fs::remove_dir_all(folder.join("target"))
            .context("the server's folder cannot be removed")?;
    }
    measured
}

async fn against(
    product: &Arc<dyn Product>,
    cell: &Cell,
    plan: &Plan,
    target: &Arc<Target>,
    own: &Path,
) -> anyhow::Result<Round> {
    let pids = [Some(target.pid).filter(|pid| *pid > 0), target.postgres_pid, target.nats_pid];
    let probe = Probe::new(Some(target.database().await?), pids);
    let measure = Duration::from_secs_f64(plan.seconds);
    let before = match cell.counted {
        [] => 0,
        commands => probe.recorded(commands).await?,
    };
    let context = Context {
        target: target.clone(),
        budget: Budget { warm: measure.mul_f64(WARM), measure, probe: probe.clone(), seed: SEED },
        product: product.clone(),
        folder: own.to_owned(),
        quick: plan.quick,
    };
    let samples = cell.run(context).await?;
    let recorded = match cell.counted {
        [] => None,
        commands => Some(probe.recorded(commands).await? - before),
    };
    if let Some(recorded) = recorded {
        agree(&samples, recorded)?;
    }
    let used = probe.used().unwrap_or(Used { seconds: samples.seconds, ..Used::default() });
    Ok(Round { samples, used, recorded })
}

/// What was acknowledged is in the log, and nothing else but what got no answer.
fn agree(samples: &Samples, recorded: u64) -> anyhow::Result<()> {
    let Samples { acknowledged, unknown, .. } = *samples;
    if recorded < acknowledged || recorded > acknowledged + unknown {
        let error = samples.error.as_deref().unwrap_or("none");
        bail!(
            "{acknowledged} commands were acknowledged and the log has {recorded} results of \
             such commands ({unknown} operations without an answer; the first error: {error})"
        );
    }
    Ok(())
}

/// A folder of the sitting's own that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn make(parent: &Path) -> anyhow::Result<Self> {
        let path = parent.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path.canonicalize()?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_acknowledged_and_is_not_in_the_log_fails_the_run() {
        let samples =
            |acknowledged, unknown| Samples { acknowledged, unknown, ..Samples::default() };
        assert!(agree(&samples(10, 0), 10).is_ok());
        assert!(agree(&samples(10, 0), 9).is_err(), "lost");
        assert!(agree(&samples(10, 0), 11).is_err(), "doubled");
        assert!(agree(&samples(10, 2), 12).is_ok(), "decided, the answer lost");
        assert!(agree(&samples(10, 2), 13).is_err());
    }
}
