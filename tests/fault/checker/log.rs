//! The log by itself: places, versions, hashes, tokens.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Found, Rule, World};

pub(super) fn check(world: &World, found: &mut Found) {
    positions(world, found);
    let mut versions: HashMap<(&str, Uuid), u64> = HashMap::new();
    let mut tokens: HashMap<Uuid, u64> = HashMap::new();
    for event in &world.events {
        let at = event.position;
        let version = versions.entry((event.tenant.as_str(), event.stream_id)).or_default();
        if event.version != *version + 1 {
            found.add(
                Rule::Versions,
                format!(
                    "stream {}: version {} stands behind {version} at position {at}",
                    event.stream_id, event.version
                ),
            );
        }
        *version = event.version;
        if event.hash != event.expected_hash() {
            found.add(Rule::Hashes, format!("the event at {at} has not the hash of its content"));
        }
        if &*event.event_type == "assigned" {
            let body: serde_json::Value =
                serde_json::from_slice(&event.payload).unwrap_or_default();
            let token = body["lease_token"].as_u64().unwrap_or_default();
            let last = tokens.insert(event.stream_id, token).unwrap_or_default();
            if token <= last {
                found.add(
                    Rule::Leases,
                    format!("task {}: lease {token} follows {last} at {at}", event.stream_id),
                );
            }
        }
    }
    roles(world, found);
}

fn positions(world: &World, found: &mut Found) {
    let mut expected = 1;
    for event in &world.events {
        if event.position != expected {
            let at = event.position;
            found.add(Rule::Positions, format!("{expected} should come next, {at} does"));
        }
        expected = event.position + 1;
    }
    if expected != world.head + 1 {
        let (last, head) = (expected - 1, world.head);
        found.add(Rule::Positions, format!("the last event is {last}, the head {head}"));
    }
}

fn roles(world: &World, found: &mut Found) {
    let mut held: HashMap<&str, (i64, &str)> = HashMap::new();
    for seen in &world.tokens {
        let now = (seen.token, seen.holder.as_str());
        let Some(before) = held.insert(&seen.role, now) else { continue };
        if now.0 < before.0 || (now.0 == before.0 && now.1 != before.1) {
            found.add(
                Rule::Leases,
                format!(
                    "role {}: token {} of {} follows {} of {}",
                    seen.role, now.0, now.1, before.0, before.1
                ),
            );
        }
    }
}
