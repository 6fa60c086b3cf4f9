//! A command on its way to the processor, and the door it goes through.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use domain::{Command, Outcome, TenantId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// SHA-256 of what a command asks for; a repeat must have the same.
pub type Fingerprint = [u8; 32];

/// A command with all that is known about it.
#[derive(Debug, Clone)]
pub struct CommandEnvelope {
    /// Whose it is.
    pub tenant: TenantId,
    /// The stream it is for.
    pub stream_id: Uuid,
    /// What is asked for.
    pub command: Command,
    /// Its id: the same command sent again has the same one, for ever.
    pub command_id: Uuid,
    /// The id was made for this very call, so no result can be stored under it yet.
    pub fresh: bool,
    /// The stream's id was made for this very call, so the stream cannot exist yet.
    pub new_stream: bool,
    /// Bytes of its body.
    pub size: usize,
    /// What the sender asked for, to tell a repeat from another body under the same id.
    pub fingerprint: Fingerprint,
    /// Who asks.
    pub actor: String,
    /// What it belongs to, across streams.
    pub correlation_id: Option<Uuid>,
    /// The event that caused it.
    pub causation_position: Option<u64>,
    /// W3C `traceparent`.
    pub trace: Option<String>,
    /// The credential that it came with, as the audit names it: `token:` and the first 16 hex
    /// digits of the token's SHA-256. None over NATS, where there is one for all, and for
    /// managers, who need none.
    pub credential: Option<Arc<str>>,
    /// The stream version the sender saw (`If-Match`).
    pub expected_version: Option<u64>,
    /// The token of the managers' lease, where a manager sends it (`fence`).
    pub fence: Option<i64>,
}

impl CommandEnvelope {
    /// A command with an id of its sender's choice, and nothing else said.
    pub fn new(
        tenant: TenantId,
        stream_id: Uuid,
        command: impl Into<Command>,
        command_id: Uuid,
        actor: impl Into<String>,
    ) -> Self {
        Self::asked_of(tenant, stream_id, Some(stream_id), command, command_id, actor)
    }

    /// The same, where the sender `named` its stream or left the choice of its id to us:
    /// a repeat of a creation must not differ by an id that nobody asked for.
    pub fn asked_of(
        tenant: TenantId,
        stream_id: Uuid,
        named: Option<Uuid>,
        command: impl Into<Command>,
        command_id: Uuid,
        actor: impl Into<String>,
    ) -> Self {
        let command = command.into();
        let body = command.body();
        let fingerprint = fingerprint(&command, named, &body);
        Self {
            tenant,
            stream_id,
            command,
            command_id,
            fresh: false,
            new_stream: false,
            size: body.len(),
            fingerprint,
            actor: actor.into(),
            correlation_id: None,
            causation_position: None,
            trace: None,
            credential: None,
            expected_version: None,
            fence: None,
        }
    }

    /// SHA-256 over type, name, stream and canonical body; `None` as the stream for a
    /// creation whose id the server chose.
    pub fn fingerprint_of(command: &Command, stream_id: Option<Uuid>) -> Fingerprint {
        fingerprint(command, stream_id, &command.body())
    }
}

fn fingerprint(command: &Command, stream_id: Option<Uuid>, body: &[u8]) -> Fingerprint {
    let mut sha = Sha256::new();
    sha.update(command.stream_type().as_str());
    sha.update([0]);
    sha.update(command.name());
    sha.update([0]);
    if let Some(id) = stream_id {
        sha.update(id.as_bytes());
    }
    sha.update(body);
    sha.finalize().into()
}

/// Whoever gets commands decided: the processor in this process, or one behind NATS.
///
/// Callers always get an outcome: `busy` when the command was not taken.
pub trait Executor: Send + Sync + 'static {
    /// Has one command decided; ready after the commit.
    fn execute(&self, command: CommandEnvelope) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;
}
