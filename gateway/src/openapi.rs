//! The OpenAPI document, generated from the routes, and the page that shows it.

use axum::Json;
use axum::response::{IntoResponse, Response};
use domain::Problem;
use serde_json::{Map, Value};
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToResponse};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::app::App;
use crate::operation::AcceptedBody;
use crate::{
    agent, audit, batch, causes, events, fleet, health, metrics, models, node, operation, profile,
    queue, schedule, seal, service, task, time,
};

/// The problem document of a refusal.
#[derive(ToResponse)]
#[response(
    description = "A problem document (RFC 9457)",
    content_type = "application/problem+json"
)]
#[expect(dead_code, reason = "stands for a response in the document alone")]
pub struct Refused(Problem);

/// What goes on as an operation.
#[derive(ToResponse)]
#[response(description = "Taken on as an operation; `Location` tells where to follow it")]
#[expect(dead_code, reason = "stands for a response in the document alone")]
pub struct Accepted(AcceptedBody);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Taffrail",
        description = "Orchestration of agents on an event log. Every change is an event; every answer names the log position that it reflects.",
    ),
    components(responses(Refused, Accepted), schemas(Problem, AcceptedBody, domain::Outcome)),
    modifiers(&Bearer),
    security(("bearer" = [])),
    tags(
        (name = "tasks", description = "Units of work"),
        (name = "queues", description = "What waits where, and claims"),
        (name = "dead letters", description = "Tasks that failed for good"),
        (name = "agents", description = "The workers"),
        (name = "nodes", description = "The hosts that start agents"),
        (name = "profiles", description = "How agents are started, watched and stopped"),
        (name = "schedules", description = "Tasks that are submitted at a time or on an event"),
        (name = "operations", description = "Long-running work, answered 202"),
        (name = "events", description = "The log, as pages and as live streams"),
        (name = "time", description = "The log as history: two moments compared, because of what, since when, and what if"),
        (name = "seals", description = "That nothing was changed: seals, proofs, export and import"),
        (name = "audit", description = "Who did what, and what was refused"),
        (name = "metrics", description = "Numbers and read models"),
        (name = "service", description = "The process itself"),
    ),
)]
struct Base;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        if let Some(components) = &mut document.components {
            components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
        }
    }
}

/// The routes below `/v1`, which need a token.
pub(crate) fn routes_of_api() -> Vec<UtoipaMethodRouter<App>> {
    vec![
        routes!(task::submit_task, task::list_tasks),
        routes!(batch::batch),
        routes!(task::get_task, task::update_task, task::archive_task),
        routes!(task::list_task_events),
        routes!(task::list_children),
        routes!(task::why_task),
        routes!(task::candidates),
        routes!(task::command_task),
        routes!(queue::claim),
        routes!(queue::list_queues),
        routes!(queue::get_queue, queue::configure_queue),
        routes!(queue::purge_queue),
        routes!(queue::change_queue),
        routes!(task::list_dead_letters),
        routes!(task::requeue_dead_letters),
        routes!(task::discard_dead_letters),
        routes!(task::requeue_dead_letter),
        routes!(task::discard_dead_letter),
        routes!(agent::register_agent, agent::list_agents),
        routes!(agent::get_agent, agent::update_agent),
        routes!(agent::beat),
        routes!(agent::follow_logs),
        routes!(fleet::send_beat),
        routes!(agent::command_agent),
        routes!(fleet::fleet),
        routes!(fleet::restart_fleet),
        routes!(fleet::capabilities),
        routes!(node::list_nodes),
        routes!(node::get_node),
        routes!(node::command_node),
        routes!(profile::list_profiles),
        routes!(profile::get_profile, profile::put_profile, profile::delete_profile),
        routes!(schedule::create_schedule, schedule::list_schedules),
        routes!(schedule::get_schedule, schedule::update_schedule, schedule::delete_schedule),
        routes!(schedule::next_runs),
        routes!(schedule::command_schedule),
        routes!(operation::list_operations),
        routes!(operation::get_operation),
        routes!(operation::cancel_operation),
        routes!(operation::operation_events),
        routes!(events::list_events),
        routes!(events::stream_events),
        routes!(events::websocket),
        routes!(seal::prove_event),
        routes!(seal::list_seals),
        routes!(seal::consistency),
        routes!(seal::export_log),
        routes!(seal::import_log),
        routes!(audit::list_audit),
        routes!(causes::why),
        routes!(models::tenant_metrics),
        routes!(crate::rebuild::list_models),
        routes!(crate::rebuild::rebuild),
        routes!(crate::rebuild::roll_back),
        routes!(crate::rebuild::forget),
        routes!(crate::replay::verify_decisions),
        routes!(time::diff),
        routes!(time::bisect),
        routes!(crate::fork::fork),
        routes!(crate::replay::replay),
        routes!(service::schema),
    ]
}

/// The same as one router, for the document.
fn api() -> OpenApiRouter<App> {
    routes_of_api().into_iter().fold(OpenApiRouter::new(), OpenApiRouter::routes)
}

/// The routes that are open to everybody.
pub(crate) fn open() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::healthz))
        .routes(routes!(metrics::prometheus))
        .routes(routes!(service::version))
        .routes(routes!(openapi_json))
        .routes(routes!(crate::asyncapi::asyncapi_json))
}

/// The document of all routes.
pub fn document() -> Document {
    let (_, document) = OpenApiRouter::<App>::with_openapi(Base::openapi())
        .nest("/v1", api())
        .merge(open())
        .split_for_parts();
    crate::shapes::exact(document)
}

/// The OpenAPI document as JSON.
#[utoipa::path(get, path = "/openapi.json", tag = "service", security(()), responses(
    (status = 200, description = "OpenAPI 3.1", body = domain::Json),
))]
pub async fn openapi_json() -> Response {
    static TEXT: std::sync::LazyLock<Document> = std::sync::LazyLock::new(document);
    Json(&*TEXT).into_response()
}

/// The page under `/docs`; its files are in the binary.
pub(crate) fn page() -> SwaggerUi {
    let config = Config::from("/openapi.json").validator_url("none").persist_authorization(true);
    SwaggerUi::new("/docs").config(config)
}

/// The schemas of the document, by name.
pub(crate) fn schemas() -> Map<String, Value> {
    let components = document().components.map(|components| components.schemas);
    let all = components.into_iter().flatten();
    all.filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?))).collect()
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
