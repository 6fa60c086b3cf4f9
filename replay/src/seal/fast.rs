//! An event's line in the order in which we write it, without a JSON parser: checking a
//! file is reading lines, and a general parser takes longer than hashing them.
//!
//! Whatever is not exactly as expected is left to the general parser, so nothing depends on
//! this but speed; and what was read wrongly would have another hash.

use std::borrow::Cow;

use domain::{StreamType, TenantId, Timestamp};
use uuid::Uuid;

use super::leaf::{Columns, micros};
use super::tree::Hash;

/// What one line has in common with the one before.
#[derive(Debug, Default)]
pub struct Known {
    tenant: Option<TenantId>,
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn expect(&mut self, text: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Up to a byte, which is passed over.
    fn until(&mut self, end: u8) -> Option<&'a [u8]> {
        let at = self.0.iter().position(|byte| *byte == end)?;
        let taken = &self.0[..at];
        self.0 = &self.0[at + 1..];
        Some(taken)
    }

    /// A JSON text without escapes, behind its opening quote.
    fn text(&mut self) -> Option<&'a str> {
        let at = self.0.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let taken = &self.0[..at];
        self.0 = self.0[at..].strip_prefix(b"\"")?;
        std::str::from_utf8(taken).ok()
    }

    fn uuid(&mut self) -> Option<Uuid> {
        let text = self.take(36)?;
        // The parser takes capitals; we write none.
        let small = text.iter().all(|byte| !byte.is_ascii_uppercase());
        Uuid::try_parse_ascii(text).ok().filter(|_| small)
    }

    fn number(&mut self) -> Option<u64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = self.take(digits)?;
        if text.len() > 1 && text[0] == b'0' {
            return None;
        }
        decimal(text)
    }
}

/// The number of at most 19 digits.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// A version as it stands in a type: no sign, no leading zero.
pub(super) fn small(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|b| b.is_ascii_digit()) && !(text.len() > 1 && text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// `2026-01-02T03:04:05.000006Z`
fn time(text: &[u8]) -> Option<Timestamp> {
    let shape = text.len() == 27
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')]
            .iter()
            .all(|(at, byte)| text[*at] == *byte);
    if !shape {
        return None;
    }
    let part = |from: usize, to: usize| decimal(&text[from..to]).map(|n| n as i64);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970 of a date (Howard Hinnant, "chrono-compatible low-level date
    // algorithms", days_from_civil), for years from 0 to 9999.
    let years = if month <= 2 { year - 1 } else { year };
    let era = years.div_euclid(400);
    let of_era = years.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    micros(seconds * 1_000_000 + part(20, 26)?)
}

fn hash(text: &[u8]) -> Option<Hash> {
    const fn table() -> [u8; 256] {
        let mut values = [0xff; 256];
        let mut at = 0;
        while at < 16 {
            values[b"0123456789abcdef"[at] as usize] = at as u8;
            at += 1;
        }
        values
    }
    const VALUES: [u8; 256] = table();
    let mut out = [0; 32];
    let mut all = 0;
    for (byte, pair) in out.iter_mut().zip(text.as_chunks::<2>().0) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | (low & 0xf);
    }
    (text.len() == 64 && all < 16).then_some(out)
}

/// An event of the log, where the line is one as we write it.
pub fn event<'a>(line: &'a [u8], known: &mut Known) -> Option<Columns<'a>> {
    let mut at = Cursor(line);
    at.expect(br#"{"specversion":"1.0","id":""#)?;
    let event_id = at.uuid()?;
    at.expect(br#"","source":"/tenants/"#)?;
    let tenant = std::str::from_utf8(at.until(b'/')?).ok()?;
    if known.tenant.as_ref().is_none_or(|known| known.as_str() != tenant) {
        known.tenant = Some(TenantId::parse(tenant)?);
    }
    let tenant = known.tenant.clone()?;
    let stream = at.text()?;
    let stream_type: StreamType = stream.parse().ok()?;
    at.expect(br#","type":"dev.taffrail."#)?;
    at.expect(stream.as_bytes())?;
    at.expect(b".")?;
    let (event_type, version) = at.text()?.rsplit_once(".v")?;
    let schema_version = small(version)?;
    at.expect(br#","subject":""#)?;
    let stream_id = at.uuid()?;
    at.expect(br#"","time":""#)?;
    let occurred_at = time(at.take(27)?)?;
    at.expect(br#"","recordedtime":""#)?;
    let recorded_at = time(at.take(27)?)?;
    at.expect(br#"","sequence":""#)?;
    let position = decimal(at.take(20)?)?;
    at.expect(br#"","epoch":"#)?;
    let epoch = at.number()?;
    at.expect(br#","streamversion":"#)?;
    let version = at.number()?;
    let mut correlation_id = None;
    if at.expect(br#","correlationid":""#).is_some() {
        correlation_id = Some(at.uuid()?);
        at.expect(b"\"")?;
    }
    let mut causation_position = None;
    if at.expect(br#","causationid":""#).is_some() {
        causation_position = Some(decimal(at.take(20)?)?);
        at.expect(b"\"")?;
    }
    at.expect(br#","commandid":""#)?;
    let command_id = at.uuid()?;
    at.expect(br#"","actor":""#)?;
    let actor = Cow::Borrowed(at.text()?);
    at.expect(br#","hash":""#)?;
    let hash = hash(at.take(64)?)?;
    at.expect(b"\"")?;
    let mut trace = None;
    if at.expect(br#","traceparent":""#).is_some() {
        trace = Some(Cow::Borrowed(at.text()?));
    }
    at.expect(br#","datacontenttype":"application/json","data":"#)?;
    let payload = Cow::Borrowed(at.0.strip_suffix(b"}")?);
    Some(Columns {
        position,
        epoch,
        tenant,
        stream_type,
        stream_id,
        version,
        event_type,
        schema_version,
        event_id,
        command_id,
        actor,
        correlation_id,
        causation_position,
        trace,
        occurred_at,
        recorded_at,
        payload,
        hash,
    })
}
