//! Capabilities: all gone, also those a file could bring.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::StartError;

fn failed(error: Errno) -> StartError {
    StartError::layer("capabilities", error)
}

/// Keeps capabilities of the own user namespace over the execution of the next stage, which is
/// not user 0 inside and would lose them.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn keep(wanted: CapabilitySet) -> Result<(), StartError> {
    let sets = capabilities(None).map_err(failed)?;
    let wanted = wanted & sets.permitted;
    set_capabilities(None, CapabilitySets { inheritable: wanted, ..sets }).map_err(failed)?;
    wanted.iter().try_for_each(|one| configure_capability_in_ambient_set(one, true)).map_err(failed)
}

/// Drops every capability from every set.
///
/// # Errors
/// When one is still there afterwards.
pub(crate) fn drop_all() -> Result<(), StartError> {
    clear_ambient_capability_set().map_err(failed)?;
    for one in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(one) {
            // INVAL: newer than the kernel. PERM: without CAP_SETPCAP the bounding set stays,
            // and gives nothing to a process with no_new_privs.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(failed)?;
    let left = capabilities(None).map_err(failed)?;
    if left != sets {
        return Err(StartError::layer("capabilities", format!("{left:?} are left")));
    }
    Ok(())
}
