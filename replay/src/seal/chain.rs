//! Following seals from one to the next: who signed, whether one is missing, where a chain
//! was left.

use std::collections::BTreeMap;

use super::record::{Kind, Left, Seal};
use super::tree::Hash;

/// A chain of seals that was left, as the one after it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Break {
    /// The first seal of the chain that followed.
    pub seal: u64,
    /// Its generation of the store.
    pub epoch: u64,
    /// How far the chain before still holds.
    pub kept: u64,
    /// How far it had sealed.
    pub sealed: u64,
    /// The key changed with it, without the old one's word.
    pub other_key: bool,
}

impl Break {
    /// Sealed events that are gone.
    pub fn lost(&self) -> u64 {
        self.sealed.saturating_sub(self.kept)
    }
}

/// Follows a chain.
///
/// With trusted keys, whatever is signed by others is refused, but for those that a trusted
/// one named as its next. Without, the first key that is seen is taken for good.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    trusted: Vec<[u8; 32]>,
    given: bool,
    last: Option<Link>,
    /// Sizes and hashes by number, for a later chain that leaves this one further back.
    known: BTreeMap<u64, (u64, Hash)>,
    breaks: Vec<Break>,
    keys: Vec<[u8; 32]>,
}

#[derive(Debug, Clone)]
struct Link {
    number: u64,
    hash: Hash,
    epoch: u64,
    size: u64,
    /// Who signs the next one.
    key: [u8; 32],
}

impl Chain {
    /// A chain of which nothing is known yet; with keys, nobody else may sign.
    pub fn trusting(keys: &[[u8; 32]]) -> Self {
        Self { trusted: keys.to_vec(), given: !keys.is_empty(), ..Self::default() }
    }

    /// Learns of changes of keys that came before.
    ///
    /// # Errors
    /// When one is not signed as it should be.
    pub fn rotations(&mut self, seals: &[Seal]) -> Result<(), String> {
        for seal in seals {
            if seal.kind != Kind::Rotation || !seal.is_signed() {
                return Err(format!("rotation {}: its signature does not fit", seal.number));
            }
            self.learn(seal);
        }
        Ok(())
    }

    fn learn(&mut self, seal: &Seal) {
        if let Some(next) = seal.next
            && self.trusted.contains(&seal.key)
            && !self.trusted.contains(&next.key)
        {
            self.trusted.push(next.key);
        }
    }

    /// Takes the next seal.
    ///
    /// # Errors
    /// Says why it is not the next one.
    pub fn push(&mut self, seal: &Seal) -> Result<(), String> {
        let number = seal.number;
        if !seal.is_signed() {
            return Err(format!("seal {number}: its signature does not fit"));
        }
        match (&self.last, seal.left) {
            (None, _) => {}
            (Some(last), None) => {
                if number != last.number + 1 || seal.previous != last.hash {
                    let expected = last.number + 1;
                    return Err(format!("seal {number}: it does not follow, {expected} should"));
                }
                if seal.epoch != last.epoch || seal.size < last.size {
                    return Err(format!("seal {number}: it steps back"));
                }
                if seal.key != last.key {
                    return Err(format!(
                        "seal {number}: another key signs, and the one before did not name it"
                    ));
                }
            }
            (Some(last), Some(left)) => self.check_left(seal, left, last)?,
        }
        if seal.left.is_none_or(|left| left.number == 0) && number == 1 && seal.previous != [0; 32]
        {
            return Err("seal 1: it names one before it".into());
        }
        if self.given || !self.trusted.is_empty() {
            let rekeyed = !self.given && seal.left.is_some();
            if !self.trusted.contains(&seal.key) {
                if !rekeyed {
                    return Err(format!(
                        "seal {number}: the key that signs is none of those given"
                    ));
                }
                self.trusted.push(seal.key);
            }
        } else {
            self.trusted.push(seal.key);
        }
        self.learn(seal);
        if let Some(left) = seal.left {
            self.breaks.push(Break {
                seal: number,
                epoch: seal.epoch,
                kept: left.size,
                sealed: left.sealed,
                other_key: self.last.as_ref().is_some_and(|last| last.key != seal.key),
            });
            let _left_behind = self.known.split_off(&(left.number + 1));
        }
        if !self.keys.contains(&seal.key) {
            self.keys.push(seal.key);
        }
        let hash = seal.hash();
        self.known.insert(number, (seal.size, hash));
        let key = seal.next.map_or(seal.key, |next| next.key);
        self.last = Some(Link { number, hash, epoch: seal.epoch, size: seal.size, key });
        Ok(())
    }

    /// A chain begins: it must name a seal that is known, and no later one than is there.
    fn check_left(&self, seal: &Seal, left: Left, last: &Link) -> Result<(), String> {
        let number = seal.number;
        let back = number <= last.number || seal.epoch < last.epoch || seal.size < left.size;
        if back || seal.previous != left.hash {
            return Err(format!("seal {number}: it steps back"));
        }
        // What was left before a range that was exported is not there to be compared.
        let first = self.known.keys().next().copied().unwrap_or_default();
        let known = self.known.get(&left.number);
        let fits = known.is_some_and(|known| *known == (left.size, left.hash));
        if left.number >= first && !fits {
            return Err(format!("seal {number}: it leaves a chain that is not there"));
        }
        Ok(())
    }

    /// The number of the last seal; 0 when there is none.
    pub fn number(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.number)
    }

    /// How far the last seal goes; 0 when there is none.
    pub fn sealed(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.size)
    }

    /// Where chains were left.
    pub fn breaks(&self) -> &[Break] {
        &self.breaks
    }

    /// The keys that signed.
    pub fn keys(&self) -> &[[u8; 32]] {
        &self.keys
    }
}

/// The seals that still hold: those that a later chain left behind are not among them.
pub fn standing(seals: &[Seal]) -> Vec<&Seal> {
    let mut standing: Vec<&Seal> = Vec::new();
    for seal in seals {
        if let Some(left) = seal.left {
            standing.retain(|before| before.number <= left.number);
        }
        standing.push(seal);
    }
    standing
}
