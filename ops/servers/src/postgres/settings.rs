//! PostgreSQL's configuration file.

use std::path::Path;

/// The settings, one per line.
///
/// The file lies outside the cluster and is given by `config_file`, so that a copied
/// cluster carries no settings; `ALTER SYSTEM` still overrides it, from within.
pub(super) fn text() -> String {
    // Container engines grant 64 MB of /dev/shm or none; without it, files do as well.
    let shared = if Path::new("/dev/shm").is_dir() { "posix" } else { "mmap" };
    // What a crash left behind is synced before its redo: by one call where there is one,
    // because a call per file takes seconds.
    let sync = if cfg!(target_os = "linux") { "syncfs" } else { "fsync" };
    format!(
        "\
# Written at every start; use ALTER SYSTEM for settings of your own.
cluster_name = 'taffrail'
listen_addresses = '127.0.0.1'
unix_socket_directories = ''             # TCP only: a socket's path has a limit of 107 bytes
max_connections = 200
password_encryption = 'scram-sha-256'

# An acknowledged event survives a power cut.
fsync = on
full_page_writes = on
synchronous_commit = on
recovery_init_sync_method = '{sync}'
wal_level = logical
max_wal_size = '4GB'                     # rare checkpoints: full pages are written once each
min_wal_size = '256MB'
wal_init_zero = off                      # else each new 16 MB are first written as zeros, in a commit
checkpoint_timeout = '15min'

shared_buffers = '128MB'
dynamic_shared_memory_type = '{shared}'
jit = off                                # compiling costs more than our short statements
autovacuum = on
autovacuum_vacuum_insert_scale_factor = 0.02 # the log only grows: keep its visibility map fresh

timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_checkpoints = off
log_line_prefix = '%m [%p] %u@%d '
log_statement = 'none'                   # statements may carry secrets
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_is_never_traded_away() {
        let text = text();
        for setting in ["fsync = on", "full_page_writes = on", "synchronous_commit = on"] {
            assert!(text.lines().any(|line| line == setting), "{setting}");
        }
    }
}
