//! One transaction for the batches of several read models.
//!
//! The models follow the same log at the same pace, and a transaction costs as much as
//! some ten rows. Each model's statement is guarded by its own checkpoint, so that one
//! whose checkpoint was moved by somebody else changes nothing and hinders nobody.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::statements::Values;
use crate::{Model, ProjectionError};

/// How long the first batch waits for those of the other models.
const GATHER: Duration = Duration::from_millis(2);
/// A read model may fall behind in a crash, but never apart: rows and checkpoint share
/// the transaction, so its commit need not wait for the disk.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit = off";
/// The same where others wait behind it: a checkpoint that somebody holds (the last step of
/// a rebuild) must not hold the other models up, also where its own batch came alone.
const BEGIN_TOGETHER: &str =
    "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '50ms'";

/// Rows and checkpoint of one model, to be written.
pub(super) struct Write {
    /// Which model; the order of locks is that of the names.
    pub model: &'static str,
    /// Answers whether the checkpoint was where it should be.
    pub sql: Arc<str>,
    /// What is written.
    pub values: Values,
}

type Answer = Result<bool, ProjectionError>;
type Request = (Write, oneshot::Sender<Answer>);

/// Where the models hand in what they want to have written.
#[derive(Clone)]
pub(super) struct Commits(mpsc::Sender<Request>);

impl Commits {
    /// The door, and the work behind it, which ends when every door is gone.
    pub fn through(pool: Pool) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, requests) = mpsc::channel(Model::ALL.len());
        (Self(sender), run(pool, requests))
    }

    /// Writes a batch, together with whatever else is at hand.
    ///
    /// # Errors
    /// As [`super::Storage::write`].
    pub async fn write(&self, write: Write) -> Answer {
        let (answer, answered) = oneshot::channel();
        // The work outlives its doors, so neither fails while a model runs.
        if self.0.send((write, answer)).await.is_err() {
            return Ok(false);
        }
        answered.await.unwrap_or(Ok(false))
    }
}

async fn run(pool: Pool, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let mut gathered = vec![first];
        let until = Instant::now() + GATHER;
        while gathered.len() < Model::ALL.len()
            && let Ok(Some(next)) = timeout_at(until, requests.recv()).await
        {
            gathered.push(next);
        }
        gathered.sort_by_key(|(write, _)| write.model);
        let (writes, answers): (Vec<Write>, Vec<_>) = gathered.into_iter().unzip();
        match together(&pool, &writes).await {
            Ok(moved) => {
                for (answer, moved) in answers.into_iter().zip(moved) {
                    let _ = answer.send(Ok(moved));
                }
            }
            // One of them was refused, or must wait: each for itself.
            Err(_) => {
                for (write, answer) in writes.into_iter().zip(answers) {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        let written = alone(&pool, &write).await;
                        let _ = answer.send(written);
                    });
                }
            }
        }
    }
}

async fn alone(pool: &Pool, write: &Write) -> Answer {
    let moved = transaction(pool, BEGIN, std::slice::from_ref(write)).await?;
    Ok(moved.first().copied().unwrap_or(false))
}

async fn together(pool: &Pool, writes: &[Write]) -> Result<Vec<bool>, ProjectionError> {
    transaction(pool, BEGIN_TOGETHER, writes).await
}

/// Runs the statements in one transaction and one round trip; all of them or none.
async fn transaction(
    pool: &Pool,
    begin: &str,
    writes: &[Write],
) -> Result<Vec<bool>, ProjectionError> {
    let client = pool.get().await?;
    let mut statements = Vec::with_capacity(writes.len());
    for write in writes {
        statements.push(client.prepare_cached(&write.sql).await?);
    }
    let parameters: Vec<_> = writes.iter().map(|write| write.values.parameters()).collect();
    let queries = statements.iter().zip(&parameters);
    let queries = queries.map(|(statement, values)| client.query_opt(statement, values));
    // Sent in this order without waiting in between. A refused statement still meets the
    // COMMIT, which then rolls back: nothing is left open.
    let (begun, written, ended) = futures::join!(
        client.batch_execute(begin),
        join_all(queries),
        client.batch_execute("COMMIT"),
    );
    begun?;
    let moved = written
        .into_iter()
        .map(|row| Ok(row?.is_some()))
        .collect::<Result<Vec<bool>, ProjectionError>>()?;
    ended?;
    Ok(moved)
}
