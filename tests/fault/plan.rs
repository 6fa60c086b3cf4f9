//! How long a run is and what its dice show.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The dice of the short form: the same faults in the same order every time.
const SEED: u64 = 20_261_120;

/// What the environment asks for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub long: bool,
    /// How long a suite of the long form goes on.
    pub minutes: u64,
    /// Events of the tailing test.
    pub events: u64,
}

impl Plan {
    /// Reads `TAFFRAIL_FAULT`, `…_SEED`, `…_MINUTES` and `…_EVENTS`.
    pub fn from_env() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let long = std::env::var("TAFFRAIL_FAULT").is_ok_and(|form| form == "long");
        let plan = Self {
            seed: number("TAFFRAIL_FAULT_SEED").unwrap_or(if long { rand::random() } else { SEED }),
            long,
            minutes: number("TAFFRAIL_FAULT_MINUTES").unwrap_or(10),
            events: number("TAFFRAIL_FAULT_EVENTS").unwrap_or(if long {
                10_000_000
            } else {
                100_000
            }),
        };
        println!("again with TAFFRAIL_FAULT_SEED={}: {plan:?}", plan.seed);
        plan
    }

    /// Dice of one part of a run.
    pub fn dice(&self, part: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(part))
    }

    /// How long a suite of the long form goes on.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.minutes * 60)
    }
}
