//! Why a program was not started.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::Level;

/// Why a program was not started. Nothing of it is left behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum StartError {
    /// The spec asks for something that cannot be meant.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host cannot keep the program apart as strongly as is demanded.
    #[error("this host does not offer isolation level {wanted}: {}", missing.join("; "))]
    LevelAbsent {
        /// The least level that was acceptable.
        wanted: Level,
        /// What is missing for it.
        missing: Vec<String>,
    },
    /// A mechanism refused at the moment of use.
    #[error("{layer} could not be enforced: {reason}")]
    Layer {
        /// Which mechanism.
        layer: String,
        /// What the kernel said.
        reason: String,
    },
    /// The program is not there, as seen from inside.
    #[error("there is no program {program} in the sandbox")]
    Missing {
        /// As it was looked for.
        program: String,
    },
    /// The program is there and cannot be executed.
    #[error("the program {program} cannot be executed: {reason}")]
    NotExecutable {
        /// Its path inside.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// The working directory cannot be entered.
    #[error("the working directory {path} cannot be entered: {reason}")]
    Workdir {
        /// Its path inside.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// A folder of the host cannot be shown inside.
    #[error("{path} cannot be mounted: {reason}")]
    Mount {
        /// On the host.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// The folder belongs to a program that still runs.
    #[error("a program still runs in {dir}")]
    Running {
        /// The folder that was given.
        dir: PathBuf,
    },
    /// The supervising process could not do its work.
    #[error("the supervisor failed: {reason}")]
    Supervisor {
        /// What it said.
        reason: String,
    },
}

impl StartError {
    pub(crate) fn layer(layer: &str, error: impl std::fmt::Display) -> Self {
        Self::Layer { layer: layer.into(), reason: error.to_string() }
    }

    pub(crate) fn supervisor(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Supervisor { reason: format!("{what}: {error}") }
    }
}
