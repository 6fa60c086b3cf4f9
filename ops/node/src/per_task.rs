//! An agent whose program is started for each task: the node speaks to Taffrail on its behalf,
//! and runs the program in a sandbox of its own for each task.
//!
//! To its keeper it looks like a process. It ends with the daemon, which hands its tasks back;
//! the next daemon begins it again in the same generation.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::{Agent, Ended, Route, Server, Verdict, Work};
use domain::agent::{Exit, RegisterAgent};
use domain::profile::CommandLine;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::driver::{Driver, Ending, Found, Job, Piece, Run, Stream, Word};
use crate::logs;

/// After a try to connect that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// For handing tasks back on the way out.
const HAND_BACK: Duration = Duration::from_secs(5);
/// Between two looks for new output.
const LOOK: Duration = Duration::from_millis(50);
/// Four times the largest result, so that its last line is whole; and what becomes the error.
const KEPT: (usize, usize) = (1024 * 1024, 64 * 1024);

/// An agent that the node speaks for.
pub(crate) struct PerTask {
    drain: CancellationToken,
    stop: CancellationToken,
    ended: watch::Receiver<Option<Ending>>,
    driver: Arc<dyn Driver>,
    job: Job,
    words: AtomicU32,
    _speaking: AbortOnDropHandle<()>,
}

/// Whom the node speaks for, and to whom.
pub(crate) struct Speaker {
    pub server: Server,
    pub options: agent::Options,
}

impl Speaker {
    /// As the launch describes the agent.
    pub(crate) fn of(node: &crate::Options, job: &Job, name: &str, generation: u32) -> Self {
        let server = Server { url: node.nats_url.clone(), token: node.nats_token.clone() };
        let mut options = agent::Options::named(name);
        options.tenant = node.tenant.clone();
        options.id = Some(job.agent);
        options.generation = Some(generation.into());
        options.description = RegisterAgent {
            role: job.launch.role.clone(),
            capabilities: job.launch.capabilities.clone(),
            slots: job.launch.slots,
            ..RegisterAgent::named(name)
        };
        Self { server, options }
    }
}

impl PerTask {
    /// Begins to speak for the agent; NATS may be away yet.
    pub(crate) async fn start(
        driver: Arc<dyn Driver>,
        job: Job,
        speaker: Speaker,
        grace: Duration,
    ) -> Arc<dyn Run> {
        end_leftovers(&*driver, &job).await;
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let (sender, ended) = watch::channel(None);
        let runner = Runner { driver: Arc::clone(&driver), job: job.clone() };
        let words = (drain.clone(), stop.clone());
        let speaking = tokio::spawn(async move {
            let ending = speak(speaker, runner, words, grace).await;
            sender.send_replace(Some(ending));
        });
        Arc::new(Self {
            drain,
            stop,
            ended,
            driver,
            job,
            words: AtomicU32::new(0),
            _speaking: AbortOnDropHandle::new(speaking),
        })
    }
}

/// Until it is told to end, or the server does not want it.
async fn speak(
    speaker: Speaker,
    runner: Runner,
    (drain, stop): (CancellationToken, CancellationToken),
    grace: Duration,
) -> Ending {
    let over = |code, note| {
        let exit = Exit { code: Some(code), ..Exit::default() };
        Ending { exit: Some(exit), note }
    };
    loop {
        let once = async {
            let route = Route::Nats(speaker.server.clone());
            let agent = Agent::over(route, speaker.options.clone()).await?;
            let control = agent.control();
            let words = async {
                drain.cancelled().await;
                control.drain(Some(grace));
                stop.cancelled().await;
                control.stop();
                std::future::pending().await
            };
            tokio::select! {
                ended = agent.run(runner.clone()) => ended,
                ended = words => ended,
            }
        };
        let error = tokio::select! {
            // What runs is asked by way of its control; before that there is nothing to end.
            ended = once => match ended {
                Ok(Ended::Drained | Ended::Stopped) => return over(0, None),
                Err(error @ agent::Error::Refused { .. }) => return over(1, Some(error.to_string())),
                Err(error) => error,
            },
            () = async { stop.cancelled().await; sleep(HAND_BACK).await } => return over(0, None),
        };
        tracing::debug!(agent = %runner.job.agent, %error, "the node cannot speak for it yet");
        tokio::select! {
            () = sleep(AGAIN) => {}
            () = drain.cancelled() => return over(0, None),
        }
    }
}

impl Run for PerTask {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn terminate(&self) -> BoxFuture<'_, ()> {
        self.drain.cancel();
        async {}.boxed()
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        self.drain.cancel();
        self.stop.cancel();
        async {}.boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Ending> {
        let mut ended = self.ended.clone();
        async move {
            let ending = ended.wait_for(Option::is_some).await;
            ending.ok().and_then(|ending| ending.clone()).unwrap_or_default()
        }
        .boxed()
    }

    fn exec<'a>(
        &'a self,
        command: &'a CommandLine,
        within: Duration,
    ) -> BoxFuture<'a, io::Result<Word>> {
        async move {
            let number = self.words.fetch_add(1, Ordering::Relaxed);
            let mut job = self.job.clone();
            job.dir = job.dir.join(format!("exec-{number}"));
            job.launch.profile.command = Some(command.clone());
            job.secrets.clear();
            let dir = job.dir.clone();
            let started = self.driver.start(job).await;
            let run = started.map_err(|error| io::Error::other(error.reason))?;
            let mut ending = timeout(within, run.wait()).await;
            let late = ending.is_err();
            if late {
                run.kill().await;
                ending = timeout(HAND_BACK, run.wait()).await;
            }
            let exit = ending.ok().and_then(|ending| ending.exit).unwrap_or_default();
            let _ = std::fs::remove_dir_all(dir);
            let detail = match late {
                true => format!("no end within {} ms", within.as_millis()),
                false => exit.words(),
            };
            Ok(Word { success: !late && exit.code == Some(0), detail })
        }
        .boxed()
    }

    /// The lines of a task's log go with the task.
    fn output(&self, _: Stream, from: u64, _: usize) -> io::Result<Piece> {
        Ok(Piece { at: from, bytes: Vec::new() })
    }

    fn let_go(&self) -> BoxFuture<'_, ()> {
        async {
            self.kill().await;
            let _ = timeout(HAND_BACK, self.wait()).await;
        }
        .boxed()
    }
}

/// What a daemon that was killed left running: nobody takes its result any more.
async fn end_leftovers(driver: &dyn Driver, job: &Job) {
    for entry in std::fs::read_dir(&job.dir).into_iter().flatten().flatten() {
        let left = Job { dir: entry.path(), ..job.clone() };
        if let Found::Running(run) = driver.adopt(left).await {
            run.kill().await;
            let _ = timeout(HAND_BACK, run.wait()).await;
        }
        let _ = std::fs::remove_dir_all(entry.path());
    }
}

/// Runs the program for one task after the other.
#[derive(Clone)]
struct Runner {
    driver: Arc<dyn Driver>,
    job: Job,
}

impl agent::Handler for Runner {
    async fn handle(&self, work: Work) -> Verdict {
        let task = work.assignment();
        let mut input = match serde_json::to_vec(task) {
            Ok(input) => input,
            Err(error) => return Verdict::failed(format!("no assignment line: {error}"), true),
        };
        input.push(b'\n');
        let mut job = self.job.clone();
        // The same task may come again while its last run is being ended.
        job.dir = job.dir.join(format!("task-{}-{}", task.task_id, task.lease.token));
        job.input = Some(input);
        job.env.insert("TAFFRAIL_TASK_ID".into(), task.task_id.to_string());
        job.env.insert("TAFFRAIL_ATTEMPT".into(), task.attempt.to_string());
        let dir = job.dir.clone();
        let verdict = self.one(job, &work).await;
        let _ = std::fs::remove_dir_all(dir);
        verdict
    }
}

impl Runner {
    async fn one(&self, job: Job, work: &Work) -> Verdict {
        let run = match self.driver.start(job).await {
            Ok(run) => run,
            Err(error) => return Verdict::failed(error.reason, !error.permanent),
        };
        // Whoever drops us does not want the program to run on.
        let killer = Killer(Some(Arc::clone(&run)));
        let ended = CancellationToken::new();
        let mut outputs = Outputs::default();
        let reading = async {
            while !ended.is_cancelled() {
                if !outputs.read(&*run, work, false) {
                    let _ = timeout(LOOK, ended.cancelled()).await;
                }
            }
            while outputs.read(&*run, work, true) {}
        };
        let waiting = async {
            let ending = tokio::select! {
                ending = run.wait() => Some(ending),
                () = work.stopped() => {
                    run.kill().await;
                    let _ = timeout(HAND_BACK, run.wait()).await;
                    None
                }
            };
            ended.cancel();
            ending
        };
        let (ending, ()) = tokio::join!(waiting, reading);
        killer.disarm();
        match ending {
            None => Verdict::HandBack("the agent was stopped".into()),
            Some(ending) => verdict(ending, outputs),
        }
    }
}

fn verdict(ending: Ending, outputs: Outputs) -> Verdict {
    let Some(exit) = ending.exit else {
        return Verdict::failed("nobody knows how the program ended", true);
    };
    let status = match (exit.code, exit.signal) {
        (Some(code), _) => ExitStatus::from_raw((code & 0xff) << 8),
        (None, Some(signal)) => ExitStatus::from_raw(signal & 0x7f),
        (None, None) => return Verdict::failed("nobody knows how the program ended", true),
    };
    let mut stderr = outputs.stderr.kept;
    let beyond = [(exit.out_of_memory, "out of memory"), (exit.out_of_time, "out of time")];
    let beyond = beyond.into_iter().filter(|(is, _)| *is).map(|(_, words)| words.to_owned());
    for words in beyond.chain(ending.note) {
        stderr.extend(format!("\n{words}\n").bytes());
    }
    agent::conclude(status, &outputs.stdout.kept, &stderr)
}

/// What a program wrote so far.
#[derive(Default)]
struct Outputs {
    stdout: Output,
    stderr: Output,
}

#[derive(Default)]
struct Output {
    read: u64,
    kept: Vec<u8>,
    /// Up to where lines were told.
    told: u64,
}

impl Outputs {
    /// Takes what is new; whether there was anything.
    fn read(&mut self, run: &dyn Run, work: &Work, last: bool) -> bool {
        let mut moved = false;
        for (stream, output, most) in
            [(Stream::Stdout, &mut self.stdout, KEPT.0), (Stream::Stderr, &mut self.stderr, KEPT.1)]
        {
            let Ok(piece) = run.output(stream, output.read, 64 * 1024) else { continue };
            if piece.bytes.is_empty() && !last {
                continue;
            }
            moved |= !piece.bytes.is_empty();
            output.take(piece, most);
            output.lines(last, |line| match stream {
                // Its last line is the result: what is on the way to it is no log.
                Stream::Stdout => work.gets_on(),
                Stream::Stderr => work.log(stream.as_str(), line),
            });
        }
        moved
    }
}

impl Output {
    fn take(&mut self, piece: Piece, most: usize) {
        if piece.at > self.read {
            self.kept.clear();
            self.told = piece.at;
        }
        self.read = piece.at + piece.bytes.len() as u64;
        self.kept.extend(piece.bytes);
        let over = self.kept.len().saturating_sub(2 * most);
        if over > 0 {
            self.kept.drain(..over + most);
        }
    }

    fn lines(&mut self, last: bool, mut tell: impl FnMut(&str)) {
        let begin = self.read - self.kept.len() as u64;
        let from = self.told.saturating_sub(begin) as usize;
        let mut told = 0;
        for (line, end) in logs::lines(&self.kept[from..], last) {
            if !line.is_empty() {
                tell(&String::from_utf8_lossy(line));
            }
            told = end;
        }
        self.told = begin + (from + told) as u64;
    }
}

/// Kills a run that is dropped before its end.
struct Killer(Option<Arc<dyn Run>>);

impl Killer {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        if let Some(run) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { run.kill().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(at: u64, bytes: &[u8]) -> Piece {
        Piece { at, bytes: bytes.to_vec() }
    }

    #[test]
    fn output_is_told_by_lines_once_and_its_end_is_kept() {
        let mut output = Output::default();
        let mut told = Vec::new();
        let mut step = |output: &mut Output, at, bytes: &[u8], last| {
            output.take(piece(at, bytes), 8);
            output.lines(last, |line| told.push(line.to_owned()));
        };
        step(&mut output, 0, b"one\ntw", false);
        step(&mut output, 6, b"o\n\n", false);
        // Some of it was not kept any longer.
        step(&mut output, 100, b"three\nfour", false);
        step(&mut output, 110, b"", true);
        assert_eq!(told, ["one", "two", "three", "four"]);
        assert_eq!(output.kept, b"three\nfour");
        output.take(piece(110, &[b'x'; 30]), 8);
        assert!(output.kept.len() <= 16 && output.kept.ends_with(b"xxxxxxxx"));
    }

    fn end(exit: Exit, stdout: &[u8]) -> Verdict {
        let mut outputs = Outputs::default();
        outputs.stdout.kept = stdout.to_vec();
        verdict(Ending { exit: Some(exit), note: None }, outputs)
    }

    #[test]
    fn a_programs_end_is_the_tasks_as_with_agent_run() {
        let exit = |code| Exit { code: Some(code), ..Exit::default() };
        let done = end(exit(0), b"work\n{\"sum\":3}\n");
        assert!(matches!(&done, Verdict::Done(json) if json.as_str() == "{\"sum\":3}"), "{done:?}");
        assert!(matches!(end(exit(65), b""), Verdict::Failed { retryable: false, .. }));
        assert!(matches!(end(exit(1), b""), Verdict::Failed { retryable: true, .. }));
        let oom = Exit { signal: Some(9), out_of_memory: true, ..Exit::default() };
        let Verdict::Failed { error, retryable: true } = end(oom, b"") else { panic!() };
        assert!(error.as_str().contains("killed by signal 9: out of memory"), "{error:?}");
    }
}
