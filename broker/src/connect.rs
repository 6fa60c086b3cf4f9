//! The connection: reconnects for ever, holds back instead of piling up.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};

use crate::BrokerError;

/// Longest pause between two attempts to reconnect.
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// How long the first connection is tried: servers of one start come up in any order.
const FIRST_ATTEMPTS: u32 = 20;
/// Pause between the first attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often a silent server is asked whether it is there. The client gives the connection up
/// at the third time: a server that hangs is noticed within 5 s (reliability R21).
const PING: Duration = Duration::from_millis(1_500);
/// Messages that wait in one subscription before the client drops some: a fleet that sends
/// all its answers at once must not wait for time-outs (512 workers with 16 tasks each are
/// 8,192). Their memory is taken only while they wait.
const SUBSCRIPTION_CAPACITY: usize = 1 << 16;
/// Longest wait for an answer of the JetStream API.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest server whose streams do what the relay relies on (reliability D22).
const LEAST_VERSION: (i64, i64, i64) = (2, 11, 0);
/// The oldest server that we test with; below it a warning is due.
const PINNED_VERSION: (i64, i64, i64) = (2, 14, 0);

/// Connects under a name that `nats server` tools show.
///
/// The connection then mends itself for ever, with pauses of at most one second. Its queues
/// are bounded: while the server is away, senders wait.
///
/// # Errors
/// When no server answers within 5 s, refuses the token, or is older than 2.11.
pub async fn connect(url: &str, token: Option<&str>, name: &str) -> Result<Client, BrokerError> {
    let mut attempt = 0;
    let client = loop {
        attempt += 1;
        match options(token, name).connect(url).await {
            Ok(client) => break client,
            Err(error)
                if attempt < FIRST_ATTEMPTS && error.kind() == async_nats::ConnectErrorKind::Io =>
            {
                tokio::time::sleep(FIRST_PAUSE).await;
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(BrokerError::Connect { url: without_secret(url), reason });
            }
        }
    };
    let version = client.server_info().version;
    let at_least = |(major, minor, patch)| client.is_server_compatible(major, minor, patch);
    if !at_least(LEAST_VERSION) {
        return Err(BrokerError::Unfit(format!(
            "nats-server {version} at {} is too old: 2.11 or newer is needed (2.14 or newer is \
             advised); upgrade it, or leave TAFFRAIL_NATS_URL unset to use the embedded one",
            without_secret(url)
        )));
    }
    if !at_least(PINNED_VERSION) {
        tracing::warn!(%version, "nats-server is older than 2.14; upgrade it");
    }
    Ok(client)
}

fn options(token: Option<&str>, name: &str) -> ConnectOptions {
    let options = ConnectOptions::new()
        .name(name)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING)
        .reconnect_delay_callback(|attempts| {
            let factor = 1u32 << attempts.min(8);
            (Duration::from_millis(10) * factor).min(RECONNECT_MAX)
        })
        .event_callback(|event| async move {
            match event {
                Event::Connected => tracing::info!("connected to NATS"),
                Event::Disconnected => tracing::warn!("the connection to NATS is gone"),
                Event::SlowConsumer(subscription) => {
                    tracing::warn!(subscription, "a subscription is full; messages were dropped");
                }
                Event::ServerError(error) => tracing::warn!(%error, "NATS reports an error"),
                Event::ClientError(error) => tracing::debug!(%error, "NATS client"),
                Event::LameDuckMode | Event::Draining | Event::Closed => {
                    tracing::debug!(%event, "NATS connection");
                }
            }
        });
    match token {
        Some(token) => options.token(token.to_owned()),
        None => options,
    }
}

/// The address without user and password: it goes into messages and logs.
fn without_secret(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_secret;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(without_secret("nats://user:pass@host:4222"), "nats://host:4222");
        assert_eq!(without_secret("nats://host:4222"), "nats://host:4222");
    }
}
