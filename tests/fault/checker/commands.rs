//! Each command: one result, its events, one answer for ever.

use std::collections::HashMap;

use domain::Recorded;
use uuid::Uuid;

use super::{Found, ResultRow, Rule, World};
use crate::history::{Answer, Attempt, Entry, Leased};

pub(super) fn check(history: &[Entry], world: &World, found: &mut Found) {
    let mut results: HashMap<Uuid, &ResultRow> = HashMap::new();
    for row in &world.results {
        if results.insert(row.command_id, row).is_some() {
            found.add(Rule::Effects, format!("command {} has two results", row.command_id));
        }
    }
    let mut events: HashMap<Uuid, Vec<&Recorded>> = HashMap::new();
    for event in &world.events {
        events.entry(event.command_id).or_default().push(event);
    }
    stored(world, &results, &events, found);
    answered(history, &results, found);
    handed_out(history, world, found);
}

/// Results and events among themselves, whoever asked.
fn stored(
    world: &World,
    results: &HashMap<Uuid, &ResultRow>,
    events: &HashMap<Uuid, Vec<&Recorded>>,
    found: &mut Found,
) {
    for row in world.results.iter().filter(|row| row.position <= world.head) {
        let id = row.command_id;
        let of_it = events.get(&id).map(Vec::as_slice).unwrap_or_default();
        if let Some(code) = &row.refused {
            if let Some(event) = of_it.first() {
                let place = event.position;
                found.add(
                    Rule::Refusals,
                    format!("command {id} was refused ({code}) and has event {place}"),
                );
            }
            continue;
        }
        let names: Vec<&str> = of_it.iter().map(|event| &*event.event_type).collect();
        if names != row.events {
            found.add(
                Rule::Effects,
                format!("command {id}: its result names {:?}, the log has {names:?}", row.events),
            );
            continue;
        }
        let first = (row.position + 1).saturating_sub(of_it.len() as u64);
        let places: Vec<u64> = of_it.iter().map(|event| event.position).collect();
        if !places.iter().copied().eq(first..first + places.len() as u64) {
            found.add(
                Rule::Effects,
                format!("command {id}: its result says {}, its events {places:?}", row.position),
            );
        }
    }
    for (id, of_it) in events.iter().filter(|(id, _)| !results.contains_key(*id)) {
        let places: Vec<u64> = of_it.iter().map(|event| event.position).collect();
        found.add(Rule::Effects, format!("events {places:?} of command {id}, without a result"));
    }
}

/// What the senders were told.
fn answered(history: &[Entry], results: &HashMap<Uuid, &ResultRow>, found: &mut Found) {
    let mut asked: HashMap<Uuid, Vec<&Attempt>> = HashMap::new();
    for entry in history {
        if let Entry::Asked(attempt) = entry {
            asked.entry(attempt.command_id).or_default().push(attempt);
        }
    }
    for (id, attempts) in &asked {
        let mut told = attempts.iter().filter(|a| !matches!(a.answer, Answer::Unknown(_)));
        let Some(first) = told.next() else { continue };
        if let Some(other) = told.find(|attempt| attempt.answer != first.answer) {
            found.add(
                Rule::Answers,
                format!(
                    "{} {id} was answered {:?} at {} µs and {:?} at {} µs",
                    first.what, first.answer, first.completed, other.answer, other.completed
                ),
            );
        }
        let Some(row) = results.get(id) else {
            found.add(
                Rule::Lost,
                format!(
                    "{} {id} of client {} was answered {:?} at {} µs and has no result",
                    first.what, first.client, first.answer, first.completed
                ),
            );
            continue;
        };
        let same = match &first.answer {
            Answer::Accepted(done) => {
                row.refused.is_none()
                    && (row.stream_id, row.version, row.position)
                        == (done.stream_id, done.version, done.position)
            }
            Answer::Refused(code) => row.refused.as_ref() == Some(code),
            Answer::Unknown(_) => true,
        };
        if !same {
            found.add(
                Rule::Outcome,
                format!("{} {id} was answered {:?}, stored is {row:?}", first.what, first.answer),
            );
        }
    }
    order(&asked, results, found);
}

/// One log, one order: whoever was answered before another began stands before it (R4).
fn order(
    asked: &HashMap<Uuid, Vec<&Attempt>>,
    results: &HashMap<Uuid, &ResultRow>,
    found: &mut Found,
) {
    struct Ack {
        id: Uuid,
        invoked: u64,
        completed: u64,
        position: u64,
    }
    let ack = |(id, attempts): (&Uuid, &Vec<&Attempt>)| {
        let row = results.get(id).filter(|row| !row.events.is_empty())?;
        let done = |attempt: &&&Attempt| matches!(attempt.answer, Answer::Accepted(_));
        Some(Ack {
            id: *id,
            invoked: attempts.iter().map(|attempt| attempt.invoked).min()?,
            completed: attempts.iter().filter(done).map(|attempt| attempt.completed).min()?,
            position: row.position,
        })
    };
    let by_start: Vec<Ack> = {
        let mut acks: Vec<Ack> = asked.iter().filter_map(ack).collect();
        acks.sort_by_key(|ack| ack.invoked);
        acks
    };
    let mut by_end: Vec<&Ack> = by_start.iter().collect();
    by_end.sort_by_key(|ack| ack.completed);
    let mut ended = by_end.into_iter().peekable();
    let mut furthest: Option<&Ack> = None;
    for ack in &by_start {
        while let Some(before) = ended.next_if(|before| before.completed < ack.invoked) {
            if furthest.is_none_or(|furthest| furthest.position < before.position) {
                furthest = Some(before);
            }
        }
        if let Some(before) = furthest.filter(|before| before.position >= ack.position) {
            found.add(
                Rule::Order,
                format!(
                    "{} was answered at {} µs with position {}; {} began at {} µs and has {}",
                    before.id, before.completed, before.position, ack.id, ack.invoked, ack.position
                ),
            );
        }
    }
}

/// Tasks that agents were given.
fn handed_out(history: &[Entry], world: &World, found: &mut Found) {
    let mut given: HashMap<(Uuid, u64), Uuid> = HashMap::new();
    for event in world.events.iter().filter(|event| &*event.event_type == "assigned") {
        let body: serde_json::Value = serde_json::from_slice(&event.payload).unwrap_or_default();
        let agent = body["agent_id"].as_str().and_then(|text| text.parse().ok());
        if let (Some(token), Some(agent)) = (body["lease_token"].as_u64(), agent) {
            given.insert((event.stream_id, token), agent);
        }
    }
    for entry in history {
        let Entry::Leased(Leased { task, agent, token }) = entry else { continue };
        match given.get(&(*task, *token)) {
            Some(holder) if holder == agent => {}
            Some(holder) => found.add(
                Rule::Leases,
                format!("lease {token} of task {task} was given to {agent}; it is {holder}'s"),
            ),
            None => found.add(
                Rule::Lost,
                format!("lease {token} of task {task} was given to {agent} and is not in the log"),
            ),
        }
    }
}
