//! Seals, proofs, and the log as a whole.

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use reqwest::{Body, Method};
use serde_json::Value;

use crate::http::answer;
use crate::{Client, Error, Query};

impl Client {
    /// A page of seals, the newest first.
    ///
    /// # Errors
    /// When a parameter is malformed or no answer comes.
    pub async fn seals(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/seals", query).await
    }

    /// The proof that an event stands in the log.
    ///
    /// # Errors
    /// When there is none, it is not sealed yet, or no answer comes.
    pub async fn prove_event(&self, position: u64) -> Result<Value, Error> {
        self.get(&format!("v1/events/{position}/proof"), &[]).await
    }

    /// The proof that the log of one size is the beginning of another's.
    ///
    /// # Errors
    /// When there are no such sizes or no answer comes.
    pub async fn consistency(&self, query: Query<'_>) -> Result<Value, Error> {
        self.get("v1/seals/consistency", query).await
    }

    /// The lines of an export, as they come; `wait` is how many seconds the seal of its last
    /// position is waited for.
    ///
    /// # Errors
    /// When there is no such range, it is not sealed in time, or no answer comes; as an item,
    /// when the connection breaks.
    pub async fn export(
        &self,
        query: Query<'_>,
        wait: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let request = self.request(Method::GET, "v1/export", query)?;
        let url = self.base().to_owned();
        let failed = move |source| Error::Unreachable { url: url.clone(), source };
        let response = request
            .header("prefer", format!("wait={wait}"))
            .send()
            .await
            .map_err(failed.clone())?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let (url, excerpt) = (self.base().to_owned(), String::new());
            return Err(match answer(url.clone(), response).await {
                Err(refused) => refused,
                Ok(_) => Error::Unexpected { url, status, excerpt },
            });
        }
        Ok(response.bytes_stream().map_err(failed))
    }

    /// Imports the lines of an export into the server's instance.
    ///
    /// # Errors
    /// When it is not empty, the export does not hold, or no answer comes.
    pub async fn import(
        &self,
        lines: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Value, Error> {
        let request = self.request(Method::POST, "v1/import", &[])?;
        let url = self.base().to_owned();
        let request =
            request.header("content-type", "application/x-ndjson").body(Body::wrap_stream(lines));
        let failed = |source| Error::Unreachable { url: url.clone(), source };
        answer(url.clone(), request.send().await.map_err(failed)?).await
    }
}
