//! `taffrail agent run`: a command as an agent.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use agent::{Agent, CommandHandler, Control, Notice, Options};
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::fail::Failure;
use super::human::duration;
use super::out::{Output, Printer};
use super::queue::token;
use super::submit::seconds;
use super::table::{Paint, painted, printable};
use super::{App, discover, exec};

/// `taffrail agent run`
#[derive(Debug, Args)]
#[command(after_help = "\
For each task the command gets the assignment as one JSON line on stdin. Its last line on
stdout, when JSON, is the result (other text: {\"stdout\": …}). Exit 0 completes the task, 65
fails it for good, any other code or a signal fails the attempt with the tail of stderr.
It finds TAFFRAIL_TASK_ID, TAFFRAIL_ATTEMPT, TAFFRAIL_AGENT_ID and TAFFRAIL_AGENT_NAME in
its environment. SIGTERM or Ctrl-C: running tasks may finish, a second time hands them back.")]
pub struct RunArgs {
    /// Unique among the agents; the same name again is the same agent
    #[arg(long)]
    name: String,
    /// Something it can do; may be given several times
    #[arg(long = "capability", value_name = "CAPABILITY")]
    capabilities: Vec<String>,
    /// Tasks at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slots: u32,
    /// A queue to take from; may be given several times [default: default, and what is pushed]
    #[arg(long = "queue", value_name = "QUEUE", value_parser = token)]
    queues: Vec<String>,
    /// What it is for
    #[arg(long, default_value = "worker", value_parser = token)]
    role: String,
    /// How long a task stays ours when we fall silent, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=86_400_000))]
    lease_ms: u64,
    /// How long running tasks may go on after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    drain_timeout: Duration,
    /// Whose agent it is
    #[arg(long, default_value = "default", value_parser = token)]
    tenant: String,
    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs it until it is told to end.
pub async fn run(app: &App, args: RunArgs) -> Result<(), Failure> {
    if !args.command.first().is_some_and(|program| is_there(Path::new(program))) {
        let program = args.command.first().map(|p| p.display().to_string()).unwrap_or_default();
        return Err(Failure::Usage(format!("there is no program `{program}`")));
    }
    let server = discover::nats(&app.globals)?;
    let mut options = Options::named(args.name);
    options.tenant = domain::TenantId::parse(&args.tenant)
        .ok_or_else(|| Failure::Usage("the tenant is no slug".into()))?;
    options.description.capabilities = args.capabilities;
    options.description.slots = args.slots;
    options.description.role = args.role;
    options.description.version = Some(env!("CARGO_PKG_VERSION").into());
    options.queues = args.queues;
    options.lease = Duration::from_millis(args.lease_ms);
    options.drain = args.drain_timeout;
    let drain = options.drain;

    let connecting = Agent::connect(&server.url, server.token.as_deref(), options);
    let mut agent = tokio::select! {
        agent = connecting => agent?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
    };
    let out = app.out;
    agent.on_notice(move |notice| tell(&out, notice));
    let signals = tokio::spawn(obey_signals(agent.control(), drain));
    let handler = CommandHandler::new(args.command).launched_by(exec::launcher());
    let ended = agent.run(handler).await;
    signals.abort();
    ended?;
    Ok(())
}

/// The first signal drains, the second hands back.
async fn obey_signals(control: Control, drain: Duration) {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    let mut first = true;
    loop {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        if std::mem::replace(&mut first, false) {
            control.drain(Some(drain));
        } else {
            control.stop();
        }
    }
}

/// Whether a shell would find it.
fn is_there(program: &Path) -> bool {
    let is_file = |path: &Path| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
    };
    if program.components().count() > 1 || program.is_absolute() {
        return is_file(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_file(&folder.join(program)))
}

/// For people a line on stderr, for programs a JSON object per line on stdout.
fn tell(out: &Printer, notice: Notice<'_>) {
    // Nobody may be reading any more; the work goes on all the same.
    let _ = match out.output {
        Output::Table if out.quiet => Ok(()),
        Output::Table => {
            let colour = out.colour && std::io::stderr().is_terminal();
            writeln!(std::io::stderr(), "{}", words(notice, colour))
        }
        Output::Json | Output::Jsonl | Output::Yaml => {
            writeln!(std::io::stdout(), "{}", object(notice))
        }
    };
}

fn words(notice: Notice<'_>, colour: bool) -> String {
    let paint = |text: &str, paint| painted(&printable(text, false), paint, colour);
    match notice {
        Notice::Ready { id, name } => {
            format!("{} as agent {id}", paint(&format!("{name} is ready"), Paint::Green))
        }
        Notice::Started(task) => {
            let title = printable(&task.title, false);
            format!("task {} attempt {}  {title}", task.task_id, task.attempt)
        }
        Notice::Line(_, line) => paint(&format!("  {line}"), Paint::Dim),
        Notice::Answered { task, how, took, detail } => {
            let how = paint(how, Paint::of(how));
            let detail = detail.map(|d| format!(": {}", printable(d, false))).unwrap_or_default();
            format!("task {} {how} after {}{detail}", task.task_id, duration(took))
        }
        Notice::Lost(task) => {
            let lost = paint("is no longer ours; stopped", Paint::Yellow);
            format!("task {} {lost}", task.task_id)
        }
        Notice::Draining { running: 0 } => "ending".into(),
        Notice::Draining { running } => format!("ending when {running} running tasks have"),
        Notice::Waiting(why) => paint(&format!("waiting for the server: {why}"), Paint::Yellow),
    }
}

fn object(notice: Notice<'_>) -> Value {
    match notice {
        Notice::Ready { id, name } => json!({ "agent": "ready", "agent_id": id, "name": name }),
        Notice::Started(task) => {
            json!({ "task": "started", "task_id": task.task_id, "attempt": task.attempt })
        }
        Notice::Line(task, line) => {
            json!({ "task": "log", "task_id": task.task_id, "attempt": task.attempt, "line": line })
        }
        Notice::Answered { task, how, took, detail } => json!({
            "task": how,
            "task_id": task.task_id,
            "attempt": task.attempt,
            "ms": took.as_millis() as u64,
            "detail": detail,
        }),
        Notice::Lost(task) => {
            json!({ "task": "lost", "task_id": task.task_id, "attempt": task.attempt })
        }
        Notice::Draining { running } => json!({ "agent": "draining", "running": running }),
        Notice::Waiting(why) => json!({ "agent": "waiting", "detail": why }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        assert!(is_there(Path::new("sh")));
        assert!(is_there(Path::new("/bin/sh")));
        assert!(!is_there(Path::new("no-such-program-here")));
        assert!(!is_there(Path::new("/bin")), "a folder is no program");
    }
}
