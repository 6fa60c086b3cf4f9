//! Twenty clients and a subscriber.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::client::{Client, Shared};
use crate::history::{Entry, Heard};
use crate::plan::Plan;

/// Closed-loop clients of a run.
const CLIENTS: usize = 20;
/// Longer than a silent stream stays without a comment line.
const SILENCE: Duration = Duration::from_secs(20);

/// The running load.
pub struct Load {
    clients: JoinSet<()>,
    subscriber: JoinHandle<()>,
    /// Up to where the subscriber is to listen, once that is known.
    until: watch::Sender<Option<u64>>,
}

impl Load {
    /// Starts the clients and a subscriber to the whole log.
    pub fn start(shared: &Arc<Shared>, plan: &Plan) -> Self {
        let mut clients = JoinSet::new();
        for n in 0..CLIENTS {
            clients.spawn(Client::new(n, shared.clone(), plan.dice(n as u64)).run());
        }
        let (until, wanted) = watch::channel(None);
        let subscriber = tokio::spawn(subscribe(shared.clone(), wanted));
        Self { clients, subscriber, until }
    }

    /// Ends the clients; each sees its last command through.
    pub async fn settle(&mut self, shared: &Shared) {
        shared.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let probes = std::mem::take(&mut *shared.probes.lock());
        for probes in probes {
            probes.join_all().await;
        }
    }

    /// Lets the subscriber listen up to a position; false when it does not get there.
    pub async fn heard(mut self, head: u64, patience: Duration) -> bool {
        self.until.send_replace(Some(head));
        let ended = timeout(patience, &mut self.subscriber).await;
        self.subscriber.abort();
        ended.is_ok()
    }
}

/// Follows the log over SSE, from the first event on, and begins again where it broke off.
async fn subscribe(shared: Arc<Shared>, mut wanted: watch::Receiver<Option<u64>>) {
    let (mut after, mut gateway) = (0, 0);
    while !is_done(&wanted, after) {
        let path = format!("/v1/events/stream?after={after}");
        let request = shared.doors.api(gateway).request(reqwest::Method::GET, &path);
        gateway += 1;
        if let Ok(answer) = request.send().await
            && answer.status().is_success()
        {
            let mut bytes = answer.bytes_stream();
            let mut rest = Vec::new();
            while !is_done(&wanted, after) {
                let chunk = tokio::select! {
                    chunk = timeout(SILENCE, bytes.next()) => chunk,
                    changed = wanted.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                };
                let Ok(Some(Ok(chunk))) = chunk else { break };
                rest.extend_from_slice(&chunk);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if let Some(event) = heard(&line) {
                        after = event.position;
                        shared.history.note(Entry::Heard(event));
                    }
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn is_done(wanted: &watch::Receiver<Option<u64>>, after: u64) -> bool {
    wanted.borrow().is_some_and(|head| after >= head)
}

fn heard(line: &[u8]) -> Option<Heard> {
    let event: Value = serde_json::from_slice(line.strip_prefix(b"data: ")?).ok()?;
    let position = event["sequence"].as_str()?.parse().ok()?;
    Some(Heard { position, hash: event["hash"].as_str()?.to_owned() })
}
