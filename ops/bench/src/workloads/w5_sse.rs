//! A subscriber of server-sent events that costs next to nothing.
//!
//! One connection, the chunked body taken apart in place, and of every event only its id
//! read: a hundred of them beside the server must not be what is measured.

use std::io::BufRead;

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for what one read brings.
const ROOM: usize = 64 << 10;
/// Longest line that is waited for.
const LONGEST_LINE: usize = 4 << 20;

/// An open stream.
pub struct Sse {
    stream: TcpStream,
    raw: BytesMut,
    /// Bytes of the chunk that the next ones belong to; none: a size line comes next.
    chunk: usize,
    /// Between two chunks there is an empty line.
    between: bool,
    body: BytesMut,
}

impl Sse {
    /// Subscribes to the live events behind a position.
    pub async fn open(address: &str, token: &str, after: u64) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /v1/events/stream?after={after} HTTP/1.1\r\nhost: {address}\r\n\
             accept: text/event-stream\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut sse = Self {
            stream,
            raw: BytesMut::with_capacity(ROOM),
            chunk: 0,
            between: false,
            body: BytesMut::new(),
        };
        let head = sse.head().await?;
        if !head.starts_with("HTTP/1.1 200") || !head.contains("chunked") {
            bail!("the stream was not opened: {}", head.lines().next().unwrap_or_default());
        }
        Ok(sse)
    }

    async fn head(&mut self) -> anyhow::Result<String> {
        loop {
            let end = self.raw.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head = self.raw.split_to(end + 4);
                return Ok(String::from_utf8_lossy(&head)
                    .to_ascii_lowercase()
                    .replacen("http/1.1", "HTTP/1.1", 1));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.raw.reserve(ROOM);
        if self.stream.read_buf(&mut self.raw).await? == 0 {
            bail!("the server closed a stream");
        }
        Ok(())
    }

    /// Hands over the positions of the events that are complete; waits for at least one.
    ///
    /// Dropping the future loses nothing.
    pub async fn positions(&mut self, found: &mut Vec<u64>) -> anyhow::Result<()> {
        loop {
            // What came together with the answer's head is here already.
            self.unchunk()?;
            self.ids(found)?;
            if !found.is_empty() {
                return Ok(());
            }
            self.read().await?;
        }
    }

    fn ids(&mut self, found: &mut Vec<u64>) -> anyhow::Result<()> {
        loop {
            let mut rest: &[u8] = &self.body;
            let length = rest.skip_until(b'\n')?;
            let line = &self.body[..length];
            let Some((b'\n', line)) = line.split_last() else {
                if length > LONGEST_LINE {
                    bail!("a line without end");
                }
                return Ok(());
            };
            if let Some(id) = line.strip_prefix(b"id: ") {
                let digits = id.split(|byte| *byte == b'.').next().unwrap_or_default();
                let text = std::str::from_utf8(digits).context("an event's id")?;
                found.push(text.parse().context("an event's id")?);
            } else if line == b"event: reset" {
                bail!("the stream was reset");
            }
            self.body.advance(length);
        }
    }

    /// Moves the chunks' content to the body.
    fn unchunk(&mut self) -> anyhow::Result<()> {
        while !self.raw.is_empty() {
            if self.chunk > 0 {
                let taken = self.chunk.min(self.raw.len());
                self.body.extend_from_slice(&self.raw[..taken]);
                self.raw.advance(taken);
                self.chunk -= taken;
                self.between = self.chunk == 0;
                continue;
            }
            let Some(end) = self.raw.iter().position(|byte| *byte == b'\n') else { return Ok(()) };
            let line = self.raw.split_to(end + 1);
            if std::mem::take(&mut self.between) {
                continue;
            }
            let size = std::str::from_utf8(&line).context("a chunk's size")?.trim();
            self.chunk = usize::from_str_radix(size, 16).context("a chunk's size")?;
            if self.chunk == 0 {
                bail!("the server ended a stream");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn positions_are_found_however_the_bytes_are_cut() {
        let events =
            "retry: 1000\n:\n\nid: 7\nevent: x\ndata: {\"id: 9\":1}\n\nid: 8.2\ndata: a\n\n";
        let (one, two) = events.split_at(31);
        let body = format!("{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n", one.len(), two.len());
        let answer =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}6\r\nid: 9\n\r\n");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for byte in answer.as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let mut sse = Sse::open(&address, "t", 6).await.unwrap();
        let mut all = Vec::new();
        while all.len() < 3 {
            let mut found = Vec::new();
            sse.positions(&mut found).await.unwrap();
            all.extend(found);
        }
        assert_eq!(all, [7, 8, 9]);
    }
}
