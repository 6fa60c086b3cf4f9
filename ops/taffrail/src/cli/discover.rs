//! Which server is meant: by flag, by environment, or the one that runs on this machine.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Globals;
use super::fail::Failure;

/// The file in the data folder that tells clients about a running `taffrail up`.
pub const RUNTIME_FILE: &str = "runtime.json";

/// What a running `taffrail up` leaves for clients of the same user; mode 0600.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `http://…`
    pub http: String,
    /// `nats://…`
    pub nats: String,
    /// What NATS wants to see, where it wants anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_token: Option<String>,
    /// The first admin token of the HTTP API.
    pub token: String,
    /// The process; the file of a dead one counts for nothing.
    pub pid: u32,
}

impl Runtime {
    /// Reads the file of a data folder; `None` when there is none or its process is gone.
    pub fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(data_dir.join(RUNTIME_FILE)).ok()?;
        let runtime: Self = serde_json::from_str(&text).ok()?;
        is_alive(runtime.pid).then_some(runtime)
    }
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Somebody else's process answers EPERM, and lives.
    pid.is_some_and(|pid| {
        !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
    })
}

/// The data folder when no flag names one.
pub fn default_data_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    data_dir(set)
}

fn data_dir(set: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(folder) = set("TAFFRAIL_DATA_DIR") {
        return folder;
    }
    // A relative path in XDG_DATA_HOME is to be ignored (XDG base directory specification).
    if let Some(data) = set("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return data.join("taffrail");
    }
    set("HOME").unwrap_or_else(|| PathBuf::from(".")).join(".local/share/taffrail")
}

/// Where a client goes and what it shows there.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// The address.
    pub url: String,
    /// The credential; `None` when none is known.
    pub token: Option<String>,
}

/// The HTTP server that is meant.
///
/// # Errors
/// When none is named and none runs here.
pub fn http(globals: &Globals) -> Result<Server, Failure> {
    let token = given(globals.token.as_ref(), "TAFFRAIL_TOKEN");
    match given(globals.url.as_ref(), "TAFFRAIL_URL") {
        Some(url) => {
            // The token in the file belongs to the server in the file, and to no other.
            let own = || runtime(globals).filter(|r| same_server(&r.http, &url)).map(|r| r.token);
            Ok(Server { token: token.or_else(own), url })
        }
        None => {
            let runtime = runtime(globals).ok_or(Failure::NoServer("TAFFRAIL_URL"))?;
            Ok(Server { url: runtime.http, token: token.or(Some(runtime.token)) })
        }
    }
}

/// The NATS server that is meant.
///
/// # Errors
/// When none is named and none runs here.
pub fn nats(globals: &Globals) -> Result<Server, Failure> {
    // A file keeps the token out of the environment, which a process's children inherit.
    let file = given(None, "TAFFRAIL_NATS_TOKEN_FILE").filter(|_| globals.nats_token.is_none());
    let token = match file {
        Some(path) => Some(agent::token_file(Path::new(&path))?),
        None => given(globals.nats_token.as_ref(), "TAFFRAIL_NATS_TOKEN"),
    };
    match given(globals.nats_url.as_ref(), "TAFFRAIL_NATS_URL") {
        Some(url) => {
            let own = || runtime(globals).filter(|r| same_server(&r.nats, &url))?.nats_token;
            Ok(Server { token: token.or_else(own), url })
        }
        None => {
            let runtime = runtime(globals).ok_or(Failure::NoServer("TAFFRAIL_NATS_URL"))?;
            Ok(Server { url: runtime.nats, token: token.or(runtime.nats_token) })
        }
    }
}

/// NATS and the gateway of one server, as far as they are known: an address that somebody
/// gave is not joined with another server that happens to run here.
///
/// # Errors
/// When neither is named and none runs here.
pub fn both(globals: &Globals) -> Result<(Option<Server>, Option<Server>), Failure> {
    let given_http = given(globals.url.as_ref(), "TAFFRAIL_URL");
    let given_nats = given(globals.nats_url.as_ref(), "TAFFRAIL_NATS_URL");
    let here = runtime(globals);
    let of_here = |given: &Option<String>, known: fn(&Runtime) -> &String| {
        let here = here.as_ref();
        given.as_ref().is_none_or(|url| here.is_some_and(|r| same_server(known(r), url)))
    };
    let http_too = given_http.is_some() || of_here(&given_nats, |here| &here.nats);
    let nats_too = given_nats.is_some() || of_here(&given_http, |here| &here.http);
    let gateway = http_too.then(|| http(globals)).transpose();
    let nats = nats_too.then(|| nats(globals)).transpose();
    match (nats, gateway) {
        // What is named and cannot be used must not pass for what is not there.
        (Err(error), _) if given_nats.is_some() => Err(error),
        (Err(error), Err(_)) => Err(error),
        (nats, gateway) => Ok((nats.unwrap_or_default(), gateway.unwrap_or_default())),
    }
}

fn same_server(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn runtime(globals: &Globals) -> Option<Runtime> {
    Runtime::read(&globals.data_dir.clone().unwrap_or_else(default_data_dir))
}

fn given(flag: Option<&String>, variable: &str) -> Option<String> {
    flag.cloned().or_else(|| std::env::var(variable).ok()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_follows_the_settings_then_xdg_then_home() {
        let with = |pairs: &[(&str, &str)]| {
            data_dir(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
        };
        let home = ("HOME", "/home/u");
        assert_eq!(with(&[home]), Path::new("/home/u/.local/share/taffrail"));
        assert_eq!(with(&[home, ("XDG_DATA_HOME", "/x")]), Path::new("/x/taffrail"));
        let relative = with(&[home, ("XDG_DATA_HOME", "x")]);
        assert_eq!(relative, Path::new("/home/u/.local/share/taffrail"));
        let set = with(&[home, ("XDG_DATA_HOME", "/x"), ("TAFFRAIL_DATA_DIR", "d")]);
        assert_eq!(set, Path::new("d"));
    }

    #[test]
    fn the_file_of_a_dead_process_counts_for_nothing() {
        let folder = std::env::temp_dir().join(format!("taffrail-discover-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(Runtime::read(&folder), None);
        let mut runtime = Runtime { pid: std::process::id(), ..Runtime::default() };
        let mut write = |pid| {
            runtime.pid = pid;
            let text = serde_json::to_string(&runtime).unwrap();
            std::fs::write(folder.join(RUNTIME_FILE), text).unwrap();
        };
        write(std::process::id());
        assert!(Runtime::read(&folder).is_some());
        write(i32::MAX as u32);
        assert_eq!(Runtime::read(&folder), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
