//! Children: how they are spawned, watched, stopped, and found again after a crash.

mod child;
mod keeper;
mod orphans;
mod proc;

pub(crate) use child::{Child, Ending};
pub(crate) use keeper::{Kind, Spawn, spawn};
pub(crate) use orphans::quit_backends;
pub(crate) use proc::{boot_time, command_line, current_dir, stat};
