//! What all keepers of a node share, and how a process is set up on it.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::sync::Arc;

use domain::AgentId;
use domain::node::Launch;
use domain::profile::{Mode, Network, Runtime};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::Options;
use crate::book::Book;
use crate::driver::{Driver, Job, NotStarted, SOCKET, TOKEN_FILE};
use crate::folder::{Folder, Place};
use crate::link::Link;
use crate::secrets;

/// What all keepers of a node share.
pub(crate) struct Ground {
    pub options: Options,
    pub folder: Folder,
    pub book: Arc<Book>,
    pub link: Link,
    pub drivers: Vec<Arc<dyn Driver>>,
    /// Starts under way at once: more would only slow each other down.
    pub starts: Semaphore,
    /// Questions under way at once.
    pub probes: Arc<Semaphore>,
    /// Rung when the managers should be asked at once.
    pub sync: Notify,
}

impl Ground {
    /// What starts agents of this profile.
    pub(crate) fn driver(&self, launch: &Launch) -> Result<Arc<dyn Driver>, NotStarted> {
        let runtime = launch.profile.runtime.unwrap_or(Runtime::Process);
        let driver = self.drivers.iter().find(|driver| driver.runtime() == runtime);
        driver.cloned().ok_or_else(|| NotStarted {
            reason: format!("this node has no runtime {}", runtime.as_str()),
            permanent: true,
        })
    }

    /// Where an agent's things are.
    pub(crate) fn place(&self, agent: AgentId) -> Place {
        self.folder.agent(agent)
    }

    /// What is to be started, without its secrets.
    pub(crate) fn job(
        &self,
        (agent, name): (AgentId, &str),
        generation: u32,
        launch: Box<Launch>,
    ) -> Job {
        let place = self.place(agent);
        let number = generation.to_string();
        let node = self.folder.id().to_string();
        let mut env: BTreeMap<String, String> = [
            ("TAFFRAIL_AGENT_ID", agent.to_string().as_str()),
            ("TAFFRAIL_AGENT_NAME", name),
            ("TAFFRAIL_AGENT_GENERATION", &number),
            ("TAFFRAIL_GENERATION", &number),
            ("TAFFRAIL_TENANT", self.options.tenant.as_str()),
            ("TAFFRAIL_NODE", &node),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let service = launch.profile.mode.unwrap_or_default() == Mode::Service;
        if service && reaches_nats(&launch) {
            env.insert("TAFFRAIL_NATS_URL".into(), self.options.nats_url.clone());
        }
        Job {
            agent,
            env,
            secrets: BTreeMap::new(),
            dir: place.run(generation),
            workspace: place.workspace(),
            sockets: (service && !reaches_nats(&launch)).then(|| place.sockets()),
            input: None,
            launch,
        }
    }

    /// Makes the agent's folders and gets its secrets.
    pub(crate) async fn furnish(&self, job: &mut Job) -> Result<(), NotStarted> {
        let failed = |what: &str, error: std::io::Error| NotStarted {
            reason: format!("{what}: {error}"),
            // A full disk may have room another time.
            permanent: false,
        };
        // Passed through by the agent's own user, never listed.
        let folder = |mode: u32| {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(mode);
            builder
        };
        folder(0o711).create(&self.place(job.agent).0).map_err(|e| failed("its folder", e))?;
        folder(0o700).create(&job.workspace).map_err(|e| failed("its workspace", e))?;
        if let Some(sockets) = &job.sockets {
            folder(0o711).create(sockets).map_err(|e| failed("its socket", e))?;
        }
        let wanted = &job.launch.profile.secrets;
        let dir = self.options.secrets_dir.as_deref();
        let gathered = secrets::gather(wanted, dir, &self.link).await;
        job.secrets = gathered.map_err(|missing| NotStarted {
            permanent: missing.permanent,
            reason: missing.to_string(),
        })?;
        if job.env.contains_key("TAFFRAIL_NATS_URL")
            && let Some(token) = &self.options.nats_token
        {
            job.secrets.insert(TOKEN_FILE.into(), token.clone());
        }
        Ok(())
    }

    /// Speaks NATS for an agent that has no network, until the handle is dropped.
    pub(crate) fn relay(&self, job: &Job) -> Result<Option<AbortOnDropHandle<()>>, NotStarted> {
        let Some(sockets) = &job.sockets else { return Ok(None) };
        let (client, tenant) = (self.link.client.clone(), self.options.tenant.clone());
        let relay = agent::Relay::new(client, tenant, job.agent);
        let serving = relay.listen_at(&sockets.join(SOCKET)).map_err(|error| NotStarted {
            reason: format!("its socket: {error}"),
            permanent: false,
        })?;
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(serving))))
    }

    /// Lets the user that the sandbox gave the workspace to reach the socket, and nobody else.
    pub(crate) fn hand_over_socket(job: &Job) {
        let Some(sockets) = &job.sockets else { return };
        let Ok(workspace) = std::fs::metadata(&job.workspace) else { return };
        let (uid, gid) = (Some(workspace.uid()), Some(workspace.gid()));
        if let Err(error) = std::os::unix::fs::lchown(sockets.join(SOCKET), uid, gid) {
            tracing::warn!(agent = %job.agent, %error, "the agent's socket cannot be handed over");
        }
    }
}

fn reaches_nats(launch: &Launch) -> bool {
    let isolation = launch.profile.sandbox.as_ref();
    isolation.is_some_and(|isolation| isolation.network == Network::Host)
}
