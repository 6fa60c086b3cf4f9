//! Both servers on one data folder.

use tokio::sync::watch;

use crate::supervise::{Seen, StopReport};
use crate::{
    DataDir, Health, Nats, NatsAddress, Options, Postgres, PostgresAddress, Programs, StartError,
};

/// PostgreSQL and nats-server, each kept up until stopped.
///
/// A child that ends is started again after 0.1 s, then after twice as long, up to 5 s; the
/// sixth end within 60 s is final. Dropping it stops both in the background.
#[derive(Debug)]
pub struct Embedded {
    postgres: Postgres,
    nats: Nats,
    health: watch::Receiver<Health>,
}

/// How both servers left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// nats-server, which goes first: nothing may be published that cannot be recorded.
    pub nats: StopReport,
    /// PostgreSQL.
    pub postgres: StopReport,
}

impl Embedded {
    /// Starts both and returns when both answer.
    ///
    /// # Errors
    /// The first failure of either; the other one is stopped again.
    pub async fn start(
        programs: &Programs,
        data: &DataDir,
        options: &Options,
    ) -> Result<Self, StartError> {
        let (postgres, nats) = tokio::try_join!(
            Postgres::start(&programs.postgres, data.path(), options),
            Nats::start(&programs.nats, data.path(), options),
        )?;
        let health = watch_both(postgres.seen(), nats.seen());
        Ok(Self { postgres, nats, health })
    }

    /// Where PostgreSQL answers; the same until [`Embedded::stop`].
    #[must_use]
    pub fn postgres(&self) -> PostgresAddress {
        self.postgres.address()
    }

    /// Where NATS answers; the same until [`Embedded::stop`].
    #[must_use]
    pub fn nats(&self) -> NatsAddress {
        self.nats.address()
    }

    /// The postmaster's process id, none while it is down.
    #[must_use]
    pub fn postgres_pid(&self) -> Option<u32> {
        self.postgres.pid()
    }

    /// The process id of nats-server, none while it is down.
    #[must_use]
    pub fn nats_pid(&self) -> Option<u32> {
        self.nats.pid()
    }

    /// The state of both, for readiness.
    #[must_use]
    pub fn healthy(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Stops NATS, then PostgreSQL; returns when both are gone.
    ///
    /// Each is asked first, told after 10 s, and killed only when it ignores that as well.
    pub async fn stop(self) -> Stopped {
        let nats = self.nats.stop().await;
        let postgres = self.postgres.stop().await;
        Stopped { nats, postgres }
    }
}

fn watch_both(
    mut postgres: watch::Receiver<Seen>,
    mut nats: watch::Receiver<Seen>,
) -> watch::Receiver<Health> {
    let current = |postgres: &mut watch::Receiver<Seen>, nats: &mut watch::Receiver<Seen>| Health {
        postgres: postgres.borrow_and_update().state.clone(),
        nats: nats.borrow_and_update().state.clone(),
    };
    let (sender, health) = watch::channel(current(&mut postgres, &mut nats));
    tokio::spawn(async move {
        loop {
            // Ends with the first supervisor that ends: the handle is gone then.
            let changed = tokio::select! {
                changed = postgres.changed() => changed,
                changed = nats.changed() => changed,
            };
            sender.send_replace(current(&mut postgres, &mut nats));
            if changed.is_err() {
                return;
            }
        }
    });
    health
}
