//! Whoever may change everything in the database, but has neither the key nor what was
//! published outside: every change below the last published seal is found.

use domain::{Recorded, TenantId};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::check::{Checker, Fault, Report};
use super::leaf::Columns;
use super::line::{End, FORMAT, Header, Line};
use super::record::Seal;
use super::testing::{event, key, sealed};

const EVENTS: u64 = 40;
const EACH: usize = 8;

/// What stands in the database.
#[derive(Clone, PartialEq)]
struct Log {
    rows: Vec<Recorded2>,
    seals: Vec<Seal>,
}

/// A row whose type may hold nonsense: [`Recorded`] has no equality.
#[derive(Clone)]
struct Recorded2(Recorded);

impl PartialEq for Recorded2 {
    fn eq(&self, other: &Self) -> bool {
        Columns::of(&self.0) == Columns::of(&other.0)
    }
}

fn log(salt: u64) -> Log {
    let events: Vec<Recorded> = (1..=EVENTS).map(|position| event(position, salt)).collect();
    let seals = sealed(&events, EACH, &key());
    Log { rows: events.into_iter().map(Recorded2).collect(), seals }
}

/// As `verify --live` does it: rows by position, the database's seals, those outside.
fn check(log: &Log, outside: &[Seal]) -> Result<Report, Fault> {
    let mut checker = Checker::new(&[key().verifying_key().to_bytes()], outside)?;
    let mut rows: Vec<&Recorded> = log.rows.iter().map(|row| &row.0).collect();
    rows.sort_by_key(|row| row.position);
    let to = rows.len() as u64;
    let header = Header { format: FORMAT, epoch: 1, from: 1, to, left: vec![], rotations: vec![] };
    let mut number = 1;
    checker.line(number, Line::Begun(Box::new(header)))?;
    let mut seals = log.seals.iter().peekable();
    for row in rows {
        number += 1;
        checker.line(number, Line::Event(Columns::of(row)))?;
        while let Some(seal) = seals.next_if(|seal| seal.size <= row.position) {
            number += 1;
            checker.line(number, Line::Sealed(Box::new(seal.clone())))?;
        }
    }
    checker.line(number + 1, Line::Ended(End { events: to }))?;
    checker.finish(true)
}

/// Changes one column of a row, as a superuser may.
fn change(row: &mut Recorded, random: &mut StdRng) {
    let flip = |bytes: &mut [u8], random: &mut StdRng| {
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
    };
    let id = |id: &mut Uuid, random: &mut StdRng| {
        let mut bytes = *id.as_bytes();
        flip(&mut bytes, random);
        *id = Uuid::from_bytes(bytes);
    };
    let step = |random: &mut StdRng| {
        let step = random.random_range(1..1_000_000);
        chrono::Duration::microseconds(if random.random() { step } else { -step })
    };
    match random.random_range(0..17) {
        0 => row.epoch ^= 1 << random.random_range(0..8),
        1 => row.tenant = TenantId::parse("other").unwrap(),
        2 => row.stream_type = domain::StreamType::Agent,
        3 => id(&mut row.stream_id, random),
        4 => row.version ^= 1 << random.random_range(0..16),
        5 => row.event_type = "completed".into(),
        6 => row.schema_version ^= 1 << random.random_range(0..8),
        7 => id(&mut row.event_id, random),
        8 => id(&mut row.command_id, random),
        9 => row.actor = format!("{}x", row.actor).into(),
        10 => match &mut row.correlation_id {
            Some(known) => id(known, random),
            none @ None => *none = Some(Uuid::nil()),
        },
        11 => row.causation_position = Some(row.causation_position.map_or(0, |at| at + 1)),
        12 => row.trace = if row.trace.is_some() { None } else { Some("".into()) },
        13 => row.occurred_at += step(random),
        14 => row.recorded_at += step(random),
        15 => {
            let mut payload = row.payload.to_vec();
            flip(&mut payload, random);
            row.payload = payload.into();
        }
        _ => flip(&mut row.hash, random),
    }
}

fn rehash(row: &mut Recorded) {
    row.hash = row.expected_hash();
}

/// Seals over what stands now: by the sealer's key where nobody can have it, with the old
/// signatures; or by one of the attacker's own.
fn reseal(log: &mut Log, random: &mut StdRng) {
    let events: Vec<Recorded> = log.rows.iter().map(|row| row.0.clone()).collect();
    let own = SigningKey::from_bytes(&random.random());
    let forged = sealed(&events, EACH, &own);
    if random.random() {
        log.seals = forged;
        return;
    }
    let old = std::mem::take(&mut log.seals);
    let named =
        |(seal, old): (Seal, &Seal)| Seal { key: old.key, signature: old.signature, ..seal };
    log.seals = forged.into_iter().zip(&old).map(named).collect();
}

/// One manipulation, perhaps with everything rewritten to fit; its name.
fn tamper(log: &mut Log, random: &mut StdRng) -> &'static str {
    let some = |log: &Log, random: &mut StdRng| random.random_range(0..log.rows.len());
    let name = match random.random_range(0..8) {
        0 | 1 => {
            let at = some(log, random);
            change(&mut log.rows[at].0, random);
            "a changed column"
        }
        2 => {
            let at = some(log, random);
            log.rows.remove(at);
            "a deleted event"
        }
        3 => {
            let (at, salt) = (some(log, random), random.random_range(1..1_000));
            let position = log.rows[at].0.position;
            log.rows.insert(at, Recorded2(event(position, salt)));
            "an inserted event"
        }
        4 => {
            let all: Vec<usize> = (0..log.rows.len()).collect();
            let two: Vec<usize> = all.choose_multiple(random, 2).copied().collect();
            log.rows.swap(two[0], two[1]);
            let (a, b) = (log.rows[two[0]].0.position, log.rows[two[1]].0.position);
            (log.rows[two[0]].0.position, log.rows[two[1]].0.position) = (b, a);
            "reordered events"
        }
        5 => {
            let mut all: Vec<usize> = (0..log.rows.len()).collect();
            all.shuffle(random);
            let (a, b) = (log.rows[all[0]].0.payload.clone(), log.rows[all[1]].0.payload.clone());
            (log.rows[all[0]].0.payload, log.rows[all[1]].0.payload) = (b, a);
            "swapped payloads"
        }
        6 => {
            let at = some(log, random);
            log.rows.truncate(at);
            "a cut tail"
        }
        _ => {
            let at = random.random_range(0..log.seals.len());
            match random.random_range(0..4) {
                0 => log.seals[at].root[0] ^= 1,
                1 => log.seals[at].size += 1,
                2 => {
                    log.seals.remove(at);
                }
                _ => log.seals.truncate(at),
            }
            "changed seals"
        }
    };
    // Positions closed up, hashes and seals made to fit: as far as one gets without the key.
    if random.random() {
        for (position, row) in (1..).zip(&mut log.rows) {
            row.0.position = position;
        }
    }
    if random.random() {
        log.rows.iter_mut().for_each(|row| rehash(&mut row.0));
    }
    if random.random_range(0..3) == 0 {
        reseal(log, random);
    } else if random.random() {
        let size = log.rows.len() as u64;
        log.seals.retain(|seal| seal.size <= size);
    }
    name
}

#[test]
fn ten_thousand_manipulations_are_all_found_and_untouched_logs_pass() {
    for salt in 0..100 {
        let log = log(salt);
        let report = check(&log, &log.seals).unwrap_or_else(|fault| panic!("{salt}: {fault}"));
        assert_eq!((report.events, report.sealed, report.not_yet_sealed), (EVENTS, EVENTS, None));
        assert_eq!((report.seals, report.outside), (5, 5));
    }
    let original = log(0);
    let mut random = StdRng::seed_from_u64(6_962);
    let (mut found, mut same) = (0, 0);
    while found < 10_000 {
        let mut log = original.clone();
        let name = tamper(&mut log, &mut random);
        if log == original {
            // Made to fit, two equal events are where they were: nothing was changed.
            same += 1;
            assert!(same < 2_000, "hardly anything is changed");
            continue;
        }
        let fault = check(&log, &original.seals).expect_err(name);
        assert!((1..=EVENTS + 1).contains(&fault.position), "{name}: {fault}");
        found += 1;
    }
}

#[test]
fn the_first_bad_position_is_named() {
    let whole = log(1);
    let outside = whole.seals.clone();
    let fault_of = |change: &dyn Fn(&mut Log)| {
        let mut log = whole.clone();
        change(&mut log);
        let fault = check(&log, &outside).unwrap_err();
        (fault.position, fault.to)
    };
    // What the hash covers is named to the event, also with more behind it.
    let payload = |log: &mut Log| {
        log.rows[16].0.payload = "{}".into();
        log.rows[30].0.actor = "else".into();
    };
    assert_eq!(fault_of(&payload), (17, None));
    assert_eq!(fault_of(&|log| drop(log.rows.remove(19))), (20, None));
    assert_eq!(fault_of(&|log| log.rows.truncate(37)), (38, Some(40)));
    // What only the tree covers, to the events since the seal before.
    let time = |log: &mut Log| {
        log.rows[20].0.recorded_at += chrono::Duration::microseconds(1);
    };
    let (position, to) = fault_of(&time);
    assert!(position == 17 || position == 22, "at the next event, or by the seal");
    assert!(to.is_none_or(|to| to == 24));
    let rewritten = |log: &mut Log| {
        log.rows[20].0.payload = "{}".into();
        rehash(&mut log.rows[20].0);
    };
    assert_eq!(fault_of(&rewritten), (17, Some(24)));
}

#[test]
fn what_no_seal_covers_yet_is_named_and_no_alarm() {
    let mut log = log(2);
    let outside = log.seals.clone();
    let more = (EVENTS + 1..=EVENTS + 5).map(|position| Recorded2(event(position, 2)));
    log.rows.extend(more);
    let report = check(&log, &outside).unwrap();
    assert_eq!(report.not_yet_sealed, Some((EVENTS + 1, EVENTS + 5)));
    assert_eq!(report.sealed, EVENTS);
}
