//! A postmaster that an earlier supervisor left behind.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::launch::PostgresLaunch;
use crate::error::StartError;
use crate::process::{self, boot_time, current_dir, stat};

/// What the death signal of a killed supervisor began takes this long at most; then it is told.
const FAST_SHUTDOWN: Duration = Duration::from_secs(10);
const IMMEDIATE_SHUTDOWN: Duration = Duration::from_secs(10);

/// Sees to it that no postmaster runs on the cluster and no stale pid file is in the way.
///
/// PostgreSQL itself only asks whether the pid exists, so a zombie, or a stranger that got
/// the number after an unclean stop, would keep it from starting.
pub(super) async fn settle(cluster: &Path) -> Result<(), StartError> {
    let pid_file = cluster.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&pid_file) else { return Ok(()) };
    let started = Instant::now();
    let mut asked = None;
    while let Some(pid) = owner(&text, cluster) {
        let waited = started.elapsed();
        if waited > FAST_SHUTDOWN + IMMEDIATE_SHUTDOWN {
            let path = cluster.to_owned();
            return Err(StartError::StillRunning { server: PostgresLaunch::SERVER, pid, path });
        }
        let signal = if waited > FAST_SHUTDOWN { Signal::QUIT } else { Signal::INT };
        if asked != Some(signal) {
            asked = Some(signal);
            tracing::info!(pid, ?signal, "stopping the PostgreSQL of an earlier run");
            process::signal(pid, signal);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match fs::remove_file(&pid_file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StartError::file("remove", &pid_file)(error)),
    }
}

/// The pid of the live postmaster that wrote the file; none when it is dead or a stranger.
fn owner(pid_file: &str, cluster: &Path) -> Option<u32> {
    let mut lines = pid_file.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let process = stat(pid).filter(|process| process.is_alive() && process.comm == "postgres")?;
    let ours = match current_dir(pid) {
        Some(folder) => folder == cluster,
        // Another user's process hides its folder; its start time does not lie (line 3).
        None => {
            let noted: u64 = lines.nth(1)?.trim().parse().ok()?;
            process.started_at(boot_time()?).abs_diff(noted) <= 2
        }
    };
    ours.then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_with_the_noted_pid_is_not_the_owner() {
        let own = format!("{}\n/data/pg\n1700000000\n", std::process::id());
        assert_eq!(owner(&own, Path::new("/data/pg")), None);
        assert_eq!(owner("999999999\n", Path::new("/data/pg")), None);
        assert_eq!(owner("", Path::new("/data/pg")), None);
    }

    #[tokio::test]
    async fn a_stale_pid_file_is_removed() {
        let cluster =
            std::env::temp_dir().join(format!("taffrail-pg-{}", crate::data_dir::random_secret()));
        fs::create_dir_all(&cluster).unwrap();
        fs::write(cluster.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        settle(&cluster).await.unwrap();
        assert!(!cluster.join("postmaster.pid").exists());
        settle(&cluster).await.unwrap();
        fs::remove_dir_all(&cluster).unwrap();
    }
}
