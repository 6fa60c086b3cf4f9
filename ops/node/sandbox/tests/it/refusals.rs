//! What is refused, and with which words.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use sandbox::{Level, Mount, Sandbox, Spec, StartError, Workspace};

use crate::host::{Host, sandbox};

async fn refused(host: &Host, spec: &Spec) -> StartError {
    sandbox().start(&host.run(), spec).await.map(|handle| handle.pid()).unwrap_err()
}

#[tokio::test]
async fn a_program_that_is_not_there_is_missing_and_one_that_is_no_program_is_said_so() {
    let host = Host::new();
    for level in [Level::None, Level::Process, Level::Namespace] {
        let start = async |command: &[&str]| {
            let mut spec = Spec::new(command.iter().copied());
            host.mark(&mut spec);
            spec.workspace = Workspace::Folder(host.dir.join("workspace"));
            let sandbox = sandbox().exactly(level);
            sandbox.start(&host.run(), &spec).await.map(|handle| handle.pid()).unwrap_err()
        };
        let missing = |program: &str| StartError::Missing { program: program.into() };
        assert_eq!(start(&["no-such-program"]).await, missing("no-such-program"));
        assert_eq!(start(&["/opt/no/such"]).await, missing("/opt/no/such"));
        let refused = start(&["/etc/passwd"]).await;
        assert!(matches!(refused, StartError::NotExecutable { .. }), "{refused:?}");
        // The file is there, but what it names as its interpreter is not.
        let script = host.dir.join("workspace/script");
        fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let path =
            if level == Level::Namespace { "/workspace/script" } else { script.to_str().unwrap() };
        let refused = start(&[path]).await;
        assert!(matches!(refused, StartError::NotExecutable { .. }), "{refused:?}");
    }
    assert_eq!(host.processes(), Vec::<String>::new());
}

#[tokio::test]
async fn folders_that_are_not_there_are_named() {
    let host = Host::new();
    let mut spec = Spec::new(["true"]);
    spec.workdir = Some("/workspace/none".into());
    let expected = StartError::Workdir {
        path: "/workspace/none".into(),
        reason: "No such file or directory (os error 2)".into(),
    };
    assert_eq!(refused(&host, &spec).await, expected);

    let mut spec = Spec::new(["true"]);
    spec.workspace = Workspace::Folder(host.dir.join("none"));
    let error = refused(&host, &spec).await;
    assert!(matches!(&error, StartError::Mount { path, .. } if path.ends_with("none")), "{error}");

    let mut spec = Spec::new(["true"]);
    spec.mounts.push(Mount { source: host.dir.join("gone"), target: Some("/data".into()) });
    let error = refused(&host, &spec).await;
    assert!(matches!(&error, StartError::Mount { path, .. } if path.ends_with("gone")), "{error}");
}

#[tokio::test]
async fn a_folder_with_a_running_program_is_not_used_again() {
    let host = Host::new();
    let run = host.run();
    let handle = sandbox().start(&run, &Spec::new(["sleep", "60"])).await.unwrap();
    let again = sandbox().start(&run, &Spec::new(["true"])).await.map(|handle| handle.pid());
    assert_eq!(again.unwrap_err(), StartError::Running { dir: run.clone() });
    handle.kill().unwrap();
    assert!(handle.wait().await.unwrap().killed);
    let after = sandbox().start(&run, &Spec::new(["true"])).await.unwrap();
    assert_eq!(after.wait().await.unwrap().code, Some(0));
}

/// A host on which no user namespace can be made.
fn without_namespaces(host: &Host) -> Sandbox {
    let wrapper = host.dir.join("no-namespaces");
    let stage = env!("CARGO_BIN_EXE_sandbox-stage");
    let text = format!(
        "#!/bin/sh\nexec unshare --user --map-user=1000 --map-group=1000 --keep-caps sh -c \
         'echo 0 > /proc/sys/user/max_user_namespaces; \
         exec setpriv --ambient-caps -all --inh-caps -all \"$0\" \"$@\"' {stage} \"$@\"\n"
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    Sandbox::at(wrapper)
}

#[tokio::test]
async fn a_level_the_host_does_not_offer_is_refused_with_what_is_missing() {
    let host = Host::new();
    let poor = without_namespaces(&host);
    let report = poor.doctor().await;
    assert_eq!(report.strongest, Level::Process, "{report}");
    let error = poor.start(&host.run(), &Spec::new(["true"])).await.map(|h| h.pid()).unwrap_err();
    let StartError::LevelAbsent { wanted, missing } = &error else { panic!("{error:?}") };
    assert_eq!(*wanted, Level::Namespace);
    assert!(!missing.is_empty() && !missing[0].is_empty(), "{error}");
    assert!(error.to_string().contains("namespace"), "{error}");
    // Who accepts less gets less, and is told.
    let mut spec = Spec::new(["true"]);
    spec.level = Level::Process;
    let weaker = host.dir.join("weaker");
    let handle = poor.start(&weaker, &spec).await.unwrap();
    assert_eq!(handle.level(), Level::Process);
    assert_eq!(handle.wait().await.unwrap().code, Some(0));
    // Nothing weaker was run instead: no folder of a run has a state.
    let runs = fs::read_dir(host.dir.join("runs")).unwrap().flatten();
    assert!(runs.into_iter().all(|run| !run.path().join("state.json").exists()));
}

#[tokio::test]
async fn a_minimum_gets_the_strongest_level_and_none_gets_none() {
    let host = Host::new();
    for (minimum, got) in [
        (Level::None, Level::None),
        (Level::Process, Level::Namespace),
        (Level::Namespace, Level::Namespace),
    ] {
        let mut spec = Spec::new(["true"]);
        spec.level = minimum;
        let handle = sandbox().start(&host.run(), &spec).await.unwrap();
        assert_eq!(handle.level(), got);
        assert_eq!(handle.wait().await.unwrap().code, Some(0));
    }
}

#[tokio::test]
async fn the_doctor_knows_this_host() {
    let report = sandbox().doctor().await;
    assert_eq!(report.strongest, Level::Namespace);
    assert_eq!(report.levels.len(), 3);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["strongest"], "namespace");
    let names: Vec<_> = report.mechanisms.iter().map(|row| row.name).collect();
    for name in ["separate_user", "user_namespaces", "landlock", "seccomp", "cgroup_memory"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let text = report.to_string();
    assert!(text.contains("level namespace") && text.contains("landlock"), "{text}");
}
