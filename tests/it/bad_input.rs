//! Bad input over HTTP: each gets its documented answer, and nobody else notices.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::http::Api;

/// A request that must be refused, and how.
struct Bad {
    what: &'static str,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    slug: &'static str,
    /// The place that the first fault points to.
    pointer: Option<&'static str>,
}

fn bad(what: &'static str, method: Method, path: &str, status: u16, slug: &'static str) -> Bad {
    let path = path.to_owned();
    Bad { what, method, path, headers: Vec::new(), body: Vec::new(), status, slug, pointer: None }
}

impl Bad {
    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn json(self, body: impl Into<Vec<u8>>) -> Self {
        let typed = self.header("content-type", "application/json");
        Self { body: body.into(), ..typed }
    }

    fn at(self, pointer: &'static str) -> Self {
        Self { pointer: Some(pointer), ..self }
    }
}

fn submit(what: &'static str, body: impl Into<Vec<u8>>) -> Bad {
    bad(what, Method::POST, "/v1/tasks", 400, "invalid-body").json(body)
}

fn get(what: &'static str, path: &str, pointer: &'static str) -> Bad {
    bad(what, Method::GET, path, 400, "invalid-parameter").at(pointer)
}

const NOBODY: &str = "018f0000-0000-7000-8000-00000000dead";

fn bodies() -> Vec<Bad> {
    let bomb = |open: &str, close: &str| {
        format!("{{\"title\":\"t\",\"payload\":{}{}}}", open.repeat(10_000), close.repeat(10_000))
    };
    let mut all = vec![
        submit("no JSON", "{").at(""),
        submit("no object", "[]").at(""),
        submit("no UTF-8", b"{\"title\":\"\xff\"}".as_slice()).at(""),
        submit("trailing bytes", r#"{"title":"t"} x"#).at(""),
        submit("byte order mark", "\u{feff}{\"title\":\"t\"}").at(""),
        submit("wrong type", r#"{"title":1}"#).at("/title"),
        submit("missing field", "{}").at("/title"),
        submit("unknown field", r#"{"titel":"t"}"#).at("/titel"),
        submit("duplicate key", r#"{"title":"a","title":"b"}"#).at("/title"),
        submit("duplicate key below", r#"{"title":"t","payload":{"a":1,"a":2}}"#).at("/payload/a"),
        submit("NUL", "{\"title\":\"a\\u0000b\"}").at("/title"),
        submit("NUL in a payload", "{\"title\":\"t\",\"payload\":[\"\\u0000\"]}").at("/payload/0"),
        submit("lone surrogate", r#"{"title":"\ud800"}"#).at(""),
        submit("number beyond all bounds", r#"{"title":"t","payload":1e400}"#).at(""),
        submit("NaN", r#"{"title":"t","payload":NaN}"#).at(""),
        submit("depth bomb of lists", bomb("[", "]")),
        submit("depth bomb of objects", bomb("{\"a\":", "}").replace(":}", ":1}")),
        submit(
            "long key",
            format!("{{\"title\":\"t\",\"payload\":{{\"{}\":1}}}}", "k".repeat(2_000)),
        ),
        submit("long title", format!("{{\"title\":\"{}\"}}", "t".repeat(501))).at("/title"),
        submit(
            "large payload",
            format!("{{\"title\":\"t\",\"payload\":\"{}\"}}", "p".repeat(300_000)),
        )
        .at("/payload"),
        submit("queue that is no token", r#"{"title":"t","queue":"a.b"}"#).at("/queue"),
        submit("unknown priority", r#"{"title":"t","priority":"urgent"}"#).at("/priority"),
    ];
    // What only the system may say is no field of a body (mass assignment).
    for field in ["tenant_id", "state", "created_by", "position", "version", "id", "lease_token"] {
        all.push(submit("field of the system", format!("{{\"title\":\"t\",\"{field}\":\"x\"}}")));
    }
    all
}

fn requests() -> Vec<Bad> {
    let task = format!("/v1/tasks/{NOBODY}");
    let titled = r#"{"title":"t"}"#;
    let with = |what, name, value: &str, slug, status| {
        bad(what, Method::POST, "/v1/tasks", status, slug).header(name, value).json(titled)
    };
    let typed = |what, kind: &str| {
        let request = bad(what, Method::POST, "/v1/tasks", 415, "unsupported-media-type");
        Bad { body: titled.into(), ..request.header("content-type", kind) }
    };
    vec![
        bad("no such route", Method::GET, "/v1/nothing", 404, "not-found"),
        bad(
            "no such route, dots",
            Method::GET,
            "/v1/tasks/%2e%2e%2fadmin",
            400,
            "invalid-parameter",
        ),
        bad("NUL in the path", Method::GET, "/v1/tasks/%00", 400, "invalid-parameter"),
        bad("no UTF-8 in the path", Method::GET, "/v1/tasks/%ff", 400, "invalid-parameter"),
        bad("no such method", Method::PUT, "/v1/tasks", 405, "method-not-allowed"),
        bad("TRACE", Method::TRACE, "/v1/tasks", 405, "method-not-allowed"),
        bad("no UUID", Method::GET, "/v1/tasks/7", 400, "invalid-parameter").at("/path/id"),
        bad("nobody", Method::GET, &task, 404, "not-found"),
        bad("nobody's command", Method::POST, &format!("{task}/cancel"), 404, "not-found"),
        bad("unknown command", Method::POST, &format!("{task}/cancl"), 400, "unknown-command"),
        bad(
            "command of the system",
            Method::POST,
            &format!("{task}/expire_lease"),
            400,
            "unknown-command",
        ),
        bad(
            "creation as a command",
            Method::POST,
            &format!("{task}/submit"),
            400,
            "unknown-command",
        ),
        bad(
            "creation of an agent as a command",
            Method::POST,
            &format!("/v1/agents/{NOBODY}/register"),
            400,
            "unknown-command",
        ),
        bad(
            "nobody's heartbeat",
            Method::POST,
            &format!("/v1/agents/{NOBODY}/heartbeat"),
            404,
            "not-found",
        ),
        bad("bad queue", Method::GET, "/v1/queues/a.b", 400, "invalid-parameter"),
        bad("claim too much", Method::POST, "/v1/queues/q/claim", 400, "invalid-body")
            .json(json!({ "agent_id": NOBODY, "max": 257 }).to_string())
            .at("/max"),
        bad("no such model", Method::POST, "/v1/projections/nothing/rebuild", 404, "not-found"),
        bad("no such schema", Method::GET, "/v1/schemas/nothing", 404, "not-found"),
        get("limit 0", "/v1/tasks?limit=0", "/query/limit"),
        get("limit -1", "/v1/tasks?limit=-1", "/query/limit"),
        get("limit 10^9", "/v1/tasks?limit=1000000000", "/query/limit"),
        get("unknown parameter", "/v1/tasks?queu=a", "/query/queu"),
        get("repeated parameter", "/v1/tasks?queue=a&queue=b", "/query/queue"),
        get("forged cursor", "/v1/tasks?cursor=AAAA", "/query/cursor"),
        get("unknown state", "/v1/tasks?state=qeued", "/query/state"),
        get("parent that is no id", "/v1/tasks?parent=7", "/query/parent"),
        get("time without zone", "/v1/tasks?due_before=2026-01-01", "/query/due_before"),
        get("position out of range", "/v1/events?after=9223372036854775808", "/query/after"),
        get("unknown event type", "/v1/events?type=task.submited", "/query/type"),
        get("unknown parameter of a stream", "/v1/events/stream?stram=x", "/query/stram"),
        get("token in the address", "/v1/tasks?access_token=x", "/query/access_token"),
        bad("no moment", Method::GET, "/v1/tasks?as_of=0", 400, "invalid-parameter"),
        bad("past stream", Method::GET, "/v1/events/stream?as_of=1", 422, "not-possible"),
        get("min position", "/v1/tasks", "/header/taffrail-min-position")
            .header("taffrail-min-position", "soon"),
        with("empty key", "idempotency-key", "\"\"", "invalid-parameter", 400),
        with("bare key", "idempotency-key", "abc", "invalid-parameter", 400),
        with(
            "long key",
            "idempotency-key",
            &format!("\"{}\"", "k".repeat(256)),
            "invalid-parameter",
            400,
        ),
        with("bad wait", "prefer", "wait=soon", "invalid-parameter", 400),
        with("bad tag", "if-match", "7", "invalid-parameter", 400),
        with(
            "a thousand tags",
            "if-match",
            &vec!["\"1\""; 1_000].join(","),
            "invalid-parameter",
            400,
        ),
        with("tag of nothing", "if-match", "*", "version-mismatch", 412),
        with("another tenant", "taffrail-tenant", "acme", "not-found", 404),
        with("gzip", "content-encoding", "gzip", "unsupported-media-type", 415),
        typed("text", "text/plain"),
        typed("form", "application/x-www-form-urlencoded"),
        typed("multipart", "multipart/form-data; boundary=x"),
        typed("UTF-16", "application/json; charset=utf-16"),
        bad("body over the limit", Method::POST, "/v1/tasks", 413, "too-large").json(vec![
            b' ';
            (1 << 20)
                + 1
        ]),
        bad("batch of nothing", Method::POST, "/v1/tasks/batch", 400, "invalid-body").json("{}"),
    ]
}

#[tokio::test]
async fn every_bad_request_gets_its_documented_answer() {
    let api = Api::new().await;
    let mut wrong = Vec::new();
    for case in bodies().into_iter().chain(requests()) {
        let mut request = api.ask(case.method.clone(), &case.path).body(case.body.clone());
        for (name, value) in &case.headers {
            request = request.header(*name, value);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            // The connection may be closed before a body over the limit is sent in full.
            Err(_) if case.status == 413 => continue,
            Err(error) => panic!("{}: {error}", case.what),
        };
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").cloned();
        let text = answer.text().await.unwrap();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let slug =
            problem["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let pointer = problem["errors"][0]["pointer"].as_str();
        let right = status == case.status
            && slug == case.slug
            && kind.is_some_and(|kind| kind == "application/problem+json")
            && case.pointer.is_none_or(|wanted| pointer == Some(wanted))
            && problem["trace_id"].is_string();
        if !right {
            wrong.push(format!("{}: {status} {text}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    still_well(&api).await;
}

/// Others are served as before.
async fn still_well(api: &Api) {
    let answer = api.post("/v1/tasks", json!({ "title": "well", "queue": unique() })).await;
    assert_eq!(answer.status(), 201);
}

fn unique() -> String {
    format!("q-{}", Uuid::new_v4().simple())
}

/// Sends bytes as they are and reads until the server closes or is silent.
async fn raw(api: &Api, bytes: &[u8], patience: Duration) -> (String, bool) {
    let address = api.product.http.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has refused may close before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = async {
        let mut chunk = [0; 4_096];
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            answer.extend_from_slice(&chunk[..n]);
        }
    };
    let closed = timeout(patience, read).await.is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

fn head(api: &Api, more: &str) -> String {
    let token = &api.product.token;
    format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}")
}

#[tokio::test]
async fn badly_framed_requests_are_refused_and_closed() {
    let api = Api::new().await;
    let soon = Duration::from_secs(5);
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "l".repeat(17 << 10));
    for (what, more) in [
        ("two lengths", "content-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
        ("unknown transfer coding", "transfer-encoding: xchunked\r\n\r\n{}"),
        ("101 headers", &format!("{many}\r\n")),
        ("a header block over 16 KiB", &format!("{long}\r\n")),
        ("NUL in a header", "x-nul: a\0b\r\n\r\n"),
    ] {
        let (answer, closed) = raw(&api, head(&api, more).as_bytes(), soon).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "400" | "431"), "{what}: {answer}");
        assert!(closed, "{what}: the connection stays open");
    }
    // Of a length and a transfer coding the coding counts, and nothing behind is a request
    // (RFC 9112, 6.3).
    let both = "content-type: application/json\r\ncontent-length: 4\r\n\
                transfer-encoding: chunked\r\n\r\nd\r\n{\"title\":\"t\"}\r\n0\r\n\r\n\
                GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let (answer, closed) = raw(&api, head(&api, both).as_bytes(), soon).await;
    assert!(closed && answer.matches("HTTP/1.1").count() == 1, "{answer}");
    still_well(&api).await;
}

#[tokio::test]
async fn an_endless_body_is_cut_off_at_the_limit() {
    let api = Api::new().await;
    let mut bytes =
        head(&api, "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..20 {
        bytes.extend_from_slice(b"10000\r\n");
        bytes.extend(std::iter::repeat_n(b' ', 0x10000));
        bytes.extend_from_slice(b"\r\n");
    }
    let (answer, closed) = raw(&api, &bytes, Duration::from_secs(10)).await;
    // The answer may be lost where the server closes on bytes that are still under way.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(closed);
    still_well(&api).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let api = Api::new().await;
    let (answer, closed) = raw(&api, b"GET / HTTP/1.1\r\nhost:", Duration::from_secs(13)).await;
    assert!(closed, "{answer}");
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_dropped_and_hurts_nobody() {
    let api = Api::new().await;
    let address = api.product.http.strip_prefix("http://").unwrap();
    let token = &api.product.token;
    let request = format!(
        "GET /v1/events/stream?after=0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stuck.push(stream);
    }
    // More than the sockets' buffers hold.
    let queue = unique();
    let payload = "p".repeat(200 << 10);
    for n in 0..100 {
        let body = json!({ "title": format!("{n}"), "queue": queue, "payload": payload });
        let begun = tokio::time::Instant::now();
        assert_eq!(api.post("/v1/tasks", body).await.status(), 201);
        assert!(begun.elapsed() < Duration::from_secs(5), "others wait for a stuck subscriber");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    for mut stream in stuck {
        // What lay in the buffers is still read; then the connection is at its end.
        let drained = async {
            let mut chunk = vec![0; 1 << 20];
            while let Ok(1..) = stream.read(&mut chunk).await {}
        };
        timeout(Duration::from_secs(5), drained).await.expect("the connection is still open");
    }
}

/// A connection to the product's database, as its owner.
async fn database(api: &Api) -> tokio_postgres::Client {
    let url = &api.product.postgres_url;
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn streams_of_one_principal_are_bounded() {
    // A principal of its own: the other tests' streams are not to be refused.
    let api = Api::new().await;
    let token = unique();
    let insert = "INSERT INTO api_tokens (digest, tenant, principal, role)
                  VALUES (sha256(convert_to($1, 'UTF8')), 'default', $1, 'admin')";
    database(&api).await.execute(insert, &[&token]).await.unwrap();
    let api = api.with_token(&token);
    let mut open = Vec::new();
    let refused = loop {
        let answer = api.ask(Method::GET, "/v1/events/stream").send().await.unwrap();
        if answer.status() != 200 {
            break answer;
        }
        open.push(answer);
        assert!(open.len() <= 100, "no limit");
    };
    assert_eq!((open.len(), refused.status().as_u16()), (100, 429));
    assert!(refused.headers().contains_key("retry-after"));
    drop(open);
    let again = async {
        while api.ask(Method::GET, "/v1/events/stream").send().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(20), again).await.expect("closed streams give their room back");
}

#[tokio::test]
async fn callers_who_hang_up_leave_nothing_behind() {
    let api = Api::new().await;
    let queue = unique();
    let address = api.product.http.strip_prefix("http://").unwrap();
    let body = json!({ "title": "gone", "queue": queue }).to_string();
    let typed = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let request = head(&api, &typed) + &body;
    for n in 0..200u64 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_micros(n * 50)).await;
        drop(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    let open: i64 = database(&api).await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(open, 0);
    still_well(&api).await;
}
