//! Steps from old versions of node events to the next; none has been raised yet.

use crate::upcast::Upcast;

/// Ascending by event and version.
pub const UPCASTS: &[Upcast] = &[];
