//! What each event makes of a node's row.

use domain::node::{Node, NodeEvent, NodeState, RegisterNode};
use domain::{Event, Recorded, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Cell, Column, ColumnKind, Projection};

/// The read model of nodes.
#[derive(Debug, Clone, Copy)]
pub struct Nodes;

/// What is kept of a node; see [`super::NodeView`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same fields as NodeView, but for those explained")]
pub struct NodeRow {
    /// The aggregate itself: its state follows from it.
    pub node: Node,
    pub said: RegisterNode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub state_since: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub stream_version: u64,
    pub position: u64,
    /// Of its first event: the order of lists, which never changes.
    pub created: u64,
}

impl NodeRow {
    /// Where it stands.
    pub fn state(&self) -> NodeState {
        self.node.state.unwrap_or(NodeState::Offline)
    }
}

impl Projection for Nodes {
    const NAME: &'static str = "nodes";
    const COLUMNS: &'static [Column] = &[
        Column::new("created", ColumnKind::Int),
        Column::new("name", ColumnKind::Text),
        Column::new("state", ColumnKind::Text),
    ];
    type Key = Uuid;
    type Row = NodeRow;

    fn keys(recorded: &Recorded, event: &Event) -> Vec<Uuid> {
        if matches!(event, Event::Node(_)) { vec![recorded.stream_id] } else { Vec::new() }
    }

    fn fold(
        &self,
        _: &Uuid,
        row: Option<NodeRow>,
        recorded: &Recorded,
        event: &Event,
    ) -> Option<NodeRow> {
        let Event::Node(event) = event else { return row };
        let mut row = match (event, row) {
            (_, Some(row)) => row,
            (NodeEvent::Registered(said), None) => NodeRow {
                node: Node::default(),
                said: said.clone(),
                reason: None,
                state_since: recorded.occurred_at,
                created_at: recorded.occurred_at,
                updated_at: recorded.occurred_at,
                stream_version: recorded.version,
                position: recorded.position,
                created: recorded.position,
            },
            (_, None) => return None,
        };
        let before = row.node.state;
        row.node.apply(event);
        if row.node.state != before {
            row.state_since = recorded.occurred_at;
        }
        row.reason = match event {
            NodeEvent::Registered(said) | NodeEvent::Reconnected(said) => {
                row.said = said.clone();
                None
            }
            NodeEvent::Draining(why) | NodeEvent::Resumed(why) => why.reason.clone(),
            NodeEvent::Assessed(believed) => Some(believed.reason.clone()),
            NodeEvent::Retired(gone) => gone.reason.clone(),
        };
        row.updated_at = recorded.occurred_at;
        row.stream_version = recorded.version;
        row.position = recorded.position;
        Some(row)
    }

    fn shown(key: &Self::Key, row: Self::Row) -> serde_json::Value {
        serde_json::to_value(super::NodeView::of(
            domain::NodeId(*key),
            row,
            Vec::new(),
            super::Used::default(),
        ))
        .unwrap_or_default()
    }

    fn index(_: &Uuid, row: &NodeRow) -> Vec<Cell> {
        vec![
            Cell::position(row.created),
            Cell::text(&row.said.name),
            Cell::text(row.state().as_str()),
        ]
    }
}
