use proptest::prelude::*;

use super::*;

/// The eight leaves of the test vectors that Certificate Transparency's implementations
/// share (google/certificate-transparency, `cpp/merkletree/merkle_tree_test.cc`).
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
/// The roots of the trees of 1 to 8 of them.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn vectors() -> Vec<Hash> {
    LEAVES.iter().map(|data| leaf_hash(&hex::decode(data).unwrap())).collect()
}

fn hash(text: &str) -> Hash {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// MTH of section 2.1, as it stands there.
fn naive(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        many => {
            let k = (1..).map(|bits| 1 << bits).take_while(|k| *k < many.len()).last();
            let (left, right) = many.split_at(k.unwrap_or(1));
            node_hash(&naive(left), &naive(right))
        }
    }
}

/// PATH of section 2.1.1.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    if index < k {
        let mut path = naive_path(index, left);
        path.push(naive(right));
        path
    } else {
        let mut path = naive_path(index - k, right);
        path.push(naive(left));
        path
    }
}

/// SUBPROOF of section 2.1.2.
fn naive_proof(from: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if from == leaves.len() {
        return if whole { Vec::new() } else { vec![naive(leaves)] };
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    if from <= k {
        let mut proof = naive_proof(from, left, whole);
        proof.push(naive(right));
        proof
    } else {
        let mut proof = naive_proof(from - k, right, false);
        proof.push(naive(left));
        proof
    }
}

fn grown(leaves: &[Hash]) -> Frontier {
    let mut tree = Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf, |_, _| {}));
    tree
}

fn some(count: usize) -> Vec<Hash> {
    (0..count as u64).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn roots(ranges: &[Range<u64>], leaves: &[Hash]) -> Vec<Hash> {
    ranges.iter().map(|r| naive(&leaves[r.start as usize..r.end as usize])).collect()
}

#[test]
fn the_shared_vectors_give_the_shared_roots() {
    let leaves = vectors();
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Frontier::default().root(), hash(nothing));
    for (size, root) in (1..).zip(ROOTS) {
        assert_eq!(hex::encode(grown(&leaves[..size]).root()), root, "of {size}");
    }
}

#[test]
fn the_shared_vectors_give_the_shared_proofs() {
    let leaves = vectors();
    let shown = |ranges: Vec<Range<u64>>| -> Vec<String> {
        roots(&ranges, &leaves).iter().map(hex::encode).collect()
    };
    assert_eq!(
        shown(inclusion(5, 8)),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        shown(consistency(6, 8)),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(consistency(8, 8), []);
}

#[test]
fn every_proof_of_small_trees_is_the_one_of_the_rfc_and_no_other_passes() {
    let leaves = some(20);
    for size in 1..=leaves.len() {
        let (tree, root) = (&leaves[..size], naive(&leaves[..size]));
        for (index, leaf) in tree.iter().enumerate() {
            let path = roots(&inclusion(index as u64, size as u64), tree);
            assert_eq!(path, naive_path(index, tree), "{index} of {size}");
            let leads = |path: &[Hash]| included(index as u64, size as u64, *leaf, path);
            assert_eq!(leads(&path), Some(root));
            for at in 0..path.len() {
                let mut wrong = path.clone();
                wrong[at][0] ^= 1;
                assert_ne!(leads(&wrong), Some(root));
            }
            let longer = [&path[..], &[root]].concat();
            assert_eq!(leads(&longer), None, "too long");
            if !path.is_empty() {
                assert_ne!(leads(&path[1..]), Some(root), "too short");
            }
        }
        for from in 1..=size {
            let old = naive(&leaves[..from]);
            let proof = roots(&consistency(from as u64, size as u64), tree);
            assert_eq!(proof, naive_proof(from, tree, true), "{from} of {size}");
            let (a, b) = (from as u64, size as u64);
            assert!(consistent(a, &old, b, &root, &proof));
            for at in 0..proof.len() {
                let mut wrong = proof.clone();
                wrong[at][31] ^= 0x80;
                assert!(!consistent(a, &old, b, &root, &wrong));
            }
            assert!(!consistent(a, &leaves[0], b, &root, &proof) || from == 1);
            assert!(!consistent(a, &old, b, &leaf_hash(b"else"), &proof));
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    assert_eq!(inclusion(3, 3), []);
    assert_eq!(included(3, 3, [0; 32], &[]), None);
    assert!(!consistent(0, &[0; 32], 3, &[0; 32], &[]));
    assert!(!consistent(4, &[0; 32], 3, &[0; 32], &[[0; 32]]));
    assert_eq!(Frontier::of(3, vec![[0; 32]]), None);
    let mut tree = grown(&some(3));
    assert!(!tree.push_subtree(1, [0; 32]), "three leaves leave no place for two");
    assert!(!tree.push_subtree(64, [0; 32]));
    assert!(tree.push_subtree(0, [0; 32]));
}

proptest! {
    #[test]
    fn a_tree_that_grew_is_the_tree_of_its_leaves(count in 0usize..600, cut in 0usize..600) {
        let leaves = some(count);
        let mut made = Vec::new();
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf, |node, hash| made.push((node, *hash))));
        prop_assert_eq!(tree.root(), naive(&leaves));
        // Every complete node is told once, with its hash.
        let heights = (0u8..).take_while(|h| count >> h > 0);
        prop_assert_eq!(made.len(), heights.map(|h| count >> h).sum::<usize>());
        for ((height, index), hash) in made {
            let (start, end) = (index << height, (index + 1) << height);
            prop_assert_eq!(hash, naive(&leaves[start as usize..end as usize]));
        }
        // The same tree from its beginning and what a range of leaves consists of.
        let cut = cut.min(count);
        let mut tree = grown(&leaves[..cut]);
        for (height, index) in parts(cut as u64..count as u64) {
            let (start, end) = (index << height, (index + 1) << height);
            let subtree = naive(&leaves[start as usize..end as usize]);
            prop_assert!(tree.push_subtree(height, subtree));
        }
        prop_assert_eq!(tree, grown(&leaves));
    }

    #[test]
    fn proofs_of_huge_trees_are_short_and_made_of_whole_nodes(
        size in 1u64..(1 << 40), place: u64, from: u64,
    ) {
        let (index, from) = (place % size, from % size + 1);
        for range in [inclusion(index, size), consistency(from, size)].concat() {
            prop_assert!(range.start < range.end && range.end <= size);
            // Aligned: its root is the join of its parts.
            prop_assert!(range.start.is_multiple_of((range.end - range.start).next_power_of_two()));
        }
        prop_assert!(inclusion(index, size).len() <= 40);
        prop_assert!(consistency(from, size).len() <= 41);
    }
}
