//! Children: how they are spawned, watched, stopped, and found again after a crash.

mod child;
mod keeper;
mod log;
mod orphans;
mod proc;

pub(crate) use child::Child;
pub(crate) use keeper::{Kind, Spawn, spawn};
pub(crate) use log::Log;
pub(crate) use orphans::{quit_backends, signal};
pub(crate) use proc::{boot_time, command_line, current_dir, stat};
