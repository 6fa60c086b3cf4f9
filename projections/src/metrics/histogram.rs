//! A latency histogram that can be written as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

/// The longest latency that is told apart: 30 days, in milliseconds.
const HIGHEST_MS: u64 = 30 * 86_400_000;
/// Two digits: one percent is finer than any latency between machines is stable.
const DIGITS: u8 = 2;

/// Latencies in milliseconds; written as HdrHistogram V2 in base64.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyHistogram(Histogram<u64>);

impl LatencyHistogram {
    /// Counts a latency; longer than 30 days counts as 30 days.
    pub fn record(&mut self, ms: u64) {
        self.0.saturating_record(ms.min(HIGHEST_MS));
    }

    /// Adds another one's counts.
    pub fn merge(&mut self, other: &Self) {
        for counted in other.0.iter_recorded() {
            self.0.saturating_record_n(
                counted.value_iterated_to().min(HIGHEST_MS),
                counted.count_since_last_iteration(),
            );
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value at a quantile, 0 when nothing was counted.
    pub fn at(&self, quantile: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_quantile(quantile) }
    }

    /// The mean, 0 when nothing was counted.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// The greatest, 0 when nothing was counted.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    fn encode(&self) -> Option<String> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).ok()?;
        Some(STANDARD.encode(bytes))
    }

    fn decode(text: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| error.to_string())?;
        // The same bounds for all, whatever an older release wrote.
        let mut own = Self::default();
        own.merge(&Self(read));
        Ok(own)
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        let made = Histogram::new_with_bounds(1, HIGHEST_MS, DIGITS);
        Self(made.unwrap_or_else(|_| unreachable!("the bounds are constants that fit")))
    }
}

impl serde::Serialize for LatencyHistogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.encode().ok_or_else(|| serde::ser::Error::custom("histogram"))?;
        serializer.serialize_str(&text)
    }
}

impl<'de> serde::Deserialize<'de> for LatencyHistogram {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::decode(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::default();
        values.iter().for_each(|ms| histogram.record(*ms));
        histogram
    }

    proptest! {
        #[test]
        fn adding_two_up_is_counting_everything_in_one(
            a in prop::collection::vec(0..HIGHEST_MS * 2, 0..60),
            b in prop::collection::vec(0..10_000u64, 0..60),
        ) {
            let mut sum = of(&a);
            sum.merge(&of(&b));
            let all = of(&[a, b].concat());
            prop_assert_eq!(sum.count(), all.count());
            for quantile in [0.5, 0.9, 0.99] {
                prop_assert_eq!(sum.at(quantile), all.at(quantile));
            }
        }

        #[test]
        fn what_was_written_reads_back_the_same(
            values in prop::collection::vec(0..HIGHEST_MS, 0..60),
        ) {
            let before = of(&values);
            let text = serde_json::to_string(&before).unwrap();
            let after: LatencyHistogram = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(serde_json::to_string(&after).unwrap(), text);
            prop_assert_eq!(after, before);
        }
    }

    #[test]
    fn a_garbled_histogram_is_an_error_and_no_panic() {
        for text in ["\"\"", "\"AAAA\"", "\"%%\"", "7"] {
            assert!(serde_json::from_str::<LatencyHistogram>(text).is_err(), "{text}");
        }
    }
}
