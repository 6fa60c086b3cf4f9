//! Connecting, and refusing a server that cannot carry the promises.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::{Client, NoTls};

use crate::StoreError;

/// Oldest PostgreSQL that is taken.
const OLDEST_SERVER: i32 = 150_000;

/// A bounded pool of connections; callers wait at most 5 s for one.
///
/// # Errors
/// When the address cannot be understood.
pub fn connect_pool(url: &str, size: usize) -> Result<Pool, StoreError> {
    let config = configured(url)?;
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let wait = Some(Duration::from_secs(5));
    Pool::builder(Manager::from_config(config, NoTls, manager))
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts { wait, create: wait, recycle: wait })
        .build()
        .map_err(|error| StoreError::Unfit(format!("connection pool: {error}")))
}

/// One connection outside any pool.
///
/// # Errors
/// When the server cannot be reached.
pub(crate) async fn connect_alone(url: &str) -> Result<Client, StoreError> {
    let (client, connection) = configured(url)?.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "a database connection ended");
        }
    });
    Ok(client)
}

pub(crate) fn configured(url: &str) -> Result<tokio_postgres::Config, StoreError> {
    // The parser's message may repeat the password: it must not reach a log.
    let mut config: tokio_postgres::Config = url.parse().map_err(|_| {
        StoreError::Unfit(
            "the database address is not understood; \
             expected postgres://user:password@host:port/database"
                .into(),
        )
    })?;
    config
        .application_name("taffrail")
        .connect_timeout(Duration::from_secs(5))
        // A server whose machine is gone is noticed within half a minute.
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(25));
    Ok(config)
}

/// Checks version and settings of the server.
///
/// # Errors
/// When the server may lose what it acknowledged; the message names the remedy.
pub async fn check_server(client: &Client) -> Result<(), StoreError> {
    let setting = async |name: &str| -> Result<String, StoreError> {
        Ok(client.query_one("SELECT current_setting($1)", &[&name]).await?.get(0))
    };
    let version: i32 = setting("server_version_num").await?.parse().unwrap_or(0);
    if version < OLDEST_SERVER {
        let found = setting("server_version").await?;
        return Err(StoreError::Unfit(format!(
            "PostgreSQL {found} is too old: 15 or newer is needed. Upgrade the server, or leave \
             TAFFRAIL_DATABASE_URL unset to run the embedded one"
        )));
    }
    for name in ["fsync", "full_page_writes"] {
        if setting(name).await? != "on" {
            return Err(StoreError::Unfit(format!(
                "PostgreSQL runs with {name}=off and may lose acknowledged commands in a crash. \
                 Set `{name} = on` in postgresql.conf (ALTER SYSTEM SET {name} = on; \
                 SELECT pg_reload_conf();) and start again"
            )));
        }
    }
    let commit = setting("synchronous_commit").await?;
    if !matches!(commit.as_str(), "on" | "remote_apply") {
        return Err(StoreError::Unfit(format!(
            "synchronous_commit is `{commit}` for this role: an answer could come before the \
             flush. Remove the setting (ALTER ROLE … RESET synchronous_commit) and start again"
        )));
    }
    Ok(())
}

/// Checks that a connection sees no tenant's rows unless it names the tenant (reliability
/// D57): what the gateway's queries rest on. The canary is the log's first event.
///
/// # Errors
/// When the role passes over row-level security, or a table lacks it.
pub async fn check_tenant_wall(client: &Client) -> Result<(), StoreError> {
    let row = client
        .query_one(
            "SELECT current_user::text, pg_has_role('taffrail_service', 'MEMBER'),
                    EXISTS (SELECT FROM events WHERE position = 1),
                    ARRAY(SELECT c.oid::regclass::text FROM pg_class c
                          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'
                          WHERE c.relkind IN ('r', 'p') AND c.relname <> 'api_tokens'
                            AND has_table_privilege(c.oid, 'SELECT')
                            AND NOT row_security_active(c.oid))",
            &[],
        )
        .await?;
    let (role, is_service, sees): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let open: Vec<String> = row.get(3);
    if is_service || sees || !open.is_empty() {
        return Err(StoreError::Unfit(format!(
            "the gateway's database role `{role}` reads rows of every tenant (tables without \
             row-level security for it: {open:?}). Give the gateway the database's owner or \
             taffrail_gateway as its address, and run `taffrail migrate`"
        )));
    }
    Ok(())
}
