//! `taffrail at`: the log event by event, on a terminal and for scripts.

use std::io::Write;

use serde_json::{Value, json};

use crate::http::{Api, queue};
use crate::support::until;
use crate::top::{Screen, standing};

/// A task that is submitted, then described anew: its id and the positions of both.
async fn changed(api: &Api) -> (String, u64, u64) {
    let queue = queue();
    let later = "2100-01-01T00:00:00Z";
    let body = json!({ "title": "first words", "queue": queue, "run_at": later });
    let task = api.submit(body).await;
    let id = task["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tasks/{id}");
    let update = api.ask(reqwest::Method::PATCH, &path).json(&json!({ "title": "second words" }));
    let update: Value = update.send().await.unwrap().json().await.unwrap();
    let (first, second) = (&task["position"], &update["position"]);
    let second = second.as_u64().unwrap_or_else(|| panic!("{update}"));
    // The lines around an event are the audit's, which is a moment behind the log.
    until("the audit has it", async || {
        let page = api.get(&format!("/v1/audit?from={second}&to={second}")).await;
        page["items"][0]["position"] == second
    })
    .await;
    (id, first.as_u64().unwrap(), second)
}

async fn said(api: &Api, arguments: &[&str]) -> std::process::Output {
    let mut command = api.product.cli(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_is_the_event_with_its_rows_before_and_after() {
    let api = Api::new().await;
    let (id, first, second) = changed(&api).await;
    let at = async |moment: &str| {
        let out = said(&api, &["at", moment]).await;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let shown = at(&second.to_string()).await;
    assert_eq!(shown["position"], second);
    assert_eq!(shown["event"]["type"], "dev.taffrail.task.updated.v1");
    let row = &shown["rows"][0];
    assert_eq!((&row["kind"], &row["id"]), (&json!("task"), &json!(id)));
    assert_eq!(row["before"]["title"], "first words");
    assert_eq!(row["after"]["title"], "second words");
    let names: Vec<&str> =
        row["changed"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.contains(&"title") && !names.contains(&"queue"), "{names:?}");
    assert!(row["name"].as_str().unwrap().starts_with("TASK-"), "{row:#}");

    let born = at(&first.to_string()).await;
    assert_eq!(
        (&born["rows"][0]["before"], &born["rows"][0]["problem"]),
        (&Value::Null, &Value::Null)
    );
    // By the time it was recorded; another row on demand.
    let time = shown["event"]["recordedtime"].as_str().unwrap();
    assert!(at(time).await["position"].as_u64().unwrap() >= second);
    let out = said(&api, &["at", &first.to_string(), "--row", "queue default", "-o", "json"]).await;
    let with: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(with["rows"][0]["kind"], "queue");

    for (moment, why) in [
        ("0", "positions begin at 1"),
        ("-3", "positions begin at 1"),
        ("99999999999", "the log ends at position"),
        ("99999999999999999999999", "the log ends at position"),
        ("yesterday", "neither a position nor an instant"),
        ("2026-01-01T00:00:00", "neither a position nor an instant"),
        ("1971-01-01T00:00:00Z", "nothing had happened"),
    ] {
        let out = said(&api, &["at", moment]).await;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(why), "{moment}: {text}");
    }
    let out = said(&api, &["at", "1", "--row", "pizza 7"]).await;
    assert!(String::from_utf8_lossy(&out.stderr).contains("kinds: task, agent, queue"), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_one_steps_jumps_searches_and_sees_what_changed() {
    let api = Api::new().await;
    let (id, first, second) = changed(&api).await;
    let mut screen = Screen::open(api.product.cli(&["at", &first.to_string()]));
    screen.says("\u{1b}[?1049h").await;
    screen.shows(&format!("position {first} of ")).await;
    screen.shows("task.submitted").await;
    screen.shows(&format!("it came to be with {first}")).await;
    let press = |screen: &mut Screen, keys: &str| screen.keys.write_all(keys.as_bytes()).unwrap();
    // The next event of the same stream; other tests' events lie between.
    press(&mut screen, "s");
    screen.shows(&format!("position {second} of ")).await;
    screen.shows("first words → second words").await;
    screen.shows("~ title").await;
    if let Ok(file) = std::env::var("TAFFRAIL_SHOW_SCREEN") {
        std::fs::write(file, standing(&screen.said())).unwrap();
    }
    press(&mut screen, "S");
    screen.shows(&format!("position {first} of ")).await;
    // There and back by a position, and by a text that stands in one event alone.
    press(&mut screen, "g1\r");
    screen.shows("position 1 of ").await;
    press(&mut screen, "\u{1b}[D");
    screen.shows("this is the first event").await;
    press(&mut screen, &format!("/{id}\r"));
    screen.shows(&format!("position {first} of ")).await;
    press(&mut screen, "n");
    screen.shows(&format!("position {second} of ")).await;
    press(&mut screen, "g99999999999\r");
    screen.shows("the log ends at position").await;
    press(&mut screen, "wqueue default\r");
    screen.shows("queue default").await;
    press(&mut screen, "?");
    screen.shows("to the one before").await;
    press(&mut screen, "?q");
    assert_eq!(screen.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_that_lists_or_shows_does_so_as_of_a_moment_and_no_other_does() {
    let api = Api::new().await;
    let (id, first, second) = changed(&api).await;
    let (then, after) = (first.to_string(), second.to_string());
    let shown = async |arguments: &[&str]| {
        let out = said(&api, arguments).await;
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let get = ["task", "get", &id, "-o", "json", "--as-of"];
    assert_eq!(shown(&[&get[..], &[&then]].concat()).await["title"], "first words");
    assert_eq!(shown(&[&get[..], &[&after]].concat()).await["title"], "second words");
    let list = shown(&["--as-of", &then, "-o", "json", "task", "list", "--limit", "1"]).await;
    assert_eq!((&list["position"], &list["items"][0]["id"]), (&json!(first), &json!(id)));
    for verb in [
        &["queue", "list"][..],
        &["dead", "list"],
        &["schedule", "list"],
        &["agent", "list"],
        &["agent", "health"],
        &["profile", "list"],
        &["nodes", "list"],
        &["op", "list"],
        &["events", "--limit", "1"],
        &["audit", "--limit", "1"],
    ] {
        let list = shown(&[verb, &["-o", "json", "--as-of", &then]].concat()).await;
        let place = list.get("position").cloned().unwrap_or(json!(first));
        assert_eq!(place, json!(first), "{verb:?}: {list}");
    }
    for verb in [
        &["task", "submit", "x"][..],
        &["task", "cancel", &id],
        &["task", "why", &id],
        &["queue", "pause", "default"],
        &["events", "--follow"],
        &["why", &id],
        &["at", "1"],
        &["top", "--once"],
        &["rebuild", "tasks"],
        &["doctor"],
    ] {
        let out = said(&api, &[verb, &["--as-of", &then]].concat()).await;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains("--as-of is for verbs"), "{verb:?}: {text}");
    }
    for moment in ["0", "-1", "99999999999", "yesterday"] {
        let out = said(&api, &["task", "list", "--as-of", moment]).await;
        assert!(!out.status.success(), "{moment}: {out:?}");
    }
}
