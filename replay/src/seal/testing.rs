//! Logs and seals of tests: small, whole and signed.

use std::sync::OnceLock;

use domain::{Recorded, StreamType, TenantId, Timestamp};
use ed25519_dalek::SigningKey;
use uuid::Uuid;

use super::leaf::leaf_of;
use super::record::{Kind, Seal};
use super::tree::Frontier;

/// A seal of that number, signed by nobody.
pub(crate) fn seal(number: u64) -> Seal {
    Seal {
        number,
        kind: Kind::Seal,
        epoch: 1,
        size: 10 * number,
        root: [7; 32],
        time: Timestamp::UNIX_EPOCH + chrono::Duration::microseconds(1),
        previous: [0; 32],
        left: None,
        key: [0; 32],
        next: None,
        signature: [0; 64],
    }
}

/// The key that signs in tests.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

/// An event of no special meaning, with the hash that it should have.
pub(crate) fn event(position: u64, salt: u64) -> Recorded {
    let at = Timestamp::UNIX_EPOCH + chrono::Duration::microseconds(1_790_000_000_000_000);
    let at = at + chrono::Duration::microseconds((position / 3) as i64 * 1_000);
    let id = |n: u64| Uuid::from_u64_pair(n, position ^ salt << 32);
    let mut event = Recorded {
        position,
        epoch: 1,
        tenant: TenantId::default_tenant(),
        stream_type: StreamType::Task,
        stream_id: id(1),
        version: 1 + position % 4,
        event_type: "submitted".into(),
        schema_version: 1,
        event_id: id(2),
        command_id: id(3),
        actor: "tests/somebody".into(),
        correlation_id: position.is_multiple_of(2).then(|| id(4)),
        causation_position: position.is_multiple_of(3).then_some(position / 3),
        trace: position
            .is_multiple_of(5)
            .then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        occurred_at: at - chrono::Duration::microseconds(200),
        recorded_at: at,
        payload: format!(r#"{{"title":"task {position} of {salt}","n":[{position},null,true]}}"#)
            .into(),
        hash: [0; 32],
        decoded: OnceLock::new(),
    };
    event.hash = event.expected_hash();
    event
}

/// Seals of a log, one per so many events, signed by a key.
pub(crate) fn sealed(events: &[Recorded], each: usize, key: &SigningKey) -> Vec<Seal> {
    let (mut tree, mut seals) = (Frontier::default(), Vec::<Seal>::new());
    for event in events {
        tree.push(leaf_of(event), |_, _| {});
        if tree.size().is_multiple_of(each as u64) {
            let draft = Seal {
                number: seals.len() as u64 + 1,
                size: tree.size(),
                root: tree.root(),
                previous: seals.last().map_or([0; 32], Seal::hash),
                ..seal(1)
            };
            seals.push(draft.signed(key, None));
        }
    }
    seals
}
