//! Reading the log page by page.

use std::str::FromStr;
use std::sync::Arc;

use domain::{Recorded, StreamType, TenantId};
use store::{RECORDED_COLUMNS, recorded_from_row};
use uuid::Uuid;

use crate::query::{Sql, bigint, position_of};
use crate::{Answer, Queries, QueryError};

/// Positions that one statement looks at when the filter is not an index's: a page that
/// finds little ends there, and the next one goes on behind it.
const WINDOW: u64 = 20_000;
/// Statements of that kind for one page.
const WINDOWS: u64 = 10;
/// Longest page of events.
pub const MAX_EVENTS: usize = 1_000;

/// Which events to read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventFilter {
    /// Of this kind of stream.
    pub stream_type: Option<StreamType>,
    /// Of this name within the stream type.
    pub event_type: Option<String>,
    /// Of this stream.
    pub stream: Option<Uuid>,
    /// Asked for by this principal.
    pub actor: Option<String>,
    /// Of this correlation.
    pub correlation: Option<Uuid>,
}

impl EventFilter {
    /// Adds a type as people write it: `task`, `task.submitted` or
    /// `dev.taffrail.task.submitted.v1`; false when there is no such kind of stream.
    pub fn of_type(&mut self, text: &str) -> bool {
        let text = text.strip_prefix("dev.taffrail.").unwrap_or(text);
        let mut parts = text.split('.');
        let Ok(kind) = StreamType::from_str(parts.next().unwrap_or_default()) else { return false };
        self.stream_type = Some(kind);
        self.event_type = parts.next().map(str::to_owned);
        match parts.next() {
            None => true,
            Some(version) => {
                parts.next().is_none()
                    && version.strip_prefix('v').is_some_and(|v| v.parse::<u16>().is_ok())
            }
        }
    }

    /// Whether an event passes.
    pub fn takes(&self, event: &Recorded) -> bool {
        self.stream_type.is_none_or(|kind| kind == event.stream_type)
            && self.event_type.as_ref().is_none_or(|name| **name == *event.event_type)
            && self.stream.is_none_or(|id| id == event.stream_id)
            && self.actor.as_ref().is_none_or(|actor| **actor == *event.actor)
            && self.correlation.is_none_or(|id| Some(id) == event.correlation_id)
    }

    /// Whether most events pass, or an index finds those that do.
    fn is_cheap(&self) -> bool {
        self.stream.is_some() || *self == Self::default()
    }
}

/// A page of the log, oldest first.
#[derive(Debug, Clone)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Arc<Recorded>>,
    /// The `after` of the next page; absent when the page reached the head. A page may
    /// be short, even empty, and still have a next one: it looked only so far.
    pub next: Option<u64>,
}

impl Queries {
    /// The events of a tenant behind a position, oldest first, from the log itself; the
    /// answer's position is the head.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn events(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        after: u64,
        limit: usize,
    ) -> Result<Answer<EventPage>, QueryError> {
        let limit = limit.clamp(1, MAX_EVENTS);
        let mut events: Vec<Arc<Recorded>> = Vec::new();
        let mut from = after;
        for _ in 0..WINDOWS {
            let window = (!filter.is_cheap()).then(|| from.saturating_add(WINDOW));
            let to = window.into_iter().chain(self.moment()).min();
            let wanted = limit - events.len() + 1;
            let rows = self.rows(tenant, &page(tenant, filter, from, to, wanted)).await?;
            let first = rows.first().ok_or_else(|| QueryError::Row("no head".into()))?;
            let head = self.moment().map_or_else(|| position_of(first, HEAD), Ok)?;
            let answer = |events, next| Answer {
                value: EventPage { events, next },
                position: head,
                lag_ms: 0,
            };
            for row in &rows {
                // One row of nulls stands for none.
                if row.try_get::<_, Option<i64>>(0)?.is_some() {
                    events.push(recorded_from_row(row)?);
                }
            }
            if events.len() > limit {
                events.truncate(limit);
                let next = events.last().map(|last| last.position);
                return Ok(answer(events, next));
            }
            match to {
                Some(to) if to < head => from = to,
                Some(_) | None => return Ok(answer(events, None)),
            }
        }
        let head = self.head(tenant).await?;
        Ok(Answer { value: EventPage { events, next: Some(from) }, position: head, lag_ms: 0 })
    }

    /// The log's head.
    ///
    /// # Errors
    /// When the database cannot be reached.
    async fn head(&self, tenant: &TenantId) -> Result<u64, QueryError> {
        if let Some(moment) = self.moment() {
            return Ok(moment);
        }
        let sql = Sql::new("SELECT position FROM log_head WHERE shard = 0");
        let rows = self.rows(tenant, &sql).await?;
        rows.first().map_or(Ok(0), |row| position_of(row, 0))
    }
}

/// The column of the head, behind those of an event.
const HEAD: usize = 18;

fn page(tenant: &TenantId, filter: &EventFilter, after: u64, to: Option<u64>, limit: usize) -> Sql {
    let mut sql = Sql::new(format!(
        "SELECT {RECORDED_COLUMNS}, h.position FROM log_head h LEFT JOIN \
         (SELECT * FROM events e"
    ));
    sql.with(" WHERE e.tenant = #", tenant.as_str().to_owned());
    sql.with(" AND e.position > #", bigint(after));
    if let Some(to) = to {
        sql.with(" AND e.position <= #", bigint(to));
    }
    if let Some(kind) = filter.stream_type {
        sql.with(" AND e.stream_type = #", kind.as_str());
    }
    if let Some(name) = &filter.event_type {
        sql.with(" AND e.event_type = #", name.clone());
    }
    if let Some(stream) = filter.stream {
        sql.with(" AND e.stream_id = #", stream);
    }
    if let Some(actor) = &filter.actor {
        sql.with(" AND e.actor = #", actor.clone());
    }
    if let Some(correlation) = filter.correlation {
        sql.with(" AND e.correlation_id = #", correlation);
    }
    // In a stream the version gives the same order, and its index.
    let order = if filter.stream.is_some() { "e.version" } else { "e.position" };
    sql.push(&format!(" ORDER BY {order}"));
    sql.with(" LIMIT #) e ON true WHERE h.shard = 0", limit as i64);
    sql.push(" ORDER BY e.position");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_understood_in_its_three_spellings() {
        for text in ["task.submitted", "dev.taffrail.task.submitted.v1"] {
            let mut filter = EventFilter::default();
            assert!(filter.of_type(text), "{text}");
            assert_eq!(filter.stream_type, Some(StreamType::Task));
            assert_eq!(filter.event_type.as_deref(), Some("submitted"));
        }
        assert!(EventFilter::default().of_type("agent"));
        for text in ["", "tusk", "tusk.submitted", "task.submitted.v1.x", "task.submitted.one"] {
            assert!(!EventFilter::default().of_type(text), "{text}");
        }
    }
}
