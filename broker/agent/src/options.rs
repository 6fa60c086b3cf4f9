//! What an agent is and how it works.

use std::path::PathBuf;
use std::time::Duration;

use domain::agent::RegisterAgent;
use domain::{AgentId, TenantId};

use crate::Error;

/// What an agent is called, can do, and takes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose agent it is.
    pub tenant: TenantId,
    /// What the registry shows of it; `slots` is the number of tasks at once.
    pub description: RegisterAgent,
    /// The queues it claims from. None: it claims from `default` and also takes what is
    /// pushed to it from any queue.
    pub queues: Vec<String>,
    /// How long a lease runs without a word from us.
    pub lease: Duration,
    /// How long one claim waits for a task; at most 30 s.
    pub claim_wait: Duration,
    /// How long running tasks may go on after the process was told to end.
    pub drain: Duration,
    /// How long the first connection is tried for.
    pub connect: Duration,
    /// How often it gives a sign of life; 250 ms to 10 min.
    pub heartbeat: Duration,
    /// Its id, where somebody else has registered it: it then comes back as that agent and
    /// describes itself only where nobody knows it.
    pub id: Option<AgentId>,
    /// Which start of the agent this is, as whoever started it counts; goes with heartbeats
    /// and log lines.
    pub generation: Option<u64>,
    /// Claims per queue after which it ends of itself; absent: for ever. Nothing is pushed
    /// to an agent that counts.
    pub rounds: Option<u32>,
    /// A folder for answers that cannot be delivered; absent: they are kept in memory and
    /// given up after ten minutes.
    pub journal: Option<PathBuf>,
}

impl Options {
    /// An agent of the default tenant with one slot.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            tenant: TenantId::default_tenant(),
            description: RegisterAgent::named(name),
            queues: Vec::new(),
            // Long enough for a server's restart (under 3 s), short enough that the tasks
            // of a killed agent are soon with another.
            lease: Duration::from_secs(10),
            // A scheduler that dies with our claim in its hands never answers: after this and
            // a little more the claim is repeated, which R21 wants within 15 s.
            claim_wait: Duration::from_secs(6),
            drain: Duration::from_secs(30),
            connect: Duration::from_secs(15),
            heartbeat: Duration::from_secs(2),
            id: None,
            generation: None,
            rounds: None,
            journal: None,
        }
    }

    /// What whoever started this process says of the agent: `TAFFRAIL_AGENT_NAME` (else the
    /// given name), `TAFFRAIL_AGENT_ID`, `TAFFRAIL_AGENT_GENERATION`, `TAFFRAIL_TENANT`.
    ///
    /// # Errors
    /// When one of them makes no sense.
    pub fn from_env(name: impl Into<String>) -> Result<Self, Error> {
        Self::of(name.into(), |name| std::env::var(name).ok())
    }

    fn of(name: String, set: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let set = |name: &str| set(name).filter(|text| !text.is_empty());
        let wrong = |name: &str, value: &str, expected| Error::Variable {
            name: name.into(),
            value: value.into(),
            expected,
        };
        let mut options = Self::named(set("TAFFRAIL_AGENT_NAME").unwrap_or(name));
        if let Some(text) = set("TAFFRAIL_AGENT_ID") {
            let id = text.parse().map_err(|_| wrong("TAFFRAIL_AGENT_ID", &text, "is no UUID"))?;
            options.id = Some(AgentId(id));
        }
        if let Some(text) = set("TAFFRAIL_AGENT_GENERATION") {
            let no = |_| wrong("TAFFRAIL_AGENT_GENERATION", &text, "is no number");
            options.generation = Some(text.parse().map_err(no)?);
        }
        if let Some(text) = set("TAFFRAIL_TENANT") {
            let tenant = TenantId::parse(&text);
            options.tenant = tenant.ok_or_else(|| wrong("TAFFRAIL_TENANT", &text, "is no slug"))?;
        }
        Ok(options)
    }

    pub(crate) fn beat_every(&self) -> Duration {
        self.heartbeat.clamp(Duration::from_millis(250), Duration::from_secs(600))
    }

    pub(crate) fn slots(&self) -> usize {
        (self.description.slots as usize).max(1)
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        (self.lease.as_millis() as u64)
            .clamp(domain::task::MIN_LEASE_MS, domain::task::MAX_LEASE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_started_the_process_says_which_agent_it_is() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8058";
        let of = |pairs: &[(&str, &str)]| {
            Options::of("mine".into(), |name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
            })
        };
        let options = of(&[]).unwrap();
        assert_eq!((options.description.name.as_str(), options.id), ("mine", None));
        let options = of(&[
            ("TAFFRAIL_AGENT_NAME", "theirs"),
            ("TAFFRAIL_AGENT_ID", id),
            ("TAFFRAIL_AGENT_GENERATION", "7"),
            ("TAFFRAIL_TENANT", "acme"),
        ])
        .unwrap();
        assert_eq!(options.description.name, "theirs");
        assert_eq!(options.id.map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!((options.generation, options.tenant.as_str()), (Some(7), "acme"));
        for wrong in [
            ("TAFFRAIL_AGENT_ID", "me"),
            ("TAFFRAIL_AGENT_GENERATION", "-1"),
            ("TAFFRAIL_TENANT", "a b"),
        ] {
            let error = of(&[wrong]).unwrap_err().to_string();
            assert!(error.starts_with(wrong.0), "{error}");
        }
    }
}
