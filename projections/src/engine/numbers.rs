//! Numbers for people: each tenant's streams of one type, counted in the order of the log.
//!
//! Invariant: a number follows from the log alone. Every stream's first event is counted,
//! also one that cannot be folded, so that live rows, rebuilt ones and the world as of a
//! position agree, whatever was parked on the way. The last number of each tenant is kept
//! beside the rows and written with them and the checkpoint, in one statement.

use std::collections::HashMap;
use std::sync::Arc;

use deadpool_postgres::GenericClient;
use domain::{Recorded, TenantId};

use super::Projection;
use super::storage::Schema;
use crate::ProjectionError;

/// The last number that was given, per tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    last: HashMap<TenantId, Last>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    number: u64,
    /// Counted on since it was last written.
    changed: bool,
}

impl Numbers {
    /// The number of the stream that begins with an event; none where the event begins none,
    /// or one of a kind that the model does not count.
    pub(super) fn next<P: Projection>(&mut self, event: &Recorded) -> Option<u64> {
        if !begins::<P>(event) {
            return None;
        }
        let none = Last { number: 0, changed: false };
        let last = self.last.entry(event.tenant.clone()).or_insert(none);
        *last = Last { number: last.number + 1, changed: true };
        Some(last.number)
    }

    /// The tenants for which events count on, and whose last number is not known here.
    fn missing<'a, P: Projection>(
        &self,
        events: impl Iterator<Item = &'a Recorded>,
    ) -> Vec<TenantId> {
        let mut missing = Vec::new();
        for event in events.filter(|event| begins::<P>(event)) {
            if !self.last.contains_key(&event.tenant) && !missing.contains(&event.tenant) {
                missing.push(event.tenant.clone());
            }
        }
        missing
    }

    /// Reads the last numbers of the tenants that begin streams among the events: once per
    /// tenant and start, because nobody else counts while the checkpoint is ours.
    pub(super) async fn load<'a, P: Projection, C: GenericClient>(
        &mut self,
        client: &C,
        schema: Schema,
        events: impl Iterator<Item = &'a Recorded>,
    ) -> Result<(), ProjectionError> {
        let missing = self.missing::<P>(events);
        if missing.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT tenant, last FROM {}.numbers WHERE model = $1 AND tenant = ANY($2)",
            schema.as_str()
        );
        let names: Vec<&str> = missing.iter().map(TenantId::as_str).collect();
        let rows = client.query(&client.prepare_cached(&sql).await?, &[&P::NAME, &names]).await?;
        for row in rows {
            let Some(tenant) = TenantId::parse(row.try_get(0)?) else { continue };
            let number = u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0);
            self.last.insert(tenant, Last { number, changed: false });
        }
        for tenant in missing {
            self.last.entry(tenant).or_insert(Last { number: 0, changed: false });
        }
        Ok(())
    }

    /// Whether some events begin streams that the model counts.
    pub(crate) fn count_on<P: Projection>(events: &[Arc<Recorded>]) -> bool {
        events.iter().any(|event| begins::<P>(event))
    }

    /// Where one tenant's count stands.
    pub(crate) fn after(tenant: &TenantId, number: u64) -> Self {
        Self { last: HashMap::from([(tenant.clone(), Last { number, changed: false })]) }
    }

    /// Whether there is anything to write.
    pub(super) fn changed(&self) -> bool {
        self.last.values().any(|last| last.changed)
    }

    /// What is to be written, in the order of the tenants.
    pub(super) fn to_write(&self) -> (Vec<String>, Vec<i64>) {
        let changed = self.last.iter().filter(|(_, last)| last.changed);
        let mut changed: Vec<_> =
            changed.map(|(tenant, last)| (tenant.to_string(), last.number as i64)).collect();
        changed.sort_unstable();
        changed.into_iter().unzip()
    }

    /// It was written.
    pub(super) fn settle(&mut self) {
        self.last.values_mut().for_each(|last| last.changed = false);
    }
}

fn begins<P: Projection>(event: &Recorded) -> bool {
    P::NUMBERED == Some(event.stream_type) && event.version == 1
}
