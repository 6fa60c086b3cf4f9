//! W3C trace context: taken from the caller when it is valid, begun here when not; with the
//! caller's own request id, where it names one that can be a trace id.

use axum::http::HeaderMap;
use uuid::Uuid;

/// A `traceparent` value: `00-<trace id>-<parent id>-<flags>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace([u8; LENGTH]);

/// Bytes of a value: the later versions' additions are not carried on.
const LENGTH: usize = 55;

impl Trace {
    /// The caller's trace, or `fresh` as a new one where there is none or it is invalid.
    pub fn of(headers: &HeaderMap, fresh: impl FnOnce() -> Uuid) -> Self {
        let mut given = headers.get_all("traceparent").iter();
        let text = given.next().and_then(|value| value.to_str().ok());
        let given = text.filter(|text| given.next().is_none() && is_valid(text));
        let known = given.and_then(|text| text.as_bytes().get(..LENGTH)?.try_into().ok());
        known.map_or_else(|| Self::begun(request_id(headers).unwrap_or_else(fresh)), Self)
    }

    /// A value as it is written; `None` where it is invalid.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = Some(text).filter(|text| is_valid(text))?;
        Some(Self(text.as_bytes().get(..LENGTH)?.try_into().ok()?))
    }

    fn begun(id: Uuid) -> Self {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-01";
        id.simple().encode_lower(&mut value[3..35]);
        // The parent id is ours to choose; the last 8 bytes of the id are random.
        value.copy_within(19..35, 36);
        Self(value)
    }

    /// The whole value, as it is stored on events.
    pub fn as_str(&self) -> &str {
        // It was made of ASCII; both ways to one have seen to it.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The 32 hexadecimal digits by which a request is found in the logs.
    pub fn trace_id(&self) -> &str {
        self.as_str().get(3..35).unwrap_or_default()
    }
}

/// `X-Request-Id` as proxies set it: 32 hexadecimal digits (nginx) or a UUID (Envoy). Another
/// one is not taken: it could not be stored as what it is.
fn request_id(headers: &HeaderMap) -> Option<Uuid> {
    let mut given = headers.get_all("x-request-id").iter();
    let text = given.next()?.to_str().ok().filter(|text| matches!(text.len(), 32 | 36))?;
    let only = given.next().is_none();
    // No id of a trace or of a parent may be all zero.
    let id = Uuid::try_parse(text).ok().filter(|id| only && id.as_u64_pair().1 != 0)?;
    Some(id)
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
        Trace::of(&headers, || Uuid::from_u128(7))
    }

    #[test]
    fn a_valid_trace_goes_on() {
        assert_eq!(trace(GIVEN).as_str(), GIVEN);
        assert_eq!(trace(GIVEN).trace_id(), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn a_request_id_names_the_trace_where_nothing_else_does() {
        let of = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().expect("header"));
            }
            Trace::of(&headers, || Uuid::from_u128(7)).trace_id().to_owned()
        };
        let (hex, uuid) =
            ("0af7651916cd43dd8448eb211c80319c", "0af76519-16cd-43dd-8448-eb211c80319c");
        assert_eq!(of(&[("x-request-id", hex)]), hex);
        assert_eq!(of(&[("x-request-id", uuid)]), hex);
        let other = "00-11111111111111111111111111111111-b7ad6b7169203331-01";
        assert_eq!(of(&[("x-request-id", hex), ("traceparent", other)]), "1".repeat(32));
        let begun = "00000000000000000000000000000007";
        for bad in
            ["", "7", "0af7651916cd43dd8448eb211c80319", "0af76519-16cd-43dd-0000-000000000000"]
        {
            assert_eq!(of(&[("x-request-id", bad)]), begun, "{bad}");
        }
        assert_eq!(of(&[("x-request-id", hex), ("x-request-id", uuid)]), begun);
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
