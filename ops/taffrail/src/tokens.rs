//! The first admin token, and how it is kept.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use deadpool_postgres::Pool;

/// A token of 32 random bytes; the prefix makes it findable when it leaks.
pub fn fresh() -> String {
    format!("tfr_{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// The data folder's token: the one of the last run, or a fresh one.
pub fn of_folder(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("token");
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() >= 32 => return Ok(token.trim().into()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
    }
    let token = fresh();
    write_private(&path, token.as_bytes())?;
    Ok(token)
}

/// Writes a file that only its owner can read; replaces it as a whole.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// Makes a token valid; without one, nothing changes.
pub async fn ensure(pool: &Pool, token: Option<&str>) -> anyhow::Result<()> {
    let Some(token) = token else { return Ok(()) };
    let digest = gateway::Tokens::digest(token);
    let client = pool.get().await?;
    client
        .execute(
            "INSERT INTO api_tokens (digest, tenant, principal, role)
             SELECT $1, 'default', 'admin', 'admin'
             WHERE NOT EXISTS (SELECT FROM api_tokens WHERE digest = $1)
             ON CONFLICT DO NOTHING",
            &[&digest.as_slice()],
        )
        .await?;
    Ok(())
}

/// Whether anybody can come in.
pub async fn any(database_url: &str) -> anyhow::Result<bool> {
    let urls = migrations::service_urls(database_url)?;
    let pool = store::connect_pool(&urls.gateway, 1)?;
    let client = pool.get().await.context(
        "PostgreSQL cannot be reached as taffrail_gateway; \
         run `taffrail migrate` once with the same address",
    )?;
    migrations::check(&client).await?;
    let row = client.query_one("SELECT EXISTS (SELECT FROM api_tokens)", &[]).await?;
    Ok(row.get(0))
}
