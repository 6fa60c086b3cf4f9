//! Models whose rows another release made, and what was left behind by rebuilds.

use domain::{Event, StreamType};
use projections::{Model, ProjectionError, with_model};
use store::Log;

use super::session::{Session, discard_unless_busy};

/// A model whose rows were made by another version of the fold, or without events that this
/// release knows and the one before it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// The model.
    pub model: Model,
    /// The version that made its rows.
    pub fold: i32,
    /// The version of this release.
    pub ours: i32,
    /// Grows with every switch: tells one attempt from the next.
    pub generation: i64,
}

/// The models whose rows this release would make otherwise.
///
/// # Errors
/// When the database cannot be reached.
pub async fn outdated(log: &Log) -> Result<Vec<Outdated>, ProjectionError> {
    let client = log.pool().get().await?;
    let mut missing = Vec::new();
    for row in client.query("SELECT model, event, version FROM read.passed", &[]).await? {
        if is_known(row.try_get(1)?, row.try_get(2)?) {
            missing.push(row.try_get::<_, String>(0)?);
        }
    }
    let known = "SELECT model, fold, generation FROM read.checkpoints WHERE position > 0";
    let mut found = Vec::new();
    for row in client.query(known, &[]).await? {
        // One of a later release is none of ours.
        let name: &str = row.try_get(0)?;
        let Ok(model) = name.parse::<Model>() else { continue };
        let (fold, generation) = (row.try_get(1)?, row.try_get(2)?);
        let ours = with_model!(model, projection => version(&projection));
        if fold != ours || missing.iter().any(|passed| passed == name) {
            found.push(Outdated { model, fold, ours, generation });
        }
    }
    Ok(found)
}

/// The model's rows are made of all events that this release knows.
pub(super) async fn now_folded(session: &Session, model: &str) -> Result<(), ProjectionError> {
    let client = session.client();
    let passed = "SELECT event, version FROM read.passed WHERE model = $1";
    for row in client.query(passed, &[&model]).await? {
        let (event, version): (&str, i32) = (row.try_get(0)?, row.try_get(1)?);
        if is_known(event, version) {
            let gone = "DELETE FROM read.passed WHERE model = $1 AND event = $2 AND version = $3";
            client.execute(gone, &[&model, &event, &version]).await?;
        }
    }
    Ok(())
}

/// Whether this release reads events of this type and version.
fn is_known(event: &str, version: i32) -> bool {
    let Some((kind, name)) = event.split_once('.') else { return false };
    let Ok(kind) = kind.parse::<StreamType>() else { return false };
    Event::types(kind)
        .iter()
        .any(|(known, newest)| *known == name && (1..=i32::from(*newest)).contains(&version))
}

fn version<P: projections::engine::Projection>(_: &P) -> i32 {
    P::VERSION
}

/// Removes what rebuilds left behind that were cut short, but for those under way.
///
/// # Errors
/// When the database cannot be reached.
pub async fn sweep(log: &Log) -> Result<Vec<Model>, ProjectionError> {
    let left =
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname IN ('rebuild', 'rebuild_past') AND c.relkind = 'r'
                UNION SELECT model FROM rebuild.runs";
    let client = log.pool().get().await?;
    let names = client.query(left, &[]).await?;
    drop(client);
    let mut swept = Vec::new();
    for row in names {
        let Ok(model) = row.try_get::<_, &str>(0)?.parse::<Model>() else { continue };
        if discard_unless_busy(log, model.as_str()).await? {
            tracing::info!(%model, "what a rebuild left behind was removed");
            swept.push(model);
        }
    }
    Ok(swept)
}
