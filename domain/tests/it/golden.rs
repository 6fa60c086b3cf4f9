//! The corpus: at least three real encodings of every event version that was ever
//! stored (reliability D46). Files stay for good; `TAFFRAIL_BLESS=1 cargo test -p
//! domain golden` adds what is missing and never changes what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use domain::{Aggregate, Event, StreamType, event_types};
use sha2::{Digest, Sha256};

use crate::golden_samples::samples;

const LEAST: usize = 3;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/events")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `<folder>/<file>` and content of every sample.
fn files(root: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            let name =
                [folder.file_name(), file.file_name()].map(|n| n.to_string_lossy().into_owned());
            found.insert(name.join("/"), fs::read(file.path())?);
        }
    }
    Ok(found)
}

/// The index: what was ever added, with its hash.
fn index(root: &Path) -> io::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(root.join("INDEX"))?;
    let lines = text.lines().filter_map(|line| line.split_once("  "));
    Ok(lines.map(|(hash, name)| (name.to_owned(), hash.to_owned())).collect())
}

fn folder(kind: StreamType, event: &str, version: u16) -> String {
    format!("{kind}.{event}.v{version}")
}

/// `task.submitted.v1` in its parts.
fn parts(folder: &str) -> Option<(StreamType, &str, u16)> {
    let (kind, rest) = folder.split_once('.')?;
    let (event, version) = rest.rsplit_once(".v")?;
    Some((kind.parse().ok()?, event, version.parse().ok()?))
}

/// All that is wrong with a corpus.
fn faults(root: &Path) -> io::Result<Vec<String>> {
    let (files, index) = (files(root)?, index(root)?);
    let mut faults = Vec::new();
    for (name, hash) in &index {
        match files.get(name) {
            None => faults.push(format!("{name} has vanished")),
            Some(bytes) if sha256(bytes) != *hash => faults.push(format!("{name} has changed")),
            Some(_) => {}
        }
    }
    let mut states: BTreeMap<StreamType, Aggregate> = BTreeMap::new();
    for (name, bytes) in &files {
        // The newest shape of an old event moves on with every raised version.
        if !index.contains_key(name) && !name.ends_with(".newest") {
            faults.push(format!("{name} is not in the index"));
        }
        let (folder, file) = name.split_once('/').unwrap_or((name, ""));
        let Some((kind, event, version)) = parts(folder) else {
            faults.push(format!("{name} stands for no event"));
            continue;
        };
        if file.ends_with(".newest") {
            continue;
        }
        match Event::decode(kind, event, version, bytes) {
            Err(error) => faults.push(format!("{name}: {error}")),
            Ok(event) => {
                let newest = event.payload();
                let expected = match event.schema_version() == version {
                    true => Some(bytes),
                    false => files.get(&format!("{name}.newest")),
                };
                if expected.is_none_or(|expected| *expected != newest) {
                    faults.push(format!("{name} is not written as it was"));
                }
                states.entry(kind).or_insert_with(|| Aggregate::new(kind)).apply(&event);
            }
        }
    }
    for known in event_types() {
        for version in 1..=known.version {
            let folder = folder(known.stream_type, known.name, version);
            let found = files.keys().filter(|name| {
                name.split_once('/').is_some_and(|(f, file)| f == folder && file.ends_with(".json"))
            });
            if found.count() < LEAST {
                faults.push(format!("{folder} has fewer than {LEAST} files"));
            }
        }
    }
    Ok(faults)
}

/// Adds what is missing: samples of current versions, the newest shape of old ones,
/// and index lines.
fn bless(root: &Path) -> io::Result<()> {
    let mut distinct: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for event in samples() {
        let folder = folder(event.stream_type(), event.name(), event.schema_version());
        let payloads = distinct.entry(folder).or_default();
        if !payloads.contains(&event.payload()) {
            payloads.push(event.payload());
        }
    }
    let add = |name: &str, bytes: &[u8]| match root.join(name) {
        path if path.exists() => Ok(()),
        path => fs::write(path, bytes),
    };
    for (folder, payloads) in &distinct {
        fs::create_dir_all(root.join(folder))?;
        let path = |n: usize| root.join(format!("{folder}/{n}.json"));
        for payload in payloads {
            // What an older release wrote stays; what this one writes otherwise comes beside it.
            let known = (1..).map(path).take_while(|path| path.exists());
            if known.map(fs::read).any(|bytes| bytes.is_ok_and(|bytes| bytes == *payload)) {
                continue;
            }
            let free = (1..).map(path).find(|path| !path.exists());
            fs::write(free.expect("a number that is free"), payload)?;
        }
    }
    for (name, bytes) in files(root)? {
        let Some((kind, event, version)) = name.split_once('/').and_then(|(f, _)| parts(f)) else {
            continue;
        };
        if let Ok(event) = Event::decode(kind, event, version, &bytes)
            && event.schema_version() != version
            && !name.ends_with(".newest")
        {
            add(&format!("{name}.newest"), &event.payload())?;
        }
    }
    let mut known = index(root).unwrap_or_default();
    for (name, bytes) in files(root)?.into_iter().filter(|(name, _)| !name.ends_with(".newest")) {
        known.entry(name).or_insert_with(|| sha256(&bytes));
    }
    let lines: String = known.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
    fs::write(root.join("INDEX"), lines)
}

#[test]
fn golden_events_of_every_version_are_read_and_written_as_ever() {
    let root = corpus();
    if std::env::var_os("TAFFRAIL_BLESS").is_some() {
        fs::create_dir_all(&root).expect("a folder for the corpus");
        bless(&root).expect("missing samples added");
    }
    let faults = faults(&root).expect("the corpus");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn golden_samples_reach_every_event() {
    let reached: BTreeSet<_> =
        samples().iter().map(|event| (event.stream_type(), event.name())).collect();
    for known in event_types() {
        assert!(reached.contains(&(known.stream_type, known.name)), "{}", known.name);
    }
}

/// A copy of the corpus to do harm to.
fn copy(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{name}"));
    let _ = fs::remove_dir_all(&root);
    for (name, bytes) in files(&corpus()).expect("the corpus") {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a copy");
    }
    fs::copy(corpus().join("INDEX"), root.join("INDEX")).expect("a copy");
    root
}

#[test]
fn golden_files_that_vanish_change_or_stand_for_nothing_are_noticed() {
    type Harm = (&'static str, fn(&Path), &'static str);
    let harm: [Harm; 6] = [
        (
            "gone",
            |root| fs::remove_file(root.join("task.submitted.v1/1.json")).unwrap(),
            "vanished",
        ),
        (
            "changed",
            |root| fs::write(root.join("task.submitted.v1/1.json"), "{}").unwrap(),
            "changed",
        ),
        (
            "unlisted",
            |root| fs::write(root.join("crew.disbanded.v1/99.json"), "{}").unwrap(),
            "not in the index",
        ),
        (
            "unknown",
            |root| {
                fs::create_dir(root.join("task.forgotten.v1")).unwrap();
                fs::write(root.join("task.forgotten.v1/1.json"), "{}").unwrap();
            },
            "not known to this release",
        ),
        ("folder", |root| fs::remove_dir_all(root.join("agent.ready.v1")).unwrap(), "fewer than 3"),
        (
            "future",
            |root| {
                fs::create_dir(root.join("task.submitted.v2")).unwrap();
                fs::copy(
                    root.join("task.submitted.v1/1.json"),
                    root.join("task.submitted.v2/1.json"),
                )
                .unwrap();
            },
            "not known to this release",
        ),
    ];
    for (name, harm, fault) in harm {
        let root = copy(name);
        harm(&root);
        let faults = faults(&root).expect("the copy");
        assert!(faults.iter().any(|f| f.contains(fault)), "{name}: {faults:?}");
        fs::remove_dir_all(root).expect("removed");
    }
}

#[test]
fn golden_files_are_never_overwritten_by_a_blessing() {
    let root = copy("bless");
    let file = root.join("task.submitted.v1/1.json");
    fs::write(&file, "{}").expect("harmed");
    fs::remove_file(root.join("task.submitted.v1/2.json")).expect("removed");
    bless(&root).expect("blessed");
    assert_eq!(fs::read(&file).expect("still there"), b"{}");
    let faults = faults(&root).expect("the copy");
    assert!(faults.iter().any(|f| f.contains("1.json has changed")), "{faults:?}");
    fs::remove_dir_all(root).expect("removed");
}
