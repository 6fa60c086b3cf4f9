//! Bodies: JSON of bounded size that arrives in bounded time.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use domain::macros::Body as Checked;
use domain::{Code, Problem};
use futures::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::layer::{About, Asked};

/// Largest body, in bytes (reliability D44).
pub const MAX_BODY: usize = 1 << 20;
/// Time in which a body must have arrived.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The bytes of a JSON body, or of a CloudEvent's `data`; empty where none was sent.
///
/// What they say is read by the domain, which also names the faults.
#[derive(Debug, Clone)]
pub struct JsonBytes(pub Bytes);

impl JsonBytes {
    /// Reads the body as a type and checks its limits.
    ///
    /// # Errors
    /// A problem document that names the faulty fields.
    pub fn read<T: DeserializeOwned + Checked>(&self) -> Result<T, ApiError> {
        let body: T = self.parse()?;
        body.check().map_err(Problem::invalid)?;
        Ok(body)
    }

    /// Reads the body as a type that has no limits of its own.
    ///
    /// # Errors
    /// A problem document that names the faulty field.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        Ok(domain::json::read(&self.0).map_err(|fault| Problem::invalid(vec![fault]))?)
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let length = content_length(&parts.headers);
        let form = if length == Some(0) { Form::Plain } else { form(&parts.headers)? };
        if length.is_some_and(|length| length > MAX_BODY as u64) {
            return Err(too_large());
        }
        let about = parts.extensions.get::<Asked>().map(|asked| asked.0.clone());
        let bytes = arrived(body, about.as_deref()).await?;
        match form {
            Form::Plain => Ok(Self(bytes)),
            Form::CloudEvent => cloud_event_data(&bytes).map(Self),
        }
    }
}

/// The body, which mostly came with the head. One that is still under way is waited for
/// without a seat: slow senders must not keep others out.
async fn arrived(body: axum::body::Body, about: Option<&About>) -> Result<Bytes, ApiError> {
    let mut collected = std::pin::pin!(collect(body));
    if let Some(bytes) = collected.as_mut().now_or_never() {
        return bytes;
    }
    if let Some(about) = about {
        about.seat.leave();
    }
    let bytes = tokio::time::timeout(BODY_TIMEOUT, collected).await.map_err(|_| {
        ApiError::new(Code::InvalidBody, "the body did not arrive within 30 s").closing()
    })??;
    if let Some(about) = about {
        about.seat.take_again().await?;
    }
    Ok(bytes)
}

/// How a body holds what it says.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Plain,
    CloudEvent,
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => (!headers.contains_key(header::TRANSFER_ENCODING)).then_some(0),
    }
}

fn too_large() -> ApiError {
    ApiError::new(Code::TooLarge, format!("a body may have at most {MAX_BODY} bytes")).closing()
}

/// Takes JSON in UTF-8 without a coding; a body without a type counts as JSON.
fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let refused = |detail: String| Err(ApiError::new(Code::UnsupportedMediaType, detail));
    if let Some(coding) = headers.get(header::CONTENT_ENCODING)
        && coding != "identity"
    {
        return refused("bodies are taken as they are, without `Content-Encoding`".into());
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(Form::Plain) };
    let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let utf8 = |charset: &str| matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii");
    if parts.filter_map(|part| part.strip_prefix("charset=")).any(|charset| !utf8(charset)) {
        return refused("JSON is UTF-8; another charset is not taken".into());
    }
    match essence {
        "application/json" => Ok(Form::Plain),
        "application/cloudevents+json" => Ok(Form::CloudEvent),
        "application/cloudevents-batch+json" => {
            refused("a batch of CloudEvents is not taken; see POST /v1/tasks/batch".into())
        }
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(Form::Plain),
        "application/x-www-form-urlencoded" => refused(
            "the body must be JSON; with curl add -H 'content-type: application/json' or use --json"
                .into(),
        ),
        _ => refused("the body must be application/json".into()),
    }
}

/// Collects the body; stops reading once it is over the limit.
async fn collect(body: axum::body::Body) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            ApiError::new(Code::InvalidBody, "the body broke off or is badly framed").closing()
        })?;
        if first.len() + all.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        // Most bodies are one chunk: it is handed on without a copy.
        if first.is_empty() && all.is_empty() {
            first = chunk;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&chunk);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// What a structured CloudEvent carries, by the same rules as on NATS.
fn cloud_event_data(bytes: &Bytes) -> Result<Bytes, ApiError> {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("content-type", "application/cloudevents+json");
    let data = broker::envelope::command_body(Some(&headers), bytes)?;
    Ok(Bytes::copy_from_slice(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn typed(kind: &str) -> Result<Form, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().expect("header"));
        form(&headers)
    }

    #[test]
    fn json_is_taken_and_nothing_else() {
        assert_eq!(form(&HeaderMap::new()).expect("taken"), Form::Plain);
        assert_eq!(typed("Application/JSON; charset=UTF-8").expect("taken"), Form::Plain);
        assert_eq!(typed("application/merge-patch+json").expect("taken"), Form::Plain);
        assert_eq!(typed("application/cloudevents+json").expect("taken"), Form::CloudEvent);
        for bad in [
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
            "application/json; charset=utf-16",
            "",
        ] {
            assert_eq!(typed(bad).expect_err("refused").problem().status, 415, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_and_without_its_length() {
        let exact = collect(Body::from(vec![b'x'; MAX_BODY])).await.expect("taken");
        assert_eq!(exact.len(), MAX_BODY);
        let chunks = futures::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096]))
        });
        let endless = collect(Body::from_stream(chunks)).await;
        assert_eq!(endless.expect_err("refused").problem().status, 413);
    }

    #[test]
    fn a_cloud_event_hands_over_its_data() {
        let event = br#"{"specversion":"1.0","id":"1","source":"/x","type":"t","data":{"a":1}}"#;
        let data = cloud_event_data(&Bytes::from_static(event)).expect("read");
        assert_eq!(&data[..], br#"{"a":1}"#);
        let old = Bytes::from_static(br#"{"specversion":"0.3","data":{}}"#);
        assert!(cloud_event_data(&old).is_err());
    }
}
