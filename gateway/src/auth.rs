//! Who asks: bearer tokens, known by their digests alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use commands::Boxed;
use deadpool_postgres::Pool;
use domain::{Code, TenantId};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use store::StoreError;

use crate::app::App;
use crate::error::ApiError;
use crate::layer::Asked;
use crate::router::BASES;

/// How old the known tokens may get: a token that was taken away works no longer.
pub const REFRESH: Duration = Duration::from_secs(5);
/// An unknown token asks the database again, but not more often than this.
const MISS_REFRESH: Duration = Duration::from_millis(500);
/// Longest token that is looked at.
const MAX_TOKEN: usize = 512;

/// SHA-256 of a token: the token itself is stored nowhere.
pub type TokenDigest = [u8; 32];

/// Who asks, and on whose behalf.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose data it sees and changes.
    pub tenant: TenantId,
    /// Its name, the actor of its commands.
    pub principal: Arc<str>,
    /// What it may do; `admin` stands for an operator.
    pub role: Arc<str>,
    /// Its token, to notice on long streams that it was taken away.
    pub digest: TokenDigest,
}

impl Caller {
    /// How the audit names the token: enough of its digest to tell it from every other one,
    /// nothing that could be shown in its place.
    pub fn credential(&self) -> Arc<str> {
        let start = u64::from_be_bytes(self.digest.first_chunk().copied().unwrap_or_default());
        format!("token:{start:016x}").into()
    }

    /// Whether it may act for other tenants.
    pub fn is_operator(&self) -> bool {
        &*self.role == "admin"
    }

    #[cfg(test)]
    pub(crate) fn for_tests(tenant: &str, principal: &str) -> Self {
        let tenant = TenantId::parse(tenant).expect("a slug");
        Self { tenant, principal: principal.into(), role: "admin".into(), digest: [0; 32] }
    }
}

/// A row of `api_tokens`.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// SHA-256 of the token.
    pub digest: TokenDigest,
    /// Whose it is.
    pub tenant: TenantId,
    /// Who holds it.
    pub principal: String,
    /// What it may do.
    pub role: String,
}

/// Where the tokens are kept.
pub trait TokenSource: Send + Sync + 'static {
    /// All tokens that are valid now.
    fn load(&self) -> Boxed<Result<Vec<TokenRow>, StoreError>>;
}

/// The table `api_tokens`.
pub struct PgTokens(pub Pool);

impl TokenSource for PgTokens {
    fn load(&self) -> Boxed<Result<Vec<TokenRow>, StoreError>> {
        let pool = self.0.clone();
        Box::pin(async move {
            let client = pool.get().await?;
            let sql = "SELECT digest, tenant, principal, role FROM api_tokens";
            let rows = client.query(&client.prepare_cached(sql).await?, &[]).await?;
            // A row that another release wrote in a shape of its own lets nobody in.
            Ok(rows
                .iter()
                .filter_map(|row| {
                    Some(TokenRow {
                        digest: row.get::<_, &[u8]>(0).try_into().ok()?,
                        tenant: TenantId::parse(row.get(1))?,
                        principal: row.get(2),
                        role: row.get(3),
                    })
                })
                .collect())
        })
    }
}

/// The tokens known to this process.
pub struct Tokens {
    source: Arc<dyn TokenSource>,
    known: RwLock<HashMap<TokenDigest, Caller>>,
    loading: tokio::sync::Mutex<Option<Instant>>,
}

impl Tokens {
    /// Knows nothing until the first question or [`Tokens::refresh`].
    pub fn new(source: impl TokenSource) -> Self {
        let (known, loading) = Default::default();
        Self { source: Arc::new(source), known, loading }
    }

    /// The digest by which a token is kept.
    pub fn digest(token: &str) -> TokenDigest {
        Sha256::digest(token.as_bytes()).into()
    }

    /// Reads the tokens anew.
    ///
    /// # Errors
    /// When the source cannot be reached; what was known stays known.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let rows = self.source.load().await?;
        let known = rows.into_iter().map(|row| {
            let caller = Caller {
                tenant: row.tenant,
                principal: row.principal.into(),
                role: row.role.into(),
                digest: row.digest,
            };
            (row.digest, caller)
        });
        *self.known.write() = known.collect();
        Ok(())
    }

    /// Whether a token was valid at the last look.
    pub fn holds(&self, digest: &TokenDigest) -> bool {
        self.known.read().contains_key(digest)
    }

    /// Whose token it is. The look-up compares digests, so its time tells nothing about
    /// the token; one that is new is found by asking the source again.
    async fn caller(&self, token: &str) -> Result<Option<Caller>, StoreError> {
        let digest = Self::digest(token);
        if let Some(caller) = self.known.read().get(&digest) {
            return Ok(Some(caller.clone()));
        }
        let mut loaded = self.loading.lock().await;
        if loaded.is_none_or(|at| at.elapsed() >= MISS_REFRESH) {
            self.refresh().await?;
            *loaded = Some(Instant::now());
        }
        Ok(self.known.read().get(&digest).cloned())
    }
}

/// Whether a route is for callers with a token alone.
pub fn is_closed(route: &str) -> bool {
    BASES.iter().any(|base| {
        route.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Lets nobody in without a valid token.
///
/// # Errors
/// The refusal; also when the tokens could not be read.
pub async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let caller = app.doors.tokens.caller(bearer(headers)?).await?;
    let caller =
        caller.ok_or_else(|| ApiError::new(Code::Unauthorized, "the token is not valid"))?;
    for_tenant(caller, headers)
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let refused = |detail: &str| Err(ApiError::new(Code::Unauthorized, detail));
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return refused("one header `Authorization: Bearer <token>` is required");
    };
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    match parts {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && token.len() <= MAX_TOKEN =>
        {
            Ok(token.trim())
        }
        _ => refused("the header must read `Authorization: Bearer <token>`"),
    }
}

/// `Taffrail-Tenant` lets an operator act for another tenant.
fn for_tenant(caller: Caller, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let Some(named) = headers.get("taffrail-tenant") else { return Ok(caller) };
    if !caller.is_operator() {
        return Err(ApiError::new(Code::Forbidden, "`Taffrail-Tenant` is for operators"));
    }
    let named = named.to_str().ok().and_then(TenantId::parse);
    // `default` is the only tenant for now.
    match named.filter(|tenant| *tenant == TenantId::default_tenant()) {
        Some(tenant) => Ok(Caller { tenant, ..caller }),
        None => Err(ApiError::not_found("tenant")),
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let about = parts.extensions.get::<Asked>();
        let caller = about.and_then(|asked| asked.0.caller().cloned());
        caller.ok_or_else(|| ApiError::internal("a route that asks for its caller lets all in"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(TokenRow);

    impl TokenSource for One {
        fn load(&self) -> Boxed<Result<Vec<TokenRow>, StoreError>> {
            let row = self.0.clone();
            Box::pin(async move { Ok(vec![row]) })
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("header"));
        }
        headers
    }

    #[tokio::test]
    async fn a_token_is_found_by_its_digest() {
        let tokens = Tokens::new(One(TokenRow {
            digest: Tokens::digest("secret"),
            tenant: TenantId::default_tenant(),
            principal: "me".into(),
            role: "admin".into(),
        }));
        let caller = tokens.caller("secret").await.expect("reachable").expect("known");
        assert_eq!(&*caller.principal, "me");
        assert!(tokens.caller("Secret").await.expect("reachable").is_none());
        assert!(tokens.holds(&caller.digest));
    }

    #[test]
    fn only_one_bearer_header_is_taken() {
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc")])).expect("valid"), "abc");
        for bad in [
            headers(&[]),
            headers(&[("authorization", "Basic abc")]),
            headers(&[("authorization", "abc")]),
            headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]),
        ] {
            assert!(bearer(&bad).is_err());
        }
    }

    #[test]
    fn only_operators_name_a_tenant_and_only_one_that_exists() {
        let named = |tenant: &str| headers(&[("taffrail-tenant", tenant)]);
        let operator = Caller::for_tests("default", "root");
        let plain = Caller { role: "member".into(), ..operator.clone() };
        assert!(for_tenant(operator.clone(), &named("default")).is_ok());
        let status =
            |answer: Result<Caller, ApiError>| answer.expect_err("refused").problem().status;
        assert_eq!(status(for_tenant(operator, &named("acme"))), 404);
        assert_eq!(status(for_tenant(plain, &named("default"))), 403);
    }
}
