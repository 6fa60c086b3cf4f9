//! `--as-of`: which verbs can answer about the past.

use super::agent::AgentVerb;
use super::dead::DeadVerb;
use super::fail::Failure;
use super::nodes::NodesVerb;
use super::op::OpVerb;
use super::profile::ProfileVerb;
use super::queue::QueueVerb;
use super::schedule::ScheduleVerb;
use super::task::TaskVerb;
use super::{App, ClientVerb};

/// Refuses `--as-of` where it would be passed over in silence, or would stand before a change.
pub fn check(app: &App, verb: &ClientVerb) -> Result<(), Failure> {
    let Some(moment) = &app.globals.as_of else { return Ok(()) };
    if knows_the_past(verb) {
        app.out.hint(&format!("as of {moment}"));
        return Ok(());
    }
    Err(refusal())
}

/// What a verb says that knows the present alone.
pub fn refusal() -> Failure {
    Failure::Usage(
        "--as-of is for verbs that list or show (task list, agent get, queue list, events, \
         audit, …); this one is about now alone, or changes something"
            .into(),
    )
}

/// The verbs that list or show. One that is not named here is about now: a new verb that
/// changes something must not slip through.
#[expect(clippy::wildcard_enum_match_arm, reason = "what is not named is refused")]
fn knows_the_past(verb: &ClientVerb) -> bool {
    match verb {
        ClientVerb::Task(verb) => {
            matches!(verb, TaskVerb::List(_) | TaskVerb::Get { .. } | TaskVerb::Children { .. })
        }
        ClientVerb::Queue(verb) => matches!(verb, QueueVerb::List { .. } | QueueVerb::Get { .. }),
        ClientVerb::Dead(verb) => matches!(verb, DeadVerb::List { .. }),
        ClientVerb::Schedule(verb) => {
            matches!(verb, ScheduleVerb::List { .. } | ScheduleVerb::Get { .. })
        }
        ClientVerb::Agent(verb) => {
            matches!(verb, AgentVerb::List(_) | AgentVerb::Get { .. } | AgentVerb::Health)
        }
        ClientVerb::Profile(verb) => {
            matches!(verb, ProfileVerb::List { .. } | ProfileVerb::Get { .. })
        }
        ClientVerb::Nodes(verb) => matches!(verb, NodesVerb::List { .. } | NodesVerb::Get { .. }),
        ClientVerb::Op(verb) => matches!(verb, OpVerb::List { .. } | OpVerb::Get { .. }),
        ClientVerb::Events(args) => !args.follows(),
        ClientVerb::Audit(_) => true,
        _ => false,
    }
}
