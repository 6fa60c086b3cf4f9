//! What is done to the system.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::client::LIVENESS;
use crate::doors::Doors;
use crate::system::{System, children, signal};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// kill -9 of a process with this role (`up`: of the whole product).
    Kill(&'static str),
    /// kill -9 of PostgreSQL's postmaster; its children notice and go.
    Postmaster,
    /// kill -9 of PostgreSQL's postmaster and of all its children at once: what was not
    /// written is gone.
    Postgres,
    /// kill -9 of one of its backends: it throws out all others, too.
    Backend,
    /// Ends a few sessions, as an administrator or a broken connection does.
    Sessions,
    /// kill -9 of nats-server.
    Nats,
    /// SIGSTOP, some seconds, SIGCONT.
    Pause(&'static str),
    PauseNats,
    /// Two roles at the same moment.
    Both(&'static str, &'static str),
    /// PostgreSQL and nats-server at the same moment.
    BothServers,
    /// nats-server away, its whole store deleted, nats-server back.
    Wipe,
    /// Both streams deleted.
    DropStreams,
    /// Every durable consumer deleted.
    DropConsumers,
}

impl Fault {
    /// What it is called in the table.
    pub fn name(self) -> String {
        match self {
            Self::Kill(role) => role.to_owned(),
            Self::Postmaster => "postmaster".into(),
            Self::Postgres => "all of PostgreSQL".into(),
            Self::Backend => "backend".into(),
            Self::Sessions => "sessions ended".into(),
            Self::Nats => "nats-server".into(),
            Self::Pause(role) => format!("{role} stopped"),
            Self::PauseNats => "nats-server stopped".into(),
            Self::Both(one, other) => format!("{one} + {other}"),
            Self::BothServers => "postmaster + nats-server".into(),
            Self::Wipe => "store deleted".into(),
            Self::DropStreams => "streams deleted".into(),
            Self::DropConsumers => "consumers deleted".into(),
        }
    }

    /// How many processes it kills.
    pub fn kills(self) -> u32 {
        match self {
            Self::Kill(_)
            | Self::Postmaster
            | Self::Postgres
            | Self::Backend
            | Self::Nats
            | Self::Wipe => 1,
            Self::Both(..) | Self::BothServers => 2,
            Self::Sessions
            | Self::Pause(_)
            | Self::PauseNats
            | Self::DropStreams
            | Self::DropConsumers => 0,
        }
    }

    /// Whether it ends PostgreSQL or nats-server; their supervisor gives up on one that
    /// ends six times in a minute.
    pub fn hits_a_server(self) -> bool {
        matches!(
            self,
            Self::Postmaster | Self::Postgres | Self::Nats | Self::Wipe | Self::BothServers
        )
    }
}

/// Strikes; `struck` is told the moment and the gateway that was hit, if any.
pub async fn strike(
    system: &System,
    doors: &Doors,
    fault: Fault,
    longest_pause: Duration,
    dice: &mut StdRng,
    struck: impl FnOnce(Instant, Option<String>),
) {
    match fault {
        Fault::Kill(role) => {
            let at = one_of(system, role, dice).await;
            struck(Instant::now(), system.slots[at].http.clone());
            system.kill(at).await;
            system.revive(at).await;
        }
        Fault::Both(one, other) => {
            let (one, other) = (one_of(system, one, dice).await, one_of(system, other, dice).await);
            let http = system.slots[one].http.clone().or(system.slots[other].http.clone());
            struck(Instant::now(), http);
            tokio::join!(system.kill(one), system.kill(other));
            tokio::join!(system.revive(one), system.revive(other));
        }
        Fault::Postmaster => {
            let pid = postmaster(system).await;
            struck(Instant::now(), None);
            signal(pid, Signal::KILL);
        }
        Fault::Postgres => {
            let pid = postmaster(system).await;
            let children = pid.map(children).unwrap_or_default();
            struck(Instant::now(), None);
            signal(pid, Signal::KILL);
            for child in children {
                signal(Some(child), Signal::KILL);
            }
        }
        Fault::Backend => {
            let pid = backend(system, dice).await;
            struck(Instant::now(), None);
            signal(pid, Signal::KILL);
        }
        Fault::Sessions => {
            let client = system.sql().await;
            struck(Instant::now(), None);
            if let Some(client) = client {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                           WHERE application_name = 'taffrail' AND random() < 0.5";
                let _ = client.batch_execute(end).await;
            }
        }
        Fault::Nats => {
            let pid = nats_server(system).await;
            struck(Instant::now(), None);
            signal(pid, Signal::KILL);
        }
        Fault::BothServers => {
            let (postmaster, nats) = (postmaster(system).await, nats_server(system).await);
            struck(Instant::now(), None);
            signal(postmaster, Signal::KILL);
            signal(nats, Signal::KILL);
        }
        Fault::Pause(role) => {
            let at = one_of(system, role, dice).await;
            let pid = system.slots[at].pid();
            pause(pid, longest_pause, dice, struck).await;
        }
        Fault::PauseNats => {
            let pid = nats_server(system).await;
            pause(pid, longest_pause, dice, struck).await;
        }
        Fault::Wipe => {
            // Stopped, it writes nothing; killed, it comes back to an empty folder.
            let pid = nats_server(system).await;
            struck(Instant::now(), None);
            signal(pid, Signal::STOP);
            let store = system.nats_store();
            tokio::task::spawn_blocking(move || std::fs::remove_dir_all(store).unwrap())
                .await
                .unwrap();
            signal(pid, Signal::KILL);
        }
        Fault::DropStreams => {
            let jetstream = jetstream::new(doors.nats.clone());
            struck(Instant::now(), None);
            for name in [broker::streams::EVENTS, broker::streams::COMMANDS] {
                let _ = jetstream.delete_stream(name).await;
            }
        }
        Fault::DropConsumers => {
            let jetstream = jetstream::new(doors.nats.clone());
            struck(Instant::now(), None);
            for name in [broker::streams::EVENTS, broker::streams::COMMANDS] {
                let Ok(stream) = jetstream.get_stream(name).await else { continue };
                let names: Vec<_> = stream.consumer_names().collect().await;
                for name in names.into_iter().flatten() {
                    let _ = stream.delete_consumer(&name).await;
                }
            }
        }
    }
}

/// A process with the role: two times in three the one that leads.
async fn one_of(system: &System, role: &str, dice: &mut StdRng) -> usize {
    let found = system.with_role(role).await;
    let leads = dice.random_ratio(2, 3);
    let leader = found.first().copied().filter(|_| leads && role != "gateway");
    leader.or_else(|| found.choose(dice).copied()).unwrap()
}

async fn pause(
    pid: Option<u32>,
    longest: Duration,
    dice: &mut StdRng,
    struck: impl FnOnce(Instant, Option<String>),
) {
    let length = dice.random_range(Duration::from_secs(1)..=longest);
    struck(Instant::now(), None);
    signal(pid, Signal::STOP);
    sleep(length).await;
    signal(pid, Signal::CONT);
}

/// The pid that a look finds; a server that is about to be back is waited for.
async fn there(look: impl Fn() -> Option<u32>) -> Option<u32> {
    let began = Instant::now();
    while began.elapsed() < LIVENESS {
        if let Some(pid) = look().filter(|pid| signal(Some(*pid), Signal::CONT)) {
            return Some(pid);
        }
        sleep(Duration::from_millis(20)).await;
    }
    None
}

async fn postmaster(system: &System) -> Option<u32> {
    there(|| system.postmaster()).await
}

async fn nats_server(system: &System) -> Option<u32> {
    there(|| system.nats_server()).await
}

/// A backend of the product; now and then the one that appends is among them.
async fn backend(system: &System, dice: &mut StdRng) -> Option<u32> {
    let began = Instant::now();
    loop {
        if let Some(client) = system.sql().await {
            let pids = "SELECT pid FROM pg_stat_activity
                        WHERE application_name = 'taffrail' ORDER BY pid";
            let rows = client.query(pids, &[]).await.unwrap_or_default();
            if let Some(row) = rows.choose(dice) {
                return u32::try_from(row.get::<_, i32>(0)).ok();
            }
        }
        if began.elapsed() > LIVENESS {
            return None;
        }
        sleep(Duration::from_millis(50)).await;
    }
}
