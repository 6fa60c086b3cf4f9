//! Seals, proofs, exports, imports and checks as their users meet them: TIM-3, CLI-3.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::support::{self, Api, Product, run_dir, start_product, unique, until};

async fn start() -> Product {
    let folder = run_dir().join(format!("seals-{}", unique()));
    tokio::task::spawn_blocking(move || start_product(folder, &[])).await.unwrap()
}

fn api(product: &Product) -> Api {
    Api::new(&product.http, &product.token)
}

async fn cli(product: &Product, arguments: &[&str]) -> Output {
    let mut command = product.cli(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What a verb printed, where it ended well.
async fn fine(product: &Product, arguments: &[&str]) -> Value {
    let out = cli(product, &[arguments, &["-o", "json"]].concat()).await;
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {said} {}", String::from_utf8_lossy(&out.stdout));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// What a verb said, where it did not.
async fn fails(product: &Product, arguments: &[&str]) -> String {
    let out = cli(product, arguments).await;
    assert!(!out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

async fn submit(api: &Api, count: usize) -> u64 {
    let mut position = 0;
    for n in 0..count {
        let task =
            json!({ "title": format!("task {n}"), "queue": "sealed", "payload": { "n": n } });
        let (status, answer) = api.post("/v1/tasks", &task).await;
        assert_eq!(status, 201, "{answer}");
        position = answer["position"].as_u64().unwrap();
    }
    position
}

async fn sealed(api: &Api, position: u64) {
    until("it is sealed", async || {
        api.get("/v1/seals?limit=1").await.1["position"].as_u64() >= Some(position)
    })
    .await;
}

/// Statements as the database's owner with the guards off.
async fn behind(product: &Product, statements: &str) {
    let (client, connection) = tokio_postgres::connect(&product.postgres_url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let text = format!("SET session_replication_role = replica; {statements}");
    client.batch_execute(&text).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn seals_are_listed_events_proven_and_strangers_see_nothing() {
    let product = support::product().await;
    let api = api(product);
    let first = submit(&api, 3).await;
    sealed(&api, first).await;
    let second = submit(&api, 2).await;
    sealed(&api, second).await;
    let (status, page) = api.get("/v1/seals?limit=1").await;
    assert_eq!((status.as_u16(), page["items"].as_array().unwrap().len()), (200, 1));
    let newest = page["items"][0]["number"].as_u64().unwrap();
    assert_eq!(page["next"], newest.to_string());
    let (_, older) = api.get(&format!("/v1/seals?limit=1&cursor={newest}")).await;
    assert_eq!(older["items"][0]["number"], newest - 1);

    let (status, proof) = api.get(&format!("/v1/events/{first}/proof")).await;
    assert_eq!((status.as_u16(), proof["index"].as_u64()), (200, Some(first - 1)), "{proof}");
    let shown = fine(product, &["seal", "proof", &first.to_string()]).await;
    assert_eq!(shown["leaf"], proof["leaf"], "checked by the CLI");
    let joined = fine(product, &["seal", "consistency", &first.to_string()]).await;
    assert_eq!(joined["from"]["size"], first);
    let list = fine(product, &["seal", "list", "--limit", "2"]).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);

    for (path, status, pointer) in [
        ("/v1/events/0/proof", 400, "/path/position"),
        ("/v1/events/-1/proof", 400, "/path/position"),
        ("/v1/events/x/proof", 400, "/path/position"),
        ("/v1/events/9999999999/proof", 404, ""),
        ("/v1/events/9223372036854775808/proof", 400, "/path/position"),
        ("/v1/seals?cursor=x", 400, "/query/cursor"),
        ("/v1/seals?limit=0", 400, "/query/limit"),
        ("/v1/seals/consistency", 400, "/query/from"),
        ("/v1/seals/consistency?from=0", 400, "/query/from"),
        ("/v1/seals/consistency?from=3&to=2", 400, "/query/to"),
        ("/v1/seals/consistency?from=1&to=9999999999", 503, ""),
        ("/v1/export?from=0", 400, "/query/from"),
        ("/v1/export?from=3&to=2", 400, "/query/from"),
        ("/v1/export?to=9999999999", 400, "/query/to"),
    ] {
        let (answered, problem) = api.get(path).await;
        assert_eq!(answered.as_u16(), status, "{path}: {problem}");
        let found = problem.pointer("/errors/0/pointer").and_then(Value::as_str);
        assert_eq!(found.unwrap_or_default(), pointer, "{path}: {problem}");
    }
    // Another tenant's token: the seals, but no event, and not the log.
    let secret = format!("stranger-{}", unique());
    let digest = hex::encode(gateway::Tokens::digest(&secret));
    let (client, connection) = tokio_postgres::connect(&product.postgres_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql =
        format!("INSERT INTO api_tokens VALUES ('\\x{digest}', 'strangers', 'somebody', 'member')");
    client.batch_execute(&sql).await.unwrap();
    let stranger = Api::new(&product.http, &secret);
    until("the token is known", async || stranger.get("/v1/seals").await.0 == 200).await;
    assert_eq!(stranger.get(&format!("/v1/events/{first}/proof")).await.0, 404);
    assert_eq!(stranger.get("/v1/export").await.0, 403);
    let answer = stranger.request(reqwest::Method::POST, "/v1/import").body("x").send().await;
    assert_eq!(answer.unwrap().status(), 403);
}

fn path(name: &str) -> (PathBuf, String) {
    let path = run_dir().join(format!("{}-{name}", unique()));
    let text = path.display().to_string();
    (path, text)
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn an_export_is_checked_by_anybody_and_makes_an_equal_instance() {
    let one = start().await;
    let there = api(&one);
    let parent = Uuid::new_v4();
    submit(&there, 40).await;
    let (_, first) =
        there.post("/v1/tasks", &json!({ "title": "parent", "queue": "sealed" })).await;
    let child = json!({ "title": "child", "parent_id": first["id"], "queue": "sealed" });
    let (status, child) = there.post("/v1/tasks", &child).await;
    assert_eq!(status, 201, "{child}");
    let agent = json!({ "name": "ada", "capabilities": ["rust"] });
    let (status, agent) = there.post("/v1/agents", &agent).await;
    assert_eq!(status, 201, "{agent}");
    let request = there.request(reqwest::Method::POST, "/v1/tasks");
    let key = format!("\"{parent}\"");
    let request = request.header("Idempotency-Key", &key).json(&json!({ "title": "once" }));
    let once: Value = request.send().await.unwrap().json().await.unwrap();

    let (file, name) = path("log.ndjson");
    let report = fine(&one, &["export", &name]).await;
    let head = report["report"]["to"].as_u64().unwrap();
    assert_eq!(report["report"]["sealed"], head, "it waited for the seal");
    assert!(fails(&one, &["export", &name]).await.contains("--force"));
    let (_, packed) = path("log.ndjson.zst");
    let small = fine(&one, &["export", &packed, "--to", &head.to_string()]).await;
    assert!(small["bytes"].as_u64() < report["bytes"].as_u64());
    let (_, range) = path("range.zst");
    let part = fine(&one, &["export", &range, "--from", "7", "--to", "20"]).await;
    assert_eq!(part["report"]["events"], 14);

    let (public, key_name) = path("key.pem");
    let pem = cli(&one, &["seal", "key"]).await.stdout;
    write(&public, &pem);
    let outside = one.data_dir.join("seals.ndjson").display().to_string();
    for checked in [&name, &packed, &range] {
        let with = ["verify", checked, "--key", &key_name, "--seals", &outside];
        let report = fine(&one, &with).await;
        assert_eq!(report["holds"], true);
        assert!(report["report"]["outside"].as_u64() >= Some(1), "{report}");
    }

    // Every way to spoil it is found, with the place.
    let whole = std::fs::read(&file).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let (spoilt, spoilt_name) = path("spoilt.ndjson");
    let says = async |bytes: Vec<u8>| {
        write(&spoilt, &bytes);
        fails(&one, &["verify", &spoilt_name, "--key", &key_name]).await
    };
    let at = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    let said = says(flipped).await;
    assert!(said.contains("position") && said.contains("line"), "{said}");
    let said = says(whole[..at].to_vec()).await;
    assert!(said.contains("cut off"), "{said}");
    let said = says(lines[..lines.len() - 1].concat()).await;
    assert!(said.contains("cut off"), "{said}");
    let mut fewer = lines.clone();
    fewer.remove(5);
    let said = says(fewer.concat()).await;
    assert!(said.contains("position 5"), "{said}");
    let format = String::from_utf8_lossy(lines[0]).replace(r#""format":1"#, r#""format":9"#);
    let said = says([format.as_bytes(), &lines[1..].concat()].concat()).await;
    assert!(said.contains("line 1") && said.contains("format 9"), "{said}");
    let no_seals = lines.iter().filter(|line| !line.windows(10).any(|at| at == b"log.sealed"));
    let said = says(no_seals.copied().collect::<Vec<_>>().concat()).await;
    assert!(said.contains("have no seal"), "{said}");
    let packed_bytes = std::fs::read(&packed).unwrap();
    let said = says(packed_bytes[..packed_bytes.len() / 2].to_vec()).await;
    assert!(said.contains("does not hold"), "{said}");
    // Another key than the one that signed.
    let (other, other_name) = path("other.pem");
    let other_key = replay::seal::key::fresh().verifying_key().to_bytes();
    write(&other, replay::seal::key::public_pem(&other_key).as_bytes());
    let said = fails(&one, &["verify", &name, "--key", &other_name]).await;
    assert!(said.contains("none of those given"), "{said}");

    // An empty instance takes it whole; one that is not empty, and what is spoilt, nothing.
    let two = start().await;
    let here = api(&two);
    let import = async |bytes: &[u8]| {
        let request = here.request(reqwest::Method::POST, "/v1/import").body(bytes.to_vec());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let future = String::from_utf8_lossy(lines[1]).replace("submitted.v1", "submitted.v99");
    let mut later = lines.clone();
    later[1] = future.as_bytes();
    for bad in [whole[..at].to_vec(), later.concat(), lines[1..].concat(), b"x".to_vec(), vec![]] {
        let (status, problem) = import(&bad).await;
        assert_eq!(status, 400, "{problem}");
    }
    let ranged = fails(&two, &["import", &range]).await;
    assert!(ranged.contains("position 7"), "{ranged}");
    assert_eq!(here.get("/v1/tasks").await.1["position"], 0, "nothing half done");
    let imported = fine(&two, &["import", &packed, "--key", &key_name]).await;
    assert_eq!((&imported["position"], &imported["epoch"]), (&json!(head), &json!(2)));
    assert!(fails(&two, &["import", &packed]).await.contains("has events already"));
    until("the read models are there", async || {
        here.get("/v1/tasks").await.1["position"].as_u64() >= Some(head)
    })
    .await;
    for list in ["/v1/tasks?limit=200", "/v1/agents", "/v1/queues", "/v1/events?limit=200"] {
        let (mut left, mut right) = (there.get(list).await.1, here.get(list).await.1);
        for page in [&mut left, &mut right] {
            for item in page["items"].as_array_mut().unwrap() {
                // The store's generation, and what grows with the clock.
                for field in ["epoch", "oldest_age_ms"] {
                    item.as_object_mut().unwrap().remove(field);
                }
            }
        }
        assert_eq!(left["items"], right["items"], "{list}");
    }
    let log =
        store::Log::new(store::connect_pool(&two.postgres_url, 4).unwrap(), &two.postgres_url);
    for model in projections::Model::ALL {
        let compared = replay::compare(model, &log).await.unwrap();
        assert_eq!((compared.differing, compared.position >= head), (vec![], true), "{model}");
    }
    // What was decided stays decided, names stay taken, and links hold.
    let request = here.request(reqwest::Method::POST, "/v1/tasks").header("Idempotency-Key", &key);
    let again = request.json(&json!({ "title": "once" })).send().await.unwrap();
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["id"], once["id"]);
    let ada = json!({ "name": "ada" });
    assert_eq!(here.post("/v1/agents", &ada).await.0, 409);
    let circle = json!({ "depends_on": [child["id"]] });
    let path = format!("/v1/tasks/{}", first["id"].as_str().unwrap());
    let request = here.request(reqwest::Method::PATCH, &path).json(&circle);
    let (mine, theirs) = (request.send().await.unwrap().status(), {
        let request = there.request(reqwest::Method::PATCH, &path).json(&circle);
        request.send().await.unwrap().status()
    });
    assert_eq!(mine, theirs, "the same rule on the same links");
    // It goes on with a chain of its own, which names the one before.
    let more = submit(&here, 1).await;
    sealed(&here, more).await;
    let report = fine(&two, &["verify", "--live"]).await;
    assert_eq!(report["report"]["breaks"][0]["other_key"], true, "{report}");
    assert_eq!(report["report"]["breaks"][0]["epoch"], 2);
}

#[tokio::test]
async fn whatever_a_superuser_changes_below_the_last_seal_is_found() {
    let product = start().await;
    let api = api(&product);
    let head = submit(&api, 60).await;
    sealed(&api, head).await;
    let report = fine(&product, &["verify", "--live"]).await;
    assert_eq!((&report["holds"], &report["report"]["sealed"]), (&json!(true), &json!(head)));
    assert!(report["report"]["outside"].as_u64() >= Some(1));
    behind(&product, "CREATE TABLE kept AS TABLE events; CREATE TABLE sealed AS TABLE seals").await;
    let columns = [
        "epoch = 2",
        "tenant = 'other'",
        "tenant = 'not a slug'",
        "stream_type = 'agent'",
        "stream_type = 'nothing'",
        "stream_id = gen_random_uuid()",
        "version = version + 7",
        "version = -1",
        "event_type = 'completed'",
        "schema_version = 2",
        "event_id = gen_random_uuid()",
        "command_id = gen_random_uuid()",
        "actor = actor || ' '",
        "correlation_id = NULL",
        "causation_position = 0",
        "trace = COALESCE(trace, '') || '0'",
        "occurred_at = occurred_at + interval '1 us'",
        "recorded_at = recorded_at + interval '1 us'",
        "recorded_at = 'infinity'",
        "payload = payload || '\\x20'",
        "payload = '\\x00'",
        "hash = sha256(hash)",
        "hash = '\\x01'",
    ];
    let each = columns.iter().map(|set| format!("UPDATE events SET {set} WHERE position = 30"));
    let swap = |column: &str| {
        format!(
            "UPDATE events e SET {column} = k.{column} FROM kept k
             WHERE (e.position, k.position) IN ((20, 21), (21, 20))"
        )
    };
    let others = [
        "DELETE FROM events WHERE position = 30".to_owned(),
        format!("DELETE FROM events WHERE position > {}", head - 9),
        format!(
            "DELETE FROM events WHERE position > {0}; UPDATE log_head SET position = {0}",
            head - 9
        ),
        "DELETE FROM events".to_owned(),
        // One is taken out and the rest moves up.
        "DELETE FROM events WHERE position = 30;
         UPDATE events SET position = -position WHERE position > 30;
         UPDATE events SET position = -position - 1 WHERE position < 0"
            .to_owned(),
        "DELETE FROM events WHERE position = 20;
         INSERT INTO events SELECT 20, epoch, tenant, stream_type, gen_random_uuid(), version,
             event_type, schema_version, event_id, command_id, actor, correlation_id,
             causation_position, trace, occurred_at, recorded_at, payload, hash
         FROM kept WHERE position = 21"
            .to_owned(),
        swap("payload"),
        // Both whole, in the other order.
        "UPDATE events SET position = -1 WHERE position = 20;
         UPDATE events SET position = 20 WHERE position = 21;
         UPDATE events SET position = 21 WHERE position = -1"
            .to_owned(),
        "DELETE FROM seals".to_owned(),
        "DELETE FROM seals WHERE number = (SELECT max(number) FROM seals)".to_owned(),
        "UPDATE seals SET doc = replace(doc, '\"size\":', '\"size\":1')".to_owned(),
        "UPDATE seals SET doc = 'nonsense' WHERE number = 1".to_owned(),
    ];
    for change in each.chain(others) {
        behind(&product, &change).await;
        let out = cli(&product, &["verify", "--live", "-o", "json"]).await;
        let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{change}: {told}");
        let at = said["fault"]["position"].as_u64().unwrap_or_else(|| panic!("{change}: {told}"));
        let to = said["fault"]["to"].as_u64().unwrap_or(at);
        if change.ends_with("WHERE position = 30") {
            // Times and epochs may show at the next event, or at the seal.
            assert!(at <= 31 && to.max(at) >= 30, "{change}: {said}");
        }
        let restore = format!(
            "TRUNCATE events, seals; INSERT INTO events TABLE kept; INSERT INTO seals TABLE sealed;
             UPDATE log_head SET position = {head}"
        );
        behind(&product, &restore).await;
    }
    // The hash of a changed payload made to fit: named to the events since the seal before.
    let log = store::Log::new(
        store::connect_pool(&product.postgres_url, 2).unwrap(),
        &product.postgres_url,
    );
    let mut event = (*log.read(29, 1).await.unwrap()[0]).clone();
    event.payload = br#"{"title":"another"}"#.as_slice().into();
    let fits = hex::encode(event.expected_hash());
    let payload = hex::encode(&event.payload);
    let change = format!(
        "UPDATE events SET payload = '\\x{payload}', hash = '\\x{fits}' WHERE position = 30"
    );
    behind(&product, &change).await;
    let out = cli(&product, &["verify", "--live", "-o", "json"]).await;
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    let (from, to) = (said["fault"]["position"].as_u64(), said["fault"]["to"].as_u64());
    assert!(from <= Some(30) && to >= Some(30), "{said}");
    let (status, _) = api.get("/v1/events/30/proof").await;
    assert_eq!(status, 500, "what proves nothing is not handed out");
    behind(&product, "TRUNCATE events; INSERT INTO events TABLE kept").await;
    // And nothing is found where nothing was changed.
    assert_eq!(fine(&product, &["verify", "--live"]).await["holds"], true);
}
