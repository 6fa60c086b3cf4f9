//! Expressions in CEL (the Common Expression Language), bounded in size and in cost.
//!
//! The cost is bounded by what an expression may be: it has no loops (`all`, `exists`,
//! `map`, …) and few sums, so evaluating it takes a time that is linear in its length and
//! in the size of what it looks at. No clock, no I/O, no regular expressions.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value};

/// Longest condition, in bytes (reliability 3.10).
pub const MAX_BYTES: usize = 1_024;
/// What a condition may be. A sum may copy a text as long as an event.
const CONDITION: Bounds = Bounds { bytes: MAX_BYTES, depth: 24, chain: 192, sums: 16 };

/// What an expression may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Longest text, in bytes.
    pub bytes: usize,
    /// Deepest nesting of brackets and signs: the parser goes down by recursion.
    pub depth: usize,
    /// Deepest nesting of what was read: chains of operators nest as well.
    pub chain: usize,
    /// Most additions.
    pub sums: usize,
}

/// An expression over one variable.
pub(crate) struct Expression {
    text: String,
    variable: &'static str,
    program: Program,
    /// The fields of the variable that it looks at by name.
    fields: BTreeSet<String>,
}

/// A condition over one variable.
#[derive(Debug)]
pub struct Condition(Expression);

impl Condition {
    /// Reads a condition over a variable of that name.
    ///
    /// # Errors
    /// When it is too long or too deep, malformed, has a loop, or looks at another
    /// variable; the text is for people.
    pub fn parse(text: &str, variable: &'static str) -> Result<Self, String> {
        Expression::parse(text, variable, CONDITION).map(Self)
    }

    /// The fields of the variable that it looks at by name.
    pub fn fields(&self) -> &BTreeSet<String> {
        &self.0.fields
    }

    /// The texts that a field must be one of for the condition to hold, where it says so as a
    /// whole or as a part of an `&&`; none where it does not.
    pub fn demands(&self, field: &str) -> Option<Vec<String>> {
        demanded(self.0.program.expression(), self.0.variable, field)
    }

    /// Whether it holds for a value. What cannot be evaluated (a missing field, a value of
    /// another type) does not hold.
    pub fn holds(&self, value: &serde_json::Value) -> bool {
        matches!(self.0.value(cel_value(value)), Some(Value::Bool(true)))
    }
}

impl Expression {
    /// Reads an expression over a variable of that name, within bounds.
    ///
    /// # Errors
    /// As [`Condition::parse`].
    pub fn parse(text: &str, variable: &'static str, bounds: Bounds) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > bounds.bytes {
            return Err(format!("an expression has 1 to {} bytes", bounds.bytes));
        }
        if depth(text) > bounds.depth {
            return Err(format!("an expression may be nested {} deep", bounds.depth));
        }
        let compiled = catch_unwind(AssertUnwindSafe(|| Program::compile(text)));
        let program = match compiled {
            Ok(Ok(program)) => program,
            Ok(Err(error)) => {
                let told: String = error.to_string().chars().take(300).collect();
                return Err(format!("not a CEL expression: {told}"));
            }
            Err(_) => return Err("not a CEL expression".into()),
        };
        let mut walk = Walk { variable, bounds, sums: 0, fields: BTreeSet::new() };
        walk.bounded(program.expression(), 0)?;
        let fields = walk.fields;
        Ok(Self { text: text.into(), variable, program, fields })
    }

    /// What it makes of the variable; `None` where it cannot be evaluated.
    pub fn value(&self, variable: Value) -> Option<Value> {
        // Made once: there are some hundred functions in it.
        static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));
        let mut context = Context::with_env(STANDARD.clone());
        context.add_variable_from_value(self.variable, variable);
        catch_unwind(AssertUnwindSafe(|| self.program.execute(&context))).ok()?.ok()
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// JSON as CEL sees it: whole numbers are `int` wherever they fit, so that they compare and
/// add up with the numbers of an expression.
pub(crate) fn cel_value(value: &serde_json::Value) -> Value {
    use serde_json::Value as J;
    match value {
        J::Null => Value::Null,
        J::Bool(truth) => Value::Bool(*truth),
        J::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(large)) => Value::UInt(large),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        J::String(text) => Value::String(Arc::new(text.clone())),
        J::Array(list) => Value::List(Arc::new(list.iter().map(cel_value).collect())),
        J::Object(fields) => {
            let entry = |(name, value): (&String, &J)| {
                (Key::String(Arc::new(name.clone())), cel_value(value))
            };
            let map: HashMap<Key, Value> = fields.iter().map(entry).collect();
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}

/// See [`Condition::demands`].
fn demanded(expression: &IdedExpr, variable: &str, field: &str) -> Option<Vec<String>> {
    let Expr::Call(call) = &expression.expr else { return None };
    let [left, right] = &call.args[..] else { return None };
    let names = |side: &IdedExpr| {
        matches!(&side.expr, Expr::Select(select) if select.field == field
            && matches!(&select.operand.expr, Expr::Ident(name) if name == variable))
    };
    match call.func_name.as_str() {
        operators::LOGICAL_AND => {
            demanded(left, variable, field).or_else(|| demanded(right, variable, field))
        }
        operators::EQUALS if names(left) => Some(vec![text_of(right)?]),
        operators::EQUALS if names(right) => Some(vec![text_of(left)?]),
        operators::IN if names(left) => {
            let Expr::List(list) = &right.expr else { return None };
            list.elements.iter().map(text_of).collect()
        }
        _ => None,
    }
}

fn text_of(expression: &IdedExpr) -> Option<String> {
    let Expr::Literal(LiteralValue::String(text)) = &expression.expr else { return None };
    Some(text.inner().to_owned())
}

/// How deep brackets and unary signs are nested, at most; texts in quotes counted in.
fn depth(text: &str) -> usize {
    let (mut now, mut most, mut signs) = (0usize, 0, 0);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => now += 1,
            ')' | ']' | '}' => now = now.saturating_sub(1),
            // Each `? :` nests once more.
            '?' => now += 1,
            '!' | '-' => signs += 1,
            ' ' | '\t' | '\n' => {}
            _ => signs = 0,
        }
        most = most.max(now + signs);
    }
    most
}

struct Walk {
    variable: &'static str,
    bounds: Bounds,
    sums: usize,
    fields: BTreeSet<String>,
}

impl Walk {
    fn bounded(&mut self, expression: &IdedExpr, level: usize) -> Result<(), String> {
        if level > self.bounds.chain {
            return Err("the expression is nested too deep".into());
        }
        let level = level + 1;
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Comprehension(_) => {
                Err("loops (all, exists, exists_one, map, filter) are not possible here".into())
            }
            Expr::Ident(name) if name == self.variable => Ok(()),
            Expr::Ident(name) => {
                let shown: String = name.chars().take(40).collect();
                Err(format!("there is no `{shown}`; only `{}` can be looked at", self.variable))
            }
            Expr::Call(call) => {
                if call.func_name == operators::ADD {
                    self.sums += 1;
                    if self.sums > self.bounds.sums {
                        let most = self.bounds.sums;
                        return Err(format!("an expression may have {most} additions"));
                    }
                }
                let mut parts = call.args.iter().chain(call.target.as_deref());
                parts.try_for_each(|part| self.bounded(part, level))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.bounded(e, level)),
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == self.variable) {
                    self.fields.insert(select.field.clone());
                }
                self.bounded(&select.operand, level)
            }
            Expr::Map(map) => map.entries.iter().try_for_each(|e| self.entry(&e.expr, level)),
            Expr::Struct(made) => made.entries.iter().try_for_each(|e| self.entry(&e.expr, level)),
        }
    }

    fn entry(&mut self, entry: &EntryExpr, level: usize) -> Result<(), String> {
        match entry {
            EntryExpr::StructField(field) => self.bounded(&field.value, level),
            EntryExpr::MapEntry(entry) => {
                self.bounded(&entry.key, level)?;
                self.bounded(&entry.value, level)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(text: &str, event: &serde_json::Value) -> bool {
        Condition::parse(text, "event").expect("a condition").holds(event)
    }

    #[test]
    fn a_condition_looks_at_the_event_and_holds_or_not() {
        let event = json!({ "type": "task.completed", "position": 7,
            "payload": { "n": 41, "f": 1.5, "labels": ["gpu", "eu"], "who": { "name": "ada" } } });
        for yes in [
            "event.type == 'task.completed'",
            "event.payload.n + 1 == 42",
            "event.payload.n > 40 && event.payload.f < 2.0",
            "'gpu' in event.payload.labels",
            "event.payload.who.name.startsWith('a')",
            "has(event.payload.who) && !has(event.payload.nobody)",
            "event.position == 7",
            "size(event.payload.labels) == 2",
            "true",
        ] {
            assert!(holds(yes, &event), "{yes}");
        }
        for no in [
            "event.payload.n == '41'",
            "event.payload.nobody == 1",
            "event.payload.n / 0 == 1",
            "event.payload.n",
            "'x'",
            "false",
        ] {
            assert!(!holds(no, &event), "{no}");
        }
    }

    #[test]
    fn what_could_cost_much_or_mean_nothing_is_refused() {
        let brackets = format!("{}true{}", "(".repeat(200), ")".repeat(200));
        let signs = format!("{}event.a", "!".repeat(400));
        let choices = "true ? ".repeat(100);
        let sums = vec!["event.a"; 30].join(" + ");
        let long = format!("event.a == '{}'", "x".repeat(MAX_BYTES));
        for bad in [
            "",
            "  ",
            "event.",
            "event.a ==",
            "event.list.exists(x, x == 1)",
            "[1, 2].map(x, x + x).map(x, x + x) == []",
            "now > 1",
            "event.a == other",
            "\u{0}",
            "event.a == '\u{0}",
            &brackets,
            &signs,
            &choices,
            &sums,
            &long,
        ] {
            assert!(Condition::parse(bad, "event").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_condition_tells_what_it_looks_at_and_what_it_demands() {
        let read = |text| Condition::parse(text, "row").expect("a condition");
        let both = read("row.state == 'dead' && size(row.labels.a) > row['attempt']");
        let fields: Vec<&str> = both.fields().iter().map(String::as_str).collect();
        assert_eq!(fields, ["labels", "state"]);
        let demands = |text| read(text).demands("state");
        assert_eq!(demands("row.queue == 'q' && 'dead' == row.state"), Some(vec!["dead".into()]));
        let either = Some(vec!["dead".into(), "failed".into()]);
        assert_eq!(demands("row.state in ['dead', 'failed']"), either);
        for open in [
            "row.state == 'dead' || true",
            "!(row.state == 'dead')",
            "row.state != 'dead'",
            "row.queue == 'dead'",
            "row.state in [row.queue]",
        ] {
            assert_eq!(demands(open), None, "{open}");
        }
    }
}
