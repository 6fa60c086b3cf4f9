//! What single answers of a probe come to. Pure.

use domain::agent::Phase;
use domain::profile::Probe;

/// So many good answers in a row make it good, so many bad ones bad.
#[derive(Debug, Clone)]
pub(crate) struct Threshold {
    good: Option<bool>,
    row: u32,
    last: bool,
    success: u32,
    failure: u32,
}

impl Threshold {
    /// Of a probe about which nothing is known yet.
    pub(crate) fn of(probe: &Probe) -> Self {
        let (success, failure) = (probe.success_threshold, probe.failure_threshold);
        Self { good: None, row: 0, last: false, success, failure }
    }

    /// Takes an answer; tells when it changes what is thought.
    pub(crate) fn note(&mut self, good: bool) -> Option<bool> {
        self.row = if self.last == good { self.row.saturating_add(1) } else { 1 };
        self.last = good;
        let enough = if good { self.success } else { self.failure };
        if self.row >= enough && self.good != Some(good) {
            self.good = Some(good);
            return self.good;
        }
        None
    }
}

/// What the probes of a process come to together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    pub live: bool,
    pub ready: bool,
}

impl Health {
    /// As it was when the phase was noted.
    pub(crate) fn of(phase: Phase) -> Self {
        Self { live: phase != Phase::Unhealthy, ready: phase != Phase::NotReady }
    }

    /// The worst of it.
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self { live: false, .. } => Phase::Unhealthy,
            Self { ready: false, .. } => Phase::NotReady,
            Self { live: true, ready: true } => Phase::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(success: u32, failure: u32) -> Threshold {
        let probe =
            Probe { success_threshold: success, failure_threshold: failure, ..Probe::default() };
        Threshold::of(&probe)
    }

    fn turns(threshold: &mut Threshold, answers: &str) -> String {
        let turn = |answer| match threshold.note(answer == '+') {
            Some(true) => 'G',
            Some(false) => 'B',
            None => '.',
        };
        answers.chars().map(turn).collect()
    }

    #[test]
    fn a_row_of_answers_turns_it_and_a_break_in_the_row_begins_anew() {
        assert_eq!(turns(&mut threshold(1, 3), "+--+---+"), "G.....BG");
        assert_eq!(turns(&mut threshold(2, 2), "+-+-++--"), ".....G.B");
        assert_eq!(turns(&mut threshold(1, 1), "--++"), "B.G.");
        assert_eq!(turns(&mut threshold(1, 3), "---"), "..B", "bad from the beginning");
    }

    #[test]
    fn what_does_not_live_is_not_ready_either() {
        let phase = |live, ready| Health { live, ready }.phase();
        assert_eq!(phase(true, true), Phase::Ready);
        assert_eq!(phase(true, false), Phase::NotReady);
        assert_eq!(phase(false, true), Phase::Unhealthy);
        assert_eq!(phase(false, false), Phase::Unhealthy);
        for phase in [Phase::Ready, Phase::NotReady, Phase::Unhealthy] {
            assert_eq!(Health::of(phase).phase(), phase);
        }
    }
}
