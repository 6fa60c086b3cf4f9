//! Subscribers of core NATS that cost next to nothing.
//!
//! A connection carries several subscriptions, as in the limit cell. Of every message only
//! its position is read, where it lies: the client library makes a map of some fifteen
//! headers of each, 13 us per delivery, and then it is the library that is measured.

use std::io::BufRead;

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for what one read brings.
const ROOM: usize = 256 << 10;
/// Longest line that is waited for: nats-server's own limit for what clients send.
const LONGEST_LINE: usize = 64 << 10;
/// The header that an event's position stands in.
const POSITION: &[u8] = b"Taffrail-Position: ";

/// The subscriptions of one connection.
pub struct Subscriptions {
    stream: TcpStream,
    raw: BytesMut,
}

/// What the server sent.
#[derive(Debug, PartialEq)]
enum Sent {
    /// To the nth subscription, an event of this position.
    Event(usize, u64),
    Ping,
    Pong,
    /// Something about itself.
    Word,
}

impl Subscriptions {
    /// Connects and subscribes so many times to a subject.
    pub async fn open(
        url: &str,
        token: Option<&str>,
        subject: &str,
        count: usize,
    ) -> anyhow::Result<Self> {
        let address = url.trim_start_matches("nats://");
        let mut stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        let options = json!({
            "verbose": false, "pedantic": false, "headers": true, "protocol": 1,
            "lang": "rust", "version": "0", "name": "taffrail bench", "auth_token": token,
        });
        let mut hello = format!("CONNECT {options}\r\n");
        for nth in 0..count {
            hello.push_str(&format!("SUB {subject} {nth}\r\n"));
        }
        hello.push_str("PING\r\n");
        stream.write_all(hello.as_bytes()).await?;
        let mut opened = Self { stream, raw: BytesMut::with_capacity(ROOM) };
        // The answer to the ping: the server has the subscriptions.
        loop {
            match opened.next()? {
                Some(Sent::Pong) => return Ok(opened),
                Some(_) => {}
                None => opened.read().await?,
            }
        }
    }

    /// Hands over which subscriptions got which positions; waits for at least one.
    ///
    /// Dropping the future loses nothing.
    pub async fn positions(&mut self, found: &mut Vec<(usize, u64)>) -> anyhow::Result<()> {
        loop {
            while let Some(sent) = self.next()? {
                match sent {
                    Sent::Event(nth, position) => found.push((nth, position)),
                    Sent::Ping => self.stream.write_all(b"PONG\r\n").await?,
                    Sent::Pong | Sent::Word => {}
                }
            }
            if !found.is_empty() {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.raw.reserve(ROOM);
        if self.stream.read_buf(&mut self.raw).await? == 0 {
            bail!("nats-server closed a subscriber's connection");
        }
        Ok(())
    }

    /// The next thing that is here as a whole.
    fn next(&mut self) -> anyhow::Result<Option<Sent>> {
        let mut rest: &[u8] = &self.raw;
        let length = rest.skip_until(b'\n')?;
        let Some((b'\n', line)) = self.raw[..length].split_last() else {
            if length > LONGEST_LINE {
                bail!("a line without end");
            }
            return Ok(None);
        };
        let line = std::str::from_utf8(line).context("a line of nats-server")?.trim_end();
        let mut words = line.split(' ');
        let (sent, whole) = match words.next().unwrap_or_default() {
            "HMSG" => {
                let number = |word: Option<&str>| -> anyhow::Result<usize> {
                    word.and_then(|word| word.parse().ok()).with_context(|| line.to_owned())
                };
                let nth = number(words.nth(1))?;
                let (total, headers) = (number(words.next_back())?, number(words.next_back())?);
                let whole = length + total + b"\r\n".len();
                if self.raw.len() < whole {
                    return Ok(None);
                }
                (Sent::Event(nth, position(&self.raw[length..length + headers])?), whole)
            }
            "MSG" => bail!("an event without a position"),
            "-ERR" => bail!("nats-server: {line}"),
            "PING" => (Sent::Ping, length),
            "PONG" => (Sent::Pong, length),
            _ => (Sent::Word, length),
        };
        self.raw.advance(whole);
        Ok(Some(sent))
    }
}

fn position(mut headers: &[u8]) -> anyhow::Result<u64> {
    loop {
        let whole = headers;
        let length = headers.skip_until(b'\n')?;
        if length == 0 {
            bail!("an event without a position");
        }
        if let Some(digits) = whole[..length].strip_prefix(POSITION) {
            let digits = std::str::from_utf8(digits).context("an event's position")?;
            return digits.trim_end().parse().context("an event's position");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn event(sid: usize, position: &str, reply: &str) -> String {
        let headers = format!("NATS/1.0\r\nTaffrail-Tenant: a\r\n{position}X: 1\r\n\r\n");
        let body = "{\"Taffrail-Position: 9\r\n\":1}";
        let (head, total) = (headers.len(), headers.len() + body.len());
        format!("HMSG a.b {sid} {reply}{head} {total}\r\n{headers}{body}\r\n")
    }

    async fn sending(text: String) -> anyhow::Result<Vec<(usize, u64)>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("nats://{}", listener.local_addr()?);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for byte in format!("INFO {{}}\r\nPONG\r\n{text}").as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
            }
            // Held until the client has gone.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let mut subscriptions = Subscriptions::open(&url, Some("t"), "a.>", 2).await?;
        let mut all = Vec::new();
        while all.len() < 3 {
            let mut found = Vec::new();
            subscriptions.positions(&mut found).await?;
            all.extend(found);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn positions_are_found_however_the_bytes_are_cut() {
        let place = |n| format!("Taffrail-Position: {n}\r\n");
        let text = [event(0, &place(7), ""), "PING\r\n".into(), event(1, &place(7), "r.1 ")];
        let found = sending(text.concat() + &event(0, &place(8), "")).await.unwrap();
        assert_eq!(found, [(0, 7), (1, 7), (0, 8)]);
    }

    #[tokio::test]
    async fn an_event_without_a_position_and_an_error_of_the_server_are_errors() {
        assert!(sending(event(0, "", "")).await.is_err(), "the body's does not count");
        assert!(sending("-ERR 'Slow Consumer'\r\n".into()).await.is_err());
    }
}
