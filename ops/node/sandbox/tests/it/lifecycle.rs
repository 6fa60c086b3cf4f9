//! A program's life: started, followed, adopted, ended.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbox::{Level, Sandbox, Secret, Spec, Stream, Workspace};

use crate::host::{Host, groups_of, root, sandbox};

fn shell(text: &str) -> Spec {
    Spec::new(["sh", "-c", text])
}

#[tokio::test]
async fn input_goes_in_and_the_last_line_comes_out() {
    let host = Host::new();
    let spec = shell("read task; echo working >&2; echo first; echo \"did $task\"; echo; exit 7");
    for level in [Level::None, Level::Process, Level::Namespace] {
        let run = host.run();
        let output = sandbox().exactly(level).run_once(&run, &spec, b"the dishes\n").await.unwrap();
        assert_eq!(output.exit.code, Some(7), "{level}");
        assert_eq!(output.last_line(), Some(&b"did the dishes"[..]), "{level}");
        assert_eq!(output.stderr, b"working\n", "{level}");
        assert!(!run.exists());
    }
}

#[tokio::test]
async fn a_run_that_is_given_up_ends() {
    let host = Host::new();
    let mut spec = shell("sleep 300");
    host.mark(&mut spec);
    spec.workspace = Workspace::Folder(host.dir.join("workspace"));
    let run = host.run();
    let sandbox = sandbox();
    let running = sandbox.run_once(&run, &spec, b"");
    assert!(tokio::time::timeout(Duration::from_millis(400), running).await.is_err());
    until(|| host.processes().is_empty()).await;
}

fn state_of(handle: &sandbox::Handle) -> serde_json::Value {
    let text = fs::read_to_string(handle.dir().join("state.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(5), "not within 5 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn secrets_are_files_for_the_program_alone_and_nowhere_else() {
    let host = Host::new();
    for level in [Level::None, Level::Process, Level::Namespace] {
        let mut spec =
            shell("stat -c %a $TAFFRAIL_SECRETS/token; cat $TAFFRAIL_SECRETS/token; sleep 60");
        spec.secrets.insert("token".into(), Secret("hunter2-in-a-file".into()));
        let run = host.run();
        let handle = sandbox().exactly(level).start(&run, &spec).await.unwrap();
        let mut text = Vec::new();
        let mut follow = handle.follow(Stream::Stdout, 0);
        while text.len() < "400\nhunter2-in-a-file".len() {
            text.extend(follow.next().await.unwrap().unwrap().bytes);
        }
        assert_eq!(text, b"400\nhunter2-in-a-file", "{level}");
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            for name in ["cmdline", "environ"] {
                let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
                let found = bytes.windows(17).any(|part| part == b"hunter2-in-a-file");
                assert!(!found, "{level}: {}", entry.path().display());
            }
        }
        if level == Level::Namespace {
            // On no disk either, but where the program itself wrote it.
            let mut grep = Command::new("grep");
            grep.args(["-rl", "--exclude=stdout.*", "hunter2-in-a-file"]).arg(&host.dir);
            assert_eq!(String::from_utf8(grep.output().unwrap().stdout).unwrap(), "");
        }
        handle.kill().unwrap();
        handle.wait().await.unwrap();
        assert!(!run.join("secrets").exists());
    }
}

#[tokio::test]
async fn a_workspace_folder_stays_and_belongs_to_the_same_user_again() {
    let host = Host::new();
    let fresh = host.dir.join("fresh");
    fs::create_dir(&fresh).unwrap();
    let mut spec = shell("cat note 2>/dev/null; echo kept >> note; mkdir -p sub; touch sub/file");
    spec.workspace = Workspace::Folder(fresh.clone());
    for expected in ["", "kept\n", "kept\nkept\n"] {
        let output = sandbox().run_once(&host.run(), &spec, b"").await.unwrap();
        assert!(output.exit.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    let owner = |path: &str| fs::metadata(fresh.join(path)).unwrap().uid();
    assert!(!root() || owner("") >= 0x7000_0000, "{:x}", owner(""));
    assert_eq!(owner("sub/file"), owner(""));
}

#[tokio::test]
async fn a_program_is_adopted_and_goes_on_where_its_output_was_left() {
    let host = Host::new();
    let run = host.run();
    let spec = shell("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.2; done; exit 5");
    let first = sandbox().start(&run, &spec).await.unwrap();
    let seen = first.follow(Stream::Stdout, 0).next().await.unwrap().unwrap();
    let pid = first.pid();
    drop(first);
    let adopted = Sandbox::adopt(&run).unwrap().expect("there was a run");
    assert_eq!(adopted.pid(), pid);
    assert!(adopted.running());
    assert!(adopted.usage().processes >= 2);
    let mut follow = adopted.follow(Stream::Stdout, seen.next());
    let mut text = seen.bytes;
    while let Some(chunk) = follow.next().await.unwrap() {
        assert_eq!(chunk.skipped, 0);
        text.extend(chunk.bytes);
    }
    let expected: String = (1..=6).map(|number| format!("line {number}\n")).collect();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    let exit = adopted.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.lost), (Some(5), None, false));
    assert_eq!(Sandbox::adopt(&run).unwrap().unwrap().exit().unwrap(), Some(exit));
    assert!(Sandbox::adopt(&host.dir.join("runs")).unwrap().is_none());
}

#[tokio::test]
async fn a_program_goes_on_when_its_daemon_is_gone() {
    let host = Host::new();
    let run = host.run();
    let spec = shell("trap '' HUP; echo begun; sleep 1; echo done; exit 4");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_sandbox-stage"));
    daemon.arg("start").arg(&run).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut daemon = daemon.spawn().unwrap();
    serde_json::to_writer(daemon.stdin.take().unwrap(), &spec).unwrap();
    let group = daemon.id();
    let said = daemon.wait_with_output().unwrap();
    assert!(said.status.success());
    // Whatever stayed in the daemon's group or session would go with it.
    let _ = Command::new("kill").args(["-9", "--", &format!("-{group}")]).output().unwrap();
    let adopted = Sandbox::adopt(&run).unwrap().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), adopted.pid().to_string());
    let exit = adopted.wait().await.unwrap();
    assert_eq!((exit.code, exit.lost), (Some(4), false), "{exit:?}");
    let output = adopted.read(Stream::Stdout, 0).unwrap().unwrap();
    assert_eq!(output.bytes, b"begun\ndone\n");
}

#[tokio::test]
async fn a_link_left_by_an_earlier_program_leads_no_secret_astray() {
    let host = Host::new();
    let run = host.run();
    fs::create_dir_all(run.join("secrets")).unwrap();
    std::os::unix::fs::symlink(host.dir.join("stolen"), run.join("secrets/token")).unwrap();
    let mut spec = shell("cat $TAFFRAIL_SECRETS/token");
    spec.secrets.insert("token".into(), Secret("for the program".into()));
    let sandbox = sandbox().exactly(Level::Process);
    let output = sandbox.run_once(&run, &spec, b"").await.unwrap();
    assert_eq!(output.stdout, b"for the program", "{output:?}");
    assert!(!host.dir.join("stolen").exists());
}

#[tokio::test]
async fn another_process_with_the_same_number_is_never_taken_for_the_program() {
    let host = Host::new();
    let run = host.run();
    let handle = sandbox().start(&run, &shell("sleep 60")).await.unwrap();
    let genuine = fs::read_to_string(run.join("state.json")).unwrap();
    // The same numbers, started at another moment, or in another boot.
    let mut state: serde_json::Value = serde_json::from_str(&genuine).unwrap();
    for part in ["shim", "root", "program"] {
        let ticks = state[part]["start_ticks"].as_u64().unwrap();
        state[part]["start_ticks"] = (ticks - 1).into();
    }
    let reused = state.to_string();
    let mut state: serde_json::Value = serde_json::from_str(&genuine).unwrap();
    state["boot"] = "another".into();
    let rebooted = state.to_string();
    for forged in [reused, rebooted] {
        fs::write(run.join("state.json"), forged).unwrap();
        let stranger = Sandbox::adopt(&run).unwrap().unwrap();
        assert!(!stranger.running());
        assert!(stranger.exit().unwrap().unwrap().lost);
        stranger.kill().unwrap();
        stranger.signal(9).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(handle.running(), "a stranger was killed");
    handle.kill().unwrap();
    let exit = handle.wait().await.unwrap();
    assert!(exit.killed && exit.signal == Some(9), "{exit:?}");
}

#[tokio::test]
async fn a_program_dies_with_its_supervisor_and_is_reported_lost() {
    for level in [Level::Process, Level::Namespace] {
        let host = Host::new();
        let run = host.run();
        let mut spec = shell("sleep 300 & sleep 300");
        host.mark(&mut spec);
        spec.workspace = Workspace::Folder(host.dir.join("workspace"));
        let handle = sandbox().exactly(level).start(&run, &spec).await.unwrap();
        let state: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(run.join("state.json")).unwrap()).unwrap();
        let shim = state["shim"]["pid"].as_u64().unwrap();
        let kill = Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap();
        assert!(kill.success());
        if level == Level::Namespace {
            // Process 1 sees to it, with nobody's help.
            until(|| host.processes().is_empty()).await;
        }
        let exit = Sandbox::adopt(&run).unwrap().unwrap().wait().await.unwrap();
        assert!(exit.lost && !exit.success(), "{exit:?}");
        drop(handle);
        until(|| host.processes().is_empty()).await;
        until(|| groups_of(u32::try_from(shim).unwrap()).is_empty()).await;
    }
}

#[tokio::test]
async fn signals_reach_the_program_and_its_answer_is_its_own() {
    let host = Host::new();
    for level in [Level::Process, Level::Namespace] {
        let spec = shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
        let handle = sandbox().exactly(level).start(&host.run(), &spec).await.unwrap();
        handle.follow(Stream::Stdout, 0).next().await.unwrap().unwrap();
        handle.signal(15).unwrap();
        let exit = handle.wait().await.unwrap();
        assert_eq!((exit.code, exit.killed), (Some(3), false), "{level}");
        assert!(handle.signal(15).is_ok(), "a program that is gone is no error");
        assert!(handle.signal(4000).is_err());
    }
}

#[tokio::test]
async fn a_signal_that_ends_a_program_is_told_from_an_exit() {
    let host = Host::new();
    let output = sandbox().run_once(&host.run(), &shell("kill -ABRT $$"), b"").await.unwrap();
    assert_eq!((output.exit.code, output.exit.signal), (None, Some(6)));
}

#[tokio::test]
async fn children_without_a_parent_are_collected() {
    let host = Host::new();
    let spec = shell(
        "for i in 1 2 3 4 5 6 7 8; do (sleep 0.05 & ) ; done; sleep 0.5; \
         grep -l '^State:.*Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
    );
    let output = sandbox().run_once(&host.run(), &spec, b"").await.unwrap();
    assert_eq!(output.last_line(), Some(&b"0"[..]), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_is_in_its_own_group_from_the_start() {
    if !root() {
        return; // no groups
    }
    let host = Host::new();
    // Many at once, since the order in which the stages report depends on who gets a processor.
    let mut starting = tokio::task::JoinSet::new();
    for number in 0..60 {
        let level = if number % 4 == 0 { Level::Process } else { Level::Namespace };
        let (sandbox, run) = (sandbox().exactly(level), host.run());
        starting.spawn(async move { sandbox.start(&run, &shell("sleep 60")).await.unwrap() });
    }
    let mut groups = std::collections::BTreeSet::new();
    for handle in starting.join_all().await {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", handle.pid())).unwrap();
        let of = |line: &str| line.rsplit_once("/taffrail-").map(|(_, group)| group.to_owned());
        let found: Vec<String> = text.lines().filter_map(of).collect();
        assert!(!found.is_empty(), "{} in no group: {text}", handle.level());
        assert_eq!(found.len(), state_of(&handle)["group"]["folders"].as_array().unwrap().len());
        groups.extend(found);
        handle.kill().unwrap();
        handle.wait().await.unwrap();
    }
    assert_eq!(groups.len(), 60);
}

#[tokio::test]
async fn fifty_at_once_start_and_end() {
    let host = Host::new();
    let figures = sandbox().measure(&host.dir.join("runs"), 5, 50).await.unwrap();
    assert_eq!((figures.concurrent, figures.failed), (50, 0));
    assert_eq!(fs::read_dir(host.dir.join("runs")).unwrap().count(), 0);
}
