//! What a process takes from itself, for good, before it becomes the program.

mod caps;
pub(crate) mod files;
mod limits;
mod syscalls;

pub(crate) use caps::{drop_all, keep};
pub(crate) use limits::apply as limit;
pub(crate) use syscalls::apply as filter;

use crate::error::StartError;
use crate::plan::{Layer, Plan};

/// Everything that needs no other user: no new privileges, Landlock, system calls.
///
/// # Errors
/// [`StartError::Layer`] with the mechanism that could not be enforced; the caller must not go
/// on to the program.
pub(crate) fn restrict(plan: &Plan, view: &files::View) -> Result<(), StartError> {
    if plan.has(Layer::NoNewPrivs) {
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| StartError::layer("no_new_privs", error))?;
    }
    if plan.has(Layer::Landlock) {
        files::apply(plan, view)?;
    }
    if plan.has(Layer::Seccomp) {
        filter(plan)?;
    }
    Ok(())
}
