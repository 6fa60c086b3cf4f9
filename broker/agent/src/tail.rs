//! The end of an output, whatever its length.

/// Keeps the last bytes of a stream, at most twice `cap` of them at a time.
#[derive(Debug)]
pub(crate) struct Tail {
    cap: usize,
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    pub(crate) fn new(cap: usize) -> Self {
        Self { cap, bytes: Vec::new(), cut: false }
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        if bytes.len() > self.cap {
            bytes = &bytes[bytes.len() - self.cap..];
            self.bytes.clear();
            self.cut = true;
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * self.cap {
            self.trim();
        }
    }

    fn trim(&mut self) {
        if let Some(excess) = self.bytes.len().checked_sub(self.cap).filter(|n| *n > 0) {
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// The last `most` bytes as text that JSON and PostgreSQL can hold.
    pub(crate) fn text(&self, most: usize) -> String {
        let from = self.bytes.len().saturating_sub(most.min(self.cap));
        // Not in the middle of a character.
        let from = (from..self.bytes.len()).find(|i| self.bytes[*i] & 0xC0 != 0x80);
        let end = from.map_or(&[][..], |from| &self.bytes[from..]);
        String::from_utf8_lossy(end).replace('\0', "\u{fffd}")
    }

    /// Whether there were more bytes than that.
    pub(crate) fn exceeds(&self, most: usize) -> bool {
        self.cut || self.bytes.len() > most
    }

    /// The last line that is not blank, and whether its beginning is still there.
    pub(crate) fn last_line(&self) -> Option<(&[u8], bool)> {
        let end = self.bytes.trim_ascii_end();
        if end.is_empty() {
            return None;
        }
        let newline = end.iter().rposition(|byte| *byte == b'\n');
        let line = newline.map_or(end, |at| &end[at + 1..]);
        Some((line.trim_ascii(), newline.is_some() || !self.cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::new(8);
        for n in 0..1_000u32 {
            tail.push(format!("{n}\n").as_bytes());
            assert!(tail.bytes.len() <= 16);
        }
        assert_eq!(tail.text(100), "998\n999\n");
        assert_eq!(tail.last_line(), Some((&b"999"[..], true)));
        tail.push(&[b'x'; 100]);
        assert_eq!(tail.last_line(), Some((&b"xxxxxxxx"[..], false)), "its beginning is gone");
    }

    #[test]
    fn blank_lines_at_the_end_do_not_count() {
        let mut tail = Tail::new(64);
        assert_eq!(tail.last_line(), None);
        tail.push(b" \n\r\n");
        assert_eq!(tail.last_line(), None);
        tail.push(b"log\n {\"a\":1} \r\n\n  \n");
        assert_eq!(tail.last_line(), Some((&b"{\"a\":1}"[..], true)));
    }

    #[test]
    fn text_is_cut_between_characters_and_holds_no_nul() {
        let mut tail = Tail::new(64);
        tail.push("aüb\0".as_bytes());
        assert_eq!(tail.text(3), "b\u{fffd}");
        assert_eq!(tail.text(4), "üb\u{fffd}");
    }
}
