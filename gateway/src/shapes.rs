//! What the OpenAPI document can't learn from the types: the body of each command of a
//! path, and which fields of a change `null` clears. Both are asked of the domain.

use domain::{Command, StreamType};
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AnyOf, Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{OpenApi as Document, RefOr, Required};

/// The same document, exact in both.
pub(crate) fn exact(mut document: Document) -> Document {
    commands(&mut document);
    let changes = [
        ("UpdateTask", StreamType::Task),
        ("UpdateAgent", StreamType::Agent),
        ("UpdateSchedule", StreamType::Schedule),
    ];
    moments(&mut document);
    for (name, kind) in changes {
        let components = document.components.as_mut();
        let schema = components.and_then(|components| components.schemas.get_mut(name));
        if let Some(RefOr::T(Schema::Object(change))) = schema {
            nulls(kind, change);
        }
    }
    document
}

/// Says which queries can be asked about the past.
fn moments(document: &mut Document) {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let as_of = ParameterBuilder::new()
        .name("as_of")
        .parameter_in(ParameterIn::Query)
        .description(Some(
            "The past moment that the answer is about: a position, or a time (RFC 3339)",
        ))
        .schema(Some(text))
        .build();
    for (path, item) in &mut document.paths.paths {
        if let Some(get) = item.get.as_mut().filter(|_| crate::query::knows_the_past(path)) {
            get.parameters.get_or_insert_default().push(as_of.clone().into());
        }
    }
}

/// Names the commands that `/{id}/{command}` takes, each with the shape of its body.
fn commands(document: &mut Document) {
    let routes = [
        ("/v1/tasks/{id}/{command}", StreamType::Task, crate::task::NOT_HERE),
        ("/v1/agents/{id}/{command}", StreamType::Agent, crate::agent::NOT_HERE),
        ("/v1/schedules/{id}/{command}", StreamType::Schedule, crate::schedule::NOT_HERE),
    ];
    for (path, kind, not_here) in routes {
        let operation = document.paths.paths.get_mut(path).and_then(|item| item.post.as_mut());
        let Some(operation) = operation else { continue };
        let all = Command::schemas(kind).into_iter();
        let known: Vec<_> = all.filter(|(name, _)| !not_here.contains(name)).collect();
        let names = known.iter().map(|(name, _)| *name);
        let names = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).build();
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && parameter.name == "command"
            {
                parameter.schema = Some(names.clone().into());
            }
        }
        let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
        // A command without a required field may come without a body.
        body.required = Some(Required::False);
        let mut any = AnyOf::new();
        any.items = known.into_iter().map(|(name, schema)| titled(kind, name, schema)).collect();
        for content in body.content.values_mut() {
            if let RefOr::T(content) = content {
                content.schema = Some(RefOr::T(Schema::AnyOf(any.clone())));
            }
        }
    }
    if let Some(components) = &mut document.components {
        for (name, schema) in domain::definitions() {
            components.schemas.entry(name).or_insert(schema);
        }
    }
}

/// The body of a command, under the command's name.
fn titled(kind: StreamType, name: &str, mut schema: RefOr<Schema>) -> RefOr<Schema> {
    if let RefOr::T(Schema::Object(body)) = &mut schema {
        body.title = Some(name.into());
        if name == "update" {
            nulls(kind, body);
        }
    }
    schema
}

/// Says of each field of a change whether `null` is taken: the derived schema calls every
/// field that may be absent nullable, with `null` as its default.
fn nulls(kind: StreamType, change: &mut Object) {
    for (field, schema) in &mut change.properties {
        let body = serde_json::json!({ field: null }).to_string();
        let clears = Command::parse(kind, "update", body.as_bytes()).is_ok();
        *schema = given(std::mem::take(schema), clears);
    }
}

/// The schema of a field that is left away when it is to stay, so it has no default.
fn given(mut schema: RefOr<Schema>, clears: bool) -> RefOr<Schema> {
    if let RefOr::T(Schema::Object(field)) = &mut schema {
        field.default = None;
        not_null(&mut field.schema_type, clears);
    } else if let RefOr::T(Schema::Array(field)) = &mut schema {
        field.default = None;
        not_null(&mut field.schema_type, clears);
    } else if let RefOr::T(Schema::OneOf(field)) = &mut schema {
        field.default = None;
        // Any JSON value is null, too: as a part of its own it would make two of one.
        let any = field.items.iter().any(is_any);
        field.items.retain(|part| !is_null(part) || (clears && !any));
        if let [one] = &field.items[..] {
            return one.clone();
        }
    }
    schema
}

fn not_null(kind: &mut SchemaType, clears: bool) {
    if let SchemaType::Array(types) = kind
        && !clears
    {
        types.retain(|kind| *kind != Type::Null);
        if let [one] = &types[..] {
            *kind = SchemaType::Type(one.clone());
        }
    }
}

fn is_null(part: &RefOr<Schema>) -> bool {
    let RefOr::T(Schema::Object(part)) = part else { return false };
    part.schema_type == SchemaType::Type(Type::Null)
}

fn is_any(part: &RefOr<Schema>) -> bool {
    matches!(part, RefOr::Ref(reference) if reference.ref_location.ends_with("/Json"))
}
