//! A supervised nats-server with JetStream on a folder.
//!
//! In the folder: `nats/` (the store), `nats.conf` and `nats.json` (token and port, mode
//! 0600), `run/` (what the server says about itself) and `logs/nats.log`.

mod launch;
mod settings;
mod status;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data_dir::{private_dir, random_secret, write_secret};
use crate::error::StartError;
use crate::process::Child;
use crate::supervise::{Launch, Seen, StopReport, Supervised};
use crate::{Located, Options, ports};
use launch::NatsLaunch;

/// A running nats-server; dropping it stops the server in the background.
#[derive(Debug)]
pub struct Nats {
    address: NatsAddress,
    store_dir: PathBuf,
    supervised: Supervised,
}

/// Where NATS answers, and what it asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsAddress {
    /// `nats://127.0.0.1:PORT`, without the token.
    pub url: String,
    /// The same for as long as the folder lives.
    pub token: String,
}

impl fmt::Debug for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// What a folder remembers about its server.
#[derive(Serialize, Deserialize)]
struct Saved {
    port: Option<u16>,
    token: String,
}

impl Saved {
    fn read_or_new(path: &Path) -> Result<Self, StartError> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| StartError::file("read", path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { port: None, token: random_secret() })
            }
            Err(error) => Err(StartError::file("read", path)(error)),
        }
    }

    fn write(&self, path: &Path) -> Result<(), StartError> {
        let text =
            serde_json::to_string(self).map_err(|e| StartError::file("write", path)(e.into()))?;
        write_secret(path, &text).map_err(StartError::file("write", path))
    }
}

impl Nats {
    /// Starts nats-server on the folder, which is made when absent.
    ///
    /// The caller holds the folder: a server found on it is taken for a leftover and
    /// stopped, since NATS itself takes no lock on its store.
    ///
    /// # Errors
    /// When the server does not answer; nothing runs then.
    pub async fn start(
        program: &Located,
        dir: &Path,
        options: &Options,
    ) -> Result<Self, StartError> {
        private_dir(dir).map_err(StartError::file("make", dir))?;
        let dir = dir.canonicalize().map_err(StartError::file("find", dir))?;
        for folder in ["nats", "run", "logs"].map(|name| dir.join(name)) {
            private_dir(&folder).map_err(StartError::file("make", &folder))?;
        }
        let file = dir.join("nats.json");
        let mut saved = Saved::read_or_new(&file)?;
        let (launch, child) = first_start(&saved, program, &dir, options).await?;
        if saved.port.replace(launch.port) != Some(launch.port) {
            saved.write(&file)?;
        }
        let address =
            NatsAddress { url: format!("nats://127.0.0.1:{}", launch.port), token: saved.token };
        let store_dir = dir.join("nats");
        Ok(Self { address, store_dir, supervised: Supervised::start(launch, child) })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> NatsAddress {
        self.address.clone()
    }

    /// The folder of the streams.
    #[must_use]
    pub fn store_dir(&self) -> &Path {
        &self.store_dir
    }

    /// Its process id, none while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.supervised.pid()
    }

    /// SIGKILL, for tests; the supervisor starts it again after 0.1 s.
    pub fn kill(&self) {
        self.supervised.kill();
    }

    /// Stops it and keeps it down until [`Nats::restart`].
    pub async fn halt(&self) -> StopReport {
        self.supervised.halt().await
    }

    /// Stops it when it runs, and starts it at the same address.
    ///
    /// # Errors
    /// When it does not come up again; it can be tried again.
    pub async fn restart(&self) -> Result<(), StartError> {
        self.supervised.restart(NatsLaunch::SERVER).await
    }

    /// SIGTERM, after 10 s SIGQUIT; returns when it is gone.
    pub async fn stop(self) -> StopReport {
        self.supervised.halt().await
    }

    pub(crate) fn seen(&self) -> tokio::sync::watch::Receiver<Seen> {
        self.supervised.seen()
    }
}

/// Starts it on the folder's port, or on another when that one is taken meanwhile.
async fn first_start(
    saved: &Saved,
    program: &Located,
    dir: &Path,
    options: &Options,
) -> Result<(NatsLaunch, Child), StartError> {
    const TRIES: usize = 3;
    // First of all: a leftover would hold the very port that is to be kept.
    launch::settle(dir).await?;
    let mut wanted = saved.port;
    for left in (0..TRIES).rev() {
        let port =
            ports::prefer(wanted.take()).map_err(StartError::file("find a port for", dir))?;
        let launch = NatsLaunch {
            program: program.program.clone(),
            shim: options.shim.clone(),
            dir: dir.to_owned(),
            port,
            token: saved.token.clone(),
        };
        match launch.launch().await {
            Ok(child) => return Ok((launch, child)),
            // Somebody took the port between the look and the bind.
            Err(StartError::Ended { log, .. })
                if left > 0 && log.contains("address already in use") => {}
            Err(error) => return Err(error),
        }
    }
    Err(StartError::Interrupted { server: NatsLaunch::SERVER, doing: "looking for a port" })
}
