//! Header values of the CloudEvents NATS binding: ASCII, the rest percent-encoded.

use std::borrow::Cow;
use std::fmt::Write;

fn plain(byte: u8) -> bool {
    (0x21..=0x7e).contains(&byte) && byte != b'"' && byte != b'%'
}

/// Encodes space, `"`, `%` and everything outside U+0021 to U+007E, in upper-case hex.
pub fn encode(text: &str) -> Cow<'_, str> {
    if text.bytes().all(plain) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out.into()
}

/// Decodes what [`encode`] made, lower-case hex too; `None` when the result is no UTF-8 or a
/// `%` is not followed by two hex digits.
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains('%') {
        return Some(value.into());
    }
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_is_encoded() {
        let table = [
            ("plain:/{}~!", "plain:/{}~!"),
            ("a b", "a%20b"),
            ("100%", "100%25"),
            ("say \"x\"", "say%20%22x%22"),
            ("Euro \u{20ac} \u{1F600}", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("line\r\nfeed", "line%0D%0Afeed"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(encode(text), expected);
            assert_eq!(decode(expected).as_deref(), Some(text));
        }
    }

    #[test]
    fn lower_case_is_read_and_nonsense_is_refused() {
        assert_eq!(decode("%e2%82%ac").as_deref(), Some("\u{20ac}"));
        assert_eq!(decode("%e2%82"), None);
        assert_eq!(decode("%zz"), None);
        assert_eq!(decode("%2"), None);
    }
}
