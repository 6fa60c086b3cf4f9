//! One run: load, faults, quiet, verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::checker::{self, Rule, Violation, World};
use crate::client::{LIVENESS, Shared};
use crate::evidence::{self, Sampler};
use crate::history::{Answer, Entry, History};
use crate::load::Load;
use crate::nemesis::{Fault, strike};
use crate::plan::Plan;
use crate::recovery::{self, Recovery};
use crate::system::System;

/// Faults of one server within a minute that its supervisor still bears.
const SERVER_FAULTS: usize = 4;
/// How long a slow machine is waited for.
const SLOW: Duration = Duration::from_secs(20);

/// What a run found.
pub struct Report {
    pub violations: Vec<Violation>,
    pub kills: u32,
    /// Ends of processes that nobody killed.
    pub deaths: u32,
}

impl Report {
    /// Fails the test where a promise was broken.
    pub fn must_be_clean(&self) {
        assert!(self.violations.is_empty(), "\n{}", checker::told(&self.violations));
    }

    /// Whether a planted fault was found.
    pub fn shows(&self, rules: &[Rule]) -> bool {
        self.violations.iter().any(|violation| rules.contains(&violation.rule))
    }

    /// Fails the test where a planted fault was not found.
    pub fn must_show(&self, rules: &[Rule]) {
        let told = checker::told(&self.violations);
        assert!(self.shows(rules), "the planted fault was not found by {rules:?}\n{told}");
        println!("found:\n{told}");
    }
}

/// Runs the load against a system and strikes it: each of `faults` once in an order of the
/// dice, in the long form any of them for as long as the plan says.
pub async fn run(name: &str, system: System, faults: &[Fault], plan: &Plan) -> Report {
    let began = Instant::now();
    let phase =
        |what: &str| println!("{name}: {what} after {:.1} s", began.elapsed().as_secs_f64());
    let system = Arc::new(system);
    let shared = Arc::new(Shared {
        doors: system.doors().await,
        history: History::begin(),
        faults: AtomicU64::new(0),
        stop: CancellationToken::new(),
        stuck: AtomicU64::new(0),
        probes: Mutex::default(),
    });
    let sampler = Sampler::start(system.clone());
    let mut load = Load::start(&shared, plan);
    busy(&shared, 150).await;
    let (recoveries, kills) = storm(&system, &shared, faults, plan).await;
    phase("the faults are over");
    // A run without faults from outside waits for those from inside.
    busy(&shared, if faults.is_empty() { 400 } else { 50 }).await;
    load.settle(&shared).await;
    phase("the clients have ended");

    let mut violations = Vec::new();
    let mut late = |witness: String| {
        violations.push(Violation { rule: Rule::Liveness, witness });
    };
    let stuck = shared.stuck.load(Ordering::Relaxed);
    if stuck > 0 {
        late(format!("{stuck} commands had no outcome within {LIVENESS:?}"));
    }
    for recovery in
        recoveries.iter().filter(|r| r.first.is_none() || r.models.is_none() || r.stream.is_none())
    {
        late(format!("{recovery:?}"));
    }
    match evidence::level(&system, &shared.doors, shared.patience()).await {
        Ok(head) => {
            if !load.heard(head, shared.patience()).await {
                late(format!("the subscriber did not get to {head}"));
            }
            phase("everything is level");
            let tokens = sampler.seen();
            let rebuild = !faults.is_empty();
            let world = evidence::collect(&system, &shared.doors, head, tokens, rebuild).await;
            phase("the evidence is there");
            let history = shared.history.entries();
            violations.extend(checker::check(&history, &world));
            println!("{name}: {}", counted(&history, &world, kills));
        }
        Err(standing) => late(standing),
    }
    let deaths = system.deaths.load(Ordering::Relaxed);
    println!("{name}:\n{}", recovery::table(&recoveries));
    Report { violations, kills, deaths }
}

async fn storm(
    system: &Arc<System>,
    shared: &Arc<Shared>,
    faults: &[Fault],
    plan: &Plan,
) -> (Vec<Recovery>, u32) {
    let mut dice = plan.dice(1_000_000);
    let began = Instant::now();
    let mut left = faults.to_vec();
    let mut hits: Vec<Instant> = Vec::new();
    let (mut recoveries, mut kills) = (Vec::new(), 0);
    let longest_pause = Duration::from_secs(if plan.long { 15 } else { 2 });
    loop {
        let fault = if plan.long {
            if began.elapsed() > plan.length() {
                break;
            }
            let Some(fault) = faults.choose(&mut dice) else { break };
            *fault
        } else {
            if left.is_empty() {
                break;
            }
            left.swap_remove(dice.random_range(0..left.len()))
        };
        hits.retain(|hit| hit.elapsed() < Duration::from_secs(60));
        if fault.hits_a_server() {
            if plan.long && hits.len() >= SERVER_FAULTS {
                continue;
            }
            hits.push(Instant::now());
        }
        shared.faults.fetch_add(1, Ordering::Relaxed);
        recoveries.push(one(system, shared, fault, longest_pause, &mut dice).await);
        kills += fault.kills();
        let longest = if plan.long { 2_500 } else { 300 };
        busy(shared, 40).await;
        sleep(Duration::from_millis(dice.random_range(0..longest))).await;
    }
    (recoveries, kills)
}

/// Waits until the clients have done so much more: a fault must meet a system at work.
async fn busy(shared: &Shared, more: usize) {
    let (began, before) = (Instant::now(), shared.history.len());
    while shared.history.len() < before + more && began.elapsed() < SLOW {
        sleep(Duration::from_millis(10)).await;
    }
}

async fn one(
    system: &Arc<System>,
    shared: &Arc<Shared>,
    fault: Fault,
    longest_pause: Duration,
    dice: &mut rand::rngs::StdRng,
) -> Recovery {
    let watching = Arc::new(Mutex::new(None));
    let struck = |at: Instant, hit: Option<String>| {
        let (shared, system) = (shared.clone(), system.clone());
        *watching.lock() = Some(tokio::spawn(async move {
            recovery::watch(&shared, &system, fault.name(), at, hit).await
        }));
    };
    strike(system, &shared.doors, fault, longest_pause, dice, struck).await;
    let watching = watching.lock().take().unwrap();
    watching.await.unwrap()
}

fn counted(history: &[Entry], world: &World, kills: u32) -> String {
    let (mut acknowledged, mut refused, mut unknown) = (0, 0, 0);
    let mut ids = std::collections::HashSet::new();
    let mut sent = 0;
    for entry in history {
        let Entry::Asked(attempt) = entry else { continue };
        sent += 1;
        let fresh = !matches!(attempt.answer, Answer::Unknown(_)) && ids.insert(attempt.command_id);
        match attempt.answer {
            Answer::Accepted(_) if fresh => acknowledged += 1,
            Answer::Refused(_) if fresh => refused += 1,
            Answer::Unknown(_) => unknown += 1,
            _ => {}
        }
    }
    format!(
        "{kills} kills; {sent} sendings, {acknowledged} commands acknowledged, {refused} refused, \
         {unknown} sendings without an answer; {} events",
        world.head
    )
}
