//! Log lines of agents: kept within limits, shown, followed, resumed.

use std::time::Duration;

use broker::logs::LogLimits;
use broker::streams::{LOGS, Streams};
use broker::subject::{self, AgentWord};
use domain::{AgentId, TenantId};
use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::agents::{RunningAgent, cli, end_of, fresh, json as document, submit};
use crate::support::{self, Api, Product, product, until};

fn log_subject(id: AgentId) -> String {
    subject::agent(&TenantId::default_tenant(), id, AgentWord::Log)
}

/// An agent that is registered and says nothing of itself.
async fn registered(product: &Product) -> (Api, AgentId) {
    let api = Api::new(&product.http, &product.token);
    let (status, answer) = api.post("/v1/agents", &json!({ "name": fresh("logs") })).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    (api, AgentId(answer["id"].as_str().unwrap().parse().unwrap()))
}

async fn page(api: &Api, id: AgentId, query: &str) -> Vec<Value> {
    let (status, page) = api.get(&format!("/v1/agents/{id}/logs?follow=false{query}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["items"].as_array().unwrap().clone()
}

/// Reads a followed log until so many lines have come: sequence and text of each.
async fn follow(
    api: &Api,
    id: AgentId,
    query: &str,
    last_id: &str,
    lines: usize,
) -> Vec<(u64, String)> {
    let mut request = api.request(Method::GET, &format!("/v1/agents/{id}/logs{query}"));
    if !last_id.is_empty() {
        request = request.header("last-event-id", last_id);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut bytes = answer.bytes_stream();
    let mut text = String::new();
    let mut found = Vec::new();
    let reading = async {
        while found.len() < lines {
            text.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
            while let Some((frame, rest)) = text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|l| l.strip_prefix(name));
                if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                    let data: Value = serde_json::from_str(data).unwrap();
                    found.push((id.parse().unwrap(), data["line"].as_str().unwrap().to_owned()));
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the lines come");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_printed_is_there_when_it_is_gone() {
    let product = product().await;
    let name = fresh("printer");
    let script = "for n in 1 2 3; do echo line $n >&2; done; echo 1";
    let mut agent = RunningAgent::start(product, &name, &name, &[], script);
    let one = submit(product, &name, &[]);
    end_of(product, &one);
    let two = submit(product, &name, &[]);
    end_of(product, &two);
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let lines = |more: &[&str]| {
        let mut arguments = vec!["logs", &name, "-o", "json"];
        arguments.extend(more);
        let page = document(&cli(product, &arguments));
        let items = page["items"].as_array().unwrap().clone();
        items.iter().map(|i| i["line"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let three = ["line 1", "line 2", "line 3"];
    until("all is kept", async || lines(&[]).len() == 6).await;
    assert_eq!(lines(&["--task", &two]), three);
    assert_eq!(lines(&["--tail", "2"]), ["line 2", "line 3"]);
    let shown = cli(product, &["agent", "logs", &name, "--tail", "1"]);
    assert!(String::from_utf8_lossy(&shown.stdout).ends_with("line 3\n"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_has_no_gap_and_no_double_and_resumes_behind_an_id() {
    let product = product().await;
    let (api, id) = registered(product).await;
    let nats = product.nats().await;
    let writer = tokio::spawn({
        let nats = nats.clone();
        async move {
            for n in 0..1_500 {
                let body = json!({ "stream": "stdout", "line": n.to_string() }).to_string();
                nats.publish(log_subject(id), body.into()).await.unwrap();
                if n % 20 == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    });
    // Opened in the middle of the writing, each time elsewhere.
    let mut resumed = String::new();
    for _ in 0..4 {
        let lines = follow(&api, id, "?tail=7", &resumed, 200).await;
        let numbers: Vec<u64> = lines.iter().map(|(_, line)| line.parse().unwrap()).collect();
        let first = numbers[0];
        let expected: Vec<u64> = (first..first + numbers.len() as u64).collect();
        assert_eq!(numbers, expected);
        if let Ok(before) = resumed.parse::<u64>() {
            let seen = page(&api, id, &format!("&after={}&tail=1", before - 1)).await;
            let last: u64 = seen[0]["line"].as_str().unwrap().parse().unwrap();
            assert_eq!(first, last + 1, "it goes on where it was left");
        }
        resumed = lines.last().unwrap().0.to_string();
    }
    writer.await.unwrap();
    let all = follow(&api, id, "?tail=10000", "", 1_500).await;
    assert_eq!(all.len(), 1_500);

    // By `Accept` as well, and the two cannot be confused.
    let answer = api
        .request(Method::GET, &format!("/v1/agents/{id}/logs?tail=3"))
        .header("accept", "application/json")
        .send()
        .await
        .unwrap();
    let document: Value = answer.json().await.unwrap();
    assert_eq!(document["items"].as_array().unwrap().len(), 3);
    assert_eq!(document["next"], document["items"][2]["seq"]);
    let (status, _) = api.get(&format!("/v1/agents/{id}/logs?tail=10001")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let nobody = AgentId(uuid::Uuid::new_v4());
    let (status, _) = api.get(&format!("/v1/agents/{nobody}/logs")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_printed_is_one_line_of_bounded_length() {
    let product = product().await;
    let (api, id) = registered(product).await;
    let nats = product.nats().await;
    let lines = [
        "no JSON\n\nevent: forged\nid: 1\n\n".to_owned(),
        json!({ "stream": "stderr", "line": "a\r\n\u{1b}[2Jb\u{0}" }).to_string(),
        json!({ "stream": "stdout", "line": "x".repeat(15_000) }).to_string(),
        json!({ "stream": "stdout", "line": "y".repeat(20_000) }).to_string(),
        json!({ "line": "last" }).to_string(),
    ];
    for line in lines {
        nats.publish(log_subject(id), line.into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    // The one of 20,000 bytes is more than the stream keeps.
    let lines = follow(&api, id, "", "", 4).await;
    assert_eq!(lines[0].1, "no JSON\n\nevent: forged\nid: 1\n\n");
    assert_eq!(lines[1].1, "a\r\n\u{1b}[2Jb\u{0}");
    assert!(lines[2].1.len() < 8_300 && lines[2].1.ends_with(" bytes cut]"));
    assert_eq!(lines[3].1, "last");
    let shown = cli(product, &["logs", &id.to_string()]);
    assert!(!shown.stdout.contains(&0x1b) && !shown.stdout.contains(&0), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_agents_lines_leaves_the_others_alone() {
    let nats = support::nats().await;
    let client = broker::connect(&nats.url, Some(&nats.token), "test").await.unwrap();
    let limits = LogLimits { lines_per_agent: 100, ..LogLimits::default() };
    let streams = Streams::new(client.clone()).keeping(limits);
    streams.ensure().await.unwrap();
    let (quiet, loud) = (AgentId::nth(1), AgentId::nth(2));
    let tenant = TenantId::default_tenant();
    for n in 0..3 {
        client.publish(log_subject(quiet), format!("quiet {n}").into()).await.unwrap();
    }
    for n in 0..5_000 {
        client.publish(log_subject(loud), format!("loud {n}").into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let kept = async |id: AgentId, after| {
        let (kept, lines) = broker::logs::open(&client, &tenant, id, after).await.unwrap();
        let lines: Vec<_> = lines.take(kept as usize).collect().await;
        lines.iter().map(|line| String::from_utf8(line.body.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    until("the flood is in", async || {
        kept(loud, None).await.last().is_some_and(|line| line == "loud 4999")
    })
    .await;
    assert_eq!(kept(loud, None).await.len(), 100);
    assert_eq!(kept(quiet, None).await, ["quiet 0", "quiet 1", "quiet 2"]);
    // A place of a stream that is gone shows what is there now.
    assert_eq!(kept(quiet, Some(1_000_000)).await.len(), 3);

    // Other limits hold from the next start on.
    let fewer = LogLimits { lines_per_agent: 10, ..limits };
    Streams::new(client.clone()).keeping(fewer).limit_logs().await.unwrap();
    until("the limit holds", async || kept(loud, None).await.len() == 10).await;
    let jetstream = async_nats::jetstream::new(client.clone());
    jetstream.delete_stream(LOGS).await.unwrap();
    assert!(broker::logs::open(&client, &tenant, loud, None).await.is_err());
    streams.ensure().await.unwrap();
    assert!(kept(loud, None).await.is_empty());
}
