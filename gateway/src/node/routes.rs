//! Read and change nodes.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use domain::operation::Resource;
use domain::task::Reason;
use domain::{Code, Json, NodeId, Problem, StreamType};
use projections::Model;
use projections::nodes::{NodeFilter, NodeView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::body::JsonBytes;
use crate::change::{Call, Changed, Target, change, parse};
use crate::error::ApiResult;
use crate::openapi::{Accepted, Refused};
use crate::operation::accept_work;
use crate::params;
use crate::query::{Fresh, Id, NoParams, Params, id, limit};
use crate::view::{self, List, Seen};

const NODE: StreamType = StreamType::Node;
/// The models behind a node: what runs there is read from the agents.
const MODELS: &[Model] = &[Model::Nodes, Model::Agents];
/// What can be asked of a node from outside.
pub(crate) const COMMANDS: &[&str] = &["drain", "resume", "retire"];

/// Which nodes to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NodeParams {
    /// States with commas between: online, draining, offline, retired. All but the retired
    /// ones when absent.
    state: Option<String>,
    /// Of this name.
    name: Option<String>,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Lists nodes, newest first.
#[utoipa::path(get, path = "/nodes", tag = "nodes", params(NodeParams), responses(
    (status = 200, description = "A page of nodes", body = List<NodeView>),
    (status = "4XX", response = Refused),
))]
pub async fn list_nodes(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<NodeParams>,
    fresh: Fresh,
) -> ApiResult {
    let limit = limit(params.limit)? as usize;
    let filter = NodeFilter {
        states: params::words("state", params.state.as_deref())?,
        name: params::text("name", params.name)?,
    };
    let Seen { queries, .. } = view::seen(&app, fresh, MODELS).await?;
    let cursor = params.cursor.as_deref();
    Ok(view::list(queries.nodes(&caller.tenant, &filter, limit, cursor).await?))
}

/// Shows a node, with the agents that it runs and what they take.
#[utoipa::path(get, path = "/nodes/{id}", tag = "nodes", params(("id" = NodeId, Path)), responses(
    (status = 200, description = "The node", body = NodeView),
    (status = "4XX", response = Refused),
))]
pub async fn get_node(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let Seen { queries, head } = view::seen(&app, fresh, MODELS).await?;
    let found = queries.node(&caller.tenant, NodeId(id), fresh.wait).await?;
    // Its agents change its picture without a new version of its stream.
    let mut conditions = headers;
    conditions.remove(axum::http::header::IF_NONE_MATCH);
    view::one(found, "node", head, |node| node.stream_version, &conditions)
}

/// How to empty a node.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainNode {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Agents that may be on their way at once, 1 to 1,000; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
}

/// Changes a node: `drain` places nothing new there and moves its agents, a few at a time
/// (202); `resume` and `retire` (200).
#[utoipa::path(post, path = "/nodes/{id}/{command}", tag = "nodes", params(
    ("id" = NodeId, Path),
    ("command" = String, Path, description = "drain, resume or retire"),
), request_body(content = DrainNode, description = "For resume and retire `reason` alone"), responses(
    (status = 200, description = "Done", body = Changed),
    (status = 202, response = Accepted),
    (status = "4XX", response = Refused),
))]
pub async fn command_node(
    State(app): State<App>,
    call: Call,
    Path((node, name)): Path<(String, String)>,
    body: JsonBytes,
) -> ApiResult {
    let node = id(&node)?;
    if !COMMANDS.contains(&&*name) {
        let shown: String = name.chars().take(64).collect();
        let problem = Problem::new(Code::UnknownCommand, format!("node has no command `{shown}`"));
        let allowed = COMMANDS.iter().map(|word| (*word).to_owned()).collect();
        return Err(Problem { allowed, ..problem }.into());
    }
    if name != "drain" {
        let Reason { .. } = body.read::<Reason>()?;
        return change(&app, &call, Target::Known(node), parse(NODE, &name, &body.0)?).await;
    }
    let asked: DrainNode = body.parse()?;
    crate::fleet::check(asked.reason.as_ref(), asked.max_unavailable)?;
    // What the rules refuse is refused at once.
    let found = app.doors.queries.node(&call.caller.tenant, NodeId(node), SHORT).await?;
    let Some(found) = found.value else {
        return Err(crate::error::ApiError::not_found("node"));
    };
    if found.state == domain::node::NodeState::Retired {
        let detail = "drain is not possible in state retired; possible: nothing";
        let problem = Problem::new(Code::IllegalTransition, detail);
        return Err(Problem { state: Some("retired".into()), ..problem }.into());
    }
    let resource = Resource { kind: "node".into(), id: node.to_string() };
    accept_work(&app, &call, commands::NODE_DRAIN, resource, Json::of(&asked)).await
}

/// A node that was registered a moment ago is waited for.
const SHORT: std::time::Duration = std::time::Duration::from_secs(1);
