//! Everything against real servers and real processes.
//!
//! One PostgreSQL per run, a database per test, a nats-server where a test wants to hurt
//! one, and one whole `taffrail up` for the tests that come from outside.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test asks for one variant")]

mod support;

mod agent_lines;
mod agent_logs;
mod agents;
mod agents_wire;
mod as_of;
mod at;
mod audits;
mod bad_input;
mod bad_work;
mod bench;
mod blue_green;
mod causes;
mod claims;
mod commands_nats;
mod dead_letters;
mod docs;
mod engine;
mod evolution;
mod fork;
mod http;
mod links;
mod matching;
mod node;
mod numbers;
mod paused;
mod processor;
mod python_agent;
mod queues;
mod readme;
mod rebuild;
mod relay;
mod replay_log;
mod roles;
mod schedules;
mod sealer;
mod seals;
mod servers;
mod slow_readers;
#[cfg(feature = "smoke")]
mod smoke;
mod store;
mod streams;
mod taken_for_new;
mod time;
mod top;
mod up;
