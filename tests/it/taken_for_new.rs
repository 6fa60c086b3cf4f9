//! What the processor takes for new without a look at the log: the log's unique keys tell if
//! it is not (KRN-1, KRN-7).

use std::time::Duration;

use commands::{CommandEnvelope, Executor, ProcessorConfig};
use domain::agent::{AgentCommand, RegisterAgent};
use domain::{Code, Command, Status};
use futures::future::join_all;
use uuid::Uuid;

use crate::processor::{code, envelope, retitle, submit};
use crate::support::{self, TestDb, TestProcessor};

/// A processor that looks up nothing it need not, and remembers nothing of the one before.
async fn bold(db: &TestDb) -> TestProcessor {
    let config = ProcessorConfig { careful: Duration::ZERO, ..ProcessorConfig::default() };
    let processor = support::processor_with(db, config, true).await;
    processor.door.active().wait_for(|active| *active).await.unwrap();
    processor
}

#[tokio::test]
async fn a_repeat_is_found_by_its_key_and_costs_its_neighbours_nothing() {
    let db = support::database().await;
    let processor = bold(&db).await;
    let (stream, id) = (Uuid::new_v4(), Uuid::new_v4());
    let first = processor.door.execute(envelope(stream, submit("once"), id)).await;
    assert_eq!(first.status, Status::Accepted);
    processor.stop().await;

    let processor = bold(&db).await;
    let ids: Vec<Uuid> = (0..40).map(|_| Uuid::new_v4()).collect();
    let new = ids.iter().map(|id| processor.door.execute(envelope(*id, submit("new"), *id)));
    let repeats = (0..2).map(|_| processor.door.execute(envelope(stream, submit("once"), id)));
    let outcomes = join_all(new.chain(repeats)).await;
    let (new, repeats) = outcomes.split_at(40);
    assert!(new.iter().all(|outcome| outcome.status == Status::Accepted));
    for repeat in repeats {
        assert_eq!(repeat.status, Status::Duplicate);
        assert_eq!(repeat.original.as_deref(), Some(&first));
    }
    assert!(processor.door.stats().failed_flushes >= 1, "nothing was taken for new");
    assert_eq!(db.sql("SELECT count(*) FROM events").await.as_deref(), Some("41"));
    assert_eq!(db.sql("SELECT count(*) FROM command_results").await.as_deref(), Some("41"));
}

#[tokio::test]
async fn a_stream_that_exists_is_not_made_again_whatever_is_asked() {
    let db = support::database().await;
    let processor = bold(&db).await;
    let (task, agent) = (Uuid::new_v4(), Uuid::new_v4());
    let register = |name: &str| Command::from(AgentCommand::Register(RegisterAgent::named(name)));
    for (stream, command) in [(task, submit("first")), (agent, register("one"))] {
        let made = processor.door.execute(envelope(stream, command, Uuid::new_v4())).await;
        assert_eq!(made.status, Status::Accepted);
    }
    processor.stop().await;

    let processor = bold(&db).await;
    let again = envelope(task, submit("second"), Uuid::new_v4());
    let again = processor.door.execute(again).await;
    assert_eq!((again.status, code(&again)), (Status::Refused, Some(Code::AlreadyExists)));
    assert_eq!(again.version, 1, "refused by the stream as it is");
    processor.stop().await;

    // Decided on an empty stream, both would be refused without an event to meet the key.
    let processor = bold(&db).await;
    let known = CommandEnvelope {
        expected_version: Some(1),
        ..envelope(agent, register("one"), Uuid::new_v4())
    };
    let known = processor.door.execute(known).await;
    assert_eq!((known.status, known.version), (Status::Accepted, 2), "{:?}", known.problem);
    processor.stop().await;
    let processor = bold(&db).await;
    let stale = CommandEnvelope {
        expected_version: Some(7),
        ..envelope(task, submit("x"), Uuid::new_v4())
    };
    let stale = processor.door.execute(stale).await;
    let detail = stale.problem.as_ref().map(|problem| problem.detail.clone()).unwrap_or_default();
    assert_eq!(code(&stale), Some(Code::VersionMismatch));
    assert!(detail.contains("1 is current"), "{detail}");
}

#[tokio::test]
async fn a_change_before_the_creation_finds_nothing_and_one_behind_it_finds_it() {
    let db = support::database().await;
    let processor = bold(&db).await;
    let stream = Uuid::new_v4();
    let commands = [retitle("early"), submit("made"), retitle("late")];
    let sent =
        commands.map(|command| processor.door.execute(envelope(stream, command, Uuid::new_v4())));
    let outcomes = join_all(sent).await;
    assert_eq!(code(&outcomes[0]), Some(Code::NotFound));
    assert_eq!((outcomes[1].status, outcomes[1].version), (Status::Accepted, 1));
    assert_eq!((outcomes[2].status, outcomes[2].version), (Status::Accepted, 2));
}
