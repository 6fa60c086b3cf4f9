//! Where a page ended: opaque to clients, a place in a fixed order to us.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::QueryError;

/// Which list a cursor belongs to; one of another list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ListKind {
    Tasks = 1,
    Children = 2,
    DeadLetters = 3,
    Agents = 4,
    Operations = 5,
    Audit = 6,
    Schedules = 7,
    Nodes = 8,
    Profiles = 9,
    /// The audit from its beginning on.
    AuditOldest = 20,
}

/// A place in a list: behind the entry of this position (and id, where positions tie).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    list: u8,
    /// The entry's place in the list's order.
    pub position: u64,
    /// Tells entries of the same position apart.
    pub id: Uuid,
}

impl Cursor {
    pub(crate) fn at(list: ListKind, position: u64) -> Self {
        Self { list: list as u8, position, id: Uuid::nil() }
    }

    pub(crate) fn between(list: ListKind, position: u64, id: Uuid) -> Self {
        Self { list: list as u8, position, id }
    }

    /// Reads a cursor of a list.
    pub(crate) fn read(list: ListKind, text: Option<&str>) -> Result<Option<Self>, QueryError> {
        let Some(text) = text else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| QueryError::Cursor)?;
        let cursor = match (bytes.first(), bytes.len()) {
            (Some(kind), 9 | 25) if *kind == list as u8 => {
                let mut position = [0; 8];
                position.copy_from_slice(&bytes[1..9]);
                let id = Uuid::from_slice(&bytes[9..]).unwrap_or_default();
                Self { list: *kind, position: u64::from_be_bytes(position), id }
            }
            _ => return Err(QueryError::Cursor),
        };
        // Beyond the database's range there was never an entry: somebody made it up.
        if i64::try_from(cursor.position).is_err() || cursor.to_string() != text {
            return Err(QueryError::Cursor);
        }
        Ok(Some(cursor))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![self.list];
        bytes.extend(self.position.to_be_bytes());
        if !self.id.is_nil() {
            bytes.extend(self.id.as_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_as_it_was_given_out(position in 0..i64::MAX as u64, id: u128) {
            let given = Cursor::between(ListKind::Audit, position, Uuid::from_u128(id));
            let read = Cursor::read(ListKind::Audit, Some(&given.to_string())).unwrap();
            prop_assert_eq!(read, Some(given));
        }

        #[test]
        fn a_made_up_cursor_is_an_error_and_no_panic(text in ".{0,60}") {
            let _ = Cursor::read(ListKind::Tasks, Some(&text));
        }
    }

    #[test]
    fn a_cursor_of_another_list_or_beyond_the_range_is_refused() {
        let other = Cursor::at(ListKind::Agents, 7).to_string();
        assert!(matches!(Cursor::read(ListKind::Tasks, Some(&other)), Err(QueryError::Cursor)));
        let beyond = Cursor::at(ListKind::Tasks, u64::MAX).to_string();
        assert!(matches!(Cursor::read(ListKind::Tasks, Some(&beyond)), Err(QueryError::Cursor)));
        for text in ["", "AQ", "AQAAAAAAAAAA=", "!!", "AQAAAAAAAAAAAA"] {
            assert!(Cursor::read(ListKind::Tasks, Some(text)).is_err(), "{text}");
        }
        assert_eq!(Cursor::read(ListKind::Tasks, None).unwrap(), None);
    }
}
