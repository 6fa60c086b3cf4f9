//! How far an agent is on its way out, and who pushes it there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// From the first to the last; an agent never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes tasks.
    Running,
    /// Takes none; the running ones may end.
    Draining,
    /// The running ones are handed back.
    Stopping,
}

/// Ends an agent from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    phase: Arc<watch::Sender<(Phase, Option<Instant>)>>,
    /// Counts how often it was woken.
    wakes: Arc<watch::Sender<u64>>,
}

impl Control {
    pub(crate) fn new() -> Self {
        let phase = watch::Sender::new((Phase::Running, None));
        Self { phase: Arc::new(phase), wakes: Arc::default() }
    }

    /// No new tasks. The running ones may end, for ever or until the limit.
    pub fn drain(&self, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        self.phase.send_if_modified(|(phase, deadline)| {
            let sooner = until.is_some_and(|u| deadline.is_none_or(|d| u < d));
            let changed = *phase < Phase::Draining || (*phase == Phase::Draining && sooner);
            if changed {
                *phase = (*phase).max(Phase::Draining);
                *deadline = if sooner { until } else { *deadline };
            }
            changed
        });
    }

    /// The running tasks are handed back at once.
    pub fn stop(&self) {
        self.phase.send_if_modified(|(phase, _)| {
            let changed = *phase < Phase::Stopping;
            *phase = Phase::Stopping;
            changed
        });
    }

    /// Looks for work at once: claims that wait are given up and made anew.
    pub fn wake(&self) {
        self.wakes.send_modify(|wakes| *wakes += 1);
    }

    /// Changes whenever it is woken.
    pub(crate) fn wakes(&self) -> watch::Receiver<u64> {
        self.wakes.subscribe()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().0
    }

    /// Waits until the agent is at least that far; a drain that is over time becomes a stop.
    pub(crate) async fn reached(&self, wanted: Phase) {
        let mut phase = self.phase.subscribe();
        loop {
            let (now, until) = *phase.borrow_and_update();
            if now >= wanted {
                return;
            }
            let changed = match until {
                Some(until) => {
                    tokio::select! {
                        changed = phase.changed() => changed,
                        () = tokio::time::sleep_until(until) => {
                            self.stop();
                            Ok(())
                        }
                    }
                }
                None => phase.changed().await,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// A word on `….agent.<id>.control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Finish and leave.
    Drain,
    /// Hand back and leave.
    Stop,
    /// Describe yourself anew.
    Reload,
    /// Be ready again, and look for work at once.
    Wake,
    /// Send a heartbeat now.
    Beat,
}

impl Word {
    /// The bare word, a JSON string, or `{"command": …}`.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?.trim();
        let word = match serde_json::from_str::<serde_json::Value>(text) {
            Ok(serde_json::Value::String(word)) => word,
            Ok(serde_json::Value::Object(fields)) => ["command", "word", "control"]
                .iter()
                .find_map(|name| fields.get(*name)?.as_str())?
                .into(),
            Ok(_) => return None,
            Err(_) => text.to_owned(),
        };
        Some(match word.as_str() {
            "drain" => Self::Drain,
            "stop" => Self::Stop,
            "reload" => Self::Reload,
            "wake" => Self::Wake,
            "beat" => Self::Beat,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_word_comes_bare_or_as_json() {
        assert_eq!(Word::parse(b"drain"), Some(Word::Drain));
        assert_eq!(Word::parse(b"\"stop\""), Some(Word::Stop));
        assert_eq!(Word::parse(br#"{"command":"wake"}"#), Some(Word::Wake));
        assert_eq!(Word::parse(br#"{"word":"reload"}"#), Some(Word::Reload));
        assert_eq!(Word::parse(br#"{"command":"beat"}"#), Some(Word::Beat));
        for nonsense in [&b""[..], b"7", b"explode", b"{}", b"\xff", b"[\"stop\"]"] {
            assert_eq!(Word::parse(nonsense), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_over_time_becomes_a_stop_and_nothing_goes_back() {
        let control = Control::new();
        control.drain(None);
        assert_eq!(control.phase(), Phase::Draining);
        let begin = Instant::now();
        control.drain(Some(Duration::from_secs(30)));
        control.drain(Some(Duration::from_secs(60)));
        control.reached(Phase::Stopping).await;
        assert_eq!(begin.elapsed().as_secs(), 30, "the sooner limit counts");
        control.drain(None);
        assert_eq!(control.phase(), Phase::Stopping);
    }
}
