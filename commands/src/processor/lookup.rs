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
    pub owners: HashMap<(TenantId, Claim), Uuid>,
}

/// The questions: nothing that is certain without the log is asked.
#[derive(Debug, Default)]
pub(super) struct Questions {
    ids: Vec<CommandKey>,
    streams: HashSet<StreamKey>,
    claims: Vec<(TenantId, Claim)>,
}

impl Questions {
    /// Adds what must be known for a command; `live` has the streams that are in memory.
    pub fn add(&mut self, pending: &Pending, live: &HashMap<StreamKey, Snapshot>) {
        let command = &pending.command;
        if !command.fresh || pending.failed {
            self.ids.push(pending.command_key());
        }
        let key = pending.stream_key();
        if (!command.new_stream || pending.failed) && !live.contains_key(&key) {
            self.streams.insert(key);
        }
        if let Some(claim) = command.command.claim() {
            self.claims.push((command.tenant.clone(), claim));
        }
    }

    /// Asks all at once; a question that is not put costs no round trip.
    pub async fn ask(self, log: &Log) -> Result<Known, StoreError> {
        let streams: Vec<StreamKey> = self.streams.into_iter().collect();
        let (results, loaded, owners) = tokio::try_join!(
            log.results(&self.ids),
            log.rehydrate(&streams),
            log.owners(&self.claims)
        )?;
        let by_id = |record: CommandRecord| ((record.command_id, record.tenant.clone()), record);
        Ok(Known { results: results.into_iter().map(by_id).collect(), loaded, owners })
    }
}
