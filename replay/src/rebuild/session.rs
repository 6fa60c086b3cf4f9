//! The connection that a rebuild lives on: its lock, and what needs the owner's rights.

use std::time::Duration;

use commands::Ids;
use deadpool_postgres::{Client, ClientWrapper};
use projections::ProjectionError;
use projections::engine::Projection;
use store::Log;
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;
use uuid::Uuid;

/// How long an operation that is taken up again waits for the session of the process that
/// died at it: PostgreSQL looks after [`NOTICE`] whether its client is still there.
const PREDECESSOR: Duration = Duration::from_secs(15);
const NOTICE: &str = "SET client_connection_check_interval = '1s'; SET statement_timeout = 0";
/// How long a lock is waited for that no rebuild seems to hold: cleaning up takes it for moments.
const MOMENTS: Duration = Duration::from_secs(2);
/// Between two attempts to get the lock.
const AGAIN: Duration = Duration::from_millis(200);

/// Holds a model's lock. A session lock on a connection that leaves the pool: it goes with
/// the connection, however the work ends.
pub(super) struct Session {
    client: ClientWrapper,
    log: Log,
    model: &'static str,
    run: Uuid,
    operation: Option<Uuid>,
    over: bool,
}

impl Session {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`ProjectionError::Busy`] when another has it.
    pub async fn open<P: Projection>(
        log: &Log,
        operation: Option<Uuid>,
    ) -> Result<Self, ProjectionError> {
        Self::of(log, P::NAME, operation).await
    }

    pub async fn of(
        log: &Log,
        model: &'static str,
        operation: Option<Uuid>,
    ) -> Result<Self, ProjectionError> {
        let client = Client::take(log.pool().get().await?);
        client.batch_execute(NOTICE).await?;
        let begin = Instant::now();
        while !lock(&client, model).await? {
            let runs = "SELECT operation FROM rebuild.runs WHERE model = $1";
            let other = client.query_opt(runs, &[&model]).await?;
            let patience = match &other {
                Some(row) if operation.is_some() && row.get::<_, Option<Uuid>>(0) == operation => {
                    PREDECESSOR
                }
                Some(_) => Duration::ZERO,
                None => MOMENTS,
            };
            if begin.elapsed() >= patience {
                let operation = other.and_then(|row| row.get(0));
                return Err(ProjectionError::Busy { model, operation });
            }
            sleep(AGAIN).await;
        }
        let run = Ids.fresh();
        Ok(Self { client, log: log.clone(), model, run, operation, over: false })
    }

    /// The connection.
    pub fn client(&self) -> &ClientWrapper {
        &self.client
    }

    /// Which run this is; the switch asks for it.
    pub fn run(&self) -> Uuid {
        self.run
    }

    /// Removes what is left of the run before, and makes empty tables for a fold.
    pub async fn start(&self, fold: Option<i32>) -> Result<(), ProjectionError> {
        let start = "SELECT rebuild.start($1, $2, $3, $4)";
        self.client.query_one(start, &[&self.model, &self.run, &self.operation, &fold]).await?;
        Ok(())
    }

    /// Makes the tables that were filled fit to be read.
    pub async fn finish(&self) -> Result<(), ProjectionError> {
        self.client.query_one("SELECT rebuild.finish($1)", &[&self.model]).await?;
        let made = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
                    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname IN ('rebuild', 'rebuild_past') AND c.relname = $1
                      AND current_setting('server_version_num')::integer >= 170000";
        for row in self.client.query(made, &[&self.model]).await? {
            let vacuum = format!("VACUUM {}", row.get::<_, String>(0));
            self.client.batch_execute(&vacuum).await?;
        }
        Ok(())
    }

    /// Lets the lock go; nothing was begun.
    pub fn leave(mut self) {
        self.over = true;
    }

    /// Removes what is left, and lets the lock go.
    pub async fn end(mut self) -> Result<(), ProjectionError> {
        self.client.query_one("SELECT rebuild.discard($1)", &[&self.model]).await?;
        self.over = true;
        Ok(())
    }
}

impl Drop for Session {
    /// Cut short: what runs is stopped, and what was made is removed.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (cancel, log, model) = (self.client.cancel_token(), self.log.clone(), self.model);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let _ = cancel.cancel_query(NoTls).await;
            // The connection is closed behind this; its lock goes when PostgreSQL sees that.
            for _ in 0..25 {
                sleep(AGAIN).await;
                match discard_unless_busy(&log, model).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    // The next start does it.
                    Err(_) => return,
                }
            }
        });
    }
}

/// Removes what a rebuild left behind, unless one is under way.
pub(super) async fn discard_unless_busy(
    log: &Log,
    model: &'static str,
) -> Result<bool, ProjectionError> {
    let client = Client::take(log.pool().get().await?);
    if !lock(&client, model).await? {
        return Ok(false);
    }
    client.query_one("SELECT rebuild.discard($1)", &[&model]).await?;
    Ok(true)
}

async fn lock(client: &ClientWrapper, model: &str) -> Result<bool, ProjectionError> {
    let lock = "SELECT pg_try_advisory_lock(hashtextextended('taffrail rebuild ' || $1, 0))";
    Ok(client.query_one(lock, &[&model]).await?.try_get(0)?)
}
