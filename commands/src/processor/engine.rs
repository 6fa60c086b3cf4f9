//! The loop: take what arrived, look up, decide, flush, answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use domain::{Claim, Code, Outcome, Problem, Recorded, Status, TenantId};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesOrdered;
use lru::LruCache;
use store::{Append, Feed, Log, Snapshot, StoreError, StreamKey, Writer, Written};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, CommandKey, Decided, Decider, is_mismatch, mismatch};
use super::lookup::{Known, Questions};
use super::{Pending, ProcessorConfig, Stats};
use crate::clock::Clock;
use crate::fence::Fence;

/// Shortest and longest pause before a batch is tried again while the database is away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// What was taken and cannot be decided within this time of a drain is turned away (D42).
const DRAIN: Duration = Duration::from_secs(8);
/// About what a command adds to a flush beside its body.
const COMMAND_BYTES: usize = 256;
/// Fewer commands than these wait for the flush that is under way: what a statement costs
/// whatever is in it is then better shared than paid once more.
const PIPELINED: usize = 16;

/// Why the engine ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to, and everything taken is answered, be it with `busy`.
    Drained,
    /// Another process appends now.
    LeaseLost,
}

/// A batch on its way to the disk.
struct Flight {
    append: Append,
    decided: Vec<Decided>,
    streams: HashMap<StreamKey, Snapshot>,
    writer: Arc<Writer>,
    result: Result<Written, StoreError>,
    took: Duration,
}

/// A batch on its way through the look-ups, with the states that were in memory.
struct Looked {
    commands: Vec<Pending>,
    live: HashMap<StreamKey, Snapshot>,
    found: Result<(Known, Arc<Writer>), StoreError>,
}

pub(super) struct Engine {
    pub log: Log,
    pub feed: Feed,
    pub clock: Clock,
    pub config: ProcessorConfig,
    pub stats: Arc<Stats>,
    pub fence: Fence,
    pub token: i64,
    /// The connection to append on; absent from its failure to the next look-up.
    writer: Option<Arc<Writer>>,
    cache: LruCache<StreamKey, Snapshot>,
    /// Streams and claims in unanswered flushes.
    busy_streams: HashSet<StreamKey>,
    busy_claims: HashSet<(TenantId, Claim)>,
    /// Unanswered flushes that link tasks. Whoever links tasks next waits for them: what they
    /// make is not in the log yet, nor in the batch.
    linking: usize,
    /// Commands being decided or flushed, with the repeats that wait for their outcome.
    under_way: HashMap<CommandKey, Vec<Pending>>,
    /// How many repeats wait there.
    repeats: usize,
    /// Commands that wait for an unanswered flush; they come before newer ones.
    parked: VecDeque<Pending>,
    /// Batches of failed flushes, to be decided anew one at a time.
    retries: VecDeque<Vec<Pending>>,
    /// Before the next retry; grows while the database is away.
    pause: Duration,
    /// Until then nothing is taken for new without a look at the log.
    careful_until: Instant,
    flights: FuturesOrdered<BoxFuture<'static, Flight>>,
    lookup: Option<BoxFuture<'static, Looked>>,
}

impl Engine {
    pub async fn new(
        log: Log,
        feed: Feed,
        clock: Clock,
        config: ProcessorConfig,
        stats: Arc<Stats>,
        fence: Fence,
        token: i64,
    ) -> Result<Self, StoreError> {
        let writer = Some(Arc::new(log.writer().await?));
        let cache = NonZeroUsize::new(config.cache).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            log,
            feed,
            clock,
            careful_until: Instant::now() + config.careful,
            config,
            stats,
            fence,
            token,
            writer,
            cache: LruCache::new(cache),
            busy_streams: HashSet::new(),
            busy_claims: HashSet::new(),
            linking: 0,
            under_way: HashMap::new(),
            repeats: 0,
            parked: VecDeque::new(),
            retries: VecDeque::new(),
            pause: Duration::ZERO,
            flights: FuturesOrdered::new(),
            lookup: None,
        })
    }

    /// Runs until the queue is closed and empty, or the lease is lost.
    pub async fn run(
        &mut self,
        queue: &mut mpsc::Receiver<Pending>,
        drain: &CancellationToken,
        lost: &CancellationToken,
    ) -> Ended {
        let lease_lost = "the processor's lease went to another process; send it again";
        let mut arrived = Vec::new();
        let mut deadline = None;
        loop {
            if lost.is_cancelled() {
                self.give_up(arrived, lease_lost);
                return Ended::LeaseLost;
            }
            self.start_lookup(&mut arrived);
            let draining = deadline.is_some();
            let idle = self.lookup.is_none() && self.flights.is_empty();
            if draining && idle && arrived.is_empty() && self.nothing_waits() {
                return Ended::Drained;
            }
            // What waits is bounded like a batch: neither a hot stream nor a flood of repeats
            // must fill the memory.
            let room = self.lookup.is_none()
                && self.retries.is_empty()
                && arrived.len() < self.config.batch_commands
                && self.parked.len() + self.repeats < self.config.batch_commands;
            tokio::select! {
                biased;
                Some(flight) = self.flights.next(), if !self.flights.is_empty() => {
                    if self.landed(flight) == Some(Ended::LeaseLost) {
                        self.give_up(arrived, lease_lost);
                        return Ended::LeaseLost;
                    }
                }
                found = async { match &mut self.lookup {
                    Some(lookup) => lookup.await,
                    None => std::future::pending().await,
                } } => {
                    self.lookup = None;
                    self.looked_up(found);
                }
                count = queue.recv_many(&mut arrived, self.config.batch_commands),
                    if room && !draining =>
                {
                    if count == 0 {
                        deadline = Some(Instant::now() + DRAIN);
                    }
                }
                () = drain.cancelled(), if !draining => {
                    // What is in the queue was accepted for decision: it is still decided.
                    queue.close();
                    while let Ok(pending) = queue.try_recv() {
                        arrived.push(pending);
                    }
                    deadline = Some(Instant::now() + DRAIN);
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if draining => {
                    self.give_up(arrived, "the processor stopped before its turn; send it again");
                    return Ended::Drained;
                }
                // The loop's head sees to it.
                () = lost.cancelled() => {}
            }
        }
    }

    fn nothing_waits(&self) -> bool {
        self.parked.is_empty() && self.retries.is_empty()
    }

    /// Answers everybody who still waits; nothing of theirs is known to be written.
    fn give_up(&mut self, arrived: Vec<Pending>, why: &str) {
        let waiting = self.under_way.drain().flat_map(|(_, repeats)| repeats);
        let retries = self.retries.drain(..).flatten();
        for pending in
            arrived.into_iter().chain(self.parked.drain(..)).chain(retries).chain(waiting)
        {
            pending.busy(why);
        }
        // Dropping the flights and the lookup drops their callers' channels, which answers them.
        self.flights = FuturesOrdered::new();
        self.linking = 0;
        self.lookup = None;
    }

    /// Forms the next batch and asks the log what it knows about it.
    fn start_lookup(&mut self, arrived: &mut Vec<Pending>) {
        if self.lookup.is_some() {
            return;
        }
        let mut pause = Duration::ZERO;
        let commands = if !self.retries.is_empty() {
            // Order within a stream: the failed batches go first, each alone.
            if !self.flights.is_empty() {
                return;
            }
            pause = self.pause;
            let retry = self.retries.pop_front().unwrap_or_default();
            for pending in &retry {
                self.under_way.entry(pending.command_key()).or_default();
            }
            retry
        } else if self.flights.is_empty()
            || (self.flights.len() < self.config.in_flight
                && arrived.len() + self.parked.len() >= PIPELINED)
        {
            self.form(arrived)
        } else {
            return;
        };
        if commands.is_empty() {
            return;
        }

        let mut live = HashMap::new();
        let mut questions = Questions::new(Instant::now() < self.careful_until);
        for pending in &commands {
            let key = pending.stream_key();
            // Taken out now: until the decision it could be evicted, and an absent stream
            // that nobody looked up would count as new.
            if let Some(stream) = self.cache.pop(&key) {
                live.insert(key, stream);
            }
            if let Some(parent) = pending.parent_key()
                && let Some(stream) = self.cache.pop(&parent)
            {
                live.insert(parent, stream);
            }
            questions.add(pending, &live);
        }
        let (log, writer) = (self.log.clone(), self.writer.clone());
        let lookup = async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let connected = async {
                match writer {
                    Some(writer) => Ok(writer),
                    None => log.writer().await.map(Arc::new),
                }
            };
            let found = tokio::try_join!(questions.ask(&log), connected);
            Looked { commands, live, found }
        };
        self.lookup = Some(lookup.boxed());
    }

    /// Chooses what can be decided now, oldest first, within the batch's bounds.
    fn form(&mut self, arrived: &mut Vec<Pending>) -> Vec<Pending> {
        let mut commands = Vec::new();
        let mut held_back = HashSet::new();
        let mut bytes = 0;
        let waiting: Vec<Pending> = self.parked.drain(..).chain(arrived.drain(..)).collect();
        for pending in waiting {
            let id = pending.command_key();
            let key = pending.stream_key();
            let claim = pending.command.command.claim();
            let claim_busy = claim.is_some_and(|claim| {
                self.busy_claims.contains(&(pending.command.tenant.clone(), claim))
            });
            let full =
                commands.len() >= self.config.batch_commands || bytes >= self.config.batch_bytes;
            if let Some(repeats) = self.under_way.get_mut(&id) {
                repeats.push(pending);
                self.repeats += 1;
            } else if full
                || claim_busy
                || self.busy_streams.contains(&key)
                || held_back.contains(&key)
                || self.link_busy(&pending, &held_back)
            {
                held_back.insert(key);
                self.parked.push_back(pending);
            } else {
                bytes += COMMAND_BYTES + pending.command.size;
                self.under_way.insert(id, Vec::new());
                commands.push(pending);
            }
        }
        commands
    }

    /// Whether a command links tasks and must see what is under way before.
    fn link_busy(&self, pending: &Pending, held_back: &HashSet<StreamKey>) -> bool {
        let waits = |key| self.busy_streams.contains(&key) || held_back.contains(&key);
        pending.command.command.links().is_some()
            && (self.linking > 0 || pending.parent_key().is_some_and(waits))
    }

    fn looked_up(&mut self, Looked { commands, live, found }: Looked) {
        match found {
            Ok((known, writer)) => {
                self.writer = Some(writer.clone());
                if !known.results.is_empty() {
                    self.careful_until = Instant::now() + self.config.careful;
                }
                let now = self.clock.now();
                let decider = Decider::new(known, live, now, &self.config, self.fence.clone());
                let batch = decider.decide(commands);
                self.launch(batch, writer);
            }
            Err(error) => {
                tracing::warn!(%error, "the log could not be asked; trying again");
                self.again(commands, &error);
            }
        }
    }

    fn launch(&mut self, batch: Batch, writer: Arc<Writer>) {
        let Batch { append, decided, streams, answered, parked } = batch;
        for pending in parked.into_iter().rev() {
            for repeat in self.repeats_of(&pending).into_iter().rev() {
                self.parked.push_front(repeat);
            }
            self.parked.push_front(pending);
        }
        for (pending, outcome) in answered {
            self.finish(pending, outcome);
        }
        if decided.is_empty() {
            self.pause = Duration::ZERO;
            self.keep(streams);
            return;
        }
        self.busy_streams.extend(streams.keys().cloned());
        self.busy_claims.extend(claims_of(&append));
        self.linking += usize::from(append.links());
        let token = self.token;
        let flight = async move {
            let start = Instant::now();
            let result = writer.append(token, &append).await;
            Flight { append, decided, streams, writer, result, took: start.elapsed() }
        };
        // The loop polls the newest flight before it takes anything else, which puts the
        // statement on the wire: in the order of the batches, beside those under way.
        self.flights.push_back(flight.boxed());
    }

    fn landed(&mut self, flight: Flight) -> Option<Ended> {
        let Flight { append, decided, streams, writer, result, took } = flight;
        for key in streams.keys() {
            self.busy_streams.remove(key);
        }
        for claim in claims_of(&append) {
            self.busy_claims.remove(&claim);
        }
        self.linking -= usize::from(append.links());
        let error = match result {
            Ok(written) => {
                store::seeded::point("dies-before-answer");
                self.pause = Duration::ZERO;
                self.stats.flushed(decided.len(), append.events.len(), took);
                self.keep_snapshots(&append, &streams);
                self.keep(streams);
                self.feed.publish(&append.recorded(written));
                for decided in decided {
                    let outcome = decided.outcome(written);
                    self.finish(decided.pending, outcome);
                }
                return None;
            }
            Err(error) => error,
        };
        self.stats.flush_failed();
        let commands: Vec<Pending> = decided.into_iter().map(|decided| decided.pending).collect();
        if matches!(error, StoreError::LeaseLost) {
            for pending in commands {
                pending.busy("the processor's lease went to another process; send it again");
            }
            return Some(Ended::LeaseLost);
        }
        tracing::warn!(%error, commands = commands.len(), "a flush failed; deciding it anew");
        if error.is_transient() && self.writer.as_ref().is_some_and(|w| Arc::ptr_eq(w, &writer)) {
            self.writer = None;
        }
        self.again(commands, &error);
        None
    }

    /// Decides a failed batch anew from the log: the speculative states are gone, the
    /// command ids are looked up again because the answer may have been lost after the
    /// commit, or the statement may still run. Where the content is to blame a second time,
    /// the batch is halved, so that the culprit soon stands alone.
    fn again(&mut self, mut commands: Vec<Pending>, error: &StoreError) {
        let blame = !error.is_transient();
        for pending in &mut commands {
            // The repeats that waited for it keep waiting: `under_way` stays as it is.
            self.cache.pop(&pending.stream_key());
            // A refused statement is certain to have left nothing behind.
            pending.failed |= !blame;
            pending.asks = true;
            pending.blamed += u32::from(blame);
        }
        if !blame {
            self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        }
        self.careful_until = Instant::now() + self.config.careful;
        let blamed = commands.first().map_or(0, |pending| pending.blamed);
        if !blame || blamed <= 1 {
            self.retries.push_front(commands);
        } else if commands.len() > 1 {
            let second = commands.split_off(commands.len() / 2);
            self.retries.push_front(second);
            self.retries.push_front(commands);
        } else if let Some(pending) = commands.pop() {
            let outcome = if error.is_conflict() {
                // Somebody wrote meanwhile, perhaps this very command: a repeat finds it.
                super::busy(&pending.command, "another writer is in the way; send it again")
            } else {
                tracing::error!(
                    %error,
                    command_id = %pending.command.command_id,
                    command = pending.command.command.name(),
                    "a command cannot be stored"
                );
                let problem = Problem::new(Code::Internal, "the command cannot be stored");
                let command = &pending.command;
                let (id, stream_id) = (command.command_id, command.stream_id);
                Outcome::undecided(Status::Invalid, id, stream_id, problem)
            };
            self.finish(pending, outcome);
        }
    }

    fn repeats_of(&mut self, pending: &Pending) -> Vec<Pending> {
        let repeats = self.under_way.remove(&pending.command_key()).unwrap_or_default();
        self.repeats -= repeats.len();
        repeats
    }

    fn finish(&mut self, pending: Pending, outcome: Outcome) {
        let stored = match outcome.status {
            Status::Busy | Status::Invalid => false,
            Status::Accepted | Status::Duplicate => true,
            Status::Refused => !is_mismatch(&outcome),
        };
        for repeat in self.repeats_of(&pending).into_iter().rev() {
            let same = repeat.command.fingerprint == pending.command.fingerprint;
            let answer = match (stored, same) {
                (true, true) => Outcome::duplicate_of(outcome.decision().clone()),
                (true, false) => mismatch(&repeat.command, outcome.position),
                (false, true) => outcome.clone(),
                // Nothing was remembered of this body under the id: it has its own turn.
                (false, false) => {
                    self.parked.push_front(repeat);
                    continue;
                }
            };
            self.end(repeat, answer);
        }
        self.end(pending, outcome);
    }

    fn end(&self, pending: Pending, outcome: Outcome) {
        self.stats.ended(outcome.status);
        pending.log(&outcome);
        pending.answer(outcome);
    }

    /// Committed states are live from now on.
    fn keep(&mut self, streams: HashMap<StreamKey, Snapshot>) {
        for (key, stream) in streams.into_iter().filter(|(_, stream)| stream.version > 0) {
            self.cache.put(key, stream);
        }
    }

    /// Stores the states of streams that passed a multiple of the interval in this batch.
    fn keep_snapshots(&self, append: &Append, streams: &HashMap<StreamKey, Snapshot>) {
        let due = |event: &&Arc<Recorded>| event.version.is_multiple_of(self.config.snapshot_every);
        let due: HashSet<StreamKey> = (append.events.iter().filter(due))
            .map(|event| (event.tenant.clone(), event.stream_id))
            .collect();
        for key in due {
            let Some(snapshot) = streams.get(&key).cloned() else { continue };
            let log = self.log.clone();
            tokio::spawn(async move {
                if let Err(error) = log.keep_snapshot(&key, &snapshot).await {
                    tracing::debug!(%error, "a snapshot was not kept");
                }
            });
        }
    }
}

fn claims_of(append: &Append) -> impl Iterator<Item = (TenantId, Claim)> {
    let all = append.taken.iter().chain(&append.freed);
    all.map(|(tenant, claim, _)| (tenant.clone(), claim.clone())).collect::<Vec<_>>().into_iter()
}
