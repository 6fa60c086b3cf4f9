//! The server under test: where it is, what it consists of, how it is ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use commands::Executor;
use servers::{DataDir, Embedded};
use tokio_postgres::NoTls;

use crate::cell::Host;
use crate::counters;
use crate::product::{Hosted, Product};
use crate::server::Server;

/// What a cell is measured against.
pub struct Target {
    /// `127.0.0.1:PORT` of the gateway; empty where there is none.
    pub http: String,
    /// The first admin token.
    pub token: String,
    /// `nats://…`
    pub nats_url: String,
    /// NATS's token.
    pub nats_token: Option<String>,
    /// PostgreSQL as its owner.
    pub database_url: String,
    /// The data folder.
    pub folder: PathBuf,
    /// The product's process: this one for a hosted product, 0 where there is none.
    pub pid: u32,
    /// The postmaster.
    pub postgres_pid: Option<u32>,
    /// nats-server.
    pub nats_pid: Option<u32>,
    executor: Option<Arc<dyn Executor>>,
    running: Running,
}

enum Running {
    Outside(Server),
    Inside(Box<dyn FnOnce() -> futures::future::BoxFuture<'static, ()> + Send + Sync>),
    Bare { embedded: Embedded, _lock: DataDir },
}

impl Target {
    /// Starts what a cell wants, on a folder that is empty or absent.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(
        product: &Arc<dyn Product>,
        host: Host,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        match host {
            Host::Outside => {
                Ok(Self::outside(Server::start(product.program(), folder, &[]).await?))
            }
            Host::Inside(tuning) => {
                Ok(Self::inside(product.host(folder.to_owned(), tuning).await?, folder))
            }
            Host::Bare => Self::bare(product, folder).await,
        }
    }

    /// Around a running `taffrail up`.
    #[must_use]
    pub fn outside(server: Server) -> Self {
        Self {
            http: without_scheme(&server.http),
            token: server.token.clone(),
            nats_url: server.nats_url.clone(),
            nats_token: server.nats_token.clone(),
            database_url: server.database_url.clone(),
            folder: server.folder.clone(),
            pid: server.pid,
            postgres_pid: server.postgres_pid(),
            nats_pid: server.nats_pid(),
            executor: None,
            running: Running::Outside(server),
        }
    }

    fn inside(hosted: Hosted, folder: &Path) -> Self {
        Self {
            http: without_scheme(&hosted.http),
            token: hosted.token,
            nats_url: hosted.nats_url,
            nats_token: hosted.nats_token,
            database_url: hosted.database_url,
            folder: folder.to_owned(),
            pid: std::process::id(),
            postgres_pid: hosted.postgres_pid,
            nats_pid: hosted.nats_pid,
            executor: Some(hosted.executor),
            running: Running::Inside(hosted.stop),
        }
    }

    async fn bare(product: &Arc<dyn Product>, folder: &Path) -> anyhow::Result<Self> {
        let lock = DataDir::lock(folder)?;
        let options = product.servers();
        let looking = options.clone();
        let programs = tokio::task::spawn_blocking(move || servers::locate(&looking))
            .await
            .context("the search for the server programs broke off")??;
        let embedded = Embedded::start(&programs, &lock, &options).await?;
        let (postgres, nats) = (embedded.postgres(), embedded.nats());
        Ok(Self {
            http: String::new(),
            token: String::new(),
            nats_url: nats.url,
            nats_token: Some(nats.token),
            database_url: postgres.url(&postgres.database),
            folder: folder.to_owned(),
            pid: 0,
            postgres_pid: embedded.postgres_pid(),
            nats_pid: embedded.nats_pid(),
            executor: None,
            running: Running::Bare { embedded, _lock: lock },
        })
    }

    /// The library call of a hosted product.
    ///
    /// # Errors
    /// Where the product is another process.
    pub fn executor(&self) -> anyhow::Result<Arc<dyn Executor>> {
        match &self.executor {
            Some(executor) => Ok(executor.clone()),
            None => bail!("this product is another process: it has no library call"),
        }
    }

    /// The child, where the product is one.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        match &self.running {
            Running::Outside(server) => Some(server),
            Running::Inside(_) | Running::Bare { .. } => None,
        }
    }

    /// A connection to the database as its owner.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn database(&self) -> anyhow::Result<tokio_postgres::Client> {
        connect(&self.database_url).await
    }

    /// A connection to NATS.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn nats(&self) -> anyhow::Result<async_nats::Client> {
        crate::nats::connect(&self.nats_url, self.nats_token.as_deref()).await
    }

    /// The versions of PostgreSQL and nats-server.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub async fn versions(&self) -> anyhow::Result<(String, String)> {
        let row = self.database().await?.query_one("SHOW server_version", &[]).await?;
        let postgres: &str = row.get(0);
        // A distribution adds its own words: `18.1 (Debian …)`.
        let postgres = postgres.split_whitespace().next().unwrap_or_default().to_owned();
        Ok((postgres, self.nats().await?.server_info().version))
    }

    /// Ends it and everything it started.
    pub async fn stop(self) {
        match self.running {
            // Nothing of it is read again, so nobody waits for an orderly end; what follows
            // is the end of its PostgreSQL.
            Running::Outside(server) => {
                let _ = server.kill().await;
                gone(self.postgres_pid).await;
                gone(self.nats_pid).await;
            }
            Running::Inside(stop) => stop().await,
            Running::Bare { embedded, _lock } => {
                embedded.stop().await;
            }
        }
    }
}

/// A connection to a database.
///
/// # Errors
/// When it does not answer.
pub async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn without_scheme(url: &str) -> String {
    url.split_once("://").map_or(url, |(_, rest)| rest).to_owned()
}

/// Waits until a process that was told to end has done so.
async fn gone(pid: Option<u32>) {
    let Some(pid) = pid else { return };
    for _ in 0..1_000 {
        if !counters::is_running(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
