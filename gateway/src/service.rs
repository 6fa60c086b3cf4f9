//! What the process says of itself, and schemas by name.

use axum::Json;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::openapi::Refused;
use crate::query::{NoParams, Params};

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The API that it serves.
    pub api: String,
}

/// Says which version runs here.
#[utoipa::path(get, path = "/version", tag = "service", security(()), responses(
    (status = 200, description = "The version", body = Version),
))]
pub async fn version() -> Json<Version> {
    Json(Version {
        name: "taffrail".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        api: "v1".into(),
    })
}

/// Hands out a JSON Schema: of an event (`task.submitted` or its CloudEvents type), or of
/// a type of the OpenAPI document.
#[utoipa::path(get, path = "/schemas/{type}", tag = "service", params(("type" = String, Path)), responses(
    (status = 200, description = "JSON Schema 2020-12", body = domain::Json, content_type = "application/schema+json"),
    (status = "4XX", response = Refused),
))]
pub async fn schema(
    Path(name): Path<String>,
    Params(NoParams {}): Params<NoParams>,
) -> ApiResult<Response> {
    let schema = stand_alone(&name).ok_or_else(|| unknown(&name))?;
    Ok(([(header::CONTENT_TYPE, "application/schema+json")], Json(schema)).into_response())
}

/// A schema by its name, with all that it refers to.
fn stand_alone(name: &str) -> Option<serde_json::Value> {
    let short = name.strip_prefix("dev.taffrail.").unwrap_or(name);
    let mut all = crate::asyncapi::schemas();
    all.extend(crate::openapi::schemas());
    let mut schema = event_schema(short).or_else(|| all.get(name).cloned())?;
    if let Some(fields) = schema.as_object_mut() {
        let dialect = "https://json-schema.org/draft/2020-12/schema";
        fields.insert("$schema".into(), dialect.into());
        fields.insert("$id".into(), format!("/v1/schemas/{name}").into());
        crate::asyncapi::add_definitions(fields, &all);
    }
    Some(schema)
}

fn event_schema(name: &str) -> Option<serde_json::Value> {
    let found = domain::event_types().into_iter().find(|event| {
        let short = format!("{}.{}", event.stream_type, event.name);
        name == short || name == format!("{short}.v{}", event.version)
    })?;
    serde_json::to_value(found.schema).ok()
}

fn unknown(name: &str) -> ApiError {
    let types = domain::event_types();
    let names: Vec<_> =
        types.iter().map(|event| format!("{}.{}", event.stream_type, event.name)).collect();
    let hint = domain::json::nearest(name, names.iter().map(String::as_str))
        .map(|near| format!(" of that name; did you mean `{near}`?"))
        .unwrap_or_default();
    ApiError::not_found(&format!("schema{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_stands_on_its_own() {
        let mut names: Vec<_> = crate::openapi::schemas().keys().cloned().collect();
        let events = domain::event_types().into_iter();
        names.extend(events.map(|event| format!("{}.{}", event.stream_type, event.name)));
        for name in names {
            let schema = stand_alone(&name).expect("known");
            for part in schema.to_string().split("\"$ref\":\"").skip(1) {
                let pointer = part.split('"').next().and_then(|text| text.strip_prefix('#'));
                let found = pointer.and_then(|pointer| schema.pointer(pointer));
                assert!(found.is_some(), "{name}: {pointer:?}");
            }
        }
    }
}
