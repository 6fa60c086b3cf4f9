//! Queues: how the tasks that name one are given out, and whether they are.
//!
//! A queue needs no creation: it is there as soon as somebody names it, active and
//! under the default policy. Its stream holds what was decided about it.
//!
//! Invariant: the id of a queue's stream follows from tenant and name
//! ([`queue_id`]), so every decision about a queue is in one stream.

mod aggregate;
mod command;
mod event;
mod key;
mod policy;
mod upcast;

pub use aggregate::{Queue, QueueState};
pub use command::*;
pub use event::*;
pub use key::{KeyExpression, LimitKey, MAX_EXPRESSION};
pub use policy::*;

use uuid::Uuid;

use crate::ids::TenantId;

/// Names the namespace of queues among name-based UUIDs (RFC 9562, section 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x5a1f_7c1e_0d5e_4b7e_9d0c_51ab_73e0_0a11);

/// The stream of a queue.
pub fn queue_id(tenant: &TenantId, name: &str) -> Uuid {
    // Neither has a slash: no two pairs make the same text.
    Uuid::new_v5(&NAMESPACE, format!("{tenant}/{name}").as_bytes())
}
