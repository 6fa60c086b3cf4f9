//! One request and its answer.

use std::net::IpAddr;
use std::time::Duration;

use domain::Problem;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};
use serde_json::Value;

use crate::Error;

/// Parameters of a query, in the order in which they are sent.
pub type Query<'a> = &'a [(&'a str, String)];

/// Waits longer than the longest wait that the server grants (30 s).
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A connection to one server, as one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    /// The moment of the past that every question is about.
    moment: Option<String>,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:7117`.
    ///
    /// # Errors
    /// When the address is none, or the token cannot stand in a header.
    pub fn new(base: &str, token: Option<&str>) -> Result<Self, Error> {
        let url = Url::parse(base).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let mut base = url.ok_or_else(|| Error::Address(base.to_owned()))?;
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_WITHIN)
            .user_agent(concat!("taffrail/", env!("CARGO_PKG_VERSION")));
        // A proxy out of the environment cannot see this machine's loopback.
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|source| Error::Unreachable { url: base.to_string(), source })?;
        Ok(Self { http, base, moment: None })
    }

    /// The same client, whose questions are all about a moment of the past: a position or an
    /// instant. The server refuses whatever would change something then.
    #[must_use]
    pub fn as_of(self, moment: impl Into<String>) -> Self {
        Self { moment: Some(moment.into()), ..self }
    }

    /// The address that paths are joined to.
    pub fn base(&self) -> &str {
        self.base.as_str()
    }

    /// Asks; `path` may hold further segments, each already a safe token.
    ///
    /// # Errors
    /// When no answer comes, or it is no success.
    pub async fn get(&self, path: &str, query: Query<'_>) -> Result<Value, Error> {
        self.call(Method::GET, path, query, None, &[]).await
    }

    /// Tells.
    ///
    /// # Errors
    /// When no answer comes, or it is no success.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.call(Method::POST, path, &[], Some(body), &[]).await
    }

    /// Removes.
    ///
    /// # Errors
    /// When no answer comes, or it is no success.
    pub async fn delete(&self, path: &str, query: Query<'_>) -> Result<Value, Error> {
        self.call(Method::DELETE, path, query, None, &[]).await
    }

    /// Any call, with further headers.
    ///
    /// # Errors
    /// When no answer comes, or it is no success.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<&Value>,
        headers: &[(&'static str, String)],
    ) -> Result<Value, Error> {
        let mut request = self.request(method, path, query)?.timeout(ANSWER_WITHIN);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let url = self.base.to_string();
        let response = request
            .send()
            .await
            .map_err(|source| Error::Unreachable { url: url.clone(), source })?;
        answer(url, response).await
    }

    /// A request that the caller sends by itself, as streams do.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
    ) -> Result<reqwest::RequestBuilder, Error> {
        let url = self.base.join(path.trim_start_matches('/'));
        let url = url.map_err(|_| Error::Address(format!("{}{path}", self.base)))?;
        let mut request = self.http.request(method, url);
        if !query.is_empty() {
            request = request.query(query);
        }
        if let Some(moment) = &self.moment {
            request = request.query(&[("as_of", moment)]);
        }
        Ok(request)
    }

    /// Whether the process lives and can do its work, and which part cannot.
    ///
    /// # Errors
    /// When no answer comes; an unready server is a [`Error::Refused`] or an answer.
    pub async fn health(&self) -> Result<Value, Error> {
        self.get("readyz", &[]).await
    }

    /// The server's version.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn version(&self) -> Result<Value, Error> {
        self.get("version", &[]).await
    }
}

/// The body of a success, or the problem.
pub(crate) async fn answer(url: String, response: Response) -> Result<Value, Error> {
    let status = response.status();
    let text =
        response.text().await.map_err(|source| Error::Unreachable { url: url.clone(), source })?;
    if status.is_success() {
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        // Health answers may be a plain word.
        return Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)));
    }
    match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => Err(Error::Refused(Box::new(problem))),
        Err(_) => Err(Error::Unexpected {
            url,
            status: status.as_u16(),
            excerpt: text.chars().filter(|c| !c.is_control()).take(200).collect(),
        }),
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// A key as a header: a structured-field string, quoted, with quote and backslash escaped.
pub(crate) fn idempotency_key(key: &str) -> (&'static str, String) {
    let key = key.replace('\\', "\\\\").replace('"', "\\\"");
    ("idempotency-key", format!("\"{key}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_http_address_is_refused_before_any_request() {
        for base in ["", "localhost:7117", "ftp://example.org", "nats://127.0.0.1:4222"] {
            assert!(matches!(Client::new(base, None), Err(Error::Address(_))), "{base}");
        }
    }

    #[test]
    fn a_base_may_have_a_path_and_the_token_stays_out_of_debug_output() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new("http://127.0.0.1:7117/api", Some("s3cret")).unwrap();
        let request = client.request(Method::GET, "/v1/tasks", &[("state", "a b".into())]);
        let request = request.unwrap().build().unwrap();
        assert_eq!(request.url().as_str(), "http://127.0.0.1:7117/api/v1/tasks?state=a+b");
        assert!(!format!("{client:?}").contains("s3cret"));
    }

    #[test]
    fn every_question_is_about_the_moment_that_was_chosen() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new("http://127.0.0.1:7117", None).unwrap();
        let client = client.as_of("2026-01-31T12:00:00+01:00");
        for method in [Method::GET, Method::POST] {
            let request = client.request(method, "/v1/tasks", &[("limit", "1".into())]);
            let url = request.unwrap().build().unwrap().url().to_string();
            assert!(url.ends_with("?limit=1&as_of=2026-01-31T12%3A00%3A00%2B01%3A00"), "{url}");
        }
    }

    #[test]
    fn a_token_with_a_line_break_is_refused() {
        assert!(matches!(Client::new("http://127.0.0.1:1", Some("a\r\nb: c")), Err(Error::Token)));
    }
}
