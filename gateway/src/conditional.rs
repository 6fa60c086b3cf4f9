//! `ETag` and `If-Match`: the stream's version guards a change.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::error::ApiError;

/// Most entity tags in one header.
const MAX_TAGS: usize = 16;

/// What a change demands of the present version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// Nothing was said.
    Unsaid,
    /// It must exist (`*`), which every change demands anyway.
    Any,
    /// It must be this one.
    Version(u64),
    /// Well-formed, but no version of ours can match: weak tags, texts, several versions.
    Never,
}

/// Reads `If-Match` (RFC 9110, 13.1.1).
///
/// # Errors
/// When it is no list of entity tags, too long, or lists several versions of ours.
pub fn if_match(headers: &HeaderMap) -> Result<IfMatch, ApiError> {
    let bad = |message: &str| Err(ApiError::parameter("/header/if-match", message));
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let Ok(text) = value.to_str() else { return bad("`If-Match` must be ASCII") };
        tags.extend(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()));
    }
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(IfMatch::Unsaid);
    }
    if tags.is_empty() || tags.len() > MAX_TAGS {
        return bad("`If-Match` takes one entity tag, such as \"7\", or *");
    }
    if tags == ["*"] {
        return Ok(IfMatch::Any);
    }
    let mut versions = Vec::new();
    for tag in tags {
        let strong = tag.strip_prefix("W/").unwrap_or(tag);
        let Some(inner) = strong.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
            return bad("`If-Match` takes a quoted entity tag, such as \"7\", or *");
        };
        // Weak tags never match strongly; a text can't be a version.
        if strong.len() == tag.len() {
            versions.extend(inner.parse::<u64>().ok());
        }
    }
    versions.dedup();
    match versions[..] {
        [] => Ok(IfMatch::Never),
        [version] => Ok(IfMatch::Version(version)),
        // One command is decided against one version.
        _ => bad("`If-Match` may name one version"),
    }
}

/// The entity tag of a stream's version.
pub fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// Whether `If-None-Match` names the version, so that 304 says all there is to say.
pub fn unchanged(headers: &HeaderMap, version: u64) -> bool {
    let tag = format!("\"{version}\"");
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(
        |value| {
            let mut tags = value.split(',').map(str::trim);
            tags.any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == tag)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<IfMatch, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, value.parse().expect("header"));
        if_match(&headers)
    }

    #[test]
    fn versions_stars_and_foreign_tags() {
        assert_eq!(if_match(&HeaderMap::new()).expect("valid"), IfMatch::Unsaid);
        assert_eq!(read("\"7\"").expect("valid"), IfMatch::Version(7));
        assert_eq!(read("*").expect("valid"), IfMatch::Any);
        assert_eq!(read("W/\"7\"").expect("valid"), IfMatch::Never);
        assert_eq!(read("\"abc\"").expect("valid"), IfMatch::Never);
        assert_eq!(read("\"abc\", \"7\"").expect("valid"), IfMatch::Version(7));
    }

    #[test]
    fn nonsense_is_refused() {
        let many = vec!["\"1\""; 1_000].join(",");
        for bad in ["7", "", "\"7", "*, \"7\"", "\"1\", \"2\"", &many] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_known_version_is_unchanged() {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, "\"3\", W/\"4\"".parse().expect("header"));
        assert!(unchanged(&headers, 4) && !unchanged(&headers, 5));
    }
}
