//! Real processes in real sandboxes. As root every layer is there; what can be done without is
//! done again as another user.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod attacks;
mod bombs;
mod host;
mod layers;
mod lifecycle;
mod refusals;
