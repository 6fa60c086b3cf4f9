//! The fleet in sum: its health, and who can do what.

use std::collections::BTreeMap;

use domain::{AgentId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::query::{FIRST, Sql, position_of};
use crate::{Answer, Model, Page, Queries, QueryError};

/// How a group of agents is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthWord {
    /// Nobody that should be there is missing or ill.
    #[default]
    Healthy,
    /// Some are degraded, on their way, or missing.
    Degraded,
    /// None that should be there works.
    Unhealthy,
}

/// The health of a group of agents. Retired ones do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// The sum in a word.
    pub status: HealthWord,
    /// Agents in all.
    pub total: u64,
    /// How many are in each state; states without an agent are left out.
    pub by_state: BTreeMap<String, u64>,
}

/// The health of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// Of all agents in a word.
    pub status: HealthWord,
    /// Agents in all.
    pub total: u64,
    /// How many are in each state; states without an agent are left out.
    pub by_state: BTreeMap<String, u64>,
    /// Of those on each node, by its id.
    pub nodes: BTreeMap<String, HealthView>,
    /// Of those in each crew, by its id.
    pub crews: BTreeMap<String, HealthView>,
    /// The log position that the answer reflects.
    pub position: u64,
}

/// Who can do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapabilityView {
    /// What, with its version where one is said.
    pub capability: String,
    /// Agents that are not retired, at most 1,000, oldest first.
    pub agents: Vec<AgentId>,
    /// How many there are.
    pub total: u64,
    /// How many of them take work now.
    pub ready: u64,
}

impl HealthView {
    fn add(&mut self, state: &str, count: u64) {
        *self.by_state.entry(state.to_owned()).or_default() += count;
        self.total += count;
    }

    /// Those that nobody wants at work now neither help nor harm.
    fn judge(&mut self) {
        let sum = |states: &[&str]| -> u64 {
            states.iter().filter_map(|state| self.by_state.get(*state)).sum()
        };
        let well = sum(&["ready", "busy"]);
        let ill = sum(&[
            "degraded",
            "unhealthy",
            "blocked",
            "offline",
            "failed",
            "validating",
            "validated",
            "deploying",
            "warming",
        ]);
        self.status = match (well, ill) {
            (_, 0) => HealthWord::Healthy,
            (0, _) => HealthWord::Unhealthy,
            (_, _) => HealthWord::Degraded,
        };
    }
}

impl Queries {
    /// The health of the fleet in all, by node and by crew.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn fleet(&self, tenant: &TenantId) -> Result<Answer<FleetView>, QueryError> {
        let mut sql =
            Sql::new("SELECT a.state, a.node_id, a.crew_id, count(*) AS count FROM read.agents a");
        sql.with(" WHERE a.tenant = # AND a.state <> 'retired'", tenant.as_str().to_owned());
        sql.push(" GROUP BY a.state, a.node_id, a.crew_id");
        let (seen, rows) = self.select(tenant, &[Model::Agents], sql).await?;
        let (mut fleet, mut all) = (FleetView::default(), HealthView::default());
        for row in &rows {
            let state: &str = row.try_get(FIRST)?;
            let node: Option<String> = row.try_get(FIRST + 1)?;
            let crew: Option<Uuid> = row.try_get(FIRST + 2)?;
            let count = position_of(row, FIRST + 3)?;
            all.add(state, count);
            if let Some(node) = node {
                fleet.nodes.entry(node).or_default().add(state, count);
            }
            if let Some(crew) = crew {
                fleet.crews.entry(crew.to_string()).or_default().add(state, count);
            }
        }
        all.judge();
        (fleet.status, fleet.total, fleet.by_state) = (all.status, all.total, all.by_state);
        fleet.nodes.values_mut().chain(fleet.crews.values_mut()).for_each(HealthView::judge);
        fleet.position = seen.position;
        Ok(seen.answer(fleet))
    }

    /// What the agents can do, by name, and who can do it.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn capabilities(
        &self,
        tenant: &TenantId,
    ) -> Result<Answer<Page<CapabilityView>>, QueryError> {
        let mut sql = Sql::new(
            "SELECT c.capability, (array_agg(a.key ORDER BY a.created))[1:1000] AS agents,
                    count(*) AS count,
                    count(*) FILTER (WHERE a.state = ANY ('{ready,busy,degraded}'::text[])) AS ready
             FROM read.agents a CROSS JOIN LATERAL unnest(a.capabilities) AS c(capability)",
        );
        sql.with(" WHERE a.tenant = # AND a.state <> 'retired'", tenant.as_str().to_owned());
        sql.push(" GROUP BY c.capability");
        let page = sql.ordered("p.capability");
        let (seen, rows) = self.select(tenant, &[Model::Agents], page).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            let agents: Vec<Uuid> = row.try_get(FIRST + 1)?;
            items.push(CapabilityView {
                capability: row.try_get(FIRST)?,
                agents: agents.into_iter().map(AgentId).collect(),
                total: position_of(row, FIRST + 2)?,
                ready: position_of(row, FIRST + 3)?,
            });
        }
        Ok(seen.answer(Page { items, next: None }))
    }
}
