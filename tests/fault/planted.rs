//! The suite is shown to fail: each planted fault is found by a run (R24). And deaths at
//! named points, where a random kill seldom hits.

use store::seeded::Planted;

use crate::checker::Rule;
use crate::nemesis::Fault::{self, Kill, Postgres};
use crate::plan::Plan;
use crate::run::{Report, run};
use crate::system::System;

/// Runs with a planted fault; short also in the long form, where only the dice change.
async fn with(fault: &str, faults: &[Fault]) -> Report {
    let plan = Plan { long: false, ..Plan::from_env() };
    let own_servers = faults.iter().any(|fault| fault.hits_a_server());
    run(fault, System::planted(fault, own_servers).await, faults, &plan).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_flush_is_found() {
    // Whether a kill falls between an answer and its flush is a matter of chance: most runs
    // have one, not all.
    for _ in 0..4 {
        let report = with(Planted::AcksBeforeFlush.name(), &[Postgres; 3]).await;
        if report.shows(&[Rule::Lost]) {
            return;
        }
    }
    let report = with(Planted::AcksBeforeFlush.name(), &[Postgres; 3]).await;
    report.must_show(&[Rule::Lost]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_event_a_lone_checkpoint_and_a_forgotten_repeat_are_found() {
    let (drops, apart, forgets) = tokio::join!(
        with(Planted::RelayDrops.name(), &[]),
        with(Planted::CheckpointApart.name(), &[Kill("one"); 3]),
        with(Planted::DedupeForgets.name(), &[]),
    );
    drops.must_show(&[Rule::Mirror]);
    apart.must_show(&[Rule::Models]);
    forgets.must_show(&[Rule::Answers]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_at_the_worst_moments_lose_nothing() {
    tokio::join!(
        // The append is committed, nobody knows.
        dies("dies-before-answer:15"),
        // JetStream has the event, the relay has not heard of it.
        dies("dies-after-puback:60"),
        // Rows and checkpoint are committed, the engine has not gone on.
        dies("dies-after-rows:25"),
    );
}

/// The supervisor starts it again with the same end ahead of it.
async fn dies(point: &str) {
    let report = with(point, &[]).await;
    report.must_be_clean();
    assert!(report.deaths > 0, "nobody died at {point}");
}
