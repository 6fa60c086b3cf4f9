//! `/livez`, `/readyz` and `/healthz`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use commands::Boxed;
use parking_lot::RwLock;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// Looks whether one part works; the text says what is wrong.
pub type Check = Arc<dyn Fn() -> Boxed<Result<(), String>> + Send + Sync>;

/// Longest look at one part.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a report serves: probes need no token and must not load the database.
const KEPT: Duration = Duration::from_secs(1);

/// The parts whose health is shown, and whether the process is leaving.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    checks: RwLock<Vec<(String, Check)>>,
    draining: AtomicBool,
    last: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

/// How the parts of this process are.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Report {
    /// `ok`, `failing` or `draining`.
    pub status: String,
    /// Each part: `ok`, or what is wrong with it.
    pub checks: BTreeMap<String, String>,
}

impl Health {
    /// Adds a part that must work for the process to be ready.
    pub fn check<F>(&self, name: &str, check: F)
    where
        F: Fn() -> Boxed<Result<(), String>> + Send + Sync + 'static,
    {
        self.0.checks.write().push((name.to_owned(), Arc::new(check)));
    }

    /// Fails readiness from now on, so that no new work is sent here.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Looks at every part, or hands out the look of a moment ago.
    pub async fn report(&self) -> Report {
        let mut last = self.0.last.lock().await;
        let mut report = match &*last {
            Some((at, report)) if at.elapsed() < KEPT => report.clone(),
            _ => {
                let report = self.look().await;
                *last = Some((Instant::now(), report.clone()));
                report
            }
        };
        if self.0.draining.load(Ordering::Relaxed) {
            report.status = "draining".into();
        }
        report
    }

    async fn look(&self) -> Report {
        let checks = self.0.checks.read().clone();
        let looks = checks.into_iter().map(|(name, check)| async move {
            let found = tokio::time::timeout(CHECK_TIMEOUT, check()).await;
            let word = match found {
                Ok(Ok(())) => "ok".to_owned(),
                Ok(Err(fault)) => fault,
                Err(_) => "does not answer".to_owned(),
            };
            (name, word)
        });
        let checks: BTreeMap<_, _> = futures::future::join_all(looks).await.into_iter().collect();
        let well = checks.values().all(|word| word == "ok");
        Report { status: if well { "ok" } else { "failing" }.into(), checks }
    }
}

/// Says that the process runs.
#[utoipa::path(get, path = "/livez", tag = "service", security(()), responses((status = 200, description = "It runs", body = String)))]
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Says whether requests may be sent here.
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses(
    (status = 200, description = "Every part works", body = Report),
    (status = 503, description = "A part does not work, or the process is leaving", body = Report),
))]
pub async fn readyz(State(app): State<App>) -> Response {
    let report = app.doors.health.report().await;
    let ready = report.status == "ok";
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

/// Shows how each part is; 503 when one does not work.
#[utoipa::path(get, path = "/healthz", tag = "service", security(()), responses(
    (status = 200, description = "Every part works", body = Report),
    (status = 503, description = "A part does not work", body = Report),
))]
pub async fn healthz(state: State<App>) -> Response {
    readyz(state).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failing_part_fails_the_report() {
        let health = Health::default();
        health.check("good", || Box::pin(async { Ok(()) }));
        assert_eq!(health.report().await.status, "ok");
        let health = Health::default();
        health.check("good", || Box::pin(async { Ok(()) }));
        health.check("bad", || Box::pin(async { Err("no connection".into()) }));
        let report = health.report().await;
        assert_eq!(report.status, "failing");
        assert_eq!(report.checks["bad"], "no connection");
        health.drain();
        assert_eq!(health.report().await.status, "draining");
    }
}
