//! All routes in one place.

use axum::{Router, middleware};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::layer::surround;
use crate::openapi;

/// Where the routes stand that need a token; both name the same things.
pub(crate) const BASES: [&str; 2] = ["/v1", "/api/v1"];

/// The whole gateway as a service.
pub fn router(app: App) -> Router {
    let (open, _) = OpenApiRouter::new().merge(openapi::open()).split_for_parts();
    let mut all = Router::new().merge(open).merge(openapi::page());
    // Each under its whole path: a nested router would rewrite the address of every request.
    for (_, paths, method) in openapi::routes_of_api() {
        for path in paths.paths.keys() {
            for base in BASES {
                all = all.route(&format!("{base}{path}"), method.clone());
            }
        }
    }
    // Bodies are bounded where they are read.
    all.layer(middleware::from_fn_with_state(app.clone(), surround)).with_state(app)
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
