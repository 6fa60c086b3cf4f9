//! Leases with fencing tokens: one active holder per role, judged by the database's clock.

use std::time::Duration;

use deadpool_postgres::Pool;
use domain::Timestamp;

use crate::StoreError;

/// The right to run a role until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Such as `processor`.
    pub role: String,
    /// Who holds it.
    pub holder: String,
    /// Grows with every change of holder; each write of the holder carries it.
    pub token: i64,
    /// The database's time when it was given.
    pub given_at: Timestamp,
}

/// The table of leases.
#[derive(Debug, Clone)]
pub struct Leases {
    pool: Pool,
}

impl Leases {
    /// Leases in the pool's database.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// The database's time.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let client = self.pool.get().await?;
        Ok(client.query_one("SELECT clock_timestamp()", &[]).await?.get(0))
    }

    /// Takes a role that nobody holds (any more); `None` while somebody does.
    ///
    /// `force` takes it from a holder that is known to be dead. The token of the
    /// `processor` role is written into `log_head` in the same statement, so an
    /// append by an earlier holder finds its token gone.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn acquire(
        &self,
        role: &str,
        holder: &str,
        ttl: Duration,
        force: bool,
    ) -> Result<Option<Lease>, StoreError> {
        let client = self.pool.get().await?;
        let row = client
            .query_opt(
                "WITH l AS (
                     INSERT INTO leases AS l (role, holder, token, expires_at)
                     VALUES ($1, $2, (SELECT max(token) + 1 FROM log_head),
                             clock_timestamp() + $3 * interval '1 millisecond')
                     ON CONFLICT (role) DO UPDATE
                        SET holder = $2, token = l.token + 1, expires_at = excluded.expires_at
                      WHERE l.expires_at <= clock_timestamp() OR $4
                     RETURNING token
                 ), fenced AS (
                     UPDATE log_head SET token = l.token FROM l WHERE shard = 0 AND $1 = 'processor'
                 )
                 SELECT token, clock_timestamp() FROM l",
                &[&role, &holder, &(ttl.as_millis() as f64), &force],
            )
            .await?;
        Ok(row.map(|row| Lease {
            role: role.into(),
            holder: holder.into(),
            token: row.get(0),
            given_at: row.get(1),
        }))
    }

    /// The token of whoever holds a role or held it last; 0 before the first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn token(&self, role: &str) -> Result<i64, StoreError> {
        let client = self.pool.get().await?;
        let row = client.query_opt("SELECT token FROM leases WHERE role = $1", &[&role]).await?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    /// Holds on to a role; yields the database's time, or `None` when the role was lost.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn renew(
        &self,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Option<Timestamp>, StoreError> {
        let client = self.pool.get().await?;
        let row = client
            .query_opt(
                "UPDATE leases SET expires_at = clock_timestamp() + $3 * interval '1 millisecond'
                 WHERE role = $1 AND token = $2 RETURNING clock_timestamp()",
                &[&lease.role, &lease.token, &(ttl.as_millis() as f64)],
            )
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Gives a role back at once, so that a standby need not wait.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let client = self.pool.get().await?;
        client
            .execute(
                "UPDATE leases SET expires_at = clock_timestamp() WHERE role = $1 AND token = $2",
                &[&lease.role, &lease.token],
            )
            .await?;
        Ok(())
    }
}
