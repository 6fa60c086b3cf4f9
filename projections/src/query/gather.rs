//! Reads by id, gathered: what is asked for while one query is under way goes into the
//! next one, as commands share a flush. An idle system asks at once, for one id; a busy
//! one asks for tens with one statement, at a fraction of the cost of each.
//!
//! Invariants: a query serves one tenant, in a transaction of that tenant; it begins
//! after its last reader asked, so nobody gets an answer older than the question; what
//! waits is bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use domain::TenantId;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{FIRST, Queries, Seen, Sql};
use crate::{Model, QueryError};

/// Ids in one query.
const AT_ONCE: usize = 256;
/// Queries of one kind and tenant under way at once. A second one would halve what each
/// gathers without being answered sooner: the server is the same.
const UNDER_WAY: usize = 1;
/// Readers of one kind and tenant that may wait.
const WAITING: usize = 8_192;

/// The read models that are read by a stream's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ById {
    Task,
    Agent,
    Operation,
    Schedule,
    Node,
    Profile,
}

impl ById {
    /// The models behind an answer; the first is the one that holds the row.
    fn models(self) -> &'static [Model] {
        match self {
            Self::Task => &[Model::Tasks],
            Self::Agent => &[Model::Agents, Model::Tasks],
            Self::Operation => &[Model::Operations],
            Self::Schedule => &[Model::Schedules],
            Self::Node => &[Model::Nodes, Model::Agents],
            Self::Profile => &[Model::Profiles],
        }
    }

    /// Key, document and place of a row, and the ids that go with it.
    fn select(self) -> &'static str {
        match self {
            Self::Task => crate::tasks::BY_ID,
            Self::Agent => crate::agents::BY_ID,
            Self::Operation => crate::operations::BY_ID,
            Self::Schedule => crate::schedules::BY_ID,
            Self::Node => crate::nodes::BY_ID,
            Self::Profile => crate::profiles::BY_ID,
        }
    }
}

/// What a reader gets: its row, where there is one, and the place that it was read at.
type Read = Result<(Seen, Option<Arc<Row>>), QueryError>;

#[derive(Debug)]
struct Reader {
    key: Uuid,
    answer: oneshot::Sender<Read>,
}

#[derive(Debug, Default)]
struct Desk {
    waiting: Vec<Reader>,
    under_way: usize,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Gather {
    desks: Mutex<HashMap<(ById, TenantId), Desk>>,
    reads: AtomicU64,
    queries: AtomicU64,
}

/// How reads by id were gathered, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Reads answered.
    pub reads: u64,
    /// Queries that answered them.
    pub queries: u64,
    /// Readers that wait for their query to begin.
    pub waiting: usize,
}

impl Gather {
    /// Joins those who wait; whether a query must be started for them.
    fn join(&self, at: &(ById, TenantId), reader: Reader) -> Result<bool, QueryError> {
        let mut desks = self.desks.lock();
        let desk = desks.entry(at.clone()).or_default();
        if desk.waiting.len() >= WAITING {
            return Err(QueryError::Full);
        }
        desk.waiting.push(reader);
        let start = desk.under_way < UNDER_WAY;
        desk.under_way += usize::from(start);
        Ok(start)
    }

    /// Those whose turn it is; none when nobody waits, and then the query's place is free.
    fn take(&self, at: &(ById, TenantId)) -> Vec<Reader> {
        let mut desks = self.desks.lock();
        let Some(desk) = desks.get_mut(at) else { return Vec::new() };
        if desk.waiting.is_empty() {
            desk.under_way -= 1;
            if desk.under_way == 0 {
                desks.remove(at);
            }
            return Vec::new();
        }
        let rest = desk.waiting.split_off(desk.waiting.len().min(AT_ONCE));
        std::mem::replace(&mut desk.waiting, rest)
    }
}

/// Frees a query's place when its task is torn down half-way.
struct Place<'a> {
    gather: &'a Gather,
    at: &'a (ById, TenantId),
    left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.left
            && let Some(desk) = self.gather.desks.lock().get_mut(self.at)
        {
            desk.under_way -= 1;
        }
    }
}

impl Queries {
    /// How reads by id were gathered.
    pub fn gathered(&self) -> Gathered {
        let waiting = self.gather.desks.lock().values().map(|desk| desk.waiting.len()).sum();
        let (reads, queries) = (&self.gather.reads, &self.gather.queries);
        Gathered { reads: reads.load(Relaxed), queries: queries.load(Relaxed), waiting }
    }

    /// Reads a row by id, together with whoever asks at the same time.
    async fn read(&self, kind: ById, tenant: &TenantId, key: Uuid) -> Read {
        let at = (kind, tenant.clone());
        let (answer, answered) = oneshot::channel();
        if self.gather.join(&at, Reader { key, answer })? {
            // A task of its own: a reader who leaves must not stop the others' query.
            let queries = self.clone();
            tokio::spawn(async move { queries.serve(&at).await });
        }
        let broken = || Err(QueryError::Row("the query broke off".into()));
        answered.await.unwrap_or_else(|_| broken())
    }

    /// Asks for those who wait until nobody does.
    async fn serve(&self, at: &(ById, TenantId)) {
        let mut place = Place { gather: &self.gather, at, left: false };
        loop {
            let mut readers = self.gather.take(at);
            if readers.is_empty() {
                place.left = true;
                return;
            }
            // Whoever has gone by now needs no answer.
            readers.retain(|reader| !reader.answer.is_closed());
            if !readers.is_empty() {
                self.answer(at, readers).await;
            }
        }
    }

    async fn answer(&self, (kind, tenant): &(ById, TenantId), readers: Vec<Reader>) {
        let keys: Vec<Uuid> = readers.iter().map(|reader| reader.key).collect();
        let mut page = Sql::new(kind.select());
        page.bind(tenant.as_str().to_owned());
        page.bind(keys);
        self.gather.queries.fetch_add(1, Relaxed);
        self.gather.reads.fetch_add(readers.len() as u64, Relaxed);
        let found = self.select(tenant, kind.models(), page.of_one_shape()).await;
        let keyed = found.and_then(|(seen, rows)| {
            let keyed = rows.into_iter().map(|row| Ok((row.try_get(FIRST)?, Arc::new(row))));
            Ok((seen, keyed.collect::<Result<HashMap<Uuid, Arc<Row>>, QueryError>>()?))
        });
        match keyed {
            Ok((seen, rows)) => {
                for Reader { key, answer } in readers {
                    let _ = answer.send(Ok((seen, rows.get(&key).cloned())));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for Reader { answer, .. } in readers {
                    let _ = answer.send(Err(QueryError::Gathered(error.clone())));
                }
            }
        }
    }

    /// Reads a row by id; where there is none, waits until the checkpoint has passed the
    /// head that stood at the request, so that what was just created is found.
    pub(crate) async fn find(
        &self,
        kind: ById,
        tenant: &TenantId,
        key: Uuid,
        patience: std::time::Duration,
    ) -> Read {
        let (seen, row) = self.read(kind, tenant, key).await?;
        if row.is_some() || seen.position >= seen.head {
            return Ok((seen, row));
        }
        let [model, ..] = kind.models() else { return Ok((seen, row)) };
        if self.wait_for(*model, seen.head, patience).await.is_err() {
            return Ok((seen, None));
        }
        self.read(kind, tenant, key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> (ById, TenantId) {
        (ById::Task, TenantId::default_tenant())
    }

    fn reader(n: u128) -> Reader {
        Reader { key: Uuid::from_u128(n), answer: oneshot::channel().0 }
    }

    #[test]
    fn who_comes_while_a_query_is_under_way_goes_into_the_next() {
        let gather = Gather::default();
        assert!(gather.join(&at(), reader(0)).expect("room"), "the first starts a query");
        assert_eq!(gather.take(&at()).len(), 1);
        for n in 1..=AT_ONCE as u128 + 1 {
            assert!(!gather.join(&at(), reader(n)).expect("room"), "one is under way");
        }
        let other = (ById::Agent, TenantId::default_tenant());
        assert!(gather.join(&other, reader(0)).expect("room"), "another kind has its own");
        let keys: Vec<u128> = gather.take(&at()).iter().map(|r| r.key.as_u128()).collect();
        assert_eq!(keys, (1..=AT_ONCE as u128).collect::<Vec<_>>(), "in order, and bounded");
        assert_eq!(gather.take(&at()).len(), 1);
        assert!(gather.take(&at()).is_empty());
        assert!(gather.join(&at(), reader(0)).expect("room"), "the place is free again");
    }

    #[test]
    fn a_query_that_is_torn_down_frees_its_place_and_waiting_is_bounded() {
        let gather = Gather::default();
        assert!(gather.join(&at(), reader(0)).expect("room"));
        drop(Place { gather: &gather, at: &at(), left: false });
        assert!(gather.join(&at(), reader(1)).expect("room"), "started anew");
        for n in 2..WAITING as u128 {
            gather.join(&at(), reader(n)).expect("room");
        }
        assert!(matches!(gather.join(&at(), reader(9)), Err(QueryError::Full)));
    }
}
