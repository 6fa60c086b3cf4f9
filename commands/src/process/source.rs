//! Where managers read the log, so that tests can put a log in memory there.

use std::sync::Arc;

use domain::{Recorded, TenantId};
use store::{Reader, Scan, StoreError};
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
    /// A long stretch of the log, read and decoded ahead; `None`: it comes by pages alone.
    fn scan(&self, _after: u64, _to: u64) -> Option<Scan> {
        None
    }
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

    fn scan(&self, after: u64, to: u64) -> Option<Scan> {
        Some(self.log.scan(after, to))
    }

    fn stream(&self, tenant: TenantId, id: Uuid, version: u64, limit: usize) -> Boxed<Events> {
        let log = self.log.clone();
        Box::pin(async move { log.read_stream(&tenant, id, version, limit).await })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.feed.watch()
    }
}
