//! The other end of a line of frames: what an agent says on a socket that only it can reach
//! is passed on over NATS, as that agent and as nobody else.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Request, Subject};
use domain::frame::{
    Attach, Attached, ClaimFrame, ClaimedFrame, CommandFrame, ControlFrame, FromAgent, Listen,
    MAX_FRAME_BYTES, ToAgent, within_limit,
};
use domain::ids::is_token;
use domain::{AgentId, Code, FieldError, Json, Outcome, Problem, Status, TenantId, json};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::Error;
use crate::dial::{In, Out, lines};
use crate::nats::{claim_subject, claimed, command_subject, headers, own};

/// How long the server may take to answer a command; the agent repeats it.
const ANSWER: Duration = Duration::from_secs(15);
const CLAIM_SLACK: Duration = Duration::from_secs(4);
/// How long a twin may take to say that it is there.
const TWIN_WAIT: Duration = Duration::from_secs(1);
/// Commands and claims of one line under way at once; further frames wait unread.
const UNDER_WAY: usize = 64;
/// Frames that wait to be written to the agent.
const WAITING: usize = 64;
/// Lines of one agent that are passed on in a second; an agent that prints for ever must not
/// fill the network.
const LINES_PER_SECOND: u32 = 500;
/// Lines of frames that one agent may have open: its own, and one that is being made anew.
const LINES: usize = 4;
/// A frame and the room around it.
const MAX_LINE: usize = MAX_FRAME_BYTES + 1_024;

/// Speaks NATS for one agent that has no way to it. Cheap to clone.
///
/// It is for a process that holds the connection, such as a node's daemon. Whoever can open
/// the socket is the agent: the socket's permissions and the sandbox say who that is.
#[derive(Debug, Clone)]
pub struct Relay {
    client: Client,
    tenant: TenantId,
    agent: AgentId,
}

impl Relay {
    /// A relay for that agent over a connection to NATS.
    pub fn new(client: Client, tenant: TenantId, agent: AgentId) -> Self {
        Self { client, tenant, agent }
    }

    /// Binds a socket (mode 0600, an older one is replaced) and serves whoever connects.
    ///
    /// The socket is there when this returns. Dropping the future ends every line.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn listen_at(&self, path: &Path) -> Result<impl Future<Output = ()> + use<>, Error> {
        let failed = |source| Error::File { path: path.display().to_string(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = bind(path).map_err(failed)?;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, mode).map_err(failed)?;
        let relay = self.clone();
        Ok(async move {
            let mut open = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept(), if open.len() < LINES => match accepted {
                        Ok((socket, _)) => {
                            let relay = relay.clone();
                            open.spawn(async move { relay.serve(socket).await });
                        }
                        Err(error) => {
                            tracing::warn!(%error, "an agent's socket takes nobody");
                            tokio::time::sleep(TWIN_WAIT).await;
                        }
                    },
                    Some(_) = open.join_next() => {}
                }
            }
        })
    }

    /// Serves one line until the agent closes it: a socket, or both ends of a child's stdio
    /// (`tokio::io::join`).
    pub async fn serve(&self, line: impl AsyncRead + AsyncWrite + Send + 'static) {
        let (mut sink, mut stream) = lines(line, MAX_LINE);
        let (out, mut queued) = mpsc::channel::<Out>(WAITING);
        let writing = async {
            while let Some(next) = queued.recv().await {
                if sink.feed(next).await.is_err() {
                    return;
                }
                if queued.is_empty() && sink.flush().await.is_err() {
                    return;
                }
            }
        };
        let mut session = Session {
            relay: self.clone(),
            out,
            room: Arc::new(Semaphore::new(UNDER_WAY)),
            attached: false,
            works: JoinSet::new(),
            claims: HashMap::new(),
            listening: JoinSet::new(),
            there: Arc::default(),
            window: (Instant::now(), 0, 0),
        };
        let reading = async {
            while let Some(next) = stream.next().await {
                match next {
                    // A blank line asks for one.
                    Ok(In::Alive) => {
                        let _ = session.out.try_send(Out::Ping);
                    }
                    Ok(In::Frame(text)) => {
                        if let Err(problem) = session.hear(&text).await {
                            say(&session.out, &ToAgent::Problem(problem)).await;
                        }
                    }
                    Err(why) => return tracing::debug!(why, "an agent's line broke"),
                }
                while session.works.try_join_next().is_some() {}
            }
        };
        tokio::select! { () = writing => {}, () = reading => {} }
    }
}

/// One line of an agent.
struct Session {
    relay: Relay,
    out: mpsc::Sender<Out>,
    room: Arc<Semaphore>,
    attached: bool,
    works: JoinSet<()>,
    claims: HashMap<u64, AbortHandle>,
    listening: JoinSet<()>,
    there: Arc<There>,
    /// Log lines: since when, how many, how many left out.
    window: (Instant, u32, u64),
}

/// Questions whether the agent is there, and who asked.
#[derive(Debug, Default)]
struct There {
    next: AtomicU64,
    asked: std::sync::Mutex<HashMap<u64, Subject>>,
}

impl There {
    fn ask(&self, asker: Subject) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut asked = self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Whoever asked before has stopped waiting.
        asked.retain(|old, _| old + 8 > number);
        asked.insert(number, asker);
        number
    }

    fn answer(&self, number: u64) -> Option<Subject> {
        self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&number)
    }
}

async fn say(out: &mpsc::Sender<Out>, frame: &ToAgent) {
    if let Ok(text) = serde_json::to_string(frame) {
        // A closed line takes its session along.
        let _ = out.send(Out::Frame(text)).await;
    }
}

impl Session {
    async fn hear(&mut self, text: &str) -> Result<(), Problem> {
        let frame = json::read(text.as_bytes()).map_err(|fault| Problem::invalid(vec![fault]))?;
        if !self.attached && !matches!(frame, FromAgent::Attach(_)) {
            let detail = "the first frame is `attach`";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        match frame {
            FromAgent::Attach(attach) => self.attach(attach).await,
            FromAgent::Command(command) => self.command(command).await,
            FromAgent::Claim(claim) => self.claim(claim).await,
            FromAgent::GiveUp(reference) => {
                if let Some(claim) = self.claims.remove(&reference) {
                    claim.abort();
                }
                Ok(())
            }
            FromAgent::Heartbeat(body) => {
                self.publish("heartbeat", body).await;
                Ok(())
            }
            FromAgent::Log(line) => {
                self.log(&line).await;
                Ok(())
            }
            FromAgent::Here(number) => {
                if let Some(asker) = self.there.answer(number) {
                    let _ = self.relay.client.publish(asker, Default::default()).await;
                }
                Ok(())
            }
        }
    }

    async fn attach(&mut self, attach: Attach) -> Result<(), Problem> {
        let Relay { client, tenant, agent } = self.relay.clone();
        if attach.agent != agent {
            let detail = format!("this socket is agent {agent}'s");
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let control = own(&tenant, agent, "control");
        let answered = attach.ask && {
            let ask = Request::new().payload(Default::default()).timeout(Some(TWIN_WAIT));
            client.send_request(control.clone(), ask).await.is_ok()
        };
        self.listening.shutdown().await;
        let away = |_| Problem::new(Code::Unavailable, "NATS takes no subscription");
        for what in attach.listen {
            let (out, client) = (self.out.clone(), client.clone());
            match what {
                Listen::Tasks => {
                    let tasks = own(&tenant, agent, "tasks");
                    let mut tasks = client.subscribe(tasks).await.map_err(away)?;
                    self.listening.spawn(async move {
                        while let Some(message) = tasks.next().await {
                            // An empty one is a probe; a subscription is answer enough.
                            if let Ok(task) = serde_json::from_slice(&message.payload) {
                                say(&out, &ToAgent::Task(task)).await;
                            }
                        }
                    });
                }
                Listen::Control => {
                    let mut words = client.subscribe(control.clone()).await.map_err(away)?;
                    let there = Arc::clone(&self.there);
                    self.listening.spawn(async move {
                        while let Some(message) = words.next().await {
                            let frame = match (message.payload.is_empty(), message.reply) {
                                (true, Some(asker)) => ToAgent::There(there.ask(asker)),
                                (true, None) => continue,
                                (false, _) => {
                                    match serde_json::from_slice::<ControlFrame>(&message.payload) {
                                        Ok(word) => ToAgent::Control(word),
                                        Err(_) => continue,
                                    }
                                }
                            };
                            say(&out, &frame).await;
                        }
                    });
                }
            }
        }
        // The server knows of the subscriptions before the agent believes in them.
        let _ = timeout(TWIN_WAIT, client.flush()).await;
        self.attached = true;
        let attached = Attached { agent, answered, max_bytes: MAX_FRAME_BYTES };
        say(&self.out, &ToAgent::Attached(attached)).await;
        Ok(())
    }

    async fn command(&mut self, command: CommandFrame) -> Result<(), Problem> {
        if !is_token(&command.command) {
            let fault = FieldError::new("/command/command", "invalid", "no command has this name");
            return Err(Problem::invalid(vec![fault]));
        }
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return Ok(()) };
        let Relay { client, tenant, agent } = self.relay.clone();
        let out = self.out.clone();
        self.works.spawn(async move {
            let subject = command_subject(&tenant, agent, &command);
            let request = Request::new()
                .payload(command.body.as_str().to_owned().into())
                .headers(headers(&command))
                .timeout(Some(ANSWER));
            let outcome = match client.send_request(subject, request).await {
                Ok(reply) => serde_json::from_slice(&reply.payload).ok(),
                Err(_) => None,
            };
            let outcome: Outcome = outcome.unwrap_or_else(|| {
                let problem = Problem::new(Code::Unavailable, "the server gave no answer");
                Outcome::undecided(Status::Busy, command.command_id, command.id, problem)
            });
            say(&out, &ToAgent::Outcome(outcome)).await;
            drop(room);
        });
        Ok(())
    }

    async fn claim(&mut self, claim: ClaimFrame) -> Result<(), Problem> {
        if !is_token(&claim.queue) {
            let fault = FieldError::new("/claim/queue", "invalid", "no queue has this name");
            return Err(Problem::invalid(vec![fault]));
        }
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return Ok(()) };
        let Relay { client, tenant, agent } = self.relay.clone();
        let (out, reference) = (self.out.clone(), claim.reference);
        let work = async move {
            let asked = claim.by(agent);
            let subject = claim_subject(&tenant, agent, &claim.queue);
            // An inbox of its own, gone with this task: see `Nats::claim`.
            let request = Request::new()
                .payload(serde_json::to_vec(&asked).unwrap_or_default().into())
                .inbox(client.new_inbox())
                .timeout(Some(Duration::from_millis(asked.wait_ms) + CLAIM_SLACK));
            let reply = client.send_request(subject, request).await;
            let answer = reply.ok().and_then(|reply| claimed(&reply.payload).ok());
            let answer = answer.unwrap_or_else(|| ClaimedFrame {
                problem: Some(Problem::new(Code::Unavailable, "the server gave no answer")),
                ..ClaimedFrame::default()
            });
            say(&out, &ToAgent::Claimed(ClaimedFrame { reference, ..answer })).await;
            drop(room);
        };
        self.claims.retain(|_, claim| !claim.is_finished());
        self.claims.insert(reference, self.works.spawn(work));
        Ok(())
    }

    async fn publish(&self, word: &str, body: Json) {
        let Relay { client, tenant, agent } = &self.relay;
        let subject = own(tenant, *agent, word);
        let _ = client.publish(subject, body.as_str().to_owned().into()).await;
    }

    /// Passes a line on, cut to the limit; of too many the rest is counted.
    async fn log(&mut self, line: &Json) {
        let (since, sent, left_out) = &mut self.window;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *sent) = (Instant::now(), 0);
        }
        if *sent >= LINES_PER_SECOND {
            *left_out += 1;
            return;
        }
        *sent += 1;
        let line = within_limit(line, std::mem::take(left_out));
        self.publish("log", line).await;
    }
}

/// Binds a socket, however long its path: the kernel takes 107 bytes, so the folder is named
/// by its descriptor.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return UnixListener::bind(path);
    };
    if !cfg!(target_os = "linux") || path.as_os_str().len() < 100 {
        return UnixListener::bind(path);
    }
    let folder = std::fs::File::open(folder)?;
    let short = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder));
    UnixListener::bind(Path::new(&short).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_may_lie_deep() {
        let deep = "deep-".repeat(20);
        let folder = std::env::temp_dir().join(format!("relay-{}", std::process::id())).join(deep);
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("agent.sock");
        assert!(path.as_os_str().len() > 107);
        let _listener = bind(&path).expect("a socket");
        assert!(path.exists());
        std::fs::remove_dir_all(folder.parent().expect("a folder")).expect("removed");
    }
}
