//! The AsyncAPI 3.0 document: the subjects, and what goes over them.
//!
//! Assembled from the lists of commands and events, so that it cannot fall behind them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use domain::frame::{FromAgent, ToAgent};
use domain::task::{Assignment, ClaimTasks, Claimed};
use domain::{Command, Outcome, StreamType};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use utoipa::{PartialSchema, ToSchema};

use crate::agent::{HeartbeatAnswer, HeartbeatBody, HeldTask};

/// Where a definition stands in an OpenAPI document, and in ours.
const REF: &str = "#/components/schemas/";

/// The AsyncAPI document.
#[utoipa::path(get, path = "/asyncapi.json", tag = "service", security(()), responses(
    (status = 200, description = "AsyncAPI 3.0", body = domain::Json),
))]
pub async fn asyncapi_json() -> Response {
    static TEXT: LazyLock<Value> = LazyLock::new(document);
    Json(&*TEXT).into_response()
}

/// Every schema that commands and events refer to.
pub(crate) fn schemas() -> Map<String, Value> {
    let mut all = domain::definitions();
    Assignment::schemas(&mut all);
    Claimed::schemas(&mut all);
    Outcome::schemas(&mut all);
    FromAgent::schemas(&mut all);
    ToAgent::schemas(&mut all);
    let values = all
        .into_iter()
        .filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?)));
    let mut schemas: Map<String, Value> = values.collect();
    for (name, schema) in [
        ("Assignment", Assignment::schema()),
        ("ClaimTasks", ClaimTasks::schema()),
        ("Claimed", Claimed::schema()),
        ("Outcome", Outcome::schema()),
        ("HeldTask", HeldTask::schema()),
        ("FromAgent", FromAgent::schema()),
        ("ToAgent", ToAgent::schema()),
    ] {
        schemas.insert(name.into(), serde_json::to_value(schema).unwrap_or_default());
    }
    schemas
}

/// Makes a schema stand on its own: its references become `$defs`.
pub(crate) fn add_definitions(schema: &mut Map<String, Value>, all: &Map<String, Value>) {
    let mut needed = Map::new();
    let mut open = vec![Value::Object(schema.clone())];
    while let Some(value) = open.pop() {
        for name in references(&value) {
            if let Some(found) = all.get(&name).filter(|_| !needed.contains_key(&name)) {
                open.push(found.clone());
                needed.insert(name, found.clone());
            }
        }
    }
    if !needed.is_empty() {
        schema.insert("$defs".into(), Value::Object(needed));
    }
    let mut whole = Value::Object(std::mem::take(schema));
    point_to(&mut whole, "#/$defs/");
    if let Value::Object(fields) = whole {
        *schema = fields;
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            let own = own.and_then(|text| text.strip_prefix(REF)).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn point_to(value: &mut Value, place: &str) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == "$ref"
                    && let Value::String(text) = field
                {
                    *text = text.replace(REF, place);
                } else {
                    point_to(field, place);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| point_to(item, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The whole document.
pub fn document() -> Value {
    let mut parts = Parts::default();
    for kind in StreamType::ALL {
        for (name, schema) in Command::schemas(kind) {
            parts.command(kind, name, serde_json::to_value(schema).unwrap_or_default());
        }
    }
    for event in domain::event_types() {
        let schema = serde_json::to_value(&event.schema).unwrap_or_default();
        parts.event(event.stream_type, event.name, event.version, schema);
    }
    parts.agents();
    let Parts { channels, operations, messages } = parts;
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Taffrail",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Commands, events and the agents' wire on NATS. `send` and `receive` are ours: we receive commands and send events.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": schemas(),
            "messageTraits": { "event": event_trait(), "command": command_trait() },
        },
    })
}

#[derive(Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
}

impl Parts {
    fn command(&mut self, kind: StreamType, name: &str, schema: Value) {
        let message = format!("{kind}.{name}");
        self.message(&message, schema, "command", json!({}));
        for (way, note) in [
            ("cmd", "durable, at least once; the reply is JetStream's acknowledgement"),
            ("req", "request and reply; the reply is the outcome, after the commit"),
        ] {
            let address = format!("taffrail.{{tenant}}.{way}.{kind}.{{id}}.{name}");
            self.channel(&format!("{way}.{message}"), &address, &["tenant", "id"], &message, note);
            let reply = (way == "req").then_some("Outcome");
            self.operation(&format!("{way}.{message}"), "receive", reply);
        }
    }

    fn event(&mut self, kind: StreamType, name: &str, version: u16, schema: Value) {
        let message = format!("{kind}.{name}.v{version}");
        let headers = json!({ "properties": {
            "ce-type": { "const": format!("dev.taffrail.{message}") },
        } });
        self.message(&message, schema, "event", headers);
        let channel = format!("evt.{kind}.{name}");
        let address = format!("taffrail.{{tenant}}.evt.{kind}.{{id}}.{name}");
        let note = "JetStream stream TAFFRAIL_EVENTS; its sequence is the global position";
        self.channel(&channel, &address, &["tenant", "id"], &message, note);
        self.operation(&channel, "send", None);
        let channel = format!("replay.{kind}.{name}");
        let address = format!("taffrail.{{tenant}}.replay.{{replay}}.{kind}.{{id}}.{name}");
        let note = "a past event, published once more by `POST /v1/replay`; core NATS";
        self.channel(&channel, &address, &["tenant", "replay", "id"], &message, note);
        self.operation(&channel, "send", None);
    }

    fn agents(&mut self) {
        let schema = |name: &str| json!({ "$ref": format!("{REF}{name}") });
        let value = |schema| serde_json::to_value(schema).unwrap_or_default();
        let heartbeat = value(HeartbeatBody::schema());
        let words = json!({ "properties": {
            "command": { "enum": ["drain", "stop", "reload", "wake", "beat"] },
        } });
        let (ours, theirs) = ("send", "receive");
        self.wire(
            "claim",
            "req.queue.{queue}.claim",
            theirs,
            schema("ClaimTasks"),
            Some("Claimed"),
        );
        let answer = Some("HeartbeatAnswer");
        self.wire("agent.heartbeat", "agent.{id}.heartbeat", theirs, heartbeat, answer);
        self.wire("agent.tasks", "agent.{id}.tasks", ours, schema("Assignment"), None);
        self.wire("agent.control", "agent.{id}.control", ours, words, None);
        let line = json!({ "required": ["stream", "line"], "properties": {
            "task_id": { "type": "string", "format": "uuid" },
            "attempt": { "type": "integer" },
            "generation": { "type": "integer" },
            "stream": { "type": "string" },
            "line": { "type": "string" },
        } });
        self.wire("agent.log", "agent.{id}.log", theirs, line, None);
        self.wire("dead", "dead.{consumer}", ours, json!({}), None);
        let report = json!({ "properties": {
            "subject": { "type": "string" },
            "published": { "type": "integer" },
            "position": { "type": "integer" },
            "ms": { "type": "integer" },
        } });
        self.wire("replay.end", "replay.{replay}.end", ours, report, None);
        // Agents without NATS: the gateway's WebSocket, or a node's Unix socket.
        for (name, action, frame) in
            [("frames.said", theirs, "FromAgent"), ("frames.told", ours, "ToAgent")]
        {
            self.message(name, schema(frame), "command", json!({}));
            let note = "one frame per text message of the WebSocket, or per line of a socket";
            self.channel(name, "/v1/ws", &[], name, note);
            self.operation(name, action, None);
        }
        // An agent's own door: its subject says who asks.
        for kind in [StreamType::Task, StreamType::Agent] {
            for name in Command::names(kind) {
                let message = format!("{kind}.{name}");
                let address =
                    format!("taffrail.{{tenant}}.agent.{{agent}}.req.{kind}.{{id}}.{name}");
                let channel = format!("agent.req.{message}");
                let note = "as `req`; the subject proves who asks";
                self.channel(&channel, &address, &["tenant", "agent", "id"], &message, note);
                self.operation(&channel, "receive", Some("Outcome"));
            }
        }
        for (name, schema) in [
            ("Outcome", schema("Outcome")),
            ("Claimed", schema("Claimed")),
            ("HeartbeatAnswer", value(HeartbeatAnswer::schema())),
        ] {
            self.messages.insert(name.into(), json!({ "name": name, "payload": schema }));
        }
    }

    /// A channel of its own shape: its parameters are those that its address names.
    fn wire(&mut self, name: &str, address: &str, action: &str, body: Value, reply: Option<&str>) {
        self.message(name, body, "command", json!({}));
        let address = format!("taffrail.{{tenant}}.{address}");
        let parameters: Vec<_> =
            address.split(['{', '}']).skip(1).step_by(2).map(str::to_owned).collect();
        let parameters: Vec<_> = parameters.iter().map(String::as_str).collect();
        self.channel(name, &address, &parameters, name, "");
        self.operation(name, action, reply);
    }

    fn message(&mut self, name: &str, schema: Value, of: &str, headers: Value) {
        let traits = [json!({ "$ref": format!("#/components/messageTraits/{of}") })];
        let message = json!({
            "name": name, "payload": schema, "traits": traits, "headers": headers,
        });
        self.messages.insert(name.into(), message);
    }

    fn channel(
        &mut self,
        name: &str,
        address: &str,
        parameters: &[&str],
        message: &str,
        note: &str,
    ) {
        let parameters: Map<String, Value> =
            parameters.iter().map(|p| ((*p).to_owned(), parameter(p))).collect();
        let reference = json!({ "$ref": format!("#/components/messages/{message}") });
        let channel = json!({
            "address": address, "description": note, "parameters": parameters,
            "messages": { message: reference },
        });
        self.channels.insert(name.into(), channel);
    }

    fn operation(&mut self, channel: &str, action: &str, reply: Option<&str>) {
        let mut operation = json!({
            "action": action,
            "channel": { "$ref": format!("#/channels/{channel}") },
        });
        if let Some(reply) = reply {
            // An inbox of the asker's; its subject is in the request.
            self.channels.entry(format!("reply.{reply}")).or_insert_with(|| {
                json!({
                    "address": null,
                    "messages": { reply: { "$ref": format!("#/components/messages/{reply}") } },
                })
            });
            operation["reply"] =
                json!({ "channel": { "$ref": format!("#/channels/reply.{reply}") } });
        }
        self.operations.insert(format!("{action}.{channel}"), operation);
    }
}

fn parameter(name: &str) -> Value {
    let text = match name {
        "tenant" => "The customer; `default` where nothing is set up",
        "id" => "The stream's id, a UUID",
        "agent" => "The asking agent's id, a UUID",
        "queue" => "The queue's name",
        "replay" => "The replay's name: the one that was asked for, else its operation's id",
        _ => "The consumer that could not process a message",
    };
    json!({ "description": text })
}

fn command_trait() -> Value {
    let text = |note: &str| json!({ "type": "string", "description": note });
    json!({ "headers": { "type": "object", "properties": {
        "Taffrail-Command-Id": text("UUID; the same again for a repeat"),
        "Taffrail-Actor": text("a claim, recorded as such"),
        "Taffrail-Reply-To": text("an inbox for the outcome, on `cmd`"),
        "traceparent": text("W3C trace context"),
    } } })
}

fn event_trait() -> Value {
    let names = [
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-subject",
        "ce-time",
        "ce-recordedtime",
        "ce-sequence",
        "Taffrail-Position",
        "Taffrail-Epoch",
        "Taffrail-Version",
        "Taffrail-Hash",
    ];
    let properties: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
    json!({ "headers": { "type": "object", "properties": properties } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::agent::AgentCommand;

    #[test]
    fn every_command_and_event_has_its_subject() {
        let document = document();
        let addresses: Vec<_> = document["channels"]
            .as_object()
            .expect("channels")
            .values()
            .filter_map(|channel| channel["address"].as_str())
            .collect();
        for name in AgentCommand::NAMES {
            let address = format!("taffrail.{{tenant}}.cmd.agent.{{id}}.{name}");
            assert!(addresses.contains(&address.as_str()), "{address}");
        }
        for event in domain::event_types() {
            let address =
                format!("taffrail.{{tenant}}.evt.{}.{{id}}.{}", event.stream_type, event.name);
            assert!(addresses.contains(&address.as_str()), "{address}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        let mut checked = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().expect("a pointer");
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            checked += 1;
        }
        assert!(checked > 100);
    }

    #[test]
    fn a_schema_stands_on_its_own() {
        let mut schema = json!({ "a": { "$ref": format!("{REF}Outcome") } });
        let fields = schema.as_object_mut().expect("an object");
        add_definitions(fields, &schemas());
        let text = schema.to_string();
        assert!(!text.contains(REF), "{text}");
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().expect("a pointer");
            assert!(schema.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
