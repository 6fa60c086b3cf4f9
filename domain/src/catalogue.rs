//! All contexts side by side: one enum each for commands, events and aggregates,
//! so that the log, the processor and the projections need no case per context.

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use uuid::Uuid;

use crate::agent::{Agent, AgentCommand, AgentEvent};
use crate::crew::{Crew, CrewCommand, CrewEvent};
use crate::decide::{Facts, Refusal};
use crate::ids::{StreamType, TenantId};
use crate::json::nearest;
use crate::node::{Node, NodeCommand, NodeEvent};
use crate::operation::{Operation, OperationCommand, OperationEvent};
use crate::problem::{Code, FieldError, Problem};
use crate::profile::{ProfileCommand, ProfileEvent, ProfileState, profile_id};
use crate::queue::{Queue, QueueCommand, QueueEvent, queue_id};
use crate::recorded::DecodeError;
use crate::schedule::{Schedule, ScheduleCommand, ScheduleEvent};
use crate::task::{Links, Task, TaskCommand, TaskEvent};

macro_rules! contexts {
    ($($variant:ident($aggregate:ty, $command:ty, $event:ty),)*) => {
        /// A command for any kind of stream.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "a variant per StreamType")]
        pub enum Command { $($variant($command),)* }

        /// An event of any kind of stream.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "a variant per StreamType")]
        pub enum Event { $($variant($event),)* }

        /// The state of any kind of stream.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "a variant per StreamType")]
        pub enum Aggregate { $($variant(Box<$aggregate>),)* }

        impl Command {
            /// The kind of stream it is for.
            pub fn stream_type(&self) -> StreamType {
                match self { $(Self::$variant(_) => StreamType::$variant,)* }
            }

            /// Its name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(command) => command.name(),)* }
            }

            /// Its body as canonical JSON.
            pub fn body(&self) -> Vec<u8> {
                match self { $(Self::$variant(command) => command.body(),)* }
            }

            /// The names of a kind's commands.
            pub fn names(kind: StreamType) -> &'static [&'static str] {
                match kind { $(StreamType::$variant => <$command>::NAMES,)* }
            }

            /// Each command of a kind with its body's JSON Schema.
            pub fn schemas(kind: StreamType) -> Vec<(&'static str, RefOr<Schema>)> {
                match kind { $(StreamType::$variant => <$command>::schemas(),)* }
            }

            fn try_parse(
                kind: StreamType,
                name: &str,
                body: &[u8],
            ) -> Result<Option<Self>, Vec<FieldError>> {
                match kind {
                    $(StreamType::$variant => {
                        Ok(<$command>::parse(name, body)?.map(Self::$variant))
                    })*
                }
            }
        }

        $(impl From<$command> for Command {
            fn from(command: $command) -> Self {
                Self::$variant(command)
            }
        })*

        impl Event {
            /// The kind of stream it belongs to.
            pub fn stream_type(&self) -> StreamType {
                match self { $(Self::$variant(_) => StreamType::$variant,)* }
            }

            /// Its name on the wire and in the log.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(event) => event.name(),)* }
            }

            /// The names of a kind's events, with the current versions of their shapes.
            pub fn types(kind: StreamType) -> &'static [(&'static str, u16)] {
                match kind { $(StreamType::$variant => <$event>::TYPES,)* }
            }

            /// The version of its payload's shape.
            pub fn schema_version(&self) -> u16 {
                match self { $(Self::$variant(event) => event.schema_version(),)* }
            }

            /// The payload as the JSON bytes that are hashed and kept.
            pub fn payload(&self) -> Vec<u8> {
                match self { $(Self::$variant(event) => event.payload(),)* }
            }

            /// Reads a stored payload.
            ///
            /// # Errors
            /// When name or version are unknown, or the payload malformed.
            pub fn decode(
                kind: StreamType,
                name: &str,
                version: u16,
                payload: &[u8],
            ) -> Result<Self, DecodeError> {
                match kind {
                    $(StreamType::$variant => {
                        <$event>::decode(name, version, payload).map(Self::$variant)
                    })*
                }
            }
        }

        impl Aggregate {
            /// The state before any event.
            pub fn new(kind: StreamType) -> Self {
                match kind { $(StreamType::$variant => Self::$variant(Box::default()),)* }
            }

            /// Its kind.
            pub fn stream_type(&self) -> StreamType {
                match self { $(Self::$variant(_) => StreamType::$variant,)* }
            }

            /// Chooses the events a command leads to.
            ///
            /// # Errors
            /// When the rules refuse it.
            pub fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
                match (self, command) {
                    $((Self::$variant(state), Command::$variant(command)) => {
                        let events = state.decide(command, facts)?;
                        Ok(events.into_iter().map(Event::$variant).collect())
                    })*
                    (state, command) => {
                        // Of the command's own kind there is nothing; what would be made
                        // finds its id taken.
                        Self::new(command.stream_type()).decide(command, facts)?;
                        Err(Refusal::new(
                            Code::AlreadyExists,
                            format!("the id belongs to a stream of type {}, not {}",
                                state.stream_type(), command.stream_type()),
                        ))
                    }
                }
            }

            /// Folds one event into the state; one of another kind changes nothing.
            pub fn apply(&mut self, event: &Event) {
                match (self, event) {
                    $((Self::$variant(state), Event::$variant(event)) => state.apply(event),)*
                    (_, $(Event::$variant(_))|*) => {}
                }
            }
        }

        /// The schemas that those of commands and events refer to, by name.
        pub fn definitions() -> Vec<(String, RefOr<Schema>)> {
            let mut all = Vec::new();
            $(<$command>::definitions(&mut all);
            <$event>::definitions(&mut all);)*
            all
        }

        /// Every event of every kind, with its current version and schema.
        pub fn event_types() -> Vec<EventType> {
            let mut all = Vec::new();
            $(for ((name, version), (_, schema)) in
                <$event>::TYPES.iter().zip(<$event>::schemas())
            {
                all.push(EventType {
                    stream_type: StreamType::$variant, name, version: *version, schema,
                });
            })*
            all
        }
    };
}

contexts! {
    Task(Task, TaskCommand, TaskEvent),
    Agent(Agent, AgentCommand, AgentEvent),
    Operation(Operation, OperationCommand, OperationEvent),
    Crew(Crew, CrewCommand, CrewEvent),
    Schedule(Schedule, ScheduleCommand, ScheduleEvent),
    Queue(Queue, QueueCommand, QueueEvent),
    Node(Node, NodeCommand, NodeEvent),
    Profile(ProfileState, ProfileCommand, ProfileEvent),
}

/// An event's literal name, version and schema.
#[derive(Clone)]
pub struct EventType {
    /// The kind of stream.
    pub stream_type: StreamType,
    /// The name within it.
    pub name: &'static str,
    /// The current version of its shape.
    pub version: u16,
    /// The payload's JSON Schema.
    pub schema: RefOr<Schema>,
}

impl Command {
    /// Reads a command as it comes from outside.
    ///
    /// # Errors
    /// A problem document that says which field is wrong and why.
    pub fn parse(kind: StreamType, name: &str, body: &[u8]) -> Result<Self, Problem> {
        match Self::try_parse(kind, name, body) {
            Ok(Some(command)) => Ok(command),
            Ok(None) => {
                let hint = nearest(name, Self::names(kind).iter().copied())
                    .map(|near| format!("; did you mean `{near}`?"))
                    .unwrap_or_default();
                let shown: String = name.chars().take(64).collect();
                Err(Problem {
                    allowed: Self::names(kind).iter().map(|s| (*s).into()).collect(),
                    ..Problem::new(
                        Code::UnknownCommand,
                        format!("{kind} has no command `{shown}`{hint}"),
                    )
                })
            }
            Err(faults) => Err(Problem::invalid(faults)),
        }
    }

    /// Whether it is the first of its stream, whose id its sender may leave to us.
    pub fn creates(&self) -> bool {
        matches!(
            self,
            Self::Task(TaskCommand::Submit(_))
                | Self::Agent(AgentCommand::Register(_))
                | Self::Operation(OperationCommand::Accept(_))
                | Self::Crew(CrewCommand::Assemble(_))
                | Self::Schedule(ScheduleCommand::Create(_))
                | Self::Node(NodeCommand::Register(_))
        )
    }

    /// Why this command is not one for a stream: the ids of a queue's and of a profile's
    /// stream follow from their names.
    pub fn misplaced(&self, tenant: &TenantId, stream_id: Uuid) -> Option<Problem> {
        let (pointer, name, right) = match self {
            Self::Queue(command) => ("/queue", command.queue(), queue_id(tenant, command.queue())),
            Self::Profile(command) => {
                ("/name", command.profile(), profile_id(tenant, command.profile()))
            }
            Self::Task(_)
            | Self::Agent(_)
            | Self::Operation(_)
            | Self::Crew(_)
            | Self::Schedule(_)
            | Self::Node(_) => return None,
        };
        (right != stream_id).then(|| {
            let message = format!("the stream of {} `{name}` is {right}", self.stream_type());
            Problem::invalid(vec![FieldError::new(pointer, "another_stream", message)])
        })
    }

    /// The links to other tasks that this command makes or changes.
    pub fn links(&self) -> Option<Links<'_>> {
        if let Self::Task(command) = self { command.links() } else { None }
    }

    /// The unique thing that this command would take, if it is accepted.
    pub fn claim(&self) -> Option<Claim> {
        match self {
            Self::Agent(AgentCommand::Register(new)) => Some(Claim::agent_name(&new.name)),
            Self::Node(NodeCommand::Register(new)) => Some(Claim::node_name(&new.name)),
            Self::Agent(_)
            | Self::Task(_)
            | Self::Operation(_)
            | Self::Crew(_)
            | Self::Schedule(_)
            | Self::Queue(_)
            | Self::Node(_)
            | Self::Profile(_) => None,
        }
    }
}

/// A thing that one stream of a tenant may own at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// What sort of thing.
    pub kind: &'static str,
    /// The thing.
    pub value: String,
}

impl Claim {
    fn agent_name(name: &str) -> Self {
        Self { kind: "agent_name", value: name.into() }
    }

    fn node_name(name: &str) -> Self {
        Self { kind: "node_name", value: name.into() }
    }
}

/// What an event does to the unique claims of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimChange {
    /// The stream owns it from now on.
    Take(Claim),
    /// Nobody owns it any more.
    Free(Claim),
}

impl Event {
    /// What the event does to unique claims.
    pub fn claim_change(&self) -> Option<ClaimChange> {
        match self {
            Self::Agent(AgentEvent::Registered(new)) => {
                Some(ClaimChange::Take(Claim::agent_name(&new.name)))
            }
            Self::Agent(AgentEvent::Retired(gone)) => {
                Some(ClaimChange::Free(Claim::agent_name(&gone.name)))
            }
            Self::Node(NodeEvent::Registered(new)) => {
                Some(ClaimChange::Take(Claim::node_name(&new.name)))
            }
            Self::Node(NodeEvent::Retired(gone)) => {
                Some(ClaimChange::Free(Claim::node_name(&gone.name)))
            }
            Self::Agent(_)
            | Self::Task(_)
            | Self::Operation(_)
            | Self::Crew(_)
            | Self::Schedule(_)
            | Self::Queue(_)
            | Self::Node(_)
            | Self::Profile(_) => None,
        }
    }
}

/// The id of a command's nth event, so that a retry collides instead of doubling.
pub fn event_id(command_id: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&command_id, &(index as u64).to_be_bytes())
}
