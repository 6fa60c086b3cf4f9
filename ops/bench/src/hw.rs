//! The class of the machine, without anything that names it.

use serde::{Deserialize, Serialize};

/// What a figure depends on most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hw {
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in GiB, rounded.
    pub memory_gib: u64,
    /// The processor's model, as the kernel tells it.
    pub cpu: String,
    /// Such as `x86_64`.
    pub arch: String,
}

impl Hw {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kib(&memory, "MemTotal") as f64 / f64::from(1 << 20)).round() as u64,
            cpu: model(&cpu),
            arch: std::env::consts::ARCH.to_owned(),
        }
    }
}

fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn model(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(kib("MemTotal:       24684232 kB\n", "MemTotal"), 24_684_232);
        assert_eq!(model("processor : 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert!(Hw::here().cores > 0);
    }
}
