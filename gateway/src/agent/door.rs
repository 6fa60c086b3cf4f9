//! The agents' wire on NATS, as the gateway reaches it on behalf of agents on a WebSocket.

use std::time::Duration;

use broker::subject::{self, AgentWord};
use commands::Boxed;
use domain::frame::{ControlFrame, Listen};
use domain::{AgentId, Code, Json, Problem, TenantId};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::app::{AgentDoor, ForAgent};

/// How long a process of the same name may take to say that it is there.
const TWIN_WAIT: Duration = Duration::from_secs(1);

/// Speaks the agents' own subjects.
pub struct NatsAgents(pub async_nats::Client);

impl AgentDoor for NatsAgents {
    fn answered(&self, tenant: TenantId, agent: AgentId) -> Boxed<bool> {
        let client = self.0.clone();
        Box::pin(async move {
            let control = subject::agent(&tenant, agent, AgentWord::Control);
            let ask =
                async_nats::Request::new().payload(Default::default()).timeout(Some(TWIN_WAIT));
            client.send_request(control, ask).await.is_ok()
        })
    }

    fn listen(
        &self,
        tenant: TenantId,
        agent: AgentId,
        to: Vec<Listen>,
    ) -> Boxed<Result<BoxStream<'static, ForAgent>, Problem>> {
        let client = self.0.clone();
        Box::pin(async move {
            let away = |_| Problem::new(Code::Unavailable, "the agents' wire cannot be reached");
            let mut words = Vec::new();
            for what in to {
                let word = match what {
                    Listen::Tasks => AgentWord::Tasks,
                    Listen::Control => AgentWord::Control,
                };
                let subject = subject::agent(&tenant, agent, word);
                let messages = client.subscribe(subject).await.map_err(away)?;
                words.push(messages.filter_map(move |message| {
                    std::future::ready(match what {
                        Listen::Tasks => pushed(&message),
                        Listen::Control => said(&message),
                    })
                }));
            }
            // The server knows of the subscriptions before the agent believes in them; while
            // it is away they wait for its return.
            let _ = tokio::time::timeout(TWIN_WAIT, client.flush()).await;
            Ok(stream::select_all(words).boxed())
        })
    }

    fn say(&self, tenant: TenantId, agent: AgentId, word: AgentWord, body: Json) -> Boxed<()> {
        let client = self.0.clone();
        Box::pin(async move {
            // What is said here may be lost; nothing is kept for a NATS that is away.
            if client.connection_state() == async_nats::connection::State::Connected {
                let subject = subject::agent(&tenant, agent, word);
                let _ = client.publish(subject, body.as_str().to_owned().into()).await;
            }
        })
    }

    fn here(&self, asker: String) -> Boxed<()> {
        let client = self.0.clone();
        Box::pin(async move {
            let _ = client.publish(asker, Default::default()).await;
        })
    }
}

/// An empty message is a probe: the subscription is answer enough.
fn pushed(message: &async_nats::Message) -> Option<ForAgent> {
    serde_json::from_slice(&message.payload).ok().map(ForAgent::Task)
}

fn said(message: &async_nats::Message) -> Option<ForAgent> {
    if message.payload.is_empty() {
        return message.reply.as_ref().map(|asker| ForAgent::There(asker.to_string()));
    }
    serde_json::from_slice::<ControlFrame>(&message.payload).ok().map(ForAgent::Control)
}
