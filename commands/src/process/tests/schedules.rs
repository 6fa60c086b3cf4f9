//! Schedules under the runner, in real time.

use std::time::Duration;

use domain::{Command, StreamType};
use uuid::Uuid;

use super::memory::{Memory, Wire, eventually};

const SCHEDULE: Uuid = Uuid::from_u128(7_000);

fn fired(memory: &Memory) -> usize {
    memory.story(SCHEDULE).iter().filter(|event| *event == "fired").count()
}

fn submitted(memory: &Memory) -> usize {
    memory.events().iter().filter(|event| &*event.event_type == "submitted").count()
}

#[tokio::test]
async fn two_runners_at_once_fire_each_slot_once_and_the_next_goes_on() {
    let memory = Memory::new();
    let body = br#"{"name":"s","interval_ms":1000,"misfire":"run_all","task":{"title":"t"}}"#;
    let create = Command::parse(StreamType::Schedule, "create", body).unwrap();
    memory.tell(SCHEDULE, create, "user:ada");
    let (one, two) = (memory.run(&Wire::default(), vec![]), memory.run(&Wire::default(), vec![]));
    memory.pass(Duration::from_millis(3_000));
    eventually("three slots fire", || fired(&memory) >= 3 && submitted(&memory) >= 3).await;
    one.stop().await;
    two.stop().await;
    let before = fired(&memory);
    assert_eq!(submitted(&memory), before);
    memory.pass(Duration::from_millis(2_000));
    let three = memory.run(&Wire::default(), vec![]);
    eventually("two more fire", || submitted(&memory) >= before + 2).await;
    three.stop().await;
    assert_eq!(submitted(&memory), fired(&memory));
    let outcome = memory.clock.now() - super::memory::start_of_time();
    assert!(fired(&memory) as i64 <= outcome.num_seconds(), "none before its time");
}
