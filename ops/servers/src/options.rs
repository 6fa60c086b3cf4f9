//! What a caller decides about the servers.

use std::env;
use std::path::PathBuf;

/// Where the server programs come from and how children are started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Fetched programs and the prepared database cluster; filled once, then only read.
    pub cache_dir: PathBuf,
    /// Forbids every attempt that needs a network.
    pub offline: bool,
    /// The binary whose `main` calls [`crate::run_shim`]; each child passes through it.
    pub shim: PathBuf,
    /// A folder with `postgres` and `initdb`, used before anything else.
    pub postgres_bin_dir: Option<PathBuf>,
    /// A `nats-server`, used before anything else.
    pub nats_server_bin: Option<PathBuf>,
}

impl Options {
    /// Options with the default cache folder, both programs looked for, network allowed.
    #[must_use]
    pub fn new(shim: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: Self::default_cache_dir(),
            offline: false,
            shim: shim.into(),
            postgres_bin_dir: None,
            nats_server_bin: None,
        }
    }

    /// Like [`Options::new`], then `TAFFRAIL_POSTGRES_BIN_DIR` and `TAFFRAIL_NATS_SERVER_BIN`.
    #[must_use]
    pub fn from_env(shim: impl Into<PathBuf>) -> Self {
        Self {
            postgres_bin_dir: path_from_env("TAFFRAIL_POSTGRES_BIN_DIR"),
            nats_server_bin: path_from_env("TAFFRAIL_NATS_SERVER_BIN"),
            ..Self::new(shim)
        }
    }

    /// `$XDG_CACHE_HOME/taffrail/servers`, else the same under `$HOME/.cache`.
    ///
    /// Without either it is a folder of this user below the system's temporary folder.
    #[must_use]
    pub fn default_cache_dir() -> PathBuf {
        let base = path_from_env("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| path_from_env("HOME").map(|home| home.join(".cache")));
        match base {
            Some(base) => base.join("taffrail").join("servers"),
            None => {
                let uid = rustix::process::geteuid().as_raw();
                env::temp_dir().join(format!("taffrail-{uid}")).join("servers")
            }
        }
    }
}

/// An environment variable as a path; empty counts as absent, as XDG asks.
fn path_from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
