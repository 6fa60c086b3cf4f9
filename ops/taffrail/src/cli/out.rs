//! Where answers go: stdout, in the form that was asked for.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::fail::Failure;
use super::table::{self, Cell, Paint};

/// The form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// The API's JSON as one document.
    Json,
    /// One JSON object per line.
    Jsonl,
    /// The API's JSON as YAML.
    Yaml,
}

/// Writes answers; knows whether somebody looks at them.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// The form asked for.
    pub output: Output,
    /// Whether stdout is to have colours.
    pub colour: bool,
    /// No more than asked for: no progress, no hints.
    pub quiet: bool,
    width: Option<u16>,
}

impl Printer {
    /// A printer for this process's stdout.
    pub fn new(output: Output, no_color: bool, quiet: bool) -> Self {
        // https://no-color.org: present and not empty, whatever the value.
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let colour = wanted && io::stdout().is_terminal();
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let width = size.map(|size| size.ws_col).filter(|width| *width > 0).or(columns);
        Self { output, colour, quiet, width }
    }

    /// Whether the output is a table for people.
    pub fn is_human(&self) -> bool {
        self.output == Output::Table
    }

    /// The columns of the terminal, where there is one or the environment says.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// Writes text as it is.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::writing)
    }

    /// A document in one of the forms for programs; `Table` reads as pretty JSON too.
    pub fn document(&self, value: &Value) -> Result<(), Failure> {
        let text = document(self.output, value).map_err(Failure::Usage)?;
        self.text(&text)
    }

    /// One thing: a document, or what people are to see of it.
    pub fn show(&self, value: &Value, human: impl FnOnce(&Self) -> String) -> Result<(), Failure> {
        if self.is_human() { self.text(&human(self)) } else { self.document(value) }
    }

    /// A page of a list. `jsonl` gives the items alone.
    pub fn list(
        &self,
        page: &Value,
        headers: &[&str],
        row: impl Fn(&Value) -> Vec<Cell>,
    ) -> Result<(), Failure> {
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        match self.output {
            Output::Table if items.is_empty() => self.hint("nothing found"),
            Output::Table => {
                self.text(&table::render(
                    headers,
                    items.iter().map(row).collect(),
                    self.width,
                    self.colour,
                ))?;
                if let Some(next) = page["next"].as_str() {
                    self.hint(&format!("there is more: --cursor {next}"));
                }
            }
            Output::Jsonl => {
                for item in items {
                    self.document(item)?;
                }
            }
            Output::Json | Output::Yaml => self.document(page)?,
        }
        Ok(())
    }

    /// Rows of plain text under headers.
    pub fn table(&self, headers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
        let rows = rows.map(|row| row.into_iter().map(Cell::from).collect()).collect();
        table::render(headers, rows, self.width, self.colour)
    }

    /// `name: value` lines.
    pub fn fields(&self, rows: &[(&str, Cell)]) -> String {
        table::fields(rows, self.colour)
    }

    /// A text in a colour.
    pub fn paint(&self, text: &str, paint: Paint) -> String {
        table::painted(text, paint, self.colour)
    }

    /// A word on stderr for people, not part of the answer.
    pub fn hint(&self, text: &str) {
        if self.is_human() && !self.quiet {
            let colour = self.colour && io::stderr().is_terminal();
            let _ = writeln!(io::stderr(), "{}", table::painted(text, Paint::Dim, colour));
        }
    }
}

fn document(output: Output, value: &Value) -> Result<String, String> {
    match output {
        Output::Jsonl => Ok(format!("{value}\n")),
        Output::Table | Output::Json => {
            serde_json::to_string_pretty(value).map(|t| t + "\n").map_err(|e| e.to_string())
        }
        Output::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|e| e.to_string())?;
            Ok(if text.ends_with('\n') { text } else { text + "\n" })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_keeps_its_values_in_every_form() {
        let value = json!({
            "id": "a: b", "n": 9_007_199_254_740_993_u64, "no": "no", "list": [1, null, "x\ny"]
        });
        let line = document(Output::Jsonl, &value).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        let pretty = document(Output::Json, &value).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&pretty).unwrap(), value);
        let yaml = document(Output::Yaml, &value).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), value, "{yaml}");
    }
}
