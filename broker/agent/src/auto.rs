//! NATS when it can be reached, else the gateway: the same agent over either, changed over
//! with work under way. What was asked on the way that is left is asked again on the other,
//! under the same command id.

use std::sync::Arc;
use std::time::Duration;

use domain::frame::{Attach, ClaimedFrame, CommandFrame, Listen};
use domain::task::ClaimTasks;
use domain::{AgentId, Outcome};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::Error;
use crate::line::Line;
use crate::nats::Nats;
use crate::transport::{Failed, Heard, Link, Said, Transport};

/// How long NATS may be gone before the gateway is used: a server that starts again is back
/// within three seconds, and changing over twice is no gain.
const GRACE: Duration = Duration::from_secs(2);
/// How long NATS must be back before it is used again.
const STEADY: Duration = Duration::from_secs(1);

/// Which way is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Nats,
    Gateway,
}

/// Both ways, one of them in use.
#[derive(Debug)]
pub(crate) struct Auto {
    nats: Nats,
    line: Arc<Line>,
    way: watch::Receiver<Way>,
    link: watch::Receiver<Link>,
    helpers: [AbortHandle; 2],
}

impl Drop for Auto {
    fn drop(&mut self) {
        self.helpers.iter().for_each(AbortHandle::abort);
    }
}

impl Auto {
    /// Takes NATS, or the gateway where NATS does not answer soon.
    ///
    /// # Errors
    /// When neither can be reached in time.
    pub(crate) async fn begin(nats: Nats, line: Line, within: Duration) -> Result<Self, Error> {
        let line = Arc::new(line);
        let deadline = Instant::now() + within;
        let mut nats_link = nats.link();
        let soon = timeout(GRACE, until(&mut nats_link, true)).await;
        let mut way = Way::Nats;
        if !soon.unwrap_or(false) {
            line.rest(false);
            // Whichever comes first.
            way = tokio::select! {
                reached = line.reached(within) => match reached {
                    Ok(()) => Way::Gateway,
                    Err(error) => {
                        let mut link = nats.link();
                        let late = timeout_at(deadline, until(&mut link, true)).await;
                        if !late.unwrap_or(false) {
                            return Err(error);
                        }
                        Way::Nats
                    }
                },
                true = until(&mut nats_link, true) => Way::Nats,
            };
            line.rest(way == Way::Nats);
        }
        let ways = watch::Sender::new(way);
        let seen = ways.subscribe();
        let (both, link) = watch::channel(Link { up: true, made: 0 });
        let joined = tokio::spawn(join(nats.link(), line.link(), seen.clone(), both));
        let steering = tokio::spawn(steer(nats.link(), Arc::clone(&line), ways));
        let helpers = [joined.abort_handle(), steering.abort_handle()];
        Ok(Self { nats, line, way: seen, link, helpers })
    }

    fn now(&self) -> &dyn Transport {
        match *self.way.borrow() {
            Way::Nats => &self.nats,
            Way::Gateway => &*self.line,
        }
    }

    /// Does it on the present way, and gives up when that is left.
    async fn here<'a, T>(
        &'a self,
        work: impl FnOnce(&'a dyn Transport) -> BoxFuture<'a, Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let mut way = self.way.clone();
        way.mark_unchanged();
        let changed = async {
            if way.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            done = work(self.now()) => done,
            () = changed => Err(Failed::Passing("the way to the server has changed".into())),
        }
    }
}

/// Waits until the link is up or down; false when there is nobody to make it so.
async fn until(link: &mut watch::Receiver<Link>, up: bool) -> bool {
    link.wait_for(|link| link.up == up).await.is_ok()
}

/// Decides on the way, for ever.
async fn steer(mut nats: watch::Receiver<Link>, line: Arc<Line>, way: watch::Sender<Way>) {
    loop {
        let present = *way.borrow();
        match present {
            Way::Nats => {
                if !until(&mut nats, false).await {
                    return;
                }
                if timeout(GRACE, until(&mut nats, true)).await.is_ok() {
                    continue;
                }
                line.rest(false);
                // Of two ways that are both gone, the better one.
                let mut link = line.link();
                tokio::select! {
                    _ = until(&mut nats, true) => line.rest(true),
                    _ = until(&mut link, true) => {
                        tracing::info!("NATS is out of reach: going on through the gateway");
                        way.send_replace(Way::Gateway);
                    }
                }
            }
            Way::Gateway => {
                if !until(&mut nats, true).await {
                    return;
                }
                if timeout(STEADY, until(&mut nats, false)).await.is_ok() {
                    continue;
                }
                tracing::info!("NATS is back");
                way.send_replace(Way::Nats);
                // What is under way has been given up by now, and says so before the end.
                sleep(Duration::from_millis(50)).await;
                line.rest(true);
            }
        }
    }
}

/// One link of two: that of the way in use, made anew with either.
async fn join(
    mut nats: watch::Receiver<Link>,
    mut line: watch::Receiver<Link>,
    mut way: watch::Receiver<Way>,
    both: watch::Sender<Link>,
) {
    let mut changes = 0;
    loop {
        let (one, other) = (*nats.borrow_and_update(), *line.borrow_and_update());
        let up = match *way.borrow_and_update() {
            Way::Nats => one.up,
            Way::Gateway => other.up,
        };
        let link = Link { up, made: one.made + other.made + changes };
        both.send_if_modified(|known| std::mem::replace(known, link) != link);
        tokio::select! {
            changed = nats.changed() => if changed.is_err() { return },
            changed = line.changed() => if changed.is_err() { return },
            changed = way.changed() => {
                changes += 1;
                if changed.is_err() { return }
            }
        }
    }
}

impl Transport for Auto {
    fn attach(&self, agent: AgentId) -> BoxFuture<'_, Result<bool, Error>> {
        async move {
            self.line.remember(Attach { agent, listen: vec![], ask: false }, None);
            self.now().attach(agent).await
        }
        .boxed()
    }

    /// On NATS in any case, whose client keeps it for when the server is back. While both
    /// are listened to a push may come twice; whoever takes it knows it by its lease.
    fn listen(
        &self,
        agent: AgentId,
        listen: Vec<Listen>,
        heard: mpsc::Sender<Heard>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let attach = Attach { agent, listen: listen.clone(), ask: false };
            self.line.remember(attach, Some(heard.clone()));
            if *self.way.borrow() == Way::Gateway {
                self.line.listen(agent, listen.clone(), heard.clone()).await?;
            }
            self.nats.listen(agent, listen, heard).await
        }
        .boxed()
    }

    fn ask<'a>(
        &'a self,
        agent: AgentId,
        command: &'a CommandFrame,
        within: Duration,
    ) -> BoxFuture<'a, Result<Outcome, Failed>> {
        self.here(move |way| way.ask(agent, command, within)).boxed()
    }

    fn claim<'a>(
        &'a self,
        queue: &'a str,
        claim: &'a ClaimTasks,
        within: Duration,
    ) -> BoxFuture<'a, Result<ClaimedFrame, Failed>> {
        self.here(move |way| way.claim(queue, claim, within)).boxed()
    }

    fn say(&self, agent: AgentId, said: Said) -> BoxFuture<'_, ()> {
        self.now().say(agent, said)
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn limit(&self) -> usize {
        self.now().limit()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.now().flush()
    }
}
