//! What is said when something did not work.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use domain::{Code, Problem};
use serde_json::json;

use super::exit::Exit;
use super::out::Output;

/// Why a verb of the CLI did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server said no, or did not say anything.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The agent's wire.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// The command line or the input is at fault.
    #[error("{0}")]
    Usage(String),
    /// No server is known.
    #[error("no running Taffrail found; start one with `taffrail up` or set {0}")]
    NoServer(&'static str),
    /// What was awaited came to a bad end; it has been printed.
    #[error("{0}")]
    BadEnd(String),
    /// Reading or writing on this machine.
    #[error("{what}: {source}")]
    Io {
        /// What was read or written.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever reads our output has had enough.
    #[error("the output was closed")]
    Pipe,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// Writing to stdout; a closed pipe is no fault.
    pub fn writing(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::Pipe;
        }
        Self::Io { what: "cannot write the output".into(), source }
    }

    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(client::Error::Refused(problem)) => Exit::of_status(problem.status),
            Self::Client(client::Error::Unexpected { status, .. }) => {
                let exit = Exit::of_status(*status);
                let known = matches!(exit, Exit::Unauthorized | Exit::Unreachable);
                if known { exit } else { Exit::Broken }
            }
            Self::Client(client::Error::Unreachable { .. } | client::Error::TimedOut { .. }) => {
                Exit::Unreachable
            }
            Self::Client(client::Error::Address(_) | client::Error::Token) | Self::Usage(_) => {
                Exit::Usage
            }
            Self::Client(client::Error::FrameTooLong(_)) | Self::Io { .. } => Exit::Broken,
            Self::Agent(agent::Error::Refused { problem, .. }) => Exit::of_status(problem.status),
            Self::Agent(agent::Error::Connect { source, .. }) => {
                use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
                let refused = matches!(source.kind(), AuthorizationViolation | Authentication);
                if refused { Exit::Unauthorized } else { Exit::Unreachable }
            }
            Self::Agent(agent::Error::Unanswered { .. } | agent::Error::Unreachable { .. })
            | Self::NoServer(_) => Exit::Unreachable,
            Self::Agent(agent::Error::Denied { .. }) => Exit::Unauthorized,
            Self::Agent(agent::Error::Variable { .. }) => Exit::Usage,
            Self::Agent(
                agent::Error::Subscribe { .. }
                | agent::Error::TooLarge { .. }
                | agent::Error::Malformed { .. }
                | agent::Error::File { .. },
            ) => Exit::Broken,
            Self::Agent(agent::Error::Running { .. }) | Self::BadEnd(_) => Exit::Refused,
            Self::Pipe => Exit::Ok,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// Says it on stderr; as a problem document where the output is for programs.
    pub fn report(&self, output: Output) {
        if !matches!(self, Self::Pipe | Self::Interrupted) {
            match output {
                Output::Table | Output::Yaml => eprintln!("error: {}", self.text()),
                Output::Json | Output::Jsonl => eprintln!("{}", self.document()),
            }
        }
    }

    fn problem(&self) -> Option<&Problem> {
        if let Self::Client(client::Error::Refused(problem))
        | Self::Agent(agent::Error::Refused { problem, .. }) = self
        {
            return Some(problem);
        }
        None
    }

    fn document(&self) -> serde_json::Value {
        match self.problem() {
            Some(problem) => json!(problem),
            None => json!({
                "type": "about:blank",
                "title": self.chain(),
                "exit_code": self.exit().code(),
            }),
        }
    }

    /// The error with its causes.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                let _ = write!(text, ": {said}");
            }
            cause = error.source();
        }
        text
    }

    pub(super) fn text(&self) -> String {
        let mut text = match self.problem() {
            Some(problem) => told(problem),
            None => self.chain(),
        };
        if let Some(hint) = self.hint() {
            let _ = write!(text, "\n  {hint}");
        }
        text
    }

    fn hint(&self) -> Option<&'static str> {
        if matches!(self, Self::Client(client::Error::Unreachable { .. })) {
            return Some("is `taffrail up` running? --url or TAFFRAIL_URL names another server");
        }
        if matches!(self, Self::Agent(agent::Error::Connect { .. })) {
            if self.exit() == Exit::Unauthorized {
                return Some("give the token with --nats-token or TAFFRAIL_NATS_TOKEN");
            }
            return Some(
                "is `taffrail up` running? --nats-url or TAFFRAIL_NATS_URL names another server",
            );
        }
        let hints: [(&[Code], &str); 4] = [
            (
                &[Code::Unauthorized],
                "give a token with --token or TAFFRAIL_TOKEN; `taffrail up` prints the first one",
            ),
            (
                &[Code::Busy, Code::RateLimited, Code::Unavailable, Code::NotYetVisible],
                "try again in a moment",
            ),
            (&[Code::IdempotencyMismatch], "use a new key for a new request"),
            (&[Code::Internal], "the server's log has more; trace_id finds the line"),
        ];
        let code = self.problem()?.code()?;
        hints.iter().find(|(codes, _)| codes.contains(&code)).map(|(_, hint)| *hint)
    }
}

/// Title, detail, the faulty fields and what would be possible.
fn told(problem: &Problem) -> String {
    let mut text = problem.title.clone();
    let single = matches!(&problem.errors[..], [only] if only.message == problem.detail);
    if !problem.detail.is_empty() && !single {
        let _ = write!(text, ": {}", problem.detail);
    }
    for field in &problem.errors {
        let pointer = if field.pointer.is_empty() { "(body)" } else { &field.pointer };
        let _ = write!(text, "\n  {pointer}: {}", field.message);
    }
    if !problem.allowed.is_empty() && !problem.detail.contains(&problem.allowed.join(", ")) {
        let _ = write!(text, "\n  possible now: {}", problem.allowed.join(", "));
    }
    if let Some(id) = problem.conflicting_id {
        let _ = write!(text, "\n  held by {id}");
    }
    if let Some(trace) = &problem.trace_id {
        let _ = write!(text, "\n  trace_id {trace}");
    }
    super::table::printable(&text, true)
}

#[cfg(test)]
mod tests {
    use domain::FieldError;

    use super::*;

    fn refused(problem: Problem) -> Failure {
        Failure::Client(client::Error::Refused(Box::new(problem)))
    }

    #[test]
    fn a_refusal_says_what_is_wrong_where_and_what_to_do() {
        let fields = vec![
            FieldError::new("/titel", "unknown_field", "unknown field; did you mean `title`?"),
            FieldError::new("/priority", "unknown_value", "critical, high, normal …"),
        ];
        let failure = refused(Problem { detail: "two faults".into(), ..Problem::invalid(fields) });
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(
            failure.text(),
            "The body does not have the documented shape: two faults\n  \
             /titel: unknown field; did you mean `title`?\n  /priority: critical, high, normal …"
        );
        let failure = refused(Problem::new(Code::Unauthorized, ""));
        assert!(failure.text().contains("--token"), "{}", failure.text());
    }

    #[test]
    fn for_programs_the_problem_is_passed_on_as_it_is() {
        let problem = Problem::new(Code::NotFound, "there is no such task");
        assert_eq!(refused(problem.clone()).document(), json!(problem));
        let document = Failure::NoServer("TAFFRAIL_URL").document();
        assert_eq!(document["exit_code"], 4);
    }

    #[test]
    fn a_closed_pipe_is_success() {
        let closed = Failure::writing(io::ErrorKind::BrokenPipe.into());
        assert_eq!(closed.exit(), Exit::Ok);
    }
}
