//! A filled log on the sitting's bare PostgreSQL, made once for all cells that read it.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use store::Log;
use tokio::sync::Mutex;

use super::fill::{self, Filled, Plan};
use crate::cell::Context;
use crate::target::connect;

/// Connections to read with.
const POOL: usize = 16;
/// Fewest and most events of a log that is folded anew.
const EVENTS: (f64, f64) = (50_000.0, 1_000_000.0);
/// Events per second of a cell's time: a few passes fit in.
const EVENTS_PER_SECOND: f64 = 40_000.0;

static MADE: Mutex<Option<HashMap<String, Arc<Filled>>>> = Mutex::const_new(None);

/// A log and what is in it.
pub struct Made {
    pub log: Log,
    pub filled: Arc<Filled>,
}

/// How many events a log to be folded has.
pub fn events(context: &Context) -> u64 {
    if context.quick {
        return EVENTS.0 as u64;
    }
    (context.budget.measure.as_secs_f64() * EVENTS_PER_SECOND).clamp(EVENTS.0, EVENTS.1) as u64
}

/// The log of that name; fills it where no cell of this sitting has.
pub async fn made(context: &Context, name: &str, plan: Plan) -> anyhow::Result<Made> {
    let owner = &context.target.database_url;
    let url = at(owner, name)?;
    let mut all = MADE.lock().await;
    let known = all.get_or_insert_default();
    let log = || -> anyhow::Result<Log> {
        let service = migrations::service_urls(&url)?.service;
        Ok(Log::new(store::connect_pool(&service, POOL)?, &service))
    };
    if let Some(filled) = known.get(&url) {
        return Ok(Made { log: log()?, filled: filled.clone() });
    }
    connect(owner).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    migrations::migrate(&url).await?;
    let log = log()?;
    let filled = Arc::new(fill::fill(&log, plan).await?);
    // A log that grew slowly would have been looked after on the way.
    connect(&url).await?.batch_execute("VACUUM (ANALYZE) events").await?;
    known.insert(url.clone(), filled.clone());
    Ok(Made { log, filled })
}

/// The same server, another database.
fn at(url: &str, database: &str) -> anyhow::Result<String> {
    let (base, rest) = url.rsplit_once('/').context("a database's address")?;
    let query = rest.split_once('?').map_or(String::new(), |(_, query)| format!("?{query}"));
    Ok(format!("{base}/{database}{query}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_database_of_the_same_server() {
        let at = |url| super::at(url, "b").unwrap();
        assert_eq!(at("postgres://u:p@h:1/a"), "postgres://u:p@h:1/b");
        assert_eq!(
            at("postgres://u:p@h:1/a?sslmode=disable"),
            "postgres://u:p@h:1/b?sslmode=disable"
        );
    }
}
