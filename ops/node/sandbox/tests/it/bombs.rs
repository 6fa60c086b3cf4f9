//! Bombs: held within their limits, ended in time, nothing left.

use std::time::{Duration, Instant};

use sandbox::{Exit, Level, Sandbox, Spec, Stream, Workspace};

use crate::host::{Host, Verdict, groups_of, mounts, root, sandbox};

/// How many tests of this file look at what the others leave: one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Aftermath {
    exit: Exit,
    verdict: Verdict,
    took: Duration,
}

/// Runs a bomb and sees to it that nothing of it is left.
async fn explode(host: &Host, sandbox: &Sandbox, spec: &Spec) -> Aftermath {
    let _alone = ALONE.lock().await;
    let (before, begun) = (mounts(), Instant::now());
    let run = host.run_of_user();
    let handle = sandbox.start(&run, spec).await.unwrap();
    let shim = shim_of(&run);
    let exit = handle.wait().await.unwrap();
    let took = begun.elapsed();
    assert_eq!(host.processes(), Vec::<String>::new(), "processes are left");
    assert_eq!(groups_of(shim), Vec::<std::path::PathBuf>::new(), "groups are left");
    assert_eq!(mounts(), before, "mounts are left");
    let mut stdout = Vec::new();
    let mut offset = 0;
    while let Some(chunk) = handle.read(Stream::Stdout, offset).unwrap() {
        offset = chunk.next();
        stdout.extend(chunk.bytes);
    }
    let verdict = Verdict::of(&sandbox::Output { exit: exit.clone(), stdout, stderr: Vec::new() });
    Aftermath { exit, verdict, took }
}

fn shim_of(run: &std::path::Path) -> u32 {
    let state = std::fs::read_to_string(run.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    u32::try_from(state["shim"]["pid"].as_u64().unwrap()).unwrap()
}

/// As this user, with cgroups if there are any, and as one without.
async fn everywhere(bomb: &[&str], check: impl Fn(&Aftermath)) {
    let host = Host::new();
    check(&explode(&host, &sandbox(), &host.spec(bomb)).await);
    if root() {
        check(&explode(&host, &host.unprivileged(), &host.spec(bomb)).await);
    }
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_number() {
    everywhere(&["fork_bomb", "400"], |after| {
        let Verdict::Stopped(line) = &after.verdict else { panic!("{:?}", after.verdict) };
        let made: u32 = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert!((30..=42).contains(&made), "{line}");
        assert!(after.took < Duration::from_secs(5), "{:?}", after.took);
    })
    .await;
}

#[tokio::test]
async fn a_memory_bomb_ends_at_its_limit() {
    everywhere(&["memory_bomb", "1073741824"], |after| {
        assert!(!after.verdict.success(), "{:?}", after.verdict);
        assert!(after.took < Duration::from_secs(5), "{:?}", after.took);
        assert!(after.exit.usage.max_rss_bytes <= (128 << 20) * 105 / 100, "{:?}", after.exit);
    })
    .await;
}

#[tokio::test]
async fn a_memory_bomb_in_parts_ends_too() {
    everywhere(&["memory_bomb_many", "400000000", "4"], |after| {
        assert!(!after.verdict.success(), "{:?}", after.verdict);
        assert!(after.exit.oom || matches!(after.verdict, Verdict::Stopped(_)), "{:?}", after.exit);
    })
    .await;
}

#[tokio::test]
async fn memory_that_belongs_to_no_process_is_counted_or_refused() {
    everywhere(&["memory_bomb_file", "536870912"], |after| {
        assert!(!after.verdict.success(), "{:?}", after.verdict);
    })
    .await;
}

#[tokio::test]
async fn a_program_that_ran_out_of_memory_is_reported_as_such() {
    if !root() {
        return; // the kernel's count needs a group
    }
    let host = Host::new();
    let after = explode(&host, &sandbox(), &host.spec(&["memory_bomb", "1073741824"])).await;
    assert!(after.exit.oom, "{:?}", after.exit);
    assert!(!after.exit.success());
}

#[tokio::test]
async fn a_tmpfs_workspace_is_full_at_its_limit() {
    let host = Host::new();
    let mut spec = host.spec(&["disk_bomb", "/workspace", "268435456"]);
    spec.workspace = Workspace::Tmpfs;
    let after = explode(&host, &sandbox(), &spec).await;
    let Verdict::Stopped(line) = &after.verdict else { panic!("{:?}", after.verdict) };
    let written: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(written <= 32 << 20, "{line}");
}

#[tokio::test]
async fn a_workspace_folder_over_its_limit_ends_the_program() {
    let host = Host::new();
    let after =
        explode(&host, &sandbox(), &host.spec(&["disk_bomb", "/workspace", "67108864"])).await;
    assert!(after.exit.disk_full, "{:?}", after.exit);
    assert!(!after.exit.success());
    assert!(after.took < Duration::from_secs(5), "{:?}", after.took);
}

#[tokio::test]
async fn a_million_files_do_not_fit() {
    let host = Host::new();
    let mut spec = host.spec(&["inode_bomb", "1000000"]);
    spec.workspace = Workspace::Tmpfs;
    let after = explode(&host, &sandbox(), &spec).await;
    let Verdict::Stopped(line) = &after.verdict else { panic!("{:?}", after.verdict) };
    let made: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(made <= (32 << 20) / 4096, "{line}");
}

#[tokio::test]
async fn descriptors_run_out_at_their_limit() {
    everywhere(&["fd_bomb", "100000"], |after| {
        assert!(matches!(after.verdict, Verdict::Stopped(_)), "{:?}", after.verdict);
    })
    .await;
}

#[tokio::test]
async fn a_flood_fills_no_disk_and_is_counted() {
    let host = Host::new();
    let mut spec = host.spec(&["flood", "50000000"]);
    spec.limits.output_bytes = 1 << 20;
    spec.limits.output_bytes_per_s = 100 << 20;
    let after = explode(&host, &sandbox(), &spec).await;
    // The end is what is kept.
    assert!(after.verdict.success(), "{:?}", after.verdict);
    let usage = after.exit.usage;
    assert!(usage.output_bytes > 50_000_000, "{usage:?}");
    let kept = usage.output_bytes - usage.dropped_bytes;
    assert!((1 << 19..=1 << 20).contains(&kept), "{usage:?}");
}

#[tokio::test]
async fn a_flood_waits_at_its_rate_and_ends_with_the_wall_clock() {
    let host = Host::new();
    let mut spec = host.spec(&["flood", "1000000000"]);
    spec.limits.output_bytes_per_s = 1 << 20;
    spec.limits.wall_ms = Some(2_000);
    let after = explode(&host, &sandbox(), &spec).await;
    assert!(after.exit.wall_timeout, "{:?}", after.exit);
    assert!(after.exit.usage.output_bytes < 5 << 20, "{:?}", after.exit.usage);
    assert!(after.took < Duration::from_secs(4), "{:?}", after.took);
}

#[tokio::test]
async fn the_wall_clock_ends_what_ignores_every_signal() {
    for level in [Level::Process, Level::Namespace] {
        let host = Host::new();
        let mut spec = host.spec(&["stay"]);
        spec.limits.wall_ms = Some(700);
        let after = explode(&host, &sandbox().exactly(level), &spec).await;
        assert!(after.exit.wall_timeout && !after.exit.killed, "{:?}", after.exit);
        assert_eq!(after.exit.signal, Some(9));
        assert!(after.took < Duration::from_millis(1700), "{:?}", after.took);
    }
}

#[tokio::test]
async fn a_daemon_that_hides_in_its_own_session_dies_with_the_program() {
    for level in [Level::Process, Level::Namespace] {
        let host = Host::new();
        let mark = match level {
            Level::Namespace => "/workspace/mark".to_owned(),
            Level::None | Level::Process => host.path("workspace/mark"),
        };
        let after = explode(&host, &sandbox().exactly(level), &host.spec(&["daemon", &mark])).await;
        assert!(after.verdict.success(), "{:?}", after.verdict);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!host.dir.join("workspace/mark").exists());
    }
}

#[tokio::test]
async fn a_spinning_program_gets_its_share_and_no_more() {
    if !root() {
        return; // needs a group
    }
    let host = Host::new();
    let mut spec = host.spec(&["spin", "2"]);
    spec.limits.cpu_percent = 20;
    let after = explode(&host, &sandbox(), &spec).await;
    assert!(after.exit.usage.cpu_ms < 800, "{:?}", after.exit.usage);
}
