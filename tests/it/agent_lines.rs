//! Agents by other ways than NATS, ways that close, and answers that wait on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{AgentId, Json, TenantId};
use futures::{SinkExt, StreamExt};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;

use crate::agents::{RunningAgent, cli, end_of, fresh, json as document, submit};
use crate::support::{Api, Gate, Product, product, unique, until};

const NOWHERE: (&str, &str) = ("TAFFRAIL_NATS_URL", "nats://127.0.0.1:1");

fn agent_of(product: &Product, name: &str) -> Value {
    document(&cli(product, &["agent", "get", name, "-o", "json"]))
}

fn task(product: &Product, id: &str) -> Value {
    document(&cli(product, &["task", "get", id, "-o", "json"]))
}

/// A folder for journals of a test's own.
fn folder(product: &Product) -> PathBuf {
    product.data_dir.join(format!("journal-{}", unique()))
}

/// What an agent's journal holds.
fn journal(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_nats_works_over_the_websocket() {
    let product = product().await;
    let (name, capability) = (fresh("web"), fresh("web"));
    let script = "echo hello >&2; echo '\"over the web\"'";
    let via = ["--via", "ws"];
    let mut agent = RunningAgent::start_with(product, &name, &capability, &via, script, &[NOWHERE]);
    let claimed = submit(product, &capability, &[]);
    assert_eq!(end_of(product, &claimed).0["result"], "over the web");
    // It claims from `default` alone: what is elsewhere is pushed to it.
    let pushed = submit(product, &capability, &["--queue", &fresh("elsewhere")]);
    assert_eq!(end_of(product, &pushed).0["result"], "over the web");

    let shown = agent_of(product, &name);
    let id = shown["id"].as_str().unwrap();
    let api = Api::new(&product.http, &product.token);
    let (_, events) = api.get(&format!("/v1/events?stream={claimed}")).await;
    let completed = events["items"].as_array().unwrap().iter();
    let completed = completed.clone().find(|e| e["type"] == "dev.taffrail.task.completed.v1");
    assert_eq!(completed.unwrap()["actor"], format!("agent:{id}"), "it speaks as itself");
    until("its heartbeat is seen", async || !agent_of(product, &name)["last_heartbeat"].is_null())
        .await;
    let logs = cli(product, &["logs", &name, "--task", &claimed, "-o", "jsonl"]);
    assert_eq!(document(&logs)["line"], "hello");

    // Whichever way a twin comes, it is told that this one is there.
    for via in ["nats", "ws"] {
        let twin = cli(product, &["agent", "run", "--name", &name, "--via", via, "--", "true"]);
        let said = String::from_utf8_lossy(&twin.stderr).into_owned();
        assert!(said.contains("is running already"), "{via}: {said}");
    }
    let drained = cli(product, &["agent", "drain", &name, "--no-wait", "-o", "json"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(agent.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_under_way_changes_over_to_the_gateway_and_back() {
    let product = product().await;
    let (name, capability) = (fresh("both"), fresh("both"));
    let gate = Gate::before(&product.nats_url);
    let nats = format!("nats://{}", gate.address);
    // Four times the lease: it is lost unless somebody extends it over the other way.
    let script = "sleep 6; echo '\"held\"'";
    let environment = [("TAFFRAIL_NATS_URL", nats.as_str())];
    let more = ["--slots", "4", "--lease-ms", "4000"];
    let agent = RunningAgent::start_with(product, &name, &capability, &more, script, &environment);
    let before = submit(product, &capability, &[]);
    agent.wait("task", "started");
    gate.close();
    let during = submit(product, &capability, &[]);
    assert_eq!(end_of(product, &before).0["result"], "held");
    let (done, _) = end_of(product, &during);
    assert_eq!(done["result"], "held");
    let across = submit(product, &capability, &[]);
    agent.wait("task", "started");
    gate.reopen();
    assert_eq!(end_of(product, &across).0["result"], "held");
    let after = submit(product, &capability, &[]);
    assert_eq!(end_of(product, &after).0["result"], "held");
    for id in [&before, &during, &across, &after] {
        assert_eq!(task(product, id)["attempt"], 1, "nothing was lost on the way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_heard_survives_the_kill_of_its_agent() {
    let product = product().await;
    let (name, capability) = (fresh("kept"), fresh("kept"));
    let folder = folder(product);
    let gate = Gate::before(&product.nats_url);
    let nats = format!("nats://{}", gate.address);
    let environment = [("TAFFRAIL_NATS_URL", nats.as_str())];
    let path = folder.display().to_string();
    let more = ["--via", "nats", "--lease-ms", "60000", "--journal", &path];
    let script = "sleep 1; echo '\"kept\"'";
    let mut agent =
        RunningAgent::start_with(product, &name, &capability, &more, script, &environment);
    let id = submit(product, &capability, &[]);
    agent.wait("task", "started");
    gate.close();
    agent.wait("task", "kept");
    agent.signal(Signal::KILL);
    agent.exit_code();
    assert!(journal(&folder).contains("\"kept\""), "{}", journal(&folder));
    assert_eq!(task(product, &id)["state"], "in_progress");

    gate.reopen();
    // What it would do now shows in the result if the task were done a second time.
    let _again = RunningAgent::start_with(
        product,
        &name,
        &capability,
        &more,
        "echo '\"again\"'",
        &environment,
    );
    let (done, _) = end_of(product, &id);
    assert_eq!((&done["result"], &done["attempt"]), (&"kept".into(), &1.into()), "{done}");
    until("the journal is empty", async || journal(&folder).is_empty()).await;
    let api = Api::new(&product.http, &product.token);
    let (_, events) = api.get(&format!("/v1/events?stream={id}&type=task.completed")).await;
    assert_eq!(events["items"].as_array().unwrap().len(), 1, "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_is_dropped() {
    let product = product().await;
    let (name, capability) = (fresh("late"), fresh("late"));
    let folder = folder(product);
    let gate = Gate::before(&product.nats_url);
    let nats = format!("nats://{}", gate.address);
    let environment = [("TAFFRAIL_NATS_URL", nats.as_str())];
    let path = folder.display().to_string();
    let more = ["--via", "nats", "--journal", &path];
    let script = "sleep 1; echo '\"late\"'";
    let mut agent =
        RunningAgent::start_with(product, &name, &capability, &more, script, &environment);
    let id = submit(product, &capability, &[]);
    agent.wait("task", "started");
    gate.close();
    agent.wait("task", "kept");
    agent.signal(Signal::KILL);
    agent.exit_code();
    // Its lease runs out, and another does the work.
    let _other =
        RunningAgent::start(product, &fresh("other"), &capability, &[], "echo '\"in time\"'");
    assert_eq!(end_of(product, &id).0["result"], "in time");
    assert!(journal(&folder).contains("late"));
    gate.reopen();
    let again = RunningAgent::start_with(
        product,
        &name,
        &capability,
        &more,
        "echo '\"again\"'",
        &environment,
    );
    let dropped = again.told("task", "delivered");
    assert!(dropped["refused"].is_string(), "{dropped}");
    until("the journal is empty", async || journal(&folder).is_empty()).await;
    assert_eq!(task(product, &id)["result"], "in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_a_server_that_comes_back_while_its_agent_lives() {
    let product = product().await;
    let (name, capability) = (fresh("wait"), fresh("wait"));
    let folder = folder(product);
    let gate = Gate::before(&product.http);
    let http = format!("http://{}", gate.address);
    let environment = [("TAFFRAIL_URL", http.as_str()), NOWHERE];
    let path = folder.display().to_string();
    let more = ["--via", "ws", "--lease-ms", "60000", "--journal", &path];
    let agent = RunningAgent::start_with(
        product,
        &name,
        &capability,
        &more,
        "sleep 1; echo '\"waited\"'",
        &environment,
    );
    let id = submit(product, &capability, &[]);
    agent.wait("task", "started");
    gate.close();
    agent.wait("task", "kept");
    assert!(journal(&folder).contains("waited"));
    gate.reopen();
    agent.wait("task", "completed");
    let (done, _) = end_of(product, &id);
    assert_eq!((&done["result"], &done["attempt"]), (&"waited".into(), &1.into()));
    until("the journal is empty", async || journal(&folder).is_empty()).await;
}

/// Tells that it is halfway while nobody hears it, and is done when it is told to be.
struct Halfway(Arc<Gate>, Arc<tokio::sync::Notify>);

impl agent::Handler for Halfway {
    async fn handle(&self, work: agent::Work) -> agent::Verdict {
        self.0.close();
        let told = work.progress(Some(50.0), Some("halfway".into()), Json::null()).await;
        assert!(told.is_ok(), "it is kept: {told:?}");
        self.1.notified().await;
        agent::Verdict::Done(Json::of(&7))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_nobody_heard_is_told_before_the_answer() {
    let product = product().await;
    let capability = fresh("sdk");
    let gate = Arc::new(Gate::before(&product.nats_url));
    let server = agent::Server {
        url: format!("nats://{}", gate.address),
        token: Some(product.nats_token.clone()),
    };
    let mut options = agent::Options::named(fresh("sdk"));
    options.description.capabilities = vec![capability.clone()];
    options.lease = Duration::from_secs(60);
    options.journal = Some(folder(product));
    let kept = options.journal.clone().unwrap();
    let running = agent::Agent::over(agent::Route::Nats(server), options).await.unwrap();
    let control = running.control();
    let go = Arc::new(tokio::sync::Notify::new());
    let running = tokio::spawn(running.run(Halfway(Arc::clone(&gate), Arc::clone(&go))));
    let id = submit(product, &capability, &[]);
    until("the progress is kept", async || journal(&kept).contains("halfway")).await;
    go.notify_one();
    until("the answer is kept", async || journal(&kept).contains("complete")).await;
    gate.reopen();
    let (done, _) = end_of(product, &id);
    assert_eq!((&done["result"], &done["attempt"]), (&7.into(), &1.into()), "{done}");
    let api = Api::new(&product.http, &product.token);
    let (_, events) = api.get(&format!("/v1/events?stream={id}")).await;
    let kinds = events["items"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap());
    // A slow machine extends the lease in between.
    let kinds = kinds.filter_map(|kind| kind.split('.').nth(3));
    let kinds: Vec<_> = kinds.filter(|kind| *kind != "lease_extended").collect();
    assert_eq!(kinds[kinds.len() - 2..], ["progressed", "completed"], "{kinds:?}");
    control.drain(None);
    assert_eq!(running.await.unwrap().unwrap(), agent::Ended::Drained);
    until("the journal is empty", async || journal(&kept).is_empty()).await;
}

/// Says a frame as a line, and gives the next answer that is no event.
async fn over(line: &mut BufReader<UnixStream>, frame: &Value) -> Value {
    line.get_mut().write_all(format!("{frame}\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(10), line.read_line(&mut text))
        .await
        .unwrap()
        .unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_network_speaks_through_a_socket_and_as_itself_alone() {
    let product = product().await;
    let (name, capability) = (fresh("socket"), fresh("socket"));
    let path =
        std::env::temp_dir().join(format!("taffrail-{}-{}.sock", std::process::id(), unique()));
    let id = AgentId(uuid::Uuid::new_v4());
    let relay = agent::Relay::new(product.nats().await, TenantId::default_tenant(), id);
    let serving = tokio::spawn(relay.listen_at(&path).unwrap());

    let mut line = BufReader::new(UnixStream::connect(&path).await.unwrap());
    let early = over(&mut line, &json!({ "heartbeat": {} })).await;
    assert_eq!(early["problem"]["status"], 403, "{early}");
    let other = json!({ "attach": { "agent": "01890a5d-ac96-774b-bcce-b302099a8058" } });
    let foreign = over(&mut line, &other).await;
    assert_eq!(foreign["problem"]["status"], 403, "{foreign}");
    let wrong = over(&mut line, &json!({ "shout": 1 })).await;
    assert_eq!(wrong["problem"]["status"], 400, "{wrong}");
    let attached = over(&mut line, &json!({ "attach": { "agent": id } })).await;
    assert_eq!(attached["attached"]["agent"], json!(id), "{attached}");
    let elsewhere = json!({ "command": {
        "type": "task", "id": id, "command": "x.y", "command_id": id, "body": {},
    } });
    let elsewhere = over(&mut line, &elsewhere).await;
    assert_eq!(elsewhere["problem"]["status"], 400, "no subject is made of it: {elsewhere}");
    drop(line);

    let (text, socket) = (id.to_string(), path.display().to_string());
    let environment = [
        ("TAFFRAIL_AGENT_SOCKET", socket.as_str()),
        ("TAFFRAIL_AGENT_ID", text.as_str()),
        ("TAFFRAIL_AGENT_GENERATION", "3"),
        ("TAFFRAIL_URL", "http://127.0.0.1:1"),
        NOWHERE,
    ];
    let script = "echo inside >&2; echo \"\\\"$TAFFRAIL_AGENT_ID $TAFFRAIL_AGENT_SOCKET\\\"\"";
    let mut agent =
        RunningAgent::start_with(product, &name, &capability, &[], script, &environment);
    let claimed = submit(product, &capability, &[]);
    let (done, _) = end_of(product, &claimed);
    assert_eq!(done["result"], format!("{id} "), "the socket is not the command's");
    let pushed = submit(product, &capability, &["--queue", &fresh("elsewhere")]);
    assert_eq!(end_of(product, &pushed).0["state"], "done");
    assert_eq!(agent_of(product, &name)["id"], text);
    let logs = cli(product, &["logs", &name, "--task", &claimed, "-o", "jsonl"]);
    let line = document(&logs);
    assert_eq!((&line["line"], &line["generation"]), (&"inside".into(), &3.into()));
    let drained = cli(product, &["agent", "drain", &name, "--no-wait", "-o", "json"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(agent.exit_code(), Some(0));
    serving.abort();
    let _ = std::fs::remove_file(path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_speaks_for_no_agent_before_it_says_which() {
    let product = product().await;
    let address = product.http.replace("http://", "ws://") + "/v1/ws";
    let request = ClientRequestBuilder::new(address.parse().unwrap())
        .with_header("Authorization", format!("Bearer {}", product.token));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let mut say = async |frame: Value| loop {
        socket.send(Message::text(frame.to_string())).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                return serde_json::from_str::<Value>(&text).unwrap();
            }
        }
    };
    for frame in [
        json!({ "claim": { "ref": 1, "queue": "default" } }),
        json!({ "heartbeat": { "observed_state": "ready" } }),
        json!({ "log": { "line": "x" } }),
    ] {
        let refused = say(frame.clone()).await;
        assert_eq!(refused["problem"]["status"], 403, "{frame}: {refused}");
    }
    let id = AgentId(uuid::Uuid::new_v4());
    let attached = say(json!({ "attach": { "agent": id } })).await;
    assert_eq!(attached["attached"]["agent"], json!(id));
    let malformed = say(json!({ "heartbeat": { "load": "high" } })).await;
    assert_eq!(malformed["problem"]["status"], 400, "{malformed}");
    // An agent that nobody knows gets no tasks, and is told so.
    let unknown = say(json!({ "claim": { "ref": 7, "queue": "default" } })).await;
    assert_eq!(unknown["claimed"]["ref"], 7, "{unknown}");
    assert_eq!(unknown["claimed"]["problem"]["status"], 404, "{unknown}");
    let far = say(json!({ "claim": { "ref": 8, "queue": "default", "max": 1000 } })).await;
    assert_eq!(far["problem"]["status"], 400, "{far}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_woken_and_gives_a_sign_of_life_when_it_is_asked_to() {
    let product = product().await;
    let (name, capability) = (fresh("woken"), fresh("woken"));
    let mark = product.data_dir.join(fresh("mark"));
    let wake = format!("echo woken >> {}", mark.display());
    let more = ["--heartbeat", "60s", "--wake", &wake];
    let script = "while :; do echo tick; sleep 0.05; done";
    let agent = RunningAgent::start(product, &name, &capability, &more, script);
    agent.signal(Signal::USR1);
    agent.wait("agent", "woken");
    until("the command ran", async || mark.exists()).await;

    let id = agent_of(product, &name)["id"].as_str().unwrap().to_owned();
    let nats = product.nats().await;
    let own = |word: &str| format!("taffrail.default.agent.{id}.{word}");
    let mut beats = nats.subscribe(own("heartbeat")).await.unwrap();
    nats.flush().await.unwrap();
    let mut beat = async || {
        nats.publish(own("control"), r#"{"command":"beat"}"#.into()).await.unwrap();
        let beat = tokio::time::timeout(Duration::from_secs(10), beats.next()).await;
        let beat: Value = serde_json::from_slice(&beat.unwrap().unwrap().payload).unwrap();
        beat
    };
    let idle = beat().await;
    assert_eq!(idle["observed_state"], "ready", "{idle}");
    let id = submit(product, &capability, &[]);
    agent.wait("task", "started");
    // A sign of life may come before the job's next line does.
    let seq = |beat: &Value| beat["progress_seq"].as_u64().unwrap();
    let mut seen = seq(&idle);
    for what in ["a task began", "it printed"] {
        until(what, async || {
            let now = seq(&beat().await);
            let grew = now > seen;
            seen = seen.max(now);
            grew
        })
        .await;
    }
    nats.publish(own("control"), r#"{"command":"wake"}"#.into()).await.unwrap();
    agent.wait("agent", "woken");
    cli(product, &["task", "cancel", &id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_looks_once_ends_of_itself() {
    let product = product().await;
    let (name, capability) = (fresh("once"), fresh("once"));
    let task = submit(product, &capability, &[]);
    let more = ["--once", "--claim-wait", "20"];
    let mut agent = RunningAgent::start(product, &name, &capability, &more, "echo 1");
    assert_eq!(end_of(product, &task).0["result"], 1);
    assert_eq!(agent.exit_code(), Some(0));
    let begin = Instant::now();
    let more = ["--rounds", "2", "--claim-wait", "0.3"];
    let mut idle = RunningAgent::start(product, &name, &capability, &more, "echo 1");
    assert_eq!(idle.exit_code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lets_nobody_in_is_told_of_at_once() {
    let product = product().await;
    let begin = Instant::now();
    let mut run = product.cli(&["agent", "run", "--name", "x", "--via", "ws", "--", "true"]);
    let refused = run.env("TAFFRAIL_TOKEN", "wrong").output().unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    let api = Api::new(&product.http, &product.token);
    let answer = api.request(Method::GET, "/v1/ws").send().await.unwrap();
    assert!(answer.status().is_client_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_comes_and_goes_loses_and_doubles_nothing() {
    let product = product().await;
    let (name, capability) = (fresh("flap"), fresh("flap"));
    let gate = Gate::before(&product.nats_url);
    let nats = format!("nats://{}", gate.address);
    let runs = product.data_dir.join(fresh("runs"));
    let script = format!("sleep 0.3; echo $TAFFRAIL_TASK_ID >> {}; echo 1", runs.display());
    let environment = [("TAFFRAIL_NATS_URL", nats.as_str())];
    let more = ["--slots", "4", "--lease-ms", "5000"];
    let _agent =
        RunningAgent::start_with(product, &name, &capability, &more, &script, &environment);
    let tasks: Vec<String> = (0..80).map(|_| submit(product, &capability, &[])).collect();
    for _ in 0..2 {
        gate.close();
        tokio::time::sleep(Duration::from_secs(4)).await;
        gate.reopen();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let ends: Vec<Value> = tasks.iter().map(|id| end_of(product, id).0).collect();
    assert!(ends.iter().all(|task| task["state"] == "done"), "{ends:?}");
    let again = ends.iter().filter(|task| task["attempt"] != 1).count();
    let runs = std::fs::read_to_string(runs).unwrap().lines().count();
    // A cut in the middle of the answer to a claim may cost that claim's tasks a lease.
    assert!(again <= 4 && runs - tasks.len() <= again, "{again} again, {runs} runs");
    let api = Api::new(&product.http, &product.token);
    for id in &tasks {
        let (_, events) = api.get(&format!("/v1/events?stream={id}&type=task.completed")).await;
        assert_eq!(events["items"].as_array().unwrap().len(), 1, "{events}");
    }
}
