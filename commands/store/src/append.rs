//! One append is one SQL statement (invariant 3).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domain::{Claim, Event, Recorded, StreamType, TenantId, Timestamp};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::StoreError;
use crate::seeded::{Planted, planted};
use crate::server::connect_alone;

/// The columns of a batch's events and of its results, with their types. `ord` counts the
/// events up to each row's last: the position behind the head at which it stands.
const EVENT: &[(&str, &str)] = &[
    ("tenant", "text"),
    ("stream_type", "text"),
    ("stream_id", "uuid"),
    ("version", "bigint"),
    ("event_type", "text"),
    ("schema_version", "smallint"),
    ("event_id", "uuid"),
    ("command_id", "uuid"),
    ("actor", "text"),
    ("correlation_id", "uuid"),
    ("causation_position", "bigint"),
    ("trace", "text"),
    ("occurred_at", "timestamptz"),
    ("payload", "bytea"),
    ("hash", "bytea"),
];
const RESULT: &[(&str, &str)] = &[
    ("command_id", "uuid"),
    ("tenant", "text"),
    ("fingerprint", "bytea"),
    ("stream_type", "text"),
    ("stream_id", "uuid"),
    ("command", "text"),
    ("actor", "text"),
    ("version", "bigint"),
    ("events", "text"),
    ("problem", "text"),
    ("credential", "text"),
    ("correlation_id", "uuid"),
    ("causation_position", "bigint"),
    ("trace", "text"),
];
const CLAIM: &[(&str, &str)] =
    &[("tenant", "text"), ("kind", "text"), ("value", "text"), ("stream_id", "uuid")];
const LINK: &[(&str, &str)] =
    &[("tenant", "text"), ("kind", "text"), ("target", "uuid"), ("source", "uuid")];

/// The shapes of the statement. Most batches claim and link nothing, and an idle system commits
/// commands one by one: what the statement need not do is then not prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One command with one event.
    One,
    /// Any number of each.
    Many,
    /// The same with claims that are taken or freed, and links that are made or dropped.
    Full,
}

/// Advances the head where the token is the writer's, then inserts what hangs on it. The last
/// SELECT takes its row from `h`, because a batch of refusals inserts no event.
fn append_sql(shape: Shape) -> String {
    let mut next = 3;
    let mut rows = |columns: &[(&str, &str)]| {
        let numbered = |(at, (name, kind)): (usize, &(&str, &str))| match shape {
            Shape::One => format!("${}::{kind} AS {name}", next + at),
            // In the select list, where rows flow; a function in FROM would first store all.
            Shape::Many | Shape::Full => {
                format!("unnest(${}::{kind}[]) AS {name}", next + at)
            }
        };
        let parameters: Vec<String> = columns.iter().enumerate().map(numbered).collect();
        next += columns.len();
        format!("(SELECT {}) u", parameters.join(", "))
    };
    let with_ord = |columns: &[(&'static str, &'static str)]| {
        let mut columns = columns.to_vec();
        columns.push(("ord", "bigint"));
        columns
    };
    let events = rows(&with_ord(EVENT));
    let results = rows(&with_ord(RESULT));
    let more = if shape == Shape::Full {
        let (taken, freed) = (rows(CLAIM), rows(CLAIM));
        let (linked, unlinked) = (rows(LINK), rows(LINK));
        format!(
            ", taken AS (
    INSERT INTO unique_claims (tenant, kind, value, stream_id)
    SELECT u.tenant, u.kind, u.value, u.stream_id FROM h, {taken}
), freed AS (
    DELETE FROM unique_claims c USING h, {freed}
    WHERE c.tenant = u.tenant AND c.kind = u.kind AND c.value = u.value
      AND c.stream_id = u.stream_id
), linked AS (
    INSERT INTO task_links (tenant, kind, target, source)
    SELECT u.tenant, u.kind, u.target, u.source FROM h, {linked}
), unlinked AS (
    DELETE FROM task_links l USING h, {unlinked}
    WHERE l.tenant = u.tenant AND l.kind = u.kind AND l.target = u.target
      AND l.source = u.source
)"
        )
    } else {
        String::new()
    };
    let names = |columns: &[(&str, &str)], prefix: &str| {
        let names: Vec<String> =
            columns.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
        names.join(", ")
    };
    format!(
        "WITH h AS (
    UPDATE log_head SET position = position + $1,
                        recorded_at = GREATEST(clock_timestamp(), recorded_at)
    WHERE shard = 0 AND token = $2
    RETURNING position - $1 AS base, epoch, recorded_at
), e AS (
    INSERT INTO events (position, epoch, recorded_at, {})
    SELECT h.base + u.ord, h.epoch, h.recorded_at, {} FROM h, {events}
), r AS (
    INSERT INTO command_results (position, recorded_at, {})
    SELECT h.base + u.ord, h.recorded_at, {} FROM h, {results}
){more} SELECT base, epoch, recorded_at FROM h",
        names(EVENT, ""),
        names(EVENT, "u."),
        names(RESULT, ""),
        names(RESULT, "u."),
    )
}

/// An event that is decided, but has no place in the log yet.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the same fields as Recorded")]
pub struct NewEvent {
    pub tenant: TenantId,
    pub stream_type: StreamType,
    pub stream_id: Uuid,
    pub version: u64,
    pub event_type: &'static str,
    pub schema_version: u16,
    pub event_id: Uuid,
    pub command_id: Uuid,
    pub actor: Arc<str>,
    pub correlation_id: Option<Uuid>,
    pub causation_position: Option<u64>,
    pub trace: Option<Arc<str>>,
    pub occurred_at: Timestamp,
    pub payload: Bytes,
    pub event: Event,
}

impl NewEvent {
    /// The event as it will be recorded: hashed over all fields that are known before the
    /// append. Those that are not (position, epoch, time) are filled in by
    /// [`Append::recorded`]; until then they are 0.
    #[must_use]
    pub fn hashed(self) -> Arc<Recorded> {
        let mut event = Recorded {
            position: 0,
            epoch: 0,
            tenant: self.tenant,
            stream_type: self.stream_type,
            stream_id: self.stream_id,
            version: self.version,
            event_type: self.event_type.into(),
            schema_version: self.schema_version,
            event_id: self.event_id,
            command_id: self.command_id,
            actor: self.actor,
            correlation_id: self.correlation_id,
            causation_position: self.causation_position,
            trace: self.trace,
            occurred_at: self.occurred_at,
            recorded_at: Timestamp::UNIX_EPOCH,
            payload: self.payload,
            hash: [0; 32],
            decoded: OnceLock::from(Ok(self.event)),
        };
        event.hash = event.expected_hash();
        Arc::new(event)
    }
}

/// What became of a command, to be stored beside its events.
#[derive(Debug, Clone)]
pub struct NewResult {
    /// The command's id.
    pub command_id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// SHA-256 of what was asked for.
    pub fingerprint: [u8; 32],
    /// The kind of its stream.
    pub stream_type: StreamType,
    /// Its stream.
    pub stream_id: Uuid,
    /// Its name.
    pub command: &'static str,
    /// Who asked.
    pub actor: Arc<str>,
    /// The stream's version after it.
    pub version: u64,
    /// How many events of the batch stand before or in it: its position behind the base.
    pub ordinal: u64,
    /// The names of its events.
    pub events: Vec<&'static str>,
    /// The refusal, as a JSON problem document.
    pub problem: Option<String>,
    /// The credential that it came with.
    pub credential: Option<Arc<str>>,
    /// Where a refused command came from: an accepted one's events tell it.
    pub origin: Option<Origin>,
}

/// Where a refused command came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// What it belongs to, across streams.
    pub correlation_id: Option<Uuid>,
    /// The event that caused it.
    pub causation_position: Option<u64>,
    /// W3C `traceparent` of its request.
    pub trace: Option<Arc<str>>,
}

/// What one task is to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// The source is a part of the target.
    PartOf,
    /// The source waits for the target.
    DependsOn,
}

impl LinkKind {
    /// The word in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PartOf => "part_of",
            Self::DependsOn => "depends_on",
        }
    }
}

/// A link from one task to another of its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLink {
    /// Whose they are.
    pub tenant: TenantId,
    /// What the one is to the other.
    pub kind: LinkKind,
    /// The task that is named.
    pub target: Uuid,
    /// The task that names it.
    pub source: Uuid,
}

/// A batch that is to become durable as a whole.
#[derive(Debug, Default)]
pub struct Append {
    /// In the order of their positions.
    pub events: Vec<Arc<Recorded>>,
    /// One per command.
    pub results: Vec<NewResult>,
    /// Unique things that streams own from now on.
    pub taken: Vec<(TenantId, Claim, Uuid)>,
    /// Unique things that their streams no longer own.
    pub freed: Vec<(TenantId, Claim, Uuid)>,
    /// Links between tasks that are made.
    pub linked: Vec<TaskLink>,
    /// Links that end.
    pub unlinked: Vec<TaskLink>,
}

/// Where a batch came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The position before the batch's first event.
    pub base: u64,
    /// The generation of the store.
    pub epoch: u64,
    /// The batch's time.
    pub recorded_at: Timestamp,
}

impl Append {
    /// Whether links between tasks are made or dropped.
    pub fn links(&self) -> bool {
        !self.linked.is_empty() || !self.unlinked.is_empty()
    }

    fn needs_all(&self) -> bool {
        self.links() || !self.taken.is_empty() || !self.freed.is_empty()
    }

    /// The events as recorded, after they were written.
    pub fn recorded(self, written: Written) -> Vec<Arc<Recorded>> {
        let mut events = self.events;
        for (position, event) in (written.base + 1..).zip(&mut events) {
            // Nobody else has it yet, so nothing is copied.
            let event = Arc::make_mut(event);
            event.position = position;
            event.epoch = written.epoch;
            event.recorded_at = written.recorded_at;
        }
        events
    }
}

/// The one connection that appends; several batches may be in flight on it.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    one: Statement,
    many: Statement,
    full: Statement,
}

impl Writer {
    /// Connects and prepares. A writer that hangs inside its transaction is cut off by
    /// the server, so it cannot hold the head's lock for long (reliability D3).
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let client = connect_alone(url).await?;
        client
            .batch_execute(
                // There is but one plan for these statements, and making it takes longer than
                // running it.
                "SET lock_timeout = '2s'; SET statement_timeout = '5s';
                 SET idle_in_transaction_session_timeout = '10s';
                 SET plan_cache_mode = 'force_generic_plan'",
            )
            .await?;
        if planted(Planted::AcksBeforeFlush) {
            client.batch_execute("SET synchronous_commit = off").await?;
        }
        let prepare = async |shape| client.prepare(&append_sql(shape)).await;
        let (one, many) = (prepare(Shape::One).await?, prepare(Shape::Many).await?);
        let full = prepare(Shape::Full).await?;
        Ok(Self { client, one, many, full })
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Makes a batch durable; returns after the commit's flush.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the token is not the current one; a unique
    /// violation when a stream moved on or a command id has a result already. In each
    /// case nothing of the batch is written.
    pub async fn append(&self, token: i64, batch: &Append) -> Result<Written, StoreError> {
        let (e, r) = (&batch.events, &batch.results);
        let count = e.len() as i64;
        let (shape, statement) = if batch.needs_all() {
            (Shape::Full, &self.full)
        } else if e.len() == 1 && r.len() == 1 {
            (Shape::One, &self.one)
        } else {
            (Shape::Many, &self.many)
        };
        let ords: Vec<i64> = (1..=count).collect();
        let mut columns = Columns { one: shape == Shape::One, all: Vec::with_capacity(44) };
        columns
            .add(e, |e| e.tenant.as_str())
            .add(e, |e| e.stream_type.as_str())
            .add(e, |e| e.stream_id)
            .add(e, |e| e.version as i64)
            .add(e, |e| &*e.event_type)
            .add(e, |e| e.schema_version as i16)
            .add(e, |e| e.event_id)
            .add(e, |e| e.command_id)
            .add(e, |e| &*e.actor)
            .add(e, |e| e.correlation_id)
            .add(e, |e| e.causation_position.map(|p| p as i64))
            .add(e, |e| e.trace.as_deref())
            .add(e, |e| e.occurred_at)
            .add(e, |e| &*e.payload)
            .add(e, |e| e.hash.as_slice());
        columns.add(&ords, |ord| *ord);
        columns
            .add(r, |r| r.command_id)
            .add(r, |r| r.tenant.as_str())
            .add(r, |r| r.fingerprint.as_slice())
            .add(r, |r| r.stream_type.as_str())
            .add(r, |r| r.stream_id)
            .add(r, |r| r.command)
            .add(r, |r| &*r.actor)
            .add(r, |r| r.version as i64)
            .add(r, |r| r.events.join(","))
            .add(r, |r| r.problem.as_deref())
            .add(r, |r| r.credential.as_deref())
            .add(r, |r| r.origin.as_ref().and_then(|o| o.correlation_id))
            .add(r, |r| r.origin.as_ref().and_then(|o| o.causation_position).map(|p| p as i64))
            .add(r, |r| r.origin.as_ref().and_then(|o| o.trace.as_deref()))
            .add(r, |r| r.ordinal as i64);
        if shape == Shape::Full {
            for claims in [&batch.taken, &batch.freed] {
                columns
                    .add(claims, |(tenant, ..)| tenant.as_str())
                    .add(claims, |(_, claim, _)| claim.kind)
                    .add(claims, |(_, claim, _)| claim.value.as_str())
                    .add(claims, |(.., stream_id)| *stream_id);
            }
            for links in [&batch.linked, &batch.unlinked] {
                columns
                    .add(links, |link| link.tenant.as_str())
                    .add(links, |link| link.kind.as_str())
                    .add(links, |link| link.target)
                    .add(links, |link| link.source);
            }
        }
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&count, &token];
        parameters.extend(columns.all.iter().map(|column| &**column as &(dyn ToSql + Sync)));
        let row = self.client.query_opt(statement, &parameters).await?;
        let row = row.ok_or(StoreError::LeaseLost)?;
        Ok(Written {
            base: row.get::<_, i64>(0) as u64,
            epoch: row.get::<_, i64>(1) as u64,
            recorded_at: row.get(2),
        })
    }
}

/// The statement's parameters: a column each, or its only value.
struct Columns<'a> {
    one: bool,
    all: Vec<Box<dyn ToSql + Sync + Send + 'a>>,
}

impl<'a> Columns<'a> {
    fn add<T, V>(&mut self, rows: &'a [T], value: impl Fn(&'a T) -> V) -> &mut Self
    where
        V: ToSql + Sync + Send + 'a,
        Vec<V>: ToSql,
    {
        let column: Box<dyn ToSql + Sync + Send + 'a> = match rows {
            [row] if self.one => Box::new(value(row)),
            rows => Box::new(rows.iter().map(value).collect::<Vec<V>>()),
        };
        self.all.push(column);
        self
    }
}
