//! The task queue in virtual time, from a seed: the real scheduler, deadlines, watchdog and
//! aggregates over a log in memory; agents that die, stand still, lie and answer late;
//! commands that are lost, doubled and overtaken; schedulers that follow each other;
//! operators who change their minds. After every step what must hold is checked against a
//! model of its own (`model`, `checks`, `Mind::check`), and at the end of a quiet phase
//! every task has come to its end or `why` says what it waits for.
//!
//! A failure names its seed: `TAFFRAIL_SIM_SEED=7 cargo test -p commands sim:: -- --nocapture`
//! shows it alone; `TAFFRAIL_SIM_SEEDS=20000` runs more of them.

mod agents;
mod checks;
mod dice;
mod faults;
mod minds;
mod model;
mod operators;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::TimeDelta;
use domain::task::TaskState;
use parking_lot::Mutex;

use self::faults::Fault;
use self::world::World;
use crate::process::tests::decisions::verified;

const SEEDS: u64 = 200;
/// Steps between two looks whether all has come to its end.
const LOOK_EVERY: u64 = 64;
/// How long the quiet phase may take. The longest of all waits is a lease of 30 s, the
/// longest backoff 8 s, and of 70 tasks each has six attempts left at most; a rate lets
/// two a second pass.
const QUIET: TimeDelta = TimeDelta::minutes(30);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Run {
    steps: u64,
    events: usize,
    tasks: usize,
    rated: usize,
}

/// What is wrong, if anything, with a run.
fn run(seed: u64, fault: Option<Fault>, shown: bool) -> Result<Run, String> {
    let mut world = World::new(seed, fault, shown);
    let end = catch_unwind(AssertUnwindSafe(|| to_the_end(&mut world)));
    let end = end.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("it panicked: {}", text.unwrap_or_default()))
    });
    for line in world.story.iter().flatten() {
        eprintln!("{line}");
    }
    end.map_err(|why| format!("step {}: {why}", world.steps))
}

fn to_the_end(world: &mut World) -> Result<Run, String> {
    let mut calm_since = None;
    while world.step()? {
        if !world.quiet || !world.steps.is_multiple_of(LOOK_EVERY) {
            continue;
        }
        let since = *calm_since.get_or_insert(world.now);
        let open = unsettled(world);
        if open.is_empty() && world.now - since > TimeDelta::seconds(60) {
            let rated = world.checker.rates()?;
            // Seeded faults are to be found by the checks of their own.
            if world.fault.is_none()
                && let Some(fault) = verified(&world.log.events).faults.first()
            {
                return Err(format!("decided otherwise from the log: {fault:?}"));
            }
            let (events, tasks) = (world.log.events.len(), world.checker.model.tasks.len());
            return Ok(Run { steps: world.steps, events, tasks, rated });
        }
        if world.now - since > QUIET {
            return Err(format!("not settled: {}", open.join("; ")));
        }
    }
    Err("nothing happens any more".into())
}

/// The log of a seed's run.
pub(super) fn log_of(seed: u64) -> Vec<std::sync::Arc<domain::Recorded>> {
    let mut world = World::new(seed, None, false);
    to_the_end(&mut world).expect("the seed runs to its end");
    world.log.events
}

/// The tasks that have not come to their end, and that nothing explains.
fn unsettled(world: &World) -> Vec<String> {
    let mut open = Vec::new();
    for (id, task) in &world.checker.model.tasks {
        // What failed waits for an operator; that is its end.
        let ended = task.archived || task.state.is_final();
        if ended {
            continue;
        }
        let why = world.why(*id).unwrap_or_default();
        let gives = world.checker.model.queue(&task.queue).gives(task.position);
        let explained = match why.as_slice() {
            ["queue_paused", ..] => !gives,
            // Of a task that will never be done.
            [.., "dependency" | "dependency_lost" | "chain_stuck"] => {
                task.depends_on.iter().any(|id| {
                    let of = world.checker.model.tasks.get(id);
                    of.is_none_or(|of| of.archived || of.state != TaskState::Done)
                })
            }
            _ => false,
        };
        if !explained {
            open.push(format!("{id} is {:?}, why: {why:?}, {task:?}", task.state));
        }
    }
    let missing = world.submitted - world.checker.model.tasks.len() as u128;
    if missing > 5 {
        open.push(format!("{missing} submissions were never decided"));
    }
    open
}

/// Runs seeds on all cores; the first that fails, with why.
fn failing(seeds: u64, fault: Option<Fault>) -> Result<Run, (u64, String)> {
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let sum = Mutex::new(Run::default());
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds || found.lock().is_some() {
                        return;
                    }
                    match run(seed, fault, false) {
                        Ok(run) => {
                            let mut sum = sum.lock();
                            sum.steps += run.steps;
                            sum.events += run.events;
                            sum.tasks += run.tasks;
                            sum.rated += run.rated;
                        }
                        Err(why) => {
                            let mut found = found.lock();
                            let first = found.as_ref().is_none_or(|(other, _)| seed < *other);
                            if first {
                                *found = Some((seed, why));
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    match found.into_inner() {
        Some(found) => Err(found),
        None => Ok(sum.into_inner()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_the_queue_keeps_its_word() {
    if let Some(seed) = number("TAFFRAIL_SIM_SEED") {
        let ran = run(seed, None, true);
        eprintln!("seed {seed}: {ran:?}");
        assert!(ran.is_ok(), "{ran:?}");
        return;
    }
    let seeds = number("TAFFRAIL_SIM_SEEDS").unwrap_or(SEEDS);
    match failing(seeds, None) {
        Ok(sum) => {
            eprintln!("{seeds} seeds: {sum:?}");
            assert!(sum.tasks as u64 > 20 * seeds && sum.rated > 0, "{sum:?}");
        }
        Err((seed, why)) => {
            // Once more, for its last steps.
            let again = run(seed, None, true);
            assert_eq!(again.as_ref().err(), Some(&why), "a seed does the same again");
            panic!(
                "seed {seed}: {why}\nalone: \
                 TAFFRAIL_SIM_SEED={seed} cargo test -p commands sim:: -- --nocapture"
            );
        }
    }
}

#[test]
fn the_checks_find_every_fault_that_is_seeded() {
    for fault in Fault::ALL {
        match failing(SEEDS, Some(fault)) {
            Ok(sum) => panic!("{fault:?} was not found: {sum:?}"),
            Err((seed, why)) => eprintln!("{fault:?}: seed {seed}, {why}"),
        }
    }
}

#[test]
fn a_seed_does_the_same_every_time() {
    for seed in [3, 4] {
        assert_eq!(run(seed, None, false), run(seed, None, false), "seed {seed}");
    }
}
