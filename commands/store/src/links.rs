//! What the log knows of links between tasks.

use std::collections::HashMap;

use futures::future::try_join_all;
use uuid::Uuid;

use crate::log::{Log, StreamKey};
use crate::{LinkKind, StoreError};

/// The answers about links.
#[derive(Debug, Default)]
pub struct Linked {
    /// How many parts a task has, as far as was counted.
    pub parts: HashMap<StreamKey, u64>,
    /// For a task: who waits for it, for those and so on, as pairs of who waits and for whom.
    pub waiting: HashMap<StreamKey, Vec<(Uuid, Uuid)>>,
}

impl Log {
    /// Counts the parts of tasks, and finds who waits for tasks directly or through others;
    /// a statement each, all in one round trip. At most `most` are counted or found for each:
    /// of a longer list the rest is left out.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn linked(
        &self,
        parents: &[StreamKey],
        awaited: &[StreamKey],
        most: usize,
    ) -> Result<Linked, StoreError> {
        let mut linked = Linked::default();
        if parents.is_empty() && awaited.is_empty() {
            return Ok(linked);
        }
        let client = self.pool().get().await?;
        let (count, walk) = tokio::try_join!(
            client.prepare_cached(
                "SELECT count(*) FROM (
                     SELECT FROM task_links l
                     WHERE l.tenant = $1 AND l.kind = $2 AND l.target = $3 LIMIT $4) l",
            ),
            // Whoever is met twice is looked at once: UNION, and no circle was ever let in.
            client.prepare_cached(
                "WITH RECURSIVE waiting AS (
                     SELECT l.source, l.target FROM task_links l
                     WHERE l.tenant = $1 AND l.kind = $2 AND l.target = $3
                     UNION
                     SELECT l.source, l.target FROM waiting w
                     JOIN task_links l
                       ON l.tenant = $1 AND l.kind = $2 AND l.target = w.source
                 ) SELECT source, target FROM waiting LIMIT $4",
            ),
        )?;
        let most = most as i64;
        let counted = parents.iter().map(|(tenant, id)| {
            let (client, count, tenant) = (&client, &count, tenant.as_str());
            let kind = LinkKind::PartOf.as_str();
            async move { client.query_one(count, &[&tenant, &kind, id, &most]).await }
        });
        let walked = awaited.iter().map(|(tenant, id)| {
            let (client, walk, tenant) = (&client, &walk, tenant.as_str());
            let kind = LinkKind::DependsOn.as_str();
            async move { client.query(walk, &[&tenant, &kind, id, &most]).await }
        });
        let (counted, walked) = tokio::try_join!(try_join_all(counted), try_join_all(walked))?;
        for (key, row) in parents.iter().zip(&counted) {
            linked.parts.insert(key.clone(), row.get::<_, i64>(0) as u64);
        }
        for (key, rows) in awaited.iter().zip(&walked) {
            let pairs = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            linked.waiting.insert(key.clone(), pairs);
        }
        Ok(linked)
    }
}
