//! Checking a log against its seals: pure, in one pass, with the first bad position.

use std::collections::BTreeMap;

use serde::Serialize;

use super::chain::{Break, Chain, standing};
use super::fast::Known;
use super::leaf::Columns;
use super::line::{Edge, End, FORMAT, Header, Line, MAX_LINE_BYTES, read};
use super::record::Seal;
use super::table::Table;
use super::tree::{Frontier, Hash, Node, parts};

/// What does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {what}", place(*position, *to))]
pub struct Fault {
    /// The first position that cannot be relied on.
    pub position: u64,
    /// The last one of the same stretch, where the fault lies somewhere in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// The line of the export, from 1, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
}

fn place(position: u64, to: Option<u64>) -> String {
    match to {
        Some(to) if to > position => format!("somewhere in positions {position} to {to}"),
        Some(_) | None => format!("position {position}"),
    }
}

/// What was checked, and what holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The first position.
    pub from: u64,
    /// The last position; `from - 1` where there are no events.
    pub to: u64,
    /// How many events there were.
    pub events: u64,
    /// How many seals were compared with the events.
    pub seals: u64,
    /// How many of those had been published outside.
    pub outside: u64,
    /// The last position that a seal covers.
    pub sealed: u64,
    /// The positions behind it, first and last, that no seal covers yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_yet_sealed: Option<(u64, u64)>,
    /// Who signed, in hex.
    pub keys: Vec<String>,
    /// Where chains of seals were left: restores, imports, lost keys.
    pub breaks: Vec<Break>,
}

/// Takes a log line by line and compares it with its seals.
#[derive(Debug)]
pub struct Checker {
    chain: Chain,
    /// Seals published outside that must hold, by size: number and root.
    outside: BTreeMap<u64, Vec<(u64, Hash)>>,
    outside_breaks: Vec<Break>,
    outside_keys: Vec<[u8; 32]>,
    /// The same by number, as documents.
    published: BTreeMap<u64, Hash>,
    tree: Frontier,
    /// What the database keeps of the tree.
    nodes: Vec<(Node, Hash)>,
    header: Option<Header>,
    /// The last position that a seal has been compared for.
    sealed: u64,
    seals: u64,
    compared: u64,
    position: u64,
    epoch: u64,
    recorded_at: domain::Timestamp,
    edge: bool,
    ended: bool,
    line: u64,
}

impl Checker {
    /// Trusts these keys alone; without any, those that signed first.
    ///
    /// `outside` are the seals published outside the database, by number: none of them may
    /// be missing, and the log must fit them all.
    ///
    /// # Errors
    /// When those do not fit each other.
    pub fn new(trusted: &[[u8; 32]], outside: &[Seal]) -> Result<Self, Fault> {
        let mut chain = Chain::trusting(trusted);
        for seal in outside {
            let position = chain.sealed() + 1;
            let fault = |what| Fault { position, to: None, line: None, what };
            chain.push(seal).map_err(|what| fault(format!("published {what}")))?;
        }
        let mut by_size: BTreeMap<u64, Vec<(u64, Hash)>> = BTreeMap::new();
        for seal in standing(outside) {
            by_size.entry(seal.size).or_default().push((seal.number, seal.root));
        }
        Ok(Self {
            outside: by_size,
            outside_breaks: chain.breaks().to_vec(),
            outside_keys: chain.keys().to_vec(),
            published: standing(outside).iter().map(|seal| (seal.number, seal.hash())).collect(),
            chain: Chain::trusting(trusted),
            tree: Frontier::default(),
            nodes: Vec::new(),
            header: None,
            sealed: 0,
            seals: 0,
            compared: 0,
            position: 0,
            epoch: 0,
            recorded_at: domain::Timestamp::MIN_UTC,
            edge: false,
            ended: false,
            line: 0,
        })
    }

    fn fault(&self, position: u64, what: impl Into<String>) -> Fault {
        Fault { position, to: None, line: Some(self.line).filter(|at| *at > 0), what: what.into() }
    }

    /// Takes the next line of an export.
    ///
    /// # Errors
    /// Where it does not fit.
    pub fn line(&mut self, number: u64, line: Line<'_>) -> Result<(), Fault> {
        self.line = number;
        let next = self.position + 1;
        if self.ended {
            return Err(self.fault(next, "there is more behind the last line"));
        }
        match line {
            Line::Begun(header) => self.begin(*header),
            _ if self.header.is_none() => {
                Err(self.fault(1, "the first line is no beginning of an export"))
            }
            Line::Event(event) => self.event(&event),
            Line::Sealed(seal) => self.seal(&seal),
            Line::Edge(edge) => self.edge(&edge),
            Line::Broken(broken) => {
                let what = format!("the log cannot be read: {}", broken.reason);
                Err(self.fault(broken.position.max(next), what))
            }
            Line::Ended(end) => self.end(&end),
        }
    }

    /// The complete nodes that the database keeps, as far as they were not taken yet.
    pub fn take_nodes(&mut self) -> Vec<(Node, Hash)> {
        std::mem::take(&mut self.nodes)
    }

    /// What the export says of itself.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The last position that was taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// A line that cannot be read.
    pub fn unreadable(&self, line: u64, what: String) -> Fault {
        Fault { line: Some(line), ..self.fault(self.position + 1, what) }
    }

    /// What comes: the range, and what the tree is before it.
    ///
    /// # Errors
    /// Where it contradicts itself.
    pub fn begin(&mut self, header: Header) -> Result<(), Fault> {
        let first = header.from;
        if self.header.is_some() {
            return Err(self.fault(self.position + 1, "a second beginning of an export"));
        }
        if header.format != FORMAT || first == 0 || header.to < first - 1 {
            return Err(self.fault(first, "the beginning of the export contradicts itself"));
        }
        let left: Option<Vec<Hash>> = header.left.iter().map(|node| node.hash()).collect();
        let tree = left.and_then(|left| Frontier::of(first - 1, left));
        self.tree =
            tree.ok_or_else(|| self.fault(first, "`left` is not what a tree begins with"))?;
        self.chain.rotations(&header.rotations).map_err(|what| self.fault(first, what))?;
        self.position = first - 1;
        self.sealed = first - 1;
        // What was sealed before the range is in its `left`.
        self.outside = self.outside.split_off(&first);
        self.header = Some(header);
        Ok(())
    }

    /// The next event.
    ///
    /// # Errors
    /// Where it is not the next one, or not what its hash says.
    pub fn event(&mut self, event: &Columns<'_>) -> Result<(), Fault> {
        let expected = self.position + 1;
        if self.edge || self.header.as_ref().is_some_and(|header| expected > header.to) {
            return Err(self.fault(expected, "there are more events than the beginning says"));
        }
        if event.position != expected {
            let found = event.position;
            return Err(self.fault(expected, format!("position {found} stands in its place")));
        }
        if event.expected_hash() != event.hash {
            return Err(self.fault(expected, "the event is not the one that its hash was made of"));
        }
        if event.epoch < self.epoch || event.recorded_at < self.recorded_at {
            return Err(self.fault(expected, "its epoch or its time runs backwards"));
        }
        (self.epoch, self.recorded_at) = (event.epoch, event.recorded_at);
        let nodes = &mut self.nodes;
        self.tree.push(event.leaf(), |node, hash| {
            if Table::keeps(node.0) {
                nodes.push((node, *hash));
            }
        });
        self.position = expected;
        if self.outside.first_key_value().is_some_and(|(size, _)| *size == expected) {
            self.compare_outside()?;
        }
        Ok(())
    }

    /// Whether the tree is what was published outside at this size.
    fn compare_outside(&mut self) -> Result<(), Fault> {
        let size = self.tree.size();
        let Some(seals) = self.outside.remove(&size) else { return Ok(()) };
        let root = self.tree.root();
        for (number, published) in seals {
            if published != root {
                return Err(self.stretch(&format!(
                    "the log is not the one that seal {number}, published outside, was made of"
                )));
            }
            self.compared += 1;
        }
        self.sealed = self.sealed.max(size.min(self.position));
        Ok(())
    }

    /// A fault somewhere behind the last seal that fits.
    fn stretch(&self, what: &str) -> Fault {
        let to = Some(self.position.max(self.sealed + 1));
        Fault { to, ..self.fault(self.sealed + 1, what) }
    }

    /// A seal, where its last position has been.
    ///
    /// # Errors
    /// Where it does not follow, or is not what the events make.
    pub fn seal(&mut self, seal: &Seal) -> Result<(), Fault> {
        let next = self.sealed + 1;
        let whole = self.header.as_ref().is_some_and(|header| header.from == 1);
        if whole && self.chain.number() == 0 && seal.number != 1 && seal.left.is_none() {
            let what = format!("seal {} is the first one here: those before are gone", seal.number);
            return Err(self.fault(next, what));
        }
        self.chain.push(seal).map_err(|what| self.fault(next, what))?;
        if self.published.get(&seal.number).is_some_and(|hash| *hash != seal.hash()) {
            let what = format!("seal {} is not the one that was published outside", seal.number);
            return Err(self.fault(next, what));
        }
        if seal.size != self.tree.size() {
            let what = format!("seal {} is over {} events", seal.number, seal.size);
            return Err(self.fault(next, format!("{what}, here are {}", self.tree.size())));
        }
        if seal.root != self.tree.root() {
            let what = format!("the log is not the one that seal {} was made of", seal.number);
            return Err(self.stretch(&what));
        }
        self.sealed = self.position;
        self.seals += 1;
        Ok(())
    }

    /// What lies between the last event and the seal that covers it.
    fn edge(&mut self, edge: &Edge) -> Result<(), Fault> {
        let next = self.position + 1;
        let wrong = "what lies between the last event and its seal has not the form it must have";
        let early = self.header.as_ref().is_none_or(|header| self.position != header.to);
        let nodes = parts(self.tree.size()..edge.size.max(self.tree.size()));
        if self.edge || early || nodes.is_empty() || nodes.len() != edge.right.len() {
            return Err(self.fault(next, wrong));
        }
        for ((height, _), node) in nodes.into_iter().zip(&edge.right) {
            let added = node.hash().is_some_and(|hash| self.tree.push_subtree(height, hash));
            if !added {
                return Err(self.fault(next, wrong));
            }
        }
        self.edge = true;
        self.compare_outside()
    }

    fn end(&mut self, end: &End) -> Result<(), Fault> {
        let Some(header) = &self.header else { return Ok(()) };
        let (from, to) = (header.from, header.to);
        if self.position != to || end.events != (to + 1 - from) {
            return Err(self.fault(
                self.position + 1,
                format!("the export ends here and should go on to position {to}"),
            ));
        }
        self.ended = true;
        Ok(())
    }

    /// What holds, after the last line. `whole`: the log is taken as far as it goes, so
    /// every seal that was published outside must have been met.
    ///
    /// # Errors
    /// Where the end is missing.
    pub fn finish(self, whole: bool) -> Result<Report, Fault> {
        let next = self.position + 1;
        let Some(header) = &self.header else {
            return Err(self.fault(1, "there is no beginning of an export"));
        };
        if !self.ended {
            return Err(self.fault(next, "the export is cut off: its last line is missing"));
        }
        if whole && let Some((size, seals)) = self.outside.last_key_value() {
            let number = seals.last().map_or(0, |(number, _)| *number);
            let what = format!(
                "the log ends before, and seal {number}, published outside, goes up to {size}"
            );
            return Err(Fault { to: Some(*size), ..self.fault(next, what) });
        }
        let published = self.published.last_key_value().map_or(0, |(number, _)| *number);
        if whole && self.chain.number() < published {
            let from = self.chain.sealed() + 1;
            let what = format!("seal {published}, published outside, is not in the log's own list");
            return Err(self.fault(from.min(self.position.max(1)), what));
        }
        let mut keys = self.chain.keys().to_vec();
        keys.extend(self.outside_keys.iter().filter(|key| !self.chain.keys().contains(key)));
        let mut breaks = self.chain.breaks().to_vec();
        let other = self.outside_breaks.iter();
        breaks.extend(other.filter(|one| !self.chain.breaks().iter().any(|b| b.seal == one.seal)));
        let unsealed = self.position > self.sealed;
        Ok(Report {
            from: header.from,
            to: self.position,
            events: self.position + 1 - header.from,
            seals: self.seals,
            outside: self.compared,
            sealed: self.sealed,
            not_yet_sealed: unsealed.then_some((self.sealed + 1, self.position)),
            keys: keys.iter().map(hex::encode).collect(),
            breaks,
        })
    }
}

/// Reads the lines of an export as they come and checks them.
#[derive(Debug)]
pub struct Lines {
    checker: Checker,
    known: Known,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    line: u64,
}

impl Lines {
    /// Hands them to a checker.
    pub fn new(checker: Checker) -> Self {
        Self { checker, known: Known::default(), rest: Vec::new(), line: 0 }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// At the first line that does not fit.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(at);
            bytes = &rest[1..];
            if self.rest.is_empty() {
                self.take(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.take(&whole)?;
                whole.clear();
                self.rest = whole;
            }
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() > MAX_LINE_BYTES {
            return Err(self.checker.unreadable(self.line + 1, "the line is too long".into()));
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.line += 1;
        match read(line, &mut self.known) {
            Ok(line) => self.checker.line(self.line, line),
            Err(what) => Err(self.checker.unreadable(self.line, what)),
        }
    }

    /// What is checked so far.
    pub fn checker(&self) -> &Checker {
        &self.checker
    }

    /// What holds, after the last byte; see [`Checker::finish`].
    ///
    /// # Errors
    /// Where the end is missing.
    pub fn finish(self, whole: bool) -> Result<Report, Fault> {
        if !self.rest.is_empty() {
            return Err(self.checker.unreadable(self.line + 1, "the line is cut off".into()));
        }
        self.checker.finish(whole)
    }
}
