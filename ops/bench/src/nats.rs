//! NATS connections of the load generator.

use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, ConnectOptions};

/// Messages that may wait in one subscription: a generator that falls behind for a moment
/// must not lose answers, which would count as failures of the server.
const SUBSCRIPTION_CAPACITY: usize = 1 << 17;
/// How long an answer is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Connects.
///
/// # Errors
/// When no server answers.
pub async fn connect(url: &str, token: Option<&str>) -> anyhow::Result<Client> {
    let options = ConnectOptions::new()
        .name("taffrail bench")
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .request_timeout(Some(PATIENCE));
    let options = match token {
        Some(token) => options.token(token.to_owned()),
        None => options,
    };
    options.connect(url).await.context("NATS does not answer")
}
