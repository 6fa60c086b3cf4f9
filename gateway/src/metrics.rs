//! Figures of this process in Prometheus's text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use crate::app::App;

/// Upper bounds of the latency buckets, in seconds: 100 µs to 30 s.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Upper bounds of the size buckets: powers of four, up to the largest batch and beyond.
const SIZES: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0];

/// All figures of a process; a clone shows the same ones.
///
/// Asking twice for the same name and labels gives the same figure.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<String, Family>>>);

struct Family {
    kind: &'static str,
    help: String,
    series: BTreeMap<String, Series>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Asked(Arc<dyn Fn() -> f64 + Send + Sync>),
    Histogram(Histogram),
    AskedHistogram(Vec<f64>, Arc<dyn Fn() -> (Vec<u64>, f64) + Send + Sync>),
}

/// A number that only grows.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How often values fell below each of some bounds.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    /// In millionths, so that an integer can carry it without a lock.
    sum_micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum_micros: AtomicU64::new(0) }))
    }

    /// Counts a value.
    pub fn record(&self, value: f64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum_micros.fetch_add((value.max(0.0) * 1e6) as u64, Ordering::Relaxed);
    }

    /// Counts a time.
    pub fn record_time(&self, time: Duration) {
        self.record(time.as_secs_f64());
    }
}

impl Metrics {
    /// A number that only grows; its name should end in `_total`.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let series =
            self.series("counter", name, help, labels, || Series::Counter(Counter::default()));
        if let Series::Counter(counter) = series { counter } else { Counter::default() }
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        let series = self.series("gauge", name, help, labels, || Series::Gauge(Gauge::default()));
        if let Series::Gauge(gauge) = series { gauge } else { Gauge::default() }
    }

    /// A number that is looked up whenever somebody asks; the look must be quick.
    pub fn ask<F>(&self, name: &str, help: &str, labels: &[(&str, &str)], look: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.series("gauge", name, help, labels, || Series::Asked(Arc::new(look)));
    }

    /// The same for a number that only grows.
    pub fn ask_total<F>(&self, name: &str, help: &str, labels: &[(&str, &str)], look: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.series("counter", name, help, labels, || Series::Asked(Arc::new(look)));
    }

    /// The same for counts per bucket (one more than there are bounds) and their sum.
    pub fn ask_histogram<F>(&self, name: &str, help: &str, bounds: &[f64], look: F)
    where
        F: Fn() -> (Vec<u64>, f64) + Send + Sync + 'static,
    {
        let series = || Series::AskedHistogram(bounds.to_vec(), Arc::new(look));
        self.series("histogram", name, help, &[], series);
    }

    /// Times in seconds, from 100 µs to 30 s.
    pub fn seconds(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Histogram {
        self.histogram(name, help, labels, SECONDS)
    }

    /// Sizes, from 1 to 16,384.
    pub fn sizes(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Histogram {
        self.histogram(name, help, labels, SIZES)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        let make = || Series::Histogram(Histogram::new(bounds));
        let series = self.series("histogram", name, help, labels, make);
        if let Series::Histogram(histogram) = series { histogram } else { Histogram::new(bounds) }
    }

    fn series(
        &self,
        kind: &'static str,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Series,
    ) -> Series {
        let mut families = self.0.lock();
        let family = families.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            help: help.to_owned(),
            series: BTreeMap::new(),
        });
        family.series.entry(render_labels(labels)).or_insert_with(make).clone()
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in &*self.0.lock() {
            let _ = writeln!(out, "# HELP {name} {}", family.help.replace('\n', " "));
            let _ = writeln!(out, "# TYPE {name} {}", family.kind);
            for (labels, series) in &family.series {
                render_series(&mut out, name, labels, series);
            }
        }
        out
    }
}

fn render_series(out: &mut String, name: &str, labels: &str, series: &Series) {
    let braced =
        |labels: &str| if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let own = braced(labels);
    let _ = match series {
        Series::Counter(counter) => writeln!(out, "{name}{own} {}", counter.get()),
        Series::Gauge(gauge) => writeln!(out, "{name}{own} {}", gauge.get()),
        Series::Asked(look) => writeln!(out, "{name}{own} {}", look()),
        Series::Histogram(histogram) => {
            let counts = histogram.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
            let sum = histogram.0.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
            render_buckets(out, name, labels, histogram.0.bounds, counts.collect(), sum)
        }
        Series::AskedHistogram(bounds, look) => {
            let (counts, sum) = look();
            render_buckets(out, name, labels, bounds, counts, sum)
        }
    };
}

fn render_buckets(
    out: &mut String,
    name: &str,
    labels: &str,
    bounds: &[f64],
    counts: Vec<u64>,
    sum: f64,
) -> std::fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    let own = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let mut below = 0;
    let bounds = bounds.iter().map(f64::to_string);
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
        below += count;
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}")?;
    }
    writeln!(out, "{name}_sum{own} {sum}")?;
    writeln!(out, "{name}_count{own} {below}")
}

fn render_labels(labels: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// The figures of this process for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service", security(()), responses(
    (status = 200, description = "Prometheus's text format", body = String, content_type = "text/plain"),
))]
pub async fn prometheus(State(app): State<App>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.doors.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.counter("a_total", "How many.", &[("kind", "x\"y")]).add(2);
        metrics.counter("a_total", "How many.", &[("kind", "x\"y")]).add(1);
        metrics.gauge("b", "How much.", &[]).set(1.5);
        metrics.ask("c", "Asked.", &[], || 7.0);
        let sizes = metrics.sizes("d", "Sizes.", &[("of", "batch")]);
        sizes.record(4.0);
        sizes.record(5.0);
        let text = metrics.render();
        for line in [
            "# TYPE a_total counter",
            "a_total{kind=\"x\\\"y\"} 3",
            "b 1.5",
            "c 7",
            "d_bucket{of=\"batch\",le=\"4\"} 1",
            "d_bucket{of=\"batch\",le=\"16\"} 2",
            "d_bucket{of=\"batch\",le=\"+Inf\"} 2",
            "d_sum{of=\"batch\"} 9",
            "d_count{of=\"batch\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
