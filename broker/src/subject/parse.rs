//! Reading subjects: strictly, and with words for what is wrong.

use domain::ids::is_token;
use domain::json::nearest;
use domain::{AgentId, Code, Problem, StreamType, TenantId};
use uuid::Uuid;

/// Longest part of a sender's text that a problem repeats.
const SHOWN: usize = 80;

/// A subject of ours, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A command or a batch of them: `cmd`, `req`, or an agent's `req`.
    Command(CommandSubject),
    /// A claim of a queue's tasks.
    Claim(ClaimSubject),
    /// A committed event.
    Event {
        /// Whose it is.
        tenant: TenantId,
        /// The kind of its stream.
        kind: StreamType,
        /// Its stream.
        id: Uuid,
        /// Its name.
        event: String,
    },
    /// The agents' own wire.
    Agent {
        /// Whose it is.
        tenant: TenantId,
        /// The agent.
        agent: AgentId,
        /// What about it.
        word: AgentWord,
    },
    /// The nodes' own wire.
    Node {
        /// Whose it is.
        tenant: TenantId,
        /// The node.
        node: Uuid,
        /// What about it.
        word: NodeWord,
    },
    /// Something that could not be processed.
    Dead {
        /// Whose it is.
        tenant: TenantId,
        /// Who could not process it.
        consumer: String,
    },
}

/// Where a command is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSubject {
    /// Whose it is.
    pub tenant: TenantId,
    /// It came by JetStream (`cmd`); else by request.
    pub durable: bool,
    /// The agent that asks, where the subject says so.
    pub agent: Option<AgentId>,
    /// One command, or a batch.
    pub target: Target,
}

/// What a command subject names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One command for one stream.
    One {
        /// The kind of stream.
        kind: StreamType,
        /// The stream.
        id: Uuid,
        /// The command's name; not yet checked against the type's list.
        command: String,
    },
    /// Up to 1,000 commands in the body.
    Batch {
        /// Chosen by the sender; names the batch in logs.
        id: Uuid,
    },
}

/// Where a claim is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSubject {
    /// Whose it is.
    pub tenant: TenantId,
    /// The agent that asks, where the subject says so.
    pub agent: Option<AgentId>,
    /// The queue.
    pub queue: String,
}

/// The words of the agents' wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentWord {
    /// A sign of life.
    Heartbeat,
    /// Pushed assignments.
    Tasks,
    /// drain, stop, reload, wake, beat.
    Control,
    /// Log lines and token streams.
    Log,
}

impl AgentWord {
    /// Every word.
    pub const ALL: [Self; 4] = [Self::Heartbeat, Self::Tasks, Self::Control, Self::Log];

    /// The token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Tasks => "tasks",
            Self::Control => "control",
            Self::Log => "log",
        }
    }
}

/// The words of the nodes' wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeWord {
    /// What it runs, answered by what it should.
    Sync,
    /// sync, stop.
    Control,
}

impl NodeWord {
    /// Every word.
    pub const ALL: [Self; 2] = [Self::Sync, Self::Control];

    /// The token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Control => "control",
        }
    }
}

/// Takes a subject apart.
///
/// # Errors
/// `invalid-subject` with what is wrong: a token's characters, an id that is no UUID, too few
/// or too many tokens, an unknown word with the nearest known one.
pub fn parse(subject: &str) -> Result<Subject, Problem> {
    let tokens: Vec<&str> = subject.split('.').collect();
    for (index, token) in tokens.iter().enumerate() {
        if !is_token(token) {
            return Err(wrong(format!(
                "token {} of the subject, `{}`, must be 1 to 64 of the characters \
                 A-Z a-z 0-9 _ -",
                index + 1,
                shown(token)
            )));
        }
    }
    let [root, tenant, face, rest @ ..] = tokens.as_slice() else {
        return Err(wrong("the subject must begin with taffrail.<tenant>.<kind>".into()));
    };
    if *root != "taffrail" {
        return Err(wrong(format!("the subject must begin with `taffrail`, not `{root}`")));
    }
    let Some(tenant) = TenantId::parse(tenant) else {
        return Err(wrong(format!("`{tenant}` is no tenant")));
    };
    match *face {
        "cmd" => {
            let target = target(rest, "cmd")?;
            Ok(Subject::Command(CommandSubject { tenant, durable: true, agent: None, target }))
        }
        "req" => requested(tenant, None, rest),
        "evt" => {
            let [kind, id, event] = three(rest, "evt.<type>.<id>.<event>")?;
            let (kind, id) = (stream_type(kind, &[])?, uuid(id, "id")?);
            Ok(Subject::Event { tenant, kind, id, event: event.into() })
        }
        "agent" => {
            let [agent, word, rest @ ..] = rest else {
                return Err(wrong("expected taffrail.<tenant>.agent.<id>.<word>".into()));
            };
            let agent = AgentId(uuid(agent, "agent id")?);
            if *word == "req" {
                return requested(tenant, Some(agent), rest);
            }
            let words = AgentWord::ALL.map(AgentWord::as_str);
            match (AgentWord::ALL.into_iter().find(|known| known.as_str() == *word), rest) {
                (Some(word), []) => Ok(Subject::Agent { tenant, agent, word }),
                (Some(word), _) => {
                    Err(wrong(format!("there are tokens behind agent.<id>.{}", word.as_str())))
                }
                (None, _) => {
                    let known: Vec<&str> = words.into_iter().chain(["req"]).collect();
                    Err(unknown("word", word, &known))
                }
            }
        }
        "node" => {
            let [node, word] = rest else {
                return Err(wrong("expected taffrail.<tenant>.node.<id>.<word>".into()));
            };
            let node = uuid(node, "node id")?;
            let known = NodeWord::ALL.map(NodeWord::as_str);
            match NodeWord::ALL.into_iter().find(|known| known.as_str() == *word) {
                Some(word) => Ok(Subject::Node { tenant, node, word }),
                None => Err(unknown("word", word, &known)),
            }
        }
        "dead" => match rest {
            [consumer] => Ok(Subject::Dead { tenant, consumer: (*consumer).into() }),
            _ => Err(wrong("expected taffrail.<tenant>.dead.<consumer>".into())),
        },
        other => Err(unknown("kind", other, &["cmd", "req", "evt", "agent", "node", "dead"])),
    }
}

/// The tenant that a subject names, however malformed the rest of it is.
pub fn tenant_of(subject: &str) -> Option<TenantId> {
    let mut tokens = subject.split('.');
    (tokens.next() == Some("taffrail")).then_some(())?;
    TenantId::parse(tokens.next()?)
}

fn requested(tenant: TenantId, agent: Option<AgentId>, rest: &[&str]) -> Result<Subject, Problem> {
    // `queue` is a type as well: its commands name the stream, a claim names the queue.
    if let ["queue", queue, "claim"] = *rest {
        return Ok(Subject::Claim(ClaimSubject { tenant, agent, queue: queue.into() }));
    }
    let target = target(rest, "req")?;
    Ok(Subject::Command(CommandSubject { tenant, durable: false, agent, target }))
}

fn target(rest: &[&str], face: &str) -> Result<Target, Problem> {
    if rest.first() == Some(&"batch") {
        let [_, id, word] = three(rest, &format!("{face}.batch.<id>.execute"))?;
        if word != "execute" {
            return Err(unknown("word", word, &["execute"]));
        }
        return Ok(Target::Batch { id: uuid(id, "id")? });
    }
    let [kind, id, command] = three(rest, &format!("{face}.<type>.<id>.<command>"))?;
    let kind = stream_type(kind, &["batch"])?;
    Ok(Target::One { kind, id: uuid(id, "id")?, command: command.into() })
}

fn three<'a>(rest: &[&'a str], form: &str) -> Result<[&'a str; 3], Problem> {
    <[&str; 3]>::try_from(rest).map_err(|_| {
        let few = if rest.len() < 3 { "too few" } else { "too many" };
        wrong(format!("{few} tokens: taffrail.<tenant>.{form} is expected"))
    })
}

fn stream_type(token: &str, extra: &[&str]) -> Result<StreamType, Problem> {
    token.parse().map_err(|()| {
        let known: Vec<&str> =
            StreamType::ALL.iter().map(|kind| kind.as_str()).chain(extra.iter().copied()).collect();
        unknown("type", token, &known)
    })
}

fn uuid(token: &str, what: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(token).map_err(|_| wrong(format!("the {what} `{}` is no UUID", shown(token))))
}

fn unknown(what: &str, word: &str, known: &[&str]) -> Problem {
    let hint = nearest(word, known.iter().copied())
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let word = shown(word);
    let list = known.join(", ");
    Problem {
        allowed: known.iter().map(|word| (*word).to_owned()).collect(),
        ..wrong(format!("there is no {what} `{word}`{hint} (known: {list})"))
    }
}

fn wrong(detail: String) -> Problem {
    Problem::new(Code::InvalidSubject, detail)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject;

    const ID: &str = "01920000-0000-7000-8000-000000000001";

    fn id() -> Uuid {
        ID.parse().expect("a UUID")
    }

    #[test]
    fn every_subject_of_ours_reads_back() {
        let tenant = TenantId::default_tenant();
        let agent = AgentId(id());
        let one = |command: &str| Target::One {
            kind: StreamType::Task,
            id: id(),
            command: command.into(),
        };
        let command = |durable, agent, target| {
            Subject::Command(CommandSubject { tenant: tenant.clone(), durable, agent, target })
        };
        let claim = |agent| {
            let queue = "default".into();
            Subject::Claim(ClaimSubject { tenant: tenant.clone(), agent, queue })
        };
        let table = [
            (
                subject::command(&tenant, StreamType::Task, id(), "submit"),
                command(true, None, one("submit")),
            ),
            (
                subject::request(&tenant, StreamType::Task, id(), "start"),
                command(false, None, one("start")),
            ),
            (
                subject::agent_request(&tenant, agent, StreamType::Task, id(), "start"),
                command(false, Some(agent), one("start")),
            ),
            (
                subject::command_batch(&tenant, id()),
                command(true, None, Target::Batch { id: id() }),
            ),
            (
                subject::request_batch(&tenant, id()),
                command(false, None, Target::Batch { id: id() }),
            ),
            (
                subject::node(&tenant, id(), NodeWord::Sync),
                Subject::Node { tenant: tenant.clone(), node: id(), word: NodeWord::Sync },
            ),
            (subject::claim(&tenant, "default"), claim(None)),
            (subject::agent_claim(&tenant, agent, "default"), claim(Some(agent))),
            (
                subject::dead(&tenant, "commands"),
                Subject::Dead { tenant: tenant.clone(), consumer: "commands".into() },
            ),
        ];
        for (subject, expected) in table {
            assert_eq!(parse(&subject), Ok(expected), "{subject}");
        }
        for word in AgentWord::ALL {
            let subject = subject::agent(&tenant, agent, word);
            let tenant = tenant.clone();
            assert_eq!(parse(&subject), Ok(Subject::Agent { tenant, agent, word }));
        }
    }

    #[test]
    fn a_malformed_subject_is_told_what_is_wrong() {
        let long = "x".repeat(65);
        let table = [
            ("".to_owned(), "token 1"),
            ("taffrail".into(), "must begin with taffrail.<tenant>.<kind>"),
            ("other.default.cmd.task".into(), "`taffrail`, not `other`"),
            (format!("taffrail.default.cmd.tsk.{ID}.submit"), "did you mean `task`?"),
            (format!("taffrail.default.cdm.task.{ID}.submit"), "did you mean `cmd`?"),
            ("taffrail.default.cmd.task.17.submit".into(), "`17` is no UUID"),
            (format!("taffrail.default.cmd.task.{ID}"), "too few tokens"),
            (format!("taffrail.default.cmd.task.{ID}.submit.now"), "too many tokens"),
            (format!("taffrail.default.cmd.task.{ID}.sub mit"), "token 6"),
            (format!("taffrail.default.cmd..{ID}.submit"), "token 4"),
            (format!("taffrail.{long}.cmd.task.{ID}.submit"), "token 2"),
            (format!("taffrail.default.req.task.{ID}.*"), "token 6"),
            (format!("taffrail.default.agent.{ID}.heartbeet"), "did you mean `heartbeat`?"),
            ("taffrail.default.agent.me.heartbeat".into(), "agent id `me` is no UUID"),
            (format!("taffrail.default.cmd.batch.{ID}.run"), "there is no word `run`"),
            ("taffrail.default.req.queue.q.take".into(), "the id `q` is no UUID"),
            ("taffrail.default.cmd.queue.q.claim".into(), "the id `q` is no UUID"),
        ];
        for (subject, expected) in table {
            let problem = parse(&subject).expect_err(&subject);
            assert_eq!(problem.code(), Some(Code::InvalidSubject));
            assert!(problem.detail.contains(expected), "{subject}: {}", problem.detail);
        }
    }

    #[test]
    fn a_word_that_is_no_token_reaches_nobody() {
        let tenant = TenantId::default_tenant();
        assert_eq!(subject::dead(&tenant, "a.>"), "taffrail.default.dead._");
    }

    #[test]
    fn the_tenant_is_known_even_of_a_malformed_subject() {
        let tenant = |subject| tenant_of(subject).map(|tenant| tenant.to_string());
        assert_eq!(tenant("taffrail.acme.cmd.x").as_deref(), Some("acme"));
        assert_eq!(tenant("taffrail.a b.cmd.x"), None);
        assert_eq!(tenant("other.acme.cmd.x"), None);
    }
}
