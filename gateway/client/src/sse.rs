//! Server-sent events out of bytes (WHATWG HTML, "Server-sent events").

/// The largest frame that is kept: well above the largest event (256 KiB of payload).
const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// One dispatched event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The last `id` seen on the stream, this frame's or an earlier one's.
    pub id: Option<String>,
    /// `message` when the stream gives no name.
    pub event: String,
    /// The data lines, joined.
    pub data: String,
}

/// The stream sends a frame without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooLong(pub usize);

/// Takes bytes as they come and gives the frames that are complete.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    id: Option<String>,
    event: String,
    data: String,
    has_data: bool,
    retry_ms: Option<u64>,
}

impl Parser {
    /// The server's wish for the pause before a reconnect.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Takes the next bytes; frames may begin and end anywhere in them.
    ///
    /// # Errors
    /// When one frame exceeds what is kept.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, FrameTooLong> {
        let mut frames = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    frames.extend(self.end_of_line());
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                    if self.line.len() + self.data.len() > MAX_FRAME_BYTES {
                        return Err(FrameTooLong(MAX_FRAME_BYTES));
                    }
                }
            }
        }
        Ok(frames)
    }

    fn end_of_line(&mut self) -> Option<Frame> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let mut line = line.as_ref();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry_ms = value.parse().ok().or(self.retry_ms),
            // A comment has an empty field name; what is unknown is passed over.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Frame> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let event = if event.is_empty() { "message".into() } else { event };
        Some(Frame { id: self.id.clone(), event, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(text: &str) -> Vec<Frame> {
        Parser::default().push(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_frame_has_id_name_and_data() {
        let got =
            frames("retry: 500\n\nid: 7\nevent: dev.taffrail.task.submitted.v1\ndata: {}\n\n");
        let event = "dev.taffrail.task.submitted.v1".into();
        assert_eq!(got, [Frame { id: Some("7".into()), event, data: "{}".into() }]);
    }

    #[test]
    fn comments_and_unfinished_frames_give_nothing() {
        assert_eq!(frames(": keep-alive\n\n: again\n\ndata: half\n"), []);
        assert_eq!(frames("event: reset\n\n"), [], "no data, no event");
    }

    #[test]
    fn any_cut_and_any_line_end_give_the_same_frames() {
        let text = "id: 1\ndata: a\ndata: ü\n\nid: 2\nevent: x\ndata\n\ndata: c\n\n";
        let whole = frames(text);
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[0].data, "a\nü");
        assert_eq!((whole[1].data.as_str(), whole[1].event.as_str()), ("", "x"));
        assert_eq!(whole[2].id.as_deref(), Some("2"), "an id holds on until the next");
        for text in [text.to_owned(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
            for size in 1..text.len() {
                let mut parser = Parser::default();
                let cut: Vec<Frame> =
                    text.as_bytes().chunks(size).flat_map(|c| parser.push(c).unwrap()).collect();
                assert_eq!(cut, whole, "chunks of {size}");
            }
        }
    }

    #[test]
    fn the_servers_pause_is_remembered_and_nonsense_is_not() {
        let mut parser = Parser::default();
        parser.push(b"\xef\xbb\xbfretry: 1500\nretry: soon\nid: a\0b\ndata: x\n\n").unwrap();
        assert_eq!(parser.retry_ms(), Some(1500));
        assert_eq!(parser.id, None);
    }

    #[test]
    fn a_frame_without_end_is_given_up() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let outcome: Result<Vec<_>, _> = (0..6).map(|_| parser.push(&piece)).collect();
        assert_eq!(outcome, Err(FrameTooLong(MAX_FRAME_BYTES)));
    }
}
