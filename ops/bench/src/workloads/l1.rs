//! L1: starting a program in isolation, beside starting it as it is.
//!
//! No server takes part: it is what a node's host can do. The warm starts come one after the
//! other, bare and sandboxed in turn; then many at once.

use sandbox::{Sandbox, Spread};

use crate::cell::{Cell, Context, Host, Params};
use crate::load::Samples;

/// Starts one after the other: all, and those of a quick look.
const STARTS: (u32, u32) = (200, 10);
/// Starts at once: all, and those of a quick look.
const AT_ONCE: (u32, u32) = (50, 5);

/// The cells.
pub fn cells() -> Vec<Cell> {
    let params = Params::default().with("start", "sandboxed");
    vec![Cell::new("spawn", "L1", params, run).host(Host::Bare).unit("starts")]
}

async fn run(context: Context) -> anyhow::Result<Samples> {
    let of = |(all, few): (u32, u32)| if context.quick { few } else { all };
    // The stages between fork and exec are this program again.
    let sandbox = Sandbox::at(context.product.program());
    let dir = context.folder.join("spawn");
    let figures = sandbox.measure(&dir, of(STARTS), of(AT_ONCE)).await?;
    let at_once = std::time::Duration::from_micros(figures.concurrent_us);
    let started = figures.concurrent.saturating_sub(figures.failed);
    let mut samples = Samples::timed(started.into(), at_once);
    samples.errors = figures.failed.into();
    let over = |of: fn(&Spread) -> u64| ms(of(&figures.sandboxed)) - ms(of(&figures.bare));
    Ok(samples
        .with("bare_p50_ms", ms(figures.bare.p50_us))
        .with("bare_p95_ms", ms(figures.bare.p95_us))
        .with("sandboxed_p50_ms", ms(figures.sandboxed.p50_us))
        .with("sandboxed_p95_ms", ms(figures.sandboxed.p95_us))
        .with("sandboxed_max_ms", ms(figures.sandboxed.max_us))
        .with("p50_over_bare_ms", over(|spread| spread.p50_us))
        .with("p95_over_bare_ms", over(|spread| spread.p95_us))
        .with("at_once", figures.concurrent.into())
        .with("at_once_ms", ms(figures.concurrent_us))
        .with("ideal_ms", ms(figures.ideal_us))
        .with("of_ideal", figures.concurrent_us as f64 / figures.ideal_us.max(1) as f64)
        .with("failed", figures.failed.into()))
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}
