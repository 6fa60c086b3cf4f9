//! The key that signs, in a file of its own, and public keys as people hand them around.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};

/// The file of the signing key in the data folder.
pub const KEY_FILE: &str = "seal-key.pem";
/// Beside it, the key that is to follow; its presence asks for the rotation.
const NEXT_SUFFIX: &str = ".next";

/// What stands before the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410, section 7).
const PRIVATE: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the 32 bytes of an Ed25519 public key (RFC 8410, section 4).
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the key file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and holds no such key.
    #[error("{path} holds no Ed25519 {what} key in PEM")]
    NoKey {
        /// Which.
        path: PathBuf,
        /// private, public
        what: &'static str,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    |source| KeyError::File { path, source }
}

/// Reads the signing key; makes one where there is none.
///
/// # Errors
/// When the file cannot be read or written, or holds something else.
pub fn load_or_make(path: &Path) -> Result<SigningKey, KeyError> {
    match load(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = fresh();
            match write_new(path, &key) {
                // Somebody else was faster: theirs counts.
                Err(KeyError::File { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists =>
                {
                    load(path)
                }
                written => written.map(|()| key),
            }
        }
        found => found,
    }
}

/// Reads the signing key.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
    let text = std::fs::read_to_string(path).map_err(failed(path))?;
    let bytes = unpem(&text, "PRIVATE KEY").next();
    let seed = bytes.and_then(|der| der.strip_prefix(&PRIVATE)?.try_into().ok());
    let seed: [u8; 32] =
        seed.ok_or_else(|| KeyError::NoKey { path: path.into(), what: "private" })?;
    Ok(SigningKey::from_bytes(&seed))
}

/// A key that nobody has had.
pub fn fresh() -> SigningKey {
    SigningKey::from_bytes(&rand::random())
}

/// Where the key that is to follow lies.
pub fn next_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEXT_SUFFIX);
    name.into()
}

/// Writes a key into a file that is not there yet, for its owner alone.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn write_new(path: &Path, key: &SigningKey) -> Result<(), KeyError> {
    // Whole or not at all: a half key would lock the sealer out.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(name);
    let der = [&PRIVATE[..], &key.to_bytes()].concat();
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(pem("PRIVATE KEY", &der).as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link refuses what is there already.
        std::fs::hard_link(&draft, path)
    })();
    let _ = std::fs::remove_file(&draft);
    written.map_err(failed(path))
}

/// A public key as PEM, which `openssl` reads.
pub fn public_pem(key: &[u8; 32]) -> String {
    pem("PUBLIC KEY", &[&PUBLIC[..], key].concat())
}

/// The public keys in a PEM file; a private key stands for its public one.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn read_public(path: &Path) -> Result<Vec<[u8; 32]>, KeyError> {
    let text = std::fs::read_to_string(path).map_err(failed(path))?;
    let public = unpem(&text, "PUBLIC KEY")
        .filter_map(|der| der.strip_prefix(&PUBLIC)?.try_into().ok())
        .filter(|key| VerifyingKey::from_bytes(key).is_ok());
    let private = load(path).ok().map(|key| key.verifying_key().to_bytes());
    let keys: Vec<_> = public.chain(private).collect();
    if keys.is_empty() {
        return Err(KeyError::NoKey { path: path.into(), what: "public" });
    }
    Ok(keys)
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// The contents of all blocks of that label.
fn unpem(text: &str, label: &str) -> impl Iterator<Item = Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let blocks: Vec<Vec<u8>> = text
        .split(&begin)
        .skip(1)
        .filter_map(|rest| {
            let body: String = rest.split(&end).next()?.split_whitespace().collect();
            STANDARD.decode(body).ok()
        })
        .collect();
    blocks.into_iter()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_read_back() {
        let folder = std::env::temp_dir().join(format!("taffrail-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(KEY_FILE);
        let made = load_or_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_make(&path).unwrap().to_bytes(), made.to_bytes());
        assert!(write_new(&path, &fresh()).is_err(), "a key is never written over");
        let public = made.verifying_key().to_bytes();
        assert_eq!(read_public(&path).unwrap(), [public]);
        let two = format!("{}\n{}", public_pem(&public), public_pem(&[0x58; 32]));
        std::fs::write(&path, two).unwrap();
        assert_eq!(read_public(&path).unwrap()[0], public);
        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(load_or_make(&path), Err(KeyError::NoKey { .. })));
        assert!(matches!(read_public(&path), Err(KeyError::NoKey { .. })));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left lying");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_known_key_has_the_form_of_the_rfc() {
        // RFC 8410, section 10.1 and 10.3.
        let public = "-----BEGIN PUBLIC KEY-----\n\
             MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let bytes = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        assert_eq!(public_pem(&super::super::record::unhex(bytes).unwrap()), public);
    }
}
