//! What each event makes of a profile's row.

use domain::profile::{Profile, ProfileEvent};
use domain::{Event, Recorded, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of profiles.
#[derive(Debug, Clone, Copy)]
pub struct Profiles;

/// What is kept of a profile; see [`super::ProfileView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as ProfileView, but for the one explained")]
pub struct ProfileRow {
    pub name: String,
    pub profile: Box<Profile>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub version: u64,
    pub position: u64,
    /// Of its first event since it is there: the order of lists.
    pub created: u64,
}

impl Projection for Profiles {
    const NAME: &'static str = "profiles";
    const VANISHES: bool = true;
    const COLUMNS: &'static [Column] =
        &[Column::new("created", ColumnKind::Int), Column::new("name", ColumnKind::Text)];
    type Key = Uuid;
    type Row = ProfileRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        if matches!(event, Event::Profile(_)) { vec![recorded.stream_id] } else { Vec::new() }
    }

    fn fold(
        &self,
        _: &Uuid,
        row: Option<ProfileRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<ProfileRow> {
        let Event::Profile(event) = event else { return row };
        match event {
            ProfileEvent::Deleted(_) => None,
            ProfileEvent::Defined(new) => {
                let created = row.map(|row| (row.created_at, row.created));
                let (created_at, created) =
                    created.unwrap_or((recorded.occurred_at, recorded.position));
                Some(ProfileRow {
                    name: new.name.clone(),
                    profile: new.profile.clone(),
                    created_at,
                    updated_at: recorded.occurred_at,
                    version: recorded.version,
                    position: recorded.position,
                    created,
                })
            }
        }
    }

    fn shown(_key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::ProfileView::from(row)).unwrap_or_default()
    }

    fn index(_: &Uuid, row: &ProfileRow) -> Vec<Cell> {
        vec![Cell::position(row.created), Cell::text(&row.name)]
    }
}
