//! `taffrail doctor` and `taffrail servers fetch`: where the server programs come from, and how
//! strongly agents can be kept apart.

use anyhow::Context;
use serde_json::{Value, json};

use crate::config::Config;

/// One row per place where a server program could come from.
pub fn attempts(config: &Config, offline: bool) -> anyhow::Result<Vec<servers::Attempt>> {
    Ok(servers::probe(&config.servers(offline)?))
}

/// What this host can enforce; runs a program at each level.
pub async fn sandbox() -> sandbox::Report {
    sandbox::Sandbox::new().doctor().await
}

/// Both as JSON.
pub fn as_json(attempts: &[servers::Attempt], sandbox: &sandbox::Report) -> Value {
    let rows: Vec<Value> = attempts
        .iter()
        .map(|attempt| {
            let (found, detail) = match &attempt.outcome {
                servers::Outcome::Found(at) => {
                    (true, format!("{} in {}", at.version, at.bin_dir.display()))
                }
                servers::Outcome::Skipped(why) | servers::Outcome::Failed(why) => {
                    (false, why.clone())
                }
            };
            json!({
                "server": format!("{:?}", attempt.server).to_lowercase(),
                "source": attempt.source.to_string(),
                "found": found,
                "detail": detail,
            })
        })
        .collect();
    json!({ "servers": rows, "sandbox": sandbox })
}

/// Fills the cache, for images that will be offline.
pub async fn fetch(config: &Config, offline: bool) -> anyhow::Result<servers::Programs> {
    let options = config.servers(offline)?;
    let find = if offline { servers::locate } else { servers::fetch };
    let fetched = tokio::task::spawn_blocking(move || find(&options)).await;
    Ok(fetched.context("the fetch broke off")??)
}
