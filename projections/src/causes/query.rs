//! Reading the log as a graph, a level at a time.

use domain::{AgentId, Problem, StreamType, TaskId, TenantId};
use futures::try_join;
use store::{RECORDED_COLUMNS, recorded_from_columns};
use tokio_postgres::Row;
use uuid::Uuid;

use super::walk::{Openers, Walk};
use super::{CauseNode, Causes, Link, Reach, Subject};
use crate::audit::{AuditRow, excerpt, request};
use crate::query::{FIRST, Sql, bigint, position_of};
use crate::{Answer, Model, Queries, QueryError};

/// Events that stand behind another in its stream and are looked at, for those that follow it.
const FOLLOWERS: usize = 24;
/// Events before another in its stream among which the one it follows is looked for.
const OPENERS: i64 = 500;

/// The columns of an event with its command's; `e` and `c` are they.
fn columns() -> String {
    format!("{RECORDED_COLUMNS}, c.command, c.credential")
}

/// The join to the command of `e`: by its id, so one look each.
const COMMAND: &str = "LEFT JOIN command_results c \
     ON c.command_id = e.command_id AND c.tenant = e.tenant";

impl Queries {
    /// What an event, a task or an agent's newest events came from, and what came of them.
    ///
    /// Effects are found by the audit's index, so the answer reflects that model's position;
    /// the value is none where there is no such event within the caller's tenant.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn causes(
        &self,
        tenant: &TenantId,
        subject: Subject,
        reach: Reach,
    ) -> Result<Answer<Option<Causes>>, QueryError> {
        let (seen, rows) = self.select(tenant, &[Model::Audit], seeds(tenant, subject)).await?;
        let mut seeds = nodes(&rows, FIRST)?;
        if seeds.is_empty() {
            return Ok(seen.answer(None));
        }
        let whole = usize::try_from(reach.nodes).unwrap_or(usize::MAX);
        // Half of the answer is left for what they came from and what came of them.
        let most = (whole / 2).max(1);
        let newest_first = !matches!(subject, Subject::Position(_) | Subject::Event(_));
        let mut earlier = None;
        if newest_first {
            if seeds.len() > most {
                earlier = seeds.get(most).map(|older| older.position);
            }
            seeds.truncate(most);
            seeds.reverse();
        }
        let alone = (!newest_first).then(|| seeds[0].position);
        let mut walk = Walk::new(seeds, whole);
        self.up(tenant, &mut walk, reach.depth).await?;
        self.down(tenant, &mut walk, reach, alone).await?;
        let mut nodes = walk.done();
        for node in &mut nodes {
            if node.link == Link::Root && node.cause.is_some() {
                node.link = Link::Beyond;
            }
        }
        let names = self.names_of(tenant, &nodes).await?;
        Ok(seen.answer(Some(Causes { nodes, names, earlier })))
    }

    /// The agent of a name.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn agent_named(
        &self,
        tenant: &TenantId,
        name: &str,
    ) -> Result<Answer<Option<AgentId>>, QueryError> {
        let mut sql = Sql::new("SELECT a.key FROM read.agents a");
        sql.with(" WHERE a.tenant = #", tenant.as_str().to_owned());
        // The name of one that was retired may be another's by now: the newest has it.
        sql.with(" AND a.name = # ORDER BY a.created DESC LIMIT 1", name.to_owned());
        let (seen, rows) = self.select(tenant, &[Model::Agents], sql).await?;
        let id = rows.first().map(|row| row.try_get(FIRST)).transpose()?;
        Ok(seen.answer(id.map(AgentId)))
    }

    /// Adds what the entries came from, level by level.
    async fn up(&self, tenant: &TenantId, walk: &mut Walk, depth: u32) -> Result<(), QueryError> {
        let mut frontier = walk.positions();
        for _ in 0..depth {
            let causes = walk.missing_causes(&frontier);
            let openers = walk.uncaused(&frontier);
            if causes.is_empty() && openers.is_empty() || walk.is_full() {
                break;
            }
            let (mut found, opened) =
                try_join!(self.events_at(tenant, causes), self.openers(tenant, openers))?;
            for (place, opener) in opened {
                walk.follows(place, opener.position);
                found.push(opener);
            }
            frontier = walk.add(found);
            if frontier.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Adds what came of the entries that were asked about, level by level.
    async fn down(
        &self,
        tenant: &TenantId,
        walk: &mut Walk,
        reach: Reach,
        alone: Option<u64>,
    ) -> Result<(), QueryError> {
        let mut frontier = walk.asked();
        for level in 0..=reach.depth {
            if frontier.is_empty() {
                return Ok(());
            }
            let last = level == reach.depth || walk.is_full();
            // Behind the last level only whether there is anything.
            let fan = if last { 0 } else { walk.fan(frontier.len()) };
            let after = alone.filter(|_| level == 0).map_or(0, |_| reach.after);
            let openers = walk.openers(&frontier);
            let (mut found, refused, behind) = try_join!(
                self.effects(tenant, &frontier, after, fan),
                self.refusals(tenant, &frontier, after, fan),
                self.followers(tenant, openers, after),
            )?;
            found.extend(refused);
            found.extend(walk.followers(behind, FOLLOWERS));
            if last {
                walk.cut(&found);
                return Ok(());
            }
            frontier = walk.add_below(found, fan);
        }
        Ok(())
    }

    async fn events_at(
        &self,
        tenant: &TenantId,
        positions: Vec<i64>,
    ) -> Result<Vec<CauseNode>, QueryError> {
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(format!("SELECT {} FROM events e {COMMAND}", columns()));
        sql.with(" WHERE e.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND e.position = ANY(#)", positions);
        nodes(&self.rows(tenant, &sql.of_one_shape()).await?, 0)
    }

    /// For entries that name no cause: the newest before them in their stream that does, or
    /// its first; each with the place of what follows it.
    async fn openers(
        &self,
        tenant: &TenantId,
        of: Vec<(u64, Uuid, i64)>,
    ) -> Result<Vec<(u64, CauseNode)>, QueryError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(format!("SELECT {}, n.place FROM unnest(", columns()));
        sql.with("#::bigint[]", of.iter().map(|(p, ..)| bigint(*p)).collect::<Vec<_>>());
        sql.with(", #::uuid[]", of.iter().map(|(_, id, _)| *id).collect::<Vec<_>>());
        sql.with(", #::bigint[]", of.iter().map(|(.., v)| *v).collect::<Vec<_>>());
        sql.push(") n(place, stream, version) CROSS JOIN LATERAL (SELECT * FROM events o");
        sql.with(" WHERE o.tenant = #", tenant.as_str().to_owned());
        sql.push(" AND o.stream_id = n.stream AND o.version < n.version");
        sql.with(" AND o.version >= n.version - #::bigint", OPENERS);
        sql.push(" AND (o.causation_position IS NOT NULL OR o.version = 1)");
        sql.push(&format!(" ORDER BY o.version DESC LIMIT 1) e {COMMAND}"));
        let rows = self.rows(tenant, &sql.of_one_shape()).await?;
        placed(&rows)
    }

    /// The events that name one of these as their cause.
    async fn effects(
        &self,
        tenant: &TenantId,
        of: &[u64],
        after: u64,
        fan: i64,
    ) -> Result<Vec<CauseNode>, QueryError> {
        let mut sql = Sql::new(format!("SELECT {} FROM unnest(", columns()));
        sql.with("#::bigint[]) n(place) CROSS JOIN LATERAL (", ints(of));
        sql.with("SELECT a.key FROM read.audit a WHERE a.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND a.cause = n.place AND a.key > #", bigint(after));
        sql.with(" ORDER BY a.key LIMIT #::bigint + 1) x", fan);
        sql.with(
            " JOIN events e ON e.position = x.key AND e.tenant = #",
            tenant.as_str().to_owned(),
        );
        sql.push(&format!(" {COMMAND}"));
        nodes(&self.rows(tenant, &sql.of_one_shape()).await?, 0)
    }

    /// The refused commands that name one of these as their cause.
    async fn refusals(
        &self,
        tenant: &TenantId,
        of: &[u64],
        after: u64,
        fan: i64,
    ) -> Result<Vec<CauseNode>, QueryError> {
        let mut sql = Sql::new(
            "SELECT r.position, r.command_id, r.stream_type, r.stream_id, r.command, r.actor, \
             r.version, r.problem, r.recorded_at, r.credential, r.trace, r.correlation_id, \
             r.causation_position FROM unnest(",
        );
        sql.with("#::bigint[]) n(place) CROSS JOIN LATERAL (", ints(of));
        sql.with("SELECT * FROM command_results o WHERE o.tenant = #", tenant.as_str().to_owned());
        sql.push(" AND o.problem IS NOT NULL AND o.causation_position = n.place");
        sql.with(" AND o.position > #", bigint(after));
        // No further than the effects that are events.
        sql.push(
            " AND o.position <= (SELECT position FROM read.checkpoints WHERE model = 'audit')",
        );
        sql.with(" ORDER BY o.position LIMIT #::bigint + 1) r", fan);
        let rows = self.rows(tenant, &sql.of_one_shape()).await?;
        rows.iter().map(refusal).collect()
    }

    /// The events that stand behind some in their streams, each with the place of the one that
    /// it stands behind, in their order.
    async fn followers(
        &self,
        tenant: &TenantId,
        (places, streams, versions): Openers,
        after: u64,
    ) -> Result<Vec<(u64, CauseNode)>, QueryError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(format!("SELECT {}, n.place FROM unnest(", columns()));
        sql.with("#::bigint[]", places);
        sql.with(", #::uuid[]", streams);
        sql.with(", #::bigint[]", versions);
        sql.push(") n(place, stream, version) CROSS JOIN LATERAL (SELECT * FROM events o");
        sql.with(" WHERE o.tenant = #", tenant.as_str().to_owned());
        sql.push(" AND o.stream_id = n.stream AND o.version > n.version");
        sql.with(" AND o.position > #", bigint(after));
        sql.with(" ORDER BY o.version LIMIT #", FOLLOWERS as i64);
        sql.push(&format!(") e {COMMAND} ORDER BY n.place, e.version"));
        let rows = self.rows(tenant, &sql.of_one_shape()).await?;
        placed(&rows)
    }
}

/// The column behind those of an event and its command.
const PLACE: usize = 20;

fn ints(positions: &[u64]) -> Vec<i64> {
    positions.iter().map(|position| bigint(*position)).collect()
}

fn seeds(tenant: &TenantId, subject: Subject) -> Sql {
    let mut sql = Sql::new(format!("SELECT {} FROM events e {COMMAND}", columns()));
    sql.with(" WHERE e.tenant = #", tenant.as_str().to_owned());
    let mut of_stream = |id: Uuid, kind: StreamType| {
        sql.with(" AND e.stream_id = #", id);
        sql.with(" AND e.stream_type = #", kind.as_str());
        // One more than is shown, so that it is known whether there are earlier ones.
        sql.with(" ORDER BY e.version DESC LIMIT #", i64::from(super::MAX_NODES / 2 + 1));
    };
    match subject {
        Subject::Position(position) => {
            sql.with(" AND e.position = #", bigint(position));
        }
        Subject::Event(id) => {
            sql.with(" AND e.event_id = # LIMIT 1", id);
        }
        Subject::Task(TaskId(id)) => of_stream(id, StreamType::Task),
        Subject::Agent(AgentId(id)) => of_stream(id, StreamType::Agent),
    }
    let sql = sql.ordered("p.version DESC");
    if matches!(subject, Subject::Event(_)) { sql.without_scans() } else { sql.of_one_shape() }
}

/// Entries, each with the position in [`PLACE`].
fn placed(rows: &[Row]) -> Result<Vec<(u64, CauseNode)>, QueryError> {
    rows.iter().map(|row| Ok((position_of(row, PLACE)?, node(row, 0)?))).collect()
}

fn nodes(rows: &[Row], first: usize) -> Result<Vec<CauseNode>, QueryError> {
    rows.iter().map(|row| node(row, first)).collect()
}

fn node(row: &Row, first: usize) -> Result<CauseNode, QueryError> {
    let event = recorded_from_columns(row, first)?;
    let line = AuditRow::read(&event);
    Ok(CauseNode {
        position: event.position,
        refused: false,
        event_id: Some(event.event_id),
        kind: line.kind,
        stream_type: event.stream_type,
        stream_id: event.stream_id,
        version: event.version,
        occurred_at: event.occurred_at,
        actor: line.actor,
        command_id: event.command_id,
        command: row.try_get(first + 18)?,
        credential: row.try_get(first + 19)?,
        request_id: event.trace.as_deref().and_then(request_id),
        correlation_id: event.correlation_id,
        cause: event.causation_position,
        agent_id: line.agent_id,
        summary: line.summary,
        problem: None,
        from: None,
        link: Link::Root,
        asked: false,
        more_after: None,
    })
}

fn request_id(trace: &str) -> Option<String> {
    request(trace).map(|id| id.simple().to_string())
}

fn refusal(row: &Row) -> Result<CauseNode, QueryError> {
    let bad = |what: &str| QueryError::Row(format!("{what} of a refused command"));
    let stream_type: StreamType =
        row.try_get::<_, &str>(2)?.parse().map_err(|()| bad("stream type"))?;
    let command: String = row.try_get(4)?;
    let problem: Problem = serde_json::from_str(row.try_get(7)?).map_err(|_| bad("problem"))?;
    Ok(CauseNode {
        position: position_of(row, 0)?,
        refused: true,
        event_id: None,
        kind: format!("{stream_type}.{command}"),
        stream_type,
        stream_id: row.try_get(3)?,
        version: position_of(row, 6)?,
        occurred_at: row.try_get(8)?,
        actor: row.try_get(5)?,
        command_id: row.try_get(1)?,
        summary: format!("{command} refused: {}", excerpt(&problem.detail)),
        command: Some(command),
        credential: row.try_get(9)?,
        request_id: row.try_get::<_, Option<&str>>(10)?.and_then(request_id),
        correlation_id: row.try_get(11)?,
        cause: row.try_get::<_, Option<i64>>(12)?.and_then(|cause| u64::try_from(cause).ok()),
        agent_id: None,
        problem: Some(problem),
        from: None,
        link: Link::Caused,
        asked: false,
        more_after: None,
    })
}

/// Whether an event may be the cause of another one: what came later, or itself, is not,
/// whatever its sender claimed.
pub(super) fn is_before(cause: u64, recorded: &CauseNode) -> bool {
    cause < recorded.position || recorded.refused && cause <= recorded.position
}
