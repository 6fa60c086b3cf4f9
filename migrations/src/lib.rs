//! Numbered migrations, their runner, and the roles that the services log in as.

mod roles;

use std::time::Duration;

use tokio_postgres::{Client, NoTls};

pub use roles::{GATEWAY, SERVICE, ServiceUrls, service_urls};

mod embedded {
    refinery::embed_migrations!("sql");
}

/// Any number, the same everywhere: one migration run at a time.
const MIGRATION_LOCK: i64 = 0x7a66_7261_696c;

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
    client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
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
