//! What a profile may say: limits, and what contradicts itself.

use super::spec::*;
use crate::json::escaped;
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::Check;

/// Longest command, in words.
const MAX_WORDS: usize = 256;
/// Longest word of a command, or value of a variable, in characters.
const MAX_TEXT: usize = 8_192;

impl CommandLine {
    pub(super) fn faults(&self, mut check: Check, field: &str) -> Check {
        let some = self.0.first().is_some_and(|program| !program.is_empty());
        check = check.rule(some, field, "empty", "the first word names the program").rule(
            self.0.len() <= MAX_WORDS,
            field,
            "too_many",
            "at most 256 words",
        );
        for (index, word) in self.0.iter().enumerate().take(MAX_WORDS) {
            let field = format!("{field}/{index}");
            check = check.text(&field, word, 0, MAX_TEXT).rule(
                !word.contains('\0'),
                &field,
                "control_character",
                "no NUL in an argument",
            );
        }
        check
    }
}

impl Watch {
    /// Adds what is wrong with it.
    pub fn faults(&self, mut check: Check, prefix: &str) -> Check {
        for (field, value) in [
            ("unhealthy_after_ms", self.unhealthy_after_ms),
            ("restart_after_ms", self.restart_after_ms),
            ("stall_ms", self.stall_ms),
        ] {
            if let Some(value) = value {
                check = check.range(&format!("{prefix}{field}"), value, 500, DAY_MS);
            }
        }
        check
    }
}

impl Profile {
    /// Adds what is wrong with it; `prefix` is the pointer to it without the first slash,
    /// and with a last one if it is not empty.
    pub fn faults(&self, mut check: Check, prefix: &str) -> Check {
        let at = |field: &str| format!("{prefix}{field}");
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |bytes| bytes.len());
        check = check
            .rule(
                bytes <= MAX_PROFILE_BYTES,
                prefix.trim_end_matches('/'),
                "too_large",
                "a profile may have at most 64 KiB",
            )
            .maybe(&at("description"), self.description.as_ref(), 2_000)
            .maybe(&at("image"), self.image.as_ref(), 512)
            .maybe(&at("workdir"), self.workdir.as_ref(), 1_024);
        for (field, name) in [("extends", &self.extends), ("tier", &self.tier)] {
            if let Some(name) = name {
                check = check.token(&at(field), name);
            }
        }
        if let Some(command) = &self.command {
            check = command.faults(check, &at("command"));
        }
        check = self.variables(check, prefix);
        if let Some(resources) = &self.resources {
            check = resources.faults(check, &at("resources/"));
        }
        if let Some(probes) = &self.probes {
            // What is left out here may stand in what it extends.
            let network = self.sandbox.as_ref().map(|sandbox| sandbox.network);
            let cut_off = match network {
                Some(network) => network == Network::None,
                None => self.extends.is_none(),
            };
            check = probes.faults(check, &at("probes/"), cut_off);
        }
        if let Some(warm_up) = &self.warm_up {
            check = warm_up.faults(check, &at("warm_up/"));
        }
        if let Some(sandbox) = &self.sandbox {
            let field = at("sandbox/read_only");
            check = check.words(&field, &sandbox.read_only, 32);
            for (index, folder) in sandbox.read_only.iter().enumerate().take(32) {
                let plain = folder.starts_with('/') && !folder.split('/').any(|part| part == "..");
                let field = format!("{field}/{index}");
                check = check.rule(plain, &field, "not_a_path", "an absolute path without `..`");
            }
        }
        if let Some(restart) = &self.restart {
            check = check
                .range(&at("restart/max"), restart.max.into(), 0, 1_000)
                .range(&at("restart/window_ms"), restart.window_ms, 1_000, DAY_MS)
                .range(&at("restart/backoff_ms"), restart.backoff_ms, 1, 3_600_000)
                .range(&at("restart/backoff_max_ms"), restart.backoff_max_ms, 1, DAY_MS);
        }
        if let Some(watch) = &self.watch {
            check = watch.faults(check, &at("watch/"));
        }
        if let Some(stop) = &self.stop {
            check = check.range(&at("stop/drain_ms"), stop.drain_ms, 0, DAY_MS).range(
                &at("stop/grace_ms"),
                stop.grace_ms,
                0,
                600_000,
            );
        }
        if let Some(ms) = self.start_timeout_ms {
            check = check.range(&at("start_timeout_ms"), ms, 100, DAY_MS);
        }
        if let Some(ms) = self.hibernate_after_ms {
            check = check.range(&at("hibernate_after_ms"), ms, 0, 30 * DAY_MS);
        }
        if let Some(placement) = &self.placement {
            check = check.words(&at("placement/labels"), &placement.labels, 32);
            check = check.maybe(&at("placement/node"), placement.node.as_ref(), 128);
        }
        check
    }

    fn variables(&self, mut check: Check, prefix: &str) -> Check {
        let few = self.env.len() <= 256 && self.secrets.len() <= 64;
        check = check.rule(
            few,
            &format!("{prefix}env"),
            "too_many",
            "at most 256 variables and 64 secrets",
        );
        let variable = |name: &str| {
            let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            first
                && name.len() <= 128
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        for (name, value) in self.env.iter().take(256) {
            let field = format!("{prefix}env/{}", escaped(name));
            check = check
                .rule(variable(name), &field, "not_a_variable", "letters, digits and _")
                .rule(!value.contains('\0'), &field, "control_character", "no NUL in a value")
                .text(&field, value, 0, MAX_TEXT);
        }
        for (name, source) in self.secrets.iter().take(64) {
            let field = format!("{prefix}secrets/{}", escaped(name));
            check = check.token(&field, name);
            check = match source {
                SecretSource::Nats(name) => check.token(&format!("{field}/nats"), name),
                SecretSource::File(path) => {
                    let plain = !path.starts_with('/')
                        && !path.is_empty()
                        && path.len() <= 512
                        && !path.split('/').any(|part| matches!(part, "" | "." | ".."));
                    let field = format!("{field}/file");
                    check.rule(plain, &field, "not_a_path", "a relative path without `..`")
                }
            };
        }
        check
    }
}

impl Resources {
    fn faults(&self, mut check: Check, prefix: &str) -> Check {
        const TERA: u64 = 1 << 40;
        for (field, value, least, most) in [
            ("cpu_millis", self.cpu_millis, 1, 1_024_000),
            ("memory_bytes", self.memory_bytes, 1 << 20, 64 * TERA),
            ("disk_bytes", self.disk_bytes, 1 << 16, 64 * TERA),
            ("pids", self.pids, 1, 1_000_000),
            ("open_files", self.open_files, 8, 1_000_000),
            ("output_bytes", self.output_bytes, 0, TERA),
            ("wall_ms", self.wall_ms, 1, 30 * DAY_MS),
        ] {
            if let Some(value) = value {
                check = check.range(&format!("{prefix}{field}"), value, least, most);
            }
        }
        check
    }
}

impl Body for Profile {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        self.faults(Check::default(), "").done()
    }
}
