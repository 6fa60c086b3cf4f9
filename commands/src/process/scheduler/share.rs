//! Weighted fair sharing of what is given out: stride scheduling.
//!
//! Each class has a pass, which grows by a stride whenever it is served: the larger its
//! weight, the smaller the stride. The class with the least pass is served. One that had
//! nothing to give, or nothing that fitted, goes on at the pass that the others have
//! reached: it is served soon, and cannot save its turns up. Source: C. A. Waldspurger,
//! W. E. Weihl, "Stride Scheduling: Deterministic Proportional-Share Resource
//! Management", MIT/LCS/TM-528, 1995 (equal quanta; of unequal ones it would be the
//! deficit round robin of Shreedhar and Varghese, SIGCOMM 1995, at a lower cost).
//!
//! Bound: while a class of weight w has something that fits every agent, at most
//! `ceil(v / w) + 1` of each other class of weight v are served between two of it.

/// The stride of weight 1: weights up to 10,000 keep theirs apart by 0.01 %.
const STRIDE: u64 = 1 << 27;

/// The place of a class in the order of service; the least comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pass: u64,
    /// Of two that the others have overtaken, the one that was served less comes
    /// first: it can overtake them again and again when other agents are served from
    /// classes that fit only them.
    own: u64,
}

impl Tag {
    /// The pass itself, for the record.
    pub fn pass(self) -> i64 {
        i64::try_from(self.pass).unwrap_or(i64::MAX)
    }
}

/// The pass that classes which share have reached.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct VirtualTime(u64);

/// What a class has had.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Served(u64);

impl VirtualTime {
    pub fn tag(self, served: Served, weight: u32) -> Tag {
        let own = served.0 + STRIDE / u64::from(weight.max(1));
        Tag { pass: own.max(self.0), own }
    }

    /// Something of a class is given out.
    pub fn serve(&mut self, served: &mut Served, weight: u32) {
        let Tag { pass, .. } = self.tag(*served, weight);
        self.0 = pass;
        served.0 = pass;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_class_gets_its_share_however_the_others_come_and_go(
            weights in prop::collection::vec(1..50u32, 2..6),
            pauses in prop::collection::vec(any::<u8>(), 400),
        ) {
            let (mut time, mut served) = (VirtualTime::default(), vec![Served::default(); weights.len()]);
            // How many of each other class were served since the first class was.
            let mut since = vec![0u32; weights.len()];
            for pause in pauses {
                // The first always has something; of the others some have.
                let there = (0..weights.len()).filter(|n| *n == 0 || pause >> n & 1 == 1);
                let next = there.min_by_key(|n| (time.tag(served[*n], weights[*n]), *n)).unwrap();
                time.serve(&mut served[next], weights[next]);
                since[next] += 1;
                if next == 0 {
                    since.fill(0);
                    continue;
                }
                let bound = weights[next].div_ceil(weights[0]) + 1;
                prop_assert!(since[next] <= bound, "{since:?} of {weights:?}");
            }
        }

        #[test]
        fn nobody_starves_when_others_move_the_virtual_time(weights in prop::collection::vec(1..50u32, 3..6)) {
            let (mut time, mut served) = (VirtualTime::default(), vec![Served::default(); weights.len()]);
            let (last, mut waited) = (weights.len() - 1, 0);
            for turn in 0..500 {
                // Every other agent fits the first class alone.
                let fit = if turn % 2 == 0 { 0..1 } else { 1..weights.len() };
                let next = fit.min_by_key(|n| (time.tag(served[*n], weights[*n]), *n)).unwrap();
                time.serve(&mut served[next], weights[next]);
                waited = if next == last { 0 } else { waited + 1 };
                let all: u32 = weights[1..].iter().map(|w| w.div_ceil(weights[last]) + 1).sum();
                prop_assert!(waited <= 2 * all + 2, "{waited}");
            }
        }
    }
}
