//! Problem documents (RFC 9457) and the one table of error codes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = ($slug:literal, $status:literal, $title:literal),)*) => {
        /// What went wrong, as a stable code; each has a page under `ops/errors`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, for the completeness test and the documents.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The last segment of the problem's `type`.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The same short text for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The input is no well-formed JSON of the documented shape.
    InvalidBody = ("invalid-body", 400, "The body does not have the documented shape"),
    /// A path, query or header value is malformed.
    InvalidParameter = ("invalid-parameter", 400, "A parameter is malformed"),
    /// The subject of a message is not one of the documented ones.
    InvalidSubject = ("invalid-subject", 400, "The subject is not a command subject"),
    /// There is no command of that name for that type.
    UnknownCommand = ("unknown-command", 400, "There is no such command"),
    /// No or a wrong credential.
    Unauthorized = ("unauthorized", 401, "A valid token is required"),
    /// The credential does not allow this.
    Forbidden = ("forbidden", 403, "The token does not allow this"),
    /// Nothing of that id is visible to the caller.
    NotFound = ("not-found", 404, "There is no such thing"),
    /// The route has no such method.
    MethodNotAllowed = ("method-not-allowed", 405, "The route has no such method"),
    /// The id is taken by an earlier creation.
    AlreadyExists = ("already-exists", 409, "It exists already"),
    /// The unique name belongs to another.
    NameTaken = ("name-taken", 409, "The name belongs to another"),
    /// The first request with this idempotency key is still running, or another operation is
    /// under way there.
    InProgress = ("in-progress", 409, "Something is under way already"),
    /// `If-Match` names another version than the current one.
    VersionMismatch = ("version-mismatch", 412, "The version is not the current one"),
    /// The body exceeds the limit.
    TooLarge = ("too-large", 413, "The body is too large"),
    /// The content type is not JSON.
    UnsupportedMediaType = ("unsupported-media-type", 415, "The content type is not supported"),
    /// The state does not allow the command.
    IllegalTransition = ("illegal-transition", 422, "The state does not allow this"),
    /// The lease token is not the current one.
    StaleLease = ("stale-lease", 422, "The lease is no longer held"),
    /// The id or key was used with another body.
    IdempotencyMismatch = ("idempotency-mismatch", 422, "The key was used with another body"),
    /// The stream has reached its greatest length.
    StreamTooLong = ("stream-too-long", 422, "The stream has reached its greatest length"),
    /// Things would wait for, or be a part of, each other.
    Cycle = ("cycle", 422, "It would go round in a circle"),
    /// No part can carry the request out at present.
    NotPossible = ("not-possible", 422, "It can't be done at present"),
    /// Too many requests of one caller.
    RateLimited = ("rate-limited", 429, "Too many requests"),
    /// A bug of ours.
    Internal = ("internal", 500, "Something broke on our side"),
    /// The queue of commands is full.
    Busy = ("busy", 503, "The system is at its limit"),
    /// A part that the answer needs cannot be reached.
    Unavailable = ("unavailable", 503, "A part of the system cannot be reached"),
    /// The read model has not reached the demanded position in time.
    NotYetVisible = ("not-yet-visible", 503, "The read model has not come that far"),
}

impl Code {
    /// The problem's `type`.
    pub fn uri(self) -> String {
        format!("https://taffrail.dev/errors/{}", self.slug())
    }

    /// The code whose `type` this is.
    pub fn of_uri(uri: &str) -> Option<Self> {
        let slug = uri.rsplit('/').next()?;
        Self::ALL.iter().copied().find(|code| code.slug() == slug)
    }
}

/// What is wrong with one field of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the field.
    pub pointer: String,
    /// A stable word for the kind of fault, such as `unknown_field`.
    pub code: String,
    /// What is expected there, for people.
    pub message: String,
}

impl FieldError {
    /// A fault at a pointer.
    pub fn new(pointer: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code: code.into(), message: message.into() }
    }
}

/// A problem document, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// URI of the kind of problem; clients switch on it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence of `type`.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The faulty fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The commands that the present state allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// The present state, where a state refused the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The id of what stands in the way, such as the holder of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicting_id: Option<uuid::Uuid>,
    /// The circle that would be closed, from a thing back to itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<uuid::Uuid>,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The position that the answer reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_position: Option<u64>,
    /// The request's trace, to find it in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl Problem {
    /// A problem of a code, with what happened.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: code.uri(),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            errors: Vec::new(),
            allowed: Vec::new(),
            state: None,
            conflicting_id: None,
            path: Vec::new(),
            retry_after_ms: None,
            log_position: None,
            trace_id: None,
        }
    }

    /// An invalid body, with the fields at fault.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map(|e| e.message.clone()).unwrap_or_default();
        Self { errors, ..Self::new(Code::InvalidBody, detail) }
    }

    /// The code, when the type is one of ours.
    pub fn code(&self) -> Option<Code> {
        Code::of_uri(&self.kind)
    }
}
