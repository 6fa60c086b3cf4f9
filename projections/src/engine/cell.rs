//! Typed values on their way into the index columns.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::KeyBounds;

/// The type of an index column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// `text`
    Text,
    /// `text[]`
    Words,
    /// `uuid`
    Uuid,
    /// `bigint`; instants as microseconds since 1970
    Int,
    /// `boolean`
    Bool,
}

/// An index column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name in the table.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnKind,
}

impl Column {
    /// A column.
    pub const fn new(name: &'static str, kind: ColumnKind) -> Self {
        Self { name, kind }
    }
}

/// The value of an index column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// For [`ColumnKind::Text`].
    Text(Option<String>),
    /// For [`ColumnKind::Words`].
    Words(Vec<String>),
    /// For [`ColumnKind::Uuid`].
    Uuid(Option<Uuid>),
    /// For [`ColumnKind::Int`].
    Int(Option<i64>),
    /// For [`ColumnKind::Bool`].
    Bool(bool),
}

impl Cell {
    /// A text that is there.
    pub fn text(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }

    /// A position or count.
    pub fn position(number: u64) -> Self {
        Self::Int(Some(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    /// An instant, in microseconds since 1970.
    pub fn instant(at: Option<domain::Timestamp>) -> Self {
        Self::Int(at.map(|at| at.timestamp_micros()))
    }
}

/// What names a row within its tenant.
pub trait Key: KeyBounds {
    /// The type of the `key` column.
    const KIND: ColumnKind;

    /// As a value of that column.
    fn cell(&self) -> Cell;

    /// Reads one of that column.
    ///
    /// # Errors
    /// When the column has another type.
    fn read(row: &Row, column: usize) -> Result<Self, tokio_postgres::Error>;

    /// Reads one from the text that [`Key::text`] makes.
    fn parse(text: &str) -> Option<Self>;

    /// As the database writes that value as text.
    fn text(&self) -> String {
        self.cell().written()
    }
}

impl Key for Uuid {
    const KIND: ColumnKind = ColumnKind::Uuid;

    fn cell(&self) -> Cell {
        Cell::Uuid(Some(*self))
    }

    fn parse(text: &str) -> Option<Self> {
        Self::try_parse(text).ok()
    }

    fn read(row: &Row, column: usize) -> Result<Self, tokio_postgres::Error> {
        row.try_get(column)
    }
}

impl Key for String {
    const KIND: ColumnKind = ColumnKind::Text;

    fn cell(&self) -> Cell {
        Cell::text(self)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn read(row: &Row, column: usize) -> Result<Self, tokio_postgres::Error> {
        row.try_get(column)
    }
}

impl Key for i64 {
    const KIND: ColumnKind = ColumnKind::Int;

    fn cell(&self) -> Cell {
        Cell::Int(Some(*self))
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn read(row: &Row, column: usize) -> Result<Self, tokio_postgres::Error> {
        row.try_get(column)
    }
}

impl ColumnKind {
    /// The element type that `unnest` is given for it.
    pub(crate) const fn unnested(self) -> &'static str {
        match self {
            // Arrays of arrays must be rectangular, so words travel as array literals.
            Self::Text | Self::Words => "text",
            Self::Uuid => "uuid",
            Self::Int => "bigint",
            Self::Bool => "boolean",
        }
    }

    /// The cast from the unnested element to the column.
    pub(super) const fn cast(self) -> &'static str {
        match self {
            Self::Words => "::text[]",
            Self::Text | Self::Uuid | Self::Int | Self::Bool => "",
        }
    }

    /// One array out of the cells of a column.
    pub(crate) fn array(self, cells: impl Iterator<Item = Cell>) -> Box<dyn ToSql + Sync + Send> {
        match self {
            Self::Text | Self::Words => Box::new(cells.map(Cell::into_text).collect::<Vec<_>>()),
            Self::Uuid => Box::new(cells.map(Cell::into_uuid).collect::<Vec<_>>()),
            Self::Int => Box::new(cells.map(Cell::into_int).collect::<Vec<_>>()),
            Self::Bool => Box::new(cells.map(Cell::into_bool).collect::<Vec<_>>()),
        }
    }
}

/// PostgreSQL's text cannot hold NUL; an imported event might.
pub(super) fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

impl Cell {
    /// As the database writes the value as text; nothing for null.
    pub(super) fn written(self) -> String {
        match self {
            Self::Text(text) => text.map(storable).unwrap_or_default(),
            Self::Uuid(id) => id.map(|id| id.to_string()).unwrap_or_default(),
            Self::Int(number) => number.map(|number| number.to_string()).unwrap_or_default(),
            Self::Bool(yes) => yes.to_string(),
            Self::Words(words) => array_literal(&words),
        }
    }

    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => text.map(storable),
            Self::Words(words) => Some(array_literal(&words)),
            Self::Uuid(_) | Self::Int(_) | Self::Bool(_) => None,
        }
    }

    fn into_uuid(self) -> Option<Uuid> {
        match self {
            Self::Uuid(id) => id,
            Self::Text(_) | Self::Words(_) | Self::Int(_) | Self::Bool(_) => None,
        }
    }

    fn into_int(self) -> Option<i64> {
        match self {
            Self::Int(number) => number,
            Self::Text(_) | Self::Words(_) | Self::Uuid(_) | Self::Bool(_) => None,
        }
    }

    fn into_bool(self) -> Option<bool> {
        match self {
            Self::Bool(yes) => Some(yes),
            Self::Text(_) | Self::Words(_) | Self::Uuid(_) | Self::Int(_) => None,
        }
    }
}

/// The text form of a `text[]`.
fn array_literal(words: &[String]) -> String {
    let mut out = String::from("{");
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push('"');
        for c in word.chars() {
            match c {
                '"' | '\\' => {
                    out.push('\\');
                    out.push(c);
                }
                '\0' => out.push('\u{fffd}'),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_so_that_no_label_can_break_out_of_the_array() {
        let words = ["a,b".to_owned(), "say \"hi\"".into(), "back\\slash".into(), "NULL".into()];
        assert_eq!(array_literal(&words), r#"{"a,b","say \"hi\"","back\\slash","NULL"}"#);
        assert_eq!(array_literal(&[]), "{}");
    }

    #[test]
    fn a_nul_does_not_reach_the_database() {
        assert_eq!(Cell::text("a\0b").into_text(), Some("a\u{fffd}b".into()));
    }
}
