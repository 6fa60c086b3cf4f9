//! The rows that some events change, folded over those that stood before them.

use std::collections::HashMap;
use std::sync::Arc;

use domain::{Recorded, TenantId};
use serde_json::{Map, Value};

use super::cell::storable;
use super::fold::{Batch, Parked, Rows, Slot, StreamKey};
use super::statements::columns;
use super::storage::document;
use super::{Cell, Key, Numbers, Projection};

/// Events of one tenant on their way into rows.
pub(crate) struct Tail<P: Projection> {
    batch: Batch<P>,
    parked: HashMap<StreamKey, Parked>,
    rows: Rows<P>,
}

impl<P: Projection> Tail<P> {
    /// Finds the rows that the events touch.
    pub(crate) fn plan(
        events: &[Arc<Recorded>],
        mut parked: HashMap<StreamKey, Parked>,
        mut numbers: Numbers,
    ) -> Self {
        let batch = Batch::plan(events, &mut parked, &mut numbers).in_memory();
        Self { batch, parked, rows: Rows::<P>::new() }
    }

    /// The keys of these rows.
    pub(crate) fn keys(&self) -> Vec<P::Key> {
        self.batch.keys().into_iter().map(|(_, key)| key).collect()
    }

    /// A row as it stood before the events, and the position that made it so.
    pub(crate) fn stood(&mut self, tenant: &TenantId, key: &P::Key, row: P::Row, at: u64) {
        self.rows.insert((tenant.clone(), key.clone()), Slot::stored(row, at));
    }

    /// The rows after the events, each as an object of its columns.
    pub(crate) fn fold(mut self, projection: &P) -> Value {
        // Careful folding cannot be spoilt.
        let _ = self.batch.fold(projection, &mut self.rows, &mut self.parked, true);
        let touched = self.rows.iter().filter(|(_, slot)| slot.touched);
        let rows = touched.filter_map(|((tenant, key), slot)| {
            let row = slot.row.as_ref()?;
            let mut columns = columns::<P>().map(|column| column.name.to_owned());
            let mut object = Map::new();
            object.insert("tenant".into(), tenant.as_str().into());
            object.insert("key".into(), json(key.cell()));
            if P::DOCUMENT
                && let Some(doc) = columns.next()
            {
                object.insert(doc, document(row).into());
            }
            let at = i64::try_from(slot.at).unwrap_or(i64::MAX);
            let cells = P::index(key, row).into_iter().chain([Cell::Int(Some(at))]);
            object.extend(columns.zip(cells.map(json)));
            Some(Value::Object(object))
        });
        Value::Array(rows.collect())
    }
}

fn json(cell: Cell) -> Value {
    match cell {
        Cell::Text(text) => text.map(storable).into(),
        Cell::Words(words) => words.into_iter().map(storable).collect::<Vec<_>>().into(),
        Cell::Uuid(id) => id.map(|id| id.to_string()).into(),
        Cell::Int(number) => number.into(),
        Cell::Bool(yes) => yes.into(),
    }
}
