//! Which levels this host offers, found out by running a program.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;

use crate::error::StartError;
use crate::lock::files::{ABI_WITH_SCOPES, newest_abi};
use crate::spec::{Level, Network, Spec};
use crate::start::Sandbox;

/// What is missing for a level, nothing if it is there; each found out once.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    process: OnceCell<Vec<String>>,
    namespace: OnceCell<Vec<String>>,
}

static TRIALS: AtomicU32 = AtomicU32::new(0);

impl Sandbox {
    /// What this host lacks for a level; nothing when `true` has run in it.
    ///
    /// The answer is kept: a host that changes is asked again by a new [`Sandbox`].
    pub async fn missing(&self, level: Level) -> Vec<String> {
        let cell = match level {
            Level::None => return Vec::new(),
            Level::Process => &self.probes.process,
            Level::Namespace => &self.probes.namespace,
        };
        cell.get_or_init(|| self.trial(level)).await.clone()
    }

    async fn trial(&self, level: Level) -> Vec<String> {
        let abi = newest_abi();
        if abi == 0 {
            return vec!["Landlock is not offered by the kernel".into()];
        }
        if level == Level::Process && abi < ABI_WITH_SCOPES {
            // Without namespaces nothing else keeps signals and abstract sockets apart.
            return vec![format!("Landlock {ABI_WITH_SCOPES} is needed, the kernel has {abi}")];
        }
        let number = TRIALS.fetch_add(1, Ordering::Relaxed);
        let name = format!("taffrail-trial-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let mut spec = Spec::new(["true"]);
        spec.level = level;
        let ran = match self.launch_at(level, &dir, &spec, &[]).await {
            Ok(handle) => match handle.wait().await {
                Ok(exit) if exit.success() => Vec::new(),
                Ok(exit) => vec![format!("a trial ended with {exit:?}")],
                Err(error) => vec![format!("a trial failed: {error}")],
            },
            Err(error) => vec![error.to_string()],
        };
        let _ = std::fs::remove_dir_all(dir);
        ran
    }

    /// The strongest level on offer, but for a spec that accepts none: that one gets none.
    pub(crate) async fn level_for(&self, spec: &Spec) -> Result<Level, StartError> {
        let wanted = spec.level;
        if wanted == Level::None {
            return Ok(Level::None);
        }
        let mut missing = self.missing(Level::Namespace).await;
        if missing.is_empty() && spec.network == Network::Host && newest_abi() < ABI_WITH_SCOPES {
            // On the host's network the abstract sockets of all its programs are in reach.
            missing.push(format!("the host's network needs Landlock {ABI_WITH_SCOPES}"));
        }
        if missing.is_empty() {
            return Ok(Level::Namespace);
        }
        if wanted == Level::Process {
            let weaker = self.missing(Level::Process).await;
            if weaker.is_empty() {
                return Ok(Level::Process);
            }
            missing.extend(weaker);
        }
        Err(StartError::LevelAbsent { wanted, missing })
    }
}
