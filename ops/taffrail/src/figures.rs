//! What `/metrics` and `/readyz` show of the parts of this process.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use broker::{Consumer, Presence, Relay};
use commands::process::{QueueDepth, SchedulerHandle};
use commands::processor::{LATENCY_BOUNDS_US, Processor};
use deadpool_postgres::Pool;
use gateway::{Health, Metrics};
use projections::{Model, Progress};
use store::Feed;

/// The end of the log and the pool's use.
pub fn of_log(metrics: &Metrics, feed: &Feed, pool: &Pool) {
    let feed = feed.clone();
    metrics
        .ask("taffrail_log_position", "Last committed position.", &[], move || feed.head() as f64);
    for (state, used) in [("used", true), ("idle", false)] {
        let pool = pool.clone();
        let help = "Database connections of the service pool.";
        metrics.ask("taffrail_pool_connections", help, &[("state", state)], move || {
            let status = pool.status();
            let idle = status.available.min(status.size);
            if used { (status.size - idle) as f64 } else { idle as f64 }
        });
    }
    let help = "Log lines dropped because stderr took them too slowly.";
    metrics.ask_total("taffrail_log_lines_dropped_total", help, &[], || {
        crate::logging::dropped_lines() as f64
    });
    let pool = pool.clone();
    metrics.ask("taffrail_pool_waiting", "Callers waiting for a connection.", &[], move || {
        pool.status().waiting as f64
    });
}

/// How far the log is sealed.
pub fn of_sealer(metrics: &Metrics, feed: &Feed, sealer: &replay::seal::Sealer) {
    let (sealed, feed) = (sealer.sealed(), feed.clone());
    let help = "Committed events that no seal covers yet, as far as this process knows.";
    let position = sealed.clone();
    metrics.ask("taffrail_unsealed_events", help, &[], move || {
        feed.head().saturating_sub(position.borrow().position) as f64
    });
    let help =
        "1 while nothing can be sealed: the log does not fit its last seal, or a server is away.";
    metrics.ask("taffrail_sealer_failing", help, &[], move || {
        f64::from(u8::from(sealed.borrow().failing))
    });
}

/// The connection to NATS.
pub fn of_nats(metrics: &Metrics, nats: &async_nats::Client) {
    let client = nats.clone();
    let help = "1 while the connection to NATS is there.";
    metrics.ask("taffrail_nats_connected", help, &[], move || {
        let connected = client.connection_state() == async_nats::connection::State::Connected;
        f64::from(u8::from(connected))
    });
    let statistics = nats.statistics();
    let help = "Times the connection to NATS was made.";
    metrics.ask_total("taffrail_nats_connects_total", help, &[], move || {
        statistics.connects.load(Relaxed) as f64
    });
}

/// Commands, batches and the append's latency.
pub fn of_processor(metrics: &Metrics, door: &Processor) {
    let total = |name: &str, help: &str, labels: &[(&str, &str)], look: fn(&Processor) -> f64| {
        let door = door.clone();
        metrics.ask_total(name, help, labels, move || look(&door));
    };
    let ask = |name: &str, help: &str, labels: &[(&str, &str)], look: fn(&Processor) -> f64| {
        let door = door.clone();
        metrics.ask(name, help, labels, move || look(&door));
    };
    let (name, help) = ("taffrail_commands_total", "Commands by what became of them.");
    total(name, help, &[("status", "accepted")], |door| door.stats().accepted as f64);
    total(name, help, &[("status", "refused")], |door| door.stats().refused as f64);
    total(name, help, &[("status", "duplicate")], |door| door.stats().duplicate as f64);
    total(name, help, &[("status", "busy")], |door| door.stats().busy as f64);
    total(name, help, &[("status", "invalid")], |door| door.stats().invalid as f64);
    total("taffrail_events_total", "Events committed.", &[], |door| door.stats().events as f64);
    total("taffrail_batches_total", "Flushes committed.", &[], |door| door.stats().batches as f64);
    total("taffrail_batch_commands_total", "Commands in committed flushes.", &[], |door| {
        door.stats().batched_commands as f64
    });
    total("taffrail_failed_flushes_total", "Flushes that were decided anew.", &[], |door| {
        door.stats().failed_flushes as f64
    });
    ask("taffrail_command_queue", "Commands waiting for a decision.", &[], |door| {
        door.stats().waiting as f64
    });
    ask("taffrail_command_queue_capacity", "Commands that may wait.", &[], |door| {
        door.stats().capacity as f64
    });
    ask("taffrail_processor_active", "1 while this process decides.", &[], |door| {
        f64::from(u8::from(*door.active().borrow()))
    });
    let door = door.clone();
    let bounds = LATENCY_BOUNDS_US.map(|us| us as f64 / 1e6);
    let help = "Time of one append statement with its commit.";
    metrics.ask_histogram("taffrail_append_seconds", help, &bounds, move || {
        let stats = door.stats();
        (stats.latency.to_vec(), stats.append_us as f64 / 1e6)
    });
}

/// How far the relay is.
pub fn of_relay(metrics: &Metrics, relay: &Arc<Relay>) {
    let help = "Events committed and not yet in TAFFRAIL_EVENTS.";
    let lagging = relay.clone();
    metrics.ask("taffrail_relay_lag_events", help, &[], move || lagging.lag() as f64);
    let relay = relay.clone();
    metrics.ask_total(
        "taffrail_relay_remade_total",
        "Times the stream was made anew.",
        &[],
        move || relay.counters().remade.load(Relaxed) as f64,
    );
}

/// What came over NATS.
pub fn of_consumer(metrics: &Metrics, consumer: &Consumer) {
    let counters = consumer.counters();
    let (name, help) = ("taffrail_nats_messages_total", "Messages taken from NATS, by kind.");
    let c = counters.clone();
    metrics.ask_total(name, help, &[("kind", "durable")], move || c.durable.load(Relaxed) as f64);
    let c = counters.clone();
    metrics.ask_total(name, help, &[("kind", "request")], move || c.requests.load(Relaxed) as f64);
    let c = counters.clone();
    metrics.ask_total(name, help, &[("kind", "busy")], move || c.busy.load(Relaxed) as f64);
    let c = counters.clone();
    metrics
        .ask_total(name, help, &[("kind", "malformed")], move || c.malformed.load(Relaxed) as f64);
    let (name, help) =
        ("taffrail_nats_pull_failures_total", "Times that pulling durable commands began anew.");
    metrics.ask_total(name, help, &[], move || counters.pull_failures.load(Relaxed) as f64);
}

/// What the agents' heartbeats told this process.
pub fn of_presence(metrics: &Metrics, presence: &Presence) {
    let (name, help) =
        ("taffrail_heartbeats_total", "Heartbeats heard, by whether they were read.");
    let heard = presence.clone();
    metrics.ask_total(name, help, &[("outcome", "taken")], move || heard.counted().0 as f64);
    let heard = presence.clone();
    metrics.ask_total(name, help, &[("outcome", "dropped")], move || heard.counted().1 as f64);
    let heard = presence.clone();
    metrics.ask("taffrail_agents_heard", "Agents that sent a heartbeat to this process.", &[], {
        move || heard.agents() as f64
    });
}

/// How far the read models are.
pub fn of_projections(metrics: &Metrics, progress: &Progress, feed: &Feed) {
    for model in Model::ALL {
        let (progress, feed) = (progress.clone(), feed.clone());
        let help = "Events committed and not yet in the read model.";
        metrics.ask("taffrail_projection_lag_events", help, &[("model", model.as_str())], {
            let progress = progress.clone();
            move || feed.head().saturating_sub(progress.position(model)) as f64
        });
        let counted = progress.clone();
        metrics.ask(
            "taffrail_projection_parked_streams",
            "Streams that stand still in the read model since an event could not be folded.",
            &[("model", model.as_str())],
            move || counted.counters(model).read().parked as f64,
        );
        type Look = fn(&projections::Counted) -> f64;
        let totals: [(&str, &str, Look); 3] = [
            ("taffrail_projection_events_total", "Events folded.", |c| c.events as f64),
            ("taffrail_projection_batches_total", "Batches committed.", |c| c.batches as f64),
            (
                "taffrail_projection_batch_seconds_total",
                "Time of the batches, from the fold's begin to the commit.",
                |c| c.micros as f64 / 1e6,
            ),
        ];
        for (name, help, look) in totals {
            let counted = progress.clone();
            metrics.ask_total(name, help, &[("model", model.as_str())], move || {
                look(&counted.counters(model).read())
            });
        }
        metrics.ask_total(
            "taffrail_projection_unknown_events_total",
            "Events of types that this release does not know.",
            &[("model", model.as_str())],
            move || progress.counters(model).read().unknown as f64,
        );
    }
}

/// Depth of the queues and waiting claims.
pub fn of_scheduler(metrics: &Metrics, scheduler: &Arc<SchedulerHandle>) {
    let handle = scheduler.clone();
    metrics.ask(
        "taffrail_queue_depth",
        "Open tasks that nobody holds, in all queues.",
        &[],
        move || {
            let depth = |d: &QueueDepth| d.waiting + d.timed + d.dependent;
            handle.gauges().queues.values().map(depth).sum::<usize>() as f64
        },
    );
    let handle = scheduler.clone();
    metrics.ask("taffrail_waiting_claims", "Claims that wait for work.", &[], move || {
        handle.gauges().waiting_claims as f64
    });
}

/// The servers behind this process.
pub fn of_health(health: &Health, pool: &Pool, nats: &async_nats::Client) {
    let pool = pool.clone();
    health.check("postgres", move || {
        let pool = pool.clone();
        Box::pin(async move {
            let client = pool.get().await.map_err(|error| error.to_string())?;
            client.simple_query("SELECT 1").await.map_err(|error| error.to_string())?;
            Ok(())
        })
    });
    let nats = nats.clone();
    health.check("nats", move || {
        let state = nats.connection_state();
        Box::pin(async move {
            match state {
                async_nats::connection::State::Connected => Ok(()),
                other @ (async_nats::connection::State::Pending
                | async_nats::connection::State::Disconnected) => Err(other.to_string()),
            }
        })
    });
}
