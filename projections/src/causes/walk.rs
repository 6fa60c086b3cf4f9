//! A walk through the log's graph: who is known already, who hangs on whom, and where it was
//! cut. Pure; the queries feed it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::query::is_before;
use super::{CauseNode, Link};

/// Events stand at their position; refusals have their command's id beside it, because
/// several may be decided at one head.
type Key = (u64, Option<Uuid>);

fn key(node: &CauseNode) -> Key {
    (node.position, node.refused.then_some(node.command_id))
}

/// Places, streams and versions of events that others may follow.
pub(super) type Openers = (Vec<i64>, Vec<Uuid>, Vec<i64>);

/// The entries so far.
pub(super) struct Walk {
    nodes: BTreeMap<Key, CauseNode>,
    /// Who follows whom, where no cause is recorded.
    after: BTreeMap<u64, u64>,
    most: usize,
}

impl Walk {
    /// Begins at what was asked about.
    pub fn new(asked: Vec<CauseNode>, most: usize) -> Self {
        let nodes = asked.into_iter().map(|node| (key(&node), CauseNode { asked: true, ..node }));
        Self { nodes: nodes.collect(), after: BTreeMap::new(), most }
    }

    fn event(&self, position: u64) -> Option<&CauseNode> {
        self.nodes.get(&(position, None))
    }

    /// Of all entries.
    pub fn positions(&self) -> Vec<u64> {
        self.nodes.values().map(|node| node.position).collect()
    }

    /// The events that were asked about.
    pub fn asked(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.asked).map(|node| node.position).collect()
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.nodes.len() >= self.most
    }

    /// How many effects of each of so many entries are read: all together not many more than
    /// there is room for, and some of each.
    pub fn fan(&self, entries: usize) -> i64 {
        let room = self.most.saturating_sub(self.nodes.len());
        i64::try_from((2 * room / entries.max(1)).max(2)).unwrap_or(i64::MAX)
    }

    /// The causes that these name and that are not known yet.
    pub fn missing_causes(&self, of: &[u64]) -> Vec<i64> {
        let named = of.iter().filter_map(|position| {
            let node = self.event(*position)?;
            node.cause.filter(|cause| is_before(*cause, node) && self.event(*cause).is_none())
        });
        let causes: BTreeSet<u64> = named.collect();
        causes.into_iter().filter_map(|cause| i64::try_from(cause).ok()).collect()
    }

    /// Those of these that name no cause and are not their stream's first event, with their
    /// place, stream and version.
    pub fn uncaused(&self, of: &[u64]) -> Vec<(u64, Uuid, i64)> {
        let nodes = of.iter().filter_map(|position| self.event(*position));
        nodes
            .filter(|node| node.cause.is_none() && node.version > 1)
            .filter(|node| !self.after.contains_key(&node.position))
            .filter_map(|node| {
                Some((node.position, node.stream_id, i64::try_from(node.version).ok()?))
            })
            .collect()
    }

    /// Those of these that others may follow: events that name a cause, or begin their
    /// stream; what names none is itself a follower.
    pub fn openers(&self, of: &[u64]) -> Openers {
        let (mut places, mut streams, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for node in of.iter().filter_map(|position| self.event(*position)) {
            let opens = node.cause.is_some() || node.version == 1;
            if let (true, Ok(place), Ok(version)) =
                (opens, i64::try_from(node.position), i64::try_from(node.version))
            {
                places.push(place);
                streams.push(node.stream_id);
                versions.push(version);
            }
        }
        (places, streams, versions)
    }

    /// Of the events that stand behind some in their streams those that follow them: up to the
    /// first that names a cause of its own, unless it came of the same command. Where as many
    /// were read as are read at most, there may be more.
    pub fn followers(&mut self, behind: Vec<(u64, CauseNode)>, most: usize) -> Vec<CauseNode> {
        let mut found = Vec::new();
        let (mut place, mut ended, mut seen) = (0, false, 0);
        for (of, node) in behind {
            if of != place {
                (place, ended, seen) = (of, false, 0);
            }
            seen += 1;
            let same = self.event(of).is_some_and(|of| of.command_id == node.command_id);
            ended |= node.cause.is_some() && !same;
            if ended {
                continue;
            }
            self.follows(node.position, of);
            if seen == most {
                self.more(of, node.position);
            }
            found.push(node);
        }
        found
    }

    /// The one at a place came after another in its stream.
    pub fn follows(&mut self, place: u64, opener: u64) {
        if opener < place {
            self.after.entry(place).or_insert(opener);
        }
    }

    /// There is more below an entry than is shown, behind a position.
    pub fn more(&mut self, of: u64, behind: u64) {
        if let Some(node) = self.nodes.get_mut(&(of, None)) {
            node.more_after = Some(node.more_after.map_or(behind, |known| known.min(behind)));
        }
    }

    /// Adds what was found above; yields the positions that are new.
    pub fn add(&mut self, found: Vec<CauseNode>) -> Vec<u64> {
        let mut new = Vec::new();
        for node in found {
            if self.is_full() {
                break;
            }
            if let Entry::Vacant(place) = self.nodes.entry(key(&node)) {
                new.push(node.position);
                place.insert(node);
            }
        }
        new
    }

    /// What an entry hangs on: the cause that it names, else what it follows.
    fn above(&self, node: &CauseNode) -> Option<(u64, Link)> {
        match node.cause {
            Some(cause) => is_before(cause, node).then_some((cause, Link::Caused)),
            None => self.after.get(&node.position).map(|opener| (*opener, Link::Followed)),
        }
    }

    /// Adds what was found below, oldest first, as far as there is room and no more than `fan`
    /// of each entry. What is left out is marked where it would hang. Yields the new events.
    pub fn add_below(&mut self, mut found: Vec<CauseNode>, fan: i64) -> Vec<u64> {
        found.sort_by_key(key);
        found.dedup_by_key(|node| key(node));
        let mut new = Vec::new();
        // Of each entry how many are shown, and the last of them.
        let mut shown: BTreeMap<u64, (i64, u64)> = BTreeMap::new();
        for node in found {
            let key = key(&node);
            if self.nodes.contains_key(&key) {
                continue;
            }
            let Some((above, _)) = self.above(&node) else { continue };
            let (count, last) = shown.get(&above).copied().unwrap_or((0, node.position - 1));
            if self.is_full() || count >= fan {
                // Refusals may share a position: behind the one before none is missed.
                self.more(above, last.min(node.position - 1));
                continue;
            }
            shown.insert(above, (count + 1, node.position));
            if !node.refused {
                new.push(node.position);
            }
            self.nodes.insert(key, node);
        }
        new
    }

    /// The walk ends here: what was found below is not shown, but said to be there.
    pub fn cut(&mut self, found: &[CauseNode]) {
        let mut first: BTreeMap<u64, u64> = BTreeMap::new();
        for node in found.iter().filter(|node| !self.nodes.contains_key(&key(node))) {
            if let Some((above, _)) = self.above(node) {
                let known = first.entry(above).or_insert(node.position);
                *known = (*known).min(node.position);
            }
        }
        for (above, position) in first {
            self.more(above, position - 1);
        }
    }

    /// Every entry once, by position, each with what it hangs on.
    pub fn done(self) -> Vec<CauseNode> {
        let hangs: Vec<(Key, u64, Link)> = self
            .nodes
            .iter()
            .filter_map(|(at, node)| {
                let (above, link) = self.above(node)?;
                self.event(above)?;
                Some((*at, above, link))
            })
            .collect();
        let mut nodes = self.nodes;
        for node in nodes.values_mut() {
            node.link = Link::Root;
        }
        for (at, above, link) in hangs {
            if let Some(node) = nodes.get_mut(&at) {
                (node.from, node.link) = (Some(above), link);
            }
        }
        nodes.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use domain::StreamType;

    use super::*;

    /// An event of one stream, at its position also in the stream, by a command of its own.
    fn node(position: u64, cause: Option<u64>) -> CauseNode {
        CauseNode {
            position,
            refused: false,
            event_id: Some(Uuid::from_u128(position.into())),
            kind: "task.progressed".into(),
            stream_type: StreamType::Task,
            stream_id: Uuid::nil(),
            version: position,
            occurred_at: DateTime::UNIX_EPOCH,
            actor: "tester".into(),
            command_id: Uuid::from_u128(position.into()),
            command: None,
            credential: None,
            request_id: None,
            correlation_id: None,
            cause,
            agent_id: None,
            summary: String::new(),
            problem: None,
            from: None,
            link: Link::Root,
            asked: false,
            more_after: None,
        }
    }

    fn hung(nodes: &[CauseNode]) -> Vec<(u64, Option<u64>, Link)> {
        nodes.iter().map(|node| (node.position, node.from, node.link)).collect()
    }

    #[test]
    fn what_names_no_cause_follows_up_to_the_next_that_does() {
        let mut walk = Walk::new(vec![node(1, None)], 10);
        let same = CauseNode { command_id: Uuid::from_u128(1), ..node(2, Some(1)) };
        let behind = [same, node(3, None), node(4, Some(1)), node(5, None)];
        let found = walk.followers(behind.map(|node| (1, node)).to_vec(), 24);
        assert_eq!(found.iter().map(|node| node.position).collect::<Vec<_>>(), [2, 3]);
        walk.add_below(found, 10);
        assert_eq!(
            hung(&walk.done()),
            [(1, None, Link::Root), (2, Some(1), Link::Caused), (3, Some(1), Link::Followed)]
        );
    }

    #[test]
    fn what_has_no_room_is_marked_behind_the_last_that_is_shown() {
        let mut walk = Walk::new(vec![node(1, None)], 10);
        let found: Vec<_> = (2..9).map(|position| node(position, Some(1))).collect();
        assert_eq!(walk.add_below(found.clone(), 3), [2, 3, 4], "no more than the fan");
        assert_eq!(walk.done()[0].more_after, Some(4));
        let mut walk = Walk::new(vec![node(1, None)], 3);
        assert_eq!(walk.add_below(found.clone(), 100), [2, 3], "no more than there is room for");
        assert_eq!(walk.done()[0].more_after, Some(3));
        let mut walk = Walk::new(vec![node(1, None)], 10);
        walk.cut(&found);
        assert_eq!(walk.done()[0].more_after, Some(1), "everything behind it");
    }

    #[test]
    fn nothing_is_caused_by_what_came_later_or_by_itself() {
        let mut walk = Walk::new(vec![node(3, Some(3)), node(4, Some(9)), node(9, None)], 10);
        assert!(walk.missing_causes(&[3, 4]).is_empty());
        walk.follows(3, 4);
        let nodes = walk.done();
        assert!(nodes.iter().all(|node| node.from.is_none()), "{:?}", hung(&nodes));
    }
}
