//! With all layers on, nothing works.

use sandbox::{Level, Sandbox, Spec};

use crate::host::{Host, Verdict, root, sandbox};

/// An attempt, and whether it works for an unconfined program of this host: then that is shown
/// too, so that an attempt which fails for another reason is not taken for one that was stopped.
struct Attempt {
    args: Vec<String>,
    works_outside: bool,
}

fn all(host: &Host) -> Vec<Attempt> {
    let victim = host.victim.id().to_string();
    let tcp = host.tcp.local_addr().unwrap().port().to_string();
    let udp = host.udp.local_addr().unwrap().port().to_string();
    let (secret, open) = (host.path("secret/file"), host.path("secret/open"));
    let (other, stage) = (host.path("other/file"), host.path("secret"));
    let socket = host.path("secret/sock");
    let shared = host.path("shared");
    let shared_file = host.path("shared/file");
    let works: &[&[&str]] = &[
        // Files of the host and of other agents.
        &["read_file", &secret],
        &["read_file", &other],
        &["read_file", "/etc/shadow"],
        &["stat_file", &secret],
        &["symlink_out", &secret],
        &["hardlink_out", &secret],
        &["dotdot", &secret],
        &["write_file", &open],
        &["write_file", &other],
        &["write_file", &shared_file],
        &["make_file", &shared],
        &["make_file", &stage],
        &["touch_times", &shared_file],
        &["chmod_file", &shared_file],
        // The kernel's files and devices.
        &["sys_files"],
        &["cgroup_files"],
        &["core_pattern"],
        // Processes of the host.
        &["sees", &victim],
        &["proc_root", &victim],
        &["proc_environ", &victim],
        &["proc_cmdline", &victim],
        &["priority", &victim],
        // Networks and sockets.
        &["tcp", &tcp],
        &["udp", &udp],
        &["abstract_socket", &host.abstract_name],
        &["socket_table", &host.abstract_name],
        &["unix_socket", &socket],
        &["netlink_socket"],
        &["packet_socket"],
        // System calls.
        &["unshare_user"],
        &["clone_user"],
        &["clone3_user"],
        &["keyring"],
        &["personality"],
        &["effective_caps"],
    ];
    let stopped: &[&[&str]] = &[
        &["fd_leak"],
        &["read_file", "/proc/1/environ"],
        &["sysrq"],
        &["oom_protect"],
        &["prlimit", &victim],
        &["init_mem"],
        &["proc_mem", &victim],
        &["cgroup_path"],
        &["write_file", "/usr/bin/planted"],
        &["write_file", "/etc/passwd"],
        &["write_file", "/planted"],
        &["make_file", "/"],
        &["make_file", "/dev"],
        &["make_file", "/run/taffrail/secrets"],
        &["device", "/dev/kvm"],
        &["device", "/dev/fuse"],
        &["device", "/dev/net/tun"],
        &["device", "/dev/mem"],
        &["device", "/dev/vda"],
        &["mknod"],
        &["setuid_call"],
        &["file_caps"],
        &["x32"],
        &["unknown_call"],
        &["mount_tmpfs"],
        &["remount_rw"],
        &["fsopen"],
        &["setns", &victim],
        &["ptrace", &victim],
        &["ptrace_init"],
        &["process_vm", &victim],
        &["bpf"],
        &["io_uring"],
        &["userfaultfd"],
        &["perf"],
        &["handle_at"],
        &["chroot"],
        &["hostname"],
        &["clock"],
        &["module"],
        &["secret_memory"],
        &["tiocsti"],
        &["alg_socket"],
        &["vsock"],
        &["kill", &victim],
        &["kill_init"],
        &["nice_up"],
        &["raise_limit"],
        &["core_dump"],
        &["core_file"],
    ];
    let attempts = |list: &[&[&str]], works_outside| -> Vec<Attempt> {
        let args = |args: &&[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
        list.iter().map(|one| Attempt { args: args(one), works_outside }).collect()
    };
    let mut all = attempts(works, true);
    all.extend(attempts(stopped, false));
    all
}

fn spec_of(host: &Host, attempt: &Attempt) -> Spec {
    let args: Vec<&str> = attempt.args.iter().map(String::as_str).collect();
    host.spec(&args)
}

/// Every attempt and what became of it, but for those that were stopped.
async fn got_through(
    host: &Host,
    sandbox: &Sandbox,
    run: impl Fn() -> std::path::PathBuf,
) -> (usize, Vec<String>) {
    let attempts = all(host);
    let mut through = Vec::new();
    for attempt in &attempts {
        let spec = spec_of(host, attempt);
        let output = sandbox.run_once(&run(), &spec, b"").await.unwrap();
        match Verdict::of(&output) {
            Verdict::Stopped(_) => {}
            // An attempt that crashed proves nothing.
            other @ (Verdict::Success(_) | Verdict::Died(..)) => {
                through.push(format!("{:?}: {other:?}", attempt.args));
            }
        }
    }
    (attempts.len(), through)
}

#[tokio::test]
async fn no_attempt_gets_out_of_a_namespace_sandbox() {
    let host = Host::new();
    let (tried, through) = got_through(&host, &sandbox(), || host.run()).await;
    assert!(tried >= 80, "{tried}");
    assert_eq!(through, Vec::<String>::new());
    assert_eq!(host.processes(), Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(host.path("shared/file")).unwrap(), "shared");
    assert_eq!(std::fs::read_to_string(host.path("secret/open")).unwrap(), "for all");
}

#[tokio::test]
async fn no_attempt_gets_out_when_the_daemon_is_not_root() {
    if !root() {
        return; // the test above did just this
    }
    let host = Host::new();
    let (_, through) = got_through(&host, &host.unprivileged(), || host.run_of_user()).await;
    assert_eq!(through, Vec::<String>::new());
    assert_eq!(host.processes(), Vec::<String>::new());
}

#[tokio::test]
async fn the_attempts_do_work_where_nothing_is_confined() {
    let host = Host::new();
    let bare = sandbox().exactly(Level::None);
    let mut failed = Vec::new();
    for attempt in all(&host).iter().filter(|attempt| attempt.works_outside && root()) {
        let verdict = host.attempt(&bare, &spec_of(&host, attempt)).await;
        if !verdict.success() {
            failed.push(format!("{:?}: {verdict:?}", attempt.args));
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

#[tokio::test]
async fn at_level_process_files_signals_networks_and_calls_are_closed_too() {
    let host = Host::new();
    let weaker = sandbox().exactly(Level::Process);
    // What this level cannot do is documented: it hides nothing of names, numbers and tables.
    let beyond = [
        "stat_file",
        "sees",
        "proc_cmdline",
        "prlimit",
        "priority",
        "socket_table",
        "unix_socket",
        "touch_times",
        "chmod_file",
        "cgroup_path",
    ];
    let mut through = Vec::new();
    for attempt in all(&host).iter().filter(|one| !beyond.contains(&one.args[0].as_str())) {
        let verdict = host.attempt(&weaker, &spec_of(&host, attempt)).await;
        if !matches!(verdict, Verdict::Stopped(_)) {
            through.push(format!("{:?}: {verdict:?}", attempt.args));
        }
    }
    assert_eq!(through, Vec::<String>::new());
}

#[tokio::test]
async fn what_a_program_needs_does_work() {
    let host = Host::new();
    for args in [
        &["bind_abstract", "inside"][..],
        &["unix_socket", "/run/taffrail/sock/sidecar"],
        &["read_file", "/run/taffrail/secrets/token"],
        &["make_file", "/workspace"],
        &["make_file", "/tmp"],
        &["make_file", "/dev/shm"],
        &["device", "/dev/null"],
        &["read_file", "/dev/urandom"],
        &["read_file", "/etc/passwd"],
        &["read_file", &host.path("shared/file")],
    ] {
        let mut spec = host.spec(args);
        spec.socket_dir = Some(host.dir.join("sock"));
        spec.secrets.insert("token".into(), sandbox::Secret("hunter2".into()));
        let verdict = host.attempt(&sandbox(), &spec).await;
        assert!(verdict.success(), "{args:?}: {verdict:?}");
    }
}
