//! The sidecar: any executable as a handler.
//!
//! The command gets the assignment as one JSON line on stdin. Its last line on stdout that
//! is not blank is the result when it is JSON; any other text becomes
//! `{"stdout": "<its last 32 KiB>"}` (with `"truncated": true` when there was more), so
//! that it is not lost; no output at all is `null`.
//! Exit 0 completes; 65 fails for good; any other end fails with the tail of stderr.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use domain::Json;
use domain::json::MAX_VALUE_BYTES;
use serde_json::{Map, Value};
use tokio::process::Command;

use crate::process::{Finished, Running, STDERR_KEPT, STDOUT_KEPT};
use crate::tail::Tail;
use crate::{Handler, Verdict, Work};

/// `EX_DATAERR` of sysexits.h: the input is at fault, another attempt would not help.
const EX_DATAERR: i32 = 65;
/// Worst case of JSON escaping is sixfold; the value must stay below 256 KiB.
const TEXT_KEPT: usize = 32 * 1024;
const ERROR_KEPT: usize = 4 * 1024;

/// Runs a command for each task.
#[derive(Debug, Clone)]
pub struct CommandHandler {
    argv: Vec<OsString>,
    launcher: Vec<OsString>,
}

impl CommandHandler {
    /// A handler that runs this program with these arguments.
    pub fn new(argv: Vec<OsString>) -> Self {
        Self { argv, launcher: Vec::new() }
    }

    /// Starts the command by way of another program, which gets the command line appended.
    /// It sees to it that the command dies when the agent is killed outright.
    pub fn launched_by(mut self, launcher: Vec<OsString>) -> Self {
        self.launcher = launcher;
        self
    }

    fn command(&self, work: &Work) -> Option<Command> {
        let mut argv = self.launcher.iter().chain(&self.argv);
        let mut command = Command::new(argv.next()?);
        let task = work.assignment();
        command
            .args(argv)
            .env("TAFFRAIL_TASK_ID", task.task_id.to_string())
            .env("TAFFRAIL_ATTEMPT", task.attempt.to_string())
            .env("TAFFRAIL_AGENT_ID", work.agent_id().to_string())
            .env("TAFFRAIL_AGENT_NAME", work.agent_name())
            // The agent's own credential is not the command's.
            .env_remove("TAFFRAIL_NATS_TOKEN")
            .env_remove("TAFFRAIL_NATS_TOKEN_FILE")
            .env_remove("TAFFRAIL_AGENT_SOCKET")
            .env_remove("TAFFRAIL_TOKEN");
        Some(command)
    }
}

impl Handler for CommandHandler {
    async fn handle(&self, work: Work) -> Verdict {
        let Some(command) = self.command(&work) else {
            return Verdict::failed("the agent has no command", true);
        };
        let mut input = match serde_json::to_vec(work.assignment()) {
            Ok(input) => input,
            Err(error) => return Verdict::failed(format!("no assignment line: {error}"), true),
        };
        input.push(b'\n');
        let (logger, counter) = (work.clone(), work.clone());
        let log = move |line: &str| logger.log("stderr", line);
        let started = Running::start(command, input, log, move || counter.gets_on());
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                let program = self.argv.first().cloned().unwrap_or_default();
                let message = format!("cannot start {}: {error}", program.display());
                return Verdict::failed(message, true);
            }
        };
        tokio::select! {
            ended = running.end() => match ended {
                Ok(finished) => verdict(&finished),
                Err(error) => Verdict::failed(format!("cannot wait for the command: {error}"), true),
            },
            () = work.stopped() => {
                running.stop().await;
                Verdict::HandBack("the agent was stopped".into())
            }
        }
    }
}

/// What the end of a program means for the task that it was given, for whoever runs programs
/// in another way than [`CommandHandler`]. Of the outputs the end is enough: 1 MiB of the one,
/// 4 KiB of the other.
pub fn conclude(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Verdict {
    let tail = |bytes, cap| {
        let mut tail = Tail::new(cap);
        tail.push(bytes);
        tail
    };
    let (stdout, stderr) = (tail(stdout, STDOUT_KEPT), tail(stderr, STDERR_KEPT));
    verdict(&Finished { status, stdout, stderr })
}

fn verdict(finished: &Finished) -> Verdict {
    if finished.status.success() {
        return result(&finished.stdout);
    }
    let retryable = finished.status.code() != Some(EX_DATAERR);
    let error = Json::of(&failure(finished.status, &finished.stderr));
    Verdict::Failed { error, retryable }
}

fn result(stdout: &Tail) -> Verdict {
    let Some((line, whole)) = stdout.last_line() else { return Verdict::Done(Json::null()) };
    let text = std::str::from_utf8(line).ok().filter(|_| whole);
    match text.map(Json::parse) {
        Some(Ok(json)) if json.as_str().len() > MAX_VALUE_BYTES => {
            let size = json.as_str().len();
            let message = format!(
                "the result has {size} bytes; at most {MAX_VALUE_BYTES} are taken: \
                 store it elsewhere and answer with where"
            );
            Verdict::failed(message, false)
        }
        Some(Ok(json)) => Verdict::Done(json),
        Some(Err(_)) | None => {
            let text = stdout.text(TEXT_KEPT);
            let mut kept = serde_json::json!({ "stdout": text.trim_end() });
            if stdout.exceeds(TEXT_KEPT) {
                kept["truncated"] = true.into();
            }
            Verdict::Done(Json::of(&kept))
        }
    }
}

fn failure(status: ExitStatus, stderr: &Tail) -> Value {
    let stderr = stderr.text(ERROR_KEPT);
    let stderr = stderr.trim_end();
    let last = stderr.lines().next_back().map(str::trim).filter(|line| !line.is_empty());
    let mut error = Map::new();
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => {
            error.insert("exit_code".into(), code.into());
            format!("exit code {code}")
        }
        (None, Some(signal)) => {
            error.insert("signal".into(), signal.into());
            format!("killed by signal {signal}")
        }
        (None, None) => "ended without a status".into(),
    };
    let message = last.map_or(how.clone(), |last| format!("{how}: {last}"));
    error.insert("message".into(), message.into());
    error.insert("stderr".into(), stderr.into());
    Value::Object(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(raw_status: i32, stdout: &[u8], stderr: &[u8]) -> Finished {
        let mut finished = Finished {
            status: ExitStatus::from_raw(raw_status),
            stdout: Tail::new(1 << 20),
            stderr: Tail::new(4096),
        };
        finished.stdout.push(stdout);
        finished.stderr.push(stderr);
        finished
    }

    fn done(stdout: &[u8]) -> String {
        let Verdict::Done(json) = verdict(&finished(0, stdout, b"")) else { panic!("not done") };
        json.as_str().to_owned()
    }

    #[test]
    fn the_last_line_on_stdout_is_the_result_when_it_is_json() {
        assert_eq!(done(b"working\n{\"sum\": 3}\n"), r#"{"sum":3}"#);
        assert_eq!(done(b"42"), "42");
        assert_eq!(done(b"\"text\"\n\n"), "\"text\"");
        assert_eq!(done(b"1e400\n"), "1e400", "numbers stay as they are written");
    }

    #[test]
    fn other_text_is_kept_and_no_output_is_null() {
        assert_eq!(done(b""), "null");
        assert_eq!(done(b"\n \n"), "null");
        assert_eq!(done(b"all\nwell\n"), r#"{"stdout":"all\nwell"}"#);
        assert_eq!(done(b"\xff\0\n"), "{\"stdout\":\"\u{fffd}\u{fffd}\"}");
    }

    #[test]
    fn output_without_end_gives_a_result_that_the_server_takes() {
        let endless = vec![b'\x01'; 3 << 20];
        assert!(done(&endless).len() < MAX_VALUE_BYTES);
        let mut large = vec![b'"'];
        large.extend(vec![b'x'; MAX_VALUE_BYTES]);
        large.extend(b"\"\n");
        let verdict = verdict(&finished(0, &large, b""));
        assert!(matches!(verdict, Verdict::Failed { retryable: false, .. }), "{verdict:?}");
    }

    fn failed(raw_status: i32, stderr: &[u8]) -> (Value, bool) {
        let verdict = verdict(&finished(raw_status, b"{}", stderr));
        let Verdict::Failed { error, retryable } = verdict else { panic!("{verdict:?}") };
        (error.read().unwrap(), retryable)
    }

    #[test]
    fn a_code_or_a_signal_fails_the_attempt_with_the_tail_of_stderr() {
        let (error, retryable) = failed(1 << 8, b"first\nboom\n");
        assert!(retryable);
        assert_eq!(error["exit_code"], 1);
        assert_eq!(error["message"], "exit code 1: boom");
        assert_eq!(error["stderr"], "first\nboom");
        let (error, retryable) = failed(9, b"");
        assert!(retryable);
        assert_eq!(
            (&error["signal"], &error["message"]),
            (&9.into(), &"killed by signal 9".into())
        );
    }

    #[test]
    fn data_error_is_not_tried_again() {
        let (error, retryable) = failed(65 << 8, b"bad input");
        assert!(!retryable);
        assert_eq!(error["exit_code"], 65);
    }

    #[test]
    fn a_long_stderr_is_cut() {
        let (error, _) = failed(1 << 8, &vec![b'e'; 100_000]);
        assert_eq!(error["stderr"].as_str().unwrap().len(), ERROR_KEPT);
    }
}
