//! Cron patterns in a time zone, and what happens when its clocks are changed.
//!
//! A pattern has five fields (minute, hour, day of month, month, day of week) or six (a
//! second in front). Where the clocks change, two rules hold:
//!
//! - A pattern that names hours means local times. A time that does not exist fires when
//!   the clocks have gone forward; one that comes twice fires the first time alone.
//! - A pattern for every hour (`*` in the hour field) goes by the time that passes: it
//!   leaves out what does not exist and fires in both of two equal hours.

use std::str::FromStr;

use chrono::{LocalResult, NaiveDateTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::decide::Timestamp;
use crate::json::nearest;

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 256;
/// Shortest time between two slots: it is no stopwatch (reliability 3.8).
pub const MIN_PERIOD_S: i64 = 10;
/// How many slots are looked at for the shortest time between two.
const LOOKED_AT: usize = 64;

/// A pattern in a zone.
#[derive(Debug, Clone)]
pub struct CronTimes {
    cron: Cron,
    zone: Tz,
    every_hour: bool,
}

impl CronTimes {
    /// Reads a pattern; the zone is an IANA name.
    ///
    /// # Errors
    /// The field at fault (`cron` or `timezone`), a code and a text for people.
    pub fn parse(pattern: &str, zone: &str) -> Result<Self, (&'static str, &'static str, String)> {
        let zone = zone_of(zone).map_err(|text| ("timezone", "unknown_zone", text))?;
        let malformed = |text: String| ("cron", "malformed", text);
        if pattern.len() > MAX_PATTERN || !pattern.is_ascii() {
            return Err(malformed(format!("a pattern has at most {MAX_PATTERN} ASCII characters")));
        }
        let parser =
            CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| {
            malformed(format!(
                "not a cron pattern of 5 fields (minute, hour, day, month, weekday) or 6 (second \
                 first): {error}"
            ))
        })?;
        let every_hour = cron.pattern.hours.get_set_values(1).len() == 24;
        let times = Self { cron, zone, every_hour };
        times.check()?;
        Ok(times)
    }

    /// Every pattern repeats itself, so some year tells whether it ever fires.
    fn check(&self) -> Result<(), (&'static str, &'static str, String)> {
        let begin = Timestamp::from_timestamp(946_684_800, 0).unwrap_or_default(); // 2000-01-01
        let Some(mut last) = self.next_after(begin) else {
            return Err(("cron", "never", "the pattern never fires".into()));
        };
        for _ in 0..LOOKED_AT {
            let Some(next) = self.next_after(last) else { break };
            if (next - last).num_seconds() < MIN_PERIOD_S {
                let text = format!("the pattern fires oftener than every {MIN_PERIOD_S} s");
                return Err(("cron", "too_often", text));
            }
            last = next;
        }
        Ok(())
    }

    /// The first slot after an instant; `None` where there is none before the year 5000.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        // Slots are whole seconds.
        let after = after.with_nanosecond(0)?;
        if self.every_hour {
            let local = after.with_timezone(&self.zone);
            let next = self.cron.find_next_occurrence(&local, false).ok()?;
            return Some(next.to_utc()).filter(|next| *next > after);
        }
        let mut local = after.with_timezone(&self.zone).naive_local();
        loop {
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            let instant = self.instant(local)?;
            // Behind it lies the first of two equal times, or what does not exist.
            if instant > after {
                return Some(instant);
            }
        }
    }

    /// When a local time is: the first time where it comes twice, the end of the gap where
    /// it does not exist.
    fn instant(&self, local: NaiveDateTime) -> Option<Timestamp> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Some(at.to_utc()),
            LocalResult::Ambiguous(first, _) => Some(first.to_utc()),
            LocalResult::None => {
                // No zone is further than 15 h from UTC, and only the gap itself leads from
                // local times up to this one to later ones.
                let guess = local.and_utc();
                let (mut low, mut high) =
                    (guess - TimeDelta::hours(16), guess + TimeDelta::hours(16));
                while (high - low).num_seconds() > 1 {
                    let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
                    if middle.with_timezone(&self.zone).naive_local() > local {
                        high = middle;
                    } else {
                        low = middle;
                    }
                }
                Some(high)
            }
        }
    }
}

/// A zone by its IANA name.
fn zone_of(name: &str) -> Result<Tz, String> {
    Tz::from_str(name).map_err(|_| {
        let shown: String = name.chars().take(64).collect();
        let near = nearest(&shown, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("there is no time zone `{shown}`{hint} (an IANA name, such as Europe/Berlin)")
    })
}
