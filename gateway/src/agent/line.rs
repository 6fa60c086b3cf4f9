//! An agent on a WebSocket (`domain::frame`): register, heartbeats, claims, pushes, control
//! words, commands and log lines over one connection.
//!
//! Invariant: after `attach` everything is said as that agent, of the caller's own tenant.
//! Who may attach is whoever may act for the tenant, as on every other route.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Message;
use broker::subject::AgentWord;
use domain::frame::{
    Attach, Attached, ClaimFrame, ClaimedFrame, MAX_FRAME_BYTES, ToAgent, within_limit,
};
use domain::macros::Body;
use domain::{AgentId, Code, Json, Problem};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::HeartbeatBody;
use crate::app::{App, ForAgent};
use crate::auth::Caller;
use crate::events::Outbox;

/// Claims of one connection that wait at once; its queues are few.
const CLAIMS: usize = 64;
/// Log lines of one connection that are passed on in a second: an agent that prints for ever
/// must not fill the network.
const LINES_PER_SECOND: u32 = 500;
/// Questions whether the agent is there that wait for its answer.
const ASKED: u64 = 8;

/// The agent's side of a connection.
pub(crate) struct AgentLine {
    app: App,
    caller: Caller,
    agent: Option<AgentId>,
    /// Ends what the agent listens to.
    listening: Option<DropGuard>,
    claims: HashMap<u64, CancellationToken>,
    /// Ends every claim with the connection.
    all: CancellationToken,
    room: Arc<Semaphore>,
    asked: Arc<Mutex<Asked>>,
    window: Window,
}

#[derive(Default)]
struct Asked {
    next: u64,
    askers: HashMap<u64, String>,
}

/// Log lines of the present second.
struct Window {
    since: Instant,
    sent: u32,
    left_out: u64,
}

impl Drop for AgentLine {
    fn drop(&mut self) {
        self.all.cancel();
    }
}

impl AgentLine {
    pub(crate) fn new(app: App, caller: Caller) -> Self {
        Self {
            app,
            caller,
            agent: None,
            listening: None,
            claims: HashMap::new(),
            all: CancellationToken::new(),
            room: Arc::new(Semaphore::new(CLAIMS)),
            asked: Arc::default(),
            window: Window { since: Instant::now(), sent: 0, left_out: 0 },
        }
    }

    /// Who commands of this connection are from: the agent, once it is attached.
    pub(crate) fn caller(&self) -> Caller {
        match self.agent {
            Some(agent) => {
                Caller { principal: format!("agent:{agent}").into(), ..self.caller.clone() }
            }
            None => self.caller.clone(),
        }
    }

    fn agent(&self) -> Result<AgentId, Problem> {
        let detail = "this connection speaks for no agent yet: send `attach` first";
        self.agent.ok_or_else(|| Problem::new(Code::Forbidden, detail))
    }

    pub(crate) async fn attach(&mut self, attach: Attach, outbox: &Outbox) -> Result<(), Problem> {
        let (agent, tenant) = (attach.agent, self.caller.tenant.clone());
        let doors = &self.app.doors;
        let answered = attach.ask && doors.agents.answered(tenant.clone(), agent).await;
        // What it listened to before is over, so that nothing comes twice.
        self.listening = None;
        if !attach.listen.is_empty() {
            let heard = doors.agents.listen(tenant, agent, attach.listen).await?;
            let ended = self.all.child_token();
            let work = pass_on(heard, Arc::clone(&self.asked), outbox.clone());
            let until = ended.clone();
            tokio::spawn(async move {
                tokio::select! { () = until.cancelled() => {}, () = work => {} }
            });
            self.listening = Some(ended.drop_guard());
        }
        self.agent = Some(agent);
        let attached = Attached { agent, answered, max_bytes: MAX_FRAME_BYTES };
        say(outbox, &ToAgent::Attached(attached)).await;
        Ok(())
    }

    pub(crate) async fn claim(
        &mut self,
        frame: ClaimFrame,
        outbox: &Outbox,
    ) -> Result<(), Problem> {
        let claim = frame.by(self.agent()?);
        claim.check().map_err(Problem::invalid)?;
        crate::queue::check(&frame.queue).map_err(|refusal| refusal.problem().clone())?;
        // Frames behind it are not read before there is room for it.
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return Ok(()) };
        let given_up = self.all.child_token();
        self.claims.retain(|_, claim| !claim.is_cancelled());
        self.claims.insert(frame.reference, given_up.clone());
        let (claims, reference) = (Arc::clone(&self.app.doors.claims), frame.reference);
        let (tenant, outbox) = (self.caller.tenant.clone(), outbox.clone());
        self.app.tracker.spawn(async move {
            let _over = given_up.clone().drop_guard();
            let claimed = tokio::select! {
                biased;
                claimed = claims.claim(tenant, frame.queue, claim) => claimed,
                // Dropping the claim withdraws it.
                () = given_up.cancelled() => return,
            };
            let (tasks, problem) = match claimed {
                Ok(claimed) => (claimed.tasks, None),
                Err(problem) => (vec![], Some(problem)),
            };
            let answer = ClaimedFrame { reference, tasks, problem };
            let told = text(&ToAgent::Claimed(answer.clone()));
            if outbox.send(Message::text(told)).await.is_err() && !answer.tasks.is_empty() {
                // They must not lie there until their leases end.
                claims.unheard(answer.tasks).await;
            }
            drop(room);
        });
        Ok(())
    }

    pub(crate) fn give_up(&mut self, reference: u64) {
        if let Some(claim) = self.claims.remove(&reference) {
            claim.cancel();
        }
    }

    pub(crate) async fn heartbeat(&self, body: Json) -> Result<(), Problem> {
        let agent = self.agent()?;
        // Read here, so that a malformed one is told of; on NATS it would be dropped.
        let read = domain::json::read::<HeartbeatBody>(body.as_str().as_bytes());
        read.map_err(|fault| Problem::invalid(vec![fault]))?;
        let tenant = self.caller.tenant.clone();
        self.app.doors.agents.say(tenant, agent, AgentWord::Heartbeat, body).await;
        Ok(())
    }

    pub(crate) async fn log(&mut self, line: Json) -> Result<(), Problem> {
        let agent = self.agent()?;
        let window = &mut self.window;
        if window.since.elapsed() >= Duration::from_secs(1) {
            (window.since, window.sent) = (Instant::now(), 0);
        }
        if window.sent >= LINES_PER_SECOND {
            window.left_out += 1;
            return Ok(());
        }
        window.sent += 1;
        let line = within_limit(&line, std::mem::take(&mut window.left_out));
        let tenant = self.caller.tenant.clone();
        self.app.doors.agents.say(tenant, agent, AgentWord::Log, line).await;
        Ok(())
    }

    pub(crate) async fn here(&self, number: u64) {
        let asker = self.asked.lock().askers.remove(&number);
        if let Some(asker) = asker {
            self.app.doors.agents.here(asker).await;
        }
    }
}

/// Tells the agent what it listens to, at the pace of its reading.
async fn pass_on(
    mut heard: futures::stream::BoxStream<'static, ForAgent>,
    asked: Arc<Mutex<Asked>>,
    outbox: Outbox,
) {
    while let Some(what) = heard.next().await {
        let frame = match what {
            ForAgent::Task(task) => ToAgent::Task(task),
            ForAgent::Control(word) => ToAgent::Control(word),
            ForAgent::There(asker) => {
                let mut asked = asked.lock();
                let number = asked.next;
                asked.next += 1;
                // Whoever asked before has stopped waiting.
                asked.askers.retain(|old, _| old + ASKED > number);
                asked.askers.insert(number, asker);
                ToAgent::There(number)
            }
        };
        say(&outbox, &frame).await;
    }
}

async fn say(outbox: &Outbox, frame: &ToAgent) {
    // A peer that is gone takes its session along.
    let _ = outbox.send(Message::text(text(frame))).await;
}

fn text(frame: &ToAgent) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}
