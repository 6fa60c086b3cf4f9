//! A read model made anew beside the live one, then put in its place.
//!
//! Readers see the old rows until the commit that brings the new ones; nothing is ever
//! empty or steps back. The live engine goes on meanwhile; it waits only for the last
//! step, which holds the checkpoint's row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Client, GenericClient, Transaction};
use domain::Recorded;
use projections::engine::{Checkpoint, Folder, Projection, Schema, Storage};
use projections::{Model, ProjectionError, with_model};
use serde::{Deserialize, Serialize};
use store::Log;

/// Rows kept in memory between batches.
const KEPT_BYTES: usize = 128 << 20;
/// Events folded at a time.
const BATCH: usize = 8_192;
/// Payload bytes folded at a time.
const BATCH_BYTES: usize = 8 << 20;
/// Events that the last step may fold while it holds the live engine up.
const LAST_STEP: u64 = 2_000;
/// Rounds of catching up with a live model that keeps running ahead.
const ROUNDS: usize = 20;
/// How long to wait for a live model that lags behind the log's end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// The model.
    pub model: String,
    /// Events folded.
    pub events: u64,
    /// Rows made.
    pub rows: u64,
    /// Rows that were not what the live table had at the same position; absent when the
    /// live model was not far enough to be compared.
    pub differing: Option<u64>,
    /// Streams that stand still, because an event of theirs can't be folded.
    pub parked: u64,
    /// The position that the rows reflect.
    pub position: u64,
    /// How long it took.
    pub ms: u64,
}

/// Makes a model anew and puts it in the place of the live one.
///
/// `progress` is told the position reached and the head that was there at the start.
///
/// # Errors
/// [`ProjectionError::Busy`] when somebody is at it already; else when the database
/// cannot be reached. The live rows then stand as they did.
pub async fn rebuild(
    model: Model,
    log: &Log,
    progress: impl FnMut(u64, u64) + Send,
) -> Result<RebuildReport, ProjectionError> {
    with_model!(model, projection => run(projection, log, progress).await)
}

async fn run<P: Projection>(
    projection: P,
    log: &Log,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<RebuildReport, ProjectionError> {
    let start = Instant::now();
    let mut client = log.pool().get().await?;
    // A session lock on a connection that leaves the pool: it goes with the connection,
    // however this function ends.
    let guard = Client::take(log.pool().get().await?);
    let lock = "SELECT pg_try_advisory_lock(hashtextextended('taffrail rebuild ' || $1, 0))";
    if !guard.query_one(lock, &[&P::NAME]).await?.try_get::<_, bool>(0)? {
        return Err(ProjectionError::Busy { model: P::NAME });
    }
    let at = empty_shadow::<P>(&mut client).await?;
    let storage = Storage::<P>::new(Schema::Shadow);
    let mut folder = Folder::new(projection, storage, at, Default::default(), KEPT_BYTES);

    let head = log.head().await?.position;
    catch_up(&mut folder, log, &mut client, head, |at| progress(at, head)).await?;
    let patient_until = start.elapsed() + PATIENCE;
    for _ in 0..ROUNDS {
        let live = live_position::<P>(&client).await?;
        let own = folder.at().position;
        if live < own && start.elapsed() < patient_until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        } else if live > own + LAST_STEP {
            catch_up(&mut folder, log, &mut client, live, |at| progress(at, head)).await?;
        } else if live >= own {
            break;
        }
    }
    let (rows, differing) = replace(&mut folder, log, &mut client).await?;
    let report = RebuildReport {
        model: P::NAME.into(),
        events: folder.at().position,
        rows,
        differing,
        parked: folder.parked().len() as u64,
        position: folder.at().position,
        ms: start.elapsed().as_millis() as u64,
    };
    truncate::<P, _>(&client).await?;
    tracing::info!(
        model = P::NAME,
        events = report.events,
        rows,
        differing,
        ms = report.ms,
        "the read model was rebuilt"
    );
    Ok(report)
}

async fn empty_shadow<P: Projection>(client: &mut Client) -> Result<Checkpoint, ProjectionError> {
    let transaction = client.transaction().await?;
    truncate::<P, _>(&transaction).await?;
    transaction.execute("DELETE FROM rebuild.parked WHERE model = $1", &[&P::NAME]).await?;
    transaction.execute("DELETE FROM rebuild.numbers WHERE model = $1", &[&P::NAME]).await?;
    transaction
        .execute(
            "INSERT INTO rebuild.checkpoints VALUES ($1, 0, 1, 'epoch', clock_timestamp())
             ON CONFLICT (model) DO UPDATE SET position = 0, generation = 1",
            &[&P::NAME],
        )
        .await?;
    transaction.commit().await?;
    Ok(Checkpoint { position: 0, generation: 1 })
}

async fn truncate<P: Projection, C: GenericClient>(client: &C) -> Result<(), ProjectionError> {
    let tables = format!("TRUNCATE rebuild.{0}", P::NAME);
    client.batch_execute(&tables).await?;
    if !P::WRITE_ONCE {
        client.batch_execute(&format!("TRUNCATE rebuild_past.{}", P::NAME)).await?;
    }
    Ok(())
}

async fn live_position<P: Projection>(client: &Client) -> Result<u64, ProjectionError> {
    Ok(Storage::<P>::new(Schema::Live).checkpoint(client).await?.0.position)
}

/// Folds the log into the shadow up to a position; the log is read ahead meanwhile.
async fn catch_up<P: Projection>(
    folder: &mut Folder<P>,
    log: &Log,
    client: &mut Client,
    target: u64,
    mut progress: impl FnMut(u64),
) -> Result<(), ProjectionError> {
    let mut pages = log.scan(folder.at().position, target);
    let (mut events, mut bytes) = (Vec::new(), 0);
    loop {
        let page = pages.next().await?;
        let over = page.is_empty();
        bytes += page.iter().map(|event| event.payload.len()).sum::<usize>();
        events.extend(page);
        // Rows that change often are written the less often, the longer the batch.
        if events.len() < BATCH && bytes < BATCH_BYTES && !over {
            continue;
        }
        let Some(last) = events.last().map(|last: &Arc<Recorded>| last.position) else {
            return Ok(());
        };
        if let Some(folded) = folder.fold(&*client, &events).await? {
            if !folder.storage().write(client, folder.at(), &folded).await? {
                // The lock was lost with its connection and somebody else began.
                return Err(ProjectionError::Busy { model: P::NAME });
            }
            folder.settle(folded);
        }
        events.clear();
        bytes = 0;
        progress(last);
        if over {
            return Ok(());
        }
    }
}

/// The last step: with the live checkpoint held, folds what is missing, compares, and
/// replaces what differs.
async fn replace<P: Projection>(
    folder: &mut Folder<P>,
    log: &Log,
    client: &mut Client,
) -> Result<(u64, Option<u64>), ProjectionError> {
    let transaction = client.transaction().await?;
    let hold = "SELECT position FROM read.checkpoints WHERE model = $1 FOR UPDATE";
    let live: i64 = transaction.query_one(hold, &[&P::NAME]).await?.try_get(0)?;
    let live = u64::try_from(live).unwrap_or(0);
    while folder.at().position < live {
        let limit = usize::try_from(live - folder.at().position).unwrap_or(1);
        let events: Vec<Arc<Recorded>> =
            log.read(folder.at().position, limit.min(projections::engine::MAX_BATCH)).await?;
        if events.is_empty() {
            break;
        }
        fold_within(folder, &transaction, &events).await?;
    }
    let differing = if folder.at().position == live {
        Some(count(&transaction, &differing_sql::<P>()).await?)
    } else {
        None
    };
    if differing != Some(0) {
        transaction.batch_execute(&replace_sql::<P>()).await?;
    }
    if !P::WRITE_ONCE {
        let past = format!(
            "DELETE FROM past.{0}; INSERT INTO past.{0} SELECT * FROM rebuild_past.{0}",
            P::NAME
        );
        transaction.batch_execute(&past).await?;
    }
    transaction
        .execute(
            "UPDATE read.checkpoints c SET position = s.position, recorded_at = s.recorded_at,
                    generation = c.generation + 1, updated_at = clock_timestamp()
             FROM rebuild.checkpoints s WHERE c.model = $1 AND s.model = $1",
            &[&P::NAME],
        )
        .await?;
    transaction.execute("DELETE FROM read.parked WHERE model = $1", &[&P::NAME]).await?;
    let park = "INSERT INTO read.parked SELECT * FROM rebuild.parked WHERE model = $1";
    transaction.execute(park, &[&P::NAME]).await?;
    transaction.execute("DELETE FROM read.numbers WHERE model = $1", &[&P::NAME]).await?;
    let count_on = "INSERT INTO read.numbers SELECT * FROM rebuild.numbers WHERE model = $1";
    transaction.execute(count_on, &[&P::NAME]).await?;
    let rows = count(&transaction, &format!("SELECT count(*) FROM rebuild.{}", P::NAME)).await?;
    transaction.commit().await?;
    Ok((rows, differing))
}

async fn fold_within<P: Projection>(
    folder: &mut Folder<P>,
    transaction: &Transaction<'_>,
    events: &[Arc<Recorded>],
) -> Result<(), ProjectionError> {
    if let Some(folded) = folder.fold(transaction, events).await? {
        let at = folder.at();
        if !folder.storage().write_within(transaction, at, &folded).await? {
            return Err(ProjectionError::Busy { model: P::NAME });
        }
        folder.settle(folded);
    }
    Ok(())
}

async fn count(transaction: &Transaction<'_>, sql: &str) -> Result<u64, ProjectionError> {
    let counted: i64 = transaction.query_one(sql, &[]).await?.try_get(0)?;
    Ok(u64::try_from(counted).unwrap_or(0))
}

fn differing_sql<P: Projection>() -> String {
    let name = P::NAME;
    format!(
        "SELECT count(*) FROM read.{name} a FULL JOIN rebuild.{name} b
                ON a.tenant = b.tenant AND a.key = b.key
         WHERE ROW(a.*) IS DISTINCT FROM ROW(b.*)"
    )
}

/// Removes the live rows that are no more, and writes those that are new or different.
fn replace_sql<P: Projection>() -> String {
    let name = P::NAME;
    let document = P::DOCUMENT.then_some("doc");
    let columns = document.into_iter().chain(P::COLUMNS.iter().map(|column| column.name));
    let updates: Vec<String> = columns.map(|name| format!("{name} = EXCLUDED.{name}")).collect();
    format!(
        "DELETE FROM read.{name} a WHERE NOT EXISTS
             (SELECT FROM rebuild.{name} b WHERE b.tenant = a.tenant AND b.key = a.key);
         INSERT INTO read.{name}
             SELECT b.* FROM rebuild.{name} b LEFT JOIN read.{name} a
                    ON a.tenant = b.tenant AND a.key = b.key
             WHERE ROW(a.*) IS DISTINCT FROM ROW(b.*)
             ON CONFLICT (tenant, key) DO UPDATE SET {}",
        updates.join(", ")
    )
}
