//! What is to be done, from what is wanted and what is there. Pure.

use std::collections::BTreeMap;

use domain::AgentId;
use domain::agent::Phase;
use domain::node::{Want, Wanted};

/// One agent as this node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Have {
    pub generation: u32,
    pub phase: Phase,
    /// Everything that was seen of it was told.
    pub told: bool,
}

/// What is to be done about one agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Bring up this generation, once any older one is over.
    Start(Wanted),
    /// End the process.
    End { kill: bool },
    /// Tell that this generation will not be started: it was not wanted any more before it was.
    Decline(Wanted),
    /// It is over, and nobody asks about it.
    Forget,
}

/// The steps from what is there to what is wanted; an agent without a step stays as it is.
///
/// Nothing is started twice: a generation that is over stays over, and the managers decide on
/// the next one. An answer that knows less than this node (an older generation) changes nothing.
pub(crate) fn plan(wanted: &[Wanted], have: &BTreeMap<AgentId, Have>) -> Vec<(AgentId, Step)> {
    let mut steps = Vec::new();
    for want in wanted {
        if let Some(step) = step(want, have.get(&want.agent_id)) {
            steps.push((want.agent_id, step));
        }
    }
    for (agent, have) in have {
        if wanted.iter().any(|want| want.agent_id == *agent) {
            continue;
        }
        match have {
            Have { phase, told: true, .. } if phase.is_over() => steps.push((*agent, Step::Forget)),
            Have { phase, .. } if phase.is_over() => {}
            Have { .. } => steps.push((*agent, Step::End { kill: false })),
        }
    }
    steps
}

fn step(want: &Wanted, have: Option<&Have>) -> Option<Step> {
    let new = have.is_none_or(|have| have.generation < want.generation);
    let live = have.is_some_and(|have| !have.phase.is_over());
    let older = have.is_some_and(|have| have.generation > want.generation);
    match want.want {
        _ if older => None,
        // Without its launch it is asked for again: the next request does not name it either.
        Want::Run if new && want.launch.is_some() => Some(Step::Start(want.clone())),
        Want::Run => None,
        Want::Stop | Want::Kill if live => Some(Step::End { kill: want.want == Want::Kill }),
        Want::Stop | Want::Kill if new => Some(Step::Decline(want.clone())),
        Want::Stop | Want::Kill => None,
    }
}

#[cfg(test)]
mod tests {
    use domain::node::Launch;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const A: AgentId = AgentId(Uuid::from_u128(1));

    fn launch() -> Option<Box<Launch>> {
        let profile = serde_json::from_str(r#"{"command": ["true"]}"#).unwrap();
        let (role, capabilities) = ("worker".into(), vec![]);
        Some(Box::new(Launch { profile_name: None, profile, role, capabilities, slots: 1 }))
    }

    fn want(generation: u32, want: Want) -> Wanted {
        Wanted { agent_id: A, name: "a".into(), generation, want, launch: launch() }
    }

    fn have(generation: u32, phase: Phase) -> BTreeMap<AgentId, Have> {
        BTreeMap::from([(A, Have { generation, phase, told: true })])
    }

    fn only(wanted: &[Wanted], have: &BTreeMap<AgentId, Have>) -> Option<Step> {
        let mut steps = plan(wanted, have);
        assert!(steps.len() <= 1);
        steps.pop().map(|(_, step)| step)
    }

    #[test]
    fn what_should_run_and_does_not_is_started() {
        let wanted = want(1, Want::Run);
        let start = Some(Step::Start(wanted.clone()));
        assert_eq!(only(std::slice::from_ref(&wanted), &BTreeMap::new()), start);
        let without = Wanted { launch: None, ..wanted };
        assert_eq!(only(&[without], &BTreeMap::new()), None);
    }

    #[test]
    fn a_newer_generation_takes_the_place_of_an_older_one() {
        let wanted = [want(3, Want::Run)];
        for phase in [Phase::Ready, Phase::Exited, Phase::Terminating] {
            assert_eq!(only(&wanted, &have(2, phase)), Some(Step::Start(wanted[0].clone())));
        }
    }

    #[test]
    fn a_generation_is_started_once() {
        for phase in Phase::ALL {
            assert_eq!(only(&[want(2, Want::Run)], &have(2, phase)), None, "{phase:?}");
        }
    }

    #[test]
    fn what_should_stop_is_ended_and_what_never_began_is_declined() {
        let stop = |kill| Some(Step::End { kill });
        assert_eq!(only(&[want(2, Want::Stop)], &have(2, Phase::Ready)), stop(false));
        assert_eq!(only(&[want(2, Want::Kill)], &have(1, Phase::Ready)), stop(true));
        assert_eq!(only(&[want(2, Want::Stop)], &have(2, Phase::Exited)), None);
        let declined = want(2, Want::Stop);
        let step = Some(Step::Decline(declined.clone()));
        assert_eq!(only(std::slice::from_ref(&declined), &BTreeMap::new()), step);
        assert_eq!(only(&[declined], &have(1, Phase::Exited)), step);
    }

    #[test]
    fn what_nobody_names_is_ended_and_then_forgotten_once_told() {
        assert_eq!(only(&[], &have(1, Phase::Ready)), Some(Step::End { kill: false }));
        assert_eq!(only(&[], &have(1, Phase::Exited)), Some(Step::Forget));
        let untold = BTreeMap::from([(A, Have { generation: 1, phase: Phase::Lost, told: false })]);
        assert_eq!(only(&[], &untold), None);
    }

    fn any_have() -> impl Strategy<Value = Option<Have>> {
        let phase = prop::sample::select(Phase::ALL.to_vec());
        prop::option::of(
            (1..4u32, phase, any::<bool>()).prop_map(|(generation, phase, told)| Have {
                generation,
                phase,
                told,
            }),
        )
    }

    proptest! {
        /// An answer that is older than what is there neither ends nor starts anything, and
        /// a start is always of a newer generation.
        #[test]
        fn no_step_goes_back(
            have in any_have(),
            generation in 1..4u32,
            word in prop::sample::select(vec![Want::Run, Want::Stop, Want::Kill]),
        ) {
            let there: BTreeMap<_, _> = have.map(|have| (A, have)).into_iter().collect();
            let step = only(&[want(generation, word)], &there);
            let known = have.map_or(0, |have| have.generation);
            match step {
                Some(Step::Start(start)) => prop_assert!(start.generation > known),
                Some(Step::End { .. }) => {
                    prop_assert!(generation >= known);
                    prop_assert!(word != Want::Run);
                }
                Some(Step::Decline(_)) => prop_assert!(generation > known),
                Some(Step::Forget) => prop_assert!(false, "it is named"),
                None => {}
            }
        }
    }
}
