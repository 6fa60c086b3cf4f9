//! The exit codes: one table, which `--help` shows.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Ok,
    /// The rules refused it, or what was waited for came to a bad end.
    Refused,
    /// The command line or the input is at fault.
    Usage,
    /// There is no such thing.
    NotFound,
    /// The server cannot be reached, is at its limit, or it took too long.
    Unreachable,
    /// The token is missing, wrong or not enough.
    Unauthorized,
    /// Something broke, here or in the server.
    Broken,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Every way to end, in the order of the codes.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Refused,
        Self::Usage,
        Self::NotFound,
        Self::Unreachable,
        Self::Unauthorized,
        Self::Broken,
        Self::Interrupted,
    ];

    /// The code that a shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
            Self::Unauthorized => 5,
            // EX_SOFTWARE of sysexits.h
            Self::Broken => 70,
            // 128 + SIGINT, as shells have it
            Self::Interrupted => 130,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Refused => "refused by the rules, or the awaited task or operation failed",
            Self::Usage => "wrong command line or input",
            Self::NotFound => "there is no such thing",
            Self::Unreachable => "the server cannot be reached, is busy, or it took too long",
            Self::Unauthorized => "the token is missing, wrong or not enough",
            Self::Broken => "something broke, here or in the server",
            Self::Interrupted => "interrupted",
        }
    }

    /// Of an HTTP status that is no success.
    pub const fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Unauthorized,
            404 => Self::NotFound,
            429 | 502..=504 => Self::Unreachable,
            500..=599 => Self::Broken,
            400 | 405 | 413 | 415 => Self::Usage,
            _ => Self::Refused,
        }
    }

    /// The table, for people.
    pub fn table() -> String {
        let rows =
            Self::ALL.iter().map(|exit| format!("  {:>3}  {}\n", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", rows.collect::<String>())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use domain::Code;

    use super::*;

    #[test]
    fn every_problem_of_the_server_has_its_exit_code() {
        let exits =
            Code::ALL.iter().map(|code| (code.slug(), Exit::of_status(code.status()).code()));
        let table: String = exits.map(|(slug, exit)| format!("{exit} {slug}\n")).collect();
        let expected = "2 invalid-body\n2 invalid-parameter\n2 invalid-subject\n2 unknown-command\n\
            5 unauthorized\n5 forbidden\n3 not-found\n2 method-not-allowed\n1 already-exists\n\
            1 name-taken\n1 in-progress\n1 version-mismatch\n2 too-large\n\
            2 unsupported-media-type\n1 illegal-transition\n1 stale-lease\n\
            1 idempotency-mismatch\n1 stream-too-long\n1 cycle\n1 not-possible\n4 rate-limited\n\
            70 internal\n4 busy\n4 unavailable\n4 not-yet-visible\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn the_table_names_every_code_once() {
        let table = Exit::table();
        assert_eq!(table.lines().count(), 1 + Exit::ALL.len());
        for (exit, line) in Exit::ALL.iter().zip(table.lines().skip(1)) {
            assert!(line.trim_start().starts_with(&exit.code().to_string()), "{line}");
        }
    }
}
