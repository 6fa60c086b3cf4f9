//! Running the helper programs of the search, bounded in time.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Runs a command to its end and returns its stdout; the error is one line fit for a table.
pub(super) fn output(command: &mut Command, limit: Duration) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            format!("{name} is not installed")
        } else {
            format!("cannot run {name}: {error}")
        }
    })?;
    // Both pipes are drained by threads: a full one would block the program for ever.
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, limit).map_err(|reason| format!("{name} {reason}"))?;
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    if status.success() {
        return Ok(stdout);
    }
    let words = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    // Tools put the cause in a line that says so; else the last line is the best guess.
    let cause = words.clone().rfind(|line| line.to_ascii_lowercase().starts_with("error"));
    Err(match cause.or_else(|| words.clone().next_back()) {
        Some(line) => format!("{name}: {}", line.chars().take(300).collect::<String>()),
        None => format!("{name} ended with {status}"),
    })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            drop(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                drop(child.kill());
                drop(child.wait());
                return Err(format!("took longer than {limit:?}"));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn the_reason_of_a_failure_is_one_line() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo 'ERROR: no such hash' >&2; echo bye >&2; exit 1"]);
        assert_eq!(output(&mut failing, SOON).unwrap_err(), "sh: ERROR: no such hash");

        let missing = output(&mut Command::new("no-such-program"), SOON).unwrap_err();
        assert_eq!(missing, "no-such-program is not installed");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let limit = Duration::from_millis(50);
        let reason = output(Command::new("sleep").arg("60"), limit).unwrap_err();
        assert!(reason.contains("longer than 50ms"), "{reason}");
    }
}
