//! What a limit counts by: a fixed key, or a CEL expression over the task.
//!
//! Expressions are bounded twice: in length, and in cost by doing without loops (the
//! macros `all`, `exists`, `map`, …), so that evaluating one takes a time that is linear
//! in the expression and the texts it looks at.

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Program, Value};
use serde::Serialize;

/// Longest expression, in bytes.
pub const MAX_EXPRESSION: usize = 512;
/// Longest value of a key, in characters; a longer one is cut.
const MAX_VALUE: usize = 128;
/// Deepest nesting of brackets: the parser goes down by recursion.
const MAX_DEPTH: usize = 32;

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
pub struct KeyExpression(Program);

impl KeyExpression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is too long or too deep, malformed, has a loop, or looks at something
    /// else than `task`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > MAX_EXPRESSION {
            return Err(format!("an expression has 1 to {MAX_EXPRESSION} bytes"));
        }
        if depth(text) > MAX_DEPTH {
            return Err(format!("brackets may be nested {MAX_DEPTH} deep"));
        }
        let program = Program::compile(text).map_err(|error| {
            let told: String = error.to_string().chars().take(300).collect();
            format!("not a CEL expression: {told}")
        })?;
        bounded(program.expression(), 0)?;
        Ok(Self(program))
    }

    /// Its value for a task as text; `None` where it has none (a field is missing, or the
    /// value is null or a list): the limit does not count such a task.
    pub fn value(&self, task: &impl Serialize) -> Option<String> {
        let mut context = Context::default();
        context.add_variable("task", task).ok()?;
        let text = match self.0.execute(&context).ok()? {
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

/// How deep brackets and unary signs are nested, at most; texts in quotes counted in.
fn depth(text: &str) -> usize {
    let (mut now, mut most, mut signs) = (0usize, 0, 0);
    for c in text.chars() {
        signs = if matches!(c, '!' | '-' | '?') { signs + 1 } else { signs };
        match c {
            '(' | '[' | '{' => now += 1,
            ')' | ']' | '}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now + signs);
    }
    most
}

fn bounded(expression: &IdedExpr, level: usize) -> Result<(), String> {
    // Chains of operators nest as well.
    if level > 4 * MAX_DEPTH {
        return Err("the expression is nested too deep".into());
    }
    let each = |all: &[&IdedExpr]| all.iter().try_for_each(|inner| bounded(inner, level + 1));
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Comprehension(_) => {
            Err("loops (all, exists, exists_one, map, filter) are not possible here".into())
        }
        Expr::Ident(name) if name == "task" => Ok(()),
        Expr::Ident(name) => {
            let shown: String = name.chars().take(40).collect();
            Err(format!("there is no `{shown}`; only `task` can be looked at"))
        }
        Expr::Call(call) => {
            each(&call.args.iter().chain(call.target.as_deref()).collect::<Vec<_>>())
        }
        Expr::List(list) => each(&list.elements.iter().collect::<Vec<_>>()),
        Expr::Select(select) => bounded(&select.operand, level + 1),
        Expr::Map(map) => entries(map.entries.iter().map(|entry| &entry.expr), level),
        Expr::Struct(made) => entries(made.entries.iter().map(|entry| &entry.expr), level),
    }
}

fn entries<'a>(mut all: impl Iterator<Item = &'a EntryExpr>, level: usize) -> Result<(), String> {
    all.try_for_each(|entry| match entry {
        EntryExpr::StructField(field) => bounded(&field.value, level + 1),
        EntryExpr::MapEntry(entry) => {
            bounded(&entry.key, level + 1)?;
            bounded(&entry.value, level + 1)
        }
    })
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
