//! An agent's life: registered, ready, at work, gone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::agent::{AgentState, RegisterAgent, ReportAgent};
use domain::frame::Listen;
use domain::{AgentId, Code, StreamType};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::control::{Control, Phase};
use crate::floor::Floor;
use crate::identity::agent_id;
use crate::job::Shop;
use crate::journal::Journal;
use crate::logs::Logs;
use crate::notice::{Notice, Notices};
use crate::options::Options;
use crate::route::{Route, Server};
use crate::wire::{Ask, Wire, accepted};
use crate::work::Shared;
use crate::{Error, Handler};

/// A server that starts may take its migrations' time.
pub(crate) const REGISTER_PATIENCE: Duration = Duration::from_secs(30);
const GOODBYE_PATIENCE: Duration = Duration::from_secs(3);
/// How long claims under way are listened to after a drain has begun.
const LATE_CLAIMS: Duration = Duration::from_millis(500);
/// Lives of one name that are looked through for one that is not retired.
const LIVES: u32 = 64;

/// How an agent's run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All tasks were answered for.
    Drained,
    /// It was told to stop; running tasks were handed back.
    Stopped,
}

/// A registered agent, ready to run.
pub struct Agent {
    wire: Wire,
    options: Options,
    journal: Option<Journal>,
    control: Control,
    notices: Notices,
}

impl Agent {
    /// Connects, registers under the options' name and says that it is ready.
    ///
    /// The id follows from tenant and name. A name that somebody registered under another
    /// id (over HTTP, say) is taken over together with that id.
    ///
    /// # Errors
    /// When the server cannot be reached in time or does not take this agent, or when it
    /// is running already.
    pub async fn connect(url: &str, token: Option<&str>, options: Options) -> Result<Self, Error> {
        let server = Server { url: url.to_owned(), token: token.map(ToOwned::to_owned) };
        Self::over(Route::Nats(server), options).await
    }

    /// The same over any route. With an id in the options it comes back as that agent.
    ///
    /// # Errors
    /// When the server cannot be reached in time or does not take this agent, or when it
    /// is running already.
    pub async fn over(route: Route, options: Options) -> Result<Self, Error> {
        let transport = route.open(&options).await?;
        let name = &options.description.name;
        let known = options.id;
        let mut id = known.unwrap_or_else(|| agent_id(&options.tenant, name, 1));
        let mut life = 1;
        let wire = loop {
            let wire = Wire::new(Arc::clone(&transport), id);
            if wire.attach().await? {
                return Err(Error::Running { name: name.clone(), id });
            }
            if known.is_some() {
                break wire;
            }
            match register(&wire, &options.description).await {
                Ok(()) => break wire,
                Err(Error::Refused { what, problem }) => {
                    let holder = problem.conflicting_id.map(AgentId).filter(|other| *other != id);
                    let retired = problem.state.as_deref() == Some(AgentState::Retired.as_str());
                    life += 1;
                    id = match holder {
                        _ if life > LIVES => return Err(Error::Refused { what, problem }),
                        Some(holder) if problem.code() == Some(Code::NameTaken) => holder,
                        Some(_) | None if retired => agent_id(&options.tenant, name, life),
                        Some(_) | None => return Err(Error::Refused { what, problem }),
                    };
                }
                Err(error) => return Err(error),
            }
        };
        let journal = options.journal.as_deref();
        let journal = journal.map(|folder: &Path| Journal::open(folder, id)).transpose()?;
        let (control, notices) = (Control::new(), Arc::new(|_: Notice<'_>| {}));
        Ok(Self { wire, options, journal, control, notices })
    }

    /// Its id.
    pub fn id(&self) -> AgentId {
        self.wire.agent()
    }

    /// What ends it from outside.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Where it tells what happens to it; the function must not block.
    pub fn on_notice(&mut self, tell: impl Fn(Notice<'_>) + Send + Sync + 'static) {
        self.notices = Arc::new(tell);
    }

    /// Works until told to end, by [`Control`] or by the server.
    ///
    /// # Errors
    /// When the subscriptions are not taken.
    pub async fn run(self, handler: impl Handler) -> Result<Ended, Error> {
        let Self { wire, options, journal, control, notices } = self;
        let (logs, publisher) = Logs::new(wire.clone());
        let shop = Arc::new(Shop {
            handler: Arc::new(handler),
            lease_ms: options.lease_ms(),
            control: control.clone(),
            run: Uuid::new_v4(),
            shared: Shared {
                agent_name: options.description.name.as_str().into(),
                wire: wire.clone(),
                logs,
                notices: Arc::clone(&notices),
                progress_seq: Arc::default(),
                generation: options.generation,
                journal,
            },
        });
        let floor = Arc::new(Floor {
            shop: Arc::clone(&shop),
            slots: options.slots(),
            description: options.description.clone(),
            beat_every: options.beat_every(),
            running: AtomicUsize::new(0),
            taken: Mutex::default(),
            freed: Notify::new(),
            beat: Notify::new(),
            sent_away: AtomicBool::new(false),
        });

        let mut helpers = JoinSet::new();
        let mut listen = vec![Listen::Control];
        if options.queues.is_empty() && options.rounds.is_none() {
            listen.push(Listen::Tasks);
        }
        let heard = wire.listen(listen).await?;
        helpers.spawn(Arc::clone(&floor).hear(heard));
        helpers.spawn(Arc::clone(&floor).beat());
        helpers.spawn(Arc::clone(&floor).mind());
        helpers.spawn(Arc::clone(&floor).wake());
        helpers.spawn(shop.deliver_kept());
        floor.be_ready().await?;
        notices(Notice::Ready { id: wire.agent(), name: &options.description.name });

        let mut claims = JoinSet::new();
        let default = ["default".to_owned()];
        let queues = if options.queues.is_empty() { &default[..] } else { &options.queues };
        for queue in queues {
            let rounds = options.rounds;
            claims.spawn(Arc::clone(&floor).claim(queue.clone(), options.claim_wait, rounds));
        }
        let all_rounds = async {
            if options.rounds.is_none() {
                std::future::pending::<()>().await;
            }
            while claims.join_next().await.is_some() {}
        };
        tokio::select! {
            () = control.reached(Phase::Draining) => {}
            () = all_rounds => control.drain(None),
        }

        notices(Notice::Draining { running: floor.running() });
        // So that no task is given to a claim that nobody waits for any more; who was sent
        // away is passed over already.
        if !floor.sent_away.load(Ordering::Acquire) {
            let noted = Noted { reason: "the agent is to end" };
            let _ = tell(&wire, "drain", &noted, GOODBYE_PATIENCE).await;
        }
        let _ = tokio::time::timeout(LATE_CLAIMS, async {
            while claims.join_next().await.is_some() {}
        })
        .await;
        claims.shutdown().await;
        floor.empty(&control).await;

        let ended = match control.phase() {
            Phase::Running | Phase::Draining => Ended::Drained,
            Phase::Stopping => Ended::Stopped,
        };
        helpers.shutdown().await;
        let offline = ReportAgent { observed_state: AgentState::Offline, reason: None };
        if let Err(error) = tell(&wire, "report", &offline, GOODBYE_PATIENCE).await {
            tracing::debug!(%error, "the end is not reported");
        }
        drop(floor);
        let _ = tokio::time::timeout(GOODBYE_PATIENCE, publisher).await;
        wire.flush().await;
        Ok(ended)
    }
}

/// A reason for people.
#[derive(Debug, Serialize)]
struct Noted {
    reason: &'static str,
}

pub(crate) async fn register(wire: &Wire, description: &RegisterAgent) -> Result<(), Error> {
    tell(wire, "register", description, REGISTER_PATIENCE).await
}

pub(crate) async fn ready(wire: &Wire, patience: Duration) -> Result<(), Error> {
    tell(wire, "mark_ready", &serde_json::json!({}), patience).await
}

/// A command of the agent about itself. Each call is a new command: the agent may come
/// and go any number of times.
async fn tell<B: Serialize>(
    wire: &Wire,
    command: &'static str,
    body: &B,
    patience: Duration,
) -> Result<(), Error> {
    let ask = Ask {
        kind: StreamType::Agent,
        id: wire.agent().0,
        command,
        command_id: Uuid::new_v4(),
        body,
        traceparent: None,
        patience,
    };
    accepted(&format!("agent {command}"), wire.ask(&ask).await?).map(|_| ())
}
