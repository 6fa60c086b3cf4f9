//! The schedulers: the product's pure parts, carried out as `runner`, `deliver` and
//! `handle` do it. Several may live at once; one has the lease.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::TimeDelta;
use domain::profile::Watch;
use domain::task::{Assignment, TaskEvent, TaskState};
use domain::{AgentId, Code, Event, Json, Outcome, Recorded, Status, TaskId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::super::core::{Admission, Hand, Pick, Scheduler};
use super::super::entry::Place;
use super::super::needs::Standing;
use super::super::waiters::{Terms, Waiter};
use super::checks::{Key, Picked, Turns};
use super::faults::Fault;
use super::model::{Model, Task};
use super::world::{Act, From, World};
use crate::process::tests::memory::tenant;
use crate::process::watchdog::Signs;
use crate::process::{Deadlines, Manager, Moment, Watchdog, until};
use crate::{CommandEnvelope, Observation};

/// Tries of `deliver`.
const TRIES: u32 = 5;
const TRIES_BACK: u32 = 10;

#[derive(Debug, Clone, Copy)]
pub enum Which {
    Deadlines,
    Watchdog,
}

/// A claim of an agent that waits.
pub struct Claim {
    pub agent: usize,
    pub life: u64,
    pub id: AgentId,
    pub queue: String,
    pub max: usize,
    pub lease_ms: u64,
    pub start: bool,
    /// The scheduler that has it, its number there, and where the answer comes.
    waits: Option<(u64, u64, oneshot::Receiver<Vec<Assignment>>)>,
}

impl Claim {
    pub fn at(agent: usize, life: u64, id: AgentId, queue: String) -> Self {
        let (max, lease_ms, start, waits) = (1, 10_000, false, None);
        Self { agent, life, id, queue, max, lease_ms, start, waits }
    }
}

/// Picks that are carried out together.
#[derive(Debug)]
struct Errand {
    waiter: Option<Waiter>,
    picks: Vec<Pick>,
    /// What became of each, once it is known.
    ends: Vec<Option<Option<Assignment>>>,
}

/// An outcome that waits until its position is folded.
struct Awaits {
    position: u64,
    errand: u64,
    nth: usize,
    accepted: bool,
    changed: bool,
}

type Seen = Arc<Mutex<HashMap<AgentId, Observation>>>;

pub struct Mind {
    pub token: i64,
    scheduler: Scheduler,
    deadlines: Deadlines,
    watchdog: Watchdog,
    seen: Seen,
    /// The log as far as it is folded here.
    model: Model,
    turns: Turns,
    /// What must be folded before it decides: the head at its start, the barrier's place.
    start: u64,
    barrier: Option<u64>,
    pub live: bool,
    clock: Timestamp,
    tick: Option<Timestamp>,
    errands: BTreeMap<u64, Errand>,
    awaits: Vec<Awaits>,
    reserved: BTreeMap<TaskId, (AgentId, u64)>,
    /// What the last pass gave out: it waited until then.
    pass: BTreeSet<TaskId>,
}

impl World {
    /// A process takes the managers' lease; the one before may not know yet.
    pub fn take_over(&mut self) {
        self.lease += 1;
        let id = self.serial();
        let seen: Seen = Arc::default();
        let signs = seen.clone();
        let look = move |_: &_, agent| {
            let seen = signs.lock().get(&agent).cloned();
            Signs { seen, watch: None }
        };
        let mind = Mind {
            token: self.lease,
            scheduler: Scheduler::under(self.lease.unsigned_abs(), None),
            deadlines: Deadlines::new(None),
            watchdog: Watchdog::new(Box::new(look), Watch::default()),
            seen,
            model: Model::default(),
            turns: Turns::default(),
            start: self.log.events.len() as u64,
            barrier: None,
            live: false,
            clock: self.now,
            tick: None,
            errands: BTreeMap::new(),
            awaits: Vec::new(),
            reserved: BTreeMap::new(),
            pass: BTreeSet::new(),
        };
        self.note(|| format!("scheduler {id} takes the lease"));
        let before = std::mem::replace(&mut self.leader, id);
        if self.minds.contains_key(&before) {
            let notices = self.dice.between(0, 5_000);
            self.after(notices, Act::Gone { mind: before });
        }
        let barrier = crate::fence::barrier(mind.token);
        self.minds.insert(id, mind);
        self.ask(barrier, u32::MAX, From::Barrier { mind: id });
        self.wake(id, 5);
    }

    /// Its claims go with it; what it had sent does not.
    pub fn gone(&mut self, mind: u64) {
        self.note(|| format!("scheduler {mind} is gone"));
        self.minds.remove(&mind);
        self.claims.retain(|_, claim| claim.waits.as_ref().is_none_or(|(at, ..)| *at != mind));
    }

    pub fn barred(&mut self, id: u64, outcome: &Outcome) {
        let Some(mind) = self.minds.get_mut(&id) else { return };
        // A token that is stale by now: it goes when it notices.
        let taken = outcome.status != Status::Invalid;
        mind.barrier = taken.then_some(outcome.decision().position);
        self.wake(id, 1);
    }

    /// Has a scheduler look up in so many milliseconds, if not before.
    pub fn wake(&mut self, id: u64, ms: u64) {
        let at = self.now + TimeDelta::milliseconds(ms as i64);
        let Some(mind) = self.minds.get_mut(&id) else { return };
        if mind.tick.is_none_or(|before| at < before) {
            mind.tick = Some(at);
            self.at(at, Act::Tick { mind: id });
        }
    }

    fn with(
        &mut self,
        id: u64,
        what: impl FnOnce(&mut Self, &mut Mind) -> Result<(), String>,
    ) -> Result<(), String> {
        // Taken out, so that both can be changed.
        let Some(mut mind) = self.minds.remove(&id) else { return Ok(()) };
        let done = what(self, &mut mind);
        self.minds.insert(id, mind);
        done
    }

    pub fn tick(&mut self, id: u64) -> Result<(), String> {
        let due = self.minds.get(&id).is_some_and(|mind| mind.tick == Some(self.now));
        if !due {
            return Ok(());
        }
        self.with(id, |world, mind| {
            mind.tick = None;
            mind.fold(world);
            if !mind.live
                && mind.barrier.is_some_and(|at| mind.model.position >= at.max(mind.start))
            {
                mind.live = true;
                world.note(|| format!("scheduler {id} has caught up"));
            }
            if mind.live { mind.react(id, world) } else { Ok(()) }
        })?;
        let Some(mind) = self.minds.get(&id) else { return Ok(()) };
        let moment = Moment { time: self.now, instant: self.instant() };
        let managers = [mind.deadlines.due(moment), mind.watchdog.due(moment)];
        let tasks = mind.scheduler.next_due().map(|at| until(self.now, at));
        let least = managers.into_iter().flatten().chain(tasks).min().unwrap_or_default();
        let idle = if mind.live { least.as_millis() as u64 } else { 100 };
        self.wake(id, idle.clamp(1, 1_000));
        Ok(())
    }

    /// What the wire says of an agent's ears.
    pub fn heard(&mut self, id: u64, agent: AgentId) {
        let (now, listens) = (self.instant(), self.hears(agent));
        let Some(mind) = self.minds.get_mut(&id) else { return };
        mind.scheduler.heard(agent, listens, now);
        self.wake(id, 1);
    }

    /// A claim comes to whichever scheduler answers them.
    pub fn claim(&mut self, number: u64) -> Result<(), String> {
        let Some(claim) = self.claims.get(&number) else { return Ok(()) };
        let (agent, queue) = (claim.id, claim.queue.clone());
        let (max, lease_ms, start) = (claim.max, Some(claim.lease_ms), claim.start);
        let leads = self.minds.get(&self.leader).filter(|mind| mind.live).map(|_| self.leader);
        let any = || self.minds.iter().find(|(_, mind)| mind.live).map(|(id, _)| *id);
        let Some(id) = leads.or_else(any) else { return Ok(()) };
        let (answer, answered) = oneshot::channel();
        let mut waits = None;
        self.with(id, |world, mind| {
            match mind.scheduler.admit(&tenant(), agent, world.instant()) {
                Admission::Welcome => {}
                Admission::Revive(ready) => {
                    let command = CommandEnvelope { fence: Some(mind.token), ..*ready };
                    world.ask(command, 3, From::Nobody);
                    return Ok(());
                }
                Admission::Unknown | Admission::Refused(_) => return Ok(()),
            }
            let terms = Terms { lease_ms, start };
            let waiter = Waiter { tenant: tenant(), queue, agent, max, terms, answer };
            waits = mind.scheduler.wait(waiter);
            mind.serve(id, world)
        })?;
        if let (Some(waiter), Some(claim)) = (waits, self.claims.get_mut(&number)) {
            claim.waits = Some((id, waiter, answered));
        }
        // One that was served at once may have its answer already.
        self.hand_over();
        Ok(())
    }

    /// The claimant waits no longer.
    pub fn claim_ends(&mut self, number: u64) {
        let Some(claim) = self.claims.get(&number) else { return };
        if let Some((mind, waiter, _)) = &claim.waits
            && let Some(mind) = self.minds.get_mut(mind)
            // Being served just now: the answer is on its way, and sometimes waited for.
            && !mind.scheduler.withdraw(*waiter)
            && !self.dice.chance(30)
        {
            return;
        }
        self.claims.remove(&number);
    }

    /// What claims were answered with, to their agents.
    fn hand_over(&mut self) {
        let mut answers = Vec::new();
        for (number, claim) in &mut self.claims {
            if let Some((.., answered)) = &mut claim.waits
                && let Ok(tasks) = answered.try_recv()
            {
                answers.push((*number, claim.agent, claim.life, tasks));
            }
        }
        for (number, agent, life, tasks) in answers {
            self.claims.remove(&number);
            // An answer that is lost: the leases run out.
            if !self.goes_wrong(2) {
                let late = self.dice.between(1, 30);
                self.after(late, Act::Deliver { agent, life, tasks });
            }
        }
    }

    pub fn assigned(
        &mut self,
        id: u64,
        errand: u64,
        nth: usize,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let decision = outcome.decision();
        let accepted = decision.status == Status::Accepted;
        let code = decision.problem.as_ref().and_then(|problem| problem.code());
        let changed = code == Some(Code::VersionMismatch);
        let position = decision.position;
        self.with(id, |world, mind| {
            mind.awaits.push(Awaits { position, errand, nth, accepted, changed });
            mind.settle(id, world)
        })?;
        self.hand_over();
        self.wake(id, 1);
        Ok(())
    }

    pub fn taken_back(&mut self, id: u64, task: TaskId, token: u64, outcome: &Outcome) {
        let Some(mind) = self.minds.get_mut(&id) else { return };
        if outcome.decision().status != Status::Accepted {
            mind.scheduler.not_told(task, token);
        }
        self.wake(id, 1);
    }

    pub fn settled(&mut self, id: u64, which: Which, command: &CommandEnvelope, out: &Outcome) {
        let moment = Moment { time: self.now, instant: self.instant() };
        let Some(mind) = self.minds.get_mut(&id) else { return };
        match which {
            Which::Deadlines => mind.deadlines.settle(command, out, moment),
            Which::Watchdog => mind.watchdog.settle(command, out, moment),
        }
        self.wake(id, 1);
    }

    /// Why a task is not given out, by the leader.
    pub fn why(&self, task: TaskId) -> Option<Vec<&'static str>> {
        let mind = self.minds.get(&self.leader).filter(|mind| mind.live)?;
        let reasons = mind.scheduler.why(&tenant(), task)?;
        Some(reasons.into_iter().map(|waits| waits.code).collect())
    }
}

impl Mind {
    fn fold(&mut self, world: &World) {
        for event in &world.log.events[self.model.position as usize..] {
            self.charge(event);
            // Its event ends a reservation.
            if let Ok(Event::Task(TaskEvent::Assigned(to))) = event.event()
                && let Some(made) = &to.decision
                && made.session == self.token.unsigned_abs()
            {
                self.reserved.retain(|_, by| by.1 != made.nth);
            }
            // Said at the head already, if anything is wrong with it.
            let _ = self.model.apply(event);
            if let Ok(Event::Queue(decided)) = event.event() {
                self.turns.forget(decided.queue());
            }
            let told = world.fault.map_or_else(|| Some(event.clone()), |fault| fault.told(event));
            if let Some(told) = told {
                self.scheduler.apply(&told);
            }
            let began = matches!(&*event.event_type, "assigned" | "lease_extended");
            if !(began && world.fault == Some(Fault::ForgetsLeases)) {
                self.deadlines.apply(event);
            }
            self.watchdog.apply(event);
        }
    }

    fn react(&mut self, id: u64, world: &mut World) -> Result<(), String> {
        self.settle(id, world)?;
        self.serve(id, world)?;
        for (tenant, task) in self.scheduler.board.take_lookups(32) {
            let known = world.checker.model.tasks.get(&task);
            if known.is_some_and(|task| task.state == TaskState::Done) {
                let done = Standing { state: TaskState::Done, archived: false, cause: 0, at: 0 };
                self.scheduler.looked_up(&tenant, task, Some(done));
            }
        }
        let now = world.instant();
        *self.seen.lock() = world.seen();
        let seen = self.seen.lock().clone();
        let lives = |_: &_, agent| seen.get(&agent).map(|seen| seen.received);
        for (_, agent) in self.scheduler.ask(true, now, 64, lives) {
            let late = world.dice.between(1, 20);
            world.after(late, Act::Heard { mind: id, agent });
        }
        let moment = Moment { time: world.now, instant: now };
        for (which, commands) in [
            (Which::Deadlines, self.deadlines.react(moment)),
            (Which::Watchdog, self.watchdog.react(moment)),
        ] {
            let mut commands = commands;
            // The watchdog goes through its agents in no order.
            commands.sort_by_key(|command| (command.stream_id, command.command_id));
            for command in commands {
                let command = CommandEnvelope { fence: Some(self.token), ..command };
                world.ask(command, 1, From::Manager { mind: id, which });
            }
        }
        self.check(world)
    }

    /// Gives out what can be given out, as `deliver::serve` does.
    fn serve(&mut self, id: u64, world: &mut World) -> Result<(), String> {
        self.clock = world.now;
        self.scheduler.advance(world.now);
        let hands = self.scheduler.serve();
        if self.scheduler.is_unfinished() {
            let at = world.now + TimeDelta::milliseconds(1);
            self.tick = Some(at);
            world.at(at, Act::Tick { mind: id });
        }
        let mut picks: Vec<&Pick> = hands.iter().flat_map(picks_of).collect();
        picks.sort_by_key(|pick| pick.id);
        self.pass = picks.iter().map(|pick| pick.task).collect();
        for pick in picks {
            if let Some(command) = &pick.assign {
                self.picked(pick, command, world)?;
            }
        }
        for hand in hands {
            let (waiter, picks) = match hand {
                Hand::Claim(waiter, picks) => (Some(waiter), picks),
                Hand::Push(pick) => (None, vec![*pick]),
            };
            let errand = world.serial();
            let mut ends = Vec::new();
            for (nth, pick) in picks.iter().enumerate() {
                let Some(command) = &pick.assign else {
                    ends.push(Some(self.scheduler.assignment(pick, Json::null())));
                    continue;
                };
                ends.push(None);
                let command = CommandEnvelope { fence: Some(self.token), ..command.clone() };
                world.ask(command, TRIES, From::Assign { mind: id, errand, nth });
                if world.fault == Some(Fault::ReservesNothing) {
                    self.scheduler.put_back(pick, false);
                }
            }
            self.errands.insert(errand, Errand { waiter, picks, ends });
            self.finish(id, errand, world);
        }
        Ok(())
    }

    /// What holds of every pick, by what this scheduler knows.
    fn picked(
        &mut self,
        pick: &Pick,
        command: &CommandEnvelope,
        world: &mut World,
    ) -> Result<(), String> {
        let (task, agent) = (pick.task, pick.agent);
        let fault = |what: &str| Err(format!("{task} was picked for {agent}: {what}"));
        let Some(entry) = self.model.tasks.get(&task) else { return fault("unknown") };
        let Some(facts) = self.model.agents.get(&agent) else { return fault("unknown agent") };
        if entry.state != TaskState::Queued || entry.held.is_some() {
            return fault("it does not wait");
        }
        if self.reserved.contains_key(&task) {
            return fault("it is on its way already");
        }
        if entry.not_before().is_some_and(|at| at > self.clock) {
            return fault("before its time");
        }
        if !self.model.is_free(entry) && !world.checker.model.is_free(entry) {
            return fault("before what it waits for");
        }
        if !self.model.queue(&entry.queue).gives(entry.position) {
            return fault("its queue gives nothing");
        }
        let able = entry.capabilities.iter().all(|word| facts.capabilities.contains(word));
        let meant = entry.assignees.is_empty()
            || entry.assignees.iter().any(|who| *who == agent.to_string());
        if !(able && meant && facts.state.takes_work()) {
            return fault("it does not fit");
        }
        // A reservation ends when the log shows the task elsewhere.
        let holds = self.model.tasks.iter().filter(|(id, task)| match task.held {
            Some(held) => held.agent == agent,
            None => task.is_open() && self.reserved.get(id).is_some_and(|by| by.0 == agent),
        });
        if holds.count() >= facts.slots {
            return fault("it has no slot");
        }
        let (folded, at, slots) = (self.model.position, world.now, facts.slots);
        let (queue, urgency) = (entry.queue.clone(), self.class(entry));
        world.note(|| format!("picked {task} of {queue}/{urgency} for {agent} at {folded}"));
        // One that has lost the lease picks in vain.
        if world.plan.shares && world.lease == self.token {
            let mut turns = std::mem::take(&mut self.turns);
            let free = |id: TaskId, other: &Task| {
                !self.reserved.contains_key(&id)
                    && other.not_before().is_none_or(|at| at <= self.clock)
                    && self.model.is_free(other)
                    && self.model.queue(&other.queue).gives(other.position)
                    && (self.pass.contains(&id) || self.waits(id))
            };
            let fair = turns.picked(&self.model, task, self.clock, free);
            self.turns = turns;
            fair?;
        }
        let limits = Key::of(&self.model, entry);
        let picked = Picked { folded, at, slots, limits };
        world.checker.picks.insert((command.command_id, self.token, agent), picked);
        self.reserved.insert(task, (agent, pick.id));
        Ok(())
    }

    /// An assignment of ours that had been given up, and came about all the same, counts
    /// as a service twice.
    fn charge(&mut self, event: &Recorded) {
        let task = TaskId(event.stream_id);
        let Some(known) = self.model.tasks.get(&task) else { return };
        if let Ok(Event::Task(TaskEvent::Assigned(to))) = event.event()
            && self.live
            && self.reserved.get(&task).map(|by| by.0) != Some(to.agent_id)
        {
            let level = self.model.queue(&known.queue).level(known, event.recorded_at);
            self.turns.charge(&known.queue, level);
        }
    }

    fn waits(&self, task: TaskId) -> bool {
        self.scheduler.board.task(task).is_some_and(|entry| entry.place == Place::Waiting)
    }

    fn class(&self, task: &Task) -> usize {
        self.model.queue(&task.queue).level(task, self.clock)
    }

    /// The outcomes whose position is folded.
    fn settle(&mut self, id: u64, world: &mut World) -> Result<(), String> {
        let folded = self.model.position;
        let (ready, later) = std::mem::take(&mut self.awaits)
            .into_iter()
            .partition::<Vec<_>, _>(|await_| await_.position <= folded);
        self.awaits = later;
        for Awaits { errand, nth, accepted, changed, .. } in ready {
            let Some(under_way) = self.errands.get_mut(&errand) else { continue };
            let pick = &under_way.picks[nth];
            if self.reserved.get(&pick.task).is_some_and(|by| by.1 == pick.id) {
                self.reserved.remove(&pick.task);
            }
            under_way.ends[nth] = Some(if accepted {
                self.scheduler.assignment(pick, Json::null())
            } else {
                self.scheduler.put_back(pick, !changed);
                None
            });
            self.finish(id, errand, world);
        }
        Ok(())
    }

    /// Tells the agent, once all of an errand is decided.
    fn finish(&mut self, id: u64, number: u64, world: &mut World) {
        let done = self.errands.get(&number).is_some_and(|e| e.ends.iter().all(Option::is_some));
        let Some(errand) = done.then(|| self.errands.remove(&number)).flatten() else { return };
        let ends: Vec<Option<Assignment>> = errand.ends.into_iter().flatten().collect();
        let heard = match errand.waiter {
            Some(waiter) => waiter.answer.send(ends.iter().flatten().cloned().collect()).is_ok(),
            None => {
                let Some(pick) = errand.picks.first() else { return };
                let Some(assignment) = ends.iter().flatten().next().cloned() else { return };
                let heard = world.pushed(pick.agent, assignment);
                if !heard {
                    self.scheduler.heard(pick.agent, false, world.instant());
                }
                heard
            }
        };
        if heard {
            return;
        }
        for (pick, assignment) in errand.picks.iter().zip(ends) {
            let Some(assignment) = assignment else { continue };
            let token = assignment.lease.token;
            if pick.assign.is_none() {
                self.scheduler.not_told(pick.task, token);
            } else if let Some(command) =
                self.scheduler.undeliverable(pick.task, token, "nobody was there")
            {
                let command = CommandEnvelope { fence: Some(self.token), ..command };
                let from = From::TakeBack { mind: id, task: pick.task, token };
                world.ask(command, TRIES_BACK, from);
            }
        }
    }

    /// No task is lost: each open one stands where the log says, and the scheduler can say
    /// why it does not run.
    fn check(&self, world: &World) -> Result<(), String> {
        let mut open = BTreeSet::new();
        for (id, task) in self.model.tasks.iter().filter(|(_, task)| task.is_open()) {
            open.insert(*id);
            let Some(entry) = self.scheduler.board.task(*id) else {
                return Err(format!("the scheduler lost {id}"));
            };
            let now = self.clock;
            let rests = |at: Timestamp| at - now <= TimeDelta::seconds(1);
            let on_its_way = self.reserved.get(id).map(|by| by.0);
            let holder = task.held.map(|held| held.agent).or(on_its_way);
            let free = self.model.is_free(task);
            let fits = match &entry.place {
                Place::Held(agent) => holder == Some(*agent),
                _ if holder.is_some() => false,
                Place::Nowhere => task.state != TaskState::Queued,
                _ if task.state != TaskState::Queued => false,
                Place::Dependent => !free,
                _ if !free && !world.checker.model.is_free(task) => false,
                Place::Timed(at) => task.not_before() == Some(*at) || rests(*at),
                Place::Waiting => task.not_before().is_none_or(|at| at <= now),
            };
            if !fits {
                let place = &entry.place;
                return Err(format!("the scheduler has {id} in {place:?}, the log says {task:?}"));
            }
            // It looks at all that runs: not at every step.
            if world.steps.is_multiple_of(4)
                && self.scheduler.why(&tenant(), *id).is_none_or(|reasons| reasons.is_empty())
            {
                return Err(format!("nobody can say why {id} does not run: {task:?}"));
            }
        }
        let depths = self.scheduler.board.depths();
        let counted: usize = depths.map(|(.., d)| d.waiting + d.timed + d.dependent + d.held).sum();
        let stand = open.iter().filter_map(|id| self.scheduler.board.task(*id));
        let standing = stand.filter(|entry| entry.place != Place::Nowhere).count();
        if counted != standing {
            return Err(format!("{standing} tasks wait or run, the queues count {counted}"));
        }
        Ok(())
    }
}

fn picks_of(hand: &Hand) -> Vec<&Pick> {
    match hand {
        Hand::Claim(_, picks) => picks.iter().collect(),
        Hand::Push(pick) => vec![pick],
    }
}
