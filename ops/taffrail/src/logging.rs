//! Logs on stderr: one JSON object per line, or readable on a terminal.
//!
//! Invariant: whoever logs never waits. Lines go through a bounded queue to a thread of
//! its own; when stderr is slower than the lines come, lines are dropped and counted.

use std::io::{BufWriter, IsTerminal};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait for stderr; at some 300 bytes each a few megabytes.
const WAITING_LINES: usize = 16_384;
/// Bytes that are written at once.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// How many lines were dropped; absent before the log was started.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes out what still waits when it goes.
#[must_use = "lines that wait are lost without it"]
pub struct Logging {
    _rest: WorkerGuard,
}

/// Starts logging; `RUST_LOG` filters, `TAFFRAIL_LOG` chooses the form.
pub fn init(form: Option<&str>) -> Logging {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,async_nats=warn,refinery_core=warn,tokio_postgres=warn")
    });
    let pretty = match form {
        Some("pretty") => true,
        Some("json") => false,
        Some(_) | None => std::io::stderr().is_terminal(),
    };
    let (writer, logging) = writer();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if pretty {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(colour && std::io::stderr().is_terminal()).compact().init();
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    }
    logging
}

/// The queue to stderr; the thread writes many lines with one call when they come fast.
fn writer() -> (NonBlocking, Logging) {
    let stderr = BufWriter::with_capacity(WRITTEN_AT_ONCE, std::io::stderr());
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES);
    let (writer, rest) = builder.thread_name("log").finish(stderr);
    let _ = DROPPED.set(writer.error_counter());
    (writer, Logging { _rest: rest })
}

/// Lines that were dropped since the start, because stderr took them too slowly.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// A benchmark prints its own figures; the product inside it says only what goes wrong.
pub fn init_bench() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,async_nats=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).compact().init();
}

/// Client verbs say what they have to say themselves; only `RUST_LOG` makes them log.
pub fn init_client() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).compact().init();
}
