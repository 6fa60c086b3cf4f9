//! `taffrail up`: everything in one process, with private servers where none are given.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use domain::TenantId;
use node::Ended;
use serde_json::json;
use servers::{DataDir, Embedded, LockError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::{RUNTIME_FILE, Role, Runtime};
use crate::config::Config;
use crate::ready::Ready;

use crate::wiring::{self, Servers};
use crate::{signals, tokens};

/// A dead holder's lease has run out after this, so whoever does not lead then stands by.
const STANDBY: Duration = Duration::from_secs(3);

/// What the flags of `up` say beside the settings.
pub struct Options {
    /// Keep nothing.
    pub ephemeral: bool,
    /// Fetch nothing.
    pub offline: bool,
    /// Run agents, too.
    pub node: bool,
}

/// Runs until a signal comes.
pub async fn up(config: &Config, options: &Options, ready: Ready) -> anyhow::Result<()> {
    let start = Instant::now();
    config.check()?;
    let folder = Folder::of(config, options.ephemeral)?;
    let data = lock(&folder.path)?;
    // One that a killed process left behind leads nowhere.
    let _ = std::fs::remove_file(data.path().join(RUNTIME_FILE));

    let embedded = match (config.database_url(), config.nats_url()) {
        (Some(_), Some(_)) => None,
        (None, None) => Some(start_servers(config, options.offline, &data).await?),
        (Some(_), None) | (None, Some(_)) => bail!(
            "TAFFRAIL_DATABASE_URL and TAFFRAIL_NATS_URL go together: set both to use servers of \
             your own, or none to run private ones"
        ),
    };
    let servers = match &embedded {
        Some(embedded) => Servers {
            database_url: embedded.postgres().url(&embedded.postgres().database),
            nats_url: embedded.nats().url.clone(),
            nats_token: Some(embedded.nats().token.clone()),
            exclusive: true,
            data_dir: data.path().into(),
        },
        None => Servers {
            database_url: config.database_url().unwrap_or_default().into(),
            nats_url: config.nats_url().unwrap_or_default().into(),
            nats_token: config.nats_token().map(Into::into),
            exclusive: false,
            data_dir: data.path().into(),
        },
    };
    ready.postgres(&servers.database_url);
    ready.nats(&servers.nats_url, servers.nats_token.as_deref());

    let ended = run(config, options, &data, &servers, embedded.as_ref(), &ready, start).await;
    let _ = std::fs::remove_file(data.path().join(RUNTIME_FILE));
    if let Some(embedded) = embedded {
        let stopped = embedded.stop().await;
        tracing::info!(?stopped, "servers stopped");
    }
    ended
}

async fn run(
    config: &Config,
    options: &Options,
    data: &DataDir,
    servers: &Servers,
    embedded: Option<&Embedded>,
    ready: &Ready,
    start: Instant,
) -> anyhow::Result<()> {
    migrations::migrate(&servers.database_url).await?;
    let token = tokens::of_folder(data.path())?;
    let mut running = tokio::select! {
        running = wiring::start(config, &Role::ALL, servers, Some(&token)) => running?,
        () = signals::terminated() => return Ok(()),
    };
    let mut node = OwnNode::default();
    let http = running.http.map(|address| format!("http://{address}")).unwrap_or_default();
    let leads = running.leads();
    let told = async {
        // On shared servers another process may lead; then this one is ready as it is.
        let patience = if servers.exclusive { Duration::MAX } else { STANDBY };
        let _ = tokio::time::timeout(patience, leads).await;
        data.note_holder(&http);
        let runtime = Runtime {
            http: http.clone(),
            nats: servers.nats_url.clone(),
            nats_token: servers.nats_token.clone(),
            token: token.clone(),
            pid: std::process::id(),
        };
        let runtime = serde_json::to_vec_pretty(&json!(runtime))?;
        tokens::write_private(&data.path().join(RUNTIME_FILE), &runtime)?;
        ready.http(&http);
        ready.data(data.path());
        if options.node {
            node.start(config, servers, data.path(), *ready).await?;
        }
        ready.token(&token);
        ready.all(start.elapsed());
        std::future::pending::<anyhow::Result<()>>().await
    };
    let failed = async {
        let Some(embedded) = embedded else { return std::future::pending().await };
        let mut health = embedded.healthy();
        let failed = health.wait_for(|health| health.failed()).await;
        failed.map(|health| format!("{:?}", *health)).unwrap_or_default()
    };
    let broken = tokio::select! {
        () = signals::terminated() => None,
        name = running.broken() => Some(format!("the {name} role ended by itself")),
        server = failed => Some(format!("a server does not come back: {server}")),
        Err(error) = told => Some(format!("{error:#}")),
    };
    tracing::info!("stopping");
    let stopped = tokio::select! {
        // While there still is somebody who takes down that its agents ended.
        () = async { node.stop().await; running.stop().await } => true,
        // Whoever asks twice does not want to wait.
        () = signals::terminated() => false,
    };
    match broken {
        Some(what) => bail!(what),
        None if !stopped => bail!("stopped without waiting for what was under way"),
        None => Ok(()),
    }
}

/// The node of `up --node`.
#[derive(Default)]
struct OwnNode {
    stop: CancellationToken,
    running: Option<JoinHandle<Result<Ended, node::Error>>>,
}

impl OwnNode {
    async fn start(
        &mut self,
        config: &Config,
        servers: &Servers,
        data: &Path,
        ready: Ready,
    ) -> anyhow::Result<()> {
        let options = crate::node::Options {
            tenant: TenantId::default_tenant().as_str().into(),
            nats_url: servers.nats_url.clone(),
            nats_token: servers.nats_token.clone(),
            data_dir: data.join("node"),
            stop_agents: true,
        };
        let node = crate::node::open(config, options).await?;
        ready.node(node.id(), node.level().as_str(), node.agents());
        let mut registered = node.registered();
        self.running = Some(tokio::spawn(node.run(self.stop.clone())));
        // It ends where the managers do not take it, and says why at the end.
        let _ = registered.wait_for(|registered| *registered).await;
        Ok(())
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        let Some(running) = self.running.take() else { return };
        match running.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "the node ended"),
            Err(error) => tracing::error!(%error, "the node broke off"),
        }
    }
}

/// Finds the server programs and starts both on a folder.
pub async fn start_servers(
    config: &Config,
    offline: bool,
    data: &DataDir,
) -> anyhow::Result<Embedded> {
    let servers = config.servers(offline)?;
    let looking = servers.clone();
    let programs = tokio::task::spawn_blocking(move || servers::locate(&looking))
        .await
        .context("the search for the server programs broke off")??;
    Ok(Embedded::start(&programs, data, &servers).await?)
}

fn lock(path: &Path) -> anyhow::Result<DataDir> {
    DataDir::lock(path).map_err(|error| match error {
        LockError::Held { .. } => anyhow::Error::new(error)
            .context("this data folder is in use; stop the other one or choose another --data-dir"),
        LockError::Unusable { .. } => error.into(),
    })
}

/// The data folder; an ephemeral one goes with the process.
struct Folder {
    path: PathBuf,
    remove: bool,
}

impl Folder {
    fn of(config: &Config, ephemeral: bool) -> anyhow::Result<Self> {
        let path = if ephemeral {
            let name = format!("taffrail-{}", hex::encode(rand::random::<[u8; 6]>()));
            std::env::temp_dir().join(name)
        } else {
            let path = config.data_dir();
            std::path::absolute(&path).with_context(|| format!("{}", path.display()))?
        };
        std::fs::create_dir_all(&path)
            .with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path, remove: ephemeral })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.remove {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
