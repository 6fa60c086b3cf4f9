//! Which node an agent is started on: a pure choice, with what it was made from.

use std::cmp::Reverse;
use std::collections::HashMap;

use domain::agent::NodeCandidate;
use domain::node::{Capacity, Launch, NodeState};
use domain::profile::{Level, Placement, Runtime, Strategy};
use uuid::Uuid;

use super::fleet::NodeFacts;

/// Candidates that a placement names.
const NAMED: usize = 16;

/// What is taken of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::process) struct Usage {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub slots: u64,
}

impl Usage {
    /// What one agent takes.
    pub fn of(launch: &Launch) -> Self {
        let resources = launch.profile.resources.clone().unwrap_or_default();
        Self {
            cpu_millis: resources.cpu_millis.unwrap_or(0),
            memory_bytes: resources.memory_bytes.unwrap_or(0),
            slots: 1,
        }
    }

    pub fn add(&mut self, more: Self) {
        self.cpu_millis = self.cpu_millis.saturating_add(more.cpu_millis);
        self.memory_bytes = self.memory_bytes.saturating_add(more.memory_bytes);
        self.slots = self.slots.saturating_add(more.slots);
    }
}

/// Chooses a node; best fit or the widest, as the profile says, and where the agent was
/// before if there is room: its workspace is there.
///
/// # Errors
/// The nodes that were looked at, each with what speaks against it.
pub(in crate::process) fn place<'a>(
    launch: &Launch,
    before: Option<Uuid>,
    nodes: impl Iterator<Item = (Uuid, &'a NodeFacts)>,
    used: &HashMap<Uuid, Usage>,
) -> Result<(Uuid, Vec<NodeCandidate>), Vec<NodeCandidate>> {
    let wish = launch.profile.placement.clone().unwrap_or_default();
    let mut candidates: Vec<NodeCandidate> = nodes
        .map(|(id, node)| {
            let used = used.get(&id).copied().unwrap_or_default();
            let (left, rejected) = match judge(launch, &wish, node, used) {
                Ok(left) => (Some(left), None),
                Err(why) => (None, Some(why.to_owned())),
            };
            NodeCandidate { node_id: id, name: node.name.clone(), left, rejected }
        })
        .collect();
    candidates.sort_by_key(|one| {
        let left = one.left.unwrap_or(u32::MAX);
        let by = match wish.strategy {
            Strategy::Pack => i64::from(left),
            Strategy::Spread => -i64::from(left),
        };
        (Reverse(one.left.is_some()), Some(one.node_id) != before, by, one.node_id)
    });
    candidates.truncate(NAMED);
    match candidates.first() {
        Some(best) if best.left.is_some() => Ok((best.node_id, candidates)),
        Some(_) | None => Err(candidates),
    }
}

/// The room that is left, in thousandths of the node: of what is scarcest.
fn judge(
    launch: &Launch,
    wish: &Placement,
    node: &NodeFacts,
    used: Usage,
) -> Result<u32, &'static str> {
    let profile = &launch.profile;
    match node.state {
        NodeState::Online => {}
        NodeState::Draining => return Err("draining"),
        NodeState::Offline | NodeState::Retired => return Err("offline"),
    }
    if wish.node.as_ref().is_some_and(|name| *name != node.name) {
        return Err("node");
    }
    let labelled = wish.labels.iter().all(|label| match label.split_once('=') {
        Some((name, value)) => node.labels.value(name) == Some(value),
        None => node.labels.has(label, &[]),
    });
    if !labelled {
        return Err("labels");
    }
    let runtime = profile.runtime.unwrap_or_default();
    if !node.runtimes.contains(&runtime) {
        return Err("runtime");
    }
    let level = profile.sandbox.as_ref().map_or(Level::default(), |sandbox| sandbox.level);
    if runtime == Runtime::Process && node.level < level {
        return Err("level");
    }
    let Capacity { cpu_millis, memory_bytes, slots } = node.capacity;
    let mut after = used;
    after.add(Usage::of(launch));
    let left = |of: u64, taken: u64| {
        let free = of.checked_sub(taken)?;
        u32::try_from(u128::from(free) * 1_000 / u128::from(of.max(1))).ok()
    };
    let slots = left(slots.into(), after.slots).ok_or("slots")?;
    let cpu = left(cpu_millis, after.cpu_millis).ok_or("cpu")?;
    let memory = left(memory_bytes, after.memory_bytes).ok_or("memory")?;
    Ok(slots.min(cpu).min(memory))
}

/// Why no node took it, for people.
pub(in crate::process) fn why_not(candidates: &[NodeCandidate]) -> String {
    if candidates.is_empty() {
        return "no node is registered: start one with `taffrail node`".into();
    }
    let told = candidates.iter().map(|one| {
        let why = match one.rejected.as_deref().unwrap_or_default() {
            "cpu" => "too little processor left",
            "memory" => "too little memory left",
            "slots" => "no slot left",
            "labels" => "not the labels that are asked for",
            "level" => "too little isolation",
            "runtime" => "not that runtime",
            "node" => "not the node that is asked for",
            other => other,
        };
        format!("{}: {why}", one.name)
    });
    format!("no node takes it ({})", told.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Json;

    fn node(name: &str, cpu: u64, memory: u64, slots: u32) -> NodeFacts {
        let body = format!(
            r#"{{"name":"{name}","labels":{{"zone":"eu"}},"level":"namespace",
            "capacity":{{"cpu_millis":{cpu},"memory_bytes":{memory},"slots":{slots}}}}}"#
        );
        NodeFacts::of(&Json::parse(&body).expect("JSON").read().expect("a node"))
    }

    fn launch(profile: &str) -> Launch {
        let body = format!(r#"{{"role":"worker","slots":1,"profile":{profile}}}"#);
        Json::parse(&body).expect("JSON").read().expect("a launch")
    }

    fn chosen(profile: &str, nodes: &[NodeFacts], used: &HashMap<Uuid, Usage>) -> String {
        let nodes = nodes.iter().enumerate().map(|(n, node)| (Uuid::from_u128(n as u128), node));
        match place(&launch(profile), None, nodes, used) {
            Ok((_, candidates)) => candidates[0].name.clone(),
            Err(candidates) => candidates[0].rejected.clone().unwrap_or_default(),
        }
    }

    #[test]
    fn the_fullest_that_fits_is_taken_or_the_emptiest_when_spread() {
        let nodes = [node("big", 8_000, 8 << 30, 50), node("small", 2_000, 2 << 30, 50)];
        let free = HashMap::new();
        let asked = r#"{"command":["a"],"resources":{"memory_bytes":1073741824}"#;
        assert_eq!(chosen(&format!("{asked}}}"), &nodes, &free), "small");
        let spread = format!(r#"{asked},"placement":{{"strategy":"spread"}}}}"#);
        assert_eq!(chosen(&spread, &nodes, &free), "big");
        let full = Usage { memory_bytes: 3 << 29, ..Usage::default() };
        let used = HashMap::from([(Uuid::from_u128(1), full)]);
        assert_eq!(chosen(&format!("{asked}}}"), &nodes, &used), "big");
    }

    #[test]
    fn what_speaks_against_a_node_is_named() {
        let mut one = node("one", 1_000, 1 << 30, 1);
        for (profile, why) in [
            (r#"{"resources":{"cpu_millis":2000}}"#, "cpu"),
            (r#"{"resources":{"memory_bytes":2147483648}}"#, "memory"),
            (r#"{"placement":{"labels":["zone=us"]}}"#, "labels"),
            (r#"{"placement":{"labels":["gpu"]}}"#, "labels"),
            (r#"{"placement":{"node":"two"}}"#, "node"),
            (r#"{"runtime":"docker","image":"i"}"#, "runtime"),
        ] {
            assert_eq!(chosen(profile, std::slice::from_ref(&one), &HashMap::new()), why);
        }
        let taken = HashMap::from([(Uuid::nil(), Usage { slots: 1, ..Usage::default() })]);
        assert_eq!(chosen("{}", std::slice::from_ref(&one), &taken), "slots");
        one.level = Level::Process;
        assert_eq!(chosen("{}", std::slice::from_ref(&one), &HashMap::new()), "level");
        one.state = NodeState::Draining;
        assert_eq!(chosen("{}", &[one], &HashMap::new()), "draining");
    }

    #[test]
    fn an_agent_comes_back_to_where_its_workspace_is() {
        let nodes = [node("a", 8_000, 8 << 30, 50), node("b", 2_000, 2 << 30, 50)];
        let all = || nodes.iter().enumerate().map(|(n, node)| (Uuid::from_u128(n as u128), node));
        let before = Some(Uuid::from_u128(0));
        let (chosen, _) =
            place(&launch("{}"), before, all(), &HashMap::new()).expect("there is room");
        assert_eq!(Some(chosen), before);
    }
}
