//! CPU time of processes and the database's own counters, read at a window's edges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_postgres::Client;

/// Readings of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// When.
    pub at: Instant,
    /// CPU seconds of the product's process.
    pub server: f64,
    /// CPU seconds of PostgreSQL, backends included.
    pub postgres: f64,
    /// CPU seconds of nats-server.
    pub nats: f64,
    wal_bytes: Option<f64>,
    fsyncs: Option<f64>,
    /// The log's head; none without a log.
    pub head: Option<u64>,
}

/// What was used between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Seconds between the readings.
    pub seconds: f64,
    /// CPU seconds of the product's process.
    pub server: f64,
    /// CPU seconds of PostgreSQL.
    pub postgres: f64,
    /// CPU seconds of nats-server.
    pub nats: f64,
    /// Events that were appended.
    pub events: Option<u64>,
    /// Bytes of write-ahead log per appended event.
    pub wal_bytes_per_event: Option<f64>,
    /// Flushes of the write-ahead log per second.
    pub fsyncs_per_s: Option<f64>,
}

/// Reads when a cell's window opens and closes.
pub struct Probe {
    client: Option<Client>,
    pids: [Option<u32>; 3],
    edges: Mutex<(Option<Reading>, Option<Reading>)>,
}

impl Probe {
    /// A probe of these processes: the product's, the postmaster, nats-server.
    #[must_use]
    pub fn new(client: Option<Client>, pids: [Option<u32>; 3]) -> Arc<Self> {
        Arc::new(Self { client, pids, edges: Mutex::default() })
    }

    /// The window opens. Load loops call this; a cell with a flow of its own does so itself.
    pub async fn open(&self) {
        let reading = self.read().await;
        *self.edges.lock() = (Some(reading), None);
    }

    /// The window closes.
    pub async fn close(&self) {
        let reading = self.read().await;
        self.edges.lock().1 = Some(reading);
    }

    /// What was used between the edges; nothing where no window was opened.
    #[must_use]
    pub fn used(&self) -> Option<Used> {
        let edges = self.edges.lock();
        let (Some(first), Some(last)) = *edges else { return None };
        Some(between(&first, &last))
    }

    /// What is to be read at this moment.
    pub async fn read(&self) -> Reading {
        let [server, postgres, nats] = self.pids;
        let mut reading = Reading {
            at: Instant::now(),
            server: server.map_or(0.0, of_process),
            postgres: postgres.map_or(0.0, of_tree),
            nats: nats.map_or(0.0, of_process),
            wal_bytes: None,
            fsyncs: None,
            head: None,
        };
        if let Some(client) = &self.client {
            let number = async |sql: &str| {
                let row = client.query_opt(sql, &[]).await.ok().flatten()?;
                row.try_get::<_, Option<f64>>(0).ok().flatten()
            };
            reading.wal_bytes = number("SELECT wal_bytes::float8 FROM pg_stat_wal").await;
            // Since PostgreSQL 18 flushes of the write-ahead log are counted with the rest.
            let new = "SELECT sum(fsyncs)::float8 FROM pg_stat_io WHERE object = 'wal'";
            let old = "SELECT wal_sync::float8 FROM pg_stat_wal";
            reading.fsyncs = match number(new).await {
                Some(fsyncs) => Some(fsyncs),
                None => number(old).await,
            };
            let head = number("SELECT position::float8 FROM log_head WHERE shard = 0").await;
            reading.head = head.map(|head| head as u64);
        }
        reading
    }

    /// How many results of these commands are in the log.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn recorded(&self, commands: &[&str]) -> anyhow::Result<u64> {
        let Some(client) = &self.client else { return Ok(0) };
        let sql = "SELECT count(*) FROM command_results WHERE command = ANY($1)";
        Ok(client.query_one(sql, &[&commands]).await?.get::<_, i64>(0) as u64)
    }
}

fn between(first: &Reading, last: &Reading) -> Used {
    let seconds = (last.at - first.at).as_secs_f64();
    let pair = |a: Option<f64>, b: Option<f64>| Some((b? - a?).max(0.0));
    let events = first.head.zip(last.head).map(|(a, b)| b.saturating_sub(a));
    let wal = pair(first.wal_bytes, last.wal_bytes);
    Used {
        seconds,
        server: last.server - first.server,
        postgres: last.postgres - first.postgres,
        nats: last.nats - first.nats,
        events,
        wal_bytes_per_event: wal
            .zip(events.filter(|events| *events > 0))
            .map(|(wal, events)| wal / events as f64),
        fsyncs_per_s: pair(first.fsyncs, last.fsyncs).map(|fsyncs| fsyncs / seconds.max(1e-9)),
    }
}

/// CPU seconds of one process, its ended children left out.
#[must_use]
pub fn of_process(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |stat| stat.own)
}

/// CPU seconds of a process and its children, ended ones included.
#[must_use]
pub fn of_tree(root: u32) -> f64 {
    let mut sum = stat(root).map_or(0.0, |stat| stat.own + stat.ended_children);
    for pid in pids() {
        if let Some(stat) = stat(pid).filter(|stat| stat.parent == root) {
            sum += stat.own;
        }
    }
    sum
}

/// Whether a process is there; one that has ended and that nobody asked about is not.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.ended)
}

/// Resident memory of one process, in bytes.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    status(pid).get("VmRSS").and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_whitespace().next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    ended: bool,
    parent: u32,
    own: f64,
    ended_children: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&text, rustix::param::clock_ticks_per_second())
}

/// proc_pid_stat(5): the name in parentheses may hold anything, so counting starts behind it.
fn parse(text: &str, ticks_per_second: u64) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let seconds = |a: usize, b: usize| {
        Some((number(a)? + number(b)?) as f64 / ticks_per_second.max(1) as f64)
    };
    Some(Stat {
        ended: fields.first().is_none_or(|state| matches!(*state, "Z" | "X")),
        parent: number(1)? as u32,
        own: seconds(11, 12)?,
        ended_children: seconds(13, 14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_blanks_and_parentheses() {
        let text = "7 (a) b (c)) S 3 7 7 0 -1 0 1 2 3 4 150 50 30 20 20 0 9 0 100 200";
        let stat = parse(text, 100).unwrap();
        assert_eq!((stat.parent, stat.own, stat.ended_children), (3, 2.0, 0.5));
    }

    #[test]
    fn this_process_has_used_some_time_and_memory() {
        let pid = std::process::id();
        let begun = Instant::now();
        while of_process(pid) == 0.0 && begun.elapsed().as_secs() < 20 {
            std::hint::black_box((0..100_000u64).sum::<u64>());
        }
        assert!(of_process(pid) > 0.0);
        assert!(resident(pid) > 100_000);
        assert!(is_running(pid));
    }

    #[test]
    fn a_process_that_nobody_waited_for_has_ended_all_the_same() {
        assert!(parse("7 (a) Z 3 7 7 0 -1 0 1 2 3 4 1 1 0 0", 100).unwrap().ended);
        assert!(!parse("7 (a) S 3 7 7 0 -1 0 1 2 3 4 1 1 0 0", 100).unwrap().ended);
    }
}
