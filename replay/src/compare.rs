//! The live rows held against the log, in memory and at one position.

use std::collections::HashMap;
use std::time::Instant;

use deadpool_postgres::GenericClient;
use projections::engine::memory::World;
use projections::engine::{Projection, stored, stored_sql};
use projections::{Key, Model, ProjectionError, with_model};
use serde::{Deserialize, Serialize};
use store::Log;

/// Rows that the live table is asked for at a time.
const PAGE: i32 = 2_000;

/// How a live model compares with the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The model.
    pub model: String,
    /// The position at which both were looked at.
    pub position: u64,
    /// Rows that there should be.
    pub rows: u64,
    /// The rows that differ.
    pub differing: Vec<Difference>,
    /// How long it took.
    pub ms: u64,
}

/// A row that is not what the log says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// Whose it is.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// What the log makes of it; absent: there should be no row.
    pub expected: Option<String>,
    /// What the table has; absent: there is no row.
    pub found: Option<String>,
}

/// Folds the log in memory up to the live checkpoint and names the rows that differ.
///
/// # Errors
/// When the database cannot be reached, or the log has a hole.
pub async fn compare(model: Model, log: &Log) -> Result<Comparison, ProjectionError> {
    with_model!(model, projection => run(projection, log).await)
}

/// A read model as it was when the log ended at a position.
///
/// # Errors
/// When the log cannot be reached or has a hole.
pub async fn world_at<P: Projection>(
    projection: P,
    log: &Log,
    position: u64,
) -> Result<World<P>, ProjectionError> {
    let world = told(World::quick(projection), log, position).await?;
    if !world.is_spoilt() {
        return Ok(world);
    }
    told(world.start_carefully(), log, position).await
}

async fn told<P: Projection>(
    mut world: World<P>,
    log: &Log,
    position: u64,
) -> Result<World<P>, ProjectionError> {
    let mut pages = log.scan(world.position(), position);
    loop {
        let events = pages.next().await?;
        if events.is_empty() || world.is_spoilt() {
            return Ok(world);
        }
        world.apply(&events)?;
    }
}

async fn run<P: Projection + Clone>(
    projection: P,
    log: &Log,
) -> Result<Comparison, ProjectionError> {
    loop {
        if let Some(compared) = attempt(&projection, log).await? {
            return Ok(compared);
        }
    }
}

/// `None`: another version took the table's place meanwhile.
async fn attempt<P: Projection + Clone>(
    projection: &P,
    log: &Log,
) -> Result<Option<Comparison>, ProjectionError> {
    let start = Instant::now();
    let mut client = log.pool().get().await?;
    let table = table_of::<P, _>(&client).await?;
    // One snapshot for the checkpoint and every page of rows.
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let checkpoint = "SELECT position FROM read.checkpoints WHERE model = $1";
    let position: i64 = transaction.query_one(checkpoint, &[&P::NAME]).await?.try_get(0)?;
    let position = u64::try_from(position).unwrap_or(0);
    let world = world_at(projection.clone(), log, position).await?;
    let mut expected: HashMap<(String, String), String> = world
        .rows()
        .map(|(tenant, key, row)| ((tenant.to_string(), key.text()), stored::<P>(key, row)))
        .collect();
    let rows = expected.len() as u64;
    drop(world);

    let mut differing = Vec::new();
    let sql = format!("SELECT tenant, key::text, {} FROM read.{}", stored_sql::<P>(), P::NAME);
    let portal = transaction.bind(&sql, &[]).await?;
    loop {
        let page = transaction.query_portal(&portal, PAGE).await?;
        if page.is_empty() {
            break;
        }
        for row in page {
            let (tenant, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let found: String = row.try_get(2)?;
            let should = expected.remove(&(tenant.clone(), key.clone()));
            if should.as_ref() != Some(&found) {
                differing.push(Difference { tenant, key, expected: should, found: Some(found) });
            }
        }
    }
    // A snapshot holds rows, not tables: one that another took the place of may have it all.
    let same = table_of::<P, _>(&transaction).await? == table;
    transaction.commit().await?;
    if !same {
        return Ok(None);
    }
    differing.extend(expected.into_iter().map(|((tenant, key), should)| Difference {
        tenant,
        key,
        expected: Some(should),
        found: None,
    }));
    differing.sort();
    let ms = start.elapsed().as_millis() as u64;
    Ok(Some(Comparison { model: P::NAME.into(), position, rows, differing, ms }))
}

/// Which table is read now, whatever the snapshot.
async fn table_of<P: Projection, C: GenericClient>(client: &C) -> Result<u32, ProjectionError> {
    let table = format!("SELECT 'read.{}'::regclass::oid", P::NAME);
    Ok(client.query_one(&table, &[]).await?.try_get(0)?)
}
