//! One question, in one of the four ways.

use std::time::Duration;

use domain::profile::{HttpProbe, Probe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Subject;

/// Enough for the first line of any answer.
const HEAD: usize = 512;

/// Asks once; a bad answer says why.
pub(super) async fn once(subject: &Subject, probe: &Probe) -> Result<(), String> {
    // Waiting for our own turn is not the agent's fault.
    let Ok(_permit) = subject.permits.acquire().await else { return Ok(()) };
    let within = Duration::from_millis(probe.timeout_ms);
    if let Some(exec) = &probe.exec {
        let word = subject.run.exec(&exec.command, within).await;
        return match word {
            Ok(word) if word.success => Ok(()),
            Ok(word) => Err(word.detail),
            Err(error) => Err(error.to_string()),
        };
    }
    let asked = async {
        if let Some(http) = &probe.http {
            get(http).await
        } else if let Some(tcp) = &probe.tcp {
            connect(&tcp.host, tcp.port).await.map(|_| ())
        } else {
            let answer = subject.link.answers(subject.agent, within).await;
            answer.map_err(|error| error.to_string())
        }
    };
    let ms = probe.timeout_ms;
    timeout(within, asked).await.unwrap_or_else(|_| Err(format!("no answer within {ms} ms")))
}

/// Opens a connection.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| format!("{host}:{port}: {error}"))
}

async fn get(http: &HttpProbe) -> Result<(), String> {
    let mut stream = connect(&http.host, http.port).await?;
    let (host, port, path) = (&http.host, http.port, &http.path);
    let ask = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: taffrail-node\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    let broken = |error: std::io::Error| format!("GET {path}: {error}");
    stream.write_all(ask.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    let mut buffer = [0; HEAD];
    while head.len() < HEAD && !head.contains(&b'\n') {
        match stream.read(&mut buffer).await.map_err(broken)? {
            0 => break,
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path}: status {status}")),
        None => Err(format!("GET {path}: the answer is no HTTP")),
    }
}

/// The status of an answer's first line (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_status_is_the_second_word_of_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for wrong in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 x\r\n", b"\xff"] {
            assert_eq!(status(wrong), None);
        }
    }

    async fn answered(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut ask = [0; 1024];
            let read = stream.read(&mut ask).await.unwrap();
            assert!(ask[..read].starts_with(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer).await.unwrap();
        });
        let http = HttpProbe { host: "127.0.0.1".into(), port, path: "/health?deep=1".into() };
        get(&http).await
    }

    #[tokio::test]
    async fn a_get_is_good_from_200_to_399() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await, Ok(()));
        assert_eq!(answered(b"HTTP/1.1 302 Found\r\n\r\n").await, Ok(()));
        let bad = answered(b"HTTP/1.1 503 Busy\r\n\r\n").await.unwrap_err();
        assert_eq!(bad, "GET /health?deep=1: status 503");
        assert!(answered(b"hello\r\n").await.unwrap_err().contains("no HTTP"));
        assert!(answered(b"").await.unwrap_err().contains("no HTTP"));
    }

    #[tokio::test]
    async fn a_closed_port_is_bad() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect("127.0.0.1", port).await.is_ok());
        drop(listener);
        assert!(connect("127.0.0.1", port).await.unwrap_err().contains("refused"));
    }
}
