//! What can have happened to a schedule.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spec::ScheduleSpec;
use super::upcast::UPCASTS;
use crate::problem::Problem;

events! {
    /// The events of a schedule.
    ScheduleEvent of "schedule" upcast UPCASTS;
    {
        /// It was made.
        Created(ScheduleCreated) = "created" v 1,
        /// It says something else.
        Updated(ScheduleUpdated) = "updated" v 1,
        /// It fires no more until it is resumed.
        Paused(ScheduleChanged) = "paused" v 1,
        /// It fires again; what passed in the pause is not made up for.
        Resumed(ScheduleChanged) = "resumed" v 1,
        /// It is no more.
        Deleted(ScheduleChanged) = "deleted" v 1,
        /// A task is to be submitted.
        Fired(ScheduleFired) = "fired" v 1,
        /// Slots or an event were left out.
        Skipped(ScheduleSkipped) = "skipped" v 1,
        /// The task of a firing could not be submitted.
        SubmitFailed(ScheduleSubmitFailed) = "submit_failed" v 1,
    }
}

/// It was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleCreated {
    /// All that it says.
    pub spec: ScheduleSpec,
    /// By the database's clock; no slot before it counts.
    pub created_at: DateTime<Utc>,
}

/// It says something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleUpdated {
    /// All that it says now.
    pub spec: ScheduleSpec,
    /// Whether it fires at other times: slots count from here.
    pub retimed: bool,
    /// By the database's clock.
    pub updated_at: DateTime<Utc>,
}

/// Its state changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleChanged {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By the database's clock.
    pub at: DateTime<Utc>,
}

/// What made a schedule fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FiredBy {
    /// Its time had come.
    Time,
    /// An event.
    Event,
    /// Somebody.
    Trigger,
    /// Somebody, for a range of the past.
    Backfill,
}

/// A task is to be submitted; its id follows from schedule and run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleFired {
    /// The number of the firing, from 1.
    pub run: u64,
    /// What made it fire.
    pub by: FiredBy,
    /// The slot; the time of the firing where it has none.
    pub slot_at: DateTime<Utc>,
    /// The event's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Slots before it that passed and are made up for by nothing else, counted up to 1,000.
    #[serde(default)]
    pub missed: u64,
}

/// Why a slot was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It had passed while nobody could fire it.
    Misfire,
    /// The task of an earlier firing had not ended.
    Overlap,
    /// Too many events waited.
    TooMany,
}

/// Slots up to one, or an event, were left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleSkipped {
    /// The last of the slots; the time of the decision for an event.
    pub slot_at: DateTime<Utc>,
    /// The event's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// How many, counted up to 1,000.
    pub count: u64,
    /// Why.
    pub reason: SkipReason,
}

/// The task of a firing could not be submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleSubmitFailed {
    /// The firing.
    pub run: u64,
    /// Why.
    pub problem: Problem,
}
