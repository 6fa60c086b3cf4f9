//! When schedules fire, above all where clocks are changed.

use chrono::{Offset, TimeDelta, TimeZone};
use domain::Timestamp;
use domain::schedule::cron::CronTimes;
use domain::schedule::{Timing, When};
use proptest::prelude::*;

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn slots(pattern: &str, zone: &str, after: &str, most: usize) -> Vec<String> {
    let times = CronTimes::parse(pattern, zone).expect("a pattern");
    let timing = Timing::Cron(Box::new(times));
    let show = |at: &Timestamp| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    timing.upcoming(utc(after), most).iter().map(show).collect()
}

/// Clocks go from 2:00 to 3:00 on 29 March 2026 in Berlin (1:00 UTC), and from 3:00 to 2:00
/// on 25 October (1:00 UTC).
const SPRING: &str = "2026-03-28T12:00:00Z";
const AUTUMN: &str = "2026-10-24T12:00:00Z";

#[test]
fn a_time_that_does_not_exist_fires_when_the_clocks_have_gone_forward() {
    let found = slots("30 2 * * *", "Europe/Berlin", SPRING, 2);
    assert_eq!(found, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    // Several such times are one slot.
    let found = slots("*/20 2,3 * * *", "Europe/Berlin", SPRING, 4);
    assert_eq!(
        found,
        [
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:20:00Z",
            "2026-03-29T01:40:00Z",
            "2026-03-30T00:00:00Z"
        ]
    );
    // A day that Samoa left out whole.
    let found = slots("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", 2);
    assert_eq!(found, ["2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]);
}

#[test]
fn a_time_that_comes_twice_fires_the_first_time() {
    let found = slots("30 2 * * *", "Europe/Berlin", AUTUMN, 2);
    assert_eq!(found, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    // Also when the search begins in the second of the two hours.
    let found = slots("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15:00Z", 1);
    assert_eq!(found, ["2026-10-26T01:30:00Z"]);
    let found = slots("0 2,14 * * *", "Europe/Berlin", AUTUMN, 3);
    assert_eq!(found, ["2026-10-25T00:00:00Z", "2026-10-25T13:00:00Z", "2026-10-26T01:00:00Z"]);
}

#[test]
fn a_pattern_for_every_hour_goes_by_the_time_that_passes() {
    let found = slots("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
    assert_eq!(found, ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]);
    let found = slots("30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 3);
    assert_eq!(found, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]);
}

#[test]
fn days_and_months_may_be_named_and_the_last_day_found() {
    let found = slots("0 9 * JAN MON", "UTC", "2026-01-01T00:00:00Z", 2);
    assert_eq!(found, ["2026-01-05T09:00:00Z", "2026-01-12T09:00:00Z"]);
    let found = slots("0 0 L * *", "UTC", "2026-01-31T00:00:00Z", 1);
    assert_eq!(found, ["2026-02-28T00:00:00Z"]);
    let found = slots("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1);
    assert_eq!(found, ["2028-02-29T00:00:00Z"]);
    let found = slots("*/15 30 4 * * *", "UTC", "2026-01-01T04:30:29.5Z", 2);
    assert_eq!(found, ["2026-01-01T04:30:30Z", "2026-01-01T04:30:45Z"]);
}

#[test]
fn the_last_slot_of_a_long_time_is_found_without_a_walk_through_all() {
    let interval = When::Interval { interval_ms: 1_000, from: utc("2000-01-01T00:00:00Z") };
    let timing = Timing::of(&interval);
    let (begin, end) = (utc("2001-01-01T00:00:00Z"), utc("2031-01-01T00:00:00.5Z"));
    assert_eq!(timing.last_within(begin, end), Some(utc("2031-01-01T00:00:00Z")));
    assert_eq!(timing.count_between(begin, end), domain::schedule::MOST_COUNTED);
    let times = CronTimes::parse("*/10 * * * * *", "UTC").expect("a pattern");
    let timing = Timing::Cron(Box::new(times));
    assert_eq!(timing.last_within(begin, end), Some(utc("2031-01-01T00:00:00Z")));
    let yearly = CronTimes::parse("0 0 1 1 *", "UTC").expect("a pattern");
    let timing = Timing::Cron(Box::new(yearly));
    assert_eq!(
        timing.last_within(begin, utc("2005-06-01T00:00:00Z")),
        Some(utc("2005-01-01T00:00:00Z"))
    );
    assert_eq!(timing.last_within(begin, utc("2001-06-01T00:00:00Z")), None);
}

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("*".to_owned()),
        2 => (low..=high).prop_map(|n| n.to_string()),
        1 => (2..=6u32).prop_map(|n| format!("*/{n}")),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{},{}", a, b)),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6))
        .prop_map(|(m, h, dom, mon, dow)| format!("{m} {h} {dom} {mon} {dow}"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_next_slot_is_always_later_and_always_a_slot(
        pattern in pattern(),
        zone in prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec()),
        begin in 0..3_000_000_000i64,
        micros in 0..1_000_000i64,
    ) {
        let timing = CronTimes::parse(&pattern, zone.name()).expect("a pattern");
        let timing = Timing::Cron(Box::new(timing));
        let begin = Timestamp::from_timestamp(begin, 0).expect("a time");
        let mut at = begin + TimeDelta::microseconds(micros);
        for _ in 0..12 {
            let next = timing.next_after(at).expect("it goes on");
            prop_assert!(next > at, "{pattern} in {zone}: {next} after {at}");
            prop_assert!(timing.is_slot(next), "{pattern} in {zone}: {next}");
            let middle = at + (next - at) / 2;
            prop_assert_eq!(timing.next_after(middle), Some(next), "nothing lies between");
            at = next;
        }
    }

    #[test]
    fn the_days_around_a_change_of_clocks_fire_a_daily_time_once_each(
        hour in 0..24u32, minute in 0..60u32,
        zone in prop::sample::select(vec![
            "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo",
            "America/Havana", "Asia/Beirut", "Pacific/Chatham", "America/Sao_Paulo",
        ]),
        year in 2000..2040i32,
    ) {
        let times = CronTimes::parse(&format!("{minute} {hour} * * *"), zone).expect("a pattern");
        let timing = Timing::Cron(Box::new(times));
        let zone: chrono_tz::Tz = zone.parse().expect("a zone");
        let begin = chrono::Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
        let slots = timing.upcoming(begin, 366);
        for pair in slots.windows(2) {
            let [one, two] = [pair[0], pair[1]].map(|at| at.with_timezone(&zone));
            // Never two on one day, never a day without.
            let days = two.date_naive().signed_duration_since(one.date_naive()).num_days();
            prop_assert_eq!(days, 1, "{} then {}", one, two);
            let shifted = one.offset().fix() != two.offset().fix();
            let named = (hour, minute);
            use chrono::Timelike;
            prop_assert!(shifted || (two.hour(), two.minute()) == named, "{two}");
        }
    }

    #[test]
    fn the_last_slot_within_a_time_is_the_one_before_the_next(
        pattern in pattern(), begin in 1_600_000_000..1_700_000_000i64, length in 1..4_000_000i64,
    ) {
        let timing = Timing::Cron(Box::new(CronTimes::parse(&pattern, "Europe/Berlin").expect("one")));
        let begin = Timestamp::from_timestamp(begin, 0).expect("a time");
        let end = begin + TimeDelta::seconds(length);
        let last = timing.last_within(begin, end);
        match last {
            Some(last) => {
                prop_assert!(begin < last && last <= end);
                prop_assert!(timing.next_after(last).is_none_or(|next| next > end));
            }
            None => prop_assert!(timing.next_after(begin).is_none_or(|next| next > end)),
        }
    }
}
