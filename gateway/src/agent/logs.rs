//! An agent's log lines: the last ones that are kept, and those to come. They are not events
//! (invariant 12): they are kept in a stream of their own, within limits, and may be gone.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use broker::logs::KeptLine;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use commands::Boxed;
use domain::frame::cut_line;
use domain::{AgentId, Code, Json, Problem, TaskId, TenantId};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::app::{AgentLogs, App, LogStream};
use crate::auth::Caller;
use crate::error::{ApiError, ApiResult};
use crate::events::event_stream;
use crate::openapi::Refused;
use crate::params;
use crate::query::{Fresh, Id, Params};
use crate::view::{self, Seen};

use super::routes::MODELS;

/// Between two signs of life on a quiet stream (wire.md 4).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the next kept line may take: they are all in one stream.
const NEXT: Duration = Duration::from_secs(2);
/// Lines shown of what was before, when nothing is said.
const TAIL: u32 = 100;
/// Most lines of one answer.
const MAX_TAIL: u32 = 10_000;

/// Which lines are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// The last so many of the kept lines, 0 to 10,000; 100 when absent. With `after`: the
    /// first so many behind it, on a page.
    tail: Option<u32>,
    /// Lines behind this place (the `seq` of a line).
    after: Option<String>,
    /// Lines of one task.
    task: Option<String>,
    /// `false`: a page of what is kept. `true`: what is kept, and what comes, as server-sent
    /// events. When absent, `Accept: application/json` asks for a page.
    follow: Option<bool>,
}

/// A line of an agent's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// Its place among the lines of all agents; the id of its event.
    pub seq: u64,
    /// When the server had it.
    pub at: DateTime<Utc>,
    /// The task that it is about; absent where the agent itself said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The attempt at the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Which start of the agent said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// `stdout`, `stderr`, or a word of the agent's own.
    pub stream: String,
    /// The text; one that is too long ends in a mark.
    pub line: String,
}

/// The kept lines of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogPage {
    /// Oldest first.
    pub items: Vec<LogEntry>,
    /// `after` for what comes behind them; absent where there are none.
    pub next: Option<u64>,
}

/// Shows what an agent and its running tasks print: the last kept lines, then each line as it
/// comes. Resumes behind `Last-Event-ID` or `after`; a line that is not kept any more is left
/// out without a word.
#[utoipa::path(get, path = "/agents/{id}/logs", tag = "agents", params(
    ("id" = AgentId, Path),
    LogParams,
    ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this line"),
), responses(
    (status = 200, description = "Lines as server-sent events named `log`, or a page of them", content(
        (String = "text/event-stream"),
        (LogPage = "application/json"),
    )),
    (status = "4XX", response = Refused),
))]
pub async fn follow_logs(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<LogParams>,
    fresh: Fresh,
    headers: HeaderMap,
) -> ApiResult {
    let wanted = Wanted::read(&params, &headers)?;
    let Seen { queries, head } = view::seen(&app, fresh, MODELS).await?;
    let known = queries.agent(&caller.tenant, AgentId(id), fresh.wait).await?;
    view::present(known, "agent", head)?;
    let slot = app.stream_slot(&caller)?;
    let logs = app.doors.logs.open(caller.tenant, AgentId(id), wanted.after).await?;
    let (kept, lines) = wanted.kept(logs).await;
    if !wanted.follow {
        let next = kept.last().map(|entry| entry.seq).or(wanted.after);
        return Ok(Answer(LogPage { items: kept, next }).into_response());
    }
    let kept = stream::iter(kept.into_iter().map(|entry| frame(&entry)));
    let closing = app.closing.clone();
    let task = wanted.task;
    let live =
        stream::unfold((lines, slot, closing), move |(mut lines, slot, closing)| async move {
            let frame = tokio::select! {
                () = closing.cancelled() => return None,
                line = tokio::time::timeout(KEEP_ALIVE, lines.next()) => match line {
                    Ok(Some(line)) => match entry(&line) {
                        entry if is_of(&entry, task) => frame(&entry),
                        _ => Bytes::new(),
                    },
                    Ok(None) => return None,
                    Err(_) => Bytes::from_static(b":\n\n"),
                },
            };
            Some((frame, (lines, slot, closing)))
        });
    let live = live.filter(|frame| std::future::ready(!frame.is_empty()));
    let hello = stream::once(std::future::ready(Bytes::from_static(b"retry: 2000\n:\n\n")));
    let frames = hello.chain(kept).chain(live).map(Ok::<_, std::convert::Infallible>);
    Ok::<Response, _>(event_stream(Body::from_stream(frames)))
}

/// The request, checked.
struct Wanted {
    tail: usize,
    after: Option<u64>,
    task: Option<TaskId>,
    follow: bool,
}

impl Wanted {
    fn read(params: &LogParams, headers: &HeaderMap) -> Result<Self, ApiError> {
        let tail = params.tail.unwrap_or(TAIL);
        if tail > MAX_TAIL {
            let message = format!("`tail` must lie between 0 and {MAX_TAIL}");
            return Err(ApiError::parameter("/query/tail", message));
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let mut after = params::position("after", params.after.as_deref())?;
        if let Some(text) = header("last-event-id").filter(|text| !text.is_empty()) {
            let bad = || ApiError::parameter("/header/last-event-id", "a number is expected");
            after = Some(text.parse().map_err(|_| bad())?);
        }
        let page = header(header::ACCEPT.as_str()).is_some_and(|accept| {
            accept.contains("application/json") && !accept.contains("text/event-stream")
        });
        Ok(Self {
            tail: tail as usize,
            after,
            task: params::id("task", params.task.as_deref())?,
            follow: params.follow.unwrap_or(!page),
        })
    }

    /// The kept lines that are wanted, and the stream behind them.
    async fn kept(&self, logs: LogStream) -> (Vec<LogEntry>, BoxStream<'static, KeptLine>) {
        let LogStream { mut kept, mut lines } = logs;
        let mut found = VecDeque::new();
        // A page behind a place begins there; everything else ends at the newest line.
        let page = self.after.is_some() && !self.follow;
        while kept > 0 && !(page && found.len() >= self.tail) {
            // Lines that went away meanwhile are not waited for.
            let Ok(Some(line)) = tokio::time::timeout(NEXT, lines.next()).await else { break };
            kept = (kept - 1).min(line.behind);
            let entry = entry(&line);
            if !is_of(&entry, self.task) {
                continue;
            }
            found.push_back(entry);
            if self.after.is_none() && found.len() > self.tail {
                found.pop_front();
            }
        }
        (found.into(), lines)
    }
}

fn is_of(entry: &LogEntry, task: Option<TaskId>) -> bool {
    task.is_none() || entry.task_id == task
}

/// What an agent published, as far as it can be understood; all of it is data, also where it
/// is no JSON.
fn entry(line: &KeptLine) -> LogEntry {
    let text = String::from_utf8_lossy(&line.body);
    let fields = serde_json::from_str::<Map<String, Value>>(&text).ok();
    let field = |name: &str| fields.as_ref().and_then(|fields| fields.get(name));
    let word = |name: &str| field(name).and_then(Value::as_str);
    let number = |name: &str| field(name).and_then(Value::as_u64);
    LogEntry {
        seq: line.seq,
        at: line.at,
        task_id: word("task_id").and_then(|id| Some(TaskId(id.parse().ok()?))),
        attempt: number("attempt").and_then(|attempt| attempt.try_into().ok()),
        generation: number("generation"),
        stream: word("stream").unwrap_or("stdout").chars().take(64).collect(),
        line: cut_line(word("line").unwrap_or(&text)),
    }
}

/// One frame: JSON has no line ends, whatever the agent printed.
fn frame(entry: &LogEntry) -> Bytes {
    let data = Json::of(entry);
    format!("id: {}\nevent: log\ndata: {}\n\n", entry.seq, data.as_str()).into()
}

/// The lines in `TAFFRAIL_LOGS`.
pub struct NatsLogs(pub async_nats::Client);

impl AgentLogs for NatsLogs {
    fn open(
        &self,
        tenant: TenantId,
        agent: AgentId,
        after: Option<u64>,
    ) -> Boxed<Result<LogStream, Problem>> {
        let client = self.0.clone();
        async move {
            match broker::logs::open(&client, &tenant, agent, after).await {
                Ok((kept, lines)) => Ok(LogStream { kept, lines }),
                Err(error) => {
                    tracing::warn!(%error, "an agent's log cannot be read");
                    let detail = "the agents' log cannot be read just now";
                    let problem = Problem::new(Code::Unavailable, detail);
                    Err(Problem { retry_after_ms: Some(1_000), ..problem })
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(body: &[u8]) -> KeptLine {
        KeptLine { seq: 7, at: DateTime::UNIX_EPOCH, body: body.to_vec().into(), behind: 0 }
    }

    #[test]
    fn whatever_an_agent_prints_is_one_frame() {
        let json = frame(&entry(&line(b"{ \"line\":\n \"a\\nb\", \"stream\": \"stderr\" }")));
        let text = String::from_utf8_lossy(&json).into_owned();
        assert!(text.starts_with("id: 7\nevent: log\ndata: {\"seq\":7,"), "{text}");
        assert!(text.ends_with("\"stream\":\"stderr\",\"line\":\"a\\nb\"}\n\n"), "{text}");
        let forged = frame(&entry(&line(b"x\n\nevent: forged\nid: 9\xff\x1b[2J\r")));
        let text = String::from_utf8_lossy(&forged).into_owned();
        assert_eq!(text.matches("event:").count(), 2, "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("event:")).count(), 1, "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("id:")).count(), 1, "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn a_line_may_be_the_agents_own_and_a_long_one_is_cut() {
        let own = entry(&line(br#"{"stream":"stdout","line":"up","generation":3}"#));
        assert_eq!((own.task_id, own.generation, own.line.as_str()), (None, Some(3), "up"));
        let long = format!(r#"{{"task_id":"me","line":"{}"}}"#, "x".repeat(20_000));
        let long = entry(&line(long.as_bytes()));
        assert!(long.line.ends_with(" bytes cut]") && long.line.len() < 9_000);
        assert_eq!((long.task_id, long.stream.as_str()), (None, "stdout"));
    }

    #[tokio::test]
    async fn the_tail_is_of_the_wanted_task_and_a_page_begins_where_it_is_asked_to() {
        let task = TaskId::nth(1);
        let of = |seq: u64, task: TaskId| KeptLine {
            seq,
            behind: 6 - seq,
            body: format!(r#"{{"task_id":"{task}","line":"{seq}"}}"#).into(),
            ..line(b"")
        };
        let ask = async |tail, after: Option<u64>, wanted, follow| {
            let lines: Vec<_> = (1..=6)
                .filter(|seq| after.is_none_or(|after| *seq > after))
                .map(|seq| of(seq, TaskId::nth(1 + u128::from(seq % 2))))
                .collect();
            let kept = lines.len() as u64;
            let logs = LogStream { kept, lines: stream::iter(lines).boxed() };
            let wanted = Wanted { tail, after, task: wanted, follow };
            let (kept, rest) = wanted.kept(logs).await;
            let seqs: Vec<u64> = kept.iter().map(|entry| entry.seq).collect();
            (seqs, rest.count().await)
        };
        assert_eq!(ask(2, None, None, true).await, (vec![5, 6], 0));
        assert_eq!(ask(2, None, Some(task), true).await, (vec![4, 6], 0));
        assert_eq!(ask(0, None, None, true).await, (vec![], 0));
        assert_eq!(ask(2, Some(1), None, false).await, (vec![2, 3], 3));
        assert_eq!(ask(2, Some(1), None, true).await, (vec![2, 3, 4, 5, 6], 0));
    }
}
