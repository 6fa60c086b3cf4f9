//! Output of a program on its way to disk: bounded in size and in speed.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::logs::{Stream, segment};
use crate::spec::Limits;

/// Segments that share the space of a stream: a quarter of it goes at once.
const SEGMENTS: u64 = 4;

/// A pipe that is read into segments. The oldest goes when the space is used up; when the
/// program writes faster than the rate it waits, as it would for any slow reader.
pub(super) struct Output {
    stream: Stream,
    dir: PathBuf,
    pipe: Option<PipeReader>,
    limit: u64,
    kept: VecDeque<(u64, u64)>, // start and length of each segment, oldest first
    file: Option<File>,
    /// Bytes read since the start.
    pub written: u64,
    /// Bytes thereof that are no longer kept.
    pub dropped: u64,
    rate: u64,
    budget: u64,
    filled_at: Instant,
}

impl Output {
    pub fn new(dir: &Path, stream: Stream, pipe: PipeReader, limits: &Limits) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self {
            stream,
            dir: dir.to_owned(),
            pipe: Some(pipe),
            limit: limits.output_bytes,
            kept: VecDeque::new(),
            file: None,
            written: 0,
            dropped: 0,
            rate: limits.output_bytes_per_s,
            budget: limits.output_bytes_per_s,
            filled_at: Instant::now(),
        })
    }

    /// The pipe, while it is open and may be read now.
    pub fn wanted(&mut self, now: Instant) -> Option<&PipeReader> {
        let gained = now.duration_since(self.filled_at).as_secs_f64() * self.rate as f64;
        if gained >= 1.0 {
            self.budget = (self.budget + gained as u64).min(self.rate);
            self.filled_at = now;
        }
        self.pipe.as_ref().filter(|_| self.budget > 0)
    }

    /// How long until the pipe may be read again, if it may not now.
    pub fn pause(&self) -> Option<Duration> {
        (self.pipe.is_some() && self.budget == 0).then_some(Duration::from_millis(20))
    }

    /// Whether the last writer is gone.
    pub fn ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// Takes in what is there, within the budget unless the program is gone.
    pub fn take(&mut self, last: bool) {
        let mut buffer = [0; 64 << 10];
        while let Some(pipe) = &mut self.pipe {
            let most = if last { buffer.len() } else { buffer.len().min(self.budget as usize) };
            if most == 0 {
                return;
            }
            match pipe.read(&mut buffer[..most]) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    self.budget = self.budget.saturating_sub(read as u64);
                    self.keep(&buffer[..read]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    /// A full disk loses output, never the program: what cannot be written counts as dropped.
    fn keep(&mut self, mut bytes: &[u8]) {
        let most = (self.limit / SEGMENTS).max(1);
        while !bytes.is_empty() {
            let room = self.kept.back().map_or(0, |(_, length)| most.saturating_sub(*length));
            if room == 0 || self.file.is_none() {
                self.roll();
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            let stored = self.file.as_mut().is_some_and(|file| file.write_all(now).is_ok());
            let length = now.len() as u64;
            self.written += length;
            match self.kept.back_mut() {
                Some((_, kept)) if stored => *kept += length,
                Some(_) | None => {
                    self.dropped += length;
                    // The next segment starts where the gap ends.
                    self.file = None;
                }
            }
            bytes = later;
        }
    }

    fn roll(&mut self) {
        while self.kept.len() as u64 >= SEGMENTS
            && let Some((start, length)) = self.kept.pop_front()
        {
            let _ = fs::remove_file(segment(&self.dir, self.stream, start));
            self.dropped += length;
        }
        let path = segment(&self.dir, self.stream, self.written);
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        // Without a segment of its own, output goes where it cannot be kept.
        self.file = open.or_else(|_| OpenOptions::new().write(true).open("/dev/null")).ok();
        self.kept.push_back((self.written, 0));
        if self.file.is_none() {
            self.pipe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{read_from, segments};

    fn fresh(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sandbox-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_newest_output_is_kept_and_the_rest_is_counted() {
        let dir = fresh("ring");
        let (reader, _writer) = io::pipe().unwrap();
        let limits = Limits { output_bytes: 400, ..Limits::default() };
        let mut output = Output::new(&dir, Stream::Stdout, reader, &limits).unwrap();
        for number in 0..1000_u32 {
            output.keep(format!("{number:09}\n").as_bytes());
        }
        let on_disk: u64 = segments(&dir, Stream::Stdout)
            .unwrap()
            .iter()
            .map(|start| fs::metadata(segment(&dir, Stream::Stdout, *start)).unwrap().len())
            .sum();
        assert!((300..=400).contains(&on_disk), "{on_disk}");
        assert_eq!(output.written, 10_000);
        assert_eq!(output.dropped, 10_000 - on_disk);
        // A reader that comes late is told what it missed, and then reads to the end.
        let first = read_from(&dir, Stream::Stdout, 0, 4096).unwrap().unwrap();
        assert_eq!(first.skipped, output.dropped);
        let (mut at, mut all) = (first.offset, Vec::new());
        while let Some(chunk) = read_from(&dir, Stream::Stdout, at, 64).unwrap() {
            assert_eq!(chunk.skipped, 0);
            at = chunk.next();
            all.extend(chunk.bytes);
        }
        assert!(String::from_utf8(all).unwrap().ends_with("000000998\n000000999\n"));
        assert_eq!(at, 10_000);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn beyond_its_rate_a_stream_is_not_read() {
        let dir = fresh("rate");
        let (reader, mut writer) = io::pipe().unwrap();
        let limits = Limits { output_bytes_per_s: 1000, ..Limits::default() };
        let mut output = Output::new(&dir, Stream::Stdout, reader, &limits).unwrap();
        writer.write_all(&[b'x'; 3000]).unwrap();
        output.take(false);
        assert_eq!(output.written, 1000);
        assert!(output.pause().is_some());
        let later = output.filled_at + Duration::from_millis(500);
        assert!(output.wanted(later).is_some());
        output.take(false);
        assert_eq!(output.written, 1500);
        output.take(true);
        assert_eq!(output.written, 3000);
        fs::remove_dir_all(dir).unwrap();
    }
}
