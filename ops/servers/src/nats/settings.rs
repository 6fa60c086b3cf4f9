//! nats-server's configuration file.

use std::path::Path;

/// Above our own limit of 1 MiB for a body plus headers, so that a body too large is
/// answered by us, in words, and not by a closed connection.
const MAX_PAYLOAD: &str = "2MB";

/// The file's text; it carries the token.
///
/// The port is written out rather than left to the server (`-1`): it has to be the same
/// after a restart, or no client would find its way back.
pub(super) fn text(dir: &Path, port: u16, token: &str) -> String {
    let path = |name: &str| quoted(&dir.join(name).to_string_lossy());
    format!(
        "\
# Written at every start.
server_name: \"taffrail\"
listen: \"127.0.0.1:{port}\"
http: \"127.0.0.1:-1\"
ports_file_dir: {run}
pid_file: {pid}
authorization {{ token: {token} }}
max_payload: {MAX_PAYLOAD}
jetstream {{
  store_dir: {store}
  max_memory_store: 256MB
  max_file_store: 64GB
  sync_interval: \"2m\" # streams are rebuilt from the log, which is what gets synced
}}
log_file: {log}
logfile_size_limit: 16MB
logfile_max_num: 3
",
        run = path("run"),
        pid = path("run/nats.pid"),
        store = path("nats"),
        log = path("logs/nats.log"),
        token = quoted(token),
    )
}

/// NATS reads the escapes of JSON for quotes and backslashes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_token_and_folders_are_written_out() {
        let text = text(Path::new("/data/with \"quote\""), 20_123, "abc");
        assert!(text.contains("listen: \"127.0.0.1:20123\"\n"));
        assert!(text.contains("authorization { token: \"abc\" }\n"));
        assert!(text.contains("store_dir: \"/data/with \\\"quote\\\"/nats\"\n"), "{text}");
    }
}
