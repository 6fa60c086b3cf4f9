//! Virtual time, the way of commands to the processor and of answers back, the processor.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::task::{Assignment, TaskCommand};
use domain::{AgentId, Code, Command, Outcome, Problem, Status, TaskId, Timestamp};

use super::agents::{Doing, Worker};
use super::checks::Checker;
use super::dice::Dice;
use super::faults::Fault;
use super::minds::{Claim, Mind, Which};
use super::operators::Plan;
use crate::CommandEnvelope;
use crate::process::tests::log::Log;
use crate::process::tests::memory::start_of_time;

/// When whoever sent a command sends it again.
const PATIENCE: TimeDelta = TimeDelta::seconds(2);
/// Steps that a failure shows.
const SHOWN: usize = 60;

/// What happens at a time.
#[derive(Debug)]
pub enum Act {
    Submit,
    Operate,
    Misfortune,
    /// From here on nothing goes wrong any more.
    Quiet,
    Tick {
        mind: u64,
    },
    /// A scheduler that lost its lease notices.
    Gone {
        mind: u64,
    },
    /// The wire answered whether an agent listens.
    Heard {
        mind: u64,
        agent: AgentId,
    },
    /// A claim comes to the scheduler.
    Claim {
        claim: u64,
    },
    ClaimEnds {
        claim: u64,
    },
    Arrive {
        ticket: u64,
        command: Box<CommandEnvelope>,
    },
    Answer {
        ticket: u64,
        outcome: Box<Outcome>,
    },
    Timeout {
        ticket: u64,
        tried: u32,
    },
    Deliver {
        agent: usize,
        life: u64,
        tasks: Vec<Assignment>,
    },
    Agent {
        agent: usize,
        life: u64,
        doing: Doing,
    },
}

/// Who waits for an outcome.
#[derive(Debug, Clone)]
pub enum From {
    Nobody,
    Barrier { mind: u64 },
    Assign { mind: u64, errand: u64, nth: usize },
    TakeBack { mind: u64, task: TaskId, token: u64 },
    Manager { mind: u64, which: Which },
    Agent { agent: usize, life: u64, task: TaskId, last: bool },
}

#[derive(Debug)]
struct Asked {
    command: CommandEnvelope,
    from: From,
    tried: u32,
    tries: u32,
}

pub struct World {
    pub dice: Dice,
    pub plan: Plan,
    pub fault: Option<Fault>,
    pub now: Timestamp,
    began: Instant,
    agenda: BTreeMap<(Timestamp, u64), Act>,
    serial: u64,
    pub quiet: bool,
    pub log: Log,
    pub checker: Checker,
    /// The newest token of the managers' lease, and the newest the processor has heard of.
    pub lease: i64,
    known: i64,
    pub minds: BTreeMap<u64, Mind>,
    pub leader: u64,
    pub claims: BTreeMap<u64, Claim>,
    pub workers: Vec<Worker>,
    pub submitted: u128,
    asked: HashMap<u64, Asked>,
    pub steps: u64,
    /// The last steps, where somebody wants to see them.
    pub story: Option<VecDeque<String>>,
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>, shown: bool) -> Self {
        let mut dice = Dice::of(seed);
        let plan = Plan::drawn(&mut dice);
        let mut world = Self {
            dice,
            plan,
            fault,
            now: start_of_time(),
            began: Instant::now(),
            agenda: BTreeMap::new(),
            serial: 0,
            quiet: false,
            log: Log::default(),
            checker: Checker::default(),
            lease: 0,
            known: 0,
            minds: BTreeMap::new(),
            leader: 0,
            claims: BTreeMap::new(),
            workers: Vec::new(),
            submitted: 0,
            asked: HashMap::new(),
            steps: 0,
            story: shown.then(VecDeque::new),
        };
        world.open();
        world
    }

    /// Takes the next step, and checks; false when nothing is left to happen.
    pub fn step(&mut self) -> Result<bool, String> {
        let Some(((at, _), act)) = self.agenda.pop_first() else { return Ok(false) };
        self.now = self.now.max(at);
        self.steps += 1;
        match act {
            Act::Submit => self.submit(),
            Act::Operate => self.operate(),
            Act::Misfortune => self.misfortune(),
            Act::Quiet => self.calm(),
            Act::Tick { mind } => self.tick(mind)?,
            Act::Gone { mind } => self.gone(mind),
            Act::Heard { mind, agent } => self.heard(mind, agent),
            Act::Claim { claim } => self.claim(claim)?,
            Act::ClaimEnds { claim } => self.claim_ends(claim),
            Act::Arrive { ticket, command } => self.arrive(ticket, &command)?,
            Act::Answer { ticket, outcome } => self.answer(ticket, *outcome)?,
            Act::Timeout { ticket, tried } => self.timed_out(ticket, tried)?,
            Act::Deliver { agent, life, tasks } => self.deliver(agent, life, tasks),
            Act::Agent { agent, life, doing } => self.act(agent, life, doing),
        }
        Ok(true)
    }

    pub fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Something happens in so many milliseconds.
    pub fn after(&mut self, ms: u64, act: Act) {
        self.at(self.now + TimeDelta::milliseconds(ms as i64), act);
    }

    pub fn at(&mut self, at: Timestamp, act: Act) {
        let serial = self.serial();
        self.agenda.insert((at, serial), act);
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        let since = self.now - start_of_time();
        if let Some(story) = &mut self.story {
            if story.len() == SHOWN {
                story.pop_front();
            }
            story.push_back(format!("{:>9} ms  {}", since.num_milliseconds(), what()));
        }
    }

    /// The same time by a monotonic clock.
    pub fn instant(&self) -> Instant {
        let since = (self.now - start_of_time()).to_std().unwrap_or_default();
        self.began + Duration::from_secs(1_000_000) + since
    }

    /// On the way from one process to another, in milliseconds: now and then long enough
    /// for others to overtake.
    fn latency(&mut self) -> u64 {
        match self.dice.below(100) {
            _ if self.quiet => self.dice.between(1, 5),
            0..90 => self.dice.between(1, 40),
            90..98 => self.dice.between(40, 1_500),
            _ => self.dice.between(1_500, 8_000),
        }
    }

    pub fn goes_wrong(&mut self, percent: u64) -> bool {
        !self.quiet && self.dice.chance(percent)
    }

    /// Has a command decided: sends it until there is an answer, at most so many times.
    pub fn ask(&mut self, command: CommandEnvelope, tries: u32, from: From) {
        let ticket = self.serial();
        self.asked.insert(ticket, Asked { command, from, tried: 0, tries });
        self.post(ticket);
    }

    fn post(&mut self, ticket: u64) {
        let Some(asked) = self.asked.get_mut(&ticket) else { return };
        asked.tried += 1;
        let (command, tried) = (Box::new(asked.command.clone()), asked.tried);
        self.at(self.now + PATIENCE, Act::Timeout { ticket, tried });
        if self.goes_wrong(3) {
            return self.note(|| format!("lost: {}", Shown(&command)));
        }
        if self.goes_wrong(3) {
            let late = self.latency();
            self.after(late, Act::Arrive { ticket, command: command.clone() });
        }
        let late = self.latency();
        self.after(late, Act::Arrive { ticket, command });
    }

    fn timed_out(&mut self, ticket: u64, tried: u32) -> Result<(), String> {
        let Some(asked) = self.asked.get(&ticket).filter(|asked| asked.tried == tried) else {
            return Ok(());
        };
        if asked.tried < asked.tries {
            self.post(ticket);
            return Ok(());
        }
        let outcome = busy(&asked.command);
        self.resolve(ticket, outcome)
    }

    fn answer(&mut self, ticket: u64, outcome: Outcome) -> Result<(), String> {
        let Some(asked) = self.asked.get(&ticket) else { return Ok(()) };
        if outcome.status == Status::Busy && asked.tried < asked.tries {
            return Ok(()); // The timeout sends it again.
        }
        self.resolve(ticket, outcome)
    }

    fn resolve(&mut self, ticket: u64, outcome: Outcome) -> Result<(), String> {
        let Some(Asked { command, from, .. }) = self.asked.remove(&ticket) else { return Ok(()) };
        match from {
            From::Nobody => {}
            From::Barrier { mind } => self.barred(mind, &outcome),
            From::Assign { mind, errand, nth } => self.assigned(mind, errand, nth, &outcome)?,
            From::TakeBack { mind, task, token } => self.taken_back(mind, task, token, &outcome),
            From::Manager { mind, which } => self.settled(mind, which, &command, &outcome),
            From::Agent { agent, life, task, last } => {
                if outcome.status == Status::Busy {
                    self.ask(command, 1, From::Agent { agent, life, task, last });
                } else if last {
                    self.answered(agent, life, task);
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, ticket: u64, command: &CommandEnvelope) -> Result<(), String> {
        let outcome = self.decide(command)?;
        if self.goes_wrong(3) {
            self.note(|| format!("its answer is lost: {}", Shown(command)));
            return Ok(());
        }
        let late = self.latency();
        self.after(late, Act::Answer { ticket, outcome: Box::new(outcome) });
        Ok(())
    }

    /// The processor's part (`processor`, `fence`).
    fn decide(&mut self, command: &CommandEnvelope) -> Result<Outcome, String> {
        if self.goes_wrong(2) {
            return Ok(busy(command));
        }
        if let Some(token) = command.fence {
            // A token that it does not know it asks the database for.
            if token > self.known {
                self.known = self.lease;
            }
            if token < self.known && self.fault != Some(Fault::ForgetsFence) {
                let problem = Problem::from(&crate::fence::stale());
                let (id, stream) = (command.command_id, command.stream_id);
                return Ok(Outcome::undecided(Status::Invalid, id, stream, problem));
            }
        }
        let bent = (self.fault == Some(Fault::IgnoresTokens)).then(|| self.bent(command));
        let before = self.log.events.len();
        let outcome = self.log.decide(bent.as_ref().unwrap_or(command), self.now);
        self.note(|| {
            let code = outcome.problem.as_ref().map(|p| p.detail.clone()).unwrap_or_default();
            let events: Vec<_> = outcome.events.iter().map(|e| e.kind.as_str()).collect();
            let status = outcome.status;
            format!("{} -> {status:?} {events:?} {code}", Shown(command))
        });
        self.checker.took(command, &outcome, &self.log.events[before..])?;
        if self.log.events.len() > before {
            self.wake_all();
        }
        Ok(outcome)
    }

    /// Something that was decided before all began.
    pub fn settle(&mut self, command: &CommandEnvelope) {
        let outcome = self.log.decide(command, self.now);
        let took =
            self.checker.took(command, &outcome, &self.log.events[self.log.events.len() - 1..]);
        assert_eq!(took, Ok(()));
    }

    /// The command with the token that is valid.
    fn bent(&self, command: &CommandEnvelope) -> CommandEnvelope {
        let mut bent = command.clone();
        let known = self.checker.model.tasks.get(&TaskId(command.stream_id));
        let Some(held) = known.and_then(|task| task.held) else { return bent };
        let Command::Task(asked) = &mut bent.command else { return bent };
        if let TaskCommand::Complete(by) = asked {
            by.lease_token = held.token;
        } else if let TaskCommand::Progress(by) = asked {
            by.lease_token = held.token;
        } else {
            return bent;
        }
        bent.actor = format!("agent:{}", held.agent);
        bent
    }

    /// Every scheduler sees the new end of the log, each after a while of its own.
    fn wake_all(&mut self) {
        let ids: Vec<u64> = self.minds.keys().copied().collect();
        for id in ids {
            let lag = if self.goes_wrong(4) {
                self.dice.between(100, 4_000)
            } else {
                self.dice.between(1, 15)
            };
            self.wake(id, lag);
        }
    }
}

fn busy(command: &CommandEnvelope) -> Outcome {
    let problem = Problem::new(Code::Busy, "not taken");
    Outcome::undecided(Status::Busy, command.command_id, command.stream_id, problem)
}

/// A command for the story.
struct Shown<'a>(&'a CommandEnvelope);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(command) = self;
        let (actor, stream, fence) = (&command.actor, command.stream_id, command.fence);
        let body = String::from_utf8_lossy(&command.command.body()).into_owned();
        let body: String = body.chars().take(160).collect();
        write!(f, "{actor}")?;
        if let Some(token) = fence {
            write!(f, "#{token}")?;
        }
        write!(f, " {} {stream} {body}", command.command.name())
    }
}
