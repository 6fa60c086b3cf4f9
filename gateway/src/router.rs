//! All routes in one place.

use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::auth::authenticate;
use crate::layer::surround;
use crate::openapi;

/// The whole gateway as a service.
pub fn router(app: App) -> Router {
    let (api, _) = openapi::api().split_for_parts();
    let authenticated = middleware::from_fn_with_state(app.clone(), authenticate);
    let api = api.route_layer(authenticated);
    let (open, _) = OpenApiRouter::new().merge(openapi::open()).split_for_parts();
    Router::new()
        .merge(open)
        .merge(openapi::page())
        .nest("/v1", api.clone())
        .nest("/api/v1", api)
        // Bodies are bounded where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), surround))
        .with_state(app)
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
