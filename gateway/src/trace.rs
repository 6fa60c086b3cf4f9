//! W3C trace context: taken from the caller when it is valid, begun here when not.

use axum::http::HeaderMap;
use uuid::Uuid;

/// A `traceparent` value: `00-<trace id>-<parent id>-<flags>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace(String);

impl Trace {
    /// The caller's trace, or `fresh` as a new one where there is none or it is invalid.
    pub fn of(headers: &HeaderMap, fresh: Uuid) -> Self {
        let mut given = headers.get_all("traceparent").iter();
        let text = given.next().and_then(|value| value.to_str().ok());
        match text {
            Some(text) if given.next().is_none() && is_valid(text) => Self(text[..55].to_owned()),
            _ => {
                let trace = fresh.simple();
                // The parent id is ours to choose; the last 8 bytes of the id are random.
                let text = trace.to_string();
                Self(format!("00-{text}-{}-01", &text[16..]))
            }
        }
    }

    /// The whole value, as it is stored on events.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 32 hexadecimal digits by which a request is found in the logs.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

/// Version 00, lower-case hexadecimal, no id all zero (W3C Trace Context, 3.2). A later
/// version may carry more behind a dash.
fn is_valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let lives = |part: &[u8]| part.iter().any(|b| *b != b'0');
    bytes.len() >= 55
        && text.is_ascii()
        && bytes[2] == b'-'
        && bytes[35] == b'-'
        && bytes[52] == b'-'
        && [&bytes[..2], &bytes[3..35], &bytes[36..52], &bytes[53..55]].into_iter().all(shape)
        && lives(&bytes[3..35])
        && lives(&bytes[36..52])
        && match &bytes[..2] {
            b"ff" => false,
            b"00" => bytes.len() == 55,
            _ => bytes.len() == 55 || bytes[55] == b'-',
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn trace(value: &str) -> Trace {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", value.parse().expect("header"));
        Trace::of(&headers, Uuid::from_u128(7))
    }

    #[test]
    fn a_valid_trace_goes_on() {
        assert_eq!(trace(GIVEN).as_str(), GIVEN);
        assert_eq!(trace(GIVEN).trace_id(), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn an_invalid_trace_is_begun_anew() {
        for bad in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let fresh = trace(bad);
            assert_eq!(fresh.trace_id(), "00000000000000000000000000000007", "{bad}");
            assert_eq!(fresh.as_str().len(), 55);
        }
    }
}
