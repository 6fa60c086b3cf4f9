//! `taffrail verify`

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt;
use indicatif::ProgressBar;
use replay::seal::check::Lines;
use replay::seal::key::read_public;
use replay::seal::{Checker, Fault, Report, Seal, SealFile};
use serde_json::json;

use super::App;
use super::fail::Failure;
use super::progress;
use crate::seals::NatsSeals;

/// What a file compressed with zstd begins with (RFC 8878, section 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes of one read.
const BLOCK: usize = 1 << 20;
/// The longest wait of the server for the seal of a position, in seconds.
const WAIT: u64 = 30;

/// `taffrail verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The export, as `taffrail export` wrote it; compressed or not
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    file: Option<PathBuf>,
    /// The database behind the running server, against the seals published outside it: the
    /// file in the data folder and the NATS stream
    #[arg(long)]
    live: bool,
    /// The public key that must have signed, as `taffrail seal key` prints it; several in one
    /// file are taken, too
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Seals published outside that the log must fit [with --live: those of the data folder]
    #[arg(long, value_name = "FILE")]
    seals: Option<PathBuf>,
    /// Sealed events that are gone with a restore are no fault
    #[arg(long)]
    restored: bool,
}

/// Does it; ends with 0 only where all holds.
pub async fn run(app: &App, args: VerifyArgs) -> Result<(), Failure> {
    let keys = match &args.key {
        Some(path) => read_public(path).map_err(|error| Failure::Usage(error.to_string()))?,
        None => Vec::new(),
    };
    let checked = match &args.file {
        Some(file) => {
            let outside = match &args.seals {
                Some(path) => sealed_in(path)?,
                None => Vec::new(),
            };
            offline(app, file, keys, outside).await?
        }
        None => live(app, &args, keys).await?,
    };
    tell(app, &args, checked)
}

/// What came of it; a fault is an answer, not a failure.
type Checked = Result<Report, Fault>;

/// Checks a file.
pub(super) async fn offline(
    app: &App,
    file: &Path,
    keys: Vec<[u8; 32]>,
    outside: Vec<Seal>,
) -> Result<Checked, Failure> {
    let bar = progress::bar(&app.out, 0);
    let path = file.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let checked = check_file(&path, &keys, &outside, &bar);
        bar.finish_and_clear();
        checked
    });
    work.await.map_err(|error| Failure::BadEnd(format!("the check broke off: {error}")))?
}

fn check_file(
    path: &Path,
    keys: &[[u8; 32]],
    outside: &[Seal],
    bar: &ProgressBar,
) -> Result<Checked, Failure> {
    let checker = match Checker::new(keys, outside) {
        Ok(checker) => checker,
        Err(fault) => return Ok(Err(fault)),
    };
    let mut input = open(path)?;
    let (mut lines, mut block) = (Lines::new(checker), vec![0; BLOCK]);
    loop {
        let read = match input.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            // A compressed file that was cut or changed: what came before was checked.
            Err(error) => {
                let next = lines.checker().position() + 1;
                let what = format!("the file cannot be read any further: {error}");
                return Ok(Err(Fault { position: next, to: None, line: None, what }));
            }
        };
        if let Err(fault) = lines.feed(&block[..read]) {
            return Ok(Err(fault));
        }
        show(bar, lines.checker());
    }
    Ok(lines.finish(false))
}

fn show(bar: &ProgressBar, checker: &Checker) {
    if let Some(header) = checker.header() {
        bar.set_length(header.to + 1 - header.from);
        bar.set_position((checker.position() + 1).saturating_sub(header.from));
    }
}

/// A file to read, decompressed where it is compressed.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    let failed = |source| Failure::Io { what: format!("{}", path.display()), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = [0; 4];
    let mut begin = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut begin).map_err(failed)?;
    magic[..begin.len()].copy_from_slice(&begin);
    let whole = std::io::Cursor::new(begin).chain(file);
    if magic == ZSTD {
        return Ok(Box::new(zstd::stream::read::Decoder::new(whole).map_err(failed)?));
    }
    Ok(Box::new(whole))
}

fn sealed_in(path: &Path) -> Result<Vec<Seal>, Failure> {
    let file = if path.is_dir() { SealFile::of(path) } else { SealFile::at(path) };
    file.read().map_err(|error| Failure::Usage(error.to_string()))
}

/// Checks the database: the server reads it, the judgement is made here.
async fn live(app: &App, args: &VerifyArgs, mut keys: Vec<[u8; 32]>) -> Result<Checked, Failure> {
    let folder = app.data_dir();
    let file = match &args.seals {
        Some(path) => sealed_in(path)?,
        None => sealed_in(&folder)?,
    };
    if keys.is_empty()
        && let Ok(own) = read_public(&super::seal::key_path(&folder))
    {
        // The folder's key may have followed others: those that led to it are trusted with it.
        keys = chained_to(&own, &file);
    }
    let stream = match super::discover::nats(&app.globals) {
        Ok(server) => {
            let nats =
                broker::connect(&server.url, server.token.as_deref(), "taffrail-verify").await;
            let nats = nats.map_err(|error| Failure::BadEnd(error.to_string()))?;
            let all = NatsSeals::new(nats).all().await;
            all.map_err(|error| Failure::BadEnd(error.to_string()))?
        }
        // Nobody said where it is, and the file may be enough.
        Err(_) if !file.is_empty() => Vec::new(),
        Err(error) => return Err(error),
    };
    let outside = match joined(file, stream, &keys) {
        Ok(outside) => outside,
        Err(fault) => return Ok(Err(fault)),
    };
    if outside.is_empty() {
        app.out.hint("no seals were found outside the database: it is compared with its own alone");
    }
    let checker = match Checker::new(&keys, &outside) {
        Ok(checker) => checker,
        Err(fault) => return Ok(Err(fault)),
    };
    let mut lines = Lines::new(checker);
    let query = [("sealed", "false".to_owned())];
    let mut pieces = app.client()?.export(&query, WAIT).await?;
    let bar = progress::bar(&app.out, 0);
    while let Some(piece) = pieces.next().await {
        if let Err(fault) = lines.feed(&piece?) {
            bar.finish_and_clear();
            return Ok(Err(fault));
        }
        show(&bar, lines.checker());
    }
    bar.finish_and_clear();
    Ok(lines.finish(true))
}

/// The keys that led to the present one: by rotation, or by a chain that a trusted key says it
/// went on from.
fn chained_to(own: &[[u8; 32]], seals: &[Seal]) -> Vec<[u8; 32]> {
    let mut keys = own.to_vec();
    let mut vouched: Option<(u64, [u8; 32])> = None;
    for seal in seals.iter().rev().filter(|seal| seal.is_signed()) {
        let named = seal.next.is_some_and(|next| keys.contains(&next.key))
            || vouched == Some((seal.number, seal.hash()));
        if named && !keys.contains(&seal.key) {
            keys.push(seal.key);
        }
        if let Some(left) = seal.left.filter(|_| keys.contains(&seal.key)) {
            vouched = Some((left.number, left.hash));
        }
    }
    keys
}

/// The seals of both places; the same number must be the same seal. Of the stream, what other
/// keys signed is left out: whoever may publish there could have put it.
fn joined(file: Vec<Seal>, stream: Vec<Seal>, keys: &[[u8; 32]]) -> Result<Vec<Seal>, Fault> {
    let mut all = file;
    for seal in stream {
        let trusted = keys.is_empty()
            || keys.contains(&seal.key)
            || seal.next.is_some_and(|next| keys.contains(&next.key))
            || all.iter().any(|known| known.key == seal.key);
        match all.binary_search_by_key(&seal.number, |known| known.number) {
            Ok(at) if all[at].hash() != seal.hash() && trusted => {
                let what = format!(
                    "the file and the stream have different seals with number {}",
                    seal.number
                );
                let position = seal.size.min(all[at].size).max(1);
                return Err(Fault { position, to: None, line: None, what });
            }
            Ok(_) => {}
            Err(at) if trusted => all.insert(at, seal),
            Err(_) => {}
        }
    }
    Ok(all)
}

/// Prints the report or the fault, and decides how it ends.
fn tell(app: &App, args: &VerifyArgs, checked: Checked) -> Result<(), Failure> {
    let report = match checked {
        Ok(report) => report,
        Err(fault) => {
            app.out.show(&json!({ "holds": false, "fault": fault }), |_| String::new())?;
            let line = fault.line.map(|line| format!("line {line}, ")).unwrap_or_default();
            return Err(Failure::BadEnd(format!("does not hold: {line}{fault}")));
        }
    };
    let lost: u64 = report.breaks.iter().map(replay::seal::Break::lost).sum();
    let lost = if args.restored { 0 } else { lost };
    // An export waits for its seal, so a file whose end has none is not what was exported.
    let open = report.not_yet_sealed.filter(|_| !args.live);
    let holds = lost == 0 && open.is_none();
    app.out.show(&json!({ "holds": holds, "report": report }), |out| {
        let mut rows = vec![
            ("positions", format!("{} to {}", report.from, report.to).into()),
            ("events", report.events.to_string().into()),
            ("seals", format!("{} ({} published outside)", report.seals, report.outside).into()),
            ("sealed up to", report.sealed.to_string().into()),
        ];
        if let Some((from, to)) = report.not_yet_sealed {
            rows.push(("not yet sealed", format!("{from} to {to}").into()));
        }
        rows.extend(report.keys.iter().map(|key| ("signed by", key.as_str().into())));
        for one in &report.breaks {
            let key = if one.other_key { ", with another key" } else { "" };
            let text = format!(
                "epoch {} from seal {}: {} sealed events left behind{key}",
                one.epoch,
                one.seal,
                one.lost()
            );
            rows.push(("new chain", text.into()));
        }
        out.fields(&rows)
    })?;
    if args.key.is_none() && !args.live {
        app.out.hint("any key was taken: --key names the one that must have signed");
    }
    if let Some((from, to)) = open {
        return Err(Failure::BadEnd(format!("positions {from} to {to} have no seal")));
    }
    if lost > 0 {
        return Err(Failure::BadEnd(format!(
            "{lost} sealed events are gone with a restore; --restored accepts that"
        )));
    }
    Ok(())
}
