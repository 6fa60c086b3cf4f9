//! How work on a task ends.

use domain::Json;

/// What a handler says of the task it was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is done.
    Done(Json),
    /// It could not be done.
    Failed {
        /// What went wrong.
        error: Json,
        /// Whether another attempt may help.
        retryable: bool,
    },
    /// It goes back undone; the attempt does not count.
    HandBack(String),
}

impl Verdict {
    /// A failure that is told in words.
    pub fn failed(message: impl Into<String>, retryable: bool) -> Self {
        let error = Json::of(&serde_json::json!({ "message": message.into() }));
        Self::Failed { error, retryable }
    }
}
