//! Isolation for programs this host did not write.
//!
//! [`Sandbox::start`] runs a [`Spec`] under a supervisor (the *shim*) that outlives the caller;
//! [`Sandbox::adopt`] finds it again. How strongly the program is kept apart is a [`Level`]; a
//! spec names the least it accepts, and is refused, never weakened, where the host cannot do it.
//!
//! Invariants:
//! - A program runs only after every layer of its level reported success.
//! - Nothing of a program outlives its shim, and nothing of the shim its program: no process, no
//!   mount, no cgroup.
//! - No secret is in an argument or environment of any process.
//!
//! The crate is written without unsafe code: what needs the moment between fork and exec is done
//! by executing the same binary again as a stage ([`stage_main`]).

mod cgroup;
mod doctor;
mod error;
mod exit;
mod handle;
mod kill;
mod level;
mod lock;
mod logs;
mod measure;
mod once;
mod plan;
mod proc;
mod spec;
mod stage;
mod start;
mod watch;

pub use doctor::{LevelReport, Mechanism, Report};
pub use error::StartError;
pub use exit::{Exit, Usage};
pub use handle::{Follow, Handle, Snapshot};
pub use logs::{Chunk, Stream};
pub use measure::{Figures, Spread};
pub use once::Output;
pub use plan::Layer;
pub use spec::{
    Level, Limits, Mount, Network, SECRETS, SOCKETS, Secret, Spec, WORKSPACE, Workspace,
};
pub use stage::{STAGE_ARG, stage_main};
pub use start::Sandbox;
