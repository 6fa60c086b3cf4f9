//! A database of a cell's own on the bare PostgreSQL, empty at first.

use anyhow::Context as _;
use tokio_postgres::Client;

use crate::cell::Context;
use crate::target::connect;

/// A fresh database; gone with the next cell that makes one, or with the server.
pub(super) struct Database {
    /// Where it is.
    pub url: String,
    /// A connection to it.
    pub client: Client,
}

impl Database {
    /// Makes one in place of the one before.
    pub async fn fresh(context: &Context) -> anyhow::Result<Self> {
        let url = &context.target.database_url;
        let (server, _) = url.rsplit_once('/').context("an address without a database")?;
        let client = connect(url).await?;
        client.batch_execute("DROP DATABASE IF EXISTS limits WITH (FORCE)").await?;
        client.batch_execute("CREATE DATABASE limits").await?;
        let url = format!("{server}/limits");
        Ok(Self { client: connect(&url).await?, url })
    }

    /// Makes one with the reference's table of events.
    pub async fn with_events(context: &Context, payload: &str) -> anyhow::Result<Self> {
        let database = Self::fresh(context).await?;
        let sql = format!(
            "CREATE TABLE events (
                 position bigserial NOT NULL, aggregate_id uuid NOT NULL,
                 sequence bigint NOT NULL, event_type text NOT NULL, payload {payload} NOT NULL,
                 recorded_at timestamptz NOT NULL DEFAULT now(),
                 PRIMARY KEY (aggregate_id, sequence));
             CREATE UNIQUE INDEX events_position ON events (position)"
        );
        database.client.batch_execute(&sql).await?;
        Ok(database)
    }

    /// One more connection.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.url).await
    }
}
