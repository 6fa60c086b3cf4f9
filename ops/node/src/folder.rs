//! The daemon's data folder: who has it, whose it is, and what lies where.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use domain::AgentId;
use rustix::fs::{FlockOperation, flock};
use uuid::{ContextV7, Timestamp, Uuid};

use crate::Error;

/// The data folder, held by this process alone.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    id: Uuid,
    _lock: File,
}

impl Folder {
    /// Makes it where it is not there, and takes it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        // The workspace of a sandbox must be an absolute path.
        let path = std::path::absolute(path).map_err(|error| Error::file(path, error))?;
        let agents = path.join("agents");
        std::fs::create_dir_all(&agents).map_err(|error| Error::file(&agents, error))?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(|error| Error::file(&lock, error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Held { path });
        }
        let id = own_id(&path.join("id"))?;
        Ok(Self { path, id, _lock: file })
    }

    /// The node's id, made once.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// The file that holds the id.
    pub(crate) fn id_file(&self) -> PathBuf {
        self.path.join("id")
    }

    /// Where the agents' folders are.
    pub(crate) fn agents(&self) -> PathBuf {
        self.path.join("agents")
    }

    /// Where one agent's things are.
    pub(crate) fn agent(&self, id: AgentId) -> Place {
        Place(self.agents().join(id.to_string()))
    }
}

/// One agent's folder.
#[derive(Debug, Clone)]
pub(crate) struct Place(pub PathBuf);

impl Place {
    /// What the agent may write to; it stays over restarts and hibernation.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.0.join("workspace")
    }

    /// What belongs to one process: its output and its end.
    pub(crate) fn run(&self, generation: u32) -> PathBuf {
        self.0.join(format!("run-{generation}"))
    }

    /// Where its Unix socket is.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.0.join("sock")
    }

    /// Removes what older processes left.
    pub(crate) fn forget_runs_before(&self, generation: u32) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix("run-").and_then(|number| number.parse::<u32>().ok());
            if number.is_some_and(|number| number < generation) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn own_id(file: &Path) -> Result<Uuid, Error> {
    let failed = |error| Error::file(file, error);
    match std::fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map_err(|_| {
            let what = format!("`{}` is no id of a node", text.trim());
            failed(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = Uuid::new_v7(Timestamp::now(ContextV7::new()));
            replace(file, id.to_string().as_bytes()).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Writes a file as a whole or not at all; mode 0600.
pub(crate) fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    drop(file);
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_daemon_and_keeps_its_id() {
        let path = std::env::temp_dir().join(format!("taffrail-node-{}", Uuid::new_v4()));
        let folder = Folder::open(&path).unwrap();
        assert!(matches!(Folder::open(&path), Err(Error::Held { .. })));
        let id = folder.id();
        drop(folder);
        assert_eq!(Folder::open(&path).unwrap().id(), id);
        assert_eq!(id.get_version_num(), 7);
        std::fs::write(path.join("id"), "nonsense").unwrap();
        assert!(matches!(Folder::open(&path), Err(Error::File { .. })));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_older_processes_left_is_removed_and_nothing_else() {
        let path = std::env::temp_dir().join(format!("taffrail-place-{}", Uuid::new_v4()));
        let place = Place(path.clone());
        for folder in [place.workspace(), place.run(1), place.run(2), place.run(10)] {
            std::fs::create_dir_all(folder).unwrap();
        }
        place.forget_runs_before(10);
        assert!(place.workspace().exists() && place.run(10).exists());
        assert!(!place.run(1).exists() && !place.run(2).exists());
        std::fs::remove_dir_all(path).unwrap();
    }
}
