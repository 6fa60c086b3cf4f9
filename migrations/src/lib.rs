//! Numbered migrations, their runner, and the roles that the services log in as.

mod roles;

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

pub use roles::{GATEWAY, SERVICE, ServiceUrls, service_urls};

mod embedded {
    refinery::embed_migrations!("sql");
}

/// Any number, the same everywhere: one migration run at a time.
const MIGRATION_LOCK: i64 = 0x7a66_7261_696c;

/// Where refinery writes down what it applied.
const HISTORY: &str = "refinery_schema_history";

/// A failed migration.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused or the connection broke.
    #[error("the database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// A migration did not run.
    #[error("migration: {0}")]
    Migration(#[from] refinery::Error),
    /// The address or the rights do not allow it; says what to do.
    #[error("{0}")]
    Unfit(String),
}

/// Brings a database to this release's schema; safe to run at any time and from several
/// processes at once. `url` must name a role that may create tables and roles.
///
/// # Errors
/// When a migration fails; those before it stand.
pub async fn migrate(url: &str) -> Result<Vec<String>, MigrateError> {
    let mut client = connect(url).await?;
    // refinery takes no lock of its own.
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    roles::ensure(&client, url).await?;
    let report = embedded::migrations::runner().run_async(&mut client).await?;
    // So that a service can tell whether the schema is its release's.
    client.batch_execute(&format!("GRANT SELECT ON {HISTORY} TO {SERVICE}, {GATEWAY}")).await?;
    client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// Checks that a database has this release's schema; one of a later release will do, because
/// migrations are safe beside the release before. Any of the roles may ask.
///
/// # Errors
/// When the schema is missing or older; the message names the remedy.
pub async fn check(client: &Client) -> Result<(), MigrateError> {
    let migrate = "run `taffrail migrate` once with the same address";
    let asked = client.query_one(&format!("SELECT max(version)::bigint FROM {HISTORY}"), &[]).await;
    let found: Option<i64> = match asked {
        Ok(row) => row.get(0),
        // Before the release that granted it, or nothing there at all.
        Err(error)
            if error.code().is_some_and(|code| {
                [SqlState::UNDEFINED_TABLE, SqlState::INSUFFICIENT_PRIVILEGE].contains(code)
            }) =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    let runner = embedded::migrations::runner();
    let wanted = runner.get_migrations().iter().map(|one| i64::from(one.version())).max();
    match found {
        Some(_) if found >= wanted => Ok(()),
        Some(old) => Err(MigrateError::Unfit(format!(
            "the database's schema is at version {old}, this release needs {}: {migrate}",
            wanted.unwrap_or_default()
        ))),
        None => Err(MigrateError::Unfit(format!("the schema is missing: {migrate}"))),
    }
}

async fn connect(url: &str) -> Result<Client, MigrateError> {
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| MigrateError::Unfit("the database address is not understood".into()))?;
    config.application_name("taffrail migrate").connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the migration's connection ended");
        }
    });
    Ok(client)
}
