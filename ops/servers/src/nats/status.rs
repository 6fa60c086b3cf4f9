//! What a nats-server says about itself: its ports file, then its health page.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The part of `nats-server_<pid>.ports` that matters here.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Ports {
    nats: Vec<String>,
    monitoring: Vec<String>,
}

/// Where a server writes its ports; the pid makes it this server's word and no other's.
pub(super) fn ports_file(run_dir: &Path, pid: u32) -> PathBuf {
    run_dir.join(format!("nats-server_{pid}.ports"))
}

/// `host:port` of the monitoring page, once the server listens on both of its ports.
pub(super) fn monitoring(ports_file: &Path) -> Option<String> {
    parse(&fs::read_to_string(ports_file).ok()?)
}

/// None also for a file that is only half written.
fn parse(text: &str) -> Option<String> {
    let ports: Ports = serde_json::from_str(text).ok()?;
    ports.nats.first()?;
    Some(ports.monitoring.first()?.strip_prefix("http://")?.to_owned())
}

/// Whether the server, JetStream included, says it is healthy.
pub(super) async fn is_healthy(monitoring: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(monitoring).await?;
        let request = format!(
            "GET /healthz?js-enabled-only=true HTTP/1.0\r\nHost: {monitoring}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(Duration::from_secs(2), ask).await {
        Ok(Ok(answer)) => answer.lines().next().is_some_and(|line| line.contains(" 200 ")),
        Ok(Err(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_file_names_the_monitoring_address() {
        // As written by nats-server 2.15.1.
        let text = r#"{ "nats": [ "nats://127.0.0.1:20123" ], "monitoring": [ "http://127.0.0.1:8222" ] }"#;
        assert_eq!(parse(text).as_deref(), Some("127.0.0.1:8222"));
    }

    #[test]
    fn an_incomplete_ports_file_counts_as_absent() {
        assert_eq!(parse(r#"{ "nats": [ "nats://127.0"#), None);
        assert_eq!(parse(r#"{ "monitoring": [ "http://127.0.0.1:8222" ] }"#), None);
        assert_eq!(parse(""), None);
    }
}
