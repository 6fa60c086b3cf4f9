//! What the machine could do at all: the disk, PostgreSQL, NATS and HTTP without the product.
//!
//! A cell has the name of the reference cell that it repeats, so that both kinds of figures
//! can stand for one another; servers, settings and clients are those of the product.

mod append;
mod database;
mod disk;
mod group;
mod http;
mod jetstream;
mod lives;
mod read;
mod write;

use crate::cell::{Cell, Context, Host, Params};
use crate::load::Samples;

/// Every limit cell.
#[must_use]
pub fn all() -> Vec<Cell> {
    let mut cells = disk::cells();
    cells.extend(write::cells());
    cells.extend(append::cells());
    cells.extend(lives::cells());
    cells.extend(read::cells());
    cells.extend(jetstream::cells());
    cells.extend(http::cells());
    cells
}

/// Those that some cells stand beside.
#[must_use]
pub fn beside(cells: &[Cell]) -> Vec<Cell> {
    let wanted = |limit: &Cell| cells.iter().any(|cell| cell.limit == limit.limit_name());
    all().into_iter().filter(wanted).collect()
}

/// A limit cell.
fn limit<F, Fut>(name: impl Into<String>, unit: &'static str, run: F) -> Cell
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<Samples>> + Send + 'static,
{
    let params = Params::default().with("cell", name.into());
    Cell::new("limits", "limit", params, run).host(Host::Bare).unit(unit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_limit_that_a_workload_names_exists_once() {
        let limits: Vec<_> = super::all();
        let names: BTreeSet<&str> = limits.iter().filter_map(|cell| cell.limit_name()).collect();
        assert_eq!(names.len(), limits.len());
        for cell in crate::workloads::all() {
            if let Some(limit) = cell.limit {
                assert!(names.contains(limit), "{cell}: {limit}");
            }
        }
    }
}
