//! Limits of each process (setrlimit).

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::StartError;
use crate::plan::{Layer, Plan};
use crate::proc;
use crate::spec::Level;

/// Sets the limits, hard and soft, so that they cannot be raised again.
///
/// # Errors
/// [`StartError::Layer`] when one is not taken.
pub(crate) fn apply(plan: &Plan) -> Result<(), StartError> {
    let limits = &plan.spec.limits;
    if plan.has(Layer::Rlimits) {
        set(Resource::Core, 0)?;
        set(Resource::Fsize, limits.file_bytes)?;
        set(Resource::Nofile, limits.open_files.into())?;
        set(Resource::Msgqueue, 64 << 10)?;
        set(Resource::Memlock, 8 << 20)?;
        set(Resource::Nice, 0)?;
        set(Resource::Rtprio, 0)?;
    }
    // What a cgroup counts as a whole is not limited once more per process: a process may then
    // reserve more than it uses, as garbage-collected languages do.
    if !plan.grouped && plan.has(Layer::Group) {
        set(Resource::Data, limits.memory_bytes)?;
        // In a user namespace of its own only the sandbox is counted; outside of one it is
        // every process of the user.
        let others = match (plan.level, plan.outer_uid) {
            (Level::Namespace, _) | (_, Some(_)) => 2,
            (_, None) => proc::of_user(rustix::process::geteuid().as_raw()),
        };
        set(Resource::Nproc, u64::from(limits.pids) + others)?;
    }
    Ok(())
}

fn set(resource: Resource, value: u64) -> Result<(), StartError> {
    // A hard limit of the host that is lower stays: it cannot be raised, nor need it be.
    let value = getrlimit(resource).maximum.map_or(value, |most| value.min(most));
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(resource, limit)
        .map_err(|error: Errno| StartError::layer("rlimits", format!("{resource:?}: {error}")))
}
