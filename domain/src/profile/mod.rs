//! Profiles: how agents of a kind are started, watched and stopped.
//!
//! A profile stands under a name, or inline in an agent's registration. One may extend
//! another; [`resolve`] puts them together when an agent is started.
//!
//! Invariant: the id of a profile's stream follows from tenant and name ([`profile_id`]).

mod aggregate;
mod check;
mod probe;
mod resolve;
mod spec;
mod upcast;

pub use aggregate::*;
pub use probe::*;
pub use resolve::{Resolved, Use, resolve, used};
pub use spec::*;

use uuid::Uuid;

use crate::ids::TenantId;

/// Names the namespace of profiles among name-based UUIDs (RFC 9562, section 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x0b6f_2a94_7c1d_4e0f_8f4b_6a1e_93d5_2c70);

/// The stream of a profile.
pub fn profile_id(tenant: &TenantId, name: &str) -> Uuid {
    // Neither has a slash: no two pairs make the same text.
    Uuid::new_v5(&NAMESPACE, format!("{tenant}/{name}").as_bytes())
}
