//! Capabilities with versions.
//!
//! An agent offers `python@3.11` or just `python`; a task needs `python`, or
//! `python@>=3.10, <4`: a range as Cargo writes it (semver's `VersionReq`; a bare number
//! means `^`). A version may leave its last parts out: `3.11` is `3.11.0`. Who offers no
//! version is passed over where one is asked for.

use semver::{Version, VersionReq};

use crate::values::Check;

/// Most comparators of a range (reliability 3.12).
const MAX_COMPARATORS: usize = 16;

/// What a task asks an agent to be able to do.
#[derive(Debug, Clone)]
pub struct Need {
    /// As it was written, which is what compares.
    text: Box<str>,
    /// The name with its `@`, and the range behind it.
    range: Option<(Box<str>, VersionReq)>,
}

impl PartialEq for Need {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Need {}

impl PartialOrd for Need {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Need {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for Need {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Need {
    /// Reads what a task asks for.
    ///
    /// # Errors
    /// When the range is malformed or too long; for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((name, range)) = text.split_once('@') else {
            return Ok(Self { text: text.into(), range: None });
        };
        let range = VersionReq::parse(range.trim())
            .map_err(|error| format!("`{range}` is no range of versions: {error}"))?;
        if range.comparators.len() > MAX_COMPARATORS {
            return Err(format!("at most {MAX_COMPARATORS} comparators"));
        }
        Ok(Self { text: text.into(), range: Some((format!("{name}@").into(), range)) })
    }

    /// Exactly this word.
    pub fn exactly(text: &str) -> Self {
        Self { text: text.into(), range: None }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether somebody has it who offers these, sorted.
    pub fn is_met_by(&self, offered: &[String]) -> bool {
        match &self.range {
            None => {
                offered.binary_search_by(|word| word.as_str().cmp(&self.text)).is_ok() || {
                    let name = format!("{}@", self.text);
                    versions(offered, &name).next().is_some()
                }
            }
            Some((name, range)) => versions(offered, name)
                .any(|version| read_version(version).is_ok_and(|version| range.matches(&version))),
        }
    }
}

/// The versions offered of a name that ends with its `@`.
fn versions<'a>(offered: &'a [String], name: &'a str) -> impl Iterator<Item = &'a str> {
    let from = offered.partition_point(|word| word.as_str() < name);
    offered[from..].iter().map_while(move |word| word.strip_prefix(name))
}

/// `3`, `3.11` or `3.11.4`, with or without more behind it.
fn read_version(text: &str) -> Result<Version, semver::Error> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let missing = 2usize.saturating_sub(numbers.matches('.').count());
    let (head, tail) = text.split_at(numbers.len());
    Version::parse(&format!("{head}{}{tail}", ".0".repeat(missing)))
}

/// Adds the faults of what agents offer to a check.
pub(crate) fn check_offered(mut check: Check, field: &str, words: &[String], most: usize) -> Check {
    check = check.words(field, words, most);
    for (nth, word) in words.iter().enumerate().take(most) {
        let fault = word.split_once('@').and_then(|(_, version)| read_version(version).err());
        if let Some(fault) = fault {
            let message = format!("behind `@` stands a version such as 3.11.4: {fault}");
            check = check.rule(false, &format!("{field}/{nth}"), "not_a_version", &message);
        }
    }
    check
}

/// Adds the faults of what tasks need to a check.
pub(crate) fn check_needed(mut check: Check, field: &str, words: &[String], most: usize) -> Check {
    check = check.words(field, words, most);
    for (nth, word) in words.iter().enumerate().take(most) {
        if let Err(fault) = Need::parse(word) {
            check = check.rule(false, &format!("{field}/{nth}"), "not_a_range", &fault);
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(need: &str, offered: &[&str]) -> bool {
        let mut offered: Vec<String> = offered.iter().map(|word| (*word).to_owned()).collect();
        offered.sort_unstable();
        Need::parse(need).unwrap().is_met_by(&offered)
    }

    #[test]
    fn a_name_is_met_by_every_version_and_a_range_only_by_those_in_it() {
        let all = ["python@3.11.4", "python@2.7", "pythonic", "rust"];
        assert!(met("python", &all) && met("rust", &all) && met("pythonic", &all));
        assert!(!met("pyth", &all) && !met("rust@1", &all), "no version is offered");
        assert!(met("python@>=3.10, <4", &all) && met("python@2", &all));
        assert!(!met("python@>=3.12", &all) && !met("python@3.12", &all));
        assert!(met("cuda@=12.4", &["cuda@12.4"]) && met("x@1", &["x@1"]));
    }

    #[test]
    fn malformed_versions_and_ranges_are_named() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let faults = check_needed(Check::default(), "c", &words(&["a@>=", "b@1", "c@x.y"]), 9);
        let faults = faults.done().unwrap_err();
        let at: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(at, ["/c/0", "/c/2"]);
        let faults = check_offered(Check::default(), "c", &words(&["a@1.2", "b@", "c@v1"]), 9);
        assert_eq!(faults.done().unwrap_err().len(), 2);
    }
}
