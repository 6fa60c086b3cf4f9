//! The loop: take what arrived, look up, decide, flush, answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{Claim, Code, Outcome, Problem, Status, TenantId};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesOrdered;
use lru::LruCache;
use store::{Append, Feed, Log, Snapshot, StoreError, StreamKey, Writer, Written};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, CommandKey, Decided, Decider, Known, mismatch};
use super::{Pending, ProcessorConfig, Stats};
use crate::clock::Clock;

/// Longest pause between two tries to reach the database.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Why the engine ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to, and everything taken is answered.
    Drained,
    /// Another process appends now.
    LeaseLost,
}

/// A batch on its way to the disk.
struct Flight {
    append: Append,
    decided: Vec<Decided>,
    streams: HashMap<StreamKey, Snapshot>,
    result: Result<Written, StoreError>,
    took: Duration,
}

/// A batch on its way through the look-ups, with the states that were in memory.
struct Looked {
    commands: Vec<Pending>,
    live: HashMap<StreamKey, Snapshot>,
    known: Result<Known, StoreError>,
}

pub(super) struct Engine {
    pub log: Log,
    pub feed: Feed,
    pub clock: Clock,
    pub config: ProcessorConfig,
    pub stats: Arc<Stats>,
    pub token: i64,
    writer: Arc<Writer>,
    cache: LruCache<StreamKey, Snapshot>,
    /// Streams and claims in unanswered flushes.
    busy_streams: HashSet<StreamKey>,
    busy_claims: HashSet<(TenantId, Claim)>,
    /// Commands being decided or flushed, with the repeats that wait for their outcome.
    under_way: HashMap<CommandKey, Vec<Pending>>,
    /// Commands that wait for an unanswered flush; they come before newer ones.
    parked: VecDeque<Pending>,
    /// Batches of failed flushes, to be decided anew one at a time.
    retries: VecDeque<Vec<Pending>>,
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
        token: i64,
    ) -> Result<Self, StoreError> {
        let writer = Arc::new(log.writer().await?);
        let cache = NonZeroUsize::new(config.cache).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            log,
            feed,
            clock,
            config,
            stats,
            token,
            writer,
            cache: LruCache::new(cache),
            busy_streams: HashSet::new(),
            busy_claims: HashSet::new(),
            under_way: HashMap::new(),
            parked: VecDeque::new(),
            retries: VecDeque::new(),
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
        let mut arrived = Vec::new();
        let mut draining = false;
        loop {
            if lost.is_cancelled() {
                return self.give_up(arrived);
            }
            self.start_lookup(&mut arrived);
            let idle = self.lookup.is_none() && self.flights.is_empty();
            if draining && idle && arrived.is_empty() && self.nothing_waits() {
                return Ended::Drained;
            }
            // Parked commands are bounded like a batch: a hot stream must not fill the memory.
            let room = self.lookup.is_none()
                && self.retries.is_empty()
                && arrived.is_empty()
                && self.parked.len() < self.config.batch_commands;
            tokio::select! {
                biased;
                Some(flight) = self.flights.next(), if !self.flights.is_empty() => {
                    if self.landed(flight).await == Some(Ended::LeaseLost) {
                        return self.give_up(arrived);
                    }
                }
                found = async { match &mut self.lookup {
                    Some(lookup) => lookup.await,
                    None => std::future::pending().await,
                } } => {
                    self.lookup = None;
                    self.looked_up(found).await;
                }
                count = queue.recv_many(&mut arrived, self.config.batch_commands),
                    if room && !draining && self.flights.len() < self.config.in_flight =>
                {
                    draining |= count == 0;
                }
                () = drain.cancelled(), if !draining => {
                    // What is in the queue was accepted for decision: it is still decided.
                    queue.close();
                    while let Ok(pending) = queue.try_recv() {
                        arrived.push(pending);
                    }
                    draining = true;
                }
                () = lost.cancelled() => return self.give_up(arrived),
            }
        }
    }

    fn nothing_waits(&self) -> bool {
        self.parked.is_empty() && self.retries.is_empty()
    }

    /// Answers everybody who still waits; nothing of theirs is known to be written.
    fn give_up(&mut self, arrived: Vec<Pending>) -> Ended {
        let why = "the processor's lease went to another process; send it again";
        let waiting = self.under_way.drain().flat_map(|(_, repeats)| repeats);
        let retries = self.retries.drain(..).flatten();
        for pending in
            arrived.into_iter().chain(self.parked.drain(..)).chain(retries).chain(waiting)
        {
            pending.busy(why);
        }
        // Dropping the flights and the lookup drops their callers' channels, which answers them.
        self.flights = FuturesOrdered::new();
        self.lookup = None;
        Ended::LeaseLost
    }

    /// Forms the next batch and asks the log what it knows about it.
    fn start_lookup(&mut self, arrived: &mut Vec<Pending>) {
        if self.lookup.is_some() {
            return;
        }
        let commands = if !self.retries.is_empty() {
            // Order within a stream: the failed batches go first, each alone.
            if !self.flights.is_empty() {
                return;
            }
            let retry = self.retries.pop_front().unwrap_or_default();
            for pending in &retry {
                self.under_way.entry(command_key(pending)).or_default();
            }
            retry
        } else if self.flights.len() < self.config.in_flight {
            self.form(arrived)
        } else {
            return;
        };
        if commands.is_empty() {
            return;
        }

        let mut ids = Vec::new();
        let mut live = HashMap::new();
        let mut streams = HashSet::new();
        let mut claims = Vec::new();
        for pending in &commands {
            let command = &pending.command;
            if !command.fresh || pending.failures > 0 {
                ids.push((command.command_id, command.tenant.clone()));
            }
            let key = stream_key(pending);
            // Taken out now: until the decision it could be evicted, and an absent stream
            // that nobody looked up would count as new.
            if let Some(stream) = self.cache.pop(&key) {
                live.insert(key, stream);
            } else if !live.contains_key(&key) && (!command.new_stream || pending.failures > 0) {
                streams.insert(key);
            }
            if let Some(claim) = command.command.claim() {
                claims.push((command.tenant.clone(), claim));
            }
        }
        let streams: Vec<StreamKey> = streams.into_iter().collect();
        let log = self.log.clone();
        let lookup = async move {
            if ids.is_empty() && streams.is_empty() && claims.is_empty() {
                return Looked { commands, live, known: Ok(Known::default()) };
            }
            let found =
                tokio::try_join!(log.results(&ids), log.rehydrate(&streams), log.owners(&claims));
            let known = found.map(|(results, loaded, owners)| Known {
                results: results
                    .into_iter()
                    .map(|record| ((record.command_id, record.tenant.clone()), record))
                    .collect(),
                loaded,
                owners,
            });
            Looked { commands, live, known }
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
            let id = command_key(&pending);
            let key = stream_key(&pending);
            let claim = pending.command.command.claim();
            let claim_busy = claim.is_some_and(|claim| {
                self.busy_claims.contains(&(pending.command.tenant.clone(), claim))
            });
            let full =
                commands.len() >= self.config.batch_commands || bytes >= self.config.batch_bytes;
            if let Some(repeats) = self.under_way.get_mut(&id) {
                repeats.push(pending);
            } else if full
                || claim_busy
                || self.busy_streams.contains(&key)
                || held_back.contains(&key)
            {
                held_back.insert(key);
                self.parked.push_back(pending);
            } else {
                bytes += pending.command.size_hint();
                self.under_way.insert(id, Vec::new());
                commands.push(pending);
            }
        }
        commands
    }

    async fn looked_up(&mut self, Looked { commands, live, known }: Looked) {
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "the log could not be asked; trying again");
                self.again(commands, false);
                tokio::time::sleep(MAX_PAUSE / 5).await;
                return;
            }
        };
        let decider = Decider::new(known, live, self.clock.now(), self.config.stream_limit);
        let batch = decider.decide(commands);
        self.launch(batch);
    }

    fn launch(&mut self, batch: Batch) {
        let Batch { append, decided, streams, answered, parked } = batch;
        for pending in parked.into_iter().rev() {
            self.under_way.remove(&command_key(&pending)).into_iter().flatten().for_each(|p| {
                self.parked.push_front(p);
            });
            self.parked.push_front(pending);
        }
        for (pending, outcome) in answered {
            self.finish(pending, outcome);
        }
        if decided.is_empty() {
            for (key, stream) in streams {
                self.keep(key, stream);
            }
            return;
        }
        self.busy_streams.extend(streams.keys().cloned());
        self.busy_claims.extend(claims_of(&append));
        let (writer, token) = (self.writer.clone(), self.token);
        let flight = async move {
            let start = Instant::now();
            let result = writer.append(token, &append).await;
            Flight { append, decided, streams, result, took: start.elapsed() }
        };
        // Spawned, so that the statement is on its way while the next batch is decided.
        let flight = tokio::spawn(flight);
        self.flights.push_back(
            async move {
                match flight.await {
                    Ok(flight) => flight,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }
            .boxed(),
        );
    }

    async fn landed(&mut self, flight: Flight) -> Option<Ended> {
        let Flight { append, decided, streams, result, took } = flight;
        for key in streams.keys() {
            self.busy_streams.remove(key);
        }
        for claim in claims_of(&append) {
            self.busy_claims.remove(&claim);
        }
        let error = match result {
            Ok(written) => {
                self.stats.flushed(decided.len(), append.events.len(), took);
                self.feed.publish(&append.recorded(written));
                for decided in decided {
                    let outcome = decided.outcome(written);
                    self.finish(decided.pending, outcome);
                }
                for (key, stream) in streams {
                    self.keep(key, stream);
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
        self.again(commands, !error.is_transient());
        if error.is_transient() || self.writer.is_closed() {
            self.reconnect().await;
        }
        None
    }

    /// Decides a failed batch anew from the log: the speculative states are gone, the
    /// command ids are looked up again because the answer may have been lost after the
    /// commit. Where the content was to blame, the second failure halves the batch, so
    /// that the culprit soon stands alone.
    fn again(&mut self, mut commands: Vec<Pending>, blame: bool) {
        for pending in &mut commands {
            // The repeats that waited for it keep waiting: `under_way` stays as it is.
            self.cache.pop(&stream_key(pending));
            if blame || pending.failures == 0 {
                pending.failures += 1;
            }
        }
        let tried = commands.first().map_or(0, |pending| pending.failures);
        if !blame || tried <= 1 {
            self.retries.push_front(commands);
        } else if commands.len() > 1 {
            let second = commands.split_off(commands.len() / 2);
            self.retries.push_front(second);
            self.retries.push_front(commands);
        } else if let Some(pending) = commands.pop() {
            tracing::error!(
                command_id = %pending.command.command_id,
                command = pending.command.command.name(),
                "a command cannot be stored"
            );
            let problem = Problem::new(Code::Internal, "the command cannot be stored");
            let outcome = Outcome::undecided(
                Status::Invalid,
                pending.command.command_id,
                pending.command.stream_id,
                problem,
            );
            self.finish(pending, outcome);
        }
    }

    async fn reconnect(&mut self) {
        let mut pause = Duration::from_millis(20);
        // Other flights of the broken connection fail by themselves and join the retries.
        for _ in 0..8 {
            match self.log.writer().await {
                Ok(writer) => {
                    self.writer = Arc::new(writer);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "the database does not answer yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    fn finish(&mut self, pending: Pending, outcome: Outcome) {
        let repeats = self.under_way.remove(&command_key(&pending)).unwrap_or_default();
        for repeat in repeats {
            let answer = match outcome.status {
                // Nothing is remembered under the id: the repeat shares the answer.
                Status::Busy | Status::Invalid => outcome.clone(),
                Status::Accepted | Status::Refused | Status::Duplicate
                    if repeat.command.fingerprint == pending.command.fingerprint =>
                {
                    Outcome::duplicate_of(outcome.decision().clone())
                }
                Status::Accepted | Status::Refused | Status::Duplicate => {
                    mismatch(&repeat.command, outcome.position)
                }
            };
            self.stats.ended(answer.status);
            repeat.answer(answer);
        }
        self.stats.ended(outcome.status);
        pending.answer(outcome);
    }

    fn keep(&mut self, key: StreamKey, stream: Snapshot) {
        if stream.version == 0 {
            return;
        }
        if stream.version.is_multiple_of(self.config.snapshot_every) {
            let (log, key, snapshot) = (self.log.clone(), key.clone(), stream.clone());
            tokio::spawn(async move {
                if let Err(error) = log.keep_snapshot(&key, &snapshot).await {
                    tracing::debug!(%error, "a snapshot was not kept");
                }
            });
        }
        self.cache.put(key, stream);
    }
}

fn claims_of(append: &Append) -> impl Iterator<Item = (TenantId, Claim)> {
    let all = append.taken.iter().chain(&append.freed);
    all.map(|(tenant, claim, _)| (tenant.clone(), claim.clone())).collect::<Vec<_>>().into_iter()
}

fn stream_key(pending: &Pending) -> StreamKey {
    (pending.command.tenant.clone(), pending.command.stream_id)
}

fn command_key(pending: &Pending) -> CommandKey {
    (pending.command.command_id, pending.command.tenant.clone())
}
