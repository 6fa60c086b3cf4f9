//! Events of every version that was ever stored, and of versions that no release has yet, through
//! all of today's readers: KRN-2, D45-D47.

use std::collections::BTreeMap;
use std::path::Path;

use async_nats::jetstream;
use bytes::Bytes;
use domain::{Event, StreamType, TenantId};
use projections::Model;
use reqwest::Method;
use serde_json::{Value, json};
use store::{Append, Leases, Log, NewEvent};
use uuid::Uuid;

use crate::support::{self, Api, Process, SOON, TestDb, TestNats, said};

/// An event of the corpus, as it was written.
#[derive(Clone)]
struct Sample {
    kind: StreamType,
    event: Event,
    version: u16,
    payload: Vec<u8>,
}

/// Every file of `tests/golden/events`, but for those that tell what an old one has become.
fn corpus() -> Vec<Sample> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/events");
    let index = std::fs::read_to_string(root.join("INDEX")).unwrap();
    let samples: Vec<Sample> = index
        .lines()
        .map(|line| {
            let (_, name) = line.split_once("  ").unwrap();
            let (folder, _) = name.split_once('/').unwrap();
            let (kind, rest) = folder.split_once('.').unwrap();
            let (event, version) = rest.rsplit_once(".v").unwrap();
            let (kind, version) = (kind.parse().unwrap(), version.parse().unwrap());
            let payload = std::fs::read(root.join(name)).unwrap();
            let event = Event::decode(kind, event, version, &payload).unwrap();
            Sample { kind, event, version, payload }
        })
        .collect();
    assert!(samples.len() > 200, "only {} samples", samples.len());
    samples
}

fn recorded(stream: Uuid, place: u64, sample: &Sample) -> NewEvent {
    NewEvent {
        schema_version: sample.version,
        payload: Bytes::from(sample.payload.clone()),
        ..support::new_event(stream, place, sample.event.clone())
    }
}

/// What a later release may write: an event that nobody knows, and a version of one that
/// everybody knows.
const LATER: &str = r#"{"z":1.10,"a":{"deep":[18446744073709551617]},"title":"of tomorrow"}"#;

fn unknown(stream: Uuid, place: u64, sample: &Sample, name: Option<&'static str>) -> NewEvent {
    let known = recorded(stream, place, sample);
    NewEvent {
        event_type: name.unwrap_or(known.event_type),
        schema_version: if name.is_some() { 1 } else { 99 },
        payload: Bytes::from_static(LATER.as_bytes()),
        ..known
    }
}

/// Streams of the corpus: each sample alone, and all of a kind in one; of each kind one with
/// events of a later release among them.
struct Filled {
    head: u64,
    /// The streams that hold something unknown, with the position of the first.
    later: BTreeMap<Uuid, (u64, StreamType)>,
    known: Vec<Uuid>,
}

async fn fill(log: &Log) -> Filled {
    let leases = Leases::new(log.pool().clone());
    let lease = leases.acquire("processor", "test", SOON, true).await.unwrap().unwrap();
    let mut events: Vec<NewEvent> = Vec::new();
    let mut known = Vec::new();
    let mut later = BTreeMap::new();
    let mut whole: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for sample in corpus() {
        let stream = Uuid::new_v4();
        known.push(stream);
        events.push(recorded(stream, 1, &sample));
        whole.entry(sample.kind.as_str()).or_default().push(sample);
    }
    for samples in whole.values() {
        let (plain, mixed) = (Uuid::new_v4(), Uuid::new_v4());
        known.push(plain);
        events.extend((1..).zip(samples).map(|(place, sample)| recorded(plain, place, sample)));
        let mut place = 0;
        let mut next = || {
            place += 1;
            place
        };
        events.push(recorded(mixed, next(), &samples[0]));
        later.insert(mixed, (events.len() as u64 + 1, samples[0].kind));
        events.push(unknown(mixed, next(), &samples[0], Some("teleported")));
        events.push(unknown(mixed, next(), &samples[0], None));
        events.extend(samples.iter().map(|sample| recorded(mixed, next(), sample)));
    }
    let head = events.len() as u64;
    let writer = log.writer().await.unwrap();
    let mut events = events.into_iter().peekable();
    while events.peek().is_some() {
        let events = events.by_ref().take(200).map(NewEvent::hashed).collect();
        let batch = Append { events, ..Append::default() };
        writer.append(lease.token, &batch).await.unwrap();
    }
    leases.release(&lease).await.unwrap();
    Filled { head, later, known }
}

fn serve(role: &str, db: &TestDb, nats: &TestNats) -> Process {
    let arguments = ["serve", "--role", role, "--http-addr", "127.0.0.1:0", "-o", "json"];
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let environment = [
        ("TAFFRAIL_DATABASE_URL", db.admin_url.as_str()),
        ("TAFFRAIL_NATS_URL", nats.url.as_str()),
        ("TAFFRAIL_NATS_TOKEN", nats.token.as_str()),
    ];
    Process::start(role, &arguments, &environment)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_and_those_of_a_later_release_go_through_every_reader() {
    let db = support::database().await;
    let nats = support::nats().await;
    let log = support::log(&db).await;
    let Filled { head, later, known } = fill(&log).await;

    // Aggregates: all fold but those that hold what nobody knows, which say so.
    let tenant = TenantId::default_tenant();
    let keys: Vec<_> =
        known.iter().chain(later.keys()).map(|stream| (tenant.clone(), *stream)).collect();
    let folded = log.rehydrate(&keys).await.unwrap();
    for stream in &known {
        assert!(folded.streams.contains_key(&(tenant.clone(), *stream)), "{stream}");
    }
    for stream in later.keys() {
        let why = &folded.unreadable[&(tenant.clone(), *stream)];
        assert!(why.contains("not known to this release"), "{why}");
    }

    // Every role of the product on this log.
    let processes = ["processor", "relay", "projector", "managers", "gateway"]
        .map(|role| serve(role, &db, &nats));
    let ready = processes.each_ref().map(Process::ready);
    let gateway = &ready[4];
    let api = Api::new(&said(gateway, "http", "url"), &said(gateway, "token", "token"));

    // Read models: at the end, nothing parked, and as the log says.
    support::until("the read models come to the end", async || {
        db.sql("SELECT min(position) FROM read.checkpoints").await.unwrap().parse::<u64>().unwrap()
            >= head
    })
    .await;
    let parked = db.sql("SELECT string_agg(model || ': ' || reason, ', ') FROM read.parked").await;
    assert_eq!(parked, None, "known events stand still");
    for model in Model::ALL {
        let compared = replay::compare(model, &log).await.unwrap();
        assert_eq!(compared.differing, vec![], "{model}");
        let report = replay::rebuild(model, &log, |_, _| {}).await.unwrap();
        assert_eq!((report.differing, report.parked), (Some(0), 0), "{report:?}");
    }

    // What was passed over is noted: the release that knows it makes the models anew.
    let noted = db.sql("SELECT count(*) FROM read.passed WHERE model = 'tasks'").await.unwrap();
    assert_eq!(noted, (2 * later.len()).to_string());
    assert_eq!(replay::outdated(&log).await.unwrap(), vec![]);
    db.sql(
        "UPDATE read.passed SET event = 'task.paused', version = 1
            WHERE model = 'tasks' AND event = 'task.teleported'",
    )
    .await;
    assert_eq!(replay::outdated(&log).await.unwrap(), vec![], "no release knows that yet");
    db.sql("UPDATE read.passed SET event = 'task.started' WHERE event = 'task.paused'").await;
    let outdated: Vec<Model> =
        replay::outdated(&log).await.unwrap().into_iter().map(|old| old.model).collect();
    assert_eq!(outdated, vec![Model::Tasks]);
    replay::rebuild(Model::Tasks, &log, |_, _| {}).await.unwrap();
    assert_eq!(replay::outdated(&log).await.unwrap(), vec![]);

    // HTTP: raw, to the digit.
    let (mixed, (place, _)) =
        later.iter().find(|(_, (_, kind))| *kind == StreamType::Task).unwrap();
    let path = format!("/v1/events?after={}&limit=2", place - 1);
    let answer = api.request(Method::GET, &path).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert_eq!(text.matches(LATER).count(), 2, "{text}");
    let page: Value = serde_json::from_str(&text).unwrap();
    let types = [&page["items"][0]["type"], &page["items"][1]["type"]];
    assert_eq!(types[0], "dev.taffrail.task.teleported.v1", "{page}");
    assert!(types[1].as_str().unwrap().ends_with(".v99"), "{page}");
    let mut seen = 0;
    while seen < head {
        let (status, page) = api.get(&format!("/v1/events?after={seen}&limit=200")).await;
        assert_eq!(status, 200);
        for event in page["items"].as_array().unwrap() {
            seen += 1;
            assert_eq!(event["sequence"], format!("{seen:020}"));
        }
    }
    let (_, page) = api.get(&format!("/v1/events?stream={mixed}&limit=3")).await;
    assert_eq!(page["items"][1]["data"]["title"], "of tomorrow", "{page}");

    // SSE: the same bytes.
    let stream = format!("/v1/events/stream?after={}", place - 1);
    let mut answer = api.request(Method::GET, &stream).send().await.unwrap();
    let mut said_so_far = String::new();
    while said_so_far.matches(LATER).count() < 2 {
        let chunk = tokio::time::timeout(SOON, answer.chunk()).await.unwrap().unwrap().unwrap();
        said_so_far.push_str(&String::from_utf8_lossy(&chunk));
    }

    // NATS: the stream's sequence is the position, the payload what was stored.
    let context = jetstream::new(nats.client().await);
    let mut mirrored = None;
    support::until("the relay comes to it", async || {
        let Ok(stream) = context.get_stream("TAFFRAIL_EVENTS").await else { return false };
        mirrored = stream.get_raw_message(*place).await.ok();
        mirrored.is_some()
    })
    .await;
    let mirrored = mirrored.unwrap();
    assert_eq!(mirrored.subject.as_str(), format!("taffrail.default.evt.task.{mixed}.teleported"));
    assert_eq!(mirrored.payload.as_ref(), LATER.as_bytes());

    // A command on such a stream is refused, not decided on half its history.
    let (status, problem) = api.post(&format!("/v1/tasks/{mixed}/cancel"), &json!({})).await;
    assert!(!status.is_success(), "{problem}");

    // The managers live: they hand out what comes now.
    let (status, agent) = api.post("/v1/agents", &json!({ "name": "after-all-that" })).await;
    assert_eq!(status, 201, "{agent}");
    let task = json!({ "title": "now", "queue": "evolution-now" });
    assert_eq!(api.post("/v1/tasks", &task).await.0, 201);
    support::until("the scheduler hands it out", async || {
        let claim = json!({ "agent_id": agent["id"], "wait_ms": 1_000 });
        let (_, claimed) = api.post("/v1/queues/evolution-now/claim", &claim).await;
        claimed["tasks"].as_array().is_some_and(|tasks| !tasks.is_empty())
    })
    .await;

    // The command line, for people and for programs.
    for output in ["table", "json", "jsonl", "yaml"] {
        let mut command = std::process::Command::new(support::TAFFRAIL);
        let (after, stream) = ((place - 1).to_string(), mixed.to_string());
        command.args(["events", "--after", &after, "--stream", &stream, "--limit", "2"]);
        command.args(["-o", output]);
        command.env("TAFFRAIL_URL", &api.base).env("TAFFRAIL_TOKEN", &api.token);
        let out = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("teleported"), "{output}: {text}");
        assert!(output == "table" || text.contains("of tomorrow"), "{output}: {text}");
    }
    for mut process in processes {
        assert_eq!(process.ended(), None, "a role ended");
    }
}
