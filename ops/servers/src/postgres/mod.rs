//! A supervised PostgreSQL on a folder.
//!
//! In the folder: `pg/` (the cluster), `postgres.conf` (written at every start),
//! `postgres.json` (port and password, mode 0600) and `logs/postgres.log`.

mod cluster;
mod launch;
mod leftover;
mod settings;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data_dir::{private_dir, random_secret, write_secret};
use crate::error::StartError;
use crate::supervise::{Seen, StopReport, Supervised};
use crate::{Located, Options, ports};
use launch::PostgresLaunch;

/// The bootstrap superuser; the services log in as roles of their own.
pub(crate) const USER: &str = "app";
/// Made together with the cluster.
pub(crate) const DATABASE: &str = "taffrail";

/// A running PostgreSQL; dropping it stops the server in the background.
#[derive(Debug)]
pub struct Postgres {
    address: PostgresAddress,
    supervised: Supervised,
}

/// Where PostgreSQL answers, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    /// Always a loopback address.
    pub host: String,
    /// The same for as long as the handle lives, and for the folder while it is free.
    pub port: u16,
    /// The superuser, for migrations.
    pub user: String,
    /// Letters and digits only.
    pub password: String,
    /// The database that is there from the first start.
    pub database: String,
}

impl PostgresAddress {
    /// The connection URL of a database; it carries the password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let Self { host, port, user, password, .. } = self;
        format!("postgres://{user}:{password}@{host}:{port}/{database}")
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

/// What a folder remembers about its server.
#[derive(Serialize, Deserialize)]
struct Saved {
    port: Option<u16>,
    password: String,
    /// The password of the copied cluster, until it is replaced by `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial_password: Option<String>,
}

impl Saved {
    fn read(path: &Path) -> Result<Option<Self>, StartError> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let invalid =
                    |error: serde_json::Error| StartError::file("read", path)(error.into());
                serde_json::from_slice(&bytes).map(Some).map_err(invalid)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StartError::file("read", path)(error)),
        }
    }

    fn write(&self, path: &Path) -> Result<(), StartError> {
        let text =
            serde_json::to_string(self).map_err(|e| StartError::file("write", path)(e.into()))?;
        write_secret(path, &text).map_err(StartError::file("write", path))
    }
}

impl Postgres {
    /// Makes a cluster in the folder when there is none, and starts PostgreSQL on it.
    ///
    /// The caller holds the folder: a server found on it is taken for a leftover and stopped.
    ///
    /// # Errors
    /// When the cluster cannot be made or the server does not answer; nothing runs then.
    pub async fn start(
        program: &Located,
        dir: &Path,
        options: &Options,
    ) -> Result<Self, StartError> {
        private_dir(dir).map_err(StartError::file("make", dir))?;
        let dir = dir.canonicalize().map_err(StartError::file("find", dir))?;
        let logs = dir.join("logs");
        private_dir(&logs).map_err(StartError::file("make", &logs))?;
        let file = dir.join("postgres.json");
        let mut saved = Saved::read(&file)?;
        if let Some(initial) = cluster::ensure(&dir, program, options).await? {
            let port = saved.and_then(|saved| saved.port);
            let fresh = Saved { port, password: random_secret(), initial_password: Some(initial) };
            fresh.write(&file)?;
            cluster::put_in_place(&dir)?;
            saved = Some(fresh);
        }
        let Some(mut saved) = saved else {
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(StartError::file("find the password of the cluster in", &file)(missing));
        };
        let (launch, child) = first_start(&mut saved, program, &dir, options).await?;
        if saved.initial_password.take().is_some() {
            launch.set_password(&saved.password).await?;
        }
        saved.port = Some(launch.port);
        saved.write(&file)?;
        let launch = PostgresLaunch { password: saved.password.clone(), ..launch };
        let address = launch.address();
        Ok(Self { address, supervised: Supervised::start(launch, child) })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> PostgresAddress {
        self.address.clone()
    }

    /// The postmaster's process id, none while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.supervised.pid()
    }

    /// SIGKILL to the postmaster, for tests; the supervisor starts it again.
    pub fn kill(&self) {
        self.supervised.kill();
    }

    /// Stops it and keeps it down until [`Postgres::restart`].
    pub async fn halt(&self) -> StopReport {
        self.supervised.halt().await
    }

    /// Stops it when it runs, and starts it at the same address.
    ///
    /// # Errors
    /// When it does not come up again; it can be tried again.
    pub async fn restart(&self) -> Result<(), StartError> {
        self.supervised.restart(PostgresLaunch::SERVER).await
    }

    /// SIGINT (fast shutdown), after 10 s SIGQUIT; returns when it is gone.
    pub async fn stop(self) -> StopReport {
        self.supervised.halt().await
    }

    pub(crate) fn seen(&self) -> tokio::sync::watch::Receiver<Seen> {
        self.supervised.seen()
    }
}

/// Starts it on the folder's port, or on another when that one is taken meanwhile.
async fn first_start(
    saved: &mut Saved,
    program: &Located,
    dir: &Path,
    options: &Options,
) -> Result<(PostgresLaunch, crate::process::Child), StartError> {
    const TRIES: usize = 3;
    let password = saved.initial_password.clone().unwrap_or_else(|| saved.password.clone());
    // First of all: a leftover would hold the very port that is to be kept.
    leftover::settle(&dir.join("pg")).await?;
    let mut wanted = saved.port;
    for left in (0..TRIES).rev() {
        let port =
            ports::prefer(wanted.take()).map_err(StartError::file("find a port for", dir))?;
        let launch = PostgresLaunch {
            program: program.program.clone(),
            shim: options.shim.clone(),
            dir: dir.to_owned(),
            port,
            password: password.clone(),
        };
        match crate::supervise::Launch::launch(&launch).await {
            Ok(child) => return Ok((launch, child)),
            // Somebody took the port between the look and the bind.
            Err(StartError::Ended { log, .. })
                if left > 0 && log.contains("could not create any TCP/IP sockets") => {}
            Err(error) => return Err(error),
        }
    }
    Err(StartError::Interrupted { server: PostgresLaunch::SERVER, doing: "looking for a port" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_carries_the_password_and_debug_does_not() {
        let address = PostgresAddress {
            host: "127.0.0.1".into(),
            port: 5433,
            user: USER.into(),
            password: "secret".into(),
            database: DATABASE.into(),
        };
        assert_eq!(address.url("other"), "postgres://app:secret@127.0.0.1:5433/other");
        assert_eq!(format!("{address:?}"), "postgres://app@127.0.0.1:5433/taffrail");
    }
}
