//! The whole product as its users get it: a `taffrail up` process.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use tokio::sync::OnceCell;

use super::process::{Process, said};
use super::{TAFFRAIL, run_dir};

/// A running `taffrail up`.
pub struct Product {
    /// `http://127.0.0.1:…`, without a slash at the end.
    pub http: String,
    /// Admin token.
    pub token: String,
    pub nats_url: String,
    pub nats_token: String,
    pub postgres_url: String,
    pub data_dir: PathBuf,
    pub pid: u32,
    /// From start to `ready: all`, as it says itself.
    pub ready_ms: u64,
    process: Process,
}

/// The product that the tests of a run share.
pub async fn product() -> &'static Product {
    static PRODUCT: OnceCell<Product> = OnceCell::const_new();
    PRODUCT
        .get_or_init(|| async {
            let dir = run_dir().join("product");
            tokio::task::spawn_blocking(move || start_product(dir, &[])).await.unwrap()
        })
        .await
}

/// Starts a product on a folder.
pub fn start_product(data_dir: PathBuf, more: &[&str]) -> Product {
    start_product_in(data_dir, more, &[])
}

/// The same with some environment.
pub fn start_product_in(data_dir: PathBuf, more: &[&str], environment: &[(&str, &str)]) -> Product {
    std::fs::create_dir_all(&data_dir).unwrap();
    let folder = data_dir.display().to_string();
    let mut arguments = vec!["up", "--output", "json", "--data-dir", &folder];
    arguments.extend(["--http-addr", "127.0.0.1:0"]);
    arguments.extend(more);
    let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
    let process = Process::start("up", &arguments, environment);
    let ready = process.ready();
    let all = ready.iter().find(|line| line["ready"] == "all").unwrap();
    Product {
        http: said(&ready, "http", "url"),
        token: said(&ready, "token", "token"),
        nats_url: said(&ready, "nats", "url"),
        nats_token: said(&ready, "nats", "token"),
        postgres_url: said(&ready, "postgres", "url"),
        data_dir: said(&ready, "data", "path").into(),
        pid: process.pid,
        ready_ms: all["ms"].as_u64().unwrap(),
        process,
    }
}

impl Product {
    /// The CLI, pointed at this product.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TAFFRAIL);
        command
            .args(arguments)
            .env("TAFFRAIL_URL", &self.http)
            .env("TAFFRAIL_TOKEN", &self.token)
            .env("TAFFRAIL_NATS_URL", &self.nats_url)
            .env("TAFFRAIL_NATS_TOKEN", &self.nats_token)
            .env("TAFFRAIL_DATA_DIR", &self.data_dir)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// A NATS client of it.
    pub async fn nats(&self) -> async_nats::Client {
        async_nats::ConnectOptions::with_token(self.nats_token.clone())
            .connect(&self.nats_url)
            .await
            .unwrap()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// kill -9; returns when it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM; the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.terminate()
    }
}
