//! How an agent's health is asked for, and what warms it up.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spec::{CommandLine, DAY_MS};
use crate::values::Check;

/// One question; exactly one of the four ways to ask it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// A GET that must answer 200 to 399 within the time-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// A port that must take a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// A program that must end with 0, run in the agent's isolation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// The agent must answer on its control subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsProbe>,
    /// Before the first question, in milliseconds.
    pub initial_delay_ms: u64,
    /// Between two questions, in milliseconds.
    pub period_ms: u64,
    /// How long an answer may take, in milliseconds.
    pub timeout_ms: u64,
    /// Good answers in a row that make it good.
    pub success_threshold: u32,
    /// Bad answers in a row that make it bad.
    pub failure_threshold: u32,
    /// Each period is longer or shorter by up to this part of it, 0 to 1.
    pub jitter: f64,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            http: None,
            tcp: None,
            exec: None,
            nats: None,
            initial_delay_ms: 0,
            period_ms: 10_000,
            timeout_ms: 1_000,
            success_threshold: 1,
            failure_threshold: 3,
            jitter: 0.1,
        }
    }
}

/// A GET over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// Where; the node itself when absent.
    #[serde(default = "loopback")]
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, with its query.
    #[serde(default = "slash")]
    pub path: String,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// Where; the node itself when absent.
    #[serde(default = "loopback")]
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecProbe {
    /// The program.
    pub command: CommandLine,
}

/// The agent's control subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsProbe {}

fn loopback() -> String {
    "127.0.0.1".into()
}

fn slash() -> String {
    "/".into()
}

/// The three questions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Probes {
    /// Bad: it is restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// Bad: it is given no work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Until it is good, the other two are not asked; bad: the start has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
}

impl Probes {
    pub(super) fn faults(&self, mut check: Check, prefix: &str, cut_off: bool) -> Check {
        for (name, probe) in [
            ("liveness", &self.liveness),
            ("readiness", &self.readiness),
            ("startup", &self.startup),
        ] {
            if let Some(probe) = probe {
                check = probe.faults(check, &format!("{prefix}{name}"), cut_off);
            }
        }
        check
    }
}

impl Probe {
    fn faults(&self, mut check: Check, at: &str, cut_off: bool) -> Check {
        let ways =
            [self.http.is_some(), self.tcp.is_some(), self.exec.is_some(), self.nats.is_some()];
        let given = ways.iter().filter(|given| **given).count();
        let reached = !cut_off || self.http.is_none() && self.tcp.is_none();
        check = check
            .rule(given == 1, at, "one_of", "exactly one of http, tcp, exec and nats")
            .rule(reached, at, "unreachable", "without a network no port can be asked")
            .range(&format!("{at}/initial_delay_ms"), self.initial_delay_ms, 0, DAY_MS)
            .range(&format!("{at}/period_ms"), self.period_ms, 100, DAY_MS)
            .range(&format!("{at}/timeout_ms"), self.timeout_ms, 1, 600_000)
            .range(&format!("{at}/success_threshold"), self.success_threshold.into(), 1, 1_000)
            .range(&format!("{at}/failure_threshold"), self.failure_threshold.into(), 1, 1_000)
            .rule(
                (0.0..=1.0).contains(&self.jitter),
                &format!("{at}/jitter"),
                "out_of_range",
                "between 0 and 1",
            );
        if let Some(http) = &self.http {
            let path = http.path.starts_with('/') && !http.path.contains(['\r', '\n', ' ']);
            check = check
                .text(&format!("{at}/http/host"), &http.host, 1, 253)
                .text(&format!("{at}/http/path"), &http.path, 1, 1_024)
                .rule(path, &format!("{at}/http/path"), "not_a_path", "it begins with /")
                .range(&format!("{at}/http/port"), http.port.into(), 1, 65_535);
        }
        if let Some(tcp) = &self.tcp {
            check = check.text(&format!("{at}/tcp/host"), &tcp.host, 1, 253).range(
                &format!("{at}/tcp/port"),
                tcp.port.into(),
                1,
                65_535,
            );
        }
        if let Some(exec) = &self.exec {
            check = exec.command.faults(check, &format!("{at}/exec/command"));
        }
        check
    }
}

/// What a step of the warm-up is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WarmUpKind {
    /// Fills a cache.
    CachePriming,
    /// Loads a model.
    ModelLoad,
    /// Checks connections that it will need.
    ConnectionCheck,
    /// Anything else.
    #[default]
    Custom,
}

impl WarmUpKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CachePriming => "cache_priming",
            Self::ModelLoad => "model_load",
            Self::ConnectionCheck => "connection_check",
            Self::Custom => "custom",
        }
    }
}

/// One step: a program that must end with 0, or a port that must take a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmUpStep {
    /// What it is for.
    #[serde(default)]
    pub kind: WarmUpKind,
    /// The program, run in the agent's isolation and workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// How long it may take, in milliseconds; what is left of the whole when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The steps between its start and its readiness, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WarmUp {
    /// The steps.
    pub steps: Vec<WarmUpStep>,
    /// How long they may take in all, in milliseconds; 60,000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl WarmUp {
    /// How long the steps may take in all, in milliseconds.
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms.unwrap_or(60_000)
    }

    pub(super) fn faults(&self, mut check: Check, prefix: &str) -> Check {
        let field = format!("{prefix}steps");
        check = check.rule(self.steps.len() <= 32, &field, "too_many", "at most 32 steps");
        if let Some(ms) = self.timeout_ms {
            check = check.range(&format!("{prefix}timeout_ms"), ms, 1, DAY_MS);
        }
        for (index, step) in self.steps.iter().enumerate().take(32) {
            let at = format!("{field}/{index}");
            let one = step.command.is_some() != step.tcp.is_some();
            check = check.rule(one, &at, "one_of", "either a command or tcp");
            if let Some(command) = &step.command {
                check = command.faults(check, &format!("{at}/command"));
            }
            if let Some(tcp) = &step.tcp {
                check = check.text(&format!("{at}/tcp/host"), &tcp.host, 1, 253).range(
                    &format!("{at}/tcp/port"),
                    tcp.port.into(),
                    1,
                    65_535,
                );
            }
            if let Some(ms) = step.timeout_ms {
                check = check.range(&format!("{at}/timeout_ms"), ms, 1, DAY_MS);
            }
        }
        check
    }
}
