//! The fleet as a whole: its health, who can do what, restarts one after the other.

mod routes;

pub(crate) use routes::check;
pub use routes::{
    __path_capabilities, __path_fleet, __path_restart_fleet, __path_send_beat, capabilities, fleet,
    restart_fleet, send_beat,
};
