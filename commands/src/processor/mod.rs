//! The command processor.
