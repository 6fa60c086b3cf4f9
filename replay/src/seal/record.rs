//! Seals: what the log was at a moment, signed, each naming the one before it.

use std::fmt::Write as _;

use chrono::SecondsFormat;
use domain::Timestamp;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::tree::Hash;

/// First line of what is signed: a signature of ours can stand for nothing else.
const DOMAIN: &str = "taffrail seal v1";

/// 32 or 64 bytes as lower-case hex.
mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D, const N: usize>(from: D) -> Result<[u8; N], D::Error>
    where
        D: Deserializer<'de>,
    {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        super::unhex(&text).ok_or_else(|| de::Error::custom(format!("{N} bytes in hex expected")))
    }
}

/// A time in the one form in which it is signed.
mod as_time {
    use domain::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::rfc3339(*at))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        let read = chrono::DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc());
        let exact = read.filter(|at| super::rfc3339(*at) == text);
        exact
            .ok_or_else(|| de::Error::custom("a time such as 2026-01-31T12:00:00.000000Z expected"))
    }
}

/// Exactly so many bytes out of lower-case hex.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let small = text.bytes().all(|b| !b.is_ascii_uppercase());
    (small && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// What a seal does beside sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing.
    Seal,
    /// It names the key that signs from now on, which signs it, too.
    Rotation,
}

/// The head of the log's tree at a moment, signed.
///
/// Invariants: `number` grows by one along a chain; `previous` is the hash of the seal with
/// the number before, whoever keeps it; a chain has one epoch, and another one begins with
/// `left`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Its place among all seals, from 1.
    pub number: u64,
    /// What it does.
    pub kind: Kind,
    /// The generation of the store.
    pub epoch: u64,
    /// The tree's leaves: positions 1 to this one.
    pub size: u64,
    /// The tree's root, in hex.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub root: Hash,
    /// When it was made, by the database's clock.
    #[serde(with = "as_time")]
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The hash of the seal before, in hex; zeros for the first.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub previous: Hash,
    /// Where this chain left the one before; on the first seal of a chain alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// The public key that signs, in hex.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub key: [u8; 32],
    /// The key after it, and that key's signature; on a rotation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Ed25519 over [`Seal::text`], in hex.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub signature: [u8; 64],
}

/// Where a chain of seals left the one before: after a restore, an import, or the loss of
/// the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// The last seal of the chain before that still holds; 0 where none does.
    pub number: u64,
    /// Its size.
    pub size: u64,
    /// Its hash, in hex.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub hash: Hash,
    /// How far that chain had sealed: what lies between `size` and this is lost.
    pub sealed: u64,
}

/// The key that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// The public key, in hex.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub key: [u8; 32],
    /// Its own signature over the same text, in hex: whoever rotates has it.
    #[serde(with = "as_hex")]
    #[schema(value_type = String)]
    pub signature: [u8; 64],
}

impl Seal {
    /// What is signed: a line per field, in this order, each ended by a line feed.
    pub fn text(&self) -> String {
        let (kind, time) = match self.kind {
            Kind::Seal => ("seal", rfc3339(self.time)),
            Kind::Rotation => ("rotation", rfc3339(self.time)),
        };
        let mut text = format!(
            "{DOMAIN}\nnumber {}\nkind {kind}\nepoch {}\nsize {}\nroot {}\ntime {time}\nprevious {}\n",
            self.number,
            self.epoch,
            self.size,
            hex::encode(self.root),
            hex::encode(self.previous),
        );
        if let Some(left) = &self.left {
            let Left { number, size, hash, sealed } = left;
            let hash = hex::encode(hash);
            let _ = writeln!(text, "left {number} {size} {hash} {sealed}");
        }
        let _ = writeln!(text, "key {}", hex::encode(self.key));
        if let Some(next) = &self.next {
            let _ = writeln!(text, "next {}", hex::encode(next.key));
        }
        text
    }

    /// SHA-256 of [`Seal::text`]: what the next seal names.
    pub fn hash(&self) -> Hash {
        Sha256::digest(self.text()).into()
    }

    /// The same, signed by its key, and by the next one where there is one.
    ///
    /// `key` must be the one that it names, and `next` the one after.
    #[must_use]
    pub fn signed(mut self, key: &SigningKey, next: Option<&SigningKey>) -> Self {
        self.key = key.verifying_key().to_bytes();
        self.next =
            next.map(|next| Next { key: next.verifying_key().to_bytes(), signature: [0; 64] });
        let text = self.text();
        self.signature = key.sign(text.as_bytes()).to_bytes();
        if let (Some(said), Some(next)) = (&mut self.next, next) {
            said.signature = next.sign(text.as_bytes()).to_bytes();
        }
        self
    }

    /// Whether the keys that it names signed it, and it is whole in itself.
    pub fn is_signed(&self) -> bool {
        let text = self.text();
        let signed = |key: &[u8; 32], signature: &[u8; 64]| {
            VerifyingKey::from_bytes(key).is_ok_and(|key| {
                // Strict: no signature of it has a second form.
                key.verify_strict(text.as_bytes(), &Signature::from_bytes(signature)).is_ok()
            })
        };
        let rotates = matches!(self.kind, Kind::Rotation);
        rotates == self.next.is_some()
            && signed(&self.key, &self.signature)
            && self.next.is_none_or(|next| signed(&next.key, &next.signature))
    }
}

/// RFC 3339 in UTC, to the microsecond.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn seal(number: u64) -> Seal {
        Seal {
            number,
            kind: Kind::Seal,
            epoch: 1,
            size: 10 * number,
            root: [7; 32],
            time: Timestamp::UNIX_EPOCH + chrono::Duration::microseconds(1),
            previous: [0; 32],
            left: None,
            key: [0; 32],
            next: None,
            signature: [0; 64],
        }
    }

    #[test]
    fn what_is_signed_is_plain_text_and_every_field_of_it_counts() {
        let (key, next) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let left = Some(Left { number: 1, size: 10, hash: [3; 32], sealed: 12 });
        let whole = Seal { kind: Kind::Rotation, left, ..seal(2) }.signed(&key, Some(&next));
        assert!(whole.is_signed());
        let expected = format!(
            "taffrail seal v1\nnumber 2\nkind rotation\nepoch 1\nsize 20\nroot {}\n\
             time 1970-01-01T00:00:00.000001Z\nprevious {}\nleft 1 10 {} 12\nkey {}\nnext {}\n",
            "07".repeat(32),
            "00".repeat(32),
            "03".repeat(32),
            hex::encode(key.verifying_key().to_bytes()),
            hex::encode(next.verifying_key().to_bytes()),
        );
        assert_eq!(whole.text(), expected);

        // Each value of the document, changed, is noticed.
        let document = serde_json::to_value(&whole).unwrap();
        assert_eq!(serde_json::from_value::<Seal>(document.clone()).unwrap(), whole);
        let mut changed = 0;
        for path in [
            "number",
            "kind",
            "epoch",
            "size",
            "root",
            "time",
            "previous",
            "left/number",
            "left/size",
            "left/hash",
            "left/sealed",
            "key",
            "next/key",
            "next/signature",
            "signature",
        ] {
            let mut document = document.clone();
            let value = document.pointer_mut(&format!("/{path}")).unwrap();
            *value = match value.clone() {
                serde_json::Value::Number(n) => (n.as_u64().unwrap() + 1).into(),
                serde_json::Value::String(text) if text == "rotation" => "seal".into(),
                serde_json::Value::String(text) if text.ends_with('Z') => {
                    text.replace("01Z", "02Z").into()
                }
                serde_json::Value::String(text) => {
                    let other = if text.starts_with('0') { "1" } else { "0" };
                    format!("{other}{}", &text[1..]).into()
                }
                other @ (serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Array(_)
                | serde_json::Value::Object(_)) => panic!("{other}"),
            };
            let seal: Seal = serde_json::from_value(document).unwrap();
            assert!(!seal.is_signed(), "{path}");
            changed += 1;
        }
        assert_eq!(changed, 15);
        assert!(!Seal { next: None, ..whole.clone() }.is_signed());
        assert!(!Seal { left: None, ..whole }.is_signed());
    }
}
