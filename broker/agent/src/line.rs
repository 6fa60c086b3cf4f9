//! The way over frames (`domain::frame`): one line to the gateway or to a node's socket,
//! made again whenever it breaks. What was asked on a line that broke is asked again by
//! whoever asked; what was listened to is listened to again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::frame::{
    Attach, Attached, ClaimFrame, ClaimedFrame, CommandFrame, FromAgent, Listen, MAX_FRAME_BYTES,
    ToAgent,
};
use domain::task::ClaimTasks;
use domain::{AgentId, Outcome, Problem};
use futures::future::{BoxFuture, FutureExt};
use futures::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use uuid::Uuid;

use crate::Error;
use crate::control::Word;
use crate::dial::{Dial, In, Out, Receiving, Refused, Sending};
use crate::transport::{Failed, Heard, Link, Said, Transport, tell};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the other side is asked for a sign of life, and after what silence the line is
/// given up: one that hangs is noticed about as soon as over NATS.
const PING: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(7);
/// How long the answer to `attach` may take; the look for a twin is a second of it.
const ATTACH: Duration = Duration::from_secs(5);
/// Frames that wait to be written; whoever says more waits.
const WAITING: usize = 256;
/// What a frame adds to a command's body.
const FRAME_ROOM: usize = 1_024;

/// A line of frames, kept up until dropped.
#[derive(Debug)]
pub(crate) struct Line {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    dial: Dial,
    state: Mutex<State>,
    link: watch::Sender<Link>,
    /// Nobody wants the line at the moment.
    resting: watch::Sender<bool>,
    /// Why there was no line at the last try.
    refusal: watch::Sender<Option<(String, bool)>>,
    next: AtomicU64,
    limit: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Of the line that is up.
    out: Option<mpsc::Sender<Out>>,
    attach: Option<Attach>,
    attached: Option<oneshot::Sender<Result<Attached, Problem>>>,
    heard: Option<mpsc::Sender<Heard>>,
    commands: HashMap<Uuid, oneshot::Sender<Outcome>>,
    claims: HashMap<u64, oneshot::Sender<ClaimedFrame>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Line {
    /// A line that is made at once, or when it is wanted.
    pub(crate) fn new(dial: Dial, resting: bool) -> Self {
        let shared = Arc::new(Shared {
            dial,
            state: Mutex::default(),
            link: watch::Sender::default(),
            resting: watch::Sender::new(resting),
            refusal: watch::Sender::default(),
            next: AtomicU64::new(1),
            limit: AtomicUsize::new(MAX_FRAME_BYTES),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared))).abort_handle();
        Self { shared, keeper }
    }

    /// Waits for the first connection.
    ///
    /// # Errors
    /// When there is none in time, or we are not let in.
    pub(crate) async fn reached(&self, within: Duration) -> Result<(), Error> {
        let unreachable = |reason| Error::Unreachable { url: self.shared.dial.place(), reason };
        let mut link = self.link();
        let mut refusal = self.shared.refusal.subscribe();
        let refused = async {
            let refused = refusal.wait_for(|r| r.as_ref().is_some_and(|(_, good)| *good)).await;
            refused.ok().and_then(|r| r.clone()).map(|(reason, _)| reason).unwrap_or_default()
        };
        let up = async { link.wait_for(|link| link.up).await.is_ok() };
        tokio::select! {
            up = timeout(within, up) => match up {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => {
                    let last = self.shared.refusal.borrow().clone();
                    Err(unreachable(last.map_or_else(|| "no answer".into(), |(reason, _)| reason)))
                }
            },
            reason = refused => Err(Error::Denied { url: self.shared.dial.place(), reason }),
        }
    }

    /// Lets the line go, or makes it again.
    pub(crate) fn rest(&self, resting: bool) {
        self.shared.resting.send_replace(resting);
    }

    /// What is to be said first on the next line, without saying it now.
    pub(crate) fn remember(&self, attach: Attach, heard: Option<mpsc::Sender<Heard>>) {
        let mut state = self.shared.state();
        state.attach = Some(Attach { ask: false, ..attach });
        if heard.is_some() {
            state.heard = heard;
        }
    }

    /// Says who we are, now and on every line to come.
    async fn attach_as(&self, attach: Attach) -> Result<bool, Error> {
        let what = "the attachment";
        let (sender, answer) = oneshot::channel();
        let asked = Attach { ask: attach.ask, ..attach.clone() };
        {
            let mut state = self.shared.state();
            state.attached = Some(sender);
            state.attach = Some(Attach { ask: false, ..attach });
        }
        if !self.shared.send(&FromAgent::Attach(asked)).await {
            // It is the first frame of the next line.
            return Ok(false);
        }
        match timeout(ATTACH, answer).await {
            Ok(Ok(Ok(attached))) => Ok(attached.answered),
            Ok(Ok(Err(problem))) => {
                Err(Error::Refused { what: what.into(), problem: Box::new(problem) })
            }
            // The line broke; the next one begins with it.
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}

impl Transport for Line {
    fn attach(&self, agent: AgentId) -> BoxFuture<'_, Result<bool, Error>> {
        self.attach_as(Attach { agent, listen: vec![], ask: true }).boxed()
    }

    fn listen(
        &self,
        agent: AgentId,
        listen: Vec<Listen>,
        heard: mpsc::Sender<Heard>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.shared.state().heard = Some(heard);
            self.attach_as(Attach { agent, listen, ask: false }).await.map(|_| ())
        }
        .boxed()
    }

    fn ask<'a>(
        &'a self,
        _: AgentId,
        command: &'a CommandFrame,
        within: Duration,
    ) -> BoxFuture<'a, Result<Outcome, Failed>> {
        async move {
            let (sender, answer) = oneshot::channel();
            self.shared.state().commands.insert(command.command_id, sender);
            let asked = async {
                self.shared.up(within).await?;
                if !self.shared.send(&FromAgent::Command(command.clone())).await {
                    return Err(gone());
                }
                answer.await.map_err(|_| gone())
            };
            let answered = timeout(within, asked).await;
            self.shared.state().commands.remove(&command.command_id);
            answered.unwrap_or_else(|_| Err(Failed::Passing("no answer in time".into())))
        }
        .boxed()
    }

    fn claim<'a>(
        &'a self,
        queue: &'a str,
        claim: &'a ClaimTasks,
        within: Duration,
    ) -> BoxFuture<'a, Result<ClaimedFrame, Failed>> {
        async move {
            let reference = self.shared.next.fetch_add(1, Ordering::Relaxed);
            let (sender, answer) = oneshot::channel();
            self.shared.state().claims.insert(reference, sender);
            // Also when this future is dropped: the server must not keep tasks for nobody.
            let _given_up = GivenUp { shared: &self.shared, reference };
            let asked = async {
                self.shared.up(within).await?;
                let frame = ClaimFrame::of(reference, queue, claim);
                if !self.shared.send(&FromAgent::Claim(frame)).await {
                    return Err(gone());
                }
                answer.await.map_err(|_| gone())
            };
            let answered = timeout(within, asked).await;
            answered.unwrap_or_else(|_| Err(Failed::Passing("no answer in time".into())))
        }
        .boxed()
    }

    fn say(&self, _: AgentId, said: Said) -> BoxFuture<'_, ()> {
        async move {
            let frame = match said {
                Said::Heartbeat(body) => FromAgent::Heartbeat(body),
                Said::Log(body) => FromAgent::Log(body),
            };
            if self.shared.link.borrow().up {
                self.shared.send(&frame).await;
            }
        }
        .boxed()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    fn limit(&self) -> usize {
        self.shared.limit.load(Ordering::Relaxed).saturating_sub(FRAME_ROOM)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        async move {
            // The writer flushes when nothing waits any more.
            let out = self.shared.state().out.clone();
            let Some(out) = out else { return };
            let empty = async {
                while out.capacity() < WAITING {
                    sleep(Duration::from_millis(5)).await;
                }
                sleep(Duration::from_millis(20)).await;
            };
            let _ = timeout(LONGEST_PAUSE, empty).await;
        }
        .boxed()
    }
}

struct GivenUp<'a> {
    shared: &'a Shared,
    reference: u64,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.claims.remove(&self.reference).is_some()
            && let Some(out) = &state.out
            && let Ok(text) = serde_json::to_string(&FromAgent::GiveUp(self.reference))
        {
            // With a full queue it comes to the same: unheard tasks come to us unasked.
            let _ = out.try_send(Out::Frame(text));
        }
    }
}

fn gone() -> Failed {
    Failed::Passing("the connection is gone".into())
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code of ours panics with it in hand.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn up(&self, within: Duration) -> Result<(), Failed> {
        let mut link = self.link.subscribe();
        match timeout(within, link.wait_for(|link| link.up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }

    async fn send(&self, frame: &FromAgent) -> bool {
        let Some(out) = self.state().out.clone() else { return false };
        match serde_json::to_string(frame) {
            Ok(text) => out.send(Out::Frame(text)).await.is_ok(),
            Err(error) => {
                tracing::error!(%error, "a frame cannot be written");
                false
            }
        }
    }
}

/// Makes the line and makes it again.
async fn keep(shared: Arc<Shared>) {
    let mut resting = shared.resting.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        if resting.wait_for(|resting| !*resting).await.is_err() {
            return;
        }
        let opened = timeout(ATTACH, shared.dial.open()).await;
        let late = || Refused { reason: "no answer in time".into(), for_good: false };
        match opened.unwrap_or_else(|_| Err(late())) {
            Ok((sink, stream)) => {
                pause = FIRST_PAUSE;
                let why = tokio::select! {
                    why = serve(&shared, sink, stream) => why,
                    _ = resting.wait_for(|resting| *resting) => "not needed".into(),
                };
                shared.link.send_modify(|link| link.up = false);
                // Whoever waits for an answer is told by the end of its channel.
                let mut state = shared.state();
                state.out = None;
                state.attached = None;
                state.commands.clear();
                state.claims.clear();
                drop(state);
                tracing::debug!(why, place = shared.dial.place(), "the line is gone");
            }
            Err(Refused { reason, for_good }) => {
                tracing::debug!(reason, place = shared.dial.place(), "no line");
                shared.refusal.send_replace(Some((reason, for_good)));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        sleep(pause).await;
    }
}

/// Carries frames both ways until the line breaks; says why.
async fn serve(shared: &Shared, mut sink: Sending, mut stream: Receiving) -> String {
    let (out, mut queued) = mpsc::channel(WAITING);
    let first = {
        let mut state = shared.state();
        state.out = Some(out);
        state.attach.clone()
    };
    let known = first.is_some();
    if let Some(attach) = first {
        let text = serde_json::to_string(&FromAgent::Attach(attach)).unwrap_or_default();
        if let Err(why) = sink.send(Out::Frame(text)).await {
            return why;
        }
    } else {
        shared.up_now();
    }
    let writing = async {
        let mut ping = interval(PING);
        loop {
            let next = tokio::select! {
                next = queued.recv() => match next {
                    Some(next) => next,
                    None => return "the line is taken down".to_owned(),
                },
                _ = ping.tick() => Out::Ping,
            };
            if let Err(why) = sink.feed(next).await {
                return why;
            }
            if queued.is_empty()
                && let Err(why) = sink.flush().await
            {
                return why;
            }
        }
    };
    let reading = async {
        let mut heard_at = Instant::now();
        loop {
            let frame = tokio::select! {
                frame = stream.next() => frame,
                () = sleep_until(heard_at + SILENCE) => {
                    return "nothing was heard for long".to_owned();
                }
            };
            match frame {
                Some(Ok(In::Frame(text))) => {
                    if !shared.hear(&text, known).await {
                        return "the server does not let us speak for the agent".to_owned();
                    }
                }
                Some(Ok(In::Alive)) => {}
                Some(Err(why)) => return why,
                None => return "the other side closed the line".to_owned(),
            }
            heard_at = Instant::now();
        }
    };
    tokio::select! { why = writing => why, why = reading => why }
}

impl Shared {
    fn up_now(&self) {
        self.link.send_modify(|link| *link = Link { up: true, made: link.made + 1 });
    }

    /// Takes a frame in; `known`: the line began with `attach`. False: the line is no use.
    async fn hear(&self, text: &str, known: bool) -> bool {
        let frame: ToAgent = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(%error, "a frame is passed over");
                return true;
            }
        };
        match frame {
            ToAgent::Attached(attached) => {
                self.limit.store(attached.max_bytes, Ordering::Relaxed);
                if known && !self.link.borrow().up {
                    self.up_now();
                }
                if let Some(waiting) = self.state().attached.take() {
                    let _ = waiting.send(Ok(attached));
                }
            }
            ToAgent::Outcome(outcome) => {
                if let Some(waiting) = self.state().commands.remove(&outcome.command_id) {
                    let _ = waiting.send(outcome);
                }
            }
            ToAgent::Claimed(claimed) => {
                let waiting = self.state().claims.remove(&claimed.reference);
                let unheard = match waiting {
                    Some(waiting) => waiting.send(claimed).err(),
                    None => Some(claimed),
                };
                // They are ours all the same.
                for task in unheard.map(|claimed| claimed.tasks).unwrap_or_default() {
                    self.pass_on(Heard::Task(Box::new(task))).await;
                }
            }
            ToAgent::Task(task) => self.pass_on(Heard::Task(task)).await,
            ToAgent::Control(control) => match Word::parse(control.command.as_bytes()) {
                Some(word) => self.pass_on(Heard::Word(word)).await,
                None => tracing::warn!("an unknown control word is passed over"),
            },
            ToAgent::There(number) => {
                self.send(&FromAgent::Here(number)).await;
            }
            ToAgent::Problem(problem) => {
                tracing::warn!(detail = problem.detail, "the server could not use a frame");
                if let Some(waiting) = self.state().attached.take() {
                    let _ = waiting.send(Err(problem));
                } else if known && !self.link.borrow().up {
                    return false;
                }
            }
        }
        true
    }

    async fn pass_on(&self, what: Heard) {
        let heard = self.state().heard.clone();
        match heard {
            Some(heard) if tell(&heard, what).await => {}
            Some(_) | None => tracing::debug!("nobody listens any more"),
        }
    }
}
