//! What a limit counts by: a fixed key, or a CEL expression over the task.

use cel::Value;
use serde::Serialize;

use crate::expression::{Bounds, Expression};

/// Longest expression, in bytes.
pub const MAX_EXPRESSION: usize = 512;
/// What a key may be; as many additions as fit, because a task's fields are short.
const KEY: Bounds = Bounds { bytes: MAX_EXPRESSION, depth: 32, chain: 128, sums: MAX_EXPRESSION };
/// Longest value of a key, in characters; a longer one is cut.
const MAX_VALUE: usize = 128;

/// What a limit counts by.
#[derive(Debug)]
pub enum LimitKey {
    /// All tasks of the tenant.
    Tenant,
    /// All tasks of the queue.
    Queue,
    /// The task's own key.
    ConcurrencyKey,
    /// The value of an expression.
    Expression(KeyExpression),
}

impl LimitKey {
    /// Reads the `key` of a limit.
    ///
    /// # Errors
    /// What is wrong with the expression, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tenant" => Ok(Self::Tenant),
            "queue" => Ok(Self::Queue),
            "task.concurrency_key" => Ok(Self::ConcurrencyKey),
            expression => KeyExpression::parse(expression).map(Self::Expression),
        }
    }
}

/// A CEL expression over `task`.
#[derive(Debug)]
pub struct KeyExpression(Expression);

impl KeyExpression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is too long or too deep, malformed, has a loop, or looks at something
    /// else than `task`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Expression::parse(text, "task", KEY).map(Self)
    }

    /// Its value for a task as text; `None` where it has none (a field is missing, or the
    /// value is null or a list): the limit does not count such a task.
    pub fn value(&self, task: &impl Serialize) -> Option<String> {
        let text = match self.0.value(cel::to_value(task).ok()?)? {
            Value::String(text) => text.to_string(),
            Value::Int(number) => number.to_string(),
            Value::UInt(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::List(_)
            | Value::Map(_)
            | Value::Function(..)
            | Value::Bytes(_)
            | Value::Opaque(_)
            | Value::Struct(_)
            | Value::Null => return None,
        };
        (!text.is_empty()).then(|| text.chars().take(MAX_VALUE).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(expression: &str, task: &serde_json::Value) -> Option<String> {
        KeyExpression::parse(expression).expect("an expression").value(task)
    }

    #[test]
    fn an_expression_gives_the_value_of_the_key_or_none() {
        let task = json!({ "type": "mail", "labels": { "customer": "acme" }, "n": 7, "list": [] });
        assert_eq!(value("task.labels.customer", &task), Some("acme".into()));
        assert_eq!(
            value("task.labels['customer'] + '/' + task.type", &task),
            Some("acme/mail".into())
        );
        assert_eq!(value("task.n", &task), Some("7".into()));
        assert_eq!(value("task.type == 'mail' ? 'm' : 'other'", &task), Some("m".into()));
        assert_eq!(value("task.labels.nobody", &task), None);
        assert_eq!(value("task.list", &task), None);
        assert_eq!(value("task.n / 0", &task), None);
        let long = json!({ "t": "x".repeat(10_000) });
        assert_eq!(value("task.t", &long).map(|text| text.len()), Some(MAX_VALUE));
    }

    #[test]
    fn what_could_cost_much_or_mean_nothing_is_refused() {
        let nested = format!("{}task{}", "(".repeat(200), ")".repeat(200));
        let signs = format!("{}task.a", "!".repeat(400));
        let sum = vec!["task.n"; 70].join("+");
        for bad in [
            "",
            "   ",
            "task.",
            "task.a +",
            "task.labels.map(x, x)",
            "[1,2].all(x, x > 0)",
            "now",
            "task.a == other",
            &"a".repeat(MAX_EXPRESSION + 1),
            &nested,
            &signs,
        ] {
            assert!(KeyExpression::parse(bad).is_err(), "{bad}");
        }
        assert!(KeyExpression::parse(&sum).is_ok(), "a long sum is no danger");
    }
}
