//! Makes a read model anew whose kept past was found changed by somebody else.

use std::time::Duration;

use commands::CommandEnvelope;
use domain::operation::{AcceptOperation, OperationCommand, Resource};
use domain::{Json, TenantId};
use projections::Model;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Between two operations for it: a rebuild that is under way finds the rest, too.
const BREATH: Duration = Duration::from_secs(60);

/// Asks for a rebuild whenever a query met such a row, until told to stop.
pub(crate) async fn run(app: App, stop: CancellationToken) {
    let mut spoilt = app.doors.queries.spoilt();
    let work = async {
        while spoilt.changed().await.is_ok() {
            let model = *spoilt.borrow_and_update();
            let Some(model) = model else { continue };
            tracing::error!(%model, "ALARM: a kept past row is not as it was written; rebuilding");
            rebuild(&app, model).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn rebuild(app: &App, model: Model) {
    let accept = OperationCommand::Accept(AcceptOperation {
        kind: replay::REBUILD.into(),
        resource: Resource { kind: "projection".into(), id: model.as_str().into() },
        command: None,
        input: Json::null(),
    });
    let (operation, id) = (app.doors.ids.fresh(), app.doors.ids.fresh());
    let tenant = TenantId::default_tenant();
    let command = CommandEnvelope::new(tenant, operation, accept, id, "manager:projections");
    let outcome = app.doors.executor.execute(command).await;
    if let Some(problem) = &outcome.decision().problem {
        tracing::error!(%model, detail = problem.detail, "the rebuild was not taken on");
    }
}
