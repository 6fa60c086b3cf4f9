//! What is made from the log: the stream of events and the read models.

use super::{Found, Mirrored, Rule, World};

pub(super) fn check(world: &World, found: &mut Found) {
    let mut messages = world.mirror.iter().peekable();
    for event in &world.events {
        let expected = Mirrored {
            sequence: event.position,
            position: event.position,
            epoch: world.epoch,
            subject: broker::subject::event(event),
            event_id: event.event_id.to_string(),
            hash: hex::encode(event.hash),
            payload: event.payload.to_vec(),
        };
        match messages.next_if(|message| message.sequence <= event.position) {
            Some(message) if *message == expected => {}
            Some(message) => found.add(
                Rule::Mirror,
                format!(
                    "sequence {} carries event {} of position {} under epoch {}; \
                     the log has {} there",
                    message.sequence,
                    message.event_id,
                    message.position,
                    message.epoch,
                    expected.event_id
                ),
            ),
            None => {
                let at = event.position;
                found.add(Rule::Mirror, format!("the event at {at} is not in the stream"));
            }
        }
    }
    for message in messages {
        let at = message.sequence;
        found.add(Rule::Mirror, format!("the stream has a message {at} that the log has not"));
    }
    for model in &world.models {
        if model.position < world.head {
            let (name, at, head) = (&model.name, model.position, world.head);
            found.add(Rule::Models, format!("{name} stands at {at}, the log at {head}"));
        }
        for row in &model.differing {
            found.add(Rule::Models, format!("{}: {row}", model.name));
        }
    }
}
