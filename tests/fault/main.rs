//! Faults on purpose: processes killed with -9, sessions cut, stores deleted, all under
//! load; and a checker that says what was lost. See docs/faults.md.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test asks for one variant")]

mod checker;
mod client;
mod doors;
mod evidence;
mod history;
mod load;
mod nemesis;
mod plan;
mod recovery;
mod run;
mod system;

mod kill;
mod planted;
mod readers;
mod stall;
mod tail;

#[path = "../it/support/mod.rs"]
mod support;
