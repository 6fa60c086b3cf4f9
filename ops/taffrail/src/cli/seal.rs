//! `taffrail seal`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use replay::seal::key::{self, KEY_FILE, fresh, load, next_path, public_pem, write_new};
use replay::seal::record::{Seal, unhex};
use replay::seal::tree::{Hash, consistent, included};
use serde_json::{Value, json};

use super::App;
use super::fail::Failure;
use super::human::text;
use super::table::Cell;
use super::task::Page;

/// How long a running sealer may take for a change of keys: it looks every second.
const ROTATES: Duration = Duration::from_secs(10);

/// What can be asked about seals.
#[derive(Debug, Subcommand)]
pub enum SealVerb {
    /// List them, the newest first
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Prove that an event stands at its position in the sealed log
    Proof {
        /// The event's position
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        position: u64,
    },
    /// Prove that the log as it was at one position is the beginning of a later one
    Consistency {
        /// The earlier position
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
        /// The later one [default: the last that is sealed]
        to: Option<u64>,
    },
    /// Print the public key of the data folder's sealer
    Key,
    /// Have a new key sign from now on; the old one signs for it
    Rotate,
}

/// The file of the signing key that belongs to a data folder.
pub(super) fn key_path(folder: &Path) -> PathBuf {
    let named = std::env::var_os("TAFFRAIL_SEAL_KEY_FILE").filter(|name| !name.is_empty());
    named.map_or_else(|| folder.join(KEY_FILE), PathBuf::from)
}

/// Does it.
pub async fn run(app: &App, verb: SealVerb) -> Result<(), Failure> {
    match verb {
        SealVerb::List { page } => {
            let answer = app.client()?.seals(&page.with(Vec::new())).await?;
            let headers = ["SEAL", "KIND", "EPOCH", "POSITIONS", "TIME", "ROOT"];
            app.out.list(&answer, &headers, row)
        }
        SealVerb::Proof { position } => proof(app, position).await,
        SealVerb::Consistency { from, to } => consistency(app, from, to).await,
        SealVerb::Key => {
            let path = key_path(&app.data_dir());
            let keys = key::read_public(&path).map_err(|error| {
                Failure::Usage(format!("{error}; --data-dir names the sealer's data folder"))
            })?;
            let key = keys.first().copied().unwrap_or_default();
            let pem = public_pem(&key);
            app.out.show(&json!({ "key": hex::encode(key), "pem": pem }), |_| pem.clone())
        }
        SealVerb::Rotate => rotate(app).await,
    }
}

fn row(seal: &Value) -> Vec<Cell> {
    vec![
        text(seal, "number").into(),
        text(seal, "kind").into(),
        text(seal, "epoch").into(),
        format!("1 to {}", seal["size"]).into(),
        text(seal, "time").into(),
        text(seal, "root").into(),
    ]
}

fn hashes(value: &Value) -> Option<Vec<Hash>> {
    value.as_array()?.iter().map(|hash| unhex(hash.as_str()?)).collect()
}

fn bad(what: &str) -> Failure {
    Failure::BadEnd(format!("the server's proof does not hold: {what}"))
}

/// The proof, checked here before it is shown.
async fn proof(app: &App, position: u64) -> Result<(), Failure> {
    let proof = app.client()?.prove_event(position).await?;
    let seal: Seal = serde_json::from_value(proof["seal"].clone())
        .map_err(|error| bad(&format!("its seal cannot be read: {error}")))?;
    let leaf = proof["leaf"].as_str().and_then(unhex::<32>);
    let (Some(leaf), Some(path)) = (leaf, hashes(&proof["path"])) else {
        return Err(bad("its hashes cannot be read"));
    };
    let event = &proof["event"];
    let said = || {
        let hash: Hash = unhex(event["hash"].as_str()?)?;
        let sequence: u64 = event["sequence"].as_str()?.parse().ok()?;
        let recorded = event["recordedtime"].as_str()?;
        let recorded = chrono::DateTime::parse_from_rfc3339(recorded).ok()?.to_utc();
        Some((
            replay::seal::leaf::leaf(&hash, event["epoch"].as_u64()?, sequence, recorded),
            sequence,
        ))
    };
    if said() != Some((leaf, position)) {
        return Err(bad("its leaf is not the event's"));
    }
    if !seal.is_signed() || included(position - 1, seal.size, leaf, &path) != Some(seal.root) {
        return Err(bad("it does not lead to a signed root"));
    }
    app.out.show(&proof, |out| {
        out.fields(&[
            ("position", position.to_string().into()),
            ("event", text(event, "type").into()),
            ("hash", text(event, "hash").into()),
            ("seal", format!("{} over {} positions", seal.number, seal.size).into()),
            ("root", hex::encode(seal.root).into()),
            ("signed by", hex::encode(seal.key).into()),
            ("path", format!("{} hashes, which lead to the root", path.len()).into()),
        ])
    })
}

async fn consistency(app: &App, from: u64, to: Option<u64>) -> Result<(), Failure> {
    let mut query = vec![("from", from.to_string())];
    query.extend(to.map(|to| ("to", to.to_string())));
    let proof = app.client()?.consistency(&query).await?;
    let tree = |name: &str| {
        let tree = &proof[name];
        Some((tree["size"].as_u64()?, unhex::<32>(tree["root"].as_str()?)?))
    };
    let (Some((from, old)), Some((to, new)), Some(path)) =
        (tree("from"), tree("to"), hashes(&proof["path"]))
    else {
        return Err(bad("its hashes cannot be read"));
    };
    if !consistent(from, &old, to, &new, &path) {
        return Err(bad("the earlier log is not the beginning of the later one"));
    }
    app.out.show(&proof, |out| {
        let seal = |name: &str| match proof[name]["seal"]["number"].as_u64() {
            Some(number) => format!(", sealed as {number}"),
            None => String::new(),
        };
        out.fields(&[
            (
                "earlier",
                format!("{from} positions, root {}{}", hex::encode(old), seal("from")).into(),
            ),
            ("later", format!("{to} positions, root {}{}", hex::encode(new), seal("to")).into()),
            ("path", format!("{} hashes, which join them", path.len()).into()),
        ])
    })
}

/// Lays the next key ready, and waits for the sealer to take it.
async fn rotate(app: &App) -> Result<(), Failure> {
    let path = key_path(&app.data_dir());
    let usage = |error: key::KeyError| {
        Failure::Usage(format!("{error}; --data-dir names the sealer's data folder"))
    };
    let old = load(&path).map_err(usage)?.verifying_key().to_bytes();
    let next = next_path(&path);
    if !next.exists() {
        write_new(&next, &fresh()).map_err(usage)?;
    }
    let new = load(&next).map_err(usage)?.verifying_key().to_bytes();
    let start = Instant::now();
    let done = loop {
        if load(&path).is_ok_and(|key| key.verifying_key().to_bytes() == new) {
            break true;
        }
        if start.elapsed() > ROTATES {
            break false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (old, pem) = (hex::encode(old), public_pem(&new));
    let answer = json!({ "rotated": done, "old": old, "key": hex::encode(new), "pem": pem });
    app.out.show(&answer, |_| pem.clone())?;
    if !done {
        app.out.hint("no sealer runs on this data folder: the key changes when one does");
    }
    Ok(())
}
