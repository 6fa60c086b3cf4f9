//! Events of a later release, which a model passes over: noted, so that the release that knows
//! them makes the model anew instead of missing them for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use deadpool_postgres::GenericClient;
use domain::Recorded;
use domain::recorded::DecodeError;

use super::Projection;
use crate::ProjectionError;

/// Notes each kind of event among these that this release does not know, with its first
/// position. Before the checkpoint moves past them: noted in vain costs a rebuild, not noted
/// costs rows.
///
/// # Errors
/// When the database cannot be reached.
pub async fn note_passed<P: Projection, C: GenericClient>(
    client: &C,
    events: &[Arc<Recorded>],
) -> Result<(), ProjectionError> {
    let mut first: BTreeMap<(&str, u16), u64> = BTreeMap::new();
    for recorded in events {
        if let Err(DecodeError::Unknown { event, version }) = recorded.event() {
            first.entry((event, *version)).or_insert(recorded.position);
        }
    }
    let note = "INSERT INTO read.passed (model, event, version, position) VALUES ($1, $2, $3, $4)
                ON CONFLICT DO NOTHING";
    for ((event, version), position) in first {
        let (version, position) = (i32::from(version), position as i64);
        client.execute(note, &[&P::NAME, &event, &version, &position]).await?;
    }
    Ok(())
}
