//! The root a program sees: an empty tmpfs with read-only pieces of the host.

use std::ffi::{CString, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::pivot_root;

use crate::error::StartError;
use crate::plan::{Bind, BindKind, Layer, Plan};
use crate::spec::{Network, SECRETS, SOCKETS, WORKSPACE, Workspace};

/// A folder every host has, to build the new root on; hidden only for this process.
const SCAFFOLD: &str = "/tmp";

/// Folders of programs and libraries.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of the host's /etc is of use inside and says nothing of the host's users or services.
const ETC: [&str; 10] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates",
    "alternatives",
    "localtime",
    "mime.types",
    "pki/tls/certs",
];

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Everything that is bound, as far as the host has it.
///
/// # Errors
/// When something the spec names is not there.
pub(super) fn binds(plan: &Plan) -> Result<Vec<Bind>, StartError> {
    let spec = &plan.spec;
    let mut found = Vec::new();
    let mut bind = |source: &Path, target: &Path, kind| {
        found.push(Bind { source: source.to_owned(), target: target.to_owned(), kind });
    };
    for path in SYSTEM.map(Path::new) {
        if path.is_dir() && !path.is_symlink() {
            bind(path, path, BindKind::ReadOnly);
        }
    }
    let resolver = (spec.network == Network::Host).then_some("resolv.conf");
    for name in ETC.into_iter().chain(resolver) {
        let path = Path::new("/etc").join(name);
        if path.exists() {
            bind(&path, &path, BindKind::ReadOnly);
        }
    }
    for device in DEVICES {
        let path = Path::new("/dev").join(device);
        bind(&path, &path, BindKind::Device);
    }
    if !plan.has(Layer::PidNamespace) {
        bind(Path::new("/proc"), Path::new("/proc"), BindKind::AsIs);
    }
    let mut named = |source: &Path, target: &Path, kind| {
        if let Err(error) = fs::metadata(source) {
            return Err(StartError::Mount { path: source.into(), reason: error.to_string() });
        }
        bind(source, target, kind);
        Ok(())
    };
    if let Workspace::Folder(folder) = &spec.workspace {
        named(folder, Path::new(WORKSPACE), BindKind::ReadWrite)?;
    }
    if let Some(sockets) = &spec.socket_dir {
        named(sockets, Path::new(SOCKETS), BindKind::ReadOnly)?;
    }
    for extra in &spec.mounts {
        named(&extra.source, extra.target(), BindKind::ReadOnly)?;
    }
    Ok(found)
}

/// Copies of the mounts, attached nowhere yet.
///
/// # Errors
/// [`StartError::Mount`] with the path that could not be copied.
pub(super) fn open(binds: &[Bind]) -> Result<Vec<OwnedFd>, StartError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let open = |bind: &Bind| {
        open_tree(CWD, &bind.source, flags).map_err(|error| StartError::Mount {
            path: bind.source.clone(),
            reason: error.to_string(),
        })
    };
    binds.iter().map(open).collect()
}

/// Builds the root and moves into it; nothing of the host's is reachable afterwards.
///
/// # Errors
/// [`StartError::Mount`] or [`StartError::Layer`] with what failed.
pub(super) fn build(plan: &Plan, passed: Vec<OwnedFd>) -> Result<(), StartError> {
    let failed = |what: &'static str| move |error: io::Error| StartError::layer(what, error);
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| failed("mount namespace")(error.into()))?;
    let opened;
    let (binds, trees) = if plan.opened {
        (plan.binds.clone(), passed)
    } else {
        let binds = binds(plan)?;
        opened = open(&binds)?;
        (binds, opened)
    };
    tmpfs(SCAFFOLD, 4 << 20, MountFlags::NOSUID | MountFlags::NODEV)
        .map_err(failed("tmpfs mount"))?;
    let new = Path::new(SCAFFOLD);
    furnish(plan, new).map_err(failed("own root"))?;
    for (bind, tree) in binds.iter().zip(&trees) {
        attach(plan, bind, tree.as_fd(), new).map_err(|error| StartError::Mount {
            path: bind.source.clone(),
            reason: error.to_string(),
        })?;
    }
    if plan.has(Layer::PidNamespace) {
        // Not the host's: its own numbers only, and nothing in it can be written.
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        let proc = new.join("proc");
        mount("proc", &proc, "proc", flags, None)
            .map_err(|error| failed("private /proc")(error.into()))?;
    }
    swap(new).map_err(|error| failed("pivot_root")(error.into()))
}

/// Folders, links and files that are not the host's.
fn furnish(plan: &Plan, new: &Path) -> io::Result<()> {
    let limits = &plan.spec.limits;
    for folder in ["proc", "dev/shm", "etc", "tmp", "run/taffrail/secrets", "workspace"] {
        fs::create_dir_all(new.join(folder))?;
    }
    for path in SYSTEM.map(Path::new) {
        if let Ok(to) = fs::read_link(path) {
            symlink(to, below(new, path))?;
        }
    }
    for (name, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{to}"), new.join("dev").join(name))?;
    }
    let etc = |name: &str, text: &str| fs::write(new.join("etc").join(name), text);
    etc(
        "passwd",
        "agent:x:1000:1000:agent:/workspace:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    etc("group", "agent:x:1000:\nnogroup:x:65534:\n")?;
    etc("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n")?;
    etc("hostname", "sandbox\n")?;
    etc("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    if plan.spec.network == Network::None {
        etc("resolv.conf", "")?;
    }
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    let writable = |folder: &str| tmpfs(new.join(folder), limits.disk_bytes, plain);
    writable("tmp")?;
    fs::set_permissions(new.join("tmp"), Permissions::from_mode(0o1777))?;
    writable("dev/shm")?;
    tmpfs(below(new, Path::new(SECRETS)), 4 << 20, plain | MountFlags::NOEXEC)?;
    if plan.spec.workspace == Workspace::Tmpfs {
        writable("workspace")?;
    }
    Ok(())
}

fn tmpfs(at: impl AsRef<Path>, size: u64, flags: MountFlags) -> io::Result<()> {
    // Files cost memory that is not counted as their size: one per 4 KiB, at most 256 Ki.
    let files = (size >> 12).clamp(1 << 10, 1 << 18);
    let options = format!("size={size},nr_inodes={files},mode=0755");
    let options = CString::new(options)?;
    Ok(mount("tmpfs", at.as_ref(), "tmpfs", flags, Some(options.as_c_str()))?)
}

fn below(new: &Path, path: &Path) -> PathBuf {
    new.join(path.strip_prefix("/").unwrap_or(path))
}

fn attach(plan: &Plan, bind: &Bind, tree: impl AsFd, new: &Path) -> io::Result<()> {
    let target = below(new, &bind.target);
    if fs::metadata(bind_source(&tree))?.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(new))?;
        fs::write(&target, "")?;
    }
    move_mount(tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let mut wanted = match bind.kind {
        BindKind::AsIs => return Ok(()),
        BindKind::ReadOnly => MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
        BindKind::ReadWrite => MountFlags::NOSUID | MountFlags::NODEV,
        BindKind::Device => MountFlags::NOSUID | MountFlags::NOEXEC,
    };
    if !plan.has(Layer::ReadOnly) {
        wanted -= MountFlags::RDONLY;
    }
    for at in mounts_below(&target)? {
        // A flag the host has set is locked in a user namespace, and must be named again.
        let flags = wanted | kept(statvfs(&at)?.f_flag, bind.kind);
        mount_remount(&at, flags | MountFlags::BIND, c"")?;
    }
    Ok(())
}

fn bind_source(tree: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd()).into()
}

fn kept(set: StatVfsMountFlags, kind: BindKind) -> MountFlags {
    let mut flags = MountFlags::empty();
    let pairs = [
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    for (from, to) in pairs {
        if set.contains(from) {
            flags |= to;
        }
    }
    if set.contains(StatVfsMountFlags::RDONLY) && kind != BindKind::Device {
        flags |= MountFlags::RDONLY;
    }
    flags
}

/// A mount and those within it: a remount reaches one only.
fn mounts_below(target: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let at = |line: &str| line.split(' ').nth(4).map(unescaped);
    Ok(table.lines().filter_map(at).filter(|at| at.starts_with(target)).collect())
}

/// mountinfo(5) writes blanks, tabs, newlines and backslashes as `\ooo`.
fn unescaped(text: &str) -> PathBuf {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out).into()
}

/// Makes the new folder the root and lets the old one go (pivot_root(2), the form that needs no
/// folder for the old root).
fn swap(new: &Path) -> Result<(), Errno> {
    rustix::process::chdir(new)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Closes the root and the secrets against writing, as the last thing.
///
/// # Errors
/// [`StartError::Layer`].
pub(super) fn seal() -> Result<(), StartError> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    for (at, flags) in [("/", flags), (SECRETS, flags | MountFlags::NOEXEC)] {
        mount_remount(at, flags, c"")
            .map_err(|error| StartError::layer("read-only root", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_in_a_mount_point_is_read_back() {
        assert_eq!(unescaped(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescaped(r"/plain\9"), Path::new(r"/plain\9"));
    }
}
