use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

fn event(payload: &str) -> Recorded {
    let at = domain::Timestamp::UNIX_EPOCH + chrono::Duration::microseconds(1_767_323_045_000_006);
    let mut event = Recorded {
        position: 7,
        epoch: 2,
        tenant: domain::TenantId::default_tenant(),
        stream_type: domain::StreamType::Task,
        stream_id: uuid::Uuid::from_u128(1),
        version: 1,
        event_type: "submitted".into(),
        schema_version: 1,
        event_id: uuid::Uuid::from_u128(0xab),
        command_id: uuid::Uuid::from_u128(3),
        actor: "somebody".into(),
        correlation_id: None,
        causation_position: None,
        trace: None,
        occurred_at: at,
        recorded_at: at,
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
        hash: [0; 32],
        decoded: OnceLock::new(),
    };
    event.hash = event.expected_hash();
    event
}

fn line(event: &Recorded) -> Vec<u8> {
    let mut out = Vec::new();
    write_event(&mut out, event);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'), "one line");
    out
}

#[test]
fn a_line_is_a_cloud_event_and_comes_back_to_the_byte_both_ways() {
    let mut plain = event(r#"{"z":1.10,"a":null}"#);
    let mut full = plain.clone();
    full.correlation_id = Some(uuid::Uuid::from_u128(9));
    full.causation_position = Some(3);
    full.trace = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    plain.actor = "J\u{fc}rgen".into();
    for event in [plain, full] {
        let line = line(&event);
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["type"], "dev.taffrail.task.submitted.v1");
        assert_eq!(json["sequence"], "00000000000000000007");
        assert_eq!(json["time"], "2026-01-02T03:04:05.000006Z");
        let quick = fast::event(&line, &mut fast::Known::default()).expect("the short way");
        assert_eq!(quick, Columns::of(&event));
        assert_eq!(slow(&line).unwrap(), Line::Event(Columns::of(&event)));
    }
}

#[test]
fn what_is_no_json_to_the_byte_goes_as_bytes() {
    let broken = ["", "{", " {}", "{}\n", "{\"a\":\n1}", "\u{0}", "{}{}"];
    for payload in broken {
        let event = event(payload);
        let line = line(&event);
        assert!(String::from_utf8_lossy(&line).contains("data_base64"), "{payload}");
        let read = read(&line, &mut fast::Known::default()).unwrap();
        assert_eq!(read, Line::Event(Columns::of(&event)), "{payload}");
    }
    let mut odd = event("{}");
    (odd.actor, odd.trace) = ("a\"b\\c\n".into(), Some("\u{1}".into()));
    odd.event_type = "odd\"name".into();
    let line = line(&odd);
    assert_eq!(fast::event(&line, &mut fast::Known::default()), None, "escapes go the long way");
    // A name with an escape cannot be borrowed, so the line is refused: it is found either way.
    odd.event_type = "submitted".into();
    let line = self::line(&odd);
    assert_eq!(slow(&line).unwrap(), Line::Event(Columns::of(&odd)));
}

#[test]
fn our_own_lines_come_back_and_unknown_forms_are_named() {
    let header = Header {
        format: FORMAT,
        epoch: 1,
        from: 3,
        to: 9,
        left: vec![Hex::of(&[1; 32])],
        rotations: vec![],
    };
    let mut out = Vec::new();
    write_header(&mut out, &header);
    write_edge(&mut out, &Edge { size: 9, right: vec![] });
    write_end(&mut out, &End { events: 7 });
    let lines: Vec<_> = out
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| read(line, &mut fast::Known::default()).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            Line::Begun(Box::new(header.clone())),
            Line::Edge(Edge { size: 9, right: vec![] }),
            Line::Ended(End { events: 7 })
        ]
    );
    let mut later = Vec::new();
    write_header(&mut later, &Header { format: 2, ..header });
    let why = read(&later, &mut fast::Known::default()).unwrap_err();
    assert!(why.contains("format 2"), "{why}");
    let cut = line(&event("{}"));
    let why = read(&cut[..cut.len() - 5], &mut fast::Known::default()).unwrap_err();
    assert!(why.contains("cut off"), "{why}");
    for wrong in ["", "[]", "{}", "x", r#"{"type":"dev.taffrail.task.submitted.v1"}"#] {
        assert!(read(wrong.as_bytes(), &mut fast::Known::default()).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn both_ways_of_reading_agree_on_every_time(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
        let mut event = event("{}");
        event.occurred_at = super::super::leaf::micros(micros).unwrap();
        let line = line(&event);
        let quick = fast::event(&line, &mut fast::Known::default());
        prop_assert_eq!(quick, Some(Columns::of(&event)));
        prop_assert_eq!(slow(&line).unwrap(), Line::Event(Columns::of(&event)));
    }

    #[test]
    fn a_flipped_bit_is_refused_or_reads_as_another_event(at: prop::sample::Index, bit in 0u8..8) {
        let event = event(r#"{"title":"Say hello","n":[1,2]}"#);
        let mut line = line(&event);
        let at = at.index(line.len());
        line[at] ^= 1 << bit;
        if let Ok(Line::Event(read)) = read(&line, &mut fast::Known::default()) {
            let same = read == Columns::of(&event);
            let hashes = read.expected_hash() == read.hash;
            prop_assert!(!same, "nothing of a line is ignored");
            prop_assert!(!hashes || read.leaf() != Columns::of(&event).leaf());
        }
    }
}
