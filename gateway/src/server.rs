//! The listener: connections with limits, and a shutdown that lets requests finish.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::app::App;
use crate::auth::REFRESH;
use crate::io::TimedIo;
use crate::metrics::Counter;

/// Requests under way may take this long after the shutdown has begun (D42).
const DRAIN: Duration = Duration::from_secs(8);
/// Most bytes of a request's head, and most headers in it (D44).
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 100;

/// Serves until `cancel` fires, then stops accepting, ends the streams and lets the
/// requests under way finish for up to 8 s.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(app: App, listener: TcpListener, cancel: CancellationToken) -> io::Result<()> {
    let router = crate::router::router(app.clone());
    let connections = TaskTracker::new();
    let helpers = TaskTracker::new();
    helpers.spawn(keep_tokens(app.clone(), cancel.clone()));
    helpers.spawn(app.hub.clone().follow(cancel.clone()));
    helpers.spawn(crate::mend::run(app.clone(), cancel.clone()));
    let room = Arc::new(Semaphore::new(app.doors.limits.connections));
    loop {
        let Ok(seat) = room.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    connection(stream, router.clone(), app.figures.stalled.clone(), cancel.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(seat);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely: closing connections will help.
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    app.doors.health.drain();
    app.closing.cancel();
    connections.close();
    helpers.close();
    app.tracker.close();
    let all = async {
        connections.wait().await;
        app.tracker.wait().await;
        helpers.wait().await;
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        let left = app.tracker.len();
        tracing::warn!(left, "requests under way were given up at the end of the drain");
    }
    Ok(())
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionRefused | K::ConnectionAborted | K::ConnectionReset)
}

/// Serves one connection; a shutdown closes it after the answer under way.
async fn connection(
    stream: TcpStream,
    router: axum::Router,
    stalled: Counter,
    cancel: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps Nagle's delay");
    }
    let serving = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(TimedIo::new(stream, serving.clone(), stalled));
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, serving) = (router.clone(), serving.clone());
        serving.store(true, Ordering::Relaxed);
        async move {
            let response: Result<Response, _> = router.oneshot(request.map(Body::new)).await;
            // An upgraded connection has no heads to wait for any more.
            let upgraded =
                matches!(&response, Ok(r) if r.status() == StatusCode::SWITCHING_PROTOCOLS);
            serving.store(upgraded, Ordering::Relaxed);
            response
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(64 << 10);
    let connection = http.serve_connection(io, service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %crate::error::chain(&error), "a connection ended early");
    }
}

/// Reads the tokens now and then, so that one that was taken away stops working.
async fn keep_tokens(app: App, cancel: CancellationToken) {
    loop {
        if let Err(error) = app.doors.tokens.refresh().await {
            tracing::warn!(cause = %crate::error::chain(&error), "the tokens could not be read");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(REFRESH / 2) => {}
        }
    }
}
