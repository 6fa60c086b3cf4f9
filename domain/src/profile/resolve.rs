//! A profile put together with those that it extends.

use super::spec::Profile;
use crate::json::Json;
use crate::problem::{Code, FieldError, Problem};

/// Longest chain of profiles that extend each other.
const MAX_CHAIN: usize = 8;

/// What an agent is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The profile's name, if it has one.
    pub name: Option<String>,
    /// The profile; it extends nothing any more and names a program.
    pub profile: Profile,
}

/// The name of a profile or the profile, as an agent's registration gives it.
///
/// # Errors
/// The faults of an inline profile, each with its pointer below `/profile`.
pub fn used(given: &Json) -> Result<Option<Use>, Vec<FieldError>> {
    let text = given.as_str();
    if given.is_null() {
        return Ok(None);
    }
    if text.starts_with('"') {
        let name: String = given.read().unwrap_or_default();
        return if crate::ids::is_token(&name) {
            Ok(Some(Use::Named(name)))
        } else {
            let message = "a profile's name is 1 to 64 of the characters A-Z a-z 0-9 _ -";
            Err(vec![FieldError::new("/profile", "not_a_token", message)])
        };
    }
    let below = |mut fault: FieldError| {
        fault.pointer.insert_str(0, "/profile");
        fault
    };
    let profile: Profile =
        crate::json::read(text.as_bytes()).map_err(|fault| vec![below(fault)])?;
    crate::macros::Body::check(&profile)
        .map_err(|faults| faults.into_iter().map(below).collect::<Vec<_>>())?;
    Ok(Some(Use::Inline(Box::new(profile))))
}

/// What an agent says of its profile.
#[derive(Debug, Clone, PartialEq)]
pub enum Use {
    /// A profile's name.
    Named(String),
    /// The profile itself.
    Inline(Box<Profile>),
}

/// Puts a profile together with those that it extends.
///
/// # Errors
/// When one of them does not exist, they go round in a circle, the chain is longer than
/// eight, or the whole names no program.
pub fn resolve<'a>(
    used: &Use,
    lookup: impl Fn(&str) -> Option<&'a Profile>,
) -> Result<Resolved, Problem> {
    let (mut chain, mut profile) = match used {
        Use::Named(name) => {
            let profile = lookup(name).ok_or_else(|| missing(name))?;
            (vec![name.clone()], profile.clone())
        }
        Use::Inline(profile) => (Vec::new(), (**profile).clone()),
    };
    while let Some(base) = profile.extends.take() {
        let below = lookup(&base).ok_or_else(|| missing(&base))?;
        let round = chain.contains(&base);
        chain.push(base);
        if round {
            let detail =
                format!("the profiles extend each other in a circle: {}", chain.join(" -> "));
            return Err(Problem::new(Code::Cycle, detail));
        }
        if chain.len() > MAX_CHAIN {
            let way = chain.join(" -> ");
            let detail = format!("more than {MAX_CHAIN} profiles extend each other: {way}");
            return Err(Problem::new(Code::NotPossible, detail));
        }
        profile = over(profile, below);
    }
    if profile.command.is_none() && profile.image.is_none() {
        let detail = "the profile names no command: nothing says what to start";
        return Err(Problem::new(Code::NotPossible, detail));
    }
    // Each was checked alone; together they may contradict each other.
    crate::macros::Body::check(&profile).map_err(|faults| Problem {
        status: Code::NotPossible.status(),
        kind: Code::NotPossible.uri(),
        title: Code::NotPossible.title().into(),
        ..Problem::invalid(faults)
    })?;
    let name = match used {
        Use::Named(name) => Some(name.clone()),
        Use::Inline(_) => None,
    };
    Ok(Resolved { name, profile })
}

/// The upper profile with what it leaves open taken from the lower one.
fn over(upper: Profile, lower: &Profile) -> Profile {
    let lower = lower.clone();
    let (mut env, mut secrets) = (lower.env, lower.secrets);
    env.extend(upper.env);
    secrets.extend(upper.secrets);
    Profile {
        extends: lower.extends,
        description: upper.description.or(lower.description),
        tier: upper.tier.or(lower.tier),
        runtime: upper.runtime.or(lower.runtime),
        image: upper.image.or(lower.image),
        mode: upper.mode.or(lower.mode),
        command: upper.command.or(lower.command),
        env,
        secrets,
        workdir: upper.workdir.or(lower.workdir),
        resources: upper.resources.or(lower.resources),
        probes: upper.probes.or(lower.probes),
        warm_up: upper.warm_up.or(lower.warm_up),
        sandbox: upper.sandbox.or(lower.sandbox),
        restart: upper.restart.or(lower.restart),
        watch: upper.watch.or(lower.watch),
        stop: upper.stop.or(lower.stop),
        start_timeout_ms: upper.start_timeout_ms.or(lower.start_timeout_ms),
        hibernate_after_ms: upper.hibernate_after_ms.or(lower.hibernate_after_ms),
        placement: upper.placement.or(lower.placement),
    }
}

fn missing(name: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no profile `{name}`"))
}
