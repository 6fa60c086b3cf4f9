//! The manager of schedules on a log in memory, in virtual time, a step at a time.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::schedule::{ScheduleEvent, ScheduleFired, task_of};
use domain::task::TaskCommand;
use domain::{Command, Event, ScheduleId, Status, StreamType, TaskId};
use proptest::prelude::*;
use uuid::Uuid;

use super::memory::{Memory, start_of_time};
use crate::CommandEnvelope;
use crate::process::{Manager, Moment, Schedules};

const SCHEDULE: Uuid = Uuid::from_u128(7_000);

/// A log, and managers that fold it; time passes when told.
struct World {
    memory: Memory,
    managers: Vec<(Schedules, usize)>,
}

impl World {
    fn new(managers: usize) -> Self {
        let mut world = Self { memory: Memory::new(), managers: Vec::new() };
        (0..managers).for_each(|_| world.start());
        world
    }

    fn start(&mut self) {
        self.managers.push((Schedules::default(), 0));
    }

    /// The process of a manager dies and another takes over.
    fn restart(&mut self) {
        self.managers.clear();
        self.start();
    }

    fn tell(&self, name: &str, body: &str) {
        let command = Command::parse(StreamType::Schedule, name, body.as_bytes());
        let command = command.unwrap_or_else(|problem| panic!("{name} {body}: {problem:?}"));
        let outcome = self.memory.tell(SCHEDULE, command, "user:ada");
        assert_eq!(outcome.status, Status::Accepted, "{name}: {:?}", outcome.problem);
    }

    fn create(&self, fields: &str) {
        self.tell("create", &format!(r#"{{"name":"s",{fields},"task":{{"title":"t"}}}}"#));
    }

    fn moment(&self) -> Moment {
        Moment { time: self.memory.clock.now(), instant: Instant::now() }
    }

    /// What each manager asks for now.
    fn ask(&mut self) -> Vec<(usize, CommandEnvelope)> {
        let (events, now) = (self.memory.events(), self.moment());
        let mut all = Vec::new();
        for (index, (manager, position)) in self.managers.iter_mut().enumerate() {
            events[*position..].iter().for_each(|event| manager.apply(event));
            *position = events.len();
            all.extend(manager.react(now).into_iter().map(|command| (index, command)));
        }
        all
    }

    /// Decides at most so many commands; yields whether more is to come.
    fn steps(&mut self, most: usize) -> bool {
        for _ in 0..most {
            // All of them ask before any is decided: that is as much at once as can be.
            let asked = self.ask();
            if asked.is_empty() {
                return false;
            }
            for (index, command) in asked {
                let outcome = self.memory.decide(command.clone());
                let now = self.moment();
                self.managers[index].0.settle(&command, &outcome, now);
            }
        }
        true
    }

    /// Lets them work until they have nothing to do at this time.
    fn run(&mut self) {
        assert!(!self.steps(5_000), "it comes to an end");
    }

    fn to(&mut self, ms: i64) {
        self.memory.clock.set(start_of_time() + TimeDelta::milliseconds(ms));
        self.run();
    }

    fn story(&self) -> Vec<String> {
        self.memory.story(SCHEDULE)
    }

    fn fired(&self) -> Vec<ScheduleFired> {
        let events = self.memory.events();
        let fired = events.iter().filter_map(|event| match event.event() {
            Ok(Event::Schedule(ScheduleEvent::Fired(fired))) => Some(fired.clone()),
            _ => None,
        });
        fired.collect()
    }

    /// How many slots were left out in all.
    fn skipped(&self) -> u64 {
        let events = self.memory.events();
        let skipped = events.iter().map(|event| match event.event() {
            Ok(Event::Schedule(ScheduleEvent::Skipped(skipped))) => skipped.count,
            _ => 0,
        });
        skipped.sum()
    }

    fn tasks(&self) -> Vec<Uuid> {
        let events = self.memory.events();
        let submitted = events.iter().filter(|event| &*event.event_type == "submitted");
        submitted.map(|event| event.stream_id).collect()
    }

    /// Brings the task of a firing to its end.
    fn finish(&self, run: u64) {
        let task = task_of(ScheduleId(SCHEDULE), run);
        self.memory.tell(task.0, TaskCommand::Cancel(Default::default()), "user:ada");
    }
}

#[test]
fn a_slot_fires_when_it_comes_and_its_task_names_the_firing() {
    let mut world = World::new(1);
    world.create(r#""interval_ms":60000"#);
    world.to(59_000);
    assert_eq!(world.story(), ["created"]);
    let due = world.managers[0].0.due(world.moment()).expect("a time");
    assert!(due > Duration::from_millis(500) && due <= Duration::from_millis(1_200), "{due:?}");
    world.to(60_200);
    assert_eq!(world.story(), ["created", "fired"]);
    let events = world.memory.events();
    let [fired, submitted] = &events[1..] else { panic!("{}", events.len()) };
    assert_eq!(submitted.stream_id, task_of(ScheduleId(SCHEDULE), 1).0);
    assert_eq!(submitted.causation_position, Some(fired.position));
    assert_eq!(submitted.correlation_id, fired.correlation_id);
    assert_eq!(&*submitted.actor, "manager:schedules");
    world.to(240_500);
    assert_eq!(world.fired().len(), 2, "three at once are one firing");
}

#[test]
fn what_was_missed_follows_the_policy() {
    // Ten slots lie behind, the last of them 5 s ago.
    let rows = [
        (r#""misfire":"run_once""#, vec![(10, 9)], 0),
        (r#""misfire":"skip""#, vec![(10, 9)], 0),
        (r#""misfire":"skip","grace_ms":1000"#, vec![], 10),
        (r#""misfire":"run_all","misfire_limit":3"#, vec![(8, 0), (9, 0), (10, 0)], 7),
        (r#""misfire":"run_all","misfire_limit":1000"#, (1..=10).map(|n| (n, 0)).collect(), 0),
    ];
    for (policy, expected, skipped) in rows {
        let mut world = World::new(0);
        world.create(&format!(r#""interval_ms":10000,{policy}"#));
        world.memory.pass(Duration::from_secs(105));
        world.restart();
        world.run();
        let begin = start_of_time() + TimeDelta::seconds(0);
        let found: Vec<(i64, u64)> = world
            .fired()
            .iter()
            .map(|fired| ((fired.slot_at - begin).num_seconds() / 10, fired.missed))
            .collect();
        assert_eq!(found, expected, "{policy}");
        assert_eq!(world.skipped(), skipped, "{policy}");
        assert_eq!(world.tasks().len(), expected.len(), "{policy}");
        // From here on it goes by the clock again.
        world.to(110_100);
        assert_eq!(world.fired().len(), expected.len() + 1, "{policy}");
    }
}

#[test]
fn an_open_task_holds_up_the_next_as_the_policy_says() {
    let rows = [("allow", 3, 0, 4), ("skip", 1, 2, 2), ("queue", 1, 0, 2)];
    for (policy, fired, skipped, after) in rows {
        let mut world = World::new(1);
        world.create(&format!(r#""interval_ms":10000,"overlap":"{policy}""#));
        for slot in 1..=3 {
            world.to(slot * 10_000 + 100);
        }
        assert_eq!((world.fired().len(), world.skipped()), (fired, skipped), "{policy}");
        // A restart knows the open task as well.
        world.restart();
        world.run();
        assert_eq!((world.fired().len(), world.skipped()), (fired, skipped), "{policy}");
        (1..=3).for_each(|run| world.finish(run));
        world.run();
        world.to(40_100);
        assert_eq!(world.fired().len(), after, "{policy}");
    }
}

#[test]
fn queued_slots_wait_for_the_end_and_no_longer() {
    let mut world = World::new(1);
    world.create(r#""interval_ms":10000,"overlap":"queue","misfire":"run_all""#);
    world.to(30_100);
    for run in 1..=3 {
        assert_eq!(world.fired().len() as u64, run, "one at a time");
        world.finish(run);
        world.run();
    }
    assert_eq!(world.fired().len(), 3);
    assert_eq!(world.managers[0].0.due(world.moment()).map(|due| due.as_secs()), Some(9));
}

#[test]
fn two_managers_at_once_fire_once() {
    let mut world = World::new(2);
    world.create(r#""interval_ms":10000,"misfire":"run_all""#);
    for slot in 1..=20 {
        world.to(slot * 10_000 + 200);
    }
    let runs: Vec<u64> = world.fired().iter().map(|fired| fired.run).collect();
    assert_eq!(runs, (1..=20).collect::<Vec<_>>());
    let slots: std::collections::BTreeSet<_> = world.fired().iter().map(|f| f.slot_at).collect();
    assert_eq!((slots.len(), world.tasks().len()), (20, 20));
}

#[test]
fn a_manager_whose_clock_is_ahead_is_refused_and_asks_again() {
    let mut world = World::new(1);
    world.create(r#""interval_ms":10000"#);
    assert!(world.ask().is_empty());
    let early =
        Moment { time: start_of_time() + TimeDelta::milliseconds(11_000), instant: Instant::now() };
    world.memory.clock.set(start_of_time() + TimeDelta::milliseconds(9_000));
    let commands = world.managers[0].0.react(early);
    let outcome = world.memory.decide(commands[0].clone());
    assert_eq!(outcome.status, Status::Refused, "no early fire");
    world.managers[0].0.settle(&commands[0], &outcome, early);
    world.to(11_500);
    assert_eq!(world.fired().len(), 1);
    assert!(world.fired()[0].slot_at <= world.memory.clock.now());
}

#[test]
fn a_pause_leaves_out_and_a_trigger_fires_at_once() {
    let mut world = World::new(1);
    world.create(r#""interval_ms":10000"#);
    world.run();
    world.tell("pause", "{}");
    world.to(55_000);
    assert_eq!(world.story(), ["created", "paused"]);
    world.tell("trigger", "{}");
    world.run();
    assert_eq!(world.tasks().len(), 1);
    world.tell("resume", "{}");
    world.to(59_000);
    assert_eq!(world.fired().len(), 1, "the pause is not made up for");
    world.to(60_100);
    assert_eq!(world.fired().len(), 2);
    world.tell("delete", "{}");
    world.to(900_000);
    assert_eq!(world.fired().len(), 2);
    assert_eq!(world.managers[0].0.due(world.moment()), None, "nothing is kept of it");
}

#[test]
fn a_backfill_submits_a_task_for_each_slot_even_of_a_schedule_deleted_meanwhile() {
    let mut world = World::new(1);
    world.create(r#""interval_ms":10000,"overlap":"queue""#);
    let (from, to) = (start_of_time() - TimeDelta::seconds(6_000), start_of_time());
    let range = format!(r#"{{"from":"{}","to":"{}"}}"#, from.to_rfc3339(), to.to_rfc3339());
    world.tell("backfill", &range);
    world.tell("delete", "{}");
    world.run();
    assert_eq!(world.tasks().len(), 600);
}

/// A schedule on the end of tasks of one type, with the event in its payload.
fn follow_up(world: &World, more: &str) {
    let task =
        r#"{"title":"t","type":"mail","payload":{"of":"{{event.stream_id}}","n":"{{run}}"}}"#;
    let filter = "event.payload.reason == 'yes'";
    let on = format!(r#""on_event":{{"type":"task.cancelled","filter":"{filter}"}}"#);
    world.tell("create", &format!(r#"{{"name":"s",{on},"task":{task}{more}}}"#));
}

fn cancel(world: &World, task: TaskId, reason: &str) {
    let why = domain::task::Reason { reason: Some(reason.into()) };
    world.memory.tell(task.0, TaskCommand::Cancel(why.into()), "user:ada");
}

#[test]
fn an_event_fires_once_if_the_condition_holds_and_nobody_was_there_or_not() {
    let mut world = World::new(1);
    let tasks: Vec<TaskId> = (1..=6).map(|n| world.memory.task(n, |_| {})).collect();
    cancel(&world, tasks[0], "yes");
    follow_up(&world, "");
    world.run();
    assert!(world.fired().is_empty(), "what came before does not count");
    cancel(&world, tasks[1], "yes");
    cancel(&world, tasks[2], "no");
    world.run();
    assert_eq!(world.fired().len(), 1);
    let events = world.memory.events();
    let fired = events.iter().find(|e| &*e.event_type == "fired").expect("fired");
    let cause = &events[fired.causation_position.expect("a cause") as usize - 1];
    assert_eq!((cause.stream_id, &*cause.event_type), (tasks[1].0, "cancelled"));
    assert_eq!(fired.correlation_id, cause.correlation_id);
    let task = events.last().expect("an event");
    let payload: serde_json::Value = serde_json::from_slice(&task.payload).expect("JSON");
    let expected = serde_json::json!({ "of": tasks[1].to_string(), "n": 1 });
    assert_eq!(payload["payload"], expected);
    // While nobody runs, two more come; in a pause, one.
    cancel(&world, tasks[3], "yes");
    cancel(&world, tasks[4], "yes");
    world.restart();
    world.run();
    assert_eq!(world.fired().len(), 3);
    world.tell("pause", "{}");
    cancel(&world, tasks[5], "yes");
    world.tell("resume", "{}");
    world.restart();
    world.run();
    assert_eq!(world.fired().len(), 3);
}

#[test]
fn what_a_schedule_brought_about_does_not_fire_it() {
    let mut world = World::new(1);
    let task = world.memory.task(1, |_| {});
    follow_up(&world, "");
    cancel(&world, task, "yes");
    world.run();
    cancel(&world, task_of(ScheduleId(SCHEDULE), 1), "yes");
    world.run();
    assert_eq!(world.fired().len(), 1);
}

#[test]
fn events_wait_in_line_behind_an_open_task() {
    let mut world = World::new(1);
    let tasks: Vec<TaskId> = (1..=3).map(|n| world.memory.task(n, |_| {})).collect();
    follow_up(&world, r#","overlap":"queue""#);
    tasks.iter().for_each(|task| cancel(&world, *task, "yes"));
    world.run();
    for run in 1..=3 {
        assert_eq!(world.fired().len() as u64, run);
        world.restart();
        world.finish(run);
        world.run();
    }
    assert_eq!(world.tasks().len(), 6);
}

#[test]
fn a_firing_whose_task_cannot_be_is_told_to_the_schedule() {
    let mut world = World::new(1);
    let task = r#"{"title":"t","payload":["{{event.payload}}","{{event.payload}}"]}"#;
    let on = r#""on_event":{"type":"task.updated"},"overlap":"queue""#;
    world.tell("create", &format!(r#"{{"name":"s",{on},"task":{task}}}"#));
    let task = world.memory.task(1, |_| {});
    let large = format!(r#"{{"payload":"{}"}}"#, "x".repeat(200_000));
    for _ in 0..2 {
        let update = Command::parse(StreamType::Task, "update", large.as_bytes()).expect("one");
        world.memory.tell(task.0, update, "user:ada");
    }
    world.run();
    assert_eq!(world.story(), ["created", "fired", "submit_failed", "fired", "submit_failed"]);
    world.restart();
    world.run();
    assert_eq!(world.story().len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_after_any_step_loses_and_doubles_nothing(
        crashes in proptest::collection::vec(0..4usize, 0..30),
        busy in 0..4u64,
        managers in 1..3usize,
    ) {
        let mut world = World::new(managers);
        world.create(r#""interval_ms":10000,"misfire":"run_all","misfire_limit":1000"#);
        let mut ms = 0;
        for steps in crashes {
            ms += 7_000;
            world.memory.clock.set(start_of_time() + TimeDelta::milliseconds(ms));
            world.memory.busy.store(busy, std::sync::atomic::Ordering::SeqCst);
            world.steps(steps);
            world.restart();
        }
        world.memory.busy.store(0, std::sync::atomic::Ordering::SeqCst);
        world.to(ms + 20_500);
        world.to(ms + 22_500);
        let fired = world.fired();
        let expected = u64::try_from((ms + 22_500) / 10_000).unwrap();
        prop_assert_eq!(fired.len() as u64, expected);
        for (run, fired) in (1..).zip(&fired) {
            prop_assert_eq!(fired.run, run);
            let slot = start_of_time() + TimeDelta::seconds(10 * run as i64);
            prop_assert!((fired.slot_at - slot).num_milliseconds().abs() < 1_000);
        }
        prop_assert_eq!(world.tasks().len(), fired.len());
    }
}
