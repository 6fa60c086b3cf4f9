//! The four streams, made when missing.
//!
//! None of them is the truth, so each may vanish at any time and is made again: the events
//! from the log (by the relay), the other three empty.

use std::time::Duration;

use async_nats::jetstream::context::{
    CreateStreamErrorKind, DeleteStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::error::During;
use crate::{BrokerError, LogLimits, subject};

/// The stream of durable commands.
pub const COMMANDS: &str = "TAFFRAIL_COMMANDS";
/// The mirror of the log.
pub const EVENTS: &str = "TAFFRAIL_EVENTS";
/// What could not be processed.
pub const DEAD: &str = "TAFFRAIL_DEAD";
/// The agents' log lines.
pub const LOGS: &str = "TAFFRAIL_LOGS";

/// Largest body of a command.
pub const MAX_BODY: usize = 1 << 20;
/// A body, and room for its headers.
const MAX_COMMAND_BYTES: i32 = (MAX_BODY + (64 << 10)) as i32;
/// Commands that may wait; beyond it a publisher is refused at once instead of waiting for
/// hours (a bounded queue).
const MAX_COMMANDS: i64 = 1_000_000;
/// Bytes that may wait.
const MAX_COMMANDS_BYTES: i64 = 1 << 30;
/// Dead letters are kept for 30 days, at most this many bytes of them.
const MAX_DEAD_BYTES: i64 = 512 << 20;
const MAX_DEAD_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The shortest window that the server takes. Whether a command is a repeat is for the log to
/// say, for ever and with the first outcome; a repeat that the broker swallowed would leave
/// its sender without an answer.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// Largest message with a log line that is kept: an SDK cuts lines at half of it.
const MAX_LOG_BYTES: i32 = 16 << 10;
/// How often the plain streams are looked after.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Looks after the streams of commands, dead letters and log lines.
#[derive(Debug, Clone)]
pub struct Streams {
    jetstream: Context,
    logs: LogLimits,
}

impl Streams {
    /// The streams behind a connection.
    pub fn new(client: async_nats::Client) -> Self {
        Self { jetstream: async_nats::jetstream::new(client), logs: LogLimits::default() }
    }

    /// The same with other limits for log lines.
    pub fn keeping(self, logs: LogLimits) -> Self {
        Self { logs, ..self }
    }

    /// Gives the stream of log lines the limits that are set now.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn limit_logs(&self) -> Result<(), BrokerError> {
        let wanted = logs(self.logs);
        let known = info(&self.jetstream, LOGS).await?.map(|info| info.config);
        let same = known.is_none_or(|known| {
            known.max_messages_per_subject == wanted.max_messages_per_subject
                && known.max_bytes == wanted.max_bytes
                && known.max_age == wanted.max_age
        });
        if !same {
            self.jetstream.update_stream(wanted).await.during("limiting the agents' log lines")?;
        }
        Ok(())
    }

    /// Makes sure that the streams of commands, dead letters and log lines exist.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn ensure(&self) -> Result<(), BrokerError> {
        ensure(&self.jetstream, commands()).await?;
        ensure(&self.jetstream, dead()).await?;
        ensure(&self.jetstream, logs(self.logs)).await?;
        Ok(())
    }

    /// Makes them again whenever they vanish, until cancelled.
    pub async fn keep(&self, cancel: CancellationToken) {
        let mut healthy = true;
        while !cancel.is_cancelled() {
            match self.ensure().await {
                Ok(()) => healthy = true,
                Err(error) if healthy => {
                    tracing::warn!(%error, "the streams of commands cannot be looked after");
                    healthy = false;
                }
                Err(_) => {}
            }
            let _ = tokio::time::timeout(CHECK_EVERY, cancel.cancelled()).await;
        }
    }
}

/// The stream of durable commands: a bounded work queue.
pub(crate) fn commands() -> Config {
    Config {
        name: COMMANDS.into(),
        subjects: vec![subject::ALL_COMMANDS.into()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: MAX_COMMANDS,
        max_bytes: MAX_COMMANDS_BYTES,
        max_message_size: MAX_COMMAND_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: 1,
        ..Config::default()
    }
}

/// The mirror of the log, from a position on.
pub(crate) fn events(first: u64) -> Config {
    Config {
        name: EVENTS.into(),
        subjects: vec![subject::ALL_EVENTS.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_bytes: -1,
        allow_direct: true,
        first_sequence: Some(first),
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: 1,
        ..Config::default()
    }
}

fn dead() -> Config {
    Config {
        name: DEAD.into(),
        subjects: vec![subject::ALL_DEAD.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_bytes: MAX_DEAD_BYTES,
        max_age: MAX_DEAD_AGE,
        allow_direct: true,
        num_replicas: 1,
        ..Config::default()
    }
}

fn logs(limits: LogLimits) -> Config {
    Config {
        name: LOGS.into(),
        subjects: vec![subject::ALL_LOGS.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_messages_per_subject: i64::try_from(limits.lines_per_agent).unwrap_or(i64::MAX),
        max_bytes: i64::try_from(limits.bytes).unwrap_or(i64::MAX),
        max_age: limits.age,
        max_message_size: MAX_LOG_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: 1,
        ..Config::default()
    }
}

/// What the server knows of a stream; `None` when there is none.
pub(crate) async fn info(jetstream: &Context, name: &str) -> Result<Option<Info>, BrokerError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal)
                if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            GetStreamErrorKind::JetStream(_)
            | GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::InvalidStreamName => {
                Err(BrokerError::nats("looking a stream up", error))
            }
        },
    }
}

/// Makes a stream that is missing; one of another shape is left alone where it serves.
pub(crate) async fn ensure(jetstream: &Context, config: Config) -> Result<(), BrokerError> {
    let Some(found) = info(jetstream, &config.name).await? else {
        tracing::info!(stream = config.name, "the stream is missing: it is made");
        return create(jetstream, config).await;
    };
    if found.config.subjects != config.subjects || found.config.retention != config.retention {
        return Err(BrokerError::Unfit(format!(
            "the stream {} has other subjects or another retention than Taffrail's; delete it \
             and it will be made again",
            config.name
        )));
    }
    Ok(())
}

/// Makes a stream; one that somebody else made meanwhile is as good.
pub(crate) async fn create(jetstream: &Context, config: Config) -> Result<(), BrokerError> {
    match jetstream.create_stream(config).await {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStream(refusal)
                if refusal.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                Ok(())
            }
            CreateStreamErrorKind::JetStream(_)
            | CreateStreamErrorKind::EmptyStreamName
            | CreateStreamErrorKind::InvalidStreamName
            | CreateStreamErrorKind::DomainAndExternalSet
            | CreateStreamErrorKind::JetStreamUnavailable
            | CreateStreamErrorKind::TimedOut
            | CreateStreamErrorKind::Response
            | CreateStreamErrorKind::NotFound
            | CreateStreamErrorKind::ResponseParse => {
                Err(BrokerError::nats("making a stream", error))
            }
        },
    }
}

/// Deletes a stream; one that is gone already is as good.
pub(crate) async fn delete(jetstream: &Context, name: &str) -> Result<(), BrokerError> {
    let deleted: Result<_, DeleteStreamError> = jetstream.delete_stream(name).await;
    match deleted {
        Ok(_) => Ok(()),
        Err(error) if info(jetstream, name).await?.is_none() => {
            tracing::debug!(%error, stream = name, "the stream was gone already");
            Ok(())
        }
        Err(error) => Err(error).during("deleting a stream"),
    }
}
