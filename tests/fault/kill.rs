//! Nothing acknowledged is lost, nothing is done twice, whatever is killed: R1, R2, R4, R5,
//! R7, R12.

use crate::nemesis::Fault::{
    self, Backend, Both, BothServers, DropConsumers, DropStreams, Kill, Nats, Pause, PauseNats,
    Postgres, Postmaster, Sessions, Wipe,
};
use crate::plan::Plan;
use crate::run::run;
use crate::system::System;

/// What one process with everything in it can suffer.
const PRODUCT: &[Fault] = &[
    Kill("up"),
    Kill("up"),
    Postmaster,
    Postgres,
    Backend,
    Backend,
    Sessions,
    Nats,
    Nats,
    Pause("up"),
    Wipe,
];

/// What a fleet of processes can suffer, each role there twice.
const FLEET: &[Fault] = &[
    Kill("gateway"),
    Kill("gateway"),
    Kill("processor"),
    Kill("processor"),
    Kill("relay"),
    Kill("relay"),
    Kill("projector"),
    Kill("projector"),
    Kill("managers"),
    Kill("managers"),
    Both("processor", "relay"),
    Both("gateway", "projector"),
    BothServers,
    Postgres,
    Sessions,
    Pause("processor"),
    PauseNats,
    Wipe,
    DropStreams,
    DropStreams,
    DropConsumers,
    DropConsumers,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_product_survives_kills_of_itself_and_of_its_servers() {
    let plan = Plan::from_env();
    let report = run("product", System::product().await, PRODUCT, &plan).await;
    report.must_be_clean();
    assert!(plan.long || report.kills >= 8, "{}", report.kills);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_each_role_survive_kills_of_leaders_standbys_and_servers() {
    let plan = Plan::from_env();
    let report = run("fleet", System::fleet(2).await, FLEET, &plan).await;
    report.must_be_clean();
    assert!(plan.long || report.kills >= 14, "{}", report.kills);
}
