//! PostgreSQL refuses to run as root; these are the two ways out of it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use anyhow::Context;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags, capabilities,
    configure_capability_in_ambient_set, set_capabilities, set_capabilities_secure_bits,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// Stops being root, as far as the program about to be executed can see.
///
/// First choice is a user namespace in which root is uid 1000: nothing on disk changes its
/// owner and no account is needed. Where that is refused (most container engines), the
/// process becomes `taffrail` or nobody, and the folder is given to that user.
pub(super) fn leave(owned: &Path, program: &Path) -> anyhow::Result<()> {
    let Err(refusal) = enter_namespace()? else { return Ok(()) };
    become_user(owned, program).with_context(|| {
        format!(
            "PostgreSQL does not run as root, the kernel refused a user namespace ({refusal}), \
             and changing the user failed too: start as another user"
        )
    })
}

/// The inner result is the refusal of the namespace itself, after which nothing has changed.
fn enter_namespace() -> anyhow::Result<Result<(), rustix::io::Errno>> {
    #[expect(deprecated, reason = "its successor is unsafe for CLONE_FILES alone")]
    let entered = rustix::thread::unshare(UnshareFlags::NEWUSER);
    if let Err(errno) = entered {
        return Ok(Err(errno));
    }
    for (file, text) in [("setgroups", "deny"), ("uid_map", "1000 0 1"), ("gid_map", "1000 0 1")] {
        fs::write(format!("/proc/self/{file}"), text)
            .with_context(|| format!("cannot write {file} of the new user namespace"))?;
    }
    Ok(Ok(()))
}

fn become_user(owned: &Path, program: &Path) -> anyhow::Result<()> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let (uid, gid) = account(&accounts);
    if fs::metadata(owned).with_context(|| owned.display().to_string())?.uid() != uid {
        give(owned, uid, gid).with_context(|| format!("cannot give {} away", owned.display()))?;
    }
    // The data folder around it is 0700 and root's: passing through is all that is granted.
    if let Some(parent) = owned.parent() {
        pass_through(parent).with_context(|| parent.display().to_string())?;
    }
    let blocked = !reachable(owned) || !reachable(program);
    if blocked {
        // Capabilities stay over the change of user, and count for access(2) too, by which
        // initdb looks for the server beside itself.
        set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
            .context("below a folder only root may enter, and CAP_SETPCAP is missing")?;
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[gid]).context("setgroups")?;
    set_thread_res_gid(gid, gid, gid).context("setgid")?;
    set_thread_res_uid(uid, uid, uid).context("setuid")?;
    if blocked { keep_way_in().context("below a folder only root may enter") } else { Ok(()) }
}

/// Uid and gid of `taffrail`, else of nobody.
fn account(passwd: &str) -> (u32, u32) {
    const NOBODY: (u32, u32) = (65_534, 65_534);
    let find = |name: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next()? == name;
            let mut ids = fields.skip(1).map(str::parse::<u32>);
            let ids = (ids.next()?.ok()?, ids.next()?.ok()?);
            (found && ids.0 != 0).then_some(ids)
        })
    };
    find("taffrail").or_else(|| find("nobody")).unwrap_or(NOBODY)
}

fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    // The folder last: when this is cut off halfway, the next start does it again.
    lchown(path, Some(uid), Some(gid))
}

fn pass_through(folder: &Path) -> io::Result<()> {
    let mode = fs::metadata(folder)?.permissions().mode();
    fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011))
}

/// Whether everyone may walk down to the path.
fn reachable(path: &Path) -> bool {
    path.ancestors().skip(1).all(|folder| {
        fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
    })
}

/// Keeps the one capability that lets the server walk through root's folders.
///
/// The usual case is a container whose home is `/root` with mode 0700. Every other
/// capability is dropped, for good: the bounding set does not matter without setuid files.
fn keep_way_in() -> anyhow::Result<()> {
    let held = capabilities(None)?.permitted;
    // Engines grant DAC_OVERRIDE by default, and the narrower one seldom.
    let way_in = [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE]
        .into_iter()
        .find(|capability| held.contains(*capability))
        .context("neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE is held")?;
    let only = CapabilitySets { effective: way_in, permitted: way_in, inheritable: way_in };
    set_capabilities(None, only)?;
    configure_capability_in_ambient_set(way_in, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_account_comes_before_nobody_and_root_never() {
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:99:98::/:/bin/false\n";
        assert_eq!(account(nobody), (99, 98));
        assert_eq!(account(&format!("{nobody}taffrail:x:7:8::/:/bin/false\n")), (7, 8));
        assert_eq!(account("taffrail:x:0:0::/:/bin/sh\n"), (65_534, 65_534));
        assert_eq!(account(""), (65_534, 65_534));
    }

    #[test]
    fn reachable_means_every_folder_above_may_be_entered() {
        assert!(reachable(Path::new("/proc/self")));
        assert!(!reachable(Path::new("/proc/no-such-folder/file")));
    }
}
