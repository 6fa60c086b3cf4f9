//! Seals, and proofs out of the tree that they are heads of.

use axum::Json;
use axum::extract::{Path, State};
use domain::{Code, Problem};
use replay::seal::record::Seal;
use replay::seal::tree::{consistent, included};
use replay::seal::{ProofError, Table};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult, chain};
use crate::events::cloud_events;
use crate::openapi::Refused;
use crate::params;
use crate::query::{Params, limit};
use crate::view::{List, with_position};

/// A page of seals.
pub type SealList = List<Seal>;

/// Which seals to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SealParams {
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// Where the last page ended.
    cursor: Option<String>,
}

/// Which trees to compare.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsistencyParams {
    /// The size of the earlier tree: its last position, at least 1.
    from: Option<String>,
    /// The size of the later one; the last sealed position when absent.
    to: Option<String>,
}

/// The proof that an event stands in the log, as a seal has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProofView {
    /// The event as a CloudEvent; `hash`, `epoch`, `sequence` and `recordedtime` make its leaf.
    pub event: domain::Json,
    /// The leaf's place in the tree, from 0: the position less one.
    pub index: u64,
    /// The hash of the leaf, in hex.
    pub leaf: String,
    /// The hashes from the leaf's neighbour up, in hex (RFC 6962, section 2.1.1).
    pub path: Vec<String>,
    /// The newest seal, whose root the path leads to.
    pub seal: Seal,
}

/// The proof that one tree is the beginning of another.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsistencyView {
    /// The earlier tree.
    pub from: TreeView,
    /// The later tree.
    pub to: TreeView,
    /// The hashes that join them, in hex (RFC 6962, section 2.1.2).
    pub path: Vec<String>,
}

/// A tree over the positions up to its size.
#[derive(Debug, Serialize, ToSchema)]
pub struct TreeView {
    /// The last position.
    pub size: u64,
    /// The root, in hex.
    pub root: String,
    /// The last seal of exactly this size, if there is one.
    pub seal: Option<Seal>,
}

fn refused(error: ProofError) -> ApiError {
    match error {
        ProofError::Store(error) => error.into(),
        ProofError::NotYet { sealed } => {
            let detail = format!("not sealed yet: seals go up to position {sealed}");
            let problem = Problem::new(Code::NotYetVisible, detail);
            Problem { log_position: Some(sealed), retry_after_ms: Some(1_000), ..problem }.into()
        }
        ProofError::Broken { .. } => ApiError::internal(&chain(&error)),
    }
}

fn table(app: &App) -> Table {
    Table::new(app.doors.reader.log.pool().clone())
}

/// Lists the seals of the log, the newest first.
#[utoipa::path(get, path = "/seals", tag = "seals", params(SealParams), responses(
    (status = 200, description = "A page of seals", body = SealList),
    (status = "4XX", response = Refused),
))]
pub async fn list_seals(
    State(app): State<App>,
    _caller: Caller,
    Params(asked): Params<SealParams>,
) -> ApiResult {
    let limit = limit(asked.limit)?;
    // A seal's number is its place in the list.
    let below = params::position("cursor", asked.cursor.as_deref())
        .map_err(|_| ApiError::parameter("/query/cursor", "the cursor is not one of this list"))?;
    let table = table(&app);
    let position = table.last().await?.map_or(0, |seal| seal.size);
    let items = table.before(below, limit).await?;
    let more = items.len() == limit as usize && items.last().is_some_and(|seal| seal.number > 1);
    let next = items.last().filter(|_| more).map(|seal| seal.number.to_string());
    Ok(with_position(Json(List { items, next, position }), position, 0))
}

/// Proves that the log of one size is the beginning of the log of another.
#[utoipa::path(get, path = "/seals/consistency", tag = "seals", params(ConsistencyParams), responses(
    (status = 200, description = "The proof", body = ConsistencyView),
    (status = "4XX", response = Refused),
))]
pub async fn consistency(
    State(app): State<App>,
    _caller: Caller,
    Params(asked): Params<ConsistencyParams>,
) -> ApiResult {
    let table = table(&app);
    let sealed = table.last().await?.map_or(0, |seal| seal.size);
    let Some(from) = params::position("from", asked.from.as_deref())?.filter(|from| *from > 0)
    else {
        return Err(ApiError::parameter("/query/from", "`from` must be a position, at least 1"));
    };
    let to = params::position("to", asked.to.as_deref())?.unwrap_or(sealed.max(from));
    if from > to {
        return Err(ApiError::parameter("/query/to", "`to` must not lie before `from`"));
    }
    if to > sealed {
        return Err(refused(ProofError::NotYet { sealed }));
    }
    let (old, new) = (table.root(from).await?, table.root(to).await?);
    let path = table.consistency(from, to).await?;
    let (earlier, later) = (table.of_size(from).await?, table.of_size(to).await?);
    let sound = consistent(from, &old, to, &new, &path);
    for (seal, root) in [(&earlier, old), (&later, new)] {
        if let Some(seal) = seal.as_ref().filter(|seal| seal.root != root || !sound) {
            return Err(refused(ProofError::Broken { number: seal.number }));
        }
    }
    let tree = |size, root, seal| TreeView { size, root: hex(&root), seal };
    let path = path.iter().map(hex).collect();
    let view = ConsistencyView { from: tree(from, old, earlier), to: tree(to, new, later), path };
    Ok(with_position(Json(view), to, 0))
}

/// Proves that an event stands at its position in the log that the newest seal is of.
#[utoipa::path(get, path = "/events/{position}/proof", tag = "seals", params(
    ("position" = u64, Path, description = "The event's position"),
), responses(
    (status = 200, description = "The proof", body = ProofView),
    (status = "4XX", response = Refused),
))]
pub async fn prove_event(
    State(app): State<App>,
    caller: Caller,
    Path(position): Path<String>,
) -> ApiResult {
    let read = position.parse::<u64>().ok().filter(|p| i64::try_from(*p).is_ok() && *p > 0);
    let Some(position) = read else {
        let message = "`position` must be a position, such as 42";
        return Err(ApiError::parameter("/path/position", message));
    };
    let event = app.doors.reader.log.read(position - 1, 1).await?;
    // Somebody else's event is as good as none.
    let event =
        event.into_iter().find(|event| event.position == position && event.tenant == caller.tenant);
    let Some(event) = event else { return Err(ApiError::not_found("event")) };
    let table = table(&app);
    let seal = table.last().await?;
    let sealed = seal.as_ref().map_or(0, |seal| seal.size);
    let Some(seal) = seal.filter(|seal| seal.size >= position) else {
        return Err(refused(ProofError::NotYet { sealed }));
    };
    let (leaf, path) = table.inclusion(position, seal.size).await?;
    // What does not prove anything is not handed out as a proof.
    let whole = event.expected_hash() == event.hash
        && included(position - 1, seal.size, leaf, &path) == Some(seal.root);
    if !whole {
        return Err(refused(ProofError::Broken { number: seal.number }));
    }
    let mut shown = cloud_events(std::slice::from_ref(&event), event.epoch);
    let view = ProofView {
        event: shown.pop().unwrap_or_default(),
        index: position - 1,
        leaf: hex(&leaf),
        path: path.iter().map(hex).collect(),
        seal,
    };
    Ok(with_position(Json(view), sealed, 0))
}

fn hex(hash: &[u8; 32]) -> String {
    replay::seal::line::Hex::of(hash).0
}
