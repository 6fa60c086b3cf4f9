//! From a message to commands: the same steps for durable commands and requests.

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use commands::{CommandEnvelope, Executor, Ids};
use domain::{Code, Command, Outcome, Problem, Status, TenantId};
use futures::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::{TenantCheck, batch};
use crate::envelope::{command_body, header, header_value, is_traceparent, unhex};
use crate::streams::MAX_BODY;
use crate::subject::{CommandSubject, Subject, Target, parse};
use crate::{ids, subject};

/// Most headers that are taken (reliability D44).
const MAX_HEADERS: usize = 100;
/// Longest name of an actor, in characters.
const MAX_ACTOR: usize = 128;
/// Who asks when nobody says so.
const NOBODY: &str = "anonymous";

/// Where a message stands in the stream: what its derived command id is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub sequence: u64,
    pub nanos: i128,
}

/// A message, read.
#[derive(Debug)]
pub(super) enum Intake {
    /// One command.
    One(Box<CommandEnvelope>),
    /// A batch; an item that is malformed has its outcome already.
    Batch(Vec<Result<CommandEnvelope, Outcome>>),
    /// A claim: somebody else answers it.
    Claim,
}

/// What could not be read, with all that is known of it.
#[derive(Debug)]
pub(super) struct Malformed {
    pub command_id: Option<Uuid>,
    pub stream_id: Option<Uuid>,
    pub problem: Problem,
}

impl Malformed {
    /// The answer to its sender; an id that is not known is all zero.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::undecided(
            Status::Invalid,
            self.command_id.unwrap_or(Uuid::nil()),
            self.stream_id.unwrap_or(Uuid::nil()),
            self.problem.clone(),
        )
    }
}

/// What all commands of a message have in common.
pub(super) struct Common {
    pub tenant: TenantId,
    pub command_id: Uuid,
    pub fresh: bool,
    pub actor: String,
    pub correlation_id: Option<Uuid>,
    pub causation_position: Option<u64>,
    pub trace: Option<String>,
    pub credential: Option<Arc<str>>,
}

impl Common {
    /// A command of this message.
    pub(super) fn envelope(
        &self,
        stream_id: Uuid,
        command: Command,
        command_id: Uuid,
        fresh: bool,
    ) -> CommandEnvelope {
        CommandEnvelope {
            fresh,
            correlation_id: self.correlation_id,
            causation_position: self.causation_position,
            trace: self.trace.clone(),
            credential: self.credential.clone(),
            ..CommandEnvelope::new(
                self.tenant.clone(),
                stream_id,
                command,
                command_id,
                self.actor.clone(),
            )
        }
    }
}

/// Reads a message.
///
/// # Errors
/// What is wrong with it, as a problem document.
pub(super) fn read(
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: &[u8],
    delivery: Option<Delivery>,
    tenants: &TenantCheck,
    fresh: Ids,
) -> Result<Intake, Malformed> {
    let unread = |problem| Malformed { command_id: None, stream_id: None, problem };
    let address = match parse(subject).map_err(unread)? {
        Subject::Command(address) => address,
        Subject::Claim(_) => return Ok(Intake::Claim),
        Subject::Event { .. }
        | Subject::Agent { .. }
        | Subject::Node { .. }
        | Subject::Dead { .. } => {
            return Err(unread(Problem::new(Code::InvalidSubject, "no command subject")));
        }
    };
    let stream_id = match &address.target {
        Target::One { id, .. } | Target::Batch { id } => Some(*id),
    };
    let (command_id, is_fresh) = command_id(&address, headers, delivery, fresh)
        .map_err(|problem| Malformed { command_id: None, stream_id, problem })?;
    let fault = |problem| Malformed { command_id: Some(command_id), stream_id, problem };

    if !tenants(&address.tenant) {
        let detail = format!("there is no tenant `{}`", address.tenant);
        return Err(fault(Problem::new(Code::InvalidSubject, detail)));
    }
    if payload.len() > MAX_BODY {
        let detail = format!("the body has {} bytes; {MAX_BODY} are taken", payload.len());
        return Err(fault(Problem::new(Code::TooLarge, detail)));
    }
    if headers.is_some_and(|headers| headers.len() > MAX_HEADERS) {
        let detail = format!("there are more than {MAX_HEADERS} headers");
        return Err(fault(Problem::new(Code::InvalidParameter, detail)));
    }
    let common = Common {
        command_id,
        fresh: is_fresh,
        actor: actor(&address, headers).map_err(fault)?,
        correlation_id: header_of(headers, header::CORRELATION_ID, "a UUID", |text| {
            Uuid::try_parse(text).ok()
        })
        .map_err(fault)?,
        causation_position: header_of(headers, header::CAUSATION_POSITION, "a position", |text| {
            text.parse().ok()
        })
        .map_err(fault)?,
        // One that is malformed is ignored, as W3C asks: tracing never fails a command.
        trace: header_value(headers, header::TRACEPARENT)
            .filter(|text| is_traceparent(text))
            .map(Into::into),
        credential: header_of(
            headers,
            header::CREDENTIAL,
            "1 to 128 printable characters",
            |text| is_actor(text).then(|| text.into()),
        )
        .map_err(fault)?,
        tenant: address.tenant,
    };
    let body = command_body(headers, payload).map_err(fault)?;
    match address.target {
        Target::Batch { .. } => batch::read(&common, body).map(Intake::Batch).map_err(fault),
        Target::One { kind, id, command } => {
            let command = Command::parse(kind, &command, body).map_err(fault)?;
            let mut envelope = common.envelope(id, command, command_id, is_fresh);
            envelope.expected_version =
                header_of(headers, header::EXPECTED_VERSION, "a version", |text| text.parse().ok())
                    .map_err(fault)?;
            envelope.fence = header_of(headers, header::FENCE, "a token", |text| text.parse().ok())
                .map_err(fault)?;
            // A gateway that chose the stream's id knows better than we what a repeat is.
            if let Some(fingerprint) =
                header_of(headers, header::FINGERPRINT, "64 hex digits", unhex).map_err(fault)?
            {
                envelope.fingerprint = fingerprint;
            }
            Ok(Intake::One(Box::new(envelope)))
        }
    }
}

/// The command's id and whether it was made just now (see the contract for the order).
fn command_id(
    address: &CommandSubject,
    headers: Option<&HeaderMap>,
    delivery: Option<Delivery>,
    fresh: Ids,
) -> Result<(Uuid, bool), Problem> {
    let given = header_of(headers, header::COMMAND_ID, "a UUID", |text| {
        Uuid::try_parse(text.trim()).ok().filter(|id| !id.is_nil())
    })?;
    if let Some(id) = given {
        return Ok((id, false));
    }
    let message_id = header_value(headers, "Nats-Msg-Id").filter(|id| !id.is_empty());
    Ok(match (message_id, delivery) {
        (Some(id), _) => (ids::of_message_id(&address.tenant, id), false),
        (None, Some(Delivery { sequence, nanos })) => {
            (ids::of_delivery(&address.tenant, sequence, nanos), false)
        }
        (None, None) => (fresh.fresh(), true),
    })
}

/// The agent that the subject names; else what the sender claims to be.
fn actor(address: &CommandSubject, headers: Option<&HeaderMap>) -> Result<String, Problem> {
    if let Some(agent) = address.agent {
        return Ok(format!("agent:{agent}"));
    }
    let claimed = header_of(headers, header::ACTOR, "1 to 128 printable characters", |text| {
        is_actor(text).then(|| text.to_owned())
    })?;
    Ok(claimed.unwrap_or_else(|| NOBODY.into()))
}

/// Whether a text may stand as the name of an actor.
pub(crate) fn is_actor(text: &str) -> bool {
    let length = text.chars().count();
    (1..=MAX_ACTOR).contains(&length) && text.trim() == text && !text.chars().any(char::is_control)
}

fn header_of<T>(
    headers: Option<&HeaderMap>,
    name: &str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(text) = header_value(headers, name) else { return Ok(None) };
    match read(text) {
        Some(value) => Ok(Some(value)),
        None => Err(Problem::new(Code::InvalidParameter, format!("`{name}` must be {expected}"))),
    }
}

/// The outcomes of a batch, as its sender gets them.
#[derive(Debug, Serialize)]
pub(super) struct Outcomes {
    pub outcomes: Vec<Outcome>,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Decided {
    One(Box<Outcome>),
    Batch(Outcomes),
}

impl Decided {
    /// The outcome of a single command.
    pub(super) fn one(outcome: Outcome) -> Self {
        Self::One(Box::new(outcome))
    }

    /// The answer's body.
    pub(super) fn body(&self) -> Bytes {
        match self {
            Self::One(outcome) => serde_json::to_vec(outcome),
            Self::Batch(outcomes) => serde_json::to_vec(outcomes),
        }
        .unwrap_or_default()
        .into()
    }

    /// All outcomes.
    pub(super) fn outcomes(&self) -> &[Outcome] {
        match self {
            Self::One(outcome) => std::slice::from_ref(outcome),
            Self::Batch(outcomes) => &outcomes.outcomes,
        }
    }

    /// When to try again, if any of it was not taken.
    pub(super) fn busy(&self) -> Option<u64> {
        self.outcomes()
            .iter()
            .filter(|outcome| outcome.status == Status::Busy)
            .map(|outcome| outcome.retry_after_ms.unwrap_or(super::RETRY_AFTER.as_millis() as u64))
            .max()
    }

    /// The first item that was malformed.
    pub(super) fn invalid(&self) -> Option<&Outcome> {
        self.outcomes().iter().find(|outcome| outcome.status == Status::Invalid)
    }
}

/// Hands a message's commands over; ready when all are decided.
///
/// The hand-over itself happens in this call and in its first poll, in order: whoever polls
/// messages one after another keeps the order of a stream's commands.
pub(super) async fn decide(executor: &dyn Executor, intake: Intake) -> Option<Decided> {
    match intake {
        Intake::One(envelope) => Some(Decided::one(executor.execute(*envelope).await)),
        Intake::Batch(items) => {
            let outcomes = join_all(items.into_iter().map(|item| {
                let pending = item.map(|envelope| executor.execute(envelope));
                async move {
                    match pending {
                        Ok(pending) => pending.await,
                        Err(outcome) => outcome,
                    }
                }
            }));
            Some(Decided::Batch(Outcomes { outcomes: outcomes.await }))
        }
        Intake::Claim => None,
    }
}

/// Whether an answer may go to a subject: an inbox, whatever its prefix, but never one of
/// ours or the server's own, where our rights would do what the sender's do not (a confused
/// deputy).
pub(crate) fn is_reply(text: &str) -> bool {
    !text.starts_with('$') && !text.starts_with("taffrail.") && is_literal(text)
}

/// Whether a durable command's `Taffrail-Reply-To` is an inbox.
pub(super) fn is_inbox(text: &str) -> bool {
    (text.starts_with("_INBOX.") || text.starts_with("_INBOX_")) && is_literal(text)
}

fn is_literal(subject: &str) -> bool {
    subject.len() <= 255
        && subject.split('.').all(|token| {
            !token.is_empty()
                && token != "*"
                && token != ">"
                && token.bytes().all(|b| b.is_ascii_graphic())
        })
}

/// The tenant under which a message that could not be processed is recorded.
pub(super) fn dead_tenant(subject: &str, tenants: &TenantCheck) -> TenantId {
    subject::tenant_of(subject)
        .filter(|tenant| tenants(tenant))
        .unwrap_or_else(TenantId::default_tenant)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ID: &str = "01920000-0000-7000-8000-000000000001";

    fn only_default() -> TenantCheck {
        Arc::new(|tenant| tenant.as_str() == "default")
    }

    fn submit(headers: &[(&'static str, &str)], delivery: Option<Delivery>) -> CommandEnvelope {
        let subject = format!("taffrail.default.cmd.task.{ID}.submit");
        match try_read(&subject, headers, br#"{"title":"t"}"#, delivery).expect("read") {
            Intake::One(envelope) => *envelope,
            other @ (Intake::Batch(_) | Intake::Claim) => panic!("{other:?}"),
        }
    }

    fn try_read(
        subject: &str,
        headers: &[(&'static str, &str)],
        body: &[u8],
        delivery: Option<Delivery>,
    ) -> Result<Intake, Malformed> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        read(subject, Some(&map), body, delivery, &only_default(), Ids)
    }

    #[test]
    fn a_command_id_is_given_or_derived_in_the_contracts_order() {
        let at = Some(Delivery { sequence: 5, nanos: 9 });
        let given = submit(&[("Taffrail-Command-Id", ID), ("Nats-Msg-Id", "m")], at);
        assert_eq!((given.command_id.to_string().as_str(), given.fresh), (ID, false));

        let tenant = TenantId::default_tenant();
        let message = submit(&[("Nats-Msg-Id", "m")], at);
        assert_eq!(message.command_id, ids::of_message_id(&tenant, "m"));

        let delivered = submit(&[], at);
        assert_eq!(delivered.command_id, ids::of_delivery(&tenant, 5, 9));
        assert!(!delivered.fresh, "a redelivery repeats it");

        let first = submit(&[], None);
        assert!(first.fresh);
        assert_ne!(first.command_id, submit(&[], None).command_id);
    }

    #[test]
    fn the_actor_is_the_subjects_agent_or_a_claim() {
        assert_eq!(submit(&[], None).actor, "anonymous");
        assert_eq!(submit(&[("Taffrail-Actor", "J\u{fc}rgen")], None).actor, "J\u{fc}rgen");
        let subject = format!("taffrail.default.agent.{ID}.req.task.{ID}.start");
        let claimed = [("Taffrail-Actor", "root")];
        let read = try_read(&subject, &claimed, br#"{"lease_token":1}"#, None).expect("read");
        assert!(matches!(read, Intake::One(e) if e.actor == format!("agent:{ID}")));
    }

    #[test]
    fn headers_and_bodies_that_are_malformed_are_named() {
        let subject = format!("taffrail.default.cmd.task.{ID}.submit");
        let long = "x".repeat(129);
        type Case<'a> = (&'a [(&'static str, &'a str)], &'a [u8], Code);
        let table: [Case<'_>; 9] = [
            (&[("Taffrail-Command-Id", "7")], br#"{"title":"t"}"#, Code::InvalidParameter),
            (&[("Taffrail-Expected-Version", "-1")], br#"{"title":"t"}"#, Code::InvalidParameter),
            (&[("Taffrail-Actor", &long)], br#"{"title":"t"}"#, Code::InvalidParameter),
            (&[("Taffrail-Fingerprint", "ab")], br#"{"title":"t"}"#, Code::InvalidParameter),
            (&[("Content-Type", "text/plain")], br#"{"title":"t"}"#, Code::UnsupportedMediaType),
            (&[], b"", Code::InvalidBody),
            (&[], b"{", Code::InvalidBody),
            (&[], br#"{"title":"t","titel":1}"#, Code::InvalidBody),
            (&[], b"\xff", Code::InvalidBody),
        ];
        for (headers, body, code) in table {
            let malformed = try_read(&subject, headers, body, None).expect_err("refused");
            assert_eq!(malformed.problem.code(), Some(code), "{headers:?}");
            assert_eq!(malformed.outcome().status, Status::Invalid);
        }
        let other = subject.replace("default", "acme");
        let malformed = try_read(&other, &[], br#"{"title":"t"}"#, None).expect_err("refused");
        assert_eq!(malformed.problem.code(), Some(Code::InvalidSubject));
        let unknown = subject.replace("submit", "sumbit");
        let malformed = try_read(&unknown, &[], b"{}", None).expect_err("refused");
        assert_eq!(malformed.problem.code(), Some(Code::UnknownCommand));
        assert!(malformed.problem.detail.contains("did you mean `submit`?"));
        let big = vec![b' '; MAX_BODY + 1];
        let malformed = try_read(&subject, &[], &big, None).expect_err("refused");
        assert_eq!(malformed.problem.code(), Some(Code::TooLarge));
    }

    #[test]
    fn a_trace_that_is_malformed_is_ignored() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(submit(&[("traceparent", trace)], None).trace.as_deref(), Some(trace));
        assert_eq!(submit(&[("traceparent", "nonsense")], None).trace, None);
    }

    #[test]
    fn answers_go_to_inboxes_alone() {
        for inbox in ["_INBOX.abc.1", "_INBOX_agent7.x"] {
            assert!(is_inbox(inbox) && is_reply(inbox), "{inbox}");
        }
        for other in ["_INBOX.*", "_INBOX.>", "_INBOX.a..b", "_INBOX.", "_INBOXES", "a b", ""] {
            assert!(!is_inbox(other), "{other}");
        }
        assert!(is_reply("_R_.x.y"), "a request's inbox may have a prefix of its own");
        assert!(!is_reply("$JS.API.STREAM.DELETE.TAFFRAIL_EVENTS"));
        assert!(!is_reply("taffrail.acme.cmd.task.x.cancel"));
    }
}
