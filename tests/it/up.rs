//! `taffrail up` as a newcomer and an operator meet it: KRN-9, OPS-5.

use std::time::Duration;

use serde_json::json;

use crate::support::{self, Api, Product, TAFFRAIL, run_dir, start_product, unique};

fn folder() -> std::path::PathBuf {
    run_dir().join(format!("up-{}", unique()))
}

async fn start(folder: &std::path::Path) -> Product {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || start_product(folder, &[])).await.unwrap()
}

fn api(product: &Product) -> Api {
    Api::new(&product.http, &product.token)
}

/// Every process below one, by parent.
fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if after.split(' ').nth(1) == Some(&parent.to_string()) {
            found.push(pid);
            found.extend(children(pid));
        }
    }
    found
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_restart_on_the_same_folder_goes_on_where_it_stopped() {
    let folder = folder();
    let mut first = start(&folder).await;
    let (status, task) = api(&first).post("/v1/tasks", &json!({ "title": "kept" })).await;
    assert_eq!(status, 201);
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let under = children(first.pid);
    assert!(under.len() >= 2, "PostgreSQL and NATS are children");
    assert!(first.terminate().success());
    assert!(under.iter().all(|pid| !is_alive(*pid)), "a child outlived its parent");

    let mut second = start(&folder).await;
    assert_eq!((&second.token, &second.nats_token), (&first.token, &first.nats_token));
    let (status, kept) = api(&second).get(&path).await;
    assert_eq!((status.as_u16(), kept["title"].as_str()), (200, Some("kept")));
    assert!(second.terminate().success());
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged_and_takes_the_servers_along() {
    let folder = folder();
    let mut product = start(&folder).await;
    let under = children(product.pid);
    let api_before = api(&product);
    let sender = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            let body = json!({ "title": format!("task {n}") });
            let request = api_before.request(reqwest::Method::POST, "/v1/tasks").json(&body);
            match request.send().await {
                Ok(answer) if answer.status() == 201 => {
                    let task: serde_json::Value = answer.json().await.unwrap_or_default();
                    let Some(id) = task["id"].as_str() else { break };
                    acknowledged.push(id.to_owned());
                }
                Ok(_) | Err(_) => break,
            }
        }
        acknowledged
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    product.kill();
    let acknowledged = sender.await.unwrap();
    assert!(acknowledged.len() > 5, "only {} tasks", acknowledged.len());
    support::until("the servers have died with their parent", async || {
        under.iter().all(|pid| !is_alive(*pid))
    })
    .await;

    let product = start(&folder).await;
    let api = api(&product);
    for id in &acknowledged {
        assert_eq!(api.get(&format!("/v1/tasks/{id}")).await.0, 200, "{id} was acknowledged");
    }
}

#[tokio::test]
async fn a_folder_in_use_is_refused_with_its_holder() {
    let product = support::product().await;
    let folder = product.data_dir.display().to_string();
    let second = tokio::task::spawn_blocking(move || {
        std::process::Command::new(TAFFRAIL)
            .args(["up", "--data-dir", &folder, "--http-addr", "127.0.0.1:0"])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(said.contains(&product.pid.to_string()) && said.contains("--data-dir"), "{said}");
}

#[tokio::test]
async fn an_older_copy_of_the_database_begins_a_new_epoch() {
    let folder = folder();
    let mut product = start(&folder).await;
    let api_ = api(&product);
    api_.post("/v1/tasks", &json!({ "title": "before the copy" })).await;
    assert!(product.terminate().success());
    let (data, copy) = (folder.join("pg"), folder.join("pg.copy"));
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap();
    assert!(copied.success());

    let mut product = start(&folder).await;
    for n in 0..3 {
        api(&product).post("/v1/tasks", &json!({ "title": format!("lost {n}") })).await;
    }
    assert!(product.terminate().success());
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();

    let product = start(&folder).await;
    let api = api(&product);
    let (_, submitted) = api.post("/v1/tasks", &json!({ "title": "after the copy" })).await;
    let position = submitted["position"].as_u64().unwrap();
    assert_eq!(position, 2);
    let nats = product.nats().await;
    let context = async_nats::jetstream::new(nats);
    support::until("the stream is the log's again", async || {
        let Ok(stream) = context.get_stream("TAFFRAIL_EVENTS").await else { return false };
        let Ok(last) = stream.get_raw_message(position).await else { return false };
        let header = |name: &str| last.headers.get(name).map(|value| value.as_str().to_owned());
        stream.get_info().await.is_ok_and(|info| info.state.last_sequence == position)
            && header("Taffrail-Epoch").as_deref() == Some("2")
    })
    .await;
    let (_, page) = api.get("/v1/events?limit=10").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_and_leaves_the_folder_usable() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder();
    let (path, address) = (folder.display().to_string(), taken.local_addr().unwrap().to_string());
    let failed = tokio::task::spawn_blocking(move || {
        std::process::Command::new(TAFFRAIL)
            .args(["up", "--data-dir", &path, "--http-addr", &address])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("--http-addr"), "{said}");
    assert!(!folder.join("runtime.json").exists());
    let mut product = start(&folder).await;
    assert!(product.terminate().success());
}
