//! Brings one agent's process to where it should be, and tells what it sees on the way.
//!
//! One task per agent does everything in turn, so a generation is over before the next begins.

use std::sync::Arc;
use std::time::Duration;

use domain::AgentId;
use domain::agent::Phase;
use domain::node::{Launch, Wanted};
use domain::profile::Mode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::book::{Record, Seen};
use crate::driver::{Ending, Found, Job, NotStarted, Run};
use crate::ground::Ground;
use crate::logs::Pump;
use crate::per_task::{PerTask, Speaker};
use crate::probe::{self, Finding, Subject};

/// Where an agent's process should be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Goal {
    /// Where it is: nobody has said anything yet.
    Stay,
    /// It runs in this generation.
    Run(Box<Wanted>),
    /// It is not there.
    End { kill: bool },
}

impl Goal {
    /// Whether a process of this generation has to go, and if so whether at once.
    fn ends(&self, generation: u32) -> Option<bool> {
        match self {
            Self::Stay => None,
            Self::Run(wanted) if wanted.generation <= generation => None,
            Self::Run(_) => Some(false),
            Self::End { kill } => Some(*kill),
        }
    }
}

/// The daemon ends, and the process goes on without it.
struct Leaving;

/// One agent's keeper.
pub(crate) struct Keeper {
    pub ground: Arc<Ground>,
    pub agent: AgentId,
    pub goal: watch::Receiver<Goal>,
}

impl Keeper {
    /// Keeps the agent until the other end of `goal` is dropped; a process that runs then goes
    /// on without its keeper.
    pub(crate) async fn run(mut self) {
        if let Some(record) = self.ground.book.get(self.agent)
            && record.is_live()
            && self.adopt(record).await.is_err()
        {
            return;
        }
        loop {
            let goal = self.goal.borrow_and_update().clone();
            let known = self.ground.book.get(self.agent).map_or(0, |record| record.generation);
            let done = match goal {
                Goal::Run(wanted) if wanted.generation > known => self.live(*wanted).await,
                Goal::Run(_) | Goal::Stay | Goal::End { .. } => {
                    self.goal.changed().await.map_err(|_| Leaving)
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// From the start of a generation to its end.
    async fn live(&mut self, wanted: Wanted) -> Result<(), Leaving> {
        let Wanted { name, generation, launch: Some(launch), .. } = wanted else { return Ok(()) };
        let begun = (Phase::Starting, Seen::default());
        let book = Arc::clone(&self.ground.book);
        book.begin((self.agent, &name), generation, Some(launch.clone()), begun);
        // The run before may still be looked at by people.
        self.ground.place(self.agent).forget_runs_before(generation.saturating_sub(1));
        let job = self.ground.job((self.agent, &name), generation, launch);
        match self.start(job, generation).await {
            Ok(started) => self.attend(started, generation, Phase::Starting).await,
            Err(NotStarted { reason, permanent }) => {
                let seen = Seen { permanent, ..Seen::said(reason) };
                self.over(Phase::StartFailed, seen);
                Ok(())
            }
        }
    }

    async fn start(&self, mut job: Job, generation: u32) -> Result<Started, NotStarted> {
        let driver = self.ground.driver(&job.launch)?;
        self.ground.furnish(&mut job).await?;
        let relay = self.ground.relay(&job)?;
        let _turn = self.ground.starts.acquire().await;
        let run = match self.speaker(&job, generation) {
            Some((speaker, grace)) => PerTask::start(driver, job.clone(), speaker, grace).await,
            None => driver.start(job.clone()).await?,
        };
        Ground::hand_over_socket(&job);
        Ok(Started { run, job, _relay: relay })
    }

    /// Where the program is started for each task: who speaks for it meanwhile, and how long
    /// a task may go on after SIGTERM.
    fn speaker(&self, job: &Job, generation: u32) -> Option<(Speaker, Duration)> {
        let profile = &job.launch.profile;
        let name = job.env.get("TAFFRAIL_AGENT_NAME").map_or("", String::as_str);
        (profile.mode == Some(Mode::PerTask)).then(|| {
            let grace = profile.stop.clone().unwrap_or_default().grace_ms;
            let speaker = Speaker::of(&self.ground.options, job, name, generation);
            // The rest of it is for handing back.
            (speaker, Duration::from_millis(grace * 4 / 5))
        })
    }

    /// Takes over the process that another daemon left.
    async fn adopt(&mut self, record: Record) -> Result<(), Leaving> {
        let Record { agent_id, name, generation, launch, phase, .. } = record;
        let lost = |why: &str| Ending { exit: None, note: Some(why.into()) };
        let Some(launch) = launch else {
            self.ended(lost("nothing is known of it any more"), None);
            return Ok(());
        };
        let job = self.ground.job((agent_id, &name), generation, launch);
        if job.launch.profile.mode == Some(Mode::PerTask) {
            // It ended with the last daemon: nothing but its own tasks was lost.
            return match self.start(job, generation).await {
                Ok(started) => self.attend(started, generation, phase).await,
                Err(NotStarted { reason, .. }) => {
                    self.ended(lost(&reason), None);
                    Ok(())
                }
            };
        }
        let found = match self.ground.driver(&job.launch) {
            Ok(driver) => driver.adopt(job.clone()).await,
            Err(NotStarted { reason, .. }) => Found::Over(lost(&reason)),
        };
        match found {
            Found::Over(ending) => {
                self.last_words(&job, generation).await;
                self.ended(ending, None);
                Ok(())
            }
            Found::Running(run) => {
                tracing::info!(agent = %agent_id, generation, pid = run.pid(), "taken over");
                let relay = self.ground.relay(&job).unwrap_or_else(|error| {
                    tracing::error!(agent = %agent_id, %error, "the agent is cut off");
                    None
                });
                Ground::hand_over_socket(&job);
                self.attend(Started { run, job, _relay: relay }, generation, phase).await
            }
        }
    }

    /// From a running process to its end.
    async fn attend(
        &mut self,
        started: Started,
        generation: u32,
        from: Phase,
    ) -> Result<(), Leaving> {
        let Started { run, job, _relay } = started;
        let launch = &job.launch;
        let grace = Duration::from_millis(launch.profile.stop.clone().unwrap_or_default().grace_ms);
        let ended = CancellationToken::new();
        tokio::spawn(self.pump(&job, generation, &run).run(ended.clone()));
        let _ended = ended.drop_guard();

        if from == Phase::Starting && probe::waits(&launch.profile) {
            self.see(Phase::Started, Seen { pid: run.pid(), ..Seen::default() });
        }
        let (tell, mut findings) = mpsc::channel(16);
        let mut watcher = Some(self.watcher(launch, &run, from, tell));
        let mut failed = None;
        // Where the last daemon began to end it, this one goes on.
        let mut stage = match from {
            Phase::Terminating => Stage::Asked(Instant::now() + grace),
            Phase::Killing => {
                run.kill().await;
                Stage::Killed
            }
            Phase::Starting
            | Phase::Started
            | Phase::Warming
            | Phase::Ready
            | Phase::NotReady
            | Phase::Unhealthy
            | Phase::Exited
            | Phase::StartFailed
            | Phase::Lost => Stage::Runs,
        };
        let end = run.wait();
        tokio::pin!(end);
        let mut phase = from;
        let ending = loop {
            let wish = self.goal.borrow_and_update().ends(generation);
            let wish = wish.or(failed.is_some().then_some(false));
            match (stage, wish) {
                (Stage::Runs, Some(false)) => {
                    self.see(
                        Phase::Terminating,
                        Seen { detail: failed.clone(), ..Seen::default() },
                    );
                    stage = Stage::Asked(Instant::now() + grace);
                    run.terminate().await;
                }
                (Stage::Runs | Stage::Asked(_), Some(true)) => {
                    self.see(Phase::Killing, Seen::default());
                    stage = Stage::Killed;
                    run.kill().await;
                }
                (Stage::Runs | Stage::Asked(_) | Stage::Killed, Some(_) | None) => {}
            }
            if !matches!(stage, Stage::Runs) {
                watcher = None;
            }
            let patience = async {
                match stage {
                    Stage::Asked(until) => sleep_until(until).await,
                    Stage::Runs | Stage::Killed => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ending = &mut end => break ending,
                changed = self.goal.changed() => if changed.is_err() {
                    run.let_go().await;
                    return Err(Leaving);
                },
                Some(finding) = findings.recv(), if watcher.is_some() => match finding {
                    Finding::Is(now, detail) if now != phase || now == Phase::Warming => {
                        phase = now;
                        self.see(now, Seen { pid: run.pid(), detail, ..Seen::default() });
                    }
                    Finding::Is(..) => {}
                    Finding::Failed(why) => failed = Some(why),
                },
                () = patience => {
                    let why = format!("it did not end within {} ms", grace.as_millis());
                    self.see(Phase::Killing, Seen::said(why));
                    stage = Stage::Killed;
                    run.kill().await;
                }
            }
        };
        drop(watcher);
        self.ended(ending, failed);
        Ok(())
    }

    fn watcher(
        &self,
        launch: &Launch,
        run: &Arc<dyn Run>,
        from: Phase,
        tell: mpsc::Sender<Finding>,
    ) -> AbortOnDropHandle<()> {
        let subject = Subject {
            agent: self.agent,
            run: Arc::clone(run),
            link: self.ground.link.clone(),
            permits: Arc::clone(&self.ground.probes),
        };
        let profile = Arc::new(launch.profile.clone());
        AbortOnDropHandle::new(tokio::spawn(probe::watch(subject, profile, from, tell)))
    }

    fn pump(&self, job: &Job, generation: u32, run: &Arc<dyn Run>) -> Pump {
        Pump {
            link: self.ground.link.clone(),
            agent: self.agent,
            generation,
            run: Arc::clone(run),
            file: job.dir.join("offsets.json"),
        }
    }

    /// Publishes what a process wrote that ended while no daemon was there.
    async fn last_words(&self, job: &Job, generation: u32) {
        let Ok(driver) = self.ground.driver(&job.launch) else { return };
        if let Some(run) = driver.remains(job) {
            let ended = CancellationToken::new();
            ended.cancel();
            tokio::spawn(self.pump(job, generation, &run).run(ended));
        }
    }

    /// Notes how it ended. `failed`: why it never came to be ready.
    fn ended(&self, ending: Ending, failed: Option<String>) {
        let Ending { exit, note } = ending;
        let phase = match (&exit, &failed) {
            (_, Some(_)) => Phase::StartFailed,
            (Some(_), None) => Phase::Exited,
            (None, None) => Phase::Lost,
        };
        self.over(phase, Seen { exit, detail: failed.or(note), ..Seen::default() });
    }

    fn over(&self, phase: Phase, seen: Seen) {
        self.see(phase, seen);
        // What comes next is the managers' to say.
        self.ground.sync.notify_one();
    }

    fn see(&self, phase: Phase, seen: Seen) {
        let detail = seen.detail.as_deref().unwrap_or_default();
        tracing::info!(agent = %self.agent, phase = phase.as_str(), detail, "seen");
        self.ground.book.observe(self.agent, phase, seen);
    }
}

struct Started {
    run: Arc<dyn Run>,
    job: Job,
    _relay: Option<AbortOnDropHandle<()>>,
}

/// How far a process is on its way out.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Runs,
    /// Until when it may end by itself.
    Asked(Instant),
    Killed,
}

#[cfg(test)]
mod tests {
    use domain::node::Want;

    use super::*;

    #[test]
    fn a_process_goes_for_a_newer_generation_or_for_good() {
        let run = |generation| {
            let (agent_id, name) = (AgentId::nth(1), "a".into());
            let wanted = Wanted { agent_id, name, generation, want: Want::Run, launch: None };
            Goal::Run(Box::new(wanted))
        };
        assert_eq!(Goal::Stay.ends(2), None);
        assert_eq!(run(2).ends(2), None);
        assert_eq!(run(1).ends(2), None, "an old wish changes nothing");
        assert_eq!(run(3).ends(2), Some(false));
        assert_eq!(Goal::End { kill: false }.ends(2), Some(false));
        assert_eq!(Goal::End { kill: true }.ends(2), Some(true));
    }
}
