//! What the log is asked about a batch before it is decided.

use std::collections::{HashMap, HashSet};

use domain::task::MAX_WALK;
use domain::{Claim, TenantId};
use store::{CommandRecord, Log, Rehydrated, Snapshot, StoreError, StreamKey};
use uuid::Uuid;

use super::Pending;
use super::batch::CommandKey;
use super::links;

/// The answers.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub results: HashMap<CommandKey, CommandRecord>,
    pub loaded: Rehydrated,
    /// The streams that were looked for; one that is not in `loaded` either does not exist.
    pub looked_for: HashSet<StreamKey>,
    pub owners: HashMap<(TenantId, Claim), Uuid>,
    pub links: links::Known,
}

/// The questions. Nothing that is certain without the log is asked, and, unless one is to be
/// careful, nothing that is likely: an id that nobody mentioned lately is taken for new, and
/// so is a stream that a command creates. The log's unique keys are the referees: what was
/// wrongly taken for new fails there, and is asked about before it is decided again.
#[derive(Debug, Default)]
pub(super) struct Questions {
    careful: bool,
    ids: Vec<CommandKey>,
    streams: HashSet<StreamKey>,
    claims: Vec<(TenantId, Claim)>,
    /// Tasks whose parts are counted.
    parents: HashSet<StreamKey>,
    /// Tasks that are to depend on others: who waits for them is looked for.
    awaited: HashSet<StreamKey>,
}

impl Questions {
    pub fn new(careful: bool) -> Self {
        Self { careful, ..Self::default() }
    }

    /// Adds what must be known for a command; `live` has the streams that are in memory.
    pub fn add(&mut self, pending: &Pending, live: &HashMap<StreamKey, Snapshot>) {
        let command = &pending.command;
        if pending.asks || (self.careful && !command.fresh) {
            self.ids.push(pending.command_key());
        }
        let key = pending.stream_key();
        let creates = command.command.creates() && (!self.careful || command.new_stream);
        if (pending.asks || !creates) && !live.contains_key(&key) {
            self.streams.insert(key);
        }
        if let Some(claim) = command.command.claim() {
            self.claims.push((command.tenant.clone(), claim));
        }
        if let Some(parent) = pending.parent_key() {
            if !live.contains_key(&parent) {
                self.streams.insert(parent.clone());
            }
            self.parents.insert(parent);
        }
        // Nobody waits for an id that was made for this very call.
        let depends = command.command.links().and_then(|links| links.depends_on);
        if depends.is_some_and(|on| !on.is_empty()) && !command.new_stream {
            self.awaited.insert(pending.stream_key());
        }
    }

    /// Asks all at once; a question that is not put costs no round trip.
    pub async fn ask(self, log: &Log) -> Result<Known, StoreError> {
        let streams: Vec<StreamKey> = self.streams.iter().cloned().collect();
        let parents: Vec<StreamKey> = self.parents.into_iter().collect();
        let awaited: Vec<StreamKey> = self.awaited.into_iter().collect();
        let (results, loaded, owners, linked) = tokio::try_join!(
            log.results(&self.ids),
            log.rehydrate(&streams),
            log.owners(&self.claims),
            log.linked(&parents, &awaited, MAX_WALK)
        )?;
        let by_id = |record: CommandRecord| ((record.command_id, record.tenant.clone()), record);
        let results = results.into_iter().map(by_id).collect();
        Ok(Known { results, loaded, looked_for: self.streams, owners, links: linked.into() })
    }
}
