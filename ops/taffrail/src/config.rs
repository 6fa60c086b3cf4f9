//! Settings: flag, then environment, then `taffrail.toml`, then what is built in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use std::time::Duration;

use anyhow::{Context, bail};
use domain::macros::Body;
use domain::task::{MAX_SUBTASKS, SubtaskLimits, TaskTypes};
use serde::{Deserialize, Serialize};

/// Where a setting's value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A command line flag.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File,
    /// Nobody set it.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::BuiltIn => "built in",
        })
    }
}

/// What can be set: the name in the file, the variable, the built-in value, and whether
/// the value must not be shown.
struct Setting {
    name: &'static str,
    variable: &'static str,
    built_in: &'static str,
    secret: bool,
}

const fn setting(name: &'static str, variable: &'static str, built_in: &'static str) -> Setting {
    Setting { name, variable, built_in, secret: false }
}

const SETTINGS: &[Setting] = &[
    Setting { secret: true, ..setting("database_url", "TAFFRAIL_DATABASE_URL", "") },
    setting("nats_url", "TAFFRAIL_NATS_URL", ""),
    Setting { secret: true, ..setting("nats_token", "TAFFRAIL_NATS_TOKEN", "") },
    setting("data_dir", "TAFFRAIL_DATA_DIR", ""),
    setting("http_addr", "TAFFRAIL_HTTP_ADDR", "127.0.0.1:7117"),
    setting("seal_key_file", "TAFFRAIL_SEAL_KEY_FILE", ""),
    setting("log", "TAFFRAIL_LOG", ""),
    setting("postgres_bin_dir", "TAFFRAIL_POSTGRES_BIN_DIR", ""),
    setting("nats_server_bin", "TAFFRAIL_NATS_SERVER_BIN", ""),
    setting("pool_size", "TAFFRAIL_POOL_SIZE", "16"),
    setting("queue_capacity", "TAFFRAIL_QUEUE_CAPACITY", "8192"),
    setting("http_commands", "TAFFRAIL_HTTP_COMMANDS", "2048"),
    setting("cache_streams", "TAFFRAIL_CACHE_STREAMS", "50000"),
    setting("task_types", "TAFFRAIL_TASK_TYPES", ""),
    setting("dead_letter_days", "TAFFRAIL_DEAD_LETTER_DAYS", ""),
    setting("subtask_depth", "TAFFRAIL_SUBTASK_DEPTH", "8"),
    setting("subtasks_per_task", "TAFFRAIL_SUBTASKS_PER_TASK", "1000"),
    setting("escalate_after_ms", "TAFFRAIL_ESCALATE_AFTER_MS", "3600000"),
    setting("log_lines_per_agent", "TAFFRAIL_LOG_LINES_PER_AGENT", "2000"),
    setting("log_mib", "TAFFRAIL_LOG_MIB", "512"),
    setting("log_days", "TAFFRAIL_LOG_DAYS", "7"),
    setting("node_name", "TAFFRAIL_NODE_NAME", ""),
    setting("node_cpu", "TAFFRAIL_NODE_CPU", ""),
    setting("node_memory", "TAFFRAIL_NODE_MEMORY", ""),
    setting("node_slots", "TAFFRAIL_NODE_SLOTS", "50"),
    setting("node_labels", "TAFFRAIL_NODE_LABELS", ""),
    setting("node_secrets_dir", "TAFFRAIL_NODE_SECRETS_DIR", ""),
    setting("node_sync_every_ms", "TAFFRAIL_NODE_SYNC_EVERY_MS", "5000"),
    setting("node_keep_workspaces_days", "TAFFRAIL_NODE_KEEP_WORKSPACES_DAYS", "30"),
    setting("unhealthy_after_ms", "TAFFRAIL_UNHEALTHY_AFTER_MS", "30000"),
    setting("restart_after_ms", "TAFFRAIL_RESTART_AFTER_MS", "60000"),
    setting("stall_ms", "TAFFRAIL_STALL_MS", ""),
];

/// One resolved setting.
#[derive(Debug, Clone, Serialize)]
pub struct Value {
    /// Its name in the file.
    pub name: &'static str,
    /// Its value; `***` for a secret that is set.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// The environment variable that sets it.
    pub variable: &'static str,
    #[serde(skip)]
    plain: String,
}

/// Flags that override everything else, by setting name.
pub type Flags = BTreeMap<&'static str, String>;

/// All settings, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    values: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
struct File(BTreeMap<String, toml::Value>);

impl Config {
    /// Resolves all settings.
    ///
    /// # Errors
    /// When the file cannot be read, or has a setting that does not exist.
    pub fn resolve(flags: &Flags, file: Option<&Path>) -> anyhow::Result<Self> {
        Self::resolve_from(flags, file, |variable| std::env::var(variable).ok())
    }

    fn resolve_from(
        flags: &Flags,
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let file = read_file(file)?;
        let values = SETTINGS
            .iter()
            .map(|setting| {
                let from_file = || {
                    let value = file.0.get(setting.name)?;
                    // A table as in a variable: JSON.
                    let table = || serde_json::to_string(value.as_table()?).ok();
                    let text = value.as_str().map(Into::into).or_else(table);
                    Some(text.unwrap_or_else(|| value.to_string()))
                };
                let set = |text: &String| !text.is_empty();
                let (plain, origin) = if let Some(text) = flags.get(setting.name) {
                    (text.clone(), Origin::Flag)
                } else if let Some(text) = environment(setting.variable).filter(set) {
                    (text, Origin::Environment)
                } else if let Some(text) = from_file() {
                    (text, Origin::File)
                } else {
                    (setting.built_in.into(), Origin::BuiltIn)
                };
                let hide = setting.secret && !plain.is_empty();
                let value = if hide { "***".into() } else { plain.clone() };
                let (name, variable) = (setting.name, setting.variable);
                Value { name, value, origin, variable, plain }
            })
            .collect();
        Ok(Self { values })
    }

    /// Every setting, for `taffrail config show`.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// A setting as text; `None` when it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let value = self.values.iter().find(|value| value.name == name)?;
        Some(value.plain.as_str()).filter(|text| !text.is_empty())
    }

    /// A setting as a number within bounds.
    pub(crate) fn number(&self, name: &str, least: u64, most: u64) -> anyhow::Result<u64> {
        let text = self.text(name).unwrap_or_default();
        let number: u64 = text.parse().with_context(|| format!("{name}: `{text}` is no number"))?;
        if !(least..=most).contains(&number) {
            bail!("{name}: {number} does not lie between {least} and {most}");
        }
        Ok(number)
    }

    /// Address of a PostgreSQL that is there already.
    pub fn database_url(&self) -> Option<&str> {
        self.text("database_url")
    }

    /// Address of a NATS that is there already.
    pub fn nats_url(&self) -> Option<&str> {
        self.text("nats_url")
    }

    /// Its token.
    pub fn nats_token(&self) -> Option<&str> {
        self.text("nats_token")
    }

    /// `json` or `pretty`, where somebody chose.
    pub fn log(&self) -> Option<&str> {
        self.text("log")
    }

    /// Where embedded servers keep their data.
    pub fn data_dir(&self) -> PathBuf {
        self.text("data_dir").map_or_else(crate::cli::default_data_dir, Into::into)
    }

    /// The file of the key that signs seals: in the data folder, where none is named.
    pub fn seal_key_path(&self, data_dir: &Path) -> PathBuf {
        let named = self.text("seal_key_file").map(PathBuf::from);
        named.unwrap_or_else(|| data_dir.join(replay::seal::key::KEY_FILE))
    }

    /// Where the gateway listens; port 0 picks a free one.
    ///
    /// # Errors
    /// When it is no address.
    pub fn http_addr(&self) -> anyhow::Result<SocketAddr> {
        let text = self.text("http_addr").unwrap_or_default();
        text.parse().with_context(|| {
            format!("http_addr: `{text}` is no address; expected HOST:PORT such as 127.0.0.1:7117")
        })
    }

    /// Connections per pool.
    ///
    /// # Errors
    /// When it is no number between 2 and 1,000.
    pub fn pool_size(&self) -> anyhow::Result<usize> {
        Ok(self.number("pool_size", 2, 1_000)? as usize)
    }

    /// Commands that may wait for a decision.
    ///
    /// # Errors
    /// When it is no number between 1 and a million.
    pub fn queue_capacity(&self) -> anyhow::Result<usize> {
        Ok(self.number("queue_capacity", 1, 1_000_000)? as usize)
    }

    /// Changing requests that a gateway takes at once.
    ///
    /// # Errors
    /// When it is no number between 1 and a million.
    pub fn http_commands(&self) -> anyhow::Result<usize> {
        Ok(self.number("http_commands", 1, 1_000_000)? as usize)
    }

    /// Streams that the processor keeps folded in memory.
    ///
    /// # Errors
    /// When it is no number between 1 and ten million.
    pub fn cache_streams(&self) -> anyhow::Result<usize> {
        Ok(self.number("cache_streams", 1, 10_000_000)? as usize)
    }

    /// What is set for whole types of tasks: a table per type in the file, JSON in the variable.
    ///
    /// # Errors
    /// When it is no such table, or a value in it lies outside its limits.
    pub fn task_types(&self) -> anyhow::Result<TaskTypes> {
        let Some(text) = self.text("task_types") else { return Ok(TaskTypes::new()) };
        let types: TaskTypes = serde_json::from_str(text).context("task_types")?;
        for (name, kind) in &types {
            if let Err(faults) = kind.check() {
                let fault =
                    faults.first().map(|fault| format!("{}: {}", fault.pointer, fault.message));
                bail!("task_types: {name}{}", fault.unwrap_or_default());
            }
        }
        Ok(types)
    }

    /// How long dead letters are kept; for ever when absent.
    ///
    /// # Errors
    /// When it is no number of days between 1 and 3,650.
    pub fn dead_letters_kept(&self) -> anyhow::Result<Option<Duration>> {
        if self.text("dead_letter_days").is_none() {
            return Ok(None);
        }
        let days = self.number("dead_letter_days", 1, 3_650)?;
        Ok(Some(Duration::from_secs(days * 86_400)))
    }

    /// How far tasks may be split.
    ///
    /// # Errors
    /// When the depth is no number between 0 and 64, or the subtasks of one task between 0 and
    /// 1,000.
    pub fn subtasks(&self) -> anyhow::Result<SubtaskLimits> {
        let depth = self.number("subtask_depth", 0, 64)?;
        let per_task = self.number("subtasks_per_task", 0, MAX_SUBTASKS.into())?;
        Ok(SubtaskLimits { depth: depth as u32, per_task: per_task as u32 })
    }

    /// After how long a task that stands still is escalated; `None`: never.
    ///
    /// # Errors
    /// When it is no number of milliseconds up to a year.
    pub fn escalate_after(&self) -> anyhow::Result<Option<Duration>> {
        let ms = self.number("escalate_after_ms", 0, 365 * 86_400_000)?;
        Ok((ms > 0).then(|| Duration::from_millis(ms)))
    }

    /// What of the agents' log lines is kept.
    ///
    /// # Errors
    /// When a number lies outside: 1 to 100,000 lines, 1 to 1,048,576 MiB, 1 to 3,650 days.
    pub fn log_limits(&self) -> anyhow::Result<broker::LogLimits> {
        Ok(broker::LogLimits {
            lines_per_agent: self.number("log_lines_per_agent", 1, 100_000)?,
            bytes: self.number("log_mib", 1, 1 << 20)? << 20,
            age: Duration::from_secs(self.number("log_days", 1, 3_650)? * 86_400),
        })
    }

    /// When silence and standstill are taken for a fault, where neither agent nor profile
    /// says so.
    ///
    /// # Errors
    /// When one is no number of milliseconds from half a second to a day.
    pub fn watch(&self) -> anyhow::Result<domain::profile::Watch> {
        let ms = |name| self.number(name, 500, 86_400_000);
        let stall = self.text("stall_ms").filter(|text| !text.is_empty());
        Ok(domain::profile::Watch {
            unhealthy_after_ms: Some(ms("unhealthy_after_ms")?),
            restart_after_ms: Some(ms("restart_after_ms")?),
            stall_ms: stall.map(|_| ms("stall_ms")).transpose()?,
        })
    }

    /// Whether the values can be used, before anything is started with them.
    ///
    /// # Errors
    /// The first that cannot, with what is expected.
    pub fn check(&self) -> anyhow::Result<()> {
        self.http_addr()?;
        self.pool_size()?;
        self.queue_capacity()?;
        self.http_commands()?;
        self.cache_streams()?;
        self.task_types()?;
        self.dead_letters_kept()?;
        self.subtasks()?;
        self.escalate_after()?;
        self.log_limits()?;
        self.watch()?;
        Ok(())
    }

    /// The embedded servers' options.
    pub fn servers(&self, offline: bool) -> anyhow::Result<servers::Options> {
        let shim = std::env::current_exe().context("the program's own file cannot be found")?;
        let mut options = servers::Options::new(shim);
        options.offline = offline;
        options.postgres_bin_dir = self.text("postgres_bin_dir").map(Into::into);
        options.nats_server_bin = self.text("nats_server_bin").map(Into::into);
        Ok(options)
    }
}

fn read_file(path: Option<&Path>) -> anyhow::Result<File> {
    let (path, must) = match path {
        Some(path) => (path, true),
        None => (Path::new("taffrail.toml"), false),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must => {
            return Ok(File::default());
        }
        Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
    };
    let file: File = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    for name in file.0.keys() {
        if !SETTINGS.iter().any(|setting| setting.name == name) {
            let known = SETTINGS.iter().map(|setting| setting.name);
            let hint = domain::json::nearest(name, known)
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            bail!("{}: there is no setting `{name}`{hint}", path.display());
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_environment_which_beats_what_is_built_in() {
        let environment = |name: &str| (name == "TAFFRAIL_HTTP_ADDR").then(|| "[::1]:1".into());
        let resolve = |flags: &Flags| Config::resolve_from(flags, None, environment).unwrap();
        let origin = |config: &Config, name: &str| {
            config.values().iter().find(|value| value.name == name).unwrap().origin.clone()
        };
        let config = resolve(&Flags::new());
        assert_eq!(config.http_addr().unwrap().port(), 1);
        assert_eq!(origin(&config, "http_addr"), Origin::Environment);
        assert_eq!(origin(&config, "pool_size"), Origin::BuiltIn);
        let config = resolve(&Flags::from([("http_addr", "127.0.0.1:2".into())]));
        assert_eq!(config.http_addr().unwrap().port(), 2);
        assert_eq!(origin(&config, "http_addr"), Origin::Flag);
    }

    #[test]
    fn task_types_come_as_tables_or_as_json_and_are_checked() {
        let path = std::env::temp_dir().join(format!("taffrail-{}.toml", std::process::id()));
        let file = "dead_letter_days = 7\n[task_types.render.retry]\nmax_attempts = 9\n";
        std::fs::write(&path, file).unwrap();
        let config = Config::resolve_from(&Flags::new(), Some(&path), |_| None).unwrap();
        std::fs::remove_file(&path).unwrap();
        let retry = &config.task_types().unwrap()["render"].retry;
        assert_eq!((retry.max_attempts, retry.backoff_ms), (9, 1_000));
        assert_eq!(config.dead_letters_kept().unwrap(), Some(Duration::from_secs(7 * 86_400)));

        let wrong = |text: &'static str| {
            let set = move |name: &str| (name == "TAFFRAIL_TASK_TYPES").then(|| text.to_owned());
            let config = Config::resolve_from(&Flags::new(), None, set).unwrap();
            config.check().unwrap_err().to_string()
        };
        assert!(wrong(r#"{"a":{"retry":{"max_attempts":0}}}"#).contains("max_attempts"));
        assert!(wrong("7").contains("task_types"));
    }

    #[test]
    fn limits_of_subtasks_and_the_escalation_are_numbers_within_bounds() {
        let resolve = |name: &'static str, text: &str| {
            let flags = Flags::from([(name, text.to_owned())]);
            Config::resolve_from(&flags, None, |_| None).unwrap()
        };
        let config = resolve("subtask_depth", "2");
        assert_eq!(config.subtasks().unwrap(), SubtaskLimits { depth: 2, per_task: 1_000 });
        assert_eq!(config.escalate_after().unwrap(), Some(Duration::from_secs(3_600)));
        assert_eq!(config.log_limits().unwrap(), broker::LogLimits::default());
        assert_eq!(resolve("escalate_after_ms", "0").escalate_after().unwrap(), None);
        for (name, wrong) in [
            ("subtask_depth", "65"),
            ("subtasks_per_task", "1001"),
            ("escalate_after_ms", "-1"),
            ("log_days", "0"),
        ] {
            let error = resolve(name, wrong).check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let flags = Flags::from([("database_url", "postgres://u:hunter2@h/d".into())]);
        let config = Config::resolve_from(&flags, None, |_| None).unwrap();
        assert!(!format!("{:?}", serde_json::to_string(config.values())).contains("hunter2"));
        assert_eq!(config.database_url(), Some("postgres://u:hunter2@h/d"));
    }
}
