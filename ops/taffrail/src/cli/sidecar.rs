//! `taffrail agent run`: a command as an agent.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, CommandHandler, Control, Notice, Options, Route, Server};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

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
its environment. SIGTERM or Ctrl-C: running tasks may finish, a second time hands them back.
SIGUSR1: look for work at once.

A process that was started as an agent by somebody else takes TAFFRAIL_AGENT_NAME,
TAFFRAIL_AGENT_ID, TAFFRAIL_TENANT, TAFFRAIL_NATS_URL with TAFFRAIL_NATS_TOKEN_FILE, or
TAFFRAIL_AGENT_SOCKET from its environment.")]
pub struct RunArgs {
    /// Unique among the agents; the same name again is the same agent
    #[arg(long, env = "TAFFRAIL_AGENT_NAME")]
    name: String,
    /// How to reach the server
    #[arg(long, value_enum, default_value_t)]
    via: Via,
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
    #[arg(long, default_value = "default", env = "TAFFRAIL_TENANT", value_parser = token)]
    tenant: String,
    /// How often it gives a sign of life: seconds, or such as 500ms, 5s, 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = period)]
    heartbeat: Duration,
    /// A command for the shell, run whenever it is woken
    #[arg(long, value_name = "COMMAND")]
    wake: Option<String>,
    /// Look for work once, do it and end
    #[arg(long, conflicts_with = "rounds")]
    once: bool,
    /// Look for work so many times in each queue, do it and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long one look for work waits for some
    #[arg(long, value_name = "SECONDS", default_value = "6", value_parser = seconds)]
    claim_wait: Duration,
    /// Where answers are kept that cannot be delivered [default: agents/ in the data folder]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Keep them in memory alone
    #[arg(long, conflicts_with = "journal")]
    no_journal: bool,
    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How an agent reaches the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// NATS, and the gateway's WebSocket while NATS is out of reach; or a node's socket
    #[default]
    Auto,
    /// NATS alone
    Nats,
    /// The gateway's WebSocket alone
    Ws,
}

/// `500ms`, `5s`, `1m`, or seconds.
fn period(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a time such as 500ms, 5s or 1m is expected".into()),
    };
    let period = Duration::try_from_secs_f64(seconds(number)?.as_secs_f64() * scale);
    let period = period.map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(250)..=Duration::from_secs(600);
    if bounds.contains(&period) { Ok(period) } else { Err("250ms to 10m".into()) }
}

fn route(app: &App, via: Via) -> Result<Route, Failure> {
    let server = |server: discover::Server| Server { url: server.url, token: server.token };
    let socket = std::env::var_os("TAFFRAIL_AGENT_SOCKET").filter(|path| !path.is_empty());
    Ok(match (via, socket) {
        (Via::Auto, Some(path)) => Route::Socket(path.into()),
        (Via::Auto, None) => match discover::both(&app.globals)? {
            (Some(nats), Some(gateway)) => {
                Route::Auto { nats: server(nats), gateway: server(gateway) }
            }
            (Some(nats), None) => Route::Nats(server(nats)),
            (None, Some(gateway)) => Route::Gateway(server(gateway)),
            (None, None) => return Err(Failure::NoServer("TAFFRAIL_NATS_URL")),
        },
        (Via::Nats, _) => Route::Nats(server(discover::nats(&app.globals)?)),
        (Via::Ws, _) => Route::Gateway(server(discover::http(&app.globals)?)),
    })
}

/// Where answers are kept; a folder that nobody named and that cannot be made is no reason
/// not to work.
fn journal(app: &App, args: &RunArgs) -> Option<PathBuf> {
    if args.no_journal {
        return None;
    }
    args.journal.clone().or_else(|| {
        let folder = app.globals.data_dir.clone().unwrap_or_else(discover::default_data_dir);
        let folder = folder.join("agents");
        match std::fs::create_dir_all(&folder) {
            Ok(()) => Some(folder),
            Err(error) => {
                eprintln!("answers are kept in memory alone: {}: {error}", folder.display());
                None
            }
        }
    })
}

/// Runs it until it is told to end.
pub async fn run(app: &App, args: RunArgs) -> Result<(), Failure> {
    if !args.command.first().is_some_and(|program| is_there(Path::new(program))) {
        let program = args.command.first().map(|p| p.display().to_string()).unwrap_or_default();
        return Err(Failure::Usage(format!("there is no program `{program}`")));
    }
    let route = route(app, args.via)?;
    let journal = journal(app, &args);
    let mut options = Options::from_env(args.name.clone())?;
    // The variable is the flag's default: what was given outweighs it.
    options.description.name = args.name;
    options.heartbeat = args.heartbeat;
    options.rounds = if args.once { Some(1) } else { args.rounds };
    options.claim_wait = args.claim_wait;
    options.journal = journal;
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

    let connecting = Agent::over(route, options);
    let mut agent = tokio::select! {
        agent = connecting => agent?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
    };
    let out = app.out;
    let woken = Arc::new(Notify::new());
    let waking = args.wake.map(|command| tokio::spawn(on_wake(command, Arc::clone(&woken))));
    agent.on_notice(move |notice| {
        if matches!(notice, Notice::Woken) {
            woken.notify_one();
        }
        tell(&out, notice);
    });
    let signals = tokio::spawn(obey_signals(agent.control(), drain));
    let handler = CommandHandler::new(args.command).launched_by(exec::launcher());
    let ended = agent.run(handler).await;
    signals.abort();
    waking.inspect(tokio::task::JoinHandle::abort);
    ended?;
    Ok(())
}

/// Runs the command of `--wake`, one at a time; words that come meanwhile are one.
async fn on_wake(command: String, woken: Arc<Notify>) {
    loop {
        woken.notified().await;
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", &command]).stdin(std::process::Stdio::null()).kill_on_drop(true);
        // What it prints must not stand among the objects on our stdout.
        shell.stdout(std::io::stderr());
        match shell.status().await {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!(%status, "the command of --wake failed"),
            Err(error) => tracing::warn!(%error, "the command of --wake cannot be run"),
        }
    }
}

/// The first signal drains, the second hands back; SIGUSR1 wakes.
async fn obey_signals(control: Control, drain: Duration) {
    let (Ok(mut term), Ok(mut int), Ok(mut usr1)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::user_defined1()),
    ) else {
        return;
    };
    let mut first = true;
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = usr1.recv() => {
                control.wake();
                continue;
            }
        }
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
        Notice::Kept(task) => {
            let kept =
                paint("is answered; the answer is kept until the server is back", Paint::Yellow);
            format!("task {} {kept}", task.task_id)
        }
        Notice::Delivered { task_id, command, refused: None } => {
            format!("task {task_id} {command} delivered")
        }
        Notice::Delivered { task_id, command, refused: Some(why) } => {
            paint(&format!("task {task_id} {command} came too late: {why}"), Paint::Yellow)
        }
        Notice::Woken => "woken".into(),
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
        Notice::Kept(task) => {
            json!({ "task": "kept", "task_id": task.task_id, "attempt": task.attempt })
        }
        Notice::Delivered { task_id, command, refused } => json!({
            "task": "delivered",
            "task_id": task_id,
            "command": command,
            "refused": refused,
        }),
        Notice::Woken => json!({ "agent": "woken" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_written_in_the_usual_units() {
        assert_eq!(period("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(period("2.5"), Ok(Duration::from_millis(2_500)));
        assert_eq!(period("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(period("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "s", "5h", "-1s", "1ms", "11m", "5 s"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        assert!(is_there(Path::new("sh")));
        assert!(is_there(Path::new("/bin/sh")));
        assert!(!is_there(Path::new("no-such-program-here")));
        assert!(!is_there(Path::new("/bin")), "a folder is no program");
    }
}
