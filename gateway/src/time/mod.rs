//! `/v1/time`: two moments compared, and the first position at which something was true.

mod bisect;
mod diff;

pub(crate) use bisect::*;
pub(crate) use diff::*;

use projections::{Model, Queries};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::query::{AsOf, Fresh, moment};
use crate::view;

/// A range of the log, both ends reached by the models that are asked.
async fn range(
    app: &App,
    fresh: Fresh,
    models: &[Model],
    ends: [(&str, Option<&str>); 2],
) -> ApiResult<(u64, u64)> {
    let queries = &app.doors.queries;
    let [from, to] = ends;
    let from = end(queries, from, 0).await?;
    let to = end(queries, to, queries.log_head().await?).await?;
    if from > to {
        let why = format!("the range is reversed: it begins at {from} and ends at {to}");
        return Err(ApiError::parameter("/query/from", why));
    }
    queries.wait_for_all(models, to, fresh.wait).await.map_err(view::not_yet)?;
    Ok((from, to))
}

/// An end of the range; 0, before the first event, is one, too.
async fn end(queries: &Queries, (name, given): (&str, Option<&str>), none: u64) -> ApiResult<u64> {
    match given {
        None => Ok(none),
        Some("0") => Ok(0),
        Some(text) => {
            let moment: AsOf = moment(name, text)?;
            view::resolve(queries, name, moment).await
        }
    }
}

/// A read model by its name; the audit's lines never change.
fn model(pointer: &str, name: &str) -> Result<Model, ApiError> {
    let known = Model::ALL.into_iter().filter(|model| *model != Model::Audit);
    known.clone().find(|model| model.as_str() == name).ok_or_else(|| {
        let names: Vec<&str> = known.map(Model::as_str).collect();
        let shown: String = name.chars().take(64).collect();
        let hint = domain::json::nearest(&shown, names.iter().copied())
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        let why = format!("there is no model `{shown}`{hint} (known: {})", names.join(", "));
        ApiError::parameter(pointer, why)
    })
}
