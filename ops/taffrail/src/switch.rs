//! Here when this process holds the lease, behind NATS when another does.

use std::collections::BTreeMap;
use std::sync::Arc;

use commands::process::SchedulerHandle;
use commands::{Boxed, Claims, CommandEnvelope, Executor, Fits, Processor, QueueDepth, Waits};
use domain::task::{Assignment, ClaimTasks, Claimed};
use domain::{Outcome, Problem, TaskId, TenantId};

/// The processor, wherever it is.
pub struct SwitchExecutor {
    here: Processor,
    elsewhere: Arc<dyn Executor>,
}

impl SwitchExecutor {
    /// Prefers the processor of this process.
    pub fn new(here: Processor, elsewhere: Arc<dyn Executor>) -> Self {
        Self { here, elsewhere }
    }
}

impl Executor for SwitchExecutor {
    fn execute(&self, command: CommandEnvelope) -> Boxed<Outcome> {
        if *self.here.active().borrow() {
            self.here.execute(command)
        } else {
            self.elsewhere.execute(command)
        }
    }
}

/// The scheduler, wherever it is.
pub struct SwitchClaims {
    here: Arc<SchedulerHandle>,
    elsewhere: Arc<dyn Claims>,
}

impl SwitchClaims {
    /// Prefers the scheduler of this process.
    pub fn new(here: Arc<SchedulerHandle>, elsewhere: Arc<dyn Claims>) -> Self {
        Self { here, elsewhere }
    }
}

impl Claims for SwitchClaims {
    fn claim(
        &self,
        tenant: TenantId,
        queue: String,
        request: ClaimTasks,
    ) -> Boxed<Result<Claimed, Problem>> {
        if self.here.is_active() {
            self.here.claim(tenant, queue, request)
        } else {
            self.elsewhere.claim(tenant, queue, request)
        }
    }

    fn why(&self, tenant: TenantId, task: TaskId) -> Boxed<Option<Vec<Waits>>> {
        if self.here.is_active() {
            self.here.why(tenant, task)
        } else {
            self.elsewhere.why(tenant, task)
        }
    }

    fn fits(&self, tenant: TenantId, task: TaskId) -> Boxed<Option<Fits>> {
        if self.here.is_active() {
            self.here.fits(tenant, task)
        } else {
            self.elsewhere.fits(tenant, task)
        }
    }

    fn unheard(&self, tasks: Vec<Assignment>) -> Boxed<()> {
        if self.here.is_active() { self.here.unheard(tasks) } else { self.elsewhere.unheard(tasks) }
    }

    fn depths(&self, tenant: &TenantId) -> Option<BTreeMap<String, QueueDepth>> {
        if self.here.is_active() { self.here.depths(tenant) } else { self.elsewhere.depths(tenant) }
    }
}
