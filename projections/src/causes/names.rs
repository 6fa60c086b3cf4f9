//! What people call the things in a graph.

use std::collections::{BTreeMap, BTreeSet};

use domain::{StreamType, TenantId};
use uuid::Uuid;

use super::CauseNode;
use crate::query::Sql;
use crate::{Queries, QueryError};

impl Queries {
    /// The numbers of tasks and the names of agents, queues and nodes in a graph, by their ids:
    /// as they are now, because the graph's own position may be long past.
    pub(super) async fn names_of(
        &self,
        tenant: &TenantId,
        nodes: &[CauseNode],
    ) -> Result<BTreeMap<Uuid, String>, QueryError> {
        let of = |kind: StreamType| -> Vec<Uuid> {
            let streams = nodes.iter().filter(|node| node.stream_type == kind);
            let named = nodes.iter().filter_map(|node| node.agent_id.map(|id| id.0));
            let named = named.filter(|_| kind == StreamType::Agent);
            let ids: BTreeSet<Uuid> = streams.map(|node| node.stream_id).chain(named).collect();
            ids.into_iter().collect()
        };
        let whose = tenant.as_str().to_owned();
        let mut sql = Sql::new("");
        let whose = sql.bind(whose);
        let mut table = |name: &str, what: &str, ids: Vec<Uuid>| {
            let ids = sql.bind(ids);
            format!(
                "SELECT t.key, {what} FROM read.{name} t WHERE t.tenant = {whose} AND t.key = ANY({ids})"
            )
        };
        let tables = [
            table("tasks", "'TASK-' || t.number", of(StreamType::Task)),
            table("agents", "t.name", of(StreamType::Agent)),
            table("queues", "t.name", of(StreamType::Queue)),
            table("nodes", "t.name", of(StreamType::Node)),
            table("profiles", "t.name", of(StreamType::Profile)),
            table("operations", "t.kind", of(StreamType::Operation)),
        ];
        sql.push(&tables.join(" UNION ALL "));
        let rows = self.rows(tenant, &sql.of_one_shape()).await?;
        let mut names = BTreeMap::new();
        for row in &rows {
            names.insert(row.try_get(0)?, row.try_get(1)?);
        }
        Ok(names)
    }
}
