//! Tells what was seen, in order per agent, until there is an outcome.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::agent::ObserveAgent;
use domain::{AgentId, Outcome, Status};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

use crate::book::Book;
use crate::link::{Link, Silence, words};

/// Agents that are told of at once.
const AT_ONCE: usize = 32;
/// After a try without an answer; once in a while the connection's return is not noticed.
const PAUSE: Duration = Duration::from_millis(500);

/// Tells for ever.
pub(crate) async fn run(book: Arc<Book>, link: Link) {
    let mut in_flight = BTreeSet::new();
    let mut tries = FuturesUnordered::new();
    let mut made = link.made();
    loop {
        let news = book.news.notified();
        if link.is_up() {
            for (agent, seen) in book.heads(&in_flight) {
                if in_flight.len() >= AT_ONCE {
                    break;
                }
                in_flight.insert(agent);
                tries.push(attempt(&link, agent, seen));
            }
        }
        tokio::select! {
            Some((agent, seen, answer)) = tries.next() => {
                in_flight.remove(&agent);
                if !settle(&book, agent, &seen, answer) {
                    // Nobody is there for the others either.
                    tokio::select! { () = sleep(PAUSE) => {}, _ = made.changed() => {} }
                }
            }
            () = news => {}
            _ = made.changed() => {}
            // Rung between the look at the book and the wait, or a state that has not settled.
            () = sleep(PAUSE), if tries.is_empty() && !book.is_told() => {}
        }
    }
}

async fn attempt(
    link: &Link,
    agent: AgentId,
    seen: ObserveAgent,
) -> (AgentId, ObserveAgent, Result<Outcome, Silence>) {
    let answer = link.observe(agent, &seen).await;
    (agent, seen, answer)
}

/// Whether there is an outcome.
fn settle(
    book: &Book,
    agent: AgentId,
    seen: &ObserveAgent,
    answer: Result<Outcome, Silence>,
) -> bool {
    let outcome = match answer {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::debug!(%agent, %error, "an observation waits");
            return false;
        }
    };
    match outcome.decision().status {
        Status::Accepted | Status::Duplicate => {}
        Status::Busy => return false,
        // It will not be taken another time either.
        Status::Refused | Status::Invalid => {
            let why = words(outcome.decision().problem.as_ref());
            tracing::warn!(%agent, phase = seen.phase.as_str(), %why, "an observation was not taken");
        }
    }
    book.told(agent, seen.generation, seen.seq);
    true
}
