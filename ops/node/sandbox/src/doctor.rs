//! What this host can enforce, mechanism by mechanism.

use std::fmt;
use std::fs;

use serde::Serialize;

use crate::cgroup::{self, CONTROLLERS, Version};
use crate::lock::files::{ABI_WITH_SCOPES, newest_abi};
use crate::spec::Level;
use crate::start::Sandbox;

/// What this host can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The strongest level on offer.
    pub strongest: Level,
    /// Each level, weakest first.
    pub levels: Vec<LevelReport>,
    /// Each mechanism the levels are made of.
    pub mechanisms: Vec<Mechanism>,
}

/// Whether a level is on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LevelReport {
    /// Which.
    pub level: Level,
    /// Whether a program ran in it.
    pub available: bool,
    /// What is missing otherwise.
    pub missing: Vec<String>,
}

/// Whether a mechanism is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mechanism {
    /// Which.
    pub name: &'static str,
    /// Whether it can be used by this process.
    pub available: bool,
    /// Version, place, or what is done instead.
    pub detail: String,
}

impl Sandbox {
    /// Finds out what this host can enforce; runs a program at each level.
    pub async fn doctor(&self) -> Report {
        let mut levels = Vec::new();
        for level in [Level::None, Level::Process, Level::Namespace] {
            let missing = self.missing(level).await;
            levels.push(LevelReport { level, available: missing.is_empty(), missing });
        }
        let offered = levels.iter().filter(|report| report.available);
        let strongest = offered.map(|report| report.level).max().unwrap_or(Level::None);
        Report { strongest, levels, mechanisms: mechanisms() }
    }
}

fn mechanisms() -> Vec<Mechanism> {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let row = |name, available, detail: String| Mechanism { name, available, detail };
    let mut rows = Vec::new();

    let root = rustix::process::geteuid().is_root();
    let text = match root {
        true => "each sandbox gets an unused user of the host",
        false => "sandboxes share this process's user; started as root, each gets its own",
    };
    rows.push(row("separate_user", root, text.into()));

    let most = read("/proc/sys/user/max_user_namespaces").unwrap_or_else(|_| "0".into());
    let switch = |path: &str, off: &str| read(path).is_ok_and(|value| value == off);
    let blocked = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    let blocked = blocked.into_iter().find(|(path, off)| switch(path, off)).filter(|_| !root);
    let text = match blocked {
        Some((path, value)) => format!("switched off: {path} is {value}"),
        None => format!("at most {most}"),
    };
    rows.push(row("user_namespaces", blocked.is_none() && most != "0", text));

    let abi = newest_abi();
    let text = match abi {
        0 => "not offered by the kernel".into(),
        abi if abi < ABI_WITH_SCOPES => {
            format!("version {abi}; {ABI_WITH_SCOPES} is needed for level process and network host")
        }
        abi => format!("version {abi} or later"),
    };
    rows.push(row("landlock", abi > 0, text));

    let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    rows.push(row("seccomp", actions.contains("errno"), actions));

    let places = cgroup::places();
    for (controller, name) in CONTROLLERS.iter().zip(["cgroup_memory", "cgroup_pids", "cgroup_cpu"])
    {
        let found = places.iter().find(|place| place.controller == *controller);
        let text = match found {
            Some(place) => {
                let version = if place.version == Version::V2 { "v2" } else { "v1" };
                format!("{version} in {}", place.parent.display())
            }
            None => match *controller {
                "memory" => "not writable: limited per process, and the sum is watched".into(),
                "pids" => "not writable: limited by setrlimit".into(),
                _ => "not writable: cpu_percent is not enforced".into(),
            },
        };
        rows.push(row(name, found.is_some(), text));
    }
    rows
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |available| if available { "yes" } else { "no " };
        writeln!(f, "sandbox: programs run at level {} by default", self.strongest)?;
        for report in &self.levels {
            let (level, missing) = (report.level.to_string(), report.missing.join("; "));
            let line = format!("  {} level {level:<18} {missing}", yes(report.available));
            writeln!(f, "{}", line.trim_end())?;
        }
        for (at, row) in self.mechanisms.iter().enumerate() {
            let end = if at + 1 == self.mechanisms.len() { "" } else { "\n" };
            write!(f, "  {} {:<24} {}{end}", yes(row.available), row.name, row.detail)?;
        }
        Ok(())
    }
}
