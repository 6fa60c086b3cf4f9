//! The daemon's life: registered, in exchange with the managers, gone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::agent::Phase;
use domain::node::{NodeState, RegisterNode, SyncReply, SyncRequest};
use domain::profile::Level;
use domain::{AgentId, Code, Status};
use futures::StreamExt;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::book::{Book, Seen};
use crate::driver::{Driver, ProcessDriver};
use crate::folder::{Folder, Place};
use crate::ground::Ground;
use crate::keeper::{Goal, Keeper};
use crate::link::{Link, words};
use crate::plan::{Have, Step, plan};
use crate::{Error, Options, host, outbox, probe};

/// After a try to register without an answer.
const REGISTER_PAUSE: Duration = Duration::from_secs(1);
/// Between two exchanges, however much happens.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks for workspaces that nobody needs.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
/// On the way out, for the last observations to be told.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// For keepers to let go of what they have; tasks that the node does itself are handed back.
const LET_GO: Duration = Duration::from_secs(8);

/// How a daemon's run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// So many agents go on without it; the next daemon on its folder takes them over.
    Left(usize),
    /// Its agents ended with it.
    Stopped,
}

/// A daemon on its data folder.
pub struct Node {
    ground: Arc<Ground>,
    keepers: HashMap<AgentId, watch::Sender<Goal>>,
    tasks: JoinSet<()>,
    registered: watch::Sender<bool>,
    words: async_nats::Subscriber,
    _outbox: AbortOnDropHandle<()>,
}

impl Node {
    /// Takes the data folder and takes over what the last daemon left running.
    ///
    /// NATS may be away: what runs goes on, and is told of when it is back.
    ///
    /// # Errors
    /// When the folder is in use or unusable, or NATS does not let us in.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let folder = Folder::open(&options.data_dir)?;
        let book = Arc::new(Book::open(folder.agents(), folder.id(), host::boot_id())?);
        let drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(ProcessDriver::find().await)];
        let link = Link::open(&options, folder.id()).await?;
        let subject = link.control();
        let words = link.client.subscribe(subject.clone()).await;
        let words = words.map_err(|source| Error::Subscribe { subject, source })?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let ground = Arc::new(Ground {
            options,
            folder,
            book: Arc::clone(&book),
            link: link.clone(),
            drivers,
            starts: Semaphore::new(2 * cores),
            probes: Arc::new(Semaphore::new(probe::AT_ONCE)),
            sync: Notify::new(),
        });
        let outbox = AbortOnDropHandle::new(tokio::spawn(outbox::run(book, link)));
        let mut node = Self {
            ground,
            keepers: HashMap::new(),
            tasks: JoinSet::new(),
            registered: watch::Sender::new(false),
            words,
            _outbox: outbox,
        };
        for record in node.ground.book.all() {
            if record.is_live() {
                node.keeper(record.agent_id);
            }
        }
        Ok(node)
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.ground.folder.id()
    }

    /// The agents that it has, whether they run or have just ended.
    pub fn agents(&self) -> usize {
        self.ground.book.all().len()
    }

    /// What this host can enforce at most.
    pub fn level(&self) -> Level {
        self.ground.drivers.iter().map(|driver| driver.level()).max().unwrap_or(Level::None)
    }

    /// True once the managers have taken it.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// Does what the managers want until it is told to end.
    ///
    /// # Errors
    /// When the managers do not take it: its name is another's, or it was retired; in the
    /// latter case its agents are ended first.
    pub async fn run(mut self, stop: CancellationToken) -> Result<Ended, Error> {
        let done = tokio::select! {
            done = self.serve() => done,
            () = stop.cancelled() => Ok(()),
        };
        let retired = matches!(done, Err(Error::Retired { .. }));
        let ended = self.leave(retired).await;
        done.map(|()| ended)
    }

    /// Until the control word `stop`, or for ever.
    async fn serve(&mut self) -> Result<(), Error> {
        self.register().await?;
        let boot = Uuid::new_v4();
        let mut ticks = interval(self.ground.options.sync_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = None::<Instant>;
        let mut asked = Instant::now();
        loop {
            let ground = Arc::clone(&self.ground);
            tokio::select! {
                _ = ticks.tick() => {}
                () = ground.sync.notified() => sleep_until(asked + LEAST_PAUSE).await,
                Some(message) = self.words.next() => match word(&message.payload) {
                    Some("sync") => {}
                    Some("stop") => return Ok(()),
                    Some(_) | None => continue,
                },
            }
            asked = Instant::now();
            let request = SyncRequest { boot, agents: ground.book.running() };
            match ground.link.sync(&request).await {
                Ok(reply) => self.follow(reply).await?,
                // What runs goes on as it is.
                Err(error) => tracing::debug!(%error, "the managers are silent"),
            }
            if swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY) {
                swept = Some(Instant::now());
                let keep = ground.options.keep_workspaces;
                sweep(&ground.folder.agents(), keep, |agent| ground.book.get(agent).is_some());
            }
        }
    }

    /// Registers, however long it takes.
    async fn register(&mut self) -> Result<(), Error> {
        let ground = Arc::clone(&self.ground);
        let options = &ground.options;
        let body = RegisterNode {
            name: options.name.clone(),
            capacity: options.capacity,
            labels: options.labels.clone(),
            level: self.level(),
            runtimes: ground.drivers.iter().map(|driver| driver.runtime()).collect(),
            version: Some(env!("CARGO_PKG_VERSION").into()),
        };
        let command_id = Uuid::new_v4();
        let mut made = ground.link.made();
        let mut told = false;
        let problem = loop {
            let why = match ground.link.register(&body, command_id).await {
                Ok(outcome) => match outcome.decision().status {
                    Status::Accepted | Status::Duplicate => {
                        self.registered.send_replace(true);
                        return Ok(());
                    }
                    Status::Refused | Status::Invalid => break outcome.decision().problem.clone(),
                    Status::Busy => "the server is at its limit".into(),
                },
                Err(error) => error.to_string(),
            };
            // Once per outage.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(why, "not registered yet; trying again");
            }
            tokio::select! { () = sleep(REGISTER_PAUSE) => {}, _ = made.changed() => {} }
        };
        let problem =
            problem.unwrap_or_else(|| domain::Problem::new(Code::Internal, "no reason was given"));
        let name = options.name.clone();
        Err(match problem.code() {
            Some(Code::NameTaken) => Error::NameTaken { name, holder: problem.conflicting_id },
            Some(Code::IllegalTransition)
                if problem.state.as_deref() == Some(NodeState::Retired.as_str()) =>
            {
                Error::Retired { id: self.id(), file: ground.folder.id_file() }
            }
            _ => Error::Refused { problem: Box::new(problem) },
        })
    }

    async fn follow(&mut self, reply: SyncReply) -> Result<(), Error> {
        if !reply.ok {
            tracing::warn!(why = words(reply.problem.as_ref()), "the managers do not answer");
            let code = reply.problem.and_then(|problem| problem.code());
            // Another log than the one that we registered in, or we were retired.
            return if code == Some(Code::NotFound) { self.register().await } else { Ok(()) };
        }
        let records = self.ground.book.all();
        let have: BTreeMap<AgentId, Have> = records
            .iter()
            .map(|r| {
                (r.agent_id, Have { generation: r.generation, phase: r.phase, told: r.is_told() })
            })
            .collect();
        for (agent, step) in plan(&reply.agents, &have) {
            match step {
                Step::Start(wanted) => self.aim(agent, Goal::Run(Box::new(wanted))),
                Step::End { kill } => self.aim(agent, Goal::End { kill }),
                Step::Decline(wanted) => {
                    let said = "it was not wanted any more before it was started";
                    let (name, generation) = (wanted.name.as_str(), wanted.generation);
                    let over = (Phase::Exited, Seen::said(said));
                    self.ground.book.begin((agent, name), generation, wanted.launch, over);
                }
                Step::Forget => {
                    self.keepers.remove(&agent);
                    self.ground.book.forget(agent);
                }
            }
        }
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }

    fn aim(&mut self, agent: AgentId, goal: Goal) {
        self.keeper(agent).send_if_modified(|now| {
            let changed = *now != goal;
            *now = goal;
            changed
        });
    }

    fn keeper(&mut self, agent: AgentId) -> &watch::Sender<Goal> {
        let (ground, tasks) = (&self.ground, &mut self.tasks);
        self.keepers.entry(agent).or_insert_with(|| {
            let (sender, goal) = watch::channel(Goal::Stay);
            tasks.spawn(Keeper { ground: Arc::clone(ground), agent, goal }.run());
            sender
        })
    }

    /// Ends the agents where that is wanted, tells what there is to tell, and lets go.
    async fn leave(mut self, retired: bool) -> Ended {
        let ground = Arc::clone(&self.ground);
        let live = |ground: &Ground| {
            ground.book.all().into_iter().filter(|record| record.is_live()).collect::<Vec<_>>()
        };
        let stop = ground.options.stop_agents || retired;
        if stop {
            let records = live(&ground);
            let grace = records
                .iter()
                .filter_map(|record| record.launch.as_ref())
                .map(|launch| launch.profile.stop.clone().unwrap_or_default().grace_ms)
                .max()
                .unwrap_or_default();
            for record in records {
                self.aim(record.agent_id, Goal::End { kill: false });
            }
            let gone = async {
                while !live(&ground).is_empty() {
                    sleep(LEAST_PAUSE).await;
                }
            };
            let patience = Duration::from_millis(grace) + Duration::from_secs(10);
            if timeout(patience, gone).await.is_err() {
                tracing::error!("some agents do not end");
            }
        }
        // Without its end of the goal each keeper lets go of its process.
        self.keepers.clear();
        let _ = timeout(LET_GO, async { while self.tasks.join_next().await.is_some() {} }).await;
        if ground.link.is_up() {
            let told = async {
                while !ground.book.is_told() {
                    sleep(LEAST_PAUSE).await;
                }
            };
            let _ = timeout(LAST_WORDS, told).await;
            ground.link.flush().await;
        }
        if stop { Ended::Stopped } else { Ended::Left(live(&ground).len()) }
    }
}

/// The word of a control message: `{"command": "sync"}`.
fn word(payload: &[u8]) -> Option<&'static str> {
    let message: serde_json::Value = serde_json::from_slice(payload).ok()?;
    ["sync", "stop"].into_iter().find(|word| message["command"] == **word)
}

/// Removes what is left of agents that are not placed here: their output after a while, their
/// workspaces after long.
fn sweep(agents: &Path, keep: Duration, is_here: impl Fn(AgentId) -> bool) {
    for entry in std::fs::read_dir(agents).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<Uuid>() else { continue };
        if is_here(AgentId(id)) {
            continue;
        }
        // The folder changed last when its record was taken out.
        let changed = entry.metadata().and_then(|found| found.modified());
        let age = changed.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_some_and(|age| age > keep) {
            tracing::info!(agent = %id, "its workspace is removed: it was not placed here for long");
            let _ = std::fs::remove_dir_all(entry.path());
        } else if age.is_some_and(|age| age > SWEEP_EVERY) {
            Place(entry.path()).forget_runs_before(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_word_is_a_command_that_is_known() {
        assert_eq!(word(br#"{"command": "sync"}"#), Some("sync"));
        assert_eq!(word(br#"{"command": "stop", "why": 1}"#), Some("stop"));
        for nonsense in [&b""[..], b"sync", b"{}", br#"{"command": "explode"}"#, b"\xff"] {
            assert_eq!(word(nonsense), None);
        }
    }

    #[test]
    fn what_is_left_of_agents_that_are_not_here_goes_with_time() {
        let agents = std::env::temp_dir().join(format!("taffrail-sweep-{}", Uuid::new_v4()));
        let day = Duration::from_secs(86_400);
        let place = |n: u128, age: Duration| {
            let place = Place(agents.join(Uuid::from_u128(n).to_string()));
            std::fs::create_dir_all(place.workspace()).unwrap();
            std::fs::create_dir_all(place.run(1)).unwrap();
            let folder = std::fs::File::open(&place.0).unwrap();
            folder.set_modified(SystemTime::now() - age).unwrap();
            place
        };
        let (here, fresh) = (place(1, 40 * day), place(2, Duration::ZERO));
        let (gone, long_gone) = (place(3, day), place(4, 31 * day));
        std::fs::create_dir_all(agents.join("not-an-agent")).unwrap();
        sweep(&agents, 30 * day, |agent| agent == AgentId::nth(1));
        let left = |place: &Place| (place.workspace().exists(), place.run(1).exists());
        assert_eq!(left(&here), (true, true));
        assert_eq!(left(&fresh), (true, true));
        assert_eq!(left(&gone), (true, false));
        assert_eq!(left(&long_gone), (false, false));
        assert!(agents.join("not-an-agent").exists());
        std::fs::remove_dir_all(agents).unwrap();
    }
}
