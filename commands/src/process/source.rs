//! Where managers read the log, so that tests can put a log in memory there.

use std::sync::Arc;

use domain::{Recorded, TenantId};
use store::{Reader, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::Boxed;

/// A page of the log.
pub type Events = Result<Vec<Arc<Recorded>>, StoreError>;

/// The log, by position and by stream.
pub trait Source: Send + Sync + 'static {
    /// The last committed position, asked of the log itself.
    fn head(&self) -> Boxed<Result<u64, StoreError>>;
    /// The events behind a position, in order and without a hole.
    fn after(&self, position: u64, limit: usize) -> Boxed<Events>;
    /// The events of one stream behind a version.
    fn stream(&self, tenant: TenantId, id: Uuid, version: u64, limit: usize) -> Boxed<Events>;
    /// The last committed position that this process knows of.
    fn watch(&self) -> watch::Receiver<u64>;
}

impl Source for Reader {
    fn head(&self) -> Boxed<Result<u64, StoreError>> {
        let log = self.log.clone();
        Box::pin(async move { Ok(log.head().await?.position) })
    }

    fn after(&self, position: u64, limit: usize) -> Boxed<Events> {
        let reader = self.clone();
        Box::pin(async move { Self::after(&reader, position, limit).await })
    }

    fn stream(&self, tenant: TenantId, id: Uuid, version: u64, limit: usize) -> Boxed<Events> {
        let log = self.log.clone();
        Box::pin(async move { log.read_stream(&tenant, id, version, limit).await })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.feed.watch()
    }
}
