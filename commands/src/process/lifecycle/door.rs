//! The door for nodes: what they run comes in, what they should goes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::node::{SyncReply, SyncRequest, Wanted};
use domain::{Code, Problem, TenantId};
use uuid::Uuid;

use super::step::want;
use super::{Heard, Lifecycle};
use crate::process::SchedulerHandle;
use crate::{Boxed, Nodes};

/// What a node did not say for so long it does not stand for.
const STALE: Duration = Duration::from_secs(30);

/// Launches that one answer carries, in bytes of JSON, so that it fits into a message of
/// NATS however many agents a new node is to start. The node asks again for the rest.
const MOST_LAUNCHES: usize = 256 * 1024;

impl Lifecycle {
    /// Takes in what a node runs, and answers what it should.
    pub(super) fn sync(
        &mut self,
        tenant: &TenantId,
        node: Uuid,
        request: SyncRequest,
        now: Instant,
    ) -> SyncReply {
        let known = self.fleet.nodes.get(&node).filter(|facts| facts.tenant == *tenant);
        if known.is_none() {
            let detail = "there is no such node (any more); register it";
            let problem = Some(Problem::new(Code::NotFound, detail));
            return SyncReply { problem, ..SyncReply::default() };
        }
        let running: std::collections::HashMap<_, _> = request
            .agents
            .into_iter()
            .map(|one| (one.agent_id, (one.generation, one.phase)))
            .collect();
        let (mut carried, mut left_out) = (0, false);
        let agents = self.fleet.on(node).filter_map(|(id, life)| {
            let want = want(life, self.held.count(id))?;
            let generation = life.agent.generation;
            let has = running.get(&id).is_some_and(|(known, _)| *known == generation);
            let launch = life.launch.as_deref().filter(|_| !has).filter(|launch| {
                let bytes = serde_json::to_vec(launch).map_or(usize::MAX, |bytes| bytes.len());
                let fits = carried == 0 || bytes <= MOST_LAUNCHES - carried;
                carried += if fits { bytes.min(MOST_LAUNCHES) } else { 0 };
                left_out |= !fits;
                fits
            });
            let launch = launch.cloned().map(Box::new);
            Some(Wanted { agent_id: id, name: life.agent.name.clone(), generation, want, launch })
        });
        let agents: Vec<Wanted> = agents.collect();
        if left_out {
            self.calls.insert((tenant.clone(), node));
        }
        // What it says of itself changes what is believed of its agents: they are looked at.
        let before = self.heard.insert(node, Heard { at: now, boot: request.boot, running });
        let is_new = before.is_none_or(|before| {
            before.boot != request.boot
                || now.duration_since(before.at) > STALE
                || Some(&before.running) != self.heard.get(&node).map(|heard| &heard.running)
        });
        if is_new {
            self.touch_all_on(node);
        }
        SyncReply { ok: true, agents, problem: None }
    }
}

/// Answers nodes while this process runs the managers.
#[derive(Clone)]
pub struct LifecycleHandle(pub(in crate::process) Arc<SchedulerHandle>);

impl Nodes for LifecycleHandle {
    fn sync(&self, tenant: TenantId, node: Uuid, request: SyncRequest) -> Boxed<SyncReply> {
        let handle = self.0.clone();
        Box::pin(async move {
            let Some(session) = handle.session().await else {
                let detail = "the managers do not run in this process at present";
                let problem = Some(Problem::new(Code::Unavailable, detail));
                return SyncReply { problem, ..SyncReply::default() };
            };
            // A node that has just registered finds itself known.
            let seen = *session.source.watch().borrow();
            session.folded_to(seen).await;
            let reply = session.lifecycle.lock().sync(&tenant, node, request, Instant::now());
            session.wake.notify_one();
            reply
        })
    }
}
