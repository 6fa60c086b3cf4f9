//! HTTP without the product: axum with an answer in memory, and with one row per answer; the
//! client is the one that the workloads use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_postgres::{Client, Statement};

use super::database::Database;
use super::limit;
use crate::cell::{Cell, Context};
use crate::http::Connection;
use crate::load::{self, Reply, Samples, closed};

/// Rows to choose from.
const ROWS: u64 = 100_000;
/// Connections to the database; pipelined.
const DATABASE_CONNECTIONS: usize = 2;

pub(super) fn cells() -> Vec<Cell> {
    let name = |what: &str, conns: usize| {
        format!("axum GET {what} conns={conns} (client on the same cores)")
    };
    vec![
        limit(name("mem", 32), "requests", |context| requests(context, false, 32)).main(),
        limit(name("task", 32), "requests", |context| requests(context, true, 32)),
    ]
}

struct Rows {
    pool: Vec<(Client, Statement)>,
    next: AtomicU64,
}

async fn row(State(rows): State<Arc<Rows>>, Path(id): Path<i64>) -> Response {
    let at = rows.next.fetch_add(1, Ordering::Relaxed) as usize % rows.pool.len();
    let (client, statement) = &rows.pool[at];
    match client.query_one(statement, &[&id]).await {
        Ok(row) => {
            ([("content-type", "application/json")], row.get::<_, String>(0)).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn requests(context: Context, rows: bool, connections: usize) -> anyhow::Result<Samples> {
    let mut pool = Vec::new();
    if rows {
        let database = Database::fresh(&context).await?;
        let sql = format!(
            "CREATE TABLE tasks_view (id bigint PRIMARY KEY, body jsonb NOT NULL);
             INSERT INTO tasks_view
             SELECT i, jsonb_build_object('id', i, 'state', 'assigned', 'agent', 'agent-' || i,
                                          'pad', repeat('x', 300))
             FROM generate_series(1, {ROWS}) i"
        );
        database.client.batch_execute(&sql).await?;
        database.client.batch_execute("VACUUM ANALYZE tasks_view").await?;
        for _ in 0..DATABASE_CONNECTIONS {
            let client = database.connect().await?;
            let statement =
                client.prepare("SELECT body::text FROM tasks_view WHERE id = $1").await?;
            pool.push((client, statement));
        }
    }
    let app = Router::new()
        .route("/mem", get(|| async { ([("content-type", "application/json")], "{\"ok\":true}") }))
        .route("/task/{id}", get(row))
        .with_state(Arc::new(Rows { pool, next: AtomicU64::new(0) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let clients = Connection::several(&address, "", connections).await?;
    let clients = clients.into_iter().zip(0u64..).map(|(connection, n)| Asker {
        connection,
        rows,
        n: n * 7_919,
    });
    let samples = closed(&context.budget, clients.collect()).await;
    server.abort();
    samples
}

struct Asker {
    connection: Connection,
    rows: bool,
    n: u64,
}

impl load::Client for Asker {
    async fn operate(&mut self) -> anyhow::Result<Reply> {
        if self.rows {
            self.n += 1;
            // Knuth's multiplicative hash: all over the table.
            let id = self.n.wrapping_mul(2_654_435_761) % ROWS + 1;
            self.connection.get(&format!("/task/{id}")).await?;
        } else {
            self.connection.get("/mem").await?;
        }
        Ok(Reply::read())
    }
}
