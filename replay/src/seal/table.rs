//! Seals and the tree's nodes in the database, and proofs out of them.
//!
//! Only nodes of heights 8, 16, … are kept: with them and at most 256 of the rows below each,
//! any proof is made, whatever the log's length.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Pool;
use futures::future::try_join_all;
use store::StoreError;
use tokio_postgres::Row;

use super::leaf::leaf;
use super::record::Seal;
use super::tree::{Frontier, Hash, Node, consistency, inclusion, join, node_hash, parts};

/// Heights that are kept are multiples of this.
const STEP: u8 = 8;
/// The role whose lease guards the seals.
pub const ROLE: &str = "sealer";

/// Why a proof cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No seal covers it yet; `sealed` is how far seals go.
    #[error("positions up to {sealed} are sealed")]
    NotYet {
        /// The last position under a seal.
        sealed: u64,
    },
    /// The log is not what was sealed: something changed it.
    #[error("the log does not fit its seal {number}: run `taffrail verify --live`")]
    Broken {
        /// The seal.
        number: u64,
    },
}

/// Seals and nodes, read and (by the sealer) written.
#[derive(Debug, Clone)]
pub struct Table {
    pool: Pool,
}

impl Table {
    /// Those behind a pool of the service's role.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// The last seal.
    ///
    /// # Errors
    /// When the database cannot be reached or the row cannot be read.
    pub async fn last(&self) -> Result<Option<Seal>, StoreError> {
        let rows = self.select("SELECT doc, number FROM seals ORDER BY number DESC LIMIT 1", &[]);
        Ok(rows.await?.pop())
    }

    /// At most so many seals behind a number, in order.
    ///
    /// # Errors
    /// As [`Table::last`].
    pub async fn after(&self, number: u64, limit: u32) -> Result<Vec<Seal>, StoreError> {
        let sql = "SELECT doc, number FROM seals WHERE number > $1 ORDER BY number LIMIT $2";
        self.select(sql, &[&bigint(number), &i64::from(limit)]).await
    }

    /// At most so many seals below a number, or the newest ones; the newest first.
    ///
    /// # Errors
    /// As [`Table::last`].
    pub async fn before(&self, number: Option<u64>, limit: u32) -> Result<Vec<Seal>, StoreError> {
        let sql = "SELECT doc, number FROM seals WHERE number < $1 ORDER BY number DESC LIMIT $2";
        self.select(sql, &[&number.map_or(i64::MAX, bigint), &i64::from(limit)]).await
    }

    /// Number and size of the first seal that covers a position. Later chains count: what they
    /// left is passed by.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn covering(&self, position: u64) -> Result<Option<(u64, u64)>, StoreError> {
        let sql = "SELECT number, size FROM seals WHERE size >= $1 ORDER BY size, number LIMIT 1";
        let client = self.pool.get().await?;
        let row =
            client.query_opt(&client.prepare_cached(sql).await?, &[&bigint(position)]).await?;
        Ok(row.map(|row| (row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64)))
    }

    /// Number and size of the last seal; zeros when there is none.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn end(&self) -> Result<(u64, u64), StoreError> {
        let sql = "SELECT number, size FROM seals ORDER BY number DESC LIMIT 1";
        let client = self.pool.get().await?;
        let row = client.query_opt(&client.prepare_cached(sql).await?, &[]).await?;
        Ok(row.map_or((0, 0), |row| (row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64)))
    }

    /// The last seal of exactly this size.
    ///
    /// # Errors
    /// As [`Table::last`].
    pub async fn of_size(&self, size: u64) -> Result<Option<Seal>, StoreError> {
        let sql = "SELECT doc, number FROM seals WHERE size = $1 ORDER BY number DESC LIMIT 1";
        Ok(self.select(sql, &[&bigint(size)]).await?.pop())
    }

    /// Every change of keys, in order.
    ///
    /// # Errors
    /// As [`Table::last`].
    pub async fn rotations(&self) -> Result<Vec<Seal>, StoreError> {
        let sql = "SELECT doc, number FROM seals WHERE kind = 'rotation' ORDER BY number";
        self.select(sql, &[]).await
    }

    async fn select(
        &self,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Seal>, StoreError> {
        let client = self.pool.get().await?;
        let rows = client.query(&client.prepare_cached(sql).await?, values).await?;
        rows.iter().map(read).collect()
    }

    /// Writes seals with the nodes that became complete, if the lease is still held and the
    /// store's generation the one they name; `false` when not.
    ///
    /// It does not wait for the disk: what a crash takes is written again from outside.
    ///
    /// # Errors
    /// When the database cannot be reached, or somebody wrote a seal of that number.
    pub async fn write(
        &self,
        token: i64,
        seal: &Seal,
        nodes: &[(Node, Hash)],
    ) -> Result<bool, StoreError> {
        let client = self.pool.get().await?;
        let sql = "WITH quick AS MATERIALIZED (
                SELECT set_config('synchronous_commit', 'off', true)),
             ours AS MATERIALIZED (
                SELECT FROM quick, leases l, log_head h
                WHERE l.role = $1 AND l.token = $2 AND h.shard = 0 AND h.epoch = $3),
             made AS (
                INSERT INTO seal_nodes (height, index, hash)
                SELECT n.* FROM unnest($4::smallint[], $5::bigint[], $6::bytea[]) n, ours
                ON CONFLICT (height, index) DO UPDATE SET hash = excluded.hash)
             INSERT INTO seals (number, kind, size, epoch, sealed_at, doc)
             SELECT $7, $8, $9, $3, $10, $11 FROM ours";
        let heights: Vec<i16> = nodes.iter().map(|((height, _), _)| i16::from(*height)).collect();
        let indexes: Vec<i64> = nodes.iter().map(|((_, index), _)| bigint(*index)).collect();
        let hashes: Vec<&[u8]> = nodes.iter().map(|(_, hash)| hash.as_slice()).collect();
        let document = document(seal)?;
        let kind = kind(seal);
        let written = client
            .execute(
                &client.prepare_cached(sql).await?,
                &[
                    &ROLE,
                    &token,
                    &bigint(seal.epoch),
                    &heights,
                    &indexes,
                    &hashes,
                    &bigint(seal.number),
                    &kind,
                    &bigint(seal.size),
                    &seal.time,
                    &document,
                ],
            )
            .await?;
        Ok(written == 1)
    }

    /// Replaces nodes that turned out wrong; they are a cache.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn keep_nodes(&self, nodes: &[(Node, Hash)]) -> Result<(), StoreError> {
        let client = self.pool.get().await?;
        let sql = "INSERT INTO seal_nodes (height, index, hash)
             SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
             ON CONFLICT (height, index) DO UPDATE SET hash = excluded.hash";
        for nodes in nodes.chunks(10_000) {
            let heights: Vec<i16> = nodes.iter().map(|((h, _), _)| i16::from(*h)).collect();
            let indexes: Vec<i64> = nodes.iter().map(|((_, index), _)| bigint(*index)).collect();
            let hashes: Vec<&[u8]> = nodes.iter().map(|(_, hash)| hash.as_slice()).collect();
            client.execute(sql, &[&heights, &indexes, &hashes]).await?;
        }
        Ok(())
    }

    /// Whether nodes of a height are kept.
    pub fn keeps(height: u8) -> bool {
        height > 0 && height.is_multiple_of(STEP)
    }

    /// The right edge of the tree over so many positions.
    ///
    /// # Errors
    /// When the database cannot be reached, or a node or an event is missing.
    pub async fn frontier(&self, size: u64) -> Result<Frontier, StoreError> {
        let nodes = self.nodes(&parts(0..size)).await?;
        let hole = || StoreError::Hole { expected: size, found: 0 };
        Frontier::of(size, nodes).ok_or_else(hole)
    }

    /// The root over so many positions.
    ///
    /// # Errors
    /// As [`Table::frontier`].
    pub async fn root(&self, size: u64) -> Result<Hash, StoreError> {
        Ok(self.frontier(size).await?.root())
    }

    /// The nodes that a range of positions consists of, from left to right.
    ///
    /// # Errors
    /// As [`Table::frontier`].
    pub async fn range(&self, range: std::ops::Range<u64>) -> Result<Vec<Hash>, StoreError> {
        self.nodes(&parts(range)).await
    }

    /// The path that proves a position in the tree of a size, and the leaf it starts from.
    ///
    /// # Errors
    /// As [`Table::frontier`].
    pub async fn inclusion(
        &self,
        position: u64,
        size: u64,
    ) -> Result<(Hash, Vec<Hash>), StoreError> {
        let index = position - 1;
        let leaf = self.nodes(&[(0, index)]).await?;
        Ok((leaf[0], self.roots(&inclusion(index, size)).await?))
    }

    /// The path that proves the tree of one size to be the beginning of another's.
    ///
    /// # Errors
    /// As [`Table::frontier`].
    pub async fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, StoreError> {
        self.roots(&consistency(from, to)).await
    }

    async fn roots(&self, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Hash>, StoreError> {
        let each: Vec<Vec<Node>> = ranges.iter().cloned().map(parts).collect();
        let mut nodes = self.nodes(&each.concat()).await?.into_iter();
        let joined =
            each.iter().map(|one| join(&nodes.by_ref().take(one.len()).collect::<Vec<_>>()));
        // A range is never empty.
        Ok(joined.map(Option::unwrap_or_default).collect())
    }

    /// Any complete nodes: from the kept ones below them, or from the events.
    async fn nodes(&self, wanted: &[Node]) -> Result<Vec<Hash>, StoreError> {
        let base = |height: u8| height / STEP * STEP;
        let below = |&(height, index): &Node| {
            let shift = height - base(height);
            (base(height), index << shift..(index + 1) << shift)
        };
        let asked: BTreeSet<(u8, u64, u64)> = wanted
            .iter()
            .map(below)
            .map(|(height, range)| (height, range.start, range.end))
            .collect();
        let client = self.pool.get().await?;
        let of_tree = client
            .prepare_cached(
                "SELECT index, hash FROM seal_nodes
                 WHERE height = $1 AND index >= $2 AND index < $3 ORDER BY index",
            )
            .await?;
        let of_log = client
            .prepare_cached(
                "SELECT position - 1, hash, epoch, recorded_at FROM events
                 WHERE position > $1 AND position <= $2 ORDER BY position",
            )
            .await?;
        let found = try_join_all(asked.iter().map(|&(height, start, end)| {
            let (client, of_tree, of_log) = (&client, &of_tree, &of_log);
            async move {
                let (start, end) = (bigint(start), bigint(end));
                if height == 0 {
                    client.query(of_log, &[&start, &end]).await
                } else {
                    client.query(of_tree, &[&i16::from(height), &start, &end]).await
                }
            }
        }))
        .await?;
        let mut known: BTreeMap<Node, Hash> = BTreeMap::new();
        for ((height, ..), rows) in asked.iter().zip(&found) {
            for row in rows {
                let index = row.get::<_, i64>(0) as u64;
                known.insert((*height, index), hash_of(*height, row)?);
            }
        }
        wanted
            .iter()
            .map(|node| {
                let (height, range) = below(node);
                let expected = range.end << height;
                let mut row = range
                    .map(|index| known.get(&(height, index)).copied())
                    .collect::<Option<Vec<Hash>>>()
                    .ok_or(StoreError::Hole { expected, found: 0 })?;
                while row.len() > 1 {
                    row = row.chunks_exact(2).map(|two| node_hash(&two[0], &two[1])).collect();
                }
                Ok(row[0])
            })
            .collect()
    }
}

fn hash_of(height: u8, row: &Row) -> Result<Hash, StoreError> {
    let position = row.get::<_, i64>(0) + 1;
    let bad = || StoreError::Row { position, reason: "a hash of another length".into() };
    let hash: Hash = row.get::<_, &[u8]>(1).try_into().map_err(|_| bad())?;
    if height > 0 {
        return Ok(hash);
    }
    let (epoch, recorded_at) = (row.get::<_, i64>(2) as u64, row.try_get(3)?);
    Ok(leaf(&hash, epoch, position as u64, recorded_at))
}

fn read(row: &Row) -> Result<Seal, StoreError> {
    serde_json::from_str(row.get(0)).map_err(|error| StoreError::Row {
        position: row.get(1),
        reason: format!("a seal that cannot be read: {error}"),
    })
}

/// The document of a seal, as it is stored and published.
pub(crate) fn document(seal: &Seal) -> Result<String, StoreError> {
    serde_json::to_string(seal).map_err(|error| StoreError::Row {
        position: bigint(seal.number),
        reason: format!("a seal that cannot be written: {error}"),
    })
}

pub(crate) fn kind(seal: &Seal) -> &'static str {
    match seal.kind {
        super::record::Kind::Seal => "seal",
        super::record::Kind::Rotation => "rotation",
    }
}

pub(crate) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
