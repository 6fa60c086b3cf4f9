//! An agent's output, published line by line as it comes.
//!
//! What was published is known by an offset on disk, so the next daemon goes on where this one
//! ended. While NATS is away nothing is read: the output waits on disk, as much as is kept
//! there. Of what comes faster than it may be published, the oldest is left out and counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use domain::AgentId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::driver::{Run, Stream};
use crate::folder::replace;
use crate::link::Link;

/// A longer line is cut into pieces.
const LONGEST_LINE: usize = 8 * 1024;
/// Per agent and second; people read logs, and one agent must not fill the network.
const LINES_PER_S: usize = 500;
const BYTES_PER_S: usize = 256 * 1024;
/// Output that may wait to be published; beyond it the oldest is left out.
const BACKLOG: u64 = 1024 * 1024;
/// What is left of it then.
const LEFT: u64 = 256 * 1024;
/// Read at once.
const PIECE: usize = 64 * 1024;
/// Between two looks for new output.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// Between two notes of the offset: so much is published twice by a daemon that was killed.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// For the last words of a process that ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How far the output was published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offsets {
    stdout: u64,
    stderr: u64,
}

impl Offsets {
    fn of(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// A line on `taffrail.<tenant>.agent.<id>.log`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    stream: &'static str,
    line: &'a str,
    generation: u32,
    at: DateTime<Utc>,
}

/// Publishes the output of one process.
pub(crate) struct Pump {
    pub link: Link,
    pub agent: AgentId,
    pub generation: u32,
    pub run: Arc<dyn Run>,
    /// Where the offsets are kept.
    pub file: PathBuf,
}

impl Pump {
    /// Publishes until the process has ended and its last words are said.
    pub(crate) async fn run(self, ended: CancellationToken) {
        let known = std::fs::read(&self.file).ok();
        let known = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut offsets: Offsets = known.unwrap_or_default();
        let mut noted = (Instant::now(), offsets.clone());
        let mut pause = LOOK.0;
        let mut allowance = Allowance::new();
        let mut last_words: Option<Instant> = None;
        loop {
            // Asked before the read: what was written until then is read after it.
            let over = ended.is_cancelled();
            let mut moved = false;
            for stream in [Stream::Stdout, Stream::Stderr] {
                let offset = offsets.of(stream);
                match self.step(stream, offset, over, &mut allowance).await {
                    Ok(more) => moved |= more,
                    Err(error) => {
                        tracing::warn!(agent = %self.agent, %error, "output cannot be read");
                        return;
                    }
                }
            }
            if moved && noted.0.elapsed() >= NOTE_EVERY || over && noted.1 != offsets {
                self.note(&offsets);
                noted = (Instant::now(), offsets.clone());
            }
            if over {
                let until = *last_words.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                if !moved && self.link.is_up() && !allowance.is_used_up() || Instant::now() > until
                {
                    return;
                }
            }
            if moved {
                pause = LOOK.0;
                continue;
            }
            let _ = timeout(pause, async {
                if !over {
                    ended.cancelled().await;
                } else {
                    sleep(LOOK.1).await;
                }
            })
            .await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// Publishes what is there and may be published; whether it was anything.
    async fn step(
        &self,
        stream: Stream,
        offset: &mut u64,
        over: bool,
        allowance: &mut Allowance,
    ) -> std::io::Result<bool> {
        if !self.link.is_up() {
            return Ok(false);
        }
        if allowance.is_used_up() {
            return self.leave_out(stream, offset).await;
        }
        let piece = self.run.output(stream, *offset, PIECE)?;
        if piece.at > *offset {
            let mark = format!("[{} bytes dropped]", piece.at - *offset);
            self.say(stream, &mark).await;
            *offset = piece.at;
        }
        let mut said = false;
        for (line, next) in lines(&piece.bytes, over && piece.bytes.len() < PIECE) {
            if allowance.is_used_up() {
                return Ok(true);
            }
            allowance.use_up(line.len());
            self.say(stream, &String::from_utf8_lossy(line)).await;
            *offset = piece.at + next as u64;
            said = true;
        }
        Ok(said)
    }

    /// Where too much waits, leaves the oldest out up to the end of a line, and says how much.
    async fn leave_out(&self, stream: Stream, offset: &mut u64) -> std::io::Result<bool> {
        let far = self.run.output(stream, *offset + BACKLOG, 1)?;
        if far.bytes.is_empty() {
            return Ok(false);
        }
        let target = *offset + BACKLOG - LEFT;
        let mut dropped = 0;
        while *offset < target {
            let piece = self.run.output(stream, *offset, PIECE)?;
            if piece.bytes.is_empty() {
                break;
            }
            let left = (target.saturating_sub(piece.at) as usize).max(1);
            let last = left <= piece.bytes.len();
            let mut end = left.min(piece.bytes.len());
            if last {
                let line = piece.bytes[..end].iter().rposition(|byte| *byte == b'\n');
                end = line.map_or(end, |at| at + 1);
            }
            dropped += piece.bytes[..end].iter().filter(|byte| **byte == b'\n').count();
            *offset = piece.at + end as u64;
            if last {
                break;
            }
        }
        self.say(stream, &format!("[{dropped} lines dropped]")).await;
        Ok(true)
    }

    async fn say(&self, stream: Stream, line: &str) {
        let (generation, at) = (self.generation, SystemTime::now().into());
        let line = Line { stream: stream.as_str(), line, generation, at };
        self.link.log(self.agent, &line).await;
    }

    fn note(&self, offsets: &Offsets) {
        if let Ok(bytes) = serde_json::to_vec(offsets) {
            // The folder may be gone already; then nobody asks for the offset either.
            let _ = replace(&self.file, &bytes);
        }
    }
}

/// The lines in a piece of output, each with the offset behind it. What has no end yet is left
/// for later, unless it is too long or the last.
pub(crate) fn lines(bytes: &[u8], last: bool) -> Vec<(&[u8], usize)> {
    let mut lines = Vec::new();
    let mut begin = 0;
    while begin < bytes.len() {
        let rest = &bytes[begin..];
        let window = &rest[..rest.len().min(LONGEST_LINE)];
        let (line, taken) = match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&rest[..end], end + 1),
            None if window.len() == LONGEST_LINE => (window, LONGEST_LINE),
            None if last => (rest, rest.len()),
            None => break,
        };
        begin += taken;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        lines.push((line, begin));
    }
    lines
}

/// What may still be published in this second.
struct Allowance {
    since: Instant,
    lines: usize,
    bytes: usize,
}

impl Allowance {
    fn new() -> Self {
        Self { since: Instant::now(), lines: 0, bytes: 0 }
    }

    fn is_used_up(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.lines >= LINES_PER_S || self.bytes >= BYTES_PER_S
    }

    fn use_up(&mut self, bytes: usize) {
        self.lines += 1;
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], last: bool) -> (Vec<String>, usize) {
        let lines = lines(bytes, last);
        let text = lines.iter().map(|(line, _)| String::from_utf8_lossy(line).into_owned());
        (text.collect(), lines.last().map_or(0, |(_, end)| *end))
    }

    #[test]
    fn a_line_without_an_end_waits_for_it_unless_it_is_the_last() {
        assert_eq!(cut(b"a\r\n\nb", false), (vec!["a".into(), String::new()], 4));
        assert_eq!(cut(b"a\nb", true), (vec!["a".into(), "b".into()], 3));
        assert_eq!(cut(b"", true), (vec![], 0));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_nothing_is_lost() {
        let long = vec![b'x'; LONGEST_LINE + 5];
        let ends = |last| lines(&long, last).iter().map(|(_, end)| *end).collect::<Vec<_>>();
        assert_eq!(ends(false), [LONGEST_LINE]);
        assert_eq!(ends(true), [LONGEST_LINE, long.len()]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_has_its_allowance() {
        let mut allowance = Allowance::new();
        (0..LINES_PER_S).for_each(|_| allowance.use_up(1));
        assert!(allowance.is_used_up());
        tokio::time::advance(Duration::from_millis(1_001)).await;
        assert!(!allowance.is_used_up());
        allowance.use_up(BYTES_PER_S);
        assert!(allowance.is_used_up());
    }
}
