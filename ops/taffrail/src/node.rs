//! `taffrail node`: the daemon that starts agents on this host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use domain::TenantId;
use domain::macros::Body;
use domain::node::RegisterNode;
use domain::values::Labels;
use node::{Ended, Node};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::ready::Ready;
use crate::signals;

/// What the flags of `node` say beside the settings.
pub struct Options {
    /// Whose agents it runs.
    pub tenant: String,
    /// The NATS server.
    pub nats_url: String,
    /// Its token.
    pub nats_token: Option<String>,
    /// What it keeps.
    pub data_dir: PathBuf,
    /// Whether the agents end with the daemon.
    pub stop_agents: bool,
}

/// Runs until a signal comes, or somebody stops the node from afar.
pub async fn run(config: &Config, options: Options, ready: Ready) -> anyhow::Result<()> {
    let start = Instant::now();
    let (stop_agents, data_dir) = (options.stop_agents, options.data_dir.clone());
    let node = open(config, options).await?;
    ready.data(&data_dir);
    ready.node(node.id(), node.level().as_str(), node.agents());
    let stop = CancellationToken::new();
    let mut registered = node.registered();
    let told = async {
        if registered.wait_for(|registered| *registered).await.is_ok() {
            ready.all(start.elapsed());
        }
        std::future::pending::<()>().await
    };
    let signal = async {
        signals::terminated().await;
        stop.cancel();
        // Whoever asks twice does not want to wait.
        signals::terminated().await;
    };
    let ended = tokio::select! {
        ended = node.run(stop.clone()) => ended,
        () = told => return Ok(()),
        () = signal => bail!("stopped without waiting for what was under way"),
    };
    match ended? {
        Ended::Left(0) => tracing::info!("stopped; no agents were running"),
        Ended::Left(agents) => tracing::info!(
            agents,
            "stopped; its agents go on, and the next node on this data folder takes them over \
             (--stop-agents ends them)"
        ),
        Ended::Stopped => tracing::info!(stop_agents, "stopped, and its agents with it"),
    }
    Ok(())
}

/// A node with the settings' name, capacity and labels.
pub async fn open(config: &Config, options: Options) -> anyhow::Result<Node> {
    let mut node = node::Options::new(options.nats_url, options.data_dir);
    node.nats_token = options.nats_token;
    node.tenant = TenantId::parse(&options.tenant)
        .with_context(|| format!("`{}` is no tenant", options.tenant))?;
    node.stop_agents = options.stop_agents;
    set(config, &mut node)?;
    Ok(Node::open(node).await?)
}

fn set(config: &Config, node: &mut node::Options) -> anyhow::Result<()> {
    if let Some(name) = config.text("node_name") {
        node.name = name.into();
    }
    if let Some(text) = config.text("node_cpu") {
        node.capacity.cpu_millis = millis(text).with_context(|| format!("node_cpu: `{text}`"))?;
    }
    if let Some(text) = config.text("node_memory") {
        node.capacity.memory_bytes =
            bytes(text).with_context(|| format!("node_memory: `{text}`"))?;
    }
    node.capacity.slots = config.number("node_slots", 1, 100_000)? as u32;
    if let Some(text) = config.text("node_labels") {
        node.labels = labels(text);
    }
    node.secrets_dir = config.text("node_secrets_dir").map(PathBuf::from);
    let ms = config.number("node_sync_every_ms", 100, 60_000)?;
    node.sync_every = Duration::from_millis(ms);
    let days = config.number("node_keep_workspaces_days", 1, 3_650)?;
    node.keep_workspaces = Duration::from_secs(days * 86_400);
    // What the managers would refuse is said here, before anything is started.
    let described = RegisterNode {
        name: node.name.clone(),
        capacity: node.capacity,
        labels: node.labels.clone(),
        level: Default::default(),
        runtimes: vec![],
        version: None,
    };
    if let Err(faults) = described.check() {
        let faults: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
        bail!("the node cannot be described so: {}", faults.join("; "));
    }
    Ok(())
}

/// Cores as thousandths.
fn millis(text: &str) -> anyhow::Result<u64> {
    let cores: f64 =
        text.trim().parse().context("a number of cores such as 2 or 0.5 is expected")?;
    if !(0.001..=1_024_000.0).contains(&cores) {
        bail!("a number of cores from 0.001 on is expected");
    }
    Ok((cores * 1000.0).round() as u64)
}

/// `1048576`, `512MiB`, `4GiB`.
fn bytes(text: &str) -> anyhow::Result<u64> {
    let expected = "bytes, or a size such as 512MiB or 4GiB, are expected";
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "Ki" | "K" => 10,
        "MiB" | "Mi" | "M" => 20,
        "GiB" | "Gi" | "G" => 30,
        "TiB" | "Ti" | "T" => 40,
        _ => bail!(expected),
    };
    let number: u64 = number.parse().context(expected)?;
    number.checked_mul(1 << shift).context(expected)
}

/// `gpu,zone=eu`: a name alone has an empty value.
fn labels(text: &str) -> Labels {
    let pairs: BTreeMap<String, String> = text
        .split(',')
        .map(str::trim)
        .filter(|label| !label.is_empty())
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(name, value)| (name.trim().into(), value.trim().into()))
        .collect();
    Labels::Pairs(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn cores_and_sizes_are_read_as_people_write_them() {
        assert_eq!(millis("2").unwrap(), 2_000);
        assert_eq!(millis("0.5").unwrap(), 500);
        assert_eq!(bytes("1048576").unwrap(), 1 << 20);
        assert_eq!(bytes("512MiB").unwrap(), 512 << 20);
        assert_eq!(bytes("4 GiB").unwrap(), 4 << 30);
        for wrong in ["", "-1", "x", "1e99", "NaN"] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "MiB", "1.5GiB", "4GB", "99999999999TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    fn with(pairs: &[(&'static str, &str)]) -> anyhow::Result<node::Options> {
        let flags: Flags = pairs.iter().map(|(name, value)| (*name, (*value).into())).collect();
        let mut options = node::Options::new("nats://n", "/d");
        set(&Config::resolve(&flags, None)?, &mut options)?;
        Ok(options)
    }

    #[test]
    fn settings_describe_the_node_and_are_checked_before_anything_starts() {
        let options = with(&[
            ("node_name", "n1"),
            ("node_cpu", "1.5"),
            ("node_slots", "7"),
            ("node_labels", "gpu, zone=eu"),
            ("node_sync_every_ms", "500"),
        ])
        .unwrap();
        assert_eq!((options.name.as_str(), options.capacity.slots), ("n1", 7));
        assert_eq!(options.capacity.cpu_millis, 1_500);
        assert_eq!(options.sync_every, Duration::from_millis(500));
        let pairs = [("gpu", ""), ("zone", "eu")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(options.labels, Labels::Pairs(pairs.into()));
        let long = "x".repeat(200);
        for wrong in [
            ("node_name", long.as_str()),
            ("node_memory", "1"),
            ("node_slots", "0"),
            ("node_sync_every_ms", "1"),
        ] {
            assert!(with(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
