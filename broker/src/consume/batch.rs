//! Batches: one message, up to 1,000 commands, an outcome for each.

use commands::CommandEnvelope;
use domain::json::nearest;
use domain::{Code, Command, FieldError, Json, Outcome, Problem, Status, StreamType, json};
use serde::Deserialize;
use uuid::Uuid;

use super::intake::Common;
use crate::ids;

/// Most commands of one batch.
pub const MAX_BATCH: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    commands: Vec<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    id: Uuid,
    command: String,
    #[serde(default)]
    command_id: Option<Uuid>,
    #[serde(default)]
    body: Json,
}

/// Reads a batch; an item that is malformed gets its own outcome and harms no other.
///
/// # Errors
/// When the batch itself is malformed, empty or too long.
pub(super) fn read(
    common: &Common,
    body: &[u8],
) -> Result<Vec<Result<CommandEnvelope, Outcome>>, Problem> {
    let batch: Batch = json::read(body).map_err(|fault| Problem::invalid(vec![fault]))?;
    if !(1..=MAX_BATCH).contains(&batch.commands.len()) {
        let message = format!("`commands` must have 1 to {MAX_BATCH} entries");
        return Err(Problem::invalid(vec![FieldError::new("/commands", "length", message)]));
    }
    Ok(batch
        .commands
        .iter()
        .enumerate()
        .map(|(index, item)| read_item(common, index, item))
        .collect())
}

fn read_item(common: &Common, index: usize, text: &Json) -> Result<CommandEnvelope, Outcome> {
    let derived = ids::of_item(common.command_id, index);
    let invalid = |command_id, stream_id, mut problem: Problem| {
        // The pointer leads into the batch, as the sender wrote it.
        for error in &mut problem.errors {
            error.pointer = format!("/commands/{index}{}", error.pointer);
        }
        Outcome::undecided(Status::Invalid, command_id, stream_id, problem)
    };
    let item: Item = json::read(text.as_str().as_bytes())
        .map_err(|fault| invalid(derived, Uuid::nil(), Problem::invalid(vec![fault])))?;
    let (command_id, fresh) = match item.command_id {
        Some(id) => (id, false),
        None => (derived, common.fresh),
    };
    let refuse = |problem| invalid(command_id, item.id, problem);
    let kind: StreamType = item.kind.parse().map_err(|()| refuse(unknown_type(&item.kind)))?;
    let body = if item.body.is_null() { "{}" } else { item.body.as_str() };
    let command = Command::parse(kind, &item.command, body.as_bytes()).map_err(|mut problem| {
        for error in &mut problem.errors {
            error.pointer = format!("/body{}", error.pointer);
        }
        refuse(problem)
    })?;
    Ok(common.envelope(item.id, command, command_id, fresh))
}

fn unknown_type(word: &str) -> Problem {
    let known = StreamType::ALL.map(StreamType::as_str);
    let hint = nearest(word, known.into_iter())
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let shown: String = word.chars().take(64).collect();
    let message = format!("there is no type `{shown}`{hint} (known: {})", known.join(", "));
    Problem {
        errors: vec![FieldError::new("/type", "unknown_value", message.clone())],
        allowed: known.map(str::to_owned).to_vec(),
        ..Problem::new(Code::InvalidBody, message)
    }
}

#[cfg(test)]
mod tests {
    use domain::TenantId;

    use super::*;

    fn common(fresh: bool) -> Common {
        Common {
            tenant: TenantId::default_tenant(),
            command_id: Uuid::from_u128(9),
            fresh,
            actor: "tester".into(),
            correlation_id: None,
            causation_position: None,
            trace: None,
            credential: None,
        }
    }

    fn item(command: &str, extra: &str) -> String {
        let id = Uuid::from_u128(1);
        format!(r#"{{"type":"task","id":"{id}","command":"{command}"{extra}}}"#)
    }

    #[test]
    fn each_item_is_read_by_itself() {
        let items = [
            item("submit", r#","body":{"title":"a"}"#),
            item("submit", r#","body":{"titel":"a"}"#),
            item("sumbit", ""),
            item("cancel", r#","command_id":"00000000-0000-0000-0000-000000000007""#),
            r#"{"type":"tsk","id":"00000000-0000-0000-0000-000000000001","command":"x"}"#.into(),
            r#"{"type":"task","id":"none","command":"x"}"#.into(),
            "17".into(),
        ];
        let body = format!(r#"{{"commands":[{}]}}"#, items.join(","));
        let read = read(&common(false), body.as_bytes()).expect("a batch");
        let first = read[0].as_ref().expect("good");
        assert_eq!(first.command_id, ids::of_item(Uuid::from_u128(9), 0));
        assert!(!first.fresh);
        assert_eq!(
            first.fingerprint,
            CommandEnvelope::fingerprint_of(&first.command, Some(first.stream_id))
        );
        let pointer = |index: usize| {
            let outcome = read[index].as_ref().expect_err("malformed");
            assert_eq!(outcome.status, Status::Invalid);
            let problem = outcome.problem.as_ref().expect("a problem");
            problem.errors.first().map(|error| error.pointer.clone())
        };
        assert_eq!(pointer(1).as_deref(), Some("/commands/1/body/titel"));
        assert_eq!(pointer(2), None, "the command's name is no field");
        assert_eq!(read[3].as_ref().expect("good").command_id, Uuid::from_u128(7));
        assert_eq!(pointer(4).as_deref(), Some("/commands/4/type"));
        assert_eq!(pointer(5).as_deref(), Some("/commands/5/id"));
        assert_eq!(pointer(6).as_deref(), Some("/commands/6"));
    }

    #[test]
    fn a_batch_has_one_to_a_thousand_commands() {
        let many = vec![item("cancel", ""); MAX_BATCH + 1].join(",");
        for body in
            ["{}".into(), r#"{"commands":[]}"#.into(), format!(r#"{{"commands":[{many}]}}"#)]
        {
            assert!(read(&common(true), body.as_bytes()).is_err());
        }
        let most = vec![item("cancel", ""); MAX_BATCH].join(",");
        let read = read(&common(true), format!(r#"{{"commands":[{most}]}}"#).as_bytes());
        assert!(read.expect("a batch").iter().all(|item| item.as_ref().is_ok_and(|e| e.fresh)));
    }
}
