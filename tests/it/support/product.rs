//! The whole product as its users get it: a `taffrail up` process.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::{SOON, TAFFRAIL, run_dir, unique};

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
    child: Child,
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

/// Starts a product on a folder. It ends with this process, whatever happens to it.
pub fn start_product(data_dir: PathBuf, more: &[&str]) -> Product {
    std::fs::create_dir_all(&data_dir).unwrap();
    let log = std::fs::File::create(data_dir.with_extension(format!("{}.log", unique()))).unwrap();
    let pid = std::process::id().to_string();
    let mut arguments: Vec<String> = vec!["up".into(), "--output".into(), "json".into()];
    arguments.extend(["--data-dir".into(), data_dir.display().to_string()]);
    arguments.extend(["--http-addr".into(), "127.0.0.1:0".into()]);
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    let (sent, started) = mpsc::channel();
    let (spawned, child) = mpsc::channel();
    let folder = data_dir.clone();
    // The death signal fires when the spawning thread ends: this one never does.
    std::thread::spawn(move || {
        let mut child = Command::new(TAFFRAIL)
            .args([servers::SHIM_ARG, "nats", &pid])
            .arg(&folder)
            .args(["--", TAFFRAIL])
            .args(arguments)
            .env_remove("TAFFRAIL_DATABASE_URL")
            .env_remove("TAFFRAIL_NATS_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        spawned.send(child).unwrap();
        for line in lines.lines() {
            let Ok(line) = line else { break };
            let _ = sent.send(line);
        }
        loop {
            std::thread::park();
        }
    });
    let child = child.recv().unwrap();
    let mut product = Product {
        http: String::new(),
        token: String::new(),
        nats_url: String::new(),
        nats_token: String::new(),
        postgres_url: String::new(),
        data_dir,
        pid: child.id(),
        ready_ms: 0,
        child,
    };
    loop {
        let line = started.recv_timeout(SOON).expect("`taffrail up` did not become ready");
        let line: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        match line["ready"].as_str() {
            Some("http") => product.http = text("url"),
            Some("nats") => (product.nats_url, product.nats_token) = (text("url"), text("token")),
            Some("postgres") => product.postgres_url = text("url"),
            Some("token") => product.token = text("token"),
            Some("all") => {
                product.ready_ms = line["ms"].as_u64().unwrap();
                return product;
            }
            Some(_) | None => {}
        }
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

    /// kill -9; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
