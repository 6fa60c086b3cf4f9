//! What the log is asked about a batch before it is decided.

use std::collections::{HashMap, HashSet};

use domain::{Claim, TenantId};
use store::{CommandRecord, Log, Rehydrated, Snapshot, StoreError, StreamKey};
use uuid::Uuid;

use super::Pending;
use super::batch::CommandKey;

/// The answers.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub results: HashMap<CommandKey, CommandRecord>,
    pub loaded: Rehydrated,
    /// The streams that were looked for; one that is not in `loaded` either does not exist.
    pub looked_for: HashSet<StreamKey>,
    pub owners: HashMap<(TenantId, Claim), Uuid>,
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
    }

    /// Asks all at once; a question that is not put costs no round trip.
    pub async fn ask(self, log: &Log) -> Result<Known, StoreError> {
        let streams: Vec<StreamKey> = self.streams.iter().cloned().collect();
        let (results, loaded, owners) = tokio::try_join!(
            log.results(&self.ids),
            log.rehydrate(&streams),
            log.owners(&self.claims)
        )?;
        let by_id = |record: CommandRecord| ((record.command_id, record.tenant.clone()), record);
        let results = results.into_iter().map(by_id).collect();
        Ok(Known { results, loaded, looked_for: self.streams, owners })
    }
}
