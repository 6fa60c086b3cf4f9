//! The properties that every read model has, and how a poisoned stream is treated.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{Recorded, TenantId};
use proptest::prelude::*;
use store::StoreError;
use uuid::Uuid;

use super::memory::World;
use super::{Cell, Column, Projection, document};
use crate::testing::{History, any_history, task};
use crate::{Key, Model, with_model};

fn rows<P: Projection>(world: &World<P>) -> BTreeMap<(String, String), String> {
    world
        .rows()
        .map(|(tenant, key, row)| ((tenant.to_string(), key.text()), document(row)))
        .collect()
}

/// Folds in batches of the given lengths, every row written out and read back between
/// two of them, as the tables do it.
fn in_batches<P: Projection + Clone>(
    projection: &P,
    events: &[Arc<Recorded>],
    cuts: &[usize],
) -> BTreeMap<(String, String), String> {
    let mut stored = super::Rows::<P>::new();
    let (mut parked, mut numbers) = Default::default();
    let mut rest = events;
    let mut cuts = cuts.iter().copied().chain(std::iter::repeat(3));
    while !rest.is_empty() {
        let (batch, more) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
        rest = more;
        let mut planned = super::fold::Batch::<P>::plan(batch, &mut parked, &mut numbers);
        planned.fold(projection, &mut stored, &mut parked, false).unwrap();
        for slot in stored.values_mut() {
            slot.row = slot.row.as_ref().map(|row| {
                let back: P::Row = serde_json::from_str(&document(row)).unwrap();
                assert_eq!(&back, row, "a row must survive being stored");
                back
            });
        }
    }
    stored
        .iter()
        .filter_map(|((tenant, key), slot)| {
            Some(((tenant.to_string(), key.text()), document(slot.row.as_ref()?)))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn batches_of_any_length_make_the_rows_that_one_replay_makes(
        history in any_history(),
        cuts in prop::collection::vec(1..20usize, 0..20),
    ) {
        for model in Model::ALL {
            with_model!(model, projection => {
                let replayed = rows(&history.world(projection));
                prop_assert_eq!(in_batches(&projection, &history.events, &cuts), replayed);
            });
        }
    }

    #[test]
    fn events_that_come_twice_change_nothing(history in any_history(), again in 0..120usize) {
        for model in Model::ALL {
            with_model!(model, projection => {
                let mut world = history.world(projection);
                let once = rows(&world);
                let again = again.min(history.events.len());
                world.apply(&history.events[again..]).unwrap();
                world.apply(&history.events).unwrap();
                prop_assert_eq!(rows(&world), once);
            });
        }
    }
}

#[test]
fn a_hole_is_an_error_and_nothing_is_folded() {
    let mut history = History::default();
    for n in 1..4 {
        history.decide(n, task("submit", r#"{"title":"t"}"#));
    }
    history.events.remove(1);
    let mut world = World::new(crate::tasks::Tasks);
    let refused = world.apply(&history.events);
    assert!(matches!(refused, Err(StoreError::Hole { expected: 2, found: 3 })));
    assert_eq!((world.position(), world.rows().count()), (0, 0));
}

#[test]
fn an_event_of_a_later_release_is_counted_and_the_stream_goes_on() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"t"}"#));
    history.decide(1, task("cancel", "{}"));
    history.spoil(|event| event.schema_version = 9);
    history.decide(1, task("archive", "{}"));
    let world = history.world(crate::tasks::Tasks);
    assert_eq!((world.unknown(), world.parked().len()), (1, 0));
    let row = world.get(&TenantId::default_tenant(), &Uuid::from_u128(1)).unwrap();
    assert!(row.archived_at.is_some());
}

#[test]
fn a_malformed_event_parks_its_stream_alone() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"good"}"#));
    history.decide(2, task("submit", r#"{"title":"bad"}"#));
    history.decide(2, task("cancel", "{}"));
    history.spoil(|event| event.payload = (b"[]" as &[u8]).into());
    history.decide(2, task("archive", "{}"));
    history.decide(1, task("cancel", "{}"));
    let world = history.world(crate::tasks::Tasks);
    let tenant = TenantId::default_tenant();
    let parked = &world.parked()[&(tenant.clone(), Uuid::from_u128(2))];
    assert_eq!((parked.position, parked.skipped), (3, 1));
    let bad = world.get(&tenant, &Uuid::from_u128(2)).unwrap();
    assert_eq!((bad.version, bad.archived_at), (1, None));
    assert_eq!(world.get(&tenant, &Uuid::from_u128(1)).unwrap().version, 2);
}

/// Counts a stream's events, and panics at a word.
#[derive(Debug, Clone, Copy)]
struct Touchy;

impl Projection for Touchy {
    const NAME: &'static str = "touchy";
    const COLUMNS: &'static [Column] = &[];
    type Key = Uuid;
    type Row = u32;

    fn keys(recorded: &Recorded, _: &domain::Event) -> Vec<Uuid> {
        // A row of the stream's own, and one that all share.
        vec![recorded.stream_id, Uuid::nil()]
    }

    fn fold(
        &self,
        key: &Uuid,
        row: Option<u32>,
        event: &Recorded,
        _: &domain::Event,
    ) -> Option<u32> {
        let poisoned = event.payload.windows(6).any(|word| word == b"poison");
        assert!(!(poisoned && key.is_nil()), "it is poisoned");
        Some(row.unwrap_or(0) + 1)
    }

    fn index(_: &Uuid, _: &u32) -> Vec<Cell> {
        Vec::new()
    }
}

#[test]
fn a_fold_that_panics_leaves_every_row_as_it_was_and_parks_the_stream() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"fine"}"#));
    history.decide(2, task("submit", r#"{"title":"fine"}"#));
    history.decide(2, task("update", r#"{"title":"poison"}"#));
    history.decide(2, task("update", r#"{"title":"fine again"}"#));
    history.decide(1, task("update", r#"{"title":"still fine"}"#));
    let world = history.world(Touchy);
    let tenant = TenantId::default_tenant();
    let count = |key: u128| *world.get(&tenant, &Uuid::from_u128(key)).unwrap();
    assert_eq!((count(1), count(2), count(0)), (2, 1, 3));
    let parked = &world.parked()[&(tenant.clone(), Uuid::from_u128(2))];
    assert_eq!((parked.position, parked.skipped), (3, 1));
    assert!(parked.reason.contains("it is poisoned"), "{}", parked.reason);
}

#[test]
fn a_quick_world_says_when_a_panic_spoilt_it_and_a_careful_one_stands_in() {
    let mut history = History::default();
    history.decide(1, task("submit", r#"{"title":"fine"}"#));
    let mut quick = World::quick(Touchy);
    quick.apply(&history.events).unwrap();
    assert!(!quick.is_spoilt());
    assert_eq!(rows(&quick), rows(&history.world(Touchy)));
    history.decide(1, task("update", r#"{"title":"poison"}"#));
    quick.apply(&history.events).unwrap();
    assert!(quick.is_spoilt());
    let mut careful = quick.start_carefully();
    careful.apply(&history.events).unwrap();
    assert!(!careful.is_spoilt() && careful.parked().len() == 1);
    assert_eq!(rows(&careful), rows(&history.world(Touchy)));
}
