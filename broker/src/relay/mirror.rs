//! Comparing the stream with the log, and making it anew where they differ.

use std::sync::atomic::Ordering;

use async_nats::jetstream::stream::{RetentionPolicy, State};

use super::{FIRST, Relay, Standing};
use crate::envelope::{header, header_value, unhex};
use crate::error::During;
use crate::{BrokerError, streams};

/// Rounds of one comparison; more means that somebody else keeps changing the stream.
const ROUNDS: usize = 8;

/// What a comparison found.
pub(super) enum Verdict {
    /// The stream is the log's beginning: go on behind it.
    Same(Standing),
    /// There is no stream.
    Missing,
    /// The stream is of no use, for this reason.
    Useless(&'static str),
    /// The stream knows what the log does not: an older copy of the database was put back.
    Ahead {
        /// The generation that the stream carries.
        stream_epoch: u64,
        /// The generation that the log had when they were compared.
        log_epoch: u64,
    },
}

/// What the stream's last message says of itself.
struct Last {
    position: u64,
    epoch: u64,
    hash: [u8; 32],
}

impl Relay {
    /// Brings stream and log together, without publishing any event: afterwards the stream
    /// is the log's beginning, perhaps empty, under the log's epoch.
    ///
    /// To be called once before anything reads or writes: when an older copy of the database
    /// was put back, a new epoch begins here.
    ///
    /// # Errors
    /// When NATS or the log cannot be reached; the same may pass later.
    pub async fn reconcile(&self) -> Result<Standing, BrokerError> {
        for _ in 0..ROUNDS {
            match self.compare().await? {
                Verdict::Same(standing) => {
                    self.stand(standing);
                    return Ok(standing);
                }
                Verdict::Missing => {
                    tracing::info!(stream = streams::EVENTS, "the stream is missing: it is made");
                    streams::create(&self.jetstream, streams::events(FIRST)).await?;
                }
                Verdict::Useless(why) => self.remake(why).await?,
                Verdict::Ahead { stream_epoch, log_epoch } => {
                    // Somebody may have begun the new generation a moment ago.
                    if self.reader.log.head().await?.epoch != log_epoch {
                        continue;
                    }
                    let mut epoch = log_epoch;
                    while epoch <= stream_epoch.max(log_epoch) {
                        epoch = self.reader.log.bump_epoch().await?;
                    }
                    let head = self.reader.log.head().await?;
                    // What this process remembers of the lost generation must go too.
                    self.reader.feed.reset(head.position);
                    tracing::warn!(
                        epoch,
                        position = head.position,
                        "an older copy of the database was put back: a new epoch begins"
                    );
                    self.remake("it belongs to an epoch that was lost").await?;
                }
            }
        }
        Err(BrokerError::nats("comparing the stream with the log", "it keeps changing"))
    }

    /// Compares. The stream is read before the log, so that what another relay publishes
    /// meanwhile cannot look like something that the log does not have.
    pub(super) async fn compare(&self) -> Result<Verdict, BrokerError> {
        let Some(info) = streams::info(&self.jetstream, streams::EVENTS).await? else {
            return Ok(Verdict::Missing);
        };
        let wanted = streams::events(FIRST);
        if info.config.subjects != wanted.subjects
            || info.config.retention != RetentionPolicy::Limits
        {
            return Ok(Verdict::Useless("it has other subjects or another retention"));
        }
        if !self.is_whole(&info.state) {
            return Ok(Verdict::Useless("messages are missing in it"));
        }
        let last = match info.state.messages {
            0 => None,
            _ => match self.last(info.state.last_sequence).await? {
                Some(last) => Some(last),
                None => return Ok(Verdict::Useless("its last message is not ours")),
            },
        };
        let head = self.reader.log.head().await?;
        let Some(last) = last else {
            return Ok(Verdict::Same(Standing { epoch: head.epoch, relayed: FIRST - 1 }));
        };
        let ahead = Verdict::Ahead { stream_epoch: last.epoch, log_epoch: head.epoch };
        if last.epoch > head.epoch || (last.epoch == head.epoch && last.position > head.position) {
            return Ok(ahead);
        }
        if last.epoch < head.epoch {
            return Ok(Verdict::Useless("it carries an earlier epoch"));
        }
        let event = self.reader.log.read(last.position - 1, 1).await?;
        match event.first() {
            Some(event) if event.hash == last.hash => {
                Ok(Verdict::Same(Standing { epoch: head.epoch, relayed: last.position }))
            }
            Some(_) | None => Ok(ahead),
        }
    }

    /// Whether the stream begins where it should and has no hole.
    fn is_whole(&self, state: &State) -> bool {
        let before = FIRST - 1;
        let starts = state.messages == 0 || state.first_sequence == FIRST;
        starts && state.last_sequence.checked_sub(before) == Some(state.messages)
    }

    async fn last(&self, sequence: u64) -> Result<Option<Last>, BrokerError> {
        let stream = self.jetstream.get_stream_no_info(streams::EVENTS).await;
        let stream = stream.during("reading the stream of events")?;
        // Not a direct get: the stream's leader answers, never a replica that lags.
        let message = stream.get_raw_message(sequence).await;
        let message = message.during("reading the stream of events")?;
        let value = |name| header_value(Some(&message.headers), name);
        let number = |name| value(name).and_then(|text| text.parse::<u64>().ok());
        let read = (number(header::POSITION), number(header::EPOCH), value(header::HASH));
        let (Some(position), Some(epoch), Some(hash)) = read else { return Ok(None) };
        let Some(hash) = unhex(hash).filter(|_| position == sequence) else { return Ok(None) };
        Ok(Some(Last { position, epoch, hash }))
    }

    async fn remake(&self, why: &str) -> Result<(), BrokerError> {
        tracing::warn!(stream = streams::EVENTS, why, "the stream is made anew from the log");
        self.counters.remade.fetch_add(1, Ordering::Relaxed);
        streams::delete(&self.jetstream, streams::EVENTS).await?;
        streams::create(&self.jetstream, streams::events(FIRST)).await
    }
}
