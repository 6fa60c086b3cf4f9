//! The sealer: follows the log and says, signed and outside the database, what it was.
//!
//! Off the hot path: nothing waits for a seal but an export. Invariants: a seal is written
//! only under the lease's token and the store's generation; it is in the database before it
//! is outside, and what a crash took from the database is taken back from outside where the
//! log still fits it; where the log does not, a new chain begins and names what was left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commands::Clock;
use ed25519_dalek::SigningKey;
use store::{Reader, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::key::{self, KeyError};
use super::leaf::leaf_of;
use super::outside::{Outside, OutsideError};
use super::record::{Kind, Left, Seal};
use super::table::Table;
use super::tree::{Frontier, Hash, Node};

/// A seal is made when so many events wait for one …
const EVENTS: u64 = 1_000;
/// … or when one has waited so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// Events of one read; a long backlog is sealed in such steps.
const CHUNK: usize = 4_096;
/// How often an idle sealer looks whether the store began a new generation, or somebody
/// asks for another key.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last events may take at the end.
const LAST: Duration = Duration::from_secs(2);
/// How often seals are published outside: under load those of the time between go together,
/// with one flush of the file.
const PACE: Duration = Duration::from_millis(100);
/// Seals that are published outside at once.
const AT_ONCE: u32 = 256;

/// Why the sealer stopped for the moment.
#[derive(Debug, thiserror::Error)]
pub enum SealerError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A place outside.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// What is sealed is not what is there.
    #[error(
        "the log does not fit seal {number}: something below position {size} was changed; nothing \
         is sealed on top of it. `taffrail verify --live` names the first bad position"
    )]
    Broken {
        /// The seal.
        number: u64,
        /// Its size.
        size: u64,
    },
    /// The lease or the generation is another one: begin anew.
    #[error("the lease or the store's generation changed")]
    Changed,
}

/// How far the sealer has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The last seal's number.
    pub number: u64,
    /// The last position that it covers.
    pub position: u64,
    /// Whether the last try failed.
    pub failing: bool,
}

/// Makes the seals.
pub struct Sealer {
    reader: Reader,
    table: Table,
    clock: Clock,
    key_path: PathBuf,
    outside: Vec<Arc<dyn Outside>>,
    sealed: watch::Sender<Sealed>,
}

/// What a sealer with the lease works on.
struct Work {
    token: i64,
    key: SigningKey,
    tree: Frontier,
    last: Option<Seal>,
    /// The highest number that was ever given, here or outside.
    number: u64,
    epoch: u64,
    /// The chain before, where the next seal begins another.
    left: Option<Left>,
    /// Nodes that became complete since the last seal.
    nodes: Vec<(Node, Hash)>,
}

impl Work {
    fn sealed(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.size)
    }

    fn add(&mut self, leaf: Hash) {
        let nodes = &mut self.nodes;
        self.tree.push(leaf, |node, hash| {
            if Table::keeps(node.0) {
                nodes.push((node, *hash));
            }
        });
    }
}

impl Sealer {
    /// A sealer that signs with the key in that file, made where there is none.
    ///
    /// # Errors
    /// When the key can neither be read nor made.
    pub fn new(
        reader: Reader,
        clock: Clock,
        key_path: PathBuf,
        outside: Vec<Arc<dyn Outside>>,
    ) -> Result<Self, KeyError> {
        key::load_or_make(&key_path)?;
        let table = Table::new(reader.log.pool().clone());
        Ok(Self { reader, table, clock, key_path, outside, sealed: watch::Sender::default() })
    }

    /// How far it has come; wakes on every change.
    pub fn sealed(&self) -> watch::Receiver<Sealed> {
        self.sealed.subscribe()
    }

    /// Seals under a lease's token until cancelled. Every failure is waited out.
    pub async fn run(&self, token: i64, cancel: CancellationToken) {
        let mut failing = false;
        while !cancel.is_cancelled() {
            match self.once(token, &cancel, &mut failing).await {
                Ok(()) => break,
                Err(SealerError::Changed) => {}
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "the sealer was interrupted; it goes on by itself");
                    }
                    failing = true;
                    self.sealed.send_modify(|sealed| sealed.failing = true);
                }
            }
            let _ = timeout(PAUSE, cancel.cancelled()).await;
        }
    }

    async fn once(
        &self,
        token: i64,
        cancel: &CancellationToken,
        failing: &mut bool,
    ) -> Result<(), SealerError> {
        let mut work = self.take_up(token).await?;
        *failing = false;
        self.told(&work);
        let over = CancellationToken::new();
        let sealing = async {
            let ended = self.follow(&mut work, cancel).await;
            if cancel.is_cancelled() {
                // An orderly end leaves nothing unsealed that stands already.
                let last = timeout(LAST, self.rest(&mut work)).await;
                if !matches!(last, Ok(Ok(()))) {
                    tracing::info!("the last events are sealed at the next start");
                }
            }
            over.cancel();
            ended
        };
        let publishing = self.outside.iter().map(|place| self.publish(&**place, &over));
        let (ended, _) = tokio::join!(sealing, futures::future::join_all(publishing));
        ended
    }

    fn told(&self, work: &Work) {
        let now = Sealed { number: work.number, position: work.sealed(), failing: false };
        self.sealed.send_if_modified(|sealed| std::mem::replace(sealed, now) != now);
    }

    /// Finds out where the last seal stands, here and outside, and whether the log fits it.
    async fn take_up(&self, token: i64) -> Result<Work, SealerError> {
        let mut key = key::load(&self.key_path)?;
        let head = self.reader.log.head().await?;
        let last = self.table.last().await?;
        let (number, size) = last.as_ref().map_or((0, 0), |last| (last.number, last.size));
        // Somebody rotated and was stopped before the file was in its place.
        let next = key::next_path(&self.key_path);
        if let (Some(said), Ok(following)) =
            (last.as_ref().and_then(|last| last.next), key::load(&next))
            && said.key == following.verifying_key().to_bytes()
        {
            self.replace_key()?;
            key = following;
        }
        let tree = self.fitting(last.as_ref(), size, head.position).await?;
        let mut work = Work {
            token,
            key,
            tree,
            last,
            number,
            epoch: head.epoch,
            left: None,
            nodes: Vec::new(),
        };
        let mut ahead: Vec<Seal> = Vec::new();
        for place in &self.outside {
            let known = place.after(number).await?;
            for seal in known {
                if seal.is_signed() && !ahead.iter().any(|one| one.number == seal.number) {
                    ahead.push(seal);
                }
            }
        }
        ahead.sort_by_key(|seal| seal.number);
        self.adopt(&mut work, &ahead, head.position).await?;
        Ok(work)
    }

    /// The tree under the last seal.
    async fn fitting(
        &self,
        last: Option<&Seal>,
        size: u64,
        head: u64,
    ) -> Result<Frontier, SealerError> {
        let Some(last) = last else { return Ok(Frontier::default()) };
        let broken = SealerError::Broken { number: last.number, size };
        if head < size {
            return Err(broken);
        }
        if let Ok(tree) = self.table.frontier(size).await
            && tree.root() == last.root
        {
            return Ok(tree);
        }
        // Either the nodes are wrong, which are a cache, or the log.
        tracing::warn!("the nodes of the log's tree do not fit its last seal: made anew");
        let mut scan = self.reader.log.scan(0, size);
        let (mut tree, mut nodes) = (Frontier::default(), Vec::new());
        loop {
            let events = scan.next().await?;
            if events.is_empty() {
                break;
            }
            for event in events {
                tree.push(leaf_of(&event), |node, hash| {
                    if Table::keeps(node.0) {
                        nodes.push((node, *hash));
                    }
                });
            }
        }
        if tree.root() != last.root {
            return Err(broken);
        }
        self.table.keep_nodes(&nodes).await?;
        Ok(tree)
    }

    /// Seals that are outside and not here: a crash took them, or an older copy of the
    /// database was put back.
    async fn adopt(&self, work: &mut Work, ahead: &[Seal], head: u64) -> Result<(), SealerError> {
        let ours = work.key.verifying_key().to_bytes();
        let mut lost = None;
        for seal in ahead {
            // Only what this chain's key signed is ours; another's words change nothing.
            let chained = work.last.as_ref().map_or([0; 32], Seal::hash) == seal.previous
                && seal.number == work.number + 1;
            let known = seal.key == ours || seal.next.is_some_and(|next| next.key == ours);
            if !known {
                tracing::warn!(number = seal.number, "a seal outside is signed by somebody else");
                continue;
            }
            let fits = lost.is_none()
                && chained
                && seal.epoch == work.epoch
                && seal.size <= head
                && self.advance(work, seal).await?;
            if fits {
                let nodes = std::mem::take(&mut work.nodes);
                if !self.table.write(work.token, seal, &nodes).await? {
                    return Err(SealerError::Changed);
                }
                (work.last, work.number) = (Some(seal.clone()), seal.number);
            } else {
                lost = Some(seal);
            }
        }
        let (number, size) = (work.number, work.sealed());
        let hash = work.last.as_ref().map_or([0; 32], Seal::hash);
        let other_epoch = work.last.as_ref().is_some_and(|last| last.epoch != work.epoch);
        let signs = |last: &Seal| last.next.map_or(last.key, |next| next.key);
        let other_key = work.last.as_ref().is_some_and(|last| signs(last) != ours);
        let Some(lost) = lost else {
            if other_epoch || other_key {
                work.left = Some(Left { number, size, hash, sealed: size });
            }
            return Ok(());
        };
        if lost.epoch >= work.epoch {
            // The relay did not see it: its stream may be gone as well.
            let mut epoch = work.epoch;
            while epoch <= lost.epoch {
                epoch = self.reader.log.bump_epoch().await?;
            }
            tracing::warn!(
                epoch,
                sealed = lost.size,
                "seals outside are ahead of the log: an older copy of the database was put back, \
                 and a new epoch begins"
            );
            work.epoch = epoch;
        }
        if work.tree.size() != size {
            // The events that were tried belong to no seal yet: they are read again.
            work.tree = self.fitting(work.last.as_ref(), size, head).await?;
            work.nodes.clear();
        }
        work.left = Some(Left { number, size, hash, sealed: lost.size.max(size) });
        // Numbers that were published stay theirs.
        work.number = lost.number;
        Ok(())
    }

    /// Goes on to a seal's size; whether the log has its root there.
    async fn advance(&self, work: &mut Work, seal: &Seal) -> Result<bool, SealerError> {
        while work.tree.size() < seal.size {
            let left = usize::try_from(seal.size - work.tree.size()).unwrap_or(CHUNK).min(CHUNK);
            let events = self.reader.log.read(work.tree.size(), left).await?;
            if events.is_empty() {
                return Ok(false);
            }
            events.iter().for_each(|event| work.add(leaf_of(event)));
        }
        Ok(work.tree.size() == seal.size && work.tree.root() == seal.root)
    }

    async fn follow(&self, work: &mut Work, cancel: &CancellationToken) -> Result<(), SealerError> {
        let mut since: Option<Instant> = None;
        let mut look = Instant::now() + LOOK;
        loop {
            let due = since.map_or(look, |since| (since + INTERVAL).min(look));
            // Reading alone is given up half-way: a seal is written or not.
            let read = tokio::time::timeout_at(due, self.reader.next(work.tree.size(), CHUNK));
            let read = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                read = read => read,
            };
            if let Ok(events) = read {
                for event in events? {
                    // An earlier one was there before this generation began.
                    if event.epoch > work.epoch {
                        return Err(SealerError::Changed);
                    }
                    work.add(leaf_of(&event));
                }
                since.get_or_insert_with(Instant::now);
            }
            let now = Instant::now();
            let waits = work.tree.size() - work.sealed();
            let old = since.is_some_and(|since| now >= since + INTERVAL);
            if waits >= EVENTS || (waits > 0 && old) {
                self.seal(work, Kind::Seal).await?;
                since = None;
            }
            if now >= look {
                look = now + LOOK;
                if self.reader.log.head().await?.epoch != work.epoch {
                    return Err(SealerError::Changed);
                }
                self.rotate(work).await?;
            }
        }
    }

    /// Seals what stands and is not sealed.
    async fn rest(&self, work: &mut Work) -> Result<(), SealerError> {
        loop {
            let events = self.reader.after(work.tree.size(), CHUNK).await?;
            if events.is_empty() {
                break;
            }
            events.iter().for_each(|event| work.add(leaf_of(event)));
        }
        if work.tree.size() > work.sealed() {
            self.seal(work, Kind::Seal).await?;
        }
        Ok(())
    }

    async fn seal(&self, work: &mut Work, kind: Kind) -> Result<(), SealerError> {
        let next = match kind {
            Kind::Seal => None,
            Kind::Rotation => Some(key::load(&key::next_path(&self.key_path))?),
        };
        let previous = match (&work.left, &work.last) {
            (Some(left), _) => left.hash,
            (None, Some(last)) => last.hash(),
            (None, None) => [0; 32],
        };
        let draft = Seal {
            number: work.number + 1,
            kind,
            epoch: work.epoch,
            size: work.tree.size(),
            root: work.tree.root(),
            time: self.clock.now(),
            previous,
            left: work.left,
            key: [0; 32],
            next: None,
            signature: [0; 64],
        };
        let seal = draft.signed(&work.key, next.as_ref());
        if !self.table.write(work.token, &seal, &work.nodes).await? {
            return Err(SealerError::Changed);
        }
        work.nodes.clear();
        work.number = seal.number;
        (work.last, work.left) = (Some(seal), None);
        self.told(work);
        Ok(())
    }

    /// Changes the key, where the next one lies ready.
    async fn rotate(&self, work: &mut Work) -> Result<(), SealerError> {
        let path = key::next_path(&self.key_path);
        if !path.exists() {
            return Ok(());
        }
        let next = key::load(&path)?;
        self.seal(work, Kind::Rotation).await?;
        self.replace_key()?;
        work.key = next;
        tracing::info!(
            key = hex::encode(work.key.verifying_key().to_bytes()),
            "seals are signed with another key from now on"
        );
        Ok(())
    }

    fn replace_key(&self) -> Result<(), KeyError> {
        let next = key::next_path(&self.key_path);
        std::fs::rename(&next, &self.key_path)
            .map_err(|source| KeyError::File { path: next, source })
    }

    /// Brings a place outside up to the last seal, until sealing is over. One that fails is
    /// tried again: the database has them all. Seals that come meanwhile go together.
    async fn publish(&self, place: &dyn Outside, over: &CancellationToken) {
        let mut sealed = self.sealed.subscribe();
        let (mut published, mut failing) = (None, false);
        loop {
            let known = sealed.borrow_and_update().number;
            let ending = over.is_cancelled();
            let done = self.bring(place, &mut published, known).await;
            match done {
                Ok(()) if std::mem::take(&mut failing) => {
                    tracing::info!(place = place.name(), "seals are published again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(place = place.name(), %error, "seals are not published yet");
                    }
                }
            }
            if ending {
                return;
            }
            let pause = if failing { PAUSE } else { PACE };
            if timeout(pause, over.cancelled()).await.is_err() && !failing {
                tokio::select! {
                    () = over.cancelled() => {}
                    _ = sealed.changed() => {}
                }
            }
        }
    }

    async fn bring(
        &self,
        place: &dyn Outside,
        published: &mut Option<u64>,
        known: u64,
    ) -> Result<(), SealerError> {
        let mut at = match *published {
            Some(at) => at,
            None => place.last().await?,
        };
        // Where it fails, nobody knows how much of it came there.
        *published = None;
        while at < known {
            let seals = self.table.after(at, AT_ONCE).await?;
            let Some(last) = seals.last().map(|seal| seal.number) else { break };
            place.publish(seals).await?;
            at = last;
        }
        *published = Some(at);
        Ok(())
    }
}
