//! Starting a sandbox and holding it to its limits.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use super::channel::{self, Go, Report};
use super::launch::{
    await_program, block_signals, make_group, namespaces, open_trees, pass, prepare,
};
use super::output::Output;
use super::{OWN_EXE, STAGE_ARG};
use crate::cgroup::Group;
use crate::error::StartError;
use crate::exit::{Exit, State, Usage};
use crate::kill::kill_all;
use crate::lock::files::View;
use crate::logs::Stream;
use crate::plan::{Layer, Plan};
use crate::proc::{Process, boot_id};
use crate::spec::{Level, Workspace};
use crate::watch::Watch;

pub(super) struct Supervision {
    plan: Plan,
    group: Group,
    channel: OwnedFd,
    signals: SignalFd,
    outputs: [Output; 2],
    /// Process 1 of the namespace, or the program.
    root: Process,
    /// How the program ended, as init reported it or as it was collected.
    ended: Option<(Option<i32>, Option<i32>)>,
    collected: bool,
    since: Instant,
    watch: Watch,
    exit: Exit,
}

impl Supervision {
    /// Starts the program; returns when it was executed.
    ///
    /// # Errors
    /// Why it was not; nothing of it is left then.
    pub fn start(mut plan: Plan, input: Option<Vec<u8>>) -> Result<(Self, State), StartError> {
        let failed =
            |what: &'static str| move |e: &dyn std::fmt::Display| StartError::supervisor(what, e);
        set_child_subreaper(Some(getpid())).map_err(|e| failed("subreaper")(&e))?;
        let signals = block_signals().map_err(|e| failed("signals")(&e))?;
        prepare(&mut plan)?;
        let trees = open_trees(&mut plan)?;
        let group = make_group(&mut plan)?;
        let begun = Self::begin(plan, input, trees, &group, signals);
        if begun.is_err() {
            kill_all(&group, Duration::from_secs(5));
            group.remove();
        }
        begun
    }

    fn begin(
        plan: Plan,
        input: Option<Vec<u8>>,
        trees: Vec<OwnedFd>,
        group: &Group,
        signals: SignalFd,
    ) -> Result<(Self, State), StartError> {
        let failed = |error: io::Error| StartError::supervisor("start", error);
        let (channel, theirs) = channel::pair().map_err(|error| failed(error.into()))?;
        let (out, out_writer) = io::pipe().map_err(failed)?;
        let (err, err_writer) = io::pipe().map_err(failed)?;
        let limits = &plan.spec.limits;
        let outputs = [
            Output::new(&plan.dir, Stream::Stdout, out, limits).map_err(failed)?,
            Output::new(&plan.dir, Stream::Stderr, err, limits).map_err(failed)?,
        ];
        let mut command = Command::new(OWN_EXE);
        command.args([STAGE_ARG, "enter"]).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(out_writer).stderr(err_writer);
        let entering = command.spawn().map_err(failed)?;
        drop(command); // and with it the other ends
        let go = Go {
            outer_uid: plan.outer_uid,
            namespaces: namespaces(&plan),
            keep_capabilities: !plan.has(Layer::Capabilities),
            map_root: !plan.has(Layer::UserMapping),
        };
        channel::send(&channel, &go, &[]).map_err(failed)?;
        pass(&channel, &plan, input.as_deref(), &trees).map_err(failed)?;
        drop(trees);
        let since = Instant::now();
        let (root, program) = await_program(&channel, &plan, group, entering.id().cast_signed())?;
        let state = State {
            boot: boot_id(),
            shim: Process::of(getpid().as_raw_pid()).map_err(failed)?,
            root,
            program,
            level: plan.level,
            started_at_ms: now_ms(),
            group: group.clone(),
        };
        let watch = Watch::new(&plan, &View::of(&plan));
        let supervision = Self {
            plan,
            group: group.clone(),
            channel,
            signals,
            outputs,
            root,
            ended: None,
            collected: false,
            since,
            watch,
            exit: Exit::default(),
        };
        Ok((supervision, state))
    }

    /// Ends the program before anybody knows of it.
    pub fn abandon(self) {
        kill_all(&self.group, Duration::from_secs(5));
        self.group.remove();
    }

    /// Waits for the end, and makes it the end of everything the program started.
    pub fn run(mut self) -> Exit {
        while !self.collected {
            self.turn();
        }
        kill_all(&self.group, Duration::from_secs(5));
        // Every writer is dead, so the pipes end; a descriptor passed elsewhere must not hold us.
        let until = Instant::now() + Duration::from_secs(2);
        while self.outputs.iter().any(|output| !output.ended()) && Instant::now() < until {
            self.outputs.iter_mut().for_each(|output| output.take(true));
            if self.outputs.iter().any(|output| !output.ended()) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.finish()
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let pauses = self.outputs.iter().filter_map(Output::pause);
        let deadline = self.deadline().map(|at| at.saturating_duration_since(now));
        let wait = pauses.chain(deadline).chain(self.watch.next(now)).min();
        let timeout = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        {
            let mut ready = vec![PollFd::new(&self.signals, PollFlags::IN)];
            if self.ended.is_none() {
                ready.push(PollFd::new(&self.channel, PollFlags::IN));
            }
            for output in &mut self.outputs {
                ready.extend(output.wanted(now).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            }
            let _ = poll(&mut ready, timeout.as_ref());
        }
        self.outputs.iter_mut().for_each(|output| output.take(false));
        self.hear();
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != libc::SIGCHLD.cast_unsigned()
                && signal.ssi_signo != libc::SIGHUP.cast_unsigned()
            {
                self.exit.killed = true;
                self.end();
            }
        }
        if self.deadline().is_some_and(|at| Instant::now() >= at) && !self.exit.wall_timeout {
            self.exit.wall_timeout = true;
            self.end();
        }
        match self.watch.look(&self.plan, Instant::now()) {
            Some(crate::watch::Excess::Memory) => {
                self.exit.oom = true;
                self.end();
            }
            Some(crate::watch::Excess::Disk) => {
                self.exit.disk_full = true;
                self.end();
            }
            None => {}
        }
        self.collect();
    }

    fn deadline(&self) -> Option<Instant> {
        let wall = self.plan.spec.limits.wall_ms.filter(|_| !self.exit.wall_timeout)?;
        self.since.checked_add(Duration::from_millis(wall))
    }

    /// Takes init's word on how the program ended.
    fn hear(&mut self) {
        while self.ended.is_none() {
            match channel::receive::<Report>(&self.channel, RecvFlags::DONTWAIT) {
                Ok(Some((Report::Exited { code, signal }, _))) => self.ended = Some((code, signal)),
                Ok(Some(_)) => {}
                // Init is gone without a word; its own status is all there is.
                Ok(None) if self.plan.level == Level::Namespace => self.ended = Some((None, None)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn collect(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_pid() == self.root.pid {
                self.collected = true;
                self.hear();
                if self.ended.is_none_or(|ended| ended == (None, None)) {
                    self.ended = Some((status.exit_status(), status.terminating_signal()));
                }
            }
        }
    }

    /// Kills the root of everything; the rest follows when it was collected.
    fn end(&self) {
        if self.root.alive()
            && let Some(pid) = Pid::from_raw(self.root.pid)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.group.kill();
    }

    fn finish(mut self) -> Exit {
        let (code, signal) = self.ended.unwrap_or_default();
        self.exit.oom |= self.group.out_of_memory() && (code, signal) != (Some(0), None);
        (self.exit.code, self.exit.signal) = (code, signal);
        self.exit.at_ms = now_ms();
        let peak = self.group.memory().map(|(_, peak)| peak);
        let (cpu_ms, largest) = rusage();
        self.exit.usage = Usage {
            cpu_ms,
            max_rss_bytes: peak.unwrap_or(largest),
            wall_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            output_bytes: self.outputs.iter().map(|output| output.written).sum(),
            dropped_bytes: self.outputs.iter().map(|output| output.dropped).sum(),
        };
        self.group.remove();
        if !self.plan.has(Layer::Root) {
            let view = View::of(&self.plan);
            let _ = fs::remove_dir_all(view.secrets);
            let _ = fs::remove_dir_all(view.tmp);
            if self.plan.spec.workspace == Workspace::Tmpfs {
                let _ = fs::remove_dir_all(view.workspace);
            }
        }
        self.exit
    }
}

/// Processor time of everything collected, and memory of the largest process.
fn rusage() -> (u64, u64) {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return (0, 0) };
    let ms = |time: nix::sys::time::TimeVal| {
        (time.tv_sec() * 1000 + time.tv_usec() / 1000).cast_unsigned()
    };
    (ms(usage.user_time()) + ms(usage.system_time()), usage.max_rss().cast_unsigned() << 10)
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
