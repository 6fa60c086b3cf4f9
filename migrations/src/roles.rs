//! The two roles that the services log in as. They own nothing (reliability D52).

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::config::Host;

use crate::MigrateError;

/// Appends and reads across tenants: processor, relay, projector, managers.
pub const SERVICE: &str = "taffrail_service";
/// Answers queries under row-level security.
pub const GATEWAY: &str = "taffrail_gateway";

/// Where the services connect.
#[derive(Clone)]
pub struct ServiceUrls {
    /// As [`SERVICE`].
    pub service: String,
    /// As [`GATEWAY`].
    pub gateway: String,
}

/// The services' addresses, from the address that migrations use.
///
/// Their passwords derive from that address's own, so every process that is given the one
/// address can log in as either role and no second secret has to be handed around. An
/// address that names a service role already is used as it is.
///
/// # Errors
/// When the address cannot be understood.
pub fn service_urls(url: &str) -> Result<ServiceUrls, MigrateError> {
    Ok(ServiceUrls { service: as_role(url, SERVICE)?, gateway: as_role(url, GATEWAY)? })
}

fn parse(url: &str) -> Result<tokio_postgres::Config, MigrateError> {
    // The parser's message may repeat the password: it must not reach a log.
    url.parse().map_err(|_| {
        MigrateError::Unfit(
            "the database address is not understood; \
             expected postgres://user:password@host:port/database"
                .into(),
        )
    })
}

fn as_role(url: &str, role: &str) -> Result<String, MigrateError> {
    let config = parse(url)?;
    if config.get_user().is_some_and(|user| user == SERVICE || user == GATEWAY) {
        return Ok(url.into());
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(_)) | None => {
            return Err(MigrateError::Unfit("the database address must name a TCP host".into()));
        }
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    let password = derived(&config, role);
    Ok(format!("postgres://{role}:{password}@{host}:{port}/{database}"))
}

/// Hex of SHA-256 over the role's name and the address's own password.
fn derived(config: &tokio_postgres::Config, role: &str) -> String {
    let mut sha = Sha256::new();
    sha.update(b"taffrail role\0");
    sha.update(role);
    sha.update([0]);
    sha.update(config.get_password().unwrap_or_default());
    hex::encode(sha.finalize())
}

/// Creates the roles where they are missing and gives them their passwords.
pub(crate) async fn ensure(client: &Client, url: &str) -> Result<(), MigrateError> {
    let config = parse(url)?;
    for role in [SERVICE, GATEWAY] {
        let known = client
            .query_opt(
                "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1",
                &[&role],
            )
            .await?;
        // The mark changes with the password but does not reveal it.
        let password = derived(&config, role);
        let mark = hex::encode(Sha256::digest(password.as_bytes()));
        if known.as_ref().is_some_and(|row| row.get::<_, Option<String>>(0) == Some(mark.clone())) {
            continue;
        }
        let verb = if known.is_some() { "ALTER" } else { "CREATE" };
        // Salted and hashed here, because statements may end up in the server's log.
        let secret = postgres_protocol::password::scram_sha_256(password.as_bytes());
        // Roles belong to the whole server: two databases may be migrated at once.
        let sql = format!(
            "DO $$ BEGIN
                 {verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS
                     PASSWORD '{secret}';
                 COMMENT ON ROLE {role} IS '{mark}';
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
             END $$"
        );
        client.batch_execute(&sql).await.map_err(|error| match error.code() {
            Some(code) if *code == tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE => {
                MigrateError::Unfit(format!(
                    "the database role may not create {role}. Run `taffrail migrate` with an \
                     address whose role has CREATEROLE"
                ))
            }
            _ => error.into(),
        })?;
    }
    Ok(())
}
