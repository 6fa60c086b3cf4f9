//! One run of a command: its own process group, bounded output, an end in any case.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::tail::Tail;

/// What of stdout is kept: four times the largest result, so its last line is whole.
pub(crate) const STDOUT_KEPT: usize = 1024 * 1024;
/// What of stderr becomes the error.
pub(crate) const STDERR_KEPT: usize = 4 * 1024;
/// A longer log line is cut into pieces.
const LONGEST_LINE: usize = 4 * 1024;
/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(2);

/// How a command ended and what it left.
pub(crate) struct Finished {
    pub status: ExitStatus,
    pub stdout: Tail,
    pub stderr: Tail,
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    group: Option<Pid>,
    stdout: JoinHandle<Tail>,
    stderr: JoinHandle<Tail>,
    stdin: JoinHandle<()>,
}

impl Running {
    /// Starts it with `input` on stdin; `line` is told of every line on stderr, and `gets_on`
    /// that there was one on stdout.
    pub(crate) fn start(
        mut command: Command,
        input: Vec<u8>,
        line: impl FnMut(&str) + Send + 'static,
        mut gets_on: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdin = tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                // A command need not read its task.
                let _ = stdin.write_all(&input).await;
                let _ = stdin.shutdown().await;
            }
        });
        let stdout = tokio::spawn(read(stdout, STDOUT_KEPT, Lines::new(move |_: &str| gets_on())));
        let stderr = tokio::spawn(read(stderr, STDERR_KEPT, Lines::new(line)));
        Ok(Self { child, group, stdout, stderr, stdin })
    }

    /// Waits for the end. What the command left running in its group ends with it.
    ///
    /// Dropping the future leaves the command running.
    pub(crate) async fn end(&mut self) -> std::io::Result<Finished> {
        let status = self.child.wait().await?;
        self.signal(Signal::KILL);
        self.stdin.abort();
        Ok(Finished {
            status,
            stdout: rest(&mut self.stdout, STDOUT_KEPT).await,
            stderr: rest(&mut self.stderr, STDERR_KEPT).await,
        })
    }

    /// Asks the whole group to end, and makes it.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::TERM);
        if timeout(GRACE, self.child.wait()).await.is_err() {
            self.signal(Signal::KILL);
            let _ = self.child.wait().await;
        }
        self.signal(Signal::KILL);
        self.stdin.abort();
        self.stdout.abort();
        self.stderr.abort();
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Nobody left in the group is what we want.
            let _ = kill_process_group(group, signal);
        }
    }
}

/// A process that left the group may hold the pipe open for ever: its output is not ours.
async fn rest(reader: &mut JoinHandle<Tail>, cap: usize) -> Tail {
    match timeout(GRACE, &mut *reader).await {
        Ok(Ok(tail)) => tail,
        Ok(Err(_)) => Tail::new(cap),
        Err(_) => {
            reader.abort();
            Tail::new(cap)
        }
    }
}

async fn read<R, F>(pipe: Option<R>, cap: usize, mut lines: Lines<F>) -> Tail
where
    R: AsyncRead + Unpin,
    F: FnMut(&str),
{
    let mut tail = Tail::new(cap);
    let Some(mut pipe) = pipe else { return tail };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                tail.push(&buffer[..n]);
                lines.push(&buffer[..n]);
            }
        }
    }
    lines.end();
    tail
}

/// Cuts a stream into lines of bounded length.
struct Lines<F> {
    line: Vec<u8>,
    tell: F,
}

impl<F: FnMut(&str)> Lines<F> {
    fn new(tell: F) -> Self {
        Self { line: Vec::new(), tell }
    }

    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(LONGEST_LINE) {
                if self.line.len() + piece.len() > LONGEST_LINE {
                    self.end();
                }
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end_matches(['\n', '\r']);
        if !line.is_empty() {
            (self.tell)(line);
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_greatest_length() {
        let mut got = Vec::new();
        let mut lines = Lines::new(|line: &str| got.push(line.to_owned()));
        lines.push(b"a");
        lines.push(b"b\r\n\nc");
        lines.push(&[b'x'; 10_000]);
        lines.end();
        assert_eq!(got[0], "ab");
        assert!(got.iter().all(|line| line.len() <= LONGEST_LINE));
        assert_eq!(got[1..].concat().len(), 10_001);
    }

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_command_that_leaves_a_child_behind_ends_all_the_same() {
        let mut run =
            Running::start(sh("sleep 60 & echo done"), vec![], |_: &str| {}, || {}).unwrap();
        let finished = timeout(Duration::from_secs(5), run.end()).await.unwrap().unwrap();
        assert_eq!(finished.stdout.text(100), "done\n");
    }

    #[tokio::test]
    async fn a_command_that_ignores_the_request_is_killed_with_its_children() {
        let run =
            Running::start(sh("trap '' TERM; sleep 60; sleep 60"), vec![], |_: &str| {}, || {});
        tokio::time::sleep(Duration::from_millis(100)).await;
        timeout(Duration::from_secs(5), run.unwrap().stop()).await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_does_not_read_its_input_is_no_trouble() {
        let input = vec![b'x'; 1 << 20];
        let mut run = Running::start(sh("exit 3"), input, |_: &str| {}, || {}).unwrap();
        let finished = timeout(Duration::from_secs(5), run.end()).await.unwrap().unwrap();
        assert_eq!(finished.status.code(), Some(3));
    }
}
