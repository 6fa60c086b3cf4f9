//! Places in the log as clients keep them: `<position>`, or `<position>.<epoch>` once a
//! restore has made epoch 2.

use axum::http::HeaderMap;
use store::{Log, StoreError};

use crate::error::ApiError;

/// A place that a client wants to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) position: u64,
    /// Absent: the current one.
    pub(crate) epoch: Option<u64>,
}

/// Where a stream starts, and whether the client must forget what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) after: u64,
    pub(crate) epoch: u64,
    pub(crate) reset: bool,
}

/// The text of a place.
pub(crate) fn write(position: u64, epoch: u64) -> String {
    if epoch < 2 { position.to_string() } else { format!("{position}.{epoch}") }
}

/// Reads a place.
pub(crate) fn read(text: &str) -> Option<Cursor> {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // PostgreSQL's bigint bounds every position and epoch.
        let value = text.parse().ok().filter(|_| digits)?;
        i64::try_from(value).is_ok().then_some(value)
    };
    match text.split_once('.') {
        Some((position, epoch)) => {
            Some(Cursor { position: number(position)?, epoch: Some(number(epoch)?) })
        }
        None => Some(Cursor { position: number(text)?, epoch: None }),
    }
}

/// `Last-Event-ID`, or else `?after=`; `None` when the client wants what comes from now on.
pub(crate) fn of_request(
    headers: &HeaderMap,
    after: Option<&str>,
) -> Result<Option<Cursor>, ApiError> {
    let bad = |place: &str| ApiError::parameter(place, "a position, such as 42, is expected");
    if let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) {
        let cursor = value.to_str().ok().and_then(read);
        return cursor.map(Some).ok_or_else(|| bad("/header/last-event-id"));
    }
    match after {
        Some(text) => read(text).map(Some).ok_or_else(|| bad("/query/after")),
        None => Ok(None),
    }
}

/// Finds where to go on: behind a place of the current epoch, at the last place that
/// both epochs share behind one of an older epoch, at the head behind one beyond it.
pub(crate) async fn start(log: &Log, wanted: Option<Cursor>) -> Result<Start, StoreError> {
    let head = log.head().await?;
    let at = |after, reset| Start { after, epoch: head.epoch, reset };
    let Some(Cursor { position, epoch }) = wanted else { return Ok(at(head.position, false)) };
    let epoch = epoch.unwrap_or(head.epoch);
    if epoch < head.epoch {
        let shared = last_of(log, epoch, head.position).await?;
        return Ok(at(position.min(shared), true));
    }
    let reset = position > head.position || epoch > head.epoch;
    Ok(at(position.min(head.position), reset))
}

/// The last position whose event is of an epoch or an older one; epochs only grow along
/// positions, so some twenty single reads find it.
async fn last_of(log: &Log, epoch: u64, head: u64) -> Result<u64, StoreError> {
    let (mut low, mut high) = (0, head);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let found = log.read(middle - 1, 1).await?;
        match found.first() {
            Some(event) if event.epoch <= epoch => low = middle,
            _ => high = middle - 1,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        assert_eq!(write(7, 1), "7");
        assert_eq!(write(7, 2), "7.2");
        assert_eq!(read("7"), Some(Cursor { position: 7, epoch: None }));
        assert_eq!(read("7.2"), Some(Cursor { position: 7, epoch: Some(2) }));
        for bad in ["", "-1", "+1", "1.", ".1", "1.2.3", "1e3", "18446744073709551616", " 1", "x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_header_wins_over_the_parameter() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_request(&headers, None).expect("valid"), None);
        let given = |position| Some(Cursor { position, epoch: None });
        assert_eq!(of_request(&headers, Some("3")).expect("valid"), given(3));
        headers.insert("last-event-id", "9".parse().expect("header"));
        assert_eq!(of_request(&headers, Some("3")).expect("valid"), given(9));
        headers.insert("last-event-id", "-9".parse().expect("header"));
        assert!(of_request(&headers, Some("3")).is_err());
    }
}
