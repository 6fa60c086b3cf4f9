//! What one client sees one after the other.

use std::collections::HashMap;

use super::{Found, Rule, World};
use crate::history::Entry;

pub(super) fn check(history: &[Entry], world: &World, found: &mut Found) {
    let mut seen: HashMap<usize, u64> = HashMap::new();
    let mut heard = 0;
    for entry in history {
        match entry {
            Entry::Read(read) => {
                let before = seen.entry(read.client).or_default();
                if !read.found {
                    found.add(
                        Rule::Sessions,
                        format!(
                            "client {} submitted task {} and did not find it at position {}",
                            read.client, read.task, read.position
                        ),
                    );
                }
                let least = read.demanded.max(*before);
                if read.found && read.position < least {
                    found.add(
                        Rule::Sessions,
                        format!(
                            "client {} had seen {least} and was shown {}",
                            read.client, read.position
                        ),
                    );
                }
                *before = read.position.max(*before);
            }
            Entry::Heard(event) => {
                if event.position != heard + 1 {
                    let at = event.position;
                    found.add(Rule::Subscribers, format!("after {heard} a subscriber got {at}"));
                }
                heard = event.position;
                let of_log = world.events.binary_search_by_key(&heard, |event| event.position);
                let same = of_log.ok().map(|at| &world.events[at]);
                if same.is_some_and(|same| hex::encode(same.hash) != event.hash) {
                    found.add(
                        Rule::Subscribers,
                        format!("a subscriber got another event at {heard} than the log has"),
                    );
                }
            }
            Entry::Asked(_) | Entry::Leased(_) => {}
        }
    }
    if world.subscribed && heard < world.head {
        let head = world.head;
        found.add(Rule::Subscribers, format!("a subscriber got {heard} of {head} events"));
    }
}
