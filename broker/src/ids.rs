//! Command ids that are derived, so that the same message always has the same one.

use domain::TenantId;
use uuid::Uuid;

/// The namespace of a tenant's derived ids: UUIDv5 of the tenant's address.
///
/// Derived from a URL and not from a random constant, so that senders in any language can
/// compute the id under which their command will be known.
pub fn tenant_namespace(tenant: &TenantId) -> Uuid {
    let url = format!("https://taffrail.dev/tenants/{tenant}");
    Uuid::new_v5(&Uuid::NAMESPACE_URL, url.as_bytes())
}

/// The command id of a message that carries `Nats-Msg-Id`: UUIDv5(tenant, message id).
pub fn of_message_id(tenant: &TenantId, message_id: &str) -> Uuid {
    Uuid::new_v5(&tenant_namespace(tenant), message_id.as_bytes())
}

/// The command id of a JetStream message that names none: its sequence and time stamp stay
/// the same however often it is delivered, and differ once the stream was made anew.
pub fn of_delivery(tenant: &TenantId, sequence: u64, nanos: i128) -> Uuid {
    Uuid::new_v5(&tenant_namespace(tenant), format!("cmd/{sequence}/{nanos}").as_bytes())
}

/// The command id of a batch's item that names none: UUIDv5(the batch's command id, index).
pub fn of_item(batch: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&batch, &(index as u64).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_message_ids_of_two_tenants_are_two_commands() {
        let [a, b] = ["a", "b"].map(|t| TenantId::parse(t).expect("a slug"));
        assert_eq!(of_message_id(&a, "m1"), of_message_id(&a, "m1"));
        assert_ne!(of_message_id(&a, "m1"), of_message_id(&b, "m1"));
        assert_ne!(of_delivery(&a, 1, 2), of_delivery(&a, 1, 3));
    }
}
