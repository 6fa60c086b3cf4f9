//! One start of PostgreSQL, the first or any after.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls};

use super::{DATABASE, PostgresAddress, USER, leftover, settings};
use crate::error::StartError;
use crate::process::{Child, Kind, Log, Spawn, quit_backends, spawn};
use crate::supervise::Launch;

/// Everything a start needs; the same for every restart.
#[derive(Clone)]
pub(super) struct PostgresLaunch {
    pub(super) program: PathBuf,
    pub(super) shim: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) port: u16,
    pub(super) password: String,
}

/// Recovery after a crash reads up to `max_wal_size` again, on a slow disk for minutes.
const READY_LIMIT: Duration = Duration::from_secs(300);

impl Launch for PostgresLaunch {
    const NAME: &'static str = PostgresLaunch::SERVER;

    async fn launch(&self) -> Result<Child, StartError> {
        let cluster = self.dir.join("pg");
        leftover::settle(&cluster).await?;
        quit_backends(&cluster).await;
        let config = self.dir.join("postgres.conf");
        write_readable(&config, &settings::text()).map_err(StartError::file("write", &config))?;
        let log_path = self.dir.join("logs").join("postgres.log");
        let (log, file) = Log::open(&log_path).map_err(StartError::file("open", &log_path))?;
        let mut config_file = std::ffi::OsString::from("config_file=");
        config_file.push(&config);
        let child = spawn(Spawn {
            kind: Kind::Postgres,
            shim: self.shim.clone(),
            program: self.program.clone(),
            args: vec![
                "-D".into(),
                cluster.clone().into(),
                "-c".into(),
                config_file,
                "-c".into(),
                format!("port={}", self.port).into(),
            ],
            owns: cluster.clone(),
            stdin: None,
            log: file,
        })
        .await
        .map_err(|source| StartError::Spawn { program: self.shim.display().to_string(), source })?;
        self.wait_ready(&child, &log).await?;
        self.connect()
            .await?
            .simple_query("SELECT 1")
            .await
            .map_err(|source| StartError::Sql { doing: "answering the first statement", source })?;
        Ok(child)
    }
}

impl PostgresLaunch {
    pub(super) const SERVER: &'static str = "PostgreSQL";

    pub(super) fn address(&self) -> PostgresAddress {
        PostgresAddress {
            host: "127.0.0.1".into(),
            port: self.port,
            user: USER.into(),
            password: self.password.clone(),
            database: DATABASE.into(),
        }
    }

    /// Replaces the password of the copied cluster, known only to this cache, by the folder's.
    pub(super) async fn set_password(&self, password: &str) -> Result<(), StartError> {
        let client = self.connect().await?;
        // The first statement keeps the second out of the log even if it fails.
        let statement = format!(
            "SET log_min_error_statement = panic; SET log_min_duration_statement = -1; \
             ALTER ROLE {USER} PASSWORD '{password}'"
        );
        client
            .batch_execute(&statement)
            .await
            .map_err(|source| StartError::Sql { doing: "setting the password", source })
    }

    async fn connect(&self) -> Result<Client, StartError> {
        let address = self.address();
        let (client, connection) = Config::new()
            .host(&address.host)
            .port(address.port)
            .user(&address.user)
            .password(&address.password)
            .dbname(&address.database)
            .application_name("supervisor")
            .connect_timeout(Duration::from_secs(10))
            .connect(NoTls)
            .await
            .map_err(|source| StartError::Sql { doing: "connecting", source })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "supervisor's connection ended");
            }
        });
        Ok(client)
    }

    /// Ready is what the server itself says, in line 8 of its pid file.
    async fn wait_ready(&self, child: &Child, log: &Log) -> Result<(), StartError> {
        let pid_file = self.dir.join("pg").join("postmaster.pid");
        let started = Instant::now();
        let mut said = started;
        loop {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            if is_ready(&text, child.pid()) {
                return Ok(());
            }
            if let Some(status) = child.status() {
                return Err(StartError::Ended { server: Self::SERVER, status, log: log.tail() });
            }
            if started.elapsed() > READY_LIMIT {
                let waited = started.elapsed();
                return Err(StartError::NotReady { server: Self::SERVER, waited, log: log.tail() });
            }
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                tracing::info!(waited = ?started.elapsed(), "PostgreSQL is still starting");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Readable whatever the umask, since the server may run as another user than we do.
fn write_readable(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

/// Line 1 is the pid (so that an old file does not count), line 8 the status.
fn is_ready(pid_file: &str, pid: u32) -> bool {
    let mut lines = pid_file.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_line_eight_of_this_servers_file() {
        let file =
            |status| format!("42\n/data/pg\n1700000000\n20001\n\n127.0.0.1\n  1 2\n{status}\n");
        assert!(is_ready(&file("ready   "), 42));
        assert!(!is_ready(&file("ready   "), 43));
        assert!(!is_ready(&file("starting"), 42));
        assert!(!is_ready("42\n/data/pg\n", 42));
        assert!(!is_ready("", 42));
    }
}
