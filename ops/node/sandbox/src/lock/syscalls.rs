//! The system call filter (seccomp).
//!
//! Two filters, of which the stricter answer counts: one names what may be called, so that
//! everything else, also a call of a later kernel or of the x32 interface, is absent; the other
//! refuses what exists and is dangerous, and some arguments. Refusal is EPERM and not death:
//! language runtimes try such calls (io_uring, userfaultfd) and go on without them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::error::StartError;
use crate::plan::{Layer, Plan};
use crate::spec::Network;

use table::{ALLOWED, ALLOWED_LEGACY, REFUSED, REFUSED_LEGACY};

#[path = "table.rs"]
mod table;

/// Namespace flags of clone(2).
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Request of the console, among others to paste: ioctl_console(2).
const TIOCLINUX: u64 = 0x541c;

/// Restricts this process and its children for good; implies no_new_privs.
///
/// # Errors
/// [`StartError::Layer`] when the kernel does not take the filters.
pub(crate) fn apply(plan: &Plan) -> Result<(), StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::layer("seccomp", error);
    for program in programs(plan).map_err(|error| failed(&error))? {
        apply_filter(&program).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn programs(plan: &Plan) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let whole = |calls: &[&[libc::c_long]]| -> BTreeMap<i64, Vec<SeccompRule>> {
        calls.iter().copied().flatten().map(|call| (*call, Vec::new())).collect()
    };
    let mut allowed = whole(&[ALLOWED, ALLOWED_LEGACY, REFUSED, REFUSED_LEGACY]);
    // Its arguments are in memory, where a filter cannot see them; libraries fall back to clone.
    allowed.remove(&libc::SYS_clone3);
    let mut refused = whole(&[REFUSED, REFUSED_LEGACY]);
    if !plan.grouped && plan.has(Layer::Group) {
        // Memory that belongs to no process is counted by cgroups alone.
        for call in [libc::SYS_memfd_create, libc::SYS_shmget] {
            refused.insert(call, Vec::new());
        }
    }
    refused.insert(libc::SYS_clone, flags_rules(0, &NAMESPACES)?);
    refused.insert(libc::SYS_ioctl, vec![equals(1, libc::TIOCSTI)?, equals(1, TIOCLINUX)?]);
    let families: &[i32] = match plan.spec.network {
        Network::None => &[libc::AF_UNIX],
        Network::Host => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6],
    };
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        refused.insert(call, vec![none_of(0, families)?]);
    }
    let errno = |code: i32| SeccompAction::Errno(code.cast_unsigned());
    let allowed =
        SeccompFilter::new(allowed, errno(libc::ENOSYS), SeccompAction::Allow, arch)?.try_into()?;
    let refused =
        SeccompFilter::new(refused, SeccompAction::Allow, errno(libc::EPERM), arch)?.try_into()?;
    Ok([allowed, refused])
}

/// The kernel looks at the lower half of these arguments only.
fn condition(
    arg: u8,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value)
}

fn bits(value: i32) -> u64 {
    value.cast_unsigned().into()
}

fn equals(arg: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![condition(arg, SeccompCmpOp::Eq, value)?])
}

/// Matches when any of the flags is set.
fn flags_rules(arg: u8, flags: &[i32]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |flag: &i32| {
        let flag = bits(*flag);
        SeccompRule::new(vec![condition(arg, SeccompCmpOp::MaskedEq(flag), flag)?])
    };
    flags.iter().map(rule).collect()
}

/// Matches when the argument is none of the values.
fn none_of(arg: u8, values: &[i32]) -> Result<SeccompRule, seccompiler::BackendError> {
    let ne = |value: &i32| condition(arg, SeccompCmpOp::Ne, bits(*value));
    SeccompRule::new(values.iter().map(ne).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_on_both_tables() {
        let allowed: BTreeSet<_> = ALLOWED.iter().chain(ALLOWED_LEGACY).collect();
        let refused: BTreeSet<_> = REFUSED.iter().chain(REFUSED_LEGACY).collect();
        assert!(allowed.is_disjoint(&refused));
        assert!(!allowed.contains(&libc::SYS_clone3));
        assert!(allowed.len() > 200 && refused.len() > 50);
    }
}
