//! The agents' log lines, kept within limits in `TAFFRAIL_LOGS`. They are not events
//! (invariant 12): nothing is made from them, and the stream may vanish at any time.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use bytes::Bytes;
use domain::{AgentId, TenantId, Timestamp};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::BrokerError;
use crate::error::During;
use crate::streams::LOGS;
use crate::subject::{self, AgentWord};

/// What of the agents' log lines is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Lines of one agent; its own oldest ones go first, so a flood of one agent's lines
    /// pushes no other agent's out.
    pub lines_per_agent: u64,
    /// Bytes of all agents' lines; beyond it the oldest of all go.
    pub bytes: u64,
    /// How long a line is kept.
    pub age: Duration,
}

impl Default for LogLimits {
    /// 2,000 lines per agent, 512 MiB in all, seven days. With messages of 16 KiB at most an
    /// agent can fill 32 MiB: it takes sixteen that print at the limit to push others out.
    fn default() -> Self {
        let age = Duration::from_secs(7 * 86_400);
        Self { lines_per_agent: 2_000, bytes: 512 << 20, age }
    }
}

/// A line as an agent published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLine {
    /// Its place in the stream, which all agents share.
    pub seq: u64,
    /// When the server had it.
    pub at: Timestamp,
    /// JSON, if the agent keeps to the protocol.
    pub body: Bytes,
    /// How many lines of this agent were there behind it when it was sent.
    pub behind: u64,
}

/// Opens an agent's log behind a place, or at the oldest line that is kept: how many lines are
/// there, and then those and all to come, without a gap and each once.
///
/// A place beyond the newest line is of a stream that is gone; everything is shown then.
///
/// # Errors
/// When JetStream cannot be reached or the stream is missing.
pub async fn open(
    client: &Client,
    tenant: &TenantId,
    agent: AgentId,
    after: Option<u64>,
) -> Result<(u64, BoxStream<'static, KeptLine>), BrokerError> {
    let doing = "opening an agent's log";
    let stream = jetstream::new(client.clone()).get_stream(LOGS).await.during(doing)?;
    let last = stream.cached_info().state.last_sequence;
    let deliver_policy = match after.filter(|after| *after <= last) {
        Some(after) => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        None => DeliverPolicy::All,
    };
    let config = OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: subject::agent(tenant, agent, AgentWord::Log),
        deliver_policy,
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.during(doing)?;
    let kept = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.during(doing)?;
    // The stream or its consumer vanished: whoever follows opens it again behind its place.
    let lines = messages.take_while(|message| {
        if let Err(error) = message {
            tracing::debug!(%error, "an agent's log broke off");
        }
        std::future::ready(message.is_ok())
    });
    let lines = lines.filter_map(|message| std::future::ready(message.ok().and_then(line)));
    Ok((kept, lines.boxed()))
}

fn line(message: jetstream::Message) -> Option<KeptLine> {
    let info = message.info().ok()?;
    let nanos = info.published.unix_timestamp_nanos();
    let at = Timestamp::from_timestamp_micros(i64::try_from(nanos / 1_000).ok()?)?;
    let (seq, behind) = (info.stream_sequence, info.pending);
    Some(KeptLine { seq, at, behind, body: message.payload.clone() })
}
