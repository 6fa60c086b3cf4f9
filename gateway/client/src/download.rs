//! Answers that are too long to be held: piece by piece.

use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::{Method, Response};

use crate::{Client, Error, Query};

/// Longest wait for the next piece; the server's own limit for a statement is 10 s.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// A body under way.
#[derive(Debug)]
pub struct Download {
    url: String,
    response: Response,
    /// The log position that it reflects, where the server says so.
    pub position: Option<u64>,
}

impl Client {
    /// The whole audit of a filter as a file of the given media type (`text/csv` or
    /// `application/x-ndjson`).
    ///
    /// # Errors
    /// When a filter is malformed or no answer comes.
    pub async fn audit_file(&self, query: Query<'_>, kind: &str) -> Result<Download, Error> {
        let url = self.base().to_owned();
        let request = self.request(Method::GET, "v1/audit", query)?.header(ACCEPT, kind);
        let sent = tokio::time::timeout(PIECE_WITHIN, request.send()).await;
        let response = sent
            .map_err(|_| Error::TimedOut { what: "the export".into(), after: PIECE_WITHIN })?
            .map_err(|source| Error::Unreachable { url: url.clone(), source })?;
        if !response.status().is_success() {
            crate::http::answer(url.clone(), response).await?;
            let (status, excerpt) = (0, String::new());
            return Err(Error::Unexpected { url, status, excerpt });
        }
        let position = response.headers().get("taffrail-log-position");
        let position = position.and_then(|text| text.to_str().ok()?.parse().ok());
        Ok(Download { url, response, position })
    }
}

impl Download {
    /// The next piece; none at the end, and only when the server said that it is the end.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let piece = tokio::time::timeout(PIECE_WITHIN, self.response.chunk()).await;
        piece
            .map_err(|_| Error::TimedOut { what: "the export".into(), after: PIECE_WITHIN })?
            .map(|piece| piece.map(|bytes| bytes.to_vec()))
            .map_err(|source| Error::Unreachable { url: self.url.clone(), source })
    }
}
