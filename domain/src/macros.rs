//! The furniture that every context has: a list of commands and a list of events,
//! each with its literal name on the wire.

/// A body of a command can be checked beyond its shape.
pub trait Body {
    /// Names every field that breaks a limit.
    ///
    /// # Errors
    /// All faults at once.
    fn check(&self) -> Result<(), Vec<crate::problem::FieldError>> {
        Ok(())
    }
}

macro_rules! commands {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident($body:ty) = $literal:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name { $($(#[$vdoc])* $variant($body),)* }

        impl $name {
            /// Every command's name on the wire.
            pub const NAMES: &[&'static str] = &[$($literal,)*];

            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $literal,)* }
            }

            /// Reads a command's body; `None` when there is no command of that name.
            ///
            /// # Errors
            /// The faults of the body, each with its pointer.
            pub fn parse(
                name: &str,
                body: &[u8],
            ) -> Result<Option<Self>, Vec<$crate::problem::FieldError>> {
                match name {
                    $($literal => {
                        let body: $body = $crate::json::read(body).map_err(|fault| vec![fault])?;
                        $crate::macros::Body::check(&body)?;
                        Ok(Some(Self::$variant(body)))
                    })*
                    _ => Ok(None),
                }
            }

            /// Each command's body as JSON Schema, by name, for the published documents.
            pub fn schemas() -> Vec<(&'static str, utoipa::openapi::RefOr<utoipa::openapi::Schema>)> {
                vec![$(($literal, <$body as utoipa::PartialSchema>::schema()),)*]
            }

            /// The schemas that those refer to, by name.
            pub fn definitions(
                all: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>,
            ) {
                $(<$body as utoipa::ToSchema>::schemas(all);)*
            }

            /// The body as canonical JSON: fields in declared order, defaults filled in.
            pub fn body(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(body) => serde_json::to_vec(body).unwrap_or_default(),)*
                }
            }
        }
    };
}

macro_rules! events {
    ($(#[$doc:meta])* $name:ident of $kind:literal upcast $upcasts:expr;
     { $($(#[$vdoc:meta])* $variant:ident($body:ty) = $literal:literal v $version:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* $variant($body),)* }

        impl $name {
            /// Every event's name, with the current version of its shape.
            pub const TYPES: &[(&'static str, u16)] = &[$(($literal, $version),)*];

            /// The name on the wire and in the log.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $literal,)* }
            }

            /// The version of the payload's shape.
            pub fn schema_version(&self) -> u16 {
                match self { $(Self::$variant(_) => $version,)* }
            }

            /// The payload as the JSON bytes that are hashed and kept.
            pub fn payload(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(body) => serde_json::to_vec(body).unwrap_or_default(),)*
                }
            }

            /// Reads a stored payload of any known version.
            ///
            /// # Errors
            /// When name or version are unknown, or the payload does not have its shape.
            pub fn decode(
                name: &str,
                version: u16,
                payload: &[u8],
            ) -> Result<Self, $crate::recorded::DecodeError> {
                use $crate::recorded::DecodeError;
                let event = || format!("{}.{name}", $kind);
                let malformed =
                    |reason: String| DecodeError::Malformed { event: event(), position: 0, reason };
                let unknown = || DecodeError::Unknown { event: event(), version };
                match name {
                    $($literal => {
                        if version == 0 || version > $version {
                            return Err(unknown());
                        }
                        let body: Result<$body, String> = if version == $version {
                            $crate::upcast::read(payload)
                        } else {
                            $crate::upcast::upcast(
                                $upcasts, &event(), version, $version, payload,
                            ).and_then(|newest| $crate::upcast::read(&newest))
                        };
                        body.map(Self::$variant).map_err(malformed)
                    })*
                    _ => Err(unknown()),
                }
            }

            /// Each event's schema, by name, for the published documents.
            pub fn schemas() -> Vec<(&'static str, utoipa::openapi::RefOr<utoipa::openapi::Schema>)> {
                vec![$(($literal, <$body as utoipa::PartialSchema>::schema()),)*]
            }

            /// The schemas that those refer to, by name.
            pub fn definitions(
                all: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>,
            ) {
                $(<$body as utoipa::ToSchema>::schemas(all);)*
            }
        }

        impl cqrs_es::DomainEvent for $name {
            fn event_type(&self) -> String {
                self.name().into()
            }

            fn event_version(&self) -> String {
                self.schema_version().to_string()
            }
        }
    };
}

/// Puts an aggregate behind cqrs-es's trait: `decide` and `apply` stay the whole of it.
macro_rules! aggregate {
    ($name:ident, $kind:literal, $command:ty, $event:ty) => {
        impl cqrs_es::Aggregate for $name {
            const TYPE: &'static str = $kind;
            type Command = $crate::decide::Stamped<$command>;
            type Event = $event;
            type Error = $crate::decide::Refusal;
            type Services = ();

            async fn handle(
                &mut self,
                given: Self::Command,
                _: &(),
                sink: &cqrs_es::event_sink::EventSink<Self>,
            ) -> Result<(), Self::Error> {
                for event in self.decide(&given.command, &given.facts)? {
                    sink.write(event, self).await;
                }
                Ok(())
            }

            fn apply(&mut self, event: Self::Event) {
                Self::apply(self, &event);
            }
        }
    };
}
