//! Commands over NATS, on real servers: durable ones, requests, batches, and what is malformed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, HeaderMap, Subscriber, jetstream};
use broker::{Consumer, RemoteExecutor, TenantCheck, ids, streams, subject};
use commands::{CommandEnvelope, Executor};
use domain::task::{SubmitTask, TaskCommand};
use domain::{AgentId, Code, Outcome, Problem, Status, StreamType, TenantId};
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{self, TestDb, TestNats, TestProcessor, until};

/// A processor with its consumers on servers of its own.
struct Wired {
    db: TestDb,
    nats: TestNats,
    client: Client,
    processor: TestProcessor,
    cancel: CancellationToken,
    done: JoinHandle<()>,
}

impl Wired {
    async fn start() -> Self {
        let (db, nats) = (support::database().await, support::nats().await);
        let processor = support::processor(&db).await;
        let (cancel, done) = serve(&nats, processor.executor()).await;
        let client = nats.client().await;
        Self { db, nats, client, processor, cancel, done }
    }

    async fn request(&self, subject: String, headers: HeaderMap, body: &Value) -> Value {
        let body = body.to_string().into();
        let answer = self.client.request_with_headers(subject, headers, body).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    async fn publish(&self, subject: String, headers: HeaderMap, body: impl Into<Vec<u8>>) {
        let publish = PublishMessage::build().headers(headers).payload(body.into().into());
        let jetstream = jetstream::new(self.client.clone());
        jetstream.send_publish(subject, publish).await.unwrap().await.unwrap();
    }

    /// Publishes a durable command and waits for its outcome.
    async fn command(&self, subject: String, mut headers: HeaderMap, body: &Value) -> Value {
        let (inbox, mut answers) = self.inbox().await;
        headers.insert("Taffrail-Reply-To", inbox);
        self.publish(subject, headers, body.to_string()).await;
        next(&mut answers).await
    }

    async fn inbox(&self) -> (String, Subscriber) {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.unwrap();
        (inbox, answers)
    }

    async fn waiting(&self) -> u64 {
        let jetstream = jetstream::new(self.client.clone());
        jetstream.get_stream(streams::COMMANDS).await.unwrap().cached_info().state.messages
    }

    async fn events(&self) -> u64 {
        self.processor.log.head().await.unwrap().position
    }
}

/// Starts consumers for an executor and waits until they serve.
async fn serve(
    nats: &TestNats,
    executor: Arc<dyn Executor>,
) -> (CancellationToken, JoinHandle<()>) {
    let client = broker::connect(&nats.url, Some(&nats.token), "processor").await.unwrap();
    let consumer = Consumer::new(client.clone(), executor, only_default());
    let cancel = CancellationToken::new();
    let done = tokio::spawn({
        let cancel = cancel.clone();
        async move { consumer.run(cancel).await }
    });
    let jetstream = jetstream::new(client.clone());
    until("the consumer serves", async || {
        let stream = jetstream.get_stream(streams::COMMANDS).await;
        match stream {
            Ok(stream) => stream.consumer_info("processor").await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
    (cancel, done)
}

fn only_default() -> TenantCheck {
    Arc::new(|tenant| tenant.as_str() == "default")
}

async fn next(answers: &mut Subscriber) -> Value {
    let answer = tokio::time::timeout(support::SOON, answers.next()).await.unwrap().unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

fn cmd(id: Uuid, command: &str) -> String {
    subject::command(&TenantId::default_tenant(), StreamType::Task, id, command)
}

fn req(id: Uuid, command: &str) -> String {
    subject::request(&TenantId::default_tenant(), StreamType::Task, id, command)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, *value);
    }
    headers
}

fn code(answer: &Value) -> Option<Code> {
    Code::of_uri(answer["problem"]["type"].as_str()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_command_is_answered_after_its_commit() {
    let wired = Wired::start().await;
    let task = Uuid::new_v4();
    let id = Uuid::new_v4();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = headers(&[
        ("Taffrail-Command-Id", &id.to_string()),
        ("Taffrail-Actor", "alice"),
        ("traceparent", trace),
    ]);
    let outcome = wired.command(cmd(task, "submit"), headers, &json!({ "title": "t" })).await;
    assert_eq!(
        outcome,
        json!({
            "status": "accepted", "command_id": id, "stream_id": task, "version": 1,
            "position": 1, "events": [ { "type": "submitted", "position": 1 } ],
        })
    );
    let event = wired.processor.log.read(0, 10).await.unwrap().remove(0);
    assert_eq!((&*event.actor, event.trace.as_deref()), ("alice", Some(trace)));
    until("it is acknowledged", async || wired.waiting().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_brought_all_it_asked_for_is_followed_by_the_next() {
    let (db, nats) = (support::database().await, support::nats().await);
    let processor = support::processor(&db).await;
    let client = broker::connect(&nats.url, Some(&nats.token), "processor").await.unwrap();
    let consumer = Consumer::new(client, processor.executor(), only_default());
    let (counters, cancel) = (consumer.counters(), CancellationToken::new());
    let done = tokio::spawn({
        let cancel = cancel.clone();
        async move { consumer.run(cancel).await }
    });
    let client = nats.client().await;
    let jetstream = jetstream::new(client.clone());
    until("the stream is there", async || jetstream.get_stream(streams::COMMANDS).await.is_ok())
        .await;
    // More than two pulls bring.
    for _ in 0..1_200 {
        let body = json!({"title": "one of many"}).to_string();
        client.publish(cmd(Uuid::new_v4(), "submit"), body.into()).await.unwrap();
    }
    until("all are decided", async || processor.log.head().await.unwrap().position == 1_200).await;
    assert_eq!(counters.durable.load(Ordering::Relaxed), 1_200);
    assert_eq!(counters.pull_failures.load(Ordering::Relaxed), 0);
    cancel.cancel();
    done.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_with_the_outcome_and_the_subject_names_the_agent() {
    let wired = Wired::start().await;
    let task = Uuid::new_v4();
    let accepted =
        wired.request(req(task, "submit"), HeaderMap::new(), &json!({"title":"t"})).await;
    assert_eq!(accepted["status"], "accepted");
    let agent = AgentId(Uuid::new_v4());
    let tenant = TenantId::default_tenant();
    let subject = subject::agent_request(&tenant, agent, StreamType::Task, task, "cancel");
    let forged = headers(&[("Taffrail-Actor", "root")]);
    let accepted = wired.request(subject, forged, &json!({})).await;
    assert_eq!((&accepted["status"], &accepted["version"]), (&"accepted".into(), &2.into()));
    let events = wired.processor.log.read(0, 10).await.unwrap();
    assert_eq!(&*events[0].actor, "anonymous");
    assert_eq!(*events[1].actor, format!("agent:{agent}"));

    let stale = headers(&[("Taffrail-Expected-Version", "1")]);
    let refused = wired.request(req(task, "archive"), stale, &json!({})).await;
    assert_eq!(
        (&refused["status"], code(&refused)),
        (&"refused".into(), Some(Code::VersionMismatch))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_outcome_by_command_id_or_message_id() {
    let wired = Wired::start().await;
    let body = json!({ "title": "once" });
    let (task, id) = (Uuid::new_v4(), Uuid::new_v4().to_string());
    let given = || headers(&[("Taffrail-Command-Id", &id)]);
    let first = wired.command(cmd(task, "submit"), given(), &body).await;
    let again = wired.command(cmd(task, "submit"), given(), &body).await;
    let asked = wired.request(req(task, "submit"), given(), &body).await;
    assert_eq!(first["status"], "accepted");
    for repeat in [&again, &asked] {
        assert_eq!((&repeat["status"], &repeat["original"]), (&"duplicate".into(), &first));
    }
    let other = wired.request(req(task, "submit"), given(), &json!({ "title": "other" })).await;
    assert_eq!(code(&other), Some(Code::IdempotencyMismatch));

    let task = Uuid::new_v4();
    let message = || headers(&[("Nats-Msg-Id", "order-17")]);
    let first = wired.command(cmd(task, "submit"), message(), &body).await;
    let derived = ids::of_message_id(&TenantId::default_tenant(), "order-17");
    assert_eq!(first["command_id"], derived.to_string());
    // The broker's own window is as short as it can be: the outcome comes from the log.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = wired.command(cmd(task, "submit"), message(), &body).await;
    assert_eq!(again["original"], first);
    assert_eq!(wired.events().await, 2);
}

/// Subject, headers, body, and the problem that answers them.
type Malformed<'a> = (String, &'a [(&'static str, &'a str)], String, Code);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_answered_recorded_and_terminated() {
    let wired = Wired::start().await;
    let task = Uuid::new_v4();
    let good = json!({ "title": "t" }).to_string();
    let big = format!(r#"{{"title":"{}"}}"#, "x".repeat(1 << 20));
    let submit = || cmd(task, "submit");
    let none: &[(&'static str, &str)] = &[];
    let table: Vec<Malformed<'_>> = vec![
        (submit(), none, "{".into(), Code::InvalidBody),
        (submit(), none, String::new(), Code::InvalidBody),
        (submit(), none, "[]".into(), Code::InvalidBody),
        (submit(), none, r#"{"title":"a","title":"b"}"#.into(), Code::InvalidBody),
        (submit(), none, r#"{"title":"a","titel":"b"}"#.into(), Code::InvalidBody),
        (submit(), none, r#"{"title":""}"#.into(), Code::InvalidBody),
        (submit(), none, big, Code::TooLarge),
        (cmd(task, "sumbit"), none, good.clone(), Code::UnknownCommand),
        (submit().replace("task", "tsk"), none, good.clone(), Code::InvalidSubject),
        (submit().replace("default", "acme"), none, good.clone(), Code::InvalidSubject),
        (format!("{}.now", submit()), none, good.clone(), Code::InvalidSubject),
        ("taffrail.default.cmd.task.17.submit".into(), none, good.clone(), Code::InvalidSubject),
        (submit(), &[("Taffrail-Command-Id", "17")], good.clone(), Code::InvalidParameter),
        (submit(), &[("Content-Type", "application/xml")], good, Code::UnsupportedMediaType),
    ];
    let recorded = table.len();
    for (subject, pairs, body, expected) in table {
        let (inbox, mut answers) = wired.inbox().await;
        let mut map = headers(pairs);
        map.insert("Taffrail-Reply-To", inbox);
        wired.publish(subject.clone(), map, body.clone()).await;
        let outcome = next(&mut answers).await;
        assert_eq!(
            (&outcome["status"], code(&outcome)),
            (&"invalid".into(), Some(expected)),
            "{subject}"
        );
        let asked = subject.replace(".cmd.", ".req.");
        let answer =
            wired.client.request_with_headers(asked, headers(pairs), body.into()).await.unwrap();
        let outcome: Outcome = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(outcome.problem.as_ref().and_then(Problem::code), Some(expected));
    }
    until("all are terminated", async || wired.waiting().await == 0).await;
    assert_eq!(wired.events().await, 0);

    let jetstream = jetstream::new(wired.client.clone());
    let dead = jetstream.get_stream(streams::DEAD).await.unwrap();
    let mut info = dead.info_with_subjects(">").await.unwrap();
    let mut subjects = std::collections::BTreeMap::new();
    while let Some(entry) = info.next().await {
        let (subject, count) = entry.unwrap();
        subjects.insert(subject, count);
    }
    assert_eq!(subjects["taffrail.default.dead.commands"], recorded);
    assert_eq!(subjects["taffrail.default.dead.requests"], recorded);
    assert_eq!(subjects.len(), 2, "an unknown tenant's are recorded under `default`");
    let letter = dead.get_last_raw_message_by_subject("taffrail.default.dead.commands").await;
    let letter: Value = serde_json::from_slice(&letter.unwrap().payload).unwrap();
    assert_eq!(letter["problem"]["status"], 415);
    assert_eq!(letter["headers"]["Content-Type"], "application/xml");
    assert_eq!(letter["body"], r#"{"title":"t"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_goes_to_an_inbox_alone() {
    let wired = Wired::start().await;
    let target = "taffrail.default.agent.x.control";
    let mut overheard = wired.client.subscribe("taffrail.*.agent.>").await.unwrap();
    for elsewhere in [target, "$JS.API.STREAM.DELETE.TAFFRAIL_COMMANDS", "_INBOX.*", "news"] {
        let headers = headers(&[("Taffrail-Reply-To", elsewhere)]);
        wired.publish(cmd(Uuid::new_v4(), "submit"), headers, r#"{"title":"t"}"#).await;
    }
    until("all are terminated", async || wired.waiting().await == 0).await;
    assert_eq!(wired.events().await, 0);
    let jetstream = jetstream::new(wired.client.clone());
    let dead = jetstream.get_stream(streams::DEAD).await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 4);

    // The same by request: not executed either.
    let body = r#"{"title":"t"}"#;
    let subject = req(Uuid::new_v4(), "submit");
    wired.client.publish_with_reply(subject, target, body.into()).await.unwrap();
    wired.request(req(Uuid::new_v4(), "submit"), HeaderMap::new(), &json!({"title":"t"})).await;
    assert_eq!(wired.events().await, 1);
    let heard = tokio::time::timeout(Duration::from_millis(100), overheard.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_a_batch_has_its_own_outcome() {
    let wired = Wired::start().await;
    let tasks: Vec<Uuid> = (0..300).map(|_| Uuid::new_v4()).collect();
    let mut items: Vec<Value> = tasks
        .iter()
        .map(|id| json!({"type": "task", "id": id, "command": "submit", "body": {"title": "t"}}))
        .collect();
    items.push(json!({"type": "task", "id": tasks[0], "command": "cancel"}));
    items.push(
        json!({"type": "task", "id": tasks[0], "command": "start", "body": {"lease_token": 1}}),
    );
    items.push(json!({"type": "task", "id": tasks[1], "command": "submit", "body": {}}));
    let batch = Uuid::new_v4();
    let body = json!({ "commands": items });
    let subject = subject::request_batch(&TenantId::default_tenant(), batch);
    let asked = wired.request(subject, HeaderMap::new(), &body).await;
    let outcomes = asked["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 303);
    assert!(outcomes[..301].iter().all(|outcome| outcome["status"] == "accepted"));
    assert_eq!(outcomes[300]["version"], 2, "a stream's commands are decided in order");
    assert_eq!(
        (&outcomes[301]["status"], code(&outcomes[301])),
        (&"refused".into(), Some(Code::IllegalTransition))
    );
    assert_eq!(outcomes[302]["problem"]["errors"][0]["pointer"], "/commands/302/body/title");

    // Durable, twice: the ids derive from the batch's.
    let id = Uuid::new_v4();
    let durable = subject::command_batch(&TenantId::default_tenant(), batch);
    let fresh: Vec<Value> = (0..5)
        .map(|_| json!({"type": "task", "id": Uuid::new_v4(), "command": "submit", "body": {"title": "t"}}))
        .collect();
    let body = json!({ "commands": fresh });
    let given = || headers(&[("Taffrail-Command-Id", &id.to_string())]);
    let first = wired.command(durable.clone(), given(), &body).await;
    let again = wired.command(durable.clone(), given(), &body).await;
    for (index, (first, again)) in
        std::iter::zip(first["outcomes"].as_array().unwrap(), again["outcomes"].as_array().unwrap())
            .enumerate()
    {
        assert_eq!(first["command_id"], ids::of_item(id, index).to_string());
        assert_eq!(&again["original"], first);
    }
    let empty = wired.command(durable, HeaderMap::new(), &json!({ "commands": [] })).await;
    assert_eq!((&empty["status"], code(&empty)), (&"invalid".into(), Some(Code::InvalidBody)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_structured_cloud_event_is_a_command_too() {
    let wired = Wired::start().await;
    let event = json!({
        "specversion": "1.0", "id": "a-1", "source": "/shop", "type": "x", "data": {"title": "t"},
    });
    let structured = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
    let outcome = wired.command(cmd(Uuid::new_v4(), "submit"), structured, &event).await;
    assert_eq!(outcome["status"], "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_flow_again_soon_after_stream_or_consumer_are_gone() {
    let wired = Wired::start().await;
    let jetstream = jetstream::new(wired.client.clone());
    for trouble in ["consumer", "stream", "store", "restart", "kill"] {
        match trouble {
            "consumer" => {
                let stream = jetstream.get_stream(streams::COMMANDS).await.unwrap();
                stream.delete_consumer("processor").await.unwrap();
            }
            "stream" => {
                jetstream.delete_stream(streams::COMMANDS).await.unwrap();
            }
            "store" => wired.nats.wipe_store_and_restart().await,
            "restart" => wired.nats.restart().await,
            _ => wired.nats.kill().await,
        }
        let start = Instant::now();
        let body = || r#"{"title":"t"}"#.into();
        until("a command can be published", async || {
            let published = jetstream.publish(cmd(Uuid::new_v4(), "submit"), body()).await;
            match published {
                Ok(ack) => ack.await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
        let before = wired.events().await;
        let outcome = wired
            .command(cmd(Uuid::new_v4(), "submit"), HeaderMap::new(), &json!({"title": "t"}))
            .await;
        assert_eq!(outcome["status"], "accepted", "{trouble}");
        assert!(wired.events().await > before);
        assert!(start.elapsed() < Duration::from_secs(8), "{trouble}: {:?}", start.elapsed());
        // Requests flow as well.
        let outcome = wired
            .request(req(Uuid::new_v4(), "submit"), HeaderMap::new(), &json!({"title": "t"}))
            .await;
        assert_eq!(outcome["status"], "accepted", "{trouble}");
    }
    let _ = &wired.db;
}

/// Answers `busy` for a while, then hands on.
struct Reluctant {
    busy: AtomicU32,
    inner: Arc<dyn Executor>,
}

impl Executor for Reluctant {
    fn execute(&self, command: CommandEnvelope) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        if self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
        {
            let problem =
                Problem { retry_after_ms: Some(50), ..Problem::new(Code::Busy, "not now") };
            let outcome =
                Outcome::undecided(Status::Busy, command.command_id, command.stream_id, problem);
            return Box::pin(async move { outcome });
        }
        self.inner.execute(command)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_command_outlasts_overload_and_a_request_hears_of_it() {
    let (db, nats) = (support::database().await, support::nats().await);
    let processor = support::processor(&db).await;
    let reluctant = Arc::new(Reluctant { busy: AtomicU32::new(0), inner: processor.executor() });
    let (cancel, done) = serve(&nats, reluctant.clone()).await;
    let client = nats.client().await;
    reluctant.busy.store(1, Ordering::SeqCst);
    let busy = client.request(req(Uuid::new_v4(), "submit"), r#"{"title":"t"}"#.into()).await;
    let busy: Value = serde_json::from_slice(&busy.unwrap().payload).unwrap();
    assert_eq!((&busy["status"], &busy["retry_after_ms"]), (&"busy".into(), &50.into()));

    reluctant.busy.store(40, Ordering::SeqCst);
    let jetstream = jetstream::new(client);
    for _ in 0..200 {
        let body = r#"{"title":"t"}"#.into();
        jetstream.publish(cmd(Uuid::new_v4(), "submit"), body).await.unwrap().await.unwrap();
    }
    until("none is lost", async || processor.log.head().await.unwrap().position == 200).await;
    cancel.cancel();
    done.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight_and_the_next_process_the_rest() {
    let mut wired = Wired::start().await;
    let jetstream = jetstream::new(wired.client.clone());
    let acks = (0..2_000).map(|_| async {
        let body = r#"{"title":"t"}"#.into();
        let ack = jetstream.publish(cmd(Uuid::new_v4(), "submit"), body).await.unwrap();
        ack.await.unwrap();
    });
    join_all(acks).await;
    wired.cancel.cancel();
    (&mut wired.done).await.unwrap();
    let stream = jetstream.get_stream(streams::COMMANDS).await.unwrap();
    until("all that was taken is acknowledged", async || {
        stream.consumer_info("processor").await.unwrap().num_ack_pending == 0
    })
    .await;
    let decided = wired.processor.log.head().await.unwrap().position;
    assert_eq!(decided + wired.waiting().await, 2_000);
    let (_cancel, _done) = serve(&wired.nats, wired.processor.executor()).await;
    until("the rest is decided", async || {
        wired.processor.log.head().await.unwrap().position == 2_000
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_served_while_the_lease_is_held_and_no_longer() {
    let (db, nats) = (support::database().await, support::nats().await);
    let processor = support::processor(&db).await;
    let client = nats.client().await;
    let consumer = Consumer::new(client.clone(), processor.executor(), only_default());
    let (active, held) = watch::channel(false);
    let cancel = CancellationToken::new();
    let done = tokio::spawn({
        let cancel = cancel.clone();
        async move { consumer.run_while(held, cancel).await }
    });
    let served = async || {
        let body = r#"{"title":"t"}"#.into();
        client.request(req(Uuid::new_v4(), "submit"), body).await.is_ok()
    };
    for _ in 0..3 {
        assert!(!served().await, "there are no responders");
        active.send_replace(true);
        until("the lease is used", &served).await;
        active.send_replace(false);
        until("the lease is given up", async || !served().await).await;
    }
    cancel.cancel();
    done.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_processor_asks_over_nats() {
    let wired = Wired::start().await;
    let remote = RemoteExecutor::new(wired.client.clone());
    let envelope = |task, id| {
        let submit: domain::Command = TaskCommand::Submit(SubmitTask::titled("t")).into();
        let mut envelope =
            CommandEnvelope::new(TenantId::default_tenant(), task, submit, id, "Zo\u{eb}");
        // A creation whose id the server chose: a repeat may come with another one.
        envelope.fingerprint = CommandEnvelope::fingerprint_of(&envelope.command, None);
        envelope.correlation_id = Some(Uuid::from_u128(5));
        envelope
    };
    let id = Uuid::new_v4();
    let first = remote.execute(envelope(Uuid::new_v4(), id)).await;
    assert_eq!(first.status, Status::Accepted);
    let again = remote.execute(envelope(Uuid::new_v4(), id)).await;
    assert_eq!(again.original.as_deref(), Some(&first));
    let event = wired.processor.log.read(0, 1).await.unwrap().remove(0);
    assert_eq!((&*event.actor, event.correlation_id), ("Zo\u{eb}", Some(Uuid::from_u128(5))));

    wired.cancel.cancel();
    wired.done.await.unwrap();
    let nobody = remote.execute(envelope(Uuid::new_v4(), Uuid::new_v4())).await;
    assert_eq!(nobody.status, Status::Busy);
    assert_eq!(nobody.problem.and_then(|problem| problem.code()), Some(Code::Unavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_a_dying_processor_swallowed_is_asked_again() {
    let wired = Wired::start().await;
    // In the group of processors, and dead as soon as it has taken something.
    let dying = wired.client.clone();
    let group = "taffrail-processors".to_owned();
    let mut taken = dying.queue_subscribe("taffrail.*.req.>", group).await.unwrap();
    dying.flush().await.unwrap();
    let remote = RemoteExecutor::new(wired.client.clone());
    let outcomes = futures::future::join_all((0..16).map(|_| {
        let submit: domain::Command = TaskCommand::Submit(SubmitTask::titled("t")).into();
        let (task, id) = (Uuid::new_v4(), Uuid::new_v4());
        remote.execute(CommandEnvelope::new(TenantId::default_tenant(), task, submit, id, "me"))
    }));
    let dies = async {
        assert!(taken.next().await.is_some(), "it gets its share");
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(taken);
    };
    let both = futures::future::join(outcomes, dies);
    let (outcomes, ()) = tokio::time::timeout(Duration::from_secs(8), both).await.unwrap();
    for outcome in outcomes {
        assert_eq!(outcome.status, Status::Accepted, "{outcome:?}");
    }
    assert_eq!(wired.processor.log.head().await.unwrap().position, 16);
    wired.cancel.cancel();
    wired.done.await.unwrap();
}
