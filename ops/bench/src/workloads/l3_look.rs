//! L3: one look of the watchdog at a fleet of 10,000 agents, in this process and without a
//! server. Its signs of life are a map behind a lock, as the product's are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::commands::Observation;
use ::commands::process::{Manager, Moment, Signs, Watchdog};
use anyhow::{Context as _, ensure};
use domain::agent::{AgentCommand, RegisterAgent};
use domain::{AgentId, Aggregate, Command, Facts, Timestamp};
use parking_lot::Mutex;
use uuid::Uuid;

use super::s1;
use crate::cell::{Cell, Context, Host, Params};
use crate::commands::{ACTOR, tenant};
use crate::load::Samples;

const AGENTS: u64 = 10_000;
/// From one look to the next, by the watchdog's clock.
const PERIOD: Duration = Duration::from_millis(500);
/// Longer than any silence that is no fault.
const SILENCE: Duration = Duration::from_secs(31);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let params = Params::default().with("of", "watchdog's look").with("agents", AGENTS);
    let run = |context: Context| async move {
        tokio::task::spawn_blocking(move || run(&context))
            .await
            .context("the measurement broke down")?
    };
    vec![Cell::new("fleet", "L3", params, run).host(Host::Bare).unit("looks")]
}

fn run(context: &Context) -> anyhow::Result<Samples> {
    let time = Timestamp::UNIX_EPOCH + chrono::Duration::days(20_000);
    let seen: Arc<Mutex<HashMap<AgentId, Observation>>> = Arc::default();
    let signs = seen.clone();
    let look = move |_: &_, agent| Signs { seen: signs.lock().get(&agent).cloned(), watch: None };
    let mut watchdog = Watchdog::new(Box::new(look), Default::default());
    let mut position = 0;
    for n in 0..AGENTS {
        position = enrol(&mut watchdog, n, position, time)?;
    }
    let beat = |at: Instant| {
        let one = Observation {
            observed_state: Some("ready".into()),
            slots_free: Some(1),
            progress_seq: Some(1),
            ..Observation::seen(at, time)
        };
        seen.lock().extend((0..AGENTS).map(|n| (agent(n), one.clone())));
    };

    let mut samples = Samples::default();
    let (begun, mut now) = (Instant::now(), Instant::now());
    while begun.elapsed() < context.budget.warm + context.budget.measure {
        let counted = begun.elapsed() >= context.budget.warm;
        now += PERIOD;
        beat(now);
        let at = Instant::now();
        let commands = watchdog.react(Moment { time, instant: now });
        let took = at.elapsed();
        ensure!(commands.is_empty(), "{} commands about a fleet that is well", commands.len());
        if counted {
            samples.ops += 1;
            samples.seconds += took.as_secs_f64();
            samples.record(took);
        }
    }
    now += SILENCE;
    let at = Instant::now();
    let commands = watchdog.react(Moment { time, instant: now });
    let silent = at.elapsed();
    ensure!(commands.len() as u64 == AGENTS, "{} agents are taken for silent", commands.len());
    let p99 = samples.histogram.value_at_quantile(0.99) as f64 / 1e3;
    Ok(samples.with("look_p99_ms", p99).with("all_silent_ms", silent.as_secs_f64() * 1e3))
}

fn agent(n: u64) -> AgentId {
    AgentId(Uuid::from_u128((1 << 100) | u128::from(n)))
}

/// Registers one and makes it ready; the position of its last event.
fn enrol(
    watchdog: &mut Watchdog,
    n: u64,
    mut position: u64,
    time: Timestamp,
) -> anyhow::Result<u64> {
    let (id, mut version) = (agent(n).0, 0);
    let mut state = Aggregate::new(domain::StreamType::Agent);
    let register = AgentCommand::Register(RegisterAgent::named(format!("agent-{n}")));
    for command in [register, AgentCommand::MarkReady(Default::default())] {
        for event in state.decide(&Command::from(command), &Facts::new(time, ACTOR))? {
            state.apply(&event);
            (position, version) = (position + 1, version + 1);
            let at = s1::At { position, version, time };
            watchdog.apply(&s1::recorded(&tenant(), id, at, &event, ACTOR));
        }
    }
    Ok(position)
}
