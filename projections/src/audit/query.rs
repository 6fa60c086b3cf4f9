//! Finding lines of the audit.

use domain::{AgentId, CrewId, Problem, StreamType, TaskId, TenantId, Timestamp};
use store::{RECORDED_COLUMNS, recorded_from_columns};
use tokio_postgres::Row;
use uuid::Uuid;

use super::summary::excerpt;
use super::{AuditEntry, AuditOutcome, AuditRow, request};
use crate::query::{FIRST, ListKind, Sql, bigint, bounded, position_of};
use crate::{Answer, Cursor, Model, Page, Queries, QueryError};

/// Whose lines are everywhere, because it assigns every task; the index `audit_by_actor` is
/// without them.
const SCHEDULER: &str = "manager:scheduler";
/// The condition of that index.
const RARE_ACTOR: &str = " AND a.actor <> 'manager:scheduler'";
/// The types that a page of any busy log shows; the index `audit_by_type` is without them,
/// because the newest lines of these are found by going back from the head.
const COMMON: [&str; 5] =
    ["task.submitted", "task.assigned", "task.started", "task.progressed", "task.completed"];
/// The condition of that index.
const RARE_TYPE: &str = " AND a.type <> ALL ('{task.submitted,task.assigned,task.started,\
                         task.progressed,task.completed}'::text[])";

/// An end of a span of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// A position.
    Position(u64),
    /// An instant, by `recorded_at`.
    Time(Timestamp),
}

/// Which lines come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuditOrder {
    /// The newest.
    #[default]
    Newest,
    /// The oldest.
    Oldest,
}

impl AuditOrder {
    const fn list(self) -> ListKind {
        match self {
            Self::Newest => ListKind::Audit,
            Self::Oldest => ListKind::AuditOldest,
        }
    }
}

/// Which lines to list; an empty filter lists all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditFilter {
    /// Asked for by this principal.
    pub actor: Option<String>,
    /// About this agent.
    pub agent: Option<AgentId>,
    /// About this task.
    pub task: Option<TaskId>,
    /// About this crew.
    pub crew: Option<CrewId>,
    /// `<stream type>.<event>`; for refusals `<stream type>.<command>`.
    pub kind: Option<String>,
    /// From here on, inclusive.
    pub from: Option<Bound>,
    /// Up to here, inclusive.
    pub to: Option<Bound>,
    /// Caused by the event at this position.
    pub cause: Option<u64>,
    /// Of this correlation.
    pub correlation: Option<Uuid>,
    /// Of this stream, whatever its kind.
    pub stream: Option<Uuid>,
    /// Came with this credential.
    pub credential: Option<String>,
    /// Came with the request of this trace id.
    pub request: Option<Uuid>,
    /// Came of this command.
    pub command: Option<Uuid>,
    /// Nothing behind this position: an upper end beside `to`, so that what takes long to read
    /// has an end although events arrive.
    pub through: Option<u64>,
    /// Which lines come first.
    pub order: AuditOrder,
    /// Leave out either kind of line; absent: both.
    pub outcome: Option<AuditOutcome>,
}

impl Queries {
    /// Events and refused commands, newest first.
    ///
    /// # Errors
    /// [`QueryError::Cursor`] when the cursor is not one of this list.
    pub async fn audit(
        &self,
        tenant: &TenantId,
        filter: &AuditFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<AuditEntry>>, QueryError> {
        self.audit_lines(tenant, filter, bounded(limit), cursor).await
    }

    /// The same with pages as long as an export reads them.
    ///
    /// # Errors
    /// As [`Queries::audit`].
    pub async fn audit_lines(
        &self,
        tenant: &TenantId,
        filter: &AuditFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Answer<Page<AuditEntry>>, QueryError> {
        let list = filter.order.list();
        let behind = Cursor::read(list, cursor)?;
        let page = listing(tenant, filter, limit, behind).ordered(match filter.order {
            AuditOrder::Newest => "p.place DESC, p.id DESC",
            AuditOrder::Oldest => "p.place, p.id",
        });
        let (seen, rows) = self.select(tenant, &[Model::Audit], page).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push(entry(row)?);
        }
        let page = Page::cut(items, limit, |line: &AuditEntry| {
            let id = match line.outcome {
                AuditOutcome::Event => Uuid::nil(),
                AuditOutcome::Refused => line.command_id,
            };
            Cursor::between(list, line.position, id)
        });
        Ok(seen.answer(page))
    }

    /// How many events of a type belong to a correlation.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn count_of(
        &self,
        tenant: &TenantId,
        correlation: Uuid,
        kind: &str,
    ) -> Result<Answer<u64>, QueryError> {
        let mut sql = Sql::new("SELECT count(*) FROM read.audit a");
        sql.with(" WHERE a.tenant = #", tenant.as_str().to_owned());
        sql.with(" AND a.correlation_id = #", correlation);
        sql.with(" AND a.type = #", kind.to_owned());
        let (seen, rows) = self.select(tenant, &[Model::Audit], sql).await?;
        let count = rows.first().map(|row| position_of(row, FIRST)).transpose()?;
        Ok(seen.answer(count.unwrap_or_default()))
    }
}

/// Both kinds of lines in one order: by position, newest first; a refusal names the head
/// that it was decided at, so it comes before that event, whose id here is the least.
fn listing(tenant: &TenantId, filter: &AuditFilter, limit: usize, behind: Option<Cursor>) -> Sql {
    let mut sql = Sql::new("");
    let whose = sql.bind(tenant.as_str().to_owned());
    let most = sql.bind(limit as i64 + 1);
    let mut events = String::new();
    let mut refusals = String::new();
    let mut both = |event: String, refusal: String| {
        events.push_str(" AND ");
        events.push_str(&event);
        refusals.push_str(" AND ");
        refusals.push_str(&refusal);
    };
    if let Some(actor) = &filter.actor {
        let at = sql.bind(actor.clone());
        let rare = if actor == SCHEDULER { "" } else { RARE_ACTOR };
        both(format!("a.actor = {at}{rare}"), format!("r.actor = {at}"));
    }
    if let Some(agent) = filter.agent {
        let at = sql.bind(agent.0);
        both(
            format!("a.agent_id = {at}"),
            // What an agent asked for in vain concerns it too, whatever it was about.
            format!(
                "(r.stream_id = {at} AND r.stream_type = 'agent' \
                 OR r.actor = 'agent:' || {at}::text)"
            ),
        );
    }
    if let Some(stream) = filter.stream {
        let at = sql.bind(stream);
        both(
            format!(
                "a.key = ANY(ARRAY(SELECT s.position FROM events s WHERE s.tenant = {whose} \
                 AND s.stream_id = {at}))"
            ),
            format!("r.stream_id = {at}"),
        );
    }
    // The lines about a task or a crew are the events of its stream.
    let streams = [("task", filter.task.map(|id| id.0)), ("crew", filter.crew.map(|id| id.0))];
    for (kind, id) in streams {
        if let Some(id) = id {
            let at = sql.bind(id);
            both(
                format!(
                    "a.key = ANY(ARRAY(SELECT s.position FROM events s WHERE s.tenant = {whose} \
                     AND s.stream_id = {at} AND s.stream_type = '{kind}'))"
                ),
                format!("r.stream_id = {at} AND r.stream_type = '{kind}'"),
            );
        }
    }
    if let Some(kind) = &filter.kind {
        let at = sql.bind(kind.clone());
        let rare = if COMMON.contains(&kind.as_str()) { "" } else { RARE_TYPE };
        both(format!("a.type = {at}{rare}"), format!("r.stream_type || '.' || r.command = {at}"));
    }
    if let Some(cause) = filter.cause {
        let at = sql.bind(bigint(cause));
        both(format!("a.cause = {at}"), format!("r.causation_position = {at}"));
    }
    if let Some(correlation) = filter.correlation {
        let at = sql.bind(correlation);
        both(format!("a.correlation_id = {at}"), format!("r.correlation_id = {at}"));
    }
    if let Some(request) = filter.request {
        let (at, text) = (sql.bind(request), sql.bind(request.simple().to_string()));
        both(format!("a.request = {at}"), format!("substr(r.trace, 4, 32) = {text}"));
    }
    if let Some(command) = filter.command {
        let at = sql.bind(command);
        both(
            format!(
                "a.key = ANY(ARRAY(SELECT generate_series(c.position - {COUNT} + 1, c.position) \
                 FROM command_results c WHERE c.command_id = {at} AND c.tenant = {whose} \
                 AND c.problem IS NULL))"
            ),
            format!("r.command_id = {at}"),
        );
    }
    if let Some(through) = filter.through {
        let at = sql.bind(bigint(through));
        both(format!("a.key <= {at}"), format!("r.position <= {at}"));
    }
    // Which commands to look at, where it is a credential that finds them.
    let mut commands = filter.credential.as_ref().map(|credential| {
        let at = sql.bind(credential.clone());
        both("true".into(), format!("r.credential = {at}"));
        format!("c.tenant = {whose} AND c.credential = {at} AND c.problem IS NULL")
    });
    // Times rise with positions, so a time is a position of the log.
    for (bound, sign, behind) in [(filter.from, ">=", ">"), (filter.to, "<=", "<=")] {
        match bound {
            None => {}
            Some(Bound::Position(position)) => {
                let at = sql.bind(bigint(position));
                both(format!("a.key {sign} {at}"), format!("r.position {sign} {at}"));
            }
            Some(Bound::Time(time)) => {
                let (at, with) = (sql.bind(time), behind == "<=");
                both(
                    format!("a.key {behind} (SELECT read.position_at({at}, {with}))"),
                    format!("r.recorded_at {sign} {at}"),
                );
            }
        }
    }
    match filter.outcome {
        None => {}
        Some(AuditOutcome::Event) => both("true".into(), "false".into()),
        Some(AuditOutcome::Refused) => both("false".into(), "true".into()),
    }
    let oldest = filter.order == AuditOrder::Oldest;
    if let Some(behind) = behind {
        let (position, id) = (sql.bind(bigint(behind.position)), sql.bind(behind.id));
        if oldest {
            both(
                format!("a.key > {position}"),
                format!("(r.position, r.command_id) > ({position}, {id})"),
            );
        } else {
            let sign = if behind.id.is_nil() { "<" } else { "<=" };
            both(
                format!("a.key {sign} {position}"),
                format!("(r.position, r.command_id) < ({position}, {id})"),
            );
        }
        if let Some(commands) = &mut commands {
            commands.push_str(&if oldest {
                format!(" AND c.position > {position}")
            } else {
                format!(" AND c.position < {position} + {MOST_OF_ONE}")
            });
        }
    }
    let direction = if oldest { "ASC" } else { "DESC" };
    let events = match commands {
        None => format!(
            "SELECT a.key AS place FROM read.audit a WHERE a.tenant = {whose}{events} \
             ORDER BY a.key {direction} LIMIT {most}"
        ),
        // Commands stand in the order of their events, so a page ends early on both.
        Some(commands) => format!(
            "SELECT x.key AS place FROM command_results c CROSS JOIN LATERAL \
                 (SELECT a.key FROM read.audit a WHERE a.tenant = {whose} \
                  AND a.key <= c.position AND a.key > c.position - {COUNT}{events} \
                  ORDER BY a.key {direction} LIMIT {MOST_OF_ONE}) x \
             WHERE {commands} ORDER BY c.position {direction}, x.key {direction} LIMIT {most}"
        ),
    };
    let least = Uuid::nil();
    sql.push(&format!(
        "SELECT u.*, {RECORDED_COLUMNS}, c.command AS by_command, c.credential AS by_credential
         FROM (
             (SELECT v.place, '{least}'::uuid AS id,
                     NULL::text AS of_type, NULL::uuid AS of_stream, NULL::text AS asked,
                     NULL::text AS who, NULL::bigint AS at_version, NULL::text AS problem,
                     NULL::timestamptz AS at, NULL::text AS own_credential,
                     NULL::text AS own_trace, NULL::uuid AS own_correlation,
                     NULL::bigint AS own_cause
              FROM ({events}) v)
             UNION ALL
             (SELECT r.position, r.command_id, r.stream_type, r.stream_id, r.command,
                     r.actor, r.version, r.problem, r.recorded_at, r.credential, r.trace,
                     r.correlation_id, r.causation_position
              FROM command_results r
              WHERE r.tenant = {whose} AND r.problem IS NOT NULL AND r.position <=
                    (SELECT position FROM read.checkpoints WHERE model = 'audit'){refusals}
              ORDER BY r.position {direction}, r.command_id {direction} LIMIT {most})
             ORDER BY place {direction}, id {direction} LIMIT {most}
         ) u LEFT JOIN events e
             ON u.problem IS NULL AND e.tenant = {whose} AND e.position = u.place
         LEFT JOIN command_results c ON c.command_id = e.command_id AND c.tenant = e.tenant"
    ));
    sql
}

/// How many events a command `c` led to.
const COUNT: &str = "(CASE c.events WHEN '' THEN 0 ELSE \
                     length(c.events) - length(replace(c.events, ',', '')) + 1 END)";
/// More events than any one command leads to.
const MOST_OF_ONE: i64 = 1_000;

/// The columns of a line's own, before those of its event.
const OWN: usize = 13;
/// The columns of its event.
const EVENT: usize = 18;

fn entry(row: &Row) -> Result<AuditEntry, QueryError> {
    let position = position_of(row, FIRST)?;
    if row.try_get::<_, Option<&str>>(FIRST + 7)?.is_none() {
        let event = recorded_from_columns(row, FIRST + OWN)?;
        let entry = AuditEntry::of(position, AuditRow::read(&event));
        return Ok(AuditEntry {
            command: row.try_get(FIRST + OWN + EVENT)?,
            credential: row.try_get(FIRST + OWN + EVENT + 1)?,
            ..entry
        });
    }
    let bad = |what: &str| QueryError::Row(format!("{what} of a refused command"));
    let (stream_type, stream_id): (&str, Uuid) = (row.try_get(FIRST + 2)?, row.try_get(FIRST + 3)?);
    let stream_type: StreamType = stream_type.parse().map_err(|()| bad("stream type"))?;
    let command: String = row.try_get(FIRST + 4)?;
    let problem: Problem =
        serde_json::from_str(row.try_get(FIRST + 7)?).map_err(|_| bad("problem"))?;
    let about = |kind| (stream_type == kind).then_some(stream_id);
    let trace: Option<&str> = row.try_get(FIRST + 10)?;
    let cause: Option<i64> = row.try_get(FIRST + 12)?;
    Ok(AuditEntry {
        position,
        outcome: AuditOutcome::Refused,
        kind: format!("{stream_type}.{command}"),
        actor: row.try_get(FIRST + 5)?,
        stream_type,
        stream_id,
        version: position_of(row, FIRST + 6)?,
        agent_id: about(StreamType::Agent).map(AgentId),
        task_id: about(StreamType::Task).map(TaskId),
        crew_id: about(StreamType::Crew).map(CrewId),
        command_id: row.try_get(FIRST + 1)?,
        credential: row.try_get(FIRST + 9)?,
        request_id: trace.and_then(request).map(|id| id.simple().to_string()),
        correlation_id: row.try_get(FIRST + 11)?,
        cause: cause.and_then(|cause| u64::try_from(cause).ok()),
        occurred_at: row.try_get(FIRST + 8)?,
        summary: format!("{command} refused: {}", excerpt(&problem.detail)),
        command: Some(command),
        problem: Some(problem),
    })
}
