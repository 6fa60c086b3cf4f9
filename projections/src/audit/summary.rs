//! Events in a line, for people.

use domain::agent::{AgentEvent, DriftState, Exit};
use domain::crew::CrewEvent;
use domain::node::NodeEvent;
use domain::operation::OperationEvent;
use domain::profile::ProfileEvent;
use domain::queue::QueueEvent;
use domain::schedule::{ScheduleEvent, SkipReason};
use domain::task::TaskEvent;
use domain::{Event, Json};

/// Longest piece of somebody's text in a line, in characters.
const EXCERPT: usize = 120;

/// What happened, in a line.
pub fn summary(event: &Event) -> String {
    match event {
        Event::Task(event) => task(event),
        Event::Agent(event) => agent(event),
        Event::Operation(event) => operation(event),
        Event::Crew(event) => crew(event),
        Event::Schedule(event) => schedule(event),
        Event::Queue(event) => queue(event),
        Event::Node(event) => node(event),
        Event::Profile(ProfileEvent::Defined(new)) => format!("profile {} set", new.name),
        Event::Profile(ProfileEvent::Deleted(gone)) => format!("profile {} deleted", gone.name),
    }
}

fn task(event: &TaskEvent) -> String {
    use TaskEvent as E;
    match event {
        E::Submitted(new) => format!("submitted to {}: {}", new.queue, excerpt(&new.title)),
        E::Updated(_) => "described anew".into(),
        E::Assigned(to) => {
            because(format!("assigned to {}, attempt {}", to.agent_id, to.attempt), &to.reason)
        }
        E::Unassigned(from) => because(format!("taken from {}", from.agent_id), &from.reason),
        E::Started(by) => format!("started after {} ms", by.waited_ms),
        E::Progressed(far) => match (far.percent, &far.message) {
            (Some(percent), Some(message)) => format!("at {percent} %: {}", excerpt(message)),
            (Some(percent), None) => format!("at {percent} %"),
            (None, Some(message)) => format!("progress: {}", excerpt(message)),
            (None, None) => "progress".into(),
        },
        E::Blocked(by) => format!("blocked: {}", excerpt(&by.reason)),
        E::Unblocked(why) => because("unblocked".into(), &why.reason),
        E::ReviewRequested(_) => "handed in for review".into(),
        E::Approved(why) => because("approved".into(), &why.reason),
        E::Rejected(why) => because("rejected".into(), &why.reason),
        E::Completed(done) => format!("completed after {} ms", done.ran_ms),
        E::AttemptFailed(failed) => {
            format!("attempt {} failed: {}", failed.attempt, error(&failed.error))
        }
        E::Failed(failed) => format!("failed: {}", error(&failed.error)),
        E::DeadLettered(dead) => {
            format!("dead after {} attempts: {}", dead.attempts, error(&dead.error))
        }
        E::LeaseExtended(longer) => format!("lease extended to {}", longer.lease_expires_at),
        E::Released(by) => because(format!("handed back by {}", by.agent_id), &by.reason),
        E::LeaseExpired(by) => format!("{} was silent past its lease", by.agent_id),
        E::Cancelled(why) => because("cancelled".into(), &why.reason),
        E::Requeued(why) => because(format!("back into {}", why.queue), &why.reason),
        E::Archived(why) => because("archived".into(), &why.reason),
        E::Overdue(late) => format!("not done by {}", late.due_at),
        E::Escalated(said) => {
            let stands = said.head_state.map_or("was never submitted", |state| state.as_str());
            format!("stands still since {}: {} {stands}", said.since, said.head)
        }
    }
}

fn agent(event: &AgentEvent) -> String {
    use AgentEvent as E;
    match event {
        E::Registered(new) => format!("{} registered as {}", excerpt(&new.name), new.role),
        E::Reconnected(new) => format!("{} registered again", excerpt(&new.name)),
        E::Updated(_) => "described anew".into(),
        E::DeployRequested(why) => because("to be started".into(), &why.reason),
        E::Ready(why) => because("ready".into(), &why.reason),
        E::Reported(seen) => {
            because(format!("seen {}", seen.observed_state.as_str()), &seen.reason)
        }
        E::Draining(why) => because("told to drain".into(), &why.reason),
        E::Hibernated(why) => because("told to sleep".into(), &why.reason),
        E::Woken(why) => because("told to wake up".into(), &why.reason),
        E::Restarted(why) => because("told to start again".into(), &why.reason),
        E::Retired(gone) => because(format!("{} retired", excerpt(&gone.name)), &gone.reason),
        E::ForceStopped(why) => because("stopped by force".into(), &why.reason),
        E::Validated(found) => because("profile in order".into(), &Some(found.reason.clone())),
        E::Placed(placed) => {
            format!("process {} to start on {}", placed.generation, excerpt(&placed.node))
        }
        E::Observed(seen) => {
            let how = seen.exit.as_deref().map(Exit::words).or_else(|| seen.detail.clone());
            because(format!("process {} {}", seen.generation, seen.phase.as_str()), &how)
        }
        E::Assessed(believed) => {
            because(format!("believed {}", believed.state.as_str()), &Some(believed.reason.clone()))
        }
        E::RestartScheduled(plan) => because(
            format!("restart {} at {}", plan.attempt, plan.due_at.format("%H:%M:%S")),
            &Some(plan.reason.clone()),
        ),
        E::Quarantined(why) => because(
            format!("quarantined after {} restarts", why.restarts),
            &Some(why.reason.clone()),
        ),
        E::HandedBack(back) => format!("{} tasks taken back", back.tasks),
        E::Drifted(drift) => match drift.state {
            DriftState::Healed => format!("as wished again after {} ms", drift.age_ms),
            DriftState::Open | DriftState::Escalated => {
                let wish = drift.desired.as_str();
                format!("for {} ms not {wish}", drift.age_ms)
            }
        },
        E::RoundBegun(begun) => because(format!("round {} begins", begun.round), &begun.reason),
        E::RoundEnded(done) => because(format!("round {} is over", done.round), &done.summary),
        E::Ignored(late) => because(format!("too late: {}", late.said), &Some(late.reason.clone())),
    }
}

fn operation(event: &OperationEvent) -> String {
    use OperationEvent as E;
    match event {
        E::Accepted(new) => {
            format!("{} of {} {} taken on", new.kind, new.resource.kind, new.resource.id)
        }
        E::Started(why) => because("begun".into(), &why.reason),
        E::Progressed(far) => match far.total {
            Some(total) => format!("{} of {total} done", far.done),
            None => format!("{} done", far.done),
        },
        E::Succeeded(_) => "succeeded".into(),
        E::Failed(failed) => format!("failed: {}", excerpt(&failed.problem.detail)),
        E::Cancelled(why) => because("cancelled".into(), &why.reason),
    }
}

fn crew(event: &CrewEvent) -> String {
    match event {
        CrewEvent::AssemblyRequested(new) => format!("{} to be assembled", excerpt(&new.name)),
        CrewEvent::RoleAssigned(role) => format!("{} is now {}", role.agent_id, role.role),
        CrewEvent::Disbanded(why) => because("disbanded".into(), &why.reason),
    }
}

fn schedule(event: &ScheduleEvent) -> String {
    use ScheduleEvent as E;
    match event {
        E::Created(new) => format!("{} scheduled", excerpt(&new.spec.name)),
        E::Updated(_) => "described anew".into(),
        E::Paused(why) => because("paused".into(), &why.reason),
        E::Resumed(why) => because("resumed".into(), &why.reason),
        E::Deleted(why) => because("deleted".into(), &why.reason),
        E::Fired(fired) => format!("run {} for {}", fired.run, fired.slot_at),
        E::Skipped(skipped) => {
            let why = match skipped.reason {
                SkipReason::Misfire => "they had passed",
                SkipReason::Overlap => "a task was open",
                SkipReason::TooMany => "too many waited",
            };
            format!("{} left out up to {}: {why}", skipped.count, skipped.slot_at)
        }
        E::SubmitFailed(failed) => {
            format!("run {} has no task: {}", failed.run, excerpt(&failed.problem.detail))
        }
    }
}

fn queue(event: &QueueEvent) -> String {
    match event {
        QueueEvent::Configured(new) => format!("{} has a new policy", new.queue),
        QueueEvent::Paused(why) => because(format!("{} paused", why.queue), &why.reason),
        QueueEvent::Resumed(why) => because(format!("{} resumed", why.queue), &why.reason),
        QueueEvent::Draining(why) => because(format!("{} told to drain", why.queue), &why.reason),
    }
}

fn node(event: &NodeEvent) -> String {
    use NodeEvent as E;
    match event {
        E::Registered(new) => format!("{} offers itself", excerpt(&new.name)),
        E::Reconnected(new) => format!("{} offers itself again", excerpt(&new.name)),
        E::Draining(why) => because("told to drain".into(), &why.reason),
        E::Resumed(why) => because("takes agents again".into(), &why.reason),
        E::Assessed(believed) => {
            because(format!("believed {}", believed.state.as_str()), &Some(believed.reason.clone()))
        }
        E::Retired(gone) => because(format!("{} retired", excerpt(&gone.name)), &gone.reason),
    }
}

fn because(what: String, reason: &Option<String>) -> String {
    match reason {
        Some(reason) if !reason.is_empty() => format!("{what}: {}", excerpt(reason)),
        Some(_) | None => what,
    }
}

/// An error as a text, when it is one or has a `message`.
fn error(error: &Json) -> String {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Told {
        Text(String),
        Object { message: String },
    }
    match error.read() {
        Ok(Told::Text(text) | Told::Object { message: text }) => excerpt(&text),
        Err(_) => excerpt(error.as_str()),
    }
}

/// The beginning of a text, on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut line: String =
        text.chars().take(EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(EXCERPT).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_by_its_message_where_it_has_one() {
        let json = |text| Json::parse(text).unwrap();
        assert_eq!(error(&json(r#""out of memory""#)), "out of memory");
        assert_eq!(error(&json(r#"{"message":"no disk","code":7}"#)), "no disk");
        assert_eq!(error(&json("[1,2]")), "[1,2]");
    }

    #[test]
    fn a_long_text_is_cut_and_stays_on_one_line() {
        let cut = excerpt(&format!("a\nb{}", "c".repeat(500)));
        assert!(cut.starts_with("a bccc") && cut.ends_with('…'));
        assert_eq!(cut.chars().count(), EXCERPT + 1);
    }
}
