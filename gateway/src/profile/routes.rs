//! Set, read and delete profiles.

use std::collections::HashMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use domain::profile::{
    DeleteProfile, Profile, ProfileCommand, PutProfile, Use, profile_id, resolve,
};
use domain::{Code, TenantId, ids};
use projections::profiles::ProfileView;
use projections::{Model, Queries};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::{Call, Changed, Target, change};
use crate::error::{ApiError, ApiResult};
use crate::openapi::{Accepted, Refused};
use crate::query::{Fresh, Params, limit};
use crate::view::{self, List, Seen};

/// The models behind a profile.
const MODELS: &[Model] = &[Model::Profiles];
/// Longest chain that is looked through for a circle.
const LONGEST: usize = 16;

/// Which page of the profiles.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProfileParams {
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists profiles, newest first.
#[utoipa::path(get, path = "/profiles", tag = "profiles", params(ProfileParams), responses(
    (status = 200, description = "A page of profiles", body = List<ProfileView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_profiles(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ProfileParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let Seen { queries, .. } = view::seen(&app, fresh, MODELS).await?;
    let cursor = params.cursor.as_deref();
    Ok(view::list(queries.profiles(&caller.tenant, limit, cursor).await?))
}

/// How to show a profile.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OneParams {
    /// Put together with those that it extends, as an agent would be started with it now.
    #[serde(default)]
    resolved: bool,
}

/// Shows a profile.
#[utoipa::path(get, path = "/profiles/{name}", tag = "profiles", params(
    ("name" = String, Path),
    OneParams,
), responses(
    (status = 200, description = "The profile", body = ProfileView),
    (status = "4XX", response = Refused),
))]
pub async fn get_profile(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<OneParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    check(&name)?;
    let Seen { queries, head } = view::seen(&app, fresh, MODELS).await?;
    let mut found = queries.profile(&caller.tenant, &name, fresh.wait).await?;
    if params.resolved
        && let Some(shown) = &mut found.value
    {
        let known = chain(&queries, &caller.tenant, &shown.profile).await?;
        let used = Use::Inline(shown.profile.clone());
        let whole = resolve(&used, |name| known.get(name).map(|profile| &**profile))?;
        *shown.profile = whole.profile;
    }
    view::one(found, "profile", head, |profile| profile.version, &headers)
}

/// Sets a profile as a whole. Agents that run with it go on as they are until they are
/// started again; when they count as unhealthy follows it at once.
#[utoipa::path(put, path = "/profiles/{name}", tag = "profiles", params(("name" = String, Path)), request_body = Profile, responses(
    (status = 200, description = "Set", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn put_profile(
    State(app): State<App>,
    Path(name): Path<String>,
    call: Call,
    body: JsonBytes,
) -> ApiResult {
    check(&name)?;
    let profile = Box::new(body.read::<Profile>()?);
    let tenant = call.caller.tenant.clone();
    if profile.extends.is_some() {
        // What would go round in a circle is refused here; two that are set at the same
        // moment are found out when an agent is started.
        let mut known = chain(&app.doors.queries, &tenant, &profile).await?;
        known.insert(name.clone(), profile.clone());
        let whole = resolve(&Use::Named(name.clone()), |name| known.get(name).map(|p| &**p));
        if let Err(problem) = whole
            && problem.code() != Some(Code::NotPossible)
        {
            return Err(problem.into());
        }
    }
    let target = Target::Known(profile_id(&tenant, &name));
    let command = ProfileCommand::Put(PutProfile { name, profile });
    change(&app, &call, target, command.into()).await
}

/// Takes a profile away; agents that run with it go on until they are started again.
#[utoipa::path(delete, path = "/profiles/{name}", tag = "profiles", params(("name" = String, Path)), responses(
    (status = 200, description = "Deleted", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn delete_profile(
    State(app): State<App>,
    Path(name): Path<String>,
    call: Call,
    body: JsonBytes,
) -> ApiResult {
    check(&name)?;
    let Nothing {} = body.parse()?;
    let target = Target::Known(profile_id(&call.caller.tenant, &name));
    change(&app, &call, target, ProfileCommand::Delete(DeleteProfile { name }).into()).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn check(name: &str) -> Result<(), ApiError> {
    if ids::is_token(name) {
        return Ok(());
    }
    Err(ApiError::parameter("/path/name", "1 to 64 of the characters A-Z a-z 0-9 _ -"))
}

/// The profiles that one extends.
async fn chain(
    queries: &Queries,
    tenant: &TenantId,
    profile: &Profile,
) -> Result<HashMap<String, Box<Profile>>, ApiError> {
    let mut known = HashMap::new();
    let mut next = profile.extends.clone();
    while let Some(name) = next.take().filter(|name| !known.contains_key(name)) {
        if known.len() >= LONGEST {
            break;
        }
        let found = queries.profile(tenant, &name, PATIENCE).await?;
        let Some(found) = found.value else { break };
        next.clone_from(&found.profile.extends);
        known.insert(name, found.profile);
    }
    Ok(known)
}

/// A profile that was set a moment ago is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
