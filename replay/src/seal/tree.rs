//! The Merkle tree of RFC 6962, section 2.1: it grows at its right edge alone, so whoever
//! keeps one hash per complete subtree (at most 64) can add leaves and tell the root.
//!
//! Leaves count from 0. A node is named by its height and its index among the nodes of that
//! height; it is complete when all its leaves are there. Pure: where nodes are kept is for
//! others to say.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// A complete node: its height (leaves have 0), and its index among those of that height.
pub type Node = (u8, u64);

/// The hash of a leaf's data.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// The hash of two nodes' parent.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [1; 65];
    both[1..33].copy_from_slice(left);
    both[33..].copy_from_slice(right);
    Sha256::digest(both).into()
}

/// The right edge: the complete subtrees that a tree of this size consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// One per bit that is set in the size, the largest first.
    nodes: Vec<Hash>,
}

impl Frontier {
    /// The tree that consists of these subtrees, the largest first; `None` where a tree of
    /// that size has another number of them.
    pub fn of(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The complete subtrees, the largest first.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Adds a leaf; `made` hears of every node that becomes complete with it.
    pub fn push(&mut self, leaf: Hash, made: impl FnMut(Node, &Hash)) {
        self.add(0, leaf, made);
    }

    /// Adds a complete subtree of that height; `false`, and nothing is done, where the tree
    /// has no place for one at its edge.
    pub fn push_subtree(&mut self, height: u8, hash: Hash) -> bool {
        let leaves = 1u64.checked_shl(height.into());
        let fits = leaves.is_some_and(|leaves| {
            self.size.is_multiple_of(leaves) && self.size.checked_add(leaves).is_some()
        });
        if fits {
            self.add(height, hash, |_, _| {});
        }
        fits
    }

    fn add(&mut self, height: u8, mut hash: Hash, mut made: impl FnMut(Node, &Hash)) {
        let before = self.size;
        self.size += 1 << height;
        made((height, before >> height), &hash);
        let mut height = height;
        // As with adding one to a binary number: what is there already is carried upwards.
        while before >> height & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            hash = node_hash(&left, &hash);
            height += 1;
            made((height, before >> height), &hash);
        }
        self.nodes.push(hash);
    }

    /// The root; of an empty tree, the hash of nothing.
    pub fn root(&self) -> Hash {
        join(&self.nodes).unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// The root over subtrees that stand side by side, each smaller than those before it.
pub fn join(nodes: &[Hash]) -> Option<Hash> {
    nodes.iter().rev().copied().reduce(|right, left| node_hash(&left, &right))
}

/// The complete nodes that a range of leaves consists of, from left to right.
pub fn parts(range: Range<u64>) -> Vec<Node> {
    let (mut start, mut found) = (range.start, Vec::new());
    while start < range.end {
        let aligned = start.trailing_zeros();
        let height = aligned.min((range.end - start).ilog2()) as u8;
        found.push((height, start >> height));
        start += 1 << height;
    }
    found
}

/// The ranges of leaves whose roots prove that a leaf is in a tree of that size, from the
/// leaf upwards (section 2.1.1). Empty where there is no such leaf.
pub fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut path, mut within) = (Vec::new(), 0..size);
    if index >= size {
        return path;
    }
    while within.end - within.start > 1 {
        let middle = within.start + split(within.end - within.start);
        if index < middle {
            path.push(middle..within.end);
            within.end = middle;
        } else {
            path.push(within.start..middle);
            within.start = middle;
        }
    }
    path.reverse();
    path
}

/// The ranges of leaves whose roots prove that a tree of size `from` is the beginning of
/// one of size `to` (section 2.1.2). Empty where they are equal, or there is none.
pub fn consistency(from: u64, to: u64) -> Vec<Range<u64>> {
    let (mut path, mut within) = (Vec::new(), 0..to);
    if from == 0 || from > to {
        return path;
    }
    // Whether the present subtree begins both trees: its root is known from `from` then.
    let mut known = true;
    while within.end != from {
        let middle = within.start + split(within.end - within.start);
        if from <= middle {
            path.push(middle..within.end);
            within.end = middle;
        } else {
            path.push(within.start..middle);
            within.start = middle;
            known = false;
        }
    }
    if !known {
        path.push(within);
    }
    path.reverse();
    path
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root that a leaf and its path lead to (RFC 9162, section 2.1.3.2); `None` where the
/// path has not the length that index and size ask for.
pub fn included(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut root) = (index, size - 1, leaf);
    for side in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node_hash(side, &root);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            root = node_hash(&root, side);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// Whether a proof shows that the tree with root `old` is the beginning of the one with
/// root `new` (RFC 9162, section 2.1.4.2).
pub fn consistent(from: u64, old: &Hash, to: u64, new: &Hash, path: &[Hash]) -> bool {
    if from == to {
        return path.is_empty() && old == new;
    }
    if from == 0 || from > to || path.is_empty() {
        return false;
    }
    let mut path = path.iter();
    let (mut at, mut last) = (from - 1, to - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    // A complete subtree is its own proof.
    let first = if from.is_power_of_two() { Some(old) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut older, mut newer) = (*first, *first);
    for side in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            older = node_hash(side, &older);
            newer = node_hash(side, &newer);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            newer = node_hash(&newer, side);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && older == *old && newer == *new
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
