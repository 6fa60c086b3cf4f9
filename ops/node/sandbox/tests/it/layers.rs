//! Each layer matters: without it alone, an attempt works that it alone stops.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sandbox::{Layer, Level, Network, Sandbox, Spec};

use crate::host::{Host, Verdict, root, sandbox};

/// Stopped with everything, works without the layer.
async fn only_this(host: &Host, with: Sandbox, layer: Layer, spec: &Spec) {
    let whole = host.attempt(&with, spec).await;
    assert!(!whole.success(), "{layer:?} is there: {whole:?}");
    let without = host.attempt(&with.without(layer), spec).await;
    assert!(without.success(), "{layer:?} is left out: {without:?}");
}

#[tokio::test]
async fn the_own_user_keeps_files_of_root_closed() {
    if !root() {
        return; // without root there is no other user to become
    }
    let host = Host::new();
    let mut spec = host.spec(&["read_file", &host.path("shared/root-only")]);
    spec.workspace = sandbox::Workspace::Tmpfs;
    only_this(&host, sandbox(), Layer::UserMapping, &spec).await;
}

#[tokio::test]
async fn own_process_numbers_keep_processes_of_the_same_user_out_of_reach() {
    let host = Host::new();
    let spec = host.spec(&["prlimit", &host.victim.id().to_string()]);
    only_this(&host, sandbox(), Layer::PidNamespace, &spec).await;
}

#[tokio::test]
async fn the_own_root_hides_sockets_and_names() {
    let host = Host::new();
    // Landlock stops neither; a container engine's socket would be the whole host.
    for attempt in [["unix_socket", "secret/sock"], ["stat_file", "secret/file"]] {
        let spec = host.spec(&[attempt[0], &host.path(attempt[1])]);
        only_this(&host, sandbox(), Layer::Root, &spec).await;
    }
}

#[tokio::test]
async fn the_own_network_hides_the_sockets_of_the_host() {
    let host = Host::new();
    let spec = host.spec(&["socket_table", &host.abstract_name]);
    only_this(&host, sandbox(), Layer::NetNamespace, &spec).await;
}

#[tokio::test]
async fn own_shared_memory_keeps_that_of_the_host_closed() {
    if !root() {
        return; // without a group the call filter refuses it besides
    }
    let host = Host::new();
    let key = (0x5eed_0000 | (std::process::id() & 0xffff)).to_string();
    let make = format!(
        "import ctypes; c=ctypes.CDLL(None); i=c.shmget({key},4096,0o1666); \
         c.shmat.restype=ctypes.c_void_p; ctypes.memmove(c.shmat(i,None,0),b'secret',6)"
    );
    assert!(Command::new("python3").args(["-c", &make]).status().unwrap().success());
    let spec = host.spec(&["shared_memory", &key]);
    only_this(&host, sandbox(), Layer::IpcNamespace, &spec).await;
    assert!(Command::new("ipcrm").args(["-M", &key]).status().unwrap().success());
}

#[tokio::test]
async fn the_own_host_name_hides_the_hosts() {
    let host = Host::new();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let spec = host.spec(&["host_name_known", name.trim()]);
    only_this(&host, sandbox(), Layer::UtsNamespace, &spec).await;
}

#[tokio::test]
async fn the_own_cgroup_root_hides_where_the_sandbox_is() {
    if !root() {
        return; // no groups without root here
    }
    let host = Host::new();
    only_this(&host, sandbox(), Layer::CgroupNamespace, &host.spec(&["cgroup_path"])).await;
}

#[tokio::test]
async fn read_only_mounts_stop_what_landlock_does_not_know() {
    let host = Host::new();
    for attempt in ["touch_times", "chmod_file"] {
        let spec = host.spec(&[attempt, &host.path("shared/file")]);
        only_this(&host, sandbox(), Layer::ReadOnly, &spec).await;
    }
}

#[tokio::test]
async fn no_new_privs_takes_the_setuid_bit_its_meaning() {
    if !root() {
        return; // only root can make such a file
    }
    let host = Host::new();
    let program = host.dir.join("shared/python");
    fs::copy(fs::canonicalize("/usr/bin/python3").unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let spec = host.spec(&["setuid_file", program.to_str().unwrap()]);
    // In a root of its own mounts are nosuid besides; and the filter cannot be installed
    // without, so it is left out in both.
    let weaker = sandbox().exactly(Level::Process).without(Layer::Seccomp);
    only_this(&host, weaker, Layer::NoNewPrivs, &spec).await;
    assert!(!host.attempt(&sandbox(), &spec).await.success());
}

#[tokio::test]
async fn without_capabilities_no_file_can_be_given_any() {
    let host = Host::new();
    let mut spec = host.spec(&["file_caps"]);
    spec.workspace = sandbox::Workspace::Tmpfs;
    only_this(&host, sandbox(), Layer::Capabilities, &spec).await;
}

#[tokio::test]
async fn landlock_keeps_abstract_sockets_closed_on_the_hosts_network() {
    let host = Host::new();
    let mut spec = host.spec(&["abstract_socket", &host.abstract_name]);
    spec.network = Network::Host;
    only_this(&host, sandbox(), Layer::Landlock, &spec).await;
}

#[tokio::test]
async fn landlock_alone_keeps_files_and_signals_at_level_process() {
    let host = Host::new();
    for attempt in [
        ["read_file", &host.path("secret/file")],
        ["write_file", &host.path("secret/open")],
        ["kill", &host.victim.id().to_string()],
    ] {
        let weaker = sandbox().exactly(Level::Process);
        only_this(&host, weaker, Layer::Landlock, &host.spec(&attempt)).await;
    }
}

#[tokio::test]
async fn the_call_filter_keeps_the_kernels_less_travelled_parts_closed() {
    let host = Host::new();
    let attempts = [
        "unshare_user",
        "clone_user",
        "clone3_user",
        "keyring",
        "personality",
        "ptrace_self",
        "vsock_or_alg",
    ];
    for attempt in attempts {
        only_this(&host, sandbox(), Layer::Seccomp, &host.spec(&[attempt])).await;
    }
}

#[tokio::test]
async fn the_group_limit_holds_where_each_process_keeps_its_own() {
    let host = Host::new();
    let bomb = (256_u64 << 20).to_string();
    only_this(&host, sandbox(), Layer::Group, &host.spec(&["memory_bomb_many", &bomb, "4"])).await;
    only_this(&host, sandbox(), Layer::Group, &host.spec(&["fork_bomb", "100"])).await;
}

#[tokio::test]
async fn limits_per_process_hold_files_and_descriptors() {
    let host = Host::new();
    for attempt in [&["fd_bomb", "1000"][..], &["big_file", "67108864"], &["core_dump"]] {
        let spec = host.spec(attempt);
        // A hard limit of the host for core files may itself be none.
        if attempt[0] == "core_dump" {
            let with = host.attempt(&sandbox(), &spec).await;
            assert!(matches!(with, Verdict::Stopped(_)), "{with:?}");
            continue;
        }
        only_this(&host, sandbox(), Layer::Rlimits, &spec).await;
    }
}
