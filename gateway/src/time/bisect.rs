//! `POST /v1/time/bisect`

use axum::Json as Answer;
use axum::extract::State;
use chrono::TimeDelta;
use domain::expression::Condition;
use domain::{Json, TenantId};
use projections::events::EventFilter;
use projections::{Model, Queries};
use replay::{Found, Predicate, VARIABLE};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::error::{ApiError, ApiResult};
use crate::events::cloud_events;
use crate::openapi::{self, Refused};
use crate::query::Fresh;
use crate::view;

/// Longest that a task may be asked to have stood still: a year, in milliseconds.
const LONGEST: u64 = 31_536_000_000;

/// What to look for, and where.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bisect {
    /// The read model whose rows the condition looks at.
    model: Option<String>,
    /// A condition in CEL over a row as the API shows it, such as `row.state == "dead"`.
    condition: Option<String>,
    /// One of the conditions that have a name, in the place of `model` and `condition`.
    named: Option<Named>,
    /// For `stuck`: for how long a task has not moved, in milliseconds.
    for_ms: Option<u64>,
    /// For `attempts_above` and `agent_flapping`: more attempts, or restarts, than these.
    above: Option<u32>,
    /// Behind this position or time (RFC 3339); from the first event on when absent.
    from: Option<Place>,
    /// Up to this position or time; now when absent.
    to: Option<Place>,
}

/// A condition that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// A task that has not ended stands still for longer than `for_ms`.
    Stuck,
    /// A task was given out while somebody held it.
    TwoHolders,
    /// A task has had more attempts than `above`.
    AttemptsAbove,
    /// An agent was restarted more often than `above`.
    AgentFlapping,
}

/// A position, or a time with its zone.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Place {
    /// A position.
    Position(u64),
    /// A position or a time as text.
    Text(String),
}

impl Place {
    fn text(&self) -> String {
        match self {
            Self::Position(position) => position.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Where it became true.
#[derive(Debug, Serialize, ToSchema)]
pub struct Bisected {
    /// The range that was searched.
    from: u64,
    /// Its end.
    to: u64,
    /// What was found.
    found: Found,
    /// The event at that position.
    event: Option<Json>,
    /// The event that caused it, where one did.
    cause: Option<Json>,
    /// What was found in words.
    summary: String,
}

/// Finds the first position at which a condition holds, with the event, its cause and actor.
#[utoipa::path(post, path = "/time/bisect", tag = "time", request_body = Bisect, responses(
    (status = 200, description = "The first position at which it is true, or none", body = Bisected),
    (status = "4XX", response = Refused),
))]
pub async fn bisect(
    State(app): State<App>,
    caller: Caller,
    fresh: Fresh,
    body: JsonBytes,
) -> ApiResult {
    let asked: Bisect = body.parse()?;
    let (from, to) = (asked.from.as_ref().map(Place::text), asked.to.as_ref().map(Place::text));
    let sought = asked.sought()?;
    let ends = [("from", from.as_deref()), ("to", to.as_deref())];
    let (from, to) = super::range(&app, fresh, &Model::ALL, ends).await?;
    let (queries, tenant) = (&app.doors.queries, &caller.tenant);
    let found = match sought {
        Sought::Rows(predicate) => replay::bisect(queries, tenant, &predicate, (from, to)).await?,
        Sought::SecondHolder => Found::at(queries.second_holder(tenant, from, to).await?),
    };
    let event = event(&app, queries, tenant, found.position).await?;
    let cause = event.as_ref().and_then(|(_, cause)| *cause);
    let cause = self::event(&app, queries, tenant, cause).await?;
    let summary = summary(&found, event.as_ref().map(|(event, _)| event), (from, to));
    let (event, cause) = (event.map(|(event, _)| event), cause.map(|(event, _)| event));
    let bisected = Bisected { from, to, found, event, cause, summary };
    Ok(view::with_position(Answer(bisected), to, 0))
}

enum Sought {
    Rows(Predicate),
    SecondHolder,
}

impl Bisect {
    fn sought(&self) -> Result<Sought, ApiError> {
        let refuse =
            |field: &str, why: &str| Err(ApiError::parameter(format!("/{field}"), why.to_owned()));
        let Some(named) = self.named else {
            if self.for_ms.is_some() || self.above.is_some() {
                return refuse("named", "`for_ms` and `above` go with a condition of a name");
            }
            let Some(name) = &self.model else {
                return refuse("model", "name a read model and a condition, or a `named` one");
            };
            let Some(text) = &self.condition else {
                return refuse("condition", "a condition on the model's rows is missing");
            };
            let model = super::model("/model", name)?;
            return Ok(Sought::Rows(Predicate::Row(model, condition(model, text)?)));
        };
        if self.model.is_some() || self.condition.is_some() {
            return refuse("named", "a named condition brings its own model and condition");
        }
        let above = |what: &str| match self.above {
            Some(above) => Ok(above),
            None => Err(ApiError::parameter("/above", format!("how many {what} are too many?"))),
        };
        let row = |model, text: String| {
            let condition = Condition::parse(&text, VARIABLE);
            condition
                .map(|condition| Sought::Rows(Predicate::Row(model, condition)))
                .map_err(|why| ApiError::parameter("/named", why))
        };
        match named {
            Named::Stuck => match self.for_ms {
                Some(ms @ 1..=LONGEST) => {
                    Ok(Sought::Rows(Predicate::Stuck(TimeDelta::milliseconds(ms as i64))))
                }
                _ => refuse("for_ms", "say for how long, in 1 to 31,536,000,000 milliseconds"),
            },
            Named::TwoHolders => Ok(Sought::SecondHolder),
            Named::AttemptsAbove => {
                row(Model::Tasks, format!("row.attempt > {}", above("attempts")?))
            }
            Named::AgentFlapping => {
                row(Model::Agents, format!("row.restart_count > {}", above("restarts")?))
            }
        }
    }
}

/// A condition over a row of a model; a field that its rows do not have is refused by name.
fn condition(model: Model, text: &str) -> Result<Condition, ApiError> {
    let refuse = |why: String| Err(ApiError::parameter("/condition", why));
    let condition = match Condition::parse(text, VARIABLE) {
        Ok(condition) => condition,
        Err(why) => return refuse(why),
    };
    let Some(known) = fields(model) else { return Ok(condition) };
    let unknown = condition.fields().iter().find(|field| !known.contains(field));
    let Some(unknown) = unknown else { return Ok(condition) };
    let hint = domain::json::nearest(unknown, known.iter().map(String::as_str))
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    refuse(format!("rows of {model} have no field `{unknown}`{hint} (known: {})", known.join(", ")))
}

/// The fields of a model's rows, as the API's document has them.
fn fields(model: Model) -> Option<Vec<String>> {
    let name = match model {
        Model::Tasks => "Task",
        Model::Agents => "Agent",
        Model::Operations => "Operation",
        Model::Schedules => "Schedule",
        Model::Nodes => "Node",
        Model::Metrics => "QueueMetrics",
        Model::Audit | Model::Queues | Model::Profiles => return None,
    };
    let schemas = openapi::schemas();
    let properties = schemas.get(name)?.get("properties")?.as_object()?;
    Some(properties.keys().cloned().collect())
}

/// An event as a CloudEvent, and what caused it.
async fn event(
    app: &App,
    queries: &Queries,
    tenant: &TenantId,
    position: Option<u64>,
) -> ApiResult<Option<(Json, Option<u64>)>> {
    let Some(position) = position.filter(|position| *position > 0) else { return Ok(None) };
    let page = queries.events(tenant, &EventFilter::default(), position - 1, 1).await?;
    let found = page.value.events.first().filter(|event| event.position == position);
    Ok(found.map(|event| {
        let told = cloud_events(std::slice::from_ref(event), app.hub.epoch());
        (Json::of(&told.first()), event.causation_position)
    }))
}

fn summary(found: &Found, event: Option<&Json>, (from, to): (u64, u64)) -> String {
    let Some(position) = found.position else {
        return format!(
            "not true at {to}, nor at any multiple of {} since {from}",
            found.resolution
        );
    };
    if found.already {
        return format!("true already at {from}, where the range begins");
    }
    let event: serde_json::Value = event.and_then(|event| event.read().ok()).unwrap_or_default();
    let what = event["type"].as_str().unwrap_or("an event of another tenant");
    let what = what.trim_start_matches("dev.taffrail.").trim_end_matches(".v1");
    let who = event["actor"].as_str().unwrap_or("somebody");
    let first = format!("first true at {position}: {what} by {who}");
    if found.monotone {
        return first;
    }
    format!(
        "{first}. At {to} it is not true any more: this is the first flip that lasted over a \
         multiple of {}; shorter ones before it are not seen",
        found.resolution
    )
}
