//! What an agent's secrets are.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use domain::profile::SecretSource;

use crate::link::Link;

/// Largest secret, in bytes: a key or a certificate, not data.
const MAX_BYTES: u64 = 64 * 1024;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("secret {name}: {reason}")]
pub(crate) struct Missing {
    name: String,
    reason: String,
    /// Another try will not help.
    pub permanent: bool,
}

/// Gets each secret of a profile.
pub(crate) async fn gather(
    secrets: &BTreeMap<String, SecretSource>,
    dir: Option<&Path>,
    link: &Link,
) -> Result<BTreeMap<String, String>, Missing> {
    let mut values = BTreeMap::new();
    for (name, source) in secrets {
        let missing = |reason: String, permanent| Missing { name: name.clone(), reason, permanent };
        let value = match source {
            SecretSource::File(path) => {
                let dir = dir.ok_or_else(|| {
                    missing("the node was started without --secrets-dir".into(), true)
                })?;
                read(dir, path).map_err(|reason| missing(reason, true))?
            }
            SecretSource::Nats(subject) => {
                let answer = link.secret(subject).await;
                let bytes = answer.map_err(|error| missing(error.to_string(), false))?;
                text(bytes.to_vec()).map_err(|reason| missing(reason, false))?
            }
        };
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// A file below the folder: no link leads out of it.
fn read(dir: &Path, path: &str) -> Result<String, String> {
    if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(format!("`{path}` is no path below the folder for secrets"));
    }
    let failed = |error: std::io::Error| format!("{path}: {error}");
    let (dir, file) =
        (dir.canonicalize().map_err(failed)?, dir.join(path).canonicalize().map_err(failed)?);
    if !file.starts_with(&dir) {
        return Err(format!("{path} leads out of the folder for secrets"));
    }
    let size = std::fs::metadata(&file).map_err(failed)?;
    if !size.is_file() || size.len() > MAX_BYTES {
        return Err(format!("{path} is no file of at most 64 KiB"));
    }
    text(std::fs::read(&file).map_err(failed)?)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err("it has more than 64 KiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "it is no text (UTF-8)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_below_the_folder_alone() {
        let root = std::env::temp_dir().join(format!("taffrail-secrets-{}", uuid::Uuid::new_v4()));
        let dir = root.join("secrets");
        std::fs::create_dir_all(dir.join("deep")).unwrap();
        std::fs::write(dir.join("deep/key"), "hunter2").unwrap();
        std::fs::write(root.join("outside"), "no").unwrap();
        std::os::unix::fs::symlink(root.join("outside"), dir.join("way-out")).unwrap();
        std::fs::write(dir.join("large"), vec![b'x'; 65 * 1024]).unwrap();
        std::fs::write(dir.join("binary"), b"\xff").unwrap();
        assert_eq!(read(&dir, "deep/key").as_deref(), Ok("hunter2"));
        for wrong in ["../outside", "way-out", "/etc/passwd", "deep", "large", "binary", "none"] {
            assert!(read(&dir, wrong).is_err(), "{wrong}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
