//! Tamper evidence over HTTP: seals, proofs, and the log as a file that proves itself.

mod routes;
mod transfer;

pub use routes::{
    __path_consistency, __path_list_seals, __path_prove_event, consistency, list_seals, prove_event,
};
pub use transfer::{__path_export_log, __path_import_log, export_log, import_log};
