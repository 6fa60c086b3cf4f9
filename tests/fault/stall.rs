//! A reader that stalls is noticed within 5 s and works again within 15 s, without a restart,
//! whatever made it stall (R21).

use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::plan::Plan;
use crate::readers::{Readers, Times};
use crate::system::signal;

/// When an operator can see it at the latest.
const NOTICED: Duration = Duration::from_secs(5);
/// When every reader works again at the latest.
const RECOVERED: Duration = Duration::from_secs(15);
/// What a process says whose connection to NATS broke or hangs.
const GONE: &str = "the connection to NATS is gone";
/// What a role says whose database hangs.
const UNRENEWED: &str = "no answer to the renewal of the role's lease";

/// How long a server is paused.
fn pause() -> Duration {
    Duration::from_secs(if Plan::from_env().long { 60 } else { 20 })
}

fn tell(what: &str, noticed: &Times, recovered: &Times) {
    let seconds = |times: &Times| {
        let each = times.iter().map(|(name, took)| format!("{name} {:.2}", took.as_secs_f64()));
        each.collect::<Vec<_>>().join(", ")
    };
    println!("{what}: noticed by {}; works again: {}", seconds(noticed), seconds(recovered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_survive_deleted_consumers_and_a_nats_server_that_dies_or_hangs() {
    let readers = Readers::start().await;
    let everybody = crate::system::ROLES.map(|role| (role, GONE));

    let before = readers.logs();
    let deleted = Instant::now();
    delete_consumers(&readers).await;
    let words = [("processor", "commands cannot be pulled")];
    let (noticed, recovered) = tokio::join!(
        readers.notice(deleted, &words, false, &before, NOTICED),
        readers.work(deleted, RECOVERED),
    );
    tell("consumers deleted", &noticed.unwrap(), &recovered.unwrap());

    let before = readers.logs();
    let killed = Instant::now();
    assert!(signal(readers.system().nats_server(), Signal::KILL));
    let (noticed, recovered) = tokio::join!(
        readers.notice(killed, &everybody, true, &before, NOTICED),
        readers.work(killed, RECOVERED),
    );
    tell("nats-server killed", &noticed.unwrap(), &recovered.unwrap());

    let before = readers.logs();
    let (pid, stopped) = (readers.system().nats_server(), Instant::now());
    assert!(signal(pid, Signal::STOP));
    let noticed = readers.notice(stopped, &everybody, true, &before, NOTICED).await;
    let pause = pause();
    sleep(pause.saturating_sub(stopped.elapsed())).await;
    assert!(signal(pid, Signal::CONT));
    let recovered = readers.work(Instant::now(), RECOVERED).await;
    tell(&format!("nats-server stopped for {pause:?}"), &noticed.unwrap(), &recovered.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_survive_a_postgresql_that_hangs_and_the_death_of_the_scheduler() {
    let readers = Readers::start().await;
    let before = readers.logs();
    let (pids, stopped) = (readers.system().postgres(), Instant::now());
    assert!(pids.len() > 1, "{pids:?}");
    for pid in &pids {
        assert!(signal(Some(*pid), Signal::STOP));
    }
    let words = ["processor", "relay", "projector", "managers"].map(|role| (role, UNRENEWED));
    let (noticed, unready) = tokio::join!(
        readers.notice(stopped, &words, false, &before, NOTICED),
        unready(&readers, stopped),
    );
    let pause = pause();
    sleep(pause.saturating_sub(stopped.elapsed())).await;
    for pid in &pids {
        signal(Some(*pid), Signal::CONT);
    }
    let recovered = readers.work(Instant::now(), RECOVERED).await;
    let mut noticed = noticed.unwrap();
    assert!(unready <= NOTICED, "/readyz said nothing for {unready:?}");
    noticed.push(("gateway", unready));
    tell(&format!("PostgreSQL stopped for {pause:?}"), &noticed, &recovered.unwrap());

    // It takes waiting claims with it; those who wait must ask its successor by themselves.
    let system = readers.system();
    let managers = system.with_role("managers").await[0];
    let killed = Instant::now();
    system.kill(managers).await;
    system.revive(managers).await;
    let recovered = readers.work(killed, RECOVERED).await;
    tell("managers killed", &Times::new(), &recovered.unwrap());
}

/// How long until the gateway's `/readyz` said that something is wrong.
async fn unready(readers: &Readers, since: Instant) -> Duration {
    let api = readers.doors().api(0);
    while since.elapsed() <= NOTICED {
        let asked = api.client.get(format!("{}/readyz", api.base)).send().await;
        if asked.is_ok_and(|answer| answer.status() == 503) {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    since.elapsed()
}

async fn delete_consumers(readers: &Readers) {
    let jetstream = jetstream::new(readers.doors().nats.clone());
    let stream = jetstream.get_stream(broker::streams::COMMANDS).await.unwrap();
    let names: Vec<_> = stream.consumer_names().collect().await;
    assert!(!names.is_empty());
    for name in names {
        stream.delete_consumer(&name.unwrap()).await.unwrap();
    }
}
