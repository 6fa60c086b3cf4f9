//! `taffrail serve` and `taffrail migrate`: roles alone, against shared servers.

use std::time::Instant;

use anyhow::{Context, bail};

use crate::cli::Role;
use crate::config::Config;
use crate::ready::Ready;
use crate::wiring::{self, Servers};
use crate::{signals, tokens};

/// Runs some roles until a signal comes.
pub async fn serve(config: &Config, roles: &[Role], ready: Ready) -> anyhow::Result<()> {
    let start = Instant::now();
    config.check()?;
    if roles.is_empty() {
        bail!("name at least one --role");
    }
    let servers = Servers {
        database_url: database_url(config)?.into(),
        nats_url: config.nats_url().context("TAFFRAIL_NATS_URL is not set")?.into(),
        nats_token: config.nats_token().map(Into::into),
        exclusive: false,
        data_dir: config.data_dir(),
    };
    let given = std::env::var("TAFFRAIL_TOKEN").ok().filter(|token| !token.is_empty());
    let fresh = match &given {
        None if roles.contains(&Role::Gateway) && !tokens::any(&servers.database_url).await? => {
            Some(tokens::fresh())
        }
        None | Some(_) => None,
    };
    let token = given.as_ref().or(fresh.as_ref());
    let mut running = wiring::start(config, roles, &servers, token.map(String::as_str)).await?;
    if let Some(address) = running.http {
        ready.http(&format!("http://{address}"));
        // One that was given is a secret of whoever gave it.
        if let Some(token) = &fresh {
            ready.token(token);
        }
    }
    ready.all(start.elapsed());

    let broken = tokio::select! {
        () = signals::terminated() => None,
        name = running.broken() => Some(name),
    };
    tokio::select! {
        () = running.stop() => {}
        () = signals::terminated() => bail!("stopped without waiting for what was under way"),
    }
    match broken {
        Some(name) => bail!("the {name} role ended by itself"),
        None => Ok(()),
    }
}

/// Brings the database to this release's schema; yields what was applied.
pub async fn migrate(config: &Config) -> anyhow::Result<Vec<String>> {
    Ok(migrations::migrate(database_url(config)?).await?)
}

fn database_url(config: &Config) -> anyhow::Result<&str> {
    config.database_url().context("TAFFRAIL_DATABASE_URL is not set")
}
