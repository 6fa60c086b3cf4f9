//! A nats-server of a test's own, so that it can be killed and its store wiped.

use std::path::PathBuf;

use servers::{Nats, Options};

use super::{background, programs, run_dir, unique};

/// A running nats-server.
pub struct TestNats {
    pub url: String,
    pub token: String,
    server: Option<Nats>,
}

/// Starts a nats-server with an empty store.
pub async fn nats() -> TestNats {
    let dir = run_dir().join(format!("nats-{}", unique()));
    let server = on_background(async move {
        let (options, programs) = programs();
        start(dir, options, programs).await
    })
    .await;
    let address = server.address();
    TestNats { url: address.url.clone(), token: address.token.clone(), server: Some(server) }
}

async fn start(dir: PathBuf, options: &Options, programs: &servers::Programs) -> Nats {
    Nats::start(&programs.nats, &dir, options).await.unwrap()
}

async fn on_background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    background().spawn(work).await.unwrap()
}

impl TestNats {
    fn server(&self) -> &Nats {
        self.server.as_ref().unwrap()
    }

    /// SIGKILL; the supervisor brings it back on the same port.
    pub async fn kill(&self) {
        self.server().kill();
    }

    /// Ends it and starts it again on the same port and store.
    pub async fn restart(&self) {
        self.server().halt().await;
        self.server().restart().await.unwrap();
    }

    /// Ends it until [`start_again`](Self::start_again).
    pub async fn halt(&self) {
        self.server().halt().await;
    }

    /// Starts it on the same port and store.
    pub async fn start_again(&self) {
        self.server().restart().await.unwrap();
    }

    /// Ends it, deletes its whole JetStream store, and starts it again on the same port.
    pub async fn wipe_store_and_restart(&self) {
        self.server().halt().await;
        std::fs::remove_dir_all(self.server().store_dir()).unwrap();
        self.server().restart().await.unwrap();
    }

    /// A client of it.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::with_token(self.token.clone()).connect(&self.url).await.unwrap()
    }
}

impl Drop for TestNats {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            background().spawn(async move { server.stop().await });
        }
    }
}
