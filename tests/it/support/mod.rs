//! What the tests stand on: one PostgreSQL per run, a database per test, a nats-server of
//! a test's own where it wants one, and one whole product for those that come from outside.

#![allow(dead_code, unused_imports, reason = "each test uses the part it needs")]

mod database;
mod gate;
mod http;
mod nats;
mod process;
mod product;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use servers::{Options, Programs};
use tokio::runtime::Handle;

pub use database::{
    TestDb, TestProcessor, append, append_as, database, log, new_event, postgres_of_its_own,
    processor, processor_with, reader, stop_postgres,
};
pub use gate::Gate;
pub use http::Api;
pub use nats::{TestNats, nats};
pub use process::{Process, said};
pub use product::{Product, product, start_product, start_product_in};

/// Long enough for a loaded machine, short enough to notice a hang.
pub const SOON: Duration = Duration::from_secs(30);

/// The program under test; it also serves as the servers' shim.
pub const TAFFRAIL: &str = env!("CARGO_BIN_EXE_taffrail");

/// A runtime that outlives every test, for what is shared between them.
pub fn background() -> &'static Handle {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            sender.send(runtime.handle().clone()).unwrap();
            runtime.block_on(std::future::pending::<()>());
        });
        receiver.recv().unwrap()
    })
}

/// The server programs, found or fetched once.
pub fn programs() -> (&'static Options, &'static Programs) {
    static FOUND: OnceLock<(Options, Programs)> = OnceLock::new();
    let (options, programs) = FOUND.get_or_init(|| {
        let options = Options::from_env(TAFFRAIL);
        let programs = servers::locate(&options).unwrap();
        (options, programs)
    });
    (options, programs)
}

/// A folder for this run; those of runs that ended are removed.
pub fn run_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("it");
        let dir = root.join(std::process::id().to_string());
        std::fs::create_dir_all(&dir).unwrap();
        // Thousands of files: nobody waits for them to go.
        std::thread::spawn(move || {
            for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
                let pid = entry.file_name().to_string_lossy().into_owned();
                if !Path::new("/proc").join(&pid).exists() {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        });
        dir
    })
}

/// A number that no other test of this run has.
pub fn unique() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Waits until a condition holds; the text says what never came.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < SOON, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
