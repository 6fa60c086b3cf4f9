//! The disk: what a flush costs before any database.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::limit;
use crate::cell::{Cell, Context};
use crate::load::Samples;

/// PostgreSQL writes its log in blocks of this size, into files that exist already.
const BLOCK: usize = 8_192;
/// Blocks that are overwritten in turn: one segment of a write-ahead log.
const BLOCKS: u64 = 2_048;

pub(super) fn cells() -> Vec<Cell> {
    vec![limit("8KiB+fdatasync overwrite threads=1", "flushes", overwrite).main()]
}

async fn overwrite(context: Context) -> anyhow::Result<Samples> {
    let path = context.folder.join("flushed");
    let (warm, measure) = (context.budget.warm, context.budget.measure);
    let work = move || -> anyhow::Result<Samples> {
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let block = vec![7u8; BLOCK];
        for n in 0..BLOCKS {
            file.write_all_at(&block, n * BLOCK as u64)?;
        }
        file.sync_all()?;
        let mut n = 0;
        let mut flush = |for_how_long: Duration| -> anyhow::Result<Samples> {
            let (mut samples, begin) = (Samples::default(), Instant::now());
            while begin.elapsed() < for_how_long {
                let start = Instant::now();
                file.write_all_at(&block, (n % BLOCKS) * BLOCK as u64)?;
                file.sync_data()?;
                samples.record(start.elapsed());
                samples.ops += 1;
                n += 1;
            }
            samples.seconds = begin.elapsed().as_secs_f64();
            Ok(samples)
        };
        flush(warm)?;
        flush(measure)
    };
    tokio::task::spawn_blocking(work).await?
}
