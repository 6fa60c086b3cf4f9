//! Keeping one server up.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::StartError;
use crate::health::ServerState;
use crate::process::Child;

/// First pause before a restart; each further end within [`WINDOW`] doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A server that ends more often than this within the window has a lasting cause.
const RESTARTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// A server that can be started again and again, at the same address.
pub(crate) trait Launch: Send + Sync + 'static {
    /// Its name in logs and reports.
    const NAME: &'static str;

    /// Starts a child and waits until it answers.
    fn launch(&self) -> impl Future<Output = Result<Child, StartError>> + Send;
}

/// How a server left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// Whether the polite signal was enough (or nothing ran any more).
    pub clean: bool,
    /// From the signal to the end.
    pub took: Duration,
}

/// The handle of a supervised server; dropping it stops the server in the background.
#[derive(Debug)]
pub(crate) struct Supervised {
    orders: mpsc::UnboundedSender<Order>,
    seen: watch::Receiver<Seen>,
}

/// What can be seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: ServerState,
    pub(crate) pid: Option<u32>,
}

enum Order {
    /// Stop and keep down; the supervisor stays.
    Halt(oneshot::Sender<StopReport>),
    /// Stop when running, then start.
    Restart(oneshot::Sender<Result<(), StartError>>),
    Kill,
}

impl Supervised {
    /// Takes over a running child.
    pub(crate) fn start<L: Launch>(launch: L, child: Child) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (view, seen) =
            watch::channel(Seen { state: ServerState::Running, pid: Some(child.pid()) });
        tokio::spawn(Supervisor { launch, inbox, view, ends: VecDeque::new() }.run(child));
        Self { orders, seen }
    }

    pub(crate) fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.seen.borrow().pid
    }

    pub(crate) async fn halt(&self) -> StopReport {
        let (reply, answer) = oneshot::channel();
        drop(self.orders.send(Order::Halt(reply)));
        // Without a supervisor the child is gone too: its handle was dropped with it.
        answer.await.unwrap_or(StopReport { clean: false, took: Duration::ZERO })
    }

    pub(crate) async fn restart(&self, server: &'static str) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        drop(self.orders.send(Order::Restart(reply)));
        answer.await.unwrap_or(Err(StartError::Interrupted { server, doing: "restarting" }))
    }

    pub(crate) fn kill(&self) {
        drop(self.orders.send(Order::Kill));
    }
}

struct Supervisor<L> {
    launch: L,
    inbox: mpsc::UnboundedReceiver<Order>,
    view: watch::Sender<Seen>,
    /// When the child ended unasked, oldest first, within [`WINDOW`].
    ends: VecDeque<Instant>,
}

impl<L: Launch> Supervisor<L> {
    /// Ends when the handle is dropped, with the child stopped.
    async fn run(mut self, child: Child) {
        let mut child = Some(child);
        loop {
            let order = match &child {
                None => self.inbox.recv().await,
                Some(running) => tokio::select! {
                    status = running.ended() => {
                        tracing::warn!(server = L::NAME, %status, "ended unasked");
                        child = None; // before anything is started in its place
                        match self.revive().await {
                            Revived::Running(fresh) => { child = Some(fresh); continue }
                            Revived::GivenUp => continue,
                            Revived::Ordered(order) => order,
                        }
                    }
                    order = self.inbox.recv() => order,
                },
            };
            match order {
                None => {
                    self.stop(child.take()).await;
                    return;
                }
                Some(Order::Halt(reply)) => drop(reply.send(self.stop(child.take()).await)),
                Some(Order::Kill) => {
                    if let Some(running) = &child {
                        running.kill();
                    }
                }
                Some(Order::Restart(reply)) => {
                    self.stop(child.take()).await;
                    self.ends.clear();
                    let started = self.launch.launch().await;
                    drop(reply.send(match started {
                        Ok(fresh) => {
                            self.show(ServerState::Running, Some(fresh.pid()));
                            child = Some(fresh);
                            Ok(())
                        }
                        Err(error) => {
                            self.show(ServerState::Failed(error.to_string()), None);
                            Err(error)
                        }
                    }));
                }
            }
        }
    }

    async fn stop(&self, child: Option<Child>) -> StopReport {
        let started = Instant::now();
        let clean = match &child {
            Some(running) => {
                let (status, signal) = running.stop().await;
                let clean = signal != Signal::QUIT && signal != Signal::KILL;
                if !clean {
                    tracing::warn!(server = L::NAME, %status, "did not stop when asked");
                }
                clean
            }
            None => true,
        };
        self.show(ServerState::Stopped, None);
        StopReport { clean, took: started.elapsed() }
    }

    /// Starts the server again until it stays, an order comes, or it was too often.
    async fn revive(&mut self) -> Revived {
        self.show(ServerState::Restarting, None);
        loop {
            let Some(pause) = pause(&mut self.ends, Instant::now()) else {
                let reason = format!("ended more than {RESTARTS} times in {WINDOW:?}");
                tracing::error!(server = L::NAME, reason, "given up");
                self.show(ServerState::Failed(reason), None);
                return Revived::GivenUp;
            };
            let launch = async {
                tokio::time::sleep(pause).await;
                self.launch.launch().await
            };
            let started = tokio::select! {
                started = launch => started,
                order = self.inbox.recv() => return Revived::Ordered(order),
            };
            match started {
                Ok(fresh) => {
                    tracing::info!(server = L::NAME, pid = fresh.pid(), "started again");
                    self.show(ServerState::Running, Some(fresh.pid()));
                    return Revived::Running(fresh);
                }
                Err(error) if error.retryable() => {
                    tracing::warn!(server = L::NAME, %error, "did not start again");
                }
                Err(error) => {
                    tracing::error!(server = L::NAME, %error, "given up");
                    self.show(ServerState::Failed(error.to_string()), None);
                    return Revived::GivenUp;
                }
            }
        }
    }

    fn show(&self, state: ServerState, pid: Option<u32>) {
        self.view.send_replace(Seen { state, pid });
    }
}

enum Revived {
    Running(Child),
    GivenUp,
    /// The handle spoke (or was dropped) in the meantime.
    Ordered(Option<Order>),
}

/// Notes one more end and says how long to wait before the next start; none means give up.
fn pause(ends: &mut VecDeque<Instant>, now: Instant) -> Option<Duration> {
    while ends.front().is_some_and(|end| now.duration_since(*end) > WINDOW) {
        ends.pop_front();
    }
    let doublings = ends.len();
    if doublings >= RESTARTS {
        return None;
    }
    ends.push_back(now);
    Some(LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow(u32::try_from(doublings).unwrap_or(6))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_the_sixth_end_in_a_minute_gives_up() {
        let mut ends = VecDeque::new();
        let now = Instant::now();
        let pauses: Vec<_> = (0..6).map(|_| pause(&mut ends, now).map(|p| p.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(400), Some(800), Some(1600), None]);

        // Quiet for a minute, and the slate is clean.
        assert_eq!(pause(&mut ends, now + WINDOW * 2), Some(FIRST_PAUSE));
    }
}
