//! The command processor alone, on a real log: KRN-2, KRN-7, OBS-3.

use std::sync::Arc;
use std::time::Duration;

use commands::{CommandEnvelope, Executor};
use domain::agent::{AgentCommand, Reason, RegisterAgent};
use domain::task::{ProgressTask, StartTask, SubmitTask, TaskCommand, UpdateTask};
use domain::{Code, Command, Outcome, Status, TenantId};
use futures::future::join_all;
use uuid::Uuid;

use crate::support::{self, TestProcessor};

pub(crate) fn envelope(stream_id: Uuid, command: impl Into<Command>, id: Uuid) -> CommandEnvelope {
    CommandEnvelope::new(TenantId::default_tenant(), stream_id, command, id, "tester")
}

pub(crate) fn submit(title: &str) -> Command {
    TaskCommand::Submit(SubmitTask::titled(title)).into()
}

pub(crate) fn retitle(title: &str) -> Command {
    TaskCommand::Update(UpdateTask { title: Some(title.into()), ..UpdateTask::default() }).into()
}

async fn send(processor: &TestProcessor, stream: Uuid, command: impl Into<Command>) -> Outcome {
    processor.door.execute(envelope(stream, command, Uuid::new_v4())).await
}

pub(crate) fn code(outcome: &Outcome) -> Option<Code> {
    outcome.problem.as_ref().and_then(domain::Problem::code)
}

#[tokio::test]
async fn a_repeat_gets_the_first_outcome_whenever_it_comes() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
    // At once: in the same batch, or while the first is in a flush.
    let twins = (0..20).map(|_| processor.door.execute(envelope(stream, submit("once"), id)));
    let outcomes = join_all(twins).await;
    let first: Vec<&Outcome> =
        outcomes.iter().filter(|outcome| outcome.status == Status::Accepted).collect();
    assert_eq!(first.len(), 1);
    for outcome in &outcomes {
        assert_eq!(outcome.decision(), first[0]);
    }
    assert_eq!(first[0].events[0].position, first[0].position);

    // Later, by another processor.
    let first = first[0].clone();
    processor.stop().await;
    let processor = support::processor(&db).await;
    let repeat = processor.door.execute(envelope(stream, submit("once"), id)).await;
    assert_eq!(repeat.status, Status::Duplicate);
    assert_eq!(repeat.original.as_deref(), Some(&first));
    assert_eq!(db.sql("SELECT count(*) FROM events").await.as_deref(), Some("1"));
    let root = db.sql("SELECT correlation_id = command_id FROM events").await;
    assert_eq!(root.as_deref(), Some("t"), "a command that nothing caused is its own root");
}

#[tokio::test]
async fn another_body_under_a_known_id_is_refused_and_changes_nothing() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
    let bodies = ["one", "two", "one"]
        .map(|title| processor.door.execute(envelope(stream, submit(title), id)));
    let outcomes = join_all(bodies).await;
    assert_eq!(outcomes[0].status, Status::Accepted);
    assert_eq!(code(&outcomes[1]), Some(Code::IdempotencyMismatch));
    assert_eq!(outcomes[2].status, Status::Duplicate);
    let late = processor.door.execute(envelope(stream, submit("three"), id)).await;
    assert_eq!((late.status, code(&late)), (Status::Refused, Some(Code::IdempotencyMismatch)));
    assert_eq!(db.sql("SELECT count(*) FROM events").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn refusals_are_stored_and_repeated() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
    let start = || TaskCommand::Start(StartTask { lease_token: 1 });
    let refusal = processor.door.execute(envelope(stream, start(), id)).await;
    assert_eq!((refusal.status, code(&refusal)), (Status::Refused, Some(Code::NotFound)));
    send(&processor, stream, submit("now it exists")).await;
    // The first verdict stands for ever.
    let repeat = processor.door.execute(envelope(stream, start(), id)).await;
    assert_eq!(repeat.original.as_deref(), Some(&refusal));
    let illegal = send(&processor, stream, start()).await;
    let problem = illegal.problem.unwrap();
    assert_eq!(problem.code(), Some(Code::IllegalTransition));
    assert!(problem.allowed.contains(&"assign".to_owned()), "{problem:?}");
    let stored = db.sql("SELECT count(*) FROM command_results WHERE problem IS NOT NULL").await;
    assert_eq!(stored.as_deref(), Some("2"));
}

#[tokio::test]
async fn commands_of_one_stream_are_decided_in_the_order_they_came() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let stream = Uuid::new_v4();
    let commands = std::iter::once(submit("0")).chain((1..300).map(|n| retitle(&n.to_string())));
    let outcomes = join_all(
        commands.map(|command| processor.door.execute(envelope(stream, command, Uuid::new_v4()))),
    )
    .await;
    for (version, outcome) in (1..).zip(&outcomes) {
        assert_eq!((outcome.status, outcome.version), (Status::Accepted, version));
    }
    let last = db.sql("SELECT payload->>'title' FROM event_log ORDER BY version DESC LIMIT 1");
    assert_eq!(last.await.as_deref(), Some("299"));
    let stats = processor.door.stats();
    assert!(stats.batches < 150, "{} flushes for 300 commands", stats.batches);
}

#[tokio::test]
async fn a_foreign_write_is_noticed_and_the_command_decided_anew() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let stream = Uuid::new_v4();
    send(&processor, stream, submit("cached")).await;
    // Behind the processor's back, past every lease: only the unique key can notice.
    db.sql(&format!(
        "WITH h AS (UPDATE log_head SET position = position + 1 RETURNING position)
         INSERT INTO events SELECT h.position, 1, 'default', 'task', '{stream}', 2, 'cancelled', 1,
             gen_random_uuid(), gen_random_uuid(), 'x', NULL, NULL, NULL, now(), now(),
             '{{\"queue\":\"default\"}}', '\\x{}' FROM h",
        "00".repeat(32)
    ))
    .await;
    let outcome = send(&processor, stream, retitle("too late")).await;
    assert_eq!((outcome.status, code(&outcome)), (Status::Refused, Some(Code::IllegalTransition)));
    assert_eq!(outcome.version, 2);
    assert_eq!(processor.door.stats().failed_flushes, 1);
}

#[tokio::test]
async fn one_poisonous_command_costs_the_others_a_few_round_trips() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    send(&processor, Uuid::new_v4(), submit("warm")).await;
    let before = processor.door.stats();
    let commands = (0..1_000).map(|n| {
        let mut command = envelope(Uuid::new_v4(), submit(&n.to_string()), Uuid::new_v4());
        if n == 613 {
            // PostgreSQL takes no NUL in a text; our doors refuse it, this test goes past them.
            command.actor = "poison\0".into();
        }
        processor.door.execute(command)
    });
    let outcomes = join_all(commands).await;
    let bad: Vec<usize> = (0..1_000).filter(|n| outcomes[*n].status != Status::Accepted).collect();
    assert_eq!(bad, [613]);
    assert_eq!(outcomes[613].status, Status::Invalid);
    let failed = processor.door.stats().failed_flushes - before.failed_flushes;
    assert!((2..=12).contains(&failed), "{failed} failed flushes");
    assert_eq!(db.sql("SELECT count(*) FROM events").await.as_deref(), Some("1000"));
}

#[tokio::test]
async fn a_name_belongs_to_one_agent_until_it_retires() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let register = || Command::from(AgentCommand::Register(RegisterAgent::named("ada")));
    let agents: Vec<Uuid> = (0..10).map(|_| Uuid::new_v4()).collect();
    let outcomes = join_all(
        agents
            .iter()
            .map(|agent| processor.door.execute(envelope(*agent, register(), Uuid::new_v4()))),
    )
    .await;
    let winner = outcomes.iter().position(|o| o.status == Status::Accepted).unwrap();
    for (n, outcome) in outcomes.iter().enumerate().filter(|(n, _)| *n != winner) {
        assert_eq!(code(outcome), Some(Code::NameTaken), "{n}: {outcome:?}");
        assert_eq!(outcome.problem.as_ref().unwrap().conflicting_id, Some(agents[winner]));
    }
    // Freed and taken again at once: the order of arrival decides.
    let heir = agents[(winner + 1) % 10];
    let (retired, taken) = tokio::join!(
        send(&processor, agents[winner], AgentCommand::Retire(Reason::default())),
        send(&processor, heir, register())
    );
    assert_eq!((retired.status, taken.status), (Status::Accepted, Status::Accepted));
    let owner = db.sql("SELECT stream_id FROM unique_claims").await;
    assert_eq!(owner, Some(heir.to_string()));
}

#[tokio::test]
async fn an_expected_version_that_is_not_the_current_one_is_refused() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let stream = Uuid::new_v4();
    send(&processor, stream, submit("first")).await;
    let mut command = envelope(stream, retitle("second"), Uuid::new_v4());
    command.expected_version = Some(7);
    assert_eq!(code(&processor.door.execute(command).await), Some(Code::VersionMismatch));
    let mut command = envelope(stream, retitle("second"), Uuid::new_v4());
    command.expected_version = Some(1);
    assert_eq!(processor.door.execute(command).await.status, Status::Accepted);
}

#[tokio::test]
async fn an_id_of_another_kind_of_stream_is_no_way_in() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let stream = Uuid::new_v4();
    send(&processor, stream, submit("a task")).await;
    let agent = AgentCommand::Register(RegisterAgent::named("impostor"));
    let outcome = send(&processor, stream, agent).await;
    assert_eq!((outcome.status, code(&outcome)), (Status::Refused, Some(Code::AlreadyExists)));
}

#[tokio::test]
async fn a_full_queue_turns_callers_away_at_once_and_loses_nobody() {
    let db = support::database().await;
    let config = commands::ProcessorConfig { queue: 8, ..Default::default() };
    let small = support::processor_with(&db, config, true).await;
    let door = &small.door;
    door.active().wait_for(|active| *active).await.unwrap();
    let flood = (0..500)
        .map(|n| door.execute(envelope(Uuid::new_v4(), submit(&n.to_string()), Uuid::new_v4())));
    let outcomes = join_all(flood).await;
    let count = |status| outcomes.iter().filter(|o| o.status == status).count();
    assert_eq!(count(Status::Accepted) + count(Status::Busy), 500);
    assert!(count(Status::Busy) > 0 && count(Status::Accepted) >= 8);
    let busy = outcomes.iter().find(|o| o.status == Status::Busy).unwrap();
    assert!(busy.retry_after_ms.is_some());
    let stored = db.sql("SELECT count(*) FROM events").await;
    assert_eq!(stored, Some(count(Status::Accepted).to_string()));
    small.stop().await;
}

#[tokio::test]
async fn a_drain_answers_what_was_taken_and_a_standby_goes_on() {
    let db = support::database().await;
    let first = support::processor(&db).await;
    let second = support::processor_with(&db, Default::default(), false).await;
    let standby = &second.door;
    let refused = standby.execute(envelope(Uuid::new_v4(), submit("early"), Uuid::new_v4())).await;
    assert_eq!(refused.status, Status::Busy);

    let sent: Vec<_> = (0..400)
        .map(|n| {
            first.door.execute(envelope(Uuid::new_v4(), submit(&n.to_string()), Uuid::new_v4()))
        })
        .collect();
    first.stop().await;
    let outcomes = join_all(sent).await;
    assert!(outcomes.iter().all(|outcome| outcome.status == Status::Accepted));
    let active = async { standby.active().wait_for(|active| *active).await.map(|_| ()) };
    tokio::time::timeout(Duration::from_secs(5), active).await.unwrap().unwrap();
    let outcome = standby.execute(envelope(Uuid::new_v4(), submit("late"), Uuid::new_v4())).await;
    assert_eq!((outcome.status, outcome.position), (Status::Accepted, 401));
    second.stop().await;
}

#[tokio::test]
async fn killed_connections_lose_nothing_and_double_nothing() {
    let db = support::database().await;
    let processor = Arc::new(support::processor(&db).await);
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..16 {
        let processor = processor.clone();
        senders.spawn(async move {
            let mut accepted = 0;
            for n in 0..60 {
                let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
                loop {
                    let command = envelope(stream, submit(&format!("{sender}/{n}")), id);
                    match processor.door.execute(command).await.status {
                        Status::Accepted | Status::Duplicate => break accepted += 1,
                        Status::Busy => tokio::time::sleep(Duration::from_millis(5)).await,
                        other @ (Status::Refused | Status::Invalid) => panic!("{other:?}"),
                    }
                }
            }
            accepted
        });
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        db.sql(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = '{}' AND usename = 'taffrail_service'",
            db.name
        ))
        .await;
    }
    let accepted: i32 = senders.join_all().await.into_iter().sum();
    assert_eq!(accepted, 960);
    let streams = "SELECT count(*) = 960 AND count(DISTINCT stream_id) = 960
                          AND max(position) = 960 FROM events";
    assert_eq!(db.sql(streams).await.as_deref(), Some("t"));
}

#[tokio::test]
async fn a_progress_report_implies_the_start() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let (task, agent) = (Uuid::new_v4(), domain::AgentId::nth(7));
    send(&processor, task, submit("work")).await;
    let assign =
        domain::task::AssignTask { lease_ms: Some(5_000), ..domain::task::AssignTask::to(agent) };
    send(&processor, task, TaskCommand::Assign(assign)).await;
    let progress = ProgressTask {
        lease_token: 1,
        percent: Some(10.0),
        message: None,
        data: domain::Json::null(),
    };
    let outcome = send(&processor, task, TaskCommand::Progress(progress)).await;
    let names: Vec<&str> = outcome.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(names, ["started", "progressed"]);
    assert_eq!(outcome.events[1].position, outcome.position);
}

#[tokio::test]
async fn a_statement_that_outlives_its_connection_is_found_and_not_called_unstorable() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    send(&processor, Uuid::new_v4(), submit("warm")).await;
    // The head is locked, so that the append waits on the server.
    let (locker, connection) =
        tokio_postgres::connect(&db.admin_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    locker.batch_execute("BEGIN; SELECT FROM log_head FOR UPDATE").await.unwrap();
    let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
    let asked = tokio::spawn(processor.door.execute(envelope(stream, submit("once"), id)));
    let waiting = format!(
        "FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'
         AND query LIKE '%INSERT INTO events%'",
        db.name
    );
    let count = format!("SELECT count(*) {waiting}");
    let waits = async || db.sql(&count).await.as_deref() == Some("1");
    support::until("the append waits for the head", waits).await;
    db.sql(&format!("SELECT pg_terminate_backend(pid) {waiting}")).await;
    support::until("its retry has looked it up and waits for the head too", waits).await;
    // What a statement does that goes on after its connection was lost: the same rows.
    let stolen = format!(
        "UPDATE log_head SET position = position + 1;
         INSERT INTO events SELECT 2, 1, 'default', 'task', '{stream}', 1, 'submitted', 1,
             gen_random_uuid(), '{id}', 'tester', NULL, NULL, NULL, now(), now(), payload, hash
             FROM events WHERE position = 1;
         INSERT INTO command_results SELECT '{id}', 'default', '\\x{}', 'task', '{stream}',
             'submit', 'tester', 1, 2, 'submitted', NULL, now();
         COMMIT",
        hex::encode(envelope(stream, submit("once"), id).fingerprint)
    );
    locker.batch_execute(&stolen).await.unwrap();
    let outcome = asked.await.unwrap();
    assert_eq!((outcome.status, outcome.position), (Status::Accepted, 2), "{outcome:?}");
    assert_eq!(db.sql("SELECT count(*) FROM events").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_stranger_s_body_under_a_known_id_does_not_spoil_the_true_repeat() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
    let first = processor.door.execute(envelope(stream, submit("true"), id)).await;
    // All three in one batch: the first of them is answered from the log.
    let bodies = ["false", "true", "false"]
        .map(|title| processor.door.execute(envelope(stream, submit(title), id)));
    let outcomes = join_all(bodies).await;
    assert_eq!(code(&outcomes[0]), Some(Code::IdempotencyMismatch));
    assert_eq!(outcomes[1].original.as_deref(), Some(&first));
    assert_eq!(code(&outcomes[2]), Some(Code::IdempotencyMismatch));
}

#[tokio::test]
async fn a_command_that_breaks_the_look_up_stands_alone_too() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let commands = (0..100).map(|n| {
        // PostgreSQL takes no NUL in the name that is looked up; our doors refuse it.
        let name = if n == 61 { "nul\0".into() } else { format!("agent-{n}") };
        let register = AgentCommand::Register(RegisterAgent::named(&name));
        processor.door.execute(envelope(Uuid::new_v4(), register, Uuid::new_v4()))
    });
    let outcomes = join_all(commands).await;
    let bad: Vec<usize> = (0..100).filter(|n| outcomes[*n].status != Status::Accepted).collect();
    assert_eq!((bad, outcomes[61].status), (vec![61], Status::Invalid));
}

#[tokio::test]
async fn a_long_stream_gets_a_snapshot_also_when_its_batches_are_large() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let stream = Uuid::new_v4();
    let commands = std::iter::once(submit("0")).chain((1..330).map(|n| retitle(&n.to_string())));
    join_all(
        commands.map(|command| processor.door.execute(envelope(stream, command, Uuid::new_v4()))),
    )
    .await;
    support::until("a snapshot is kept", async || {
        db.sql("SELECT version >= 200 FROM snapshots").await.as_deref() == Some("t")
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends_in_time_also_when_the_database_does_not_answer() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    send(&processor, Uuid::new_v4(), submit("warm")).await;
    let (locker, connection) =
        tokio_postgres::connect(&db.admin_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    locker.batch_execute("BEGIN; SELECT FROM log_head FOR UPDATE").await.unwrap();
    let asked: Vec<_> = (0..50)
        .map(|n| {
            processor.door.execute(envelope(Uuid::new_v4(), submit(&n.to_string()), Uuid::new_v4()))
        })
        .collect();
    let asked = tokio::spawn(join_all(asked));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = std::time::Instant::now();
    processor.stop().await;
    assert!(start.elapsed() < Duration::from_millis(9_500), "{:?}", start.elapsed());
    let outcomes = asked.await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.status == Status::Busy));
}

#[tokio::test]
async fn a_manager_that_lost_its_lease_is_fenced_off() {
    let db = support::database().await;
    let processor = support::processor(&db).await;
    let leases = store::Leases::new(processor.log.pool().clone());
    let take = async |holder: &str| {
        let lease = leases.acquire("managers", holder, Duration::from_secs(60), true).await;
        lease.unwrap().unwrap().token
    };
    let send = async |fence: i64| {
        let new = envelope(Uuid::new_v4(), submit("fenced"), Uuid::new_v4());
        processor.door.execute(CommandEnvelope { fence: Some(fence), ..new }).await
    };
    // A new token is learned from the database the moment it is shown.
    let taken = async |fence: i64| {
        support::until("the token is known", async || send(fence).await.status == Status::Accepted)
            .await;
    };
    let first = take("a").await;
    taken(first).await;
    let made_up = send(first + 100).await;
    assert_eq!(made_up.status, Status::Busy, "nobody has that lease");
    taken(first).await;
    let second = take("b").await;
    taken(second).await;
    let stale = send(first).await;
    assert_eq!((stale.status, code(&stale)), (Status::Invalid, Some(Code::StaleLease)));
    assert_eq!(
        processor
            .door
            .execute(envelope(Uuid::new_v4(), submit("free"), Uuid::new_v4()))
            .await
            .status,
        Status::Accepted
    );
    // A standby knows it from the start.
    processor.stop().await;
    let processor = support::processor(&db).await;
    let new = envelope(Uuid::new_v4(), submit("late"), Uuid::new_v4());
    let stale = processor.door.execute(CommandEnvelope { fence: Some(first), ..new }).await;
    assert_eq!((stale.status, code(&stale)), (Status::Invalid, Some(Code::StaleLease)));
    processor.stop().await;
}
