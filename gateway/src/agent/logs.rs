//! An agent's log lines, live. They are not events (invariant 12): who is not listening
//! misses them, and there is no place to resume from.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use broker::subject::{self, AgentWord};
use bytes::Bytes;
use commands::Boxed;
use domain::{AgentId, Code, Problem, TenantId};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::app::{AgentLogs, App};
use crate::auth::Caller;
use crate::error::ApiResult;
use crate::events::event_stream;
use crate::openapi::Refused;
use crate::query::{Fresh, Id, NoParams, Params};
use crate::view;

use super::routes::MODELS;

/// Between two signs of life on a quiet stream (wire.md 4).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Streams what an agent's running tasks print, line by line, from now on.
#[utoipa::path(get, path = "/agents/{id}/logs", tag = "agents", params(("id" = AgentId, Path)), responses(
    (status = 200, description = "Lines as server-sent events named `log`: `{ task_id, attempt, stream, line }`", body = String, content_type = "text/event-stream"),
    (status = "4XX", response = Refused),
))]
pub async fn follow_logs(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(NoParams {}): Params<NoParams>,
    fresh: Fresh,
) -> ApiResult {
    let head = app.doors.reader.feed.head();
    view::wait(&app, fresh, MODELS).await?;
    let known = app.doors.queries.agent(&caller.tenant, AgentId(id), fresh.wait).await?;
    view::present(known, "agent", head)?;
    let slot = app.stream_slot(&caller)?;
    let lines = app.doors.logs.listen(caller.tenant, AgentId(id)).await?;
    let closing = app.closing.clone();
    let frames = stream::unfold((lines, slot, closing), |(mut lines, slot, closing)| async move {
        let frame = tokio::select! {
            () = closing.cancelled() => return None,
            line = tokio::time::timeout(KEEP_ALIVE, lines.next()) => match line {
                Ok(Some(line)) => frame(&line),
                Ok(None) => return None,
                Err(_) => Bytes::from_static(b":\n\n"),
            },
        };
        Some((frame, (lines, slot, closing)))
    });
    let hello = stream::once(std::future::ready(Bytes::from_static(b"retry: 2000\n:\n\n")));
    let frames = hello.chain(frames).map(Ok::<_, std::convert::Infallible>);
    Ok::<Response, _>(event_stream(Body::from_stream(frames)))
}

/// One frame; what an agent published is data, also where it is no JSON or has line ends.
fn frame(line: &[u8]) -> Bytes {
    let text = String::from_utf8_lossy(line);
    let one_line = serde_json::from_str::<domain::Json>(&text);
    let data = one_line.unwrap_or_else(|_| domain::Json::of(&serde_json::json!({ "line": text })));
    format!("event: log\ndata: {}\n\n", data.as_str()).into()
}

/// Listens to the agents' own subjects.
pub struct NatsLogs(pub async_nats::Client);

impl AgentLogs for NatsLogs {
    fn listen(
        &self,
        tenant: TenantId,
        agent: AgentId,
    ) -> Boxed<Result<BoxStream<'static, Bytes>, Problem>> {
        let client = self.0.clone();
        Box::pin(async move {
            let subject = subject::agent(&tenant, agent, AgentWord::Log);
            let lines = client.subscribe(subject).await.map_err(|_| Problem {
                retry_after_ms: Some(1_000),
                ..Problem::new(Code::Unavailable, "the agents' wire cannot be reached")
            })?;
            Ok(lines.map(|message| message.payload).boxed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_agent_prints_is_one_frame() {
        let json = frame(b"{ \"line\":\n \"a\" }");
        assert_eq!(&json[..], b"event: log\ndata: {\"line\":\"a\"}\n\n");
        let forged = frame(b"x\n\nevent: forged\xff");
        let text = String::from_utf8_lossy(&forged).into_owned();
        assert_eq!(text.matches("event:").count(), 2, "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("event:")).count(), 1, "{text}");
    }
}
