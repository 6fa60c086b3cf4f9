//! `taffrail export` and `taffrail import`

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use futures::{StreamExt, stream};
use replay::seal::check::Lines;
use replay::seal::key::read_public;
use replay::seal::{Checker, Fault};
use serde_json::json;

use super::fail::Failure;
use super::{App, progress, verify};

/// How long the server may wait for the seal of the last position, in seconds.
const WAIT: u64 = 30;
/// Bytes of one piece that is sent.
const BLOCK: usize = 256 << 10;
/// zstd's own choice between speed and size.
const LEVEL: i32 = 3;

/// `taffrail export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to; a name that ends in .zst is compressed
    file: PathBuf,
    /// The first position [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// The last position [default: the end of the log]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// `taffrail import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The export, from position 1 on; compressed or not
    file: PathBuf,
    /// The public key that must have signed
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Writes the export; the file is there whole or not at all.
pub async fn export(app: &App, args: ExportArgs) -> Result<(), Failure> {
    if args.file.exists() && !args.force {
        let name = args.file.display();
        return Err(Failure::Usage(format!("{name} is there already; --force writes over it")));
    }
    let number = |name, value: Option<u64>| value.map(|value| (name, value.to_string()));
    let query: Vec<_> =
        [number("from", args.from), number("to", args.to)].into_iter().flatten().collect();
    let mut pieces = app.client()?.export(&query, WAIT).await?;
    let bar = progress::bar(&app.out, 0);
    let mut output = Output::create(&args.file)?;
    // Checked on its way: what is written holds.
    let broken = |fault: Fault| Failure::BadEnd(format!("the log does not hold: {fault}"));
    let mut lines = Lines::new(Checker::new(&[], &[]).map_err(broken)?);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        lines.feed(&piece).map_err(broken)?;
        output.write(&piece)?;
        if let Some(header) = lines.checker().header() {
            bar.set_length(header.to + 1 - header.from);
            bar.set_position((lines.checker().position() + 1).saturating_sub(header.from));
        }
    }
    let report = lines.finish(false).map_err(broken)?;
    let bytes = output.finish(&args.file)?;
    bar.finish_and_clear();
    let file = args.file.display().to_string();
    app.out.show(&json!({ "file": file, "bytes": bytes, "report": report }), |_| {
        format!(
            "{} events, positions {} to {}, sealed by {}\n{file}: {bytes} bytes\n",
            report.events,
            report.from,
            report.to,
            report.keys.join(", ")
        )
    })
}

/// A file in the making, beside its place.
struct Output {
    draft: PathBuf,
    writer: Option<Writer>,
}

enum Writer {
    Plain(BufWriter<File>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

impl Output {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let draft = PathBuf::from(name);
        let failed = |source| Failure::Io { what: format!("{}", draft.display()), source };
        let file = BufWriter::new(File::create(&draft).map_err(failed)?);
        let writer = if path.extension().is_some_and(|end| end == "zst") {
            let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL).map_err(failed)?;
            // So that a flipped byte is found by any reader.
            encoder.include_checksum(true).map_err(failed)?;
            Writer::Zstd(encoder)
        } else {
            Writer::Plain(file)
        };
        Ok(Self { draft, writer: Some(writer) })
    }

    fn failed(&self, source: std::io::Error) -> Failure {
        Failure::Io { what: format!("{}", self.draft.display()), source }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match &mut self.writer {
            Some(Writer::Plain(file)) => file.write_all(bytes),
            Some(Writer::Zstd(file)) => file.write_all(bytes),
            None => Ok(()),
        };
        written.map_err(|error| self.failed(error))
    }

    /// Puts it into its place, durable; its size.
    fn finish(mut self, path: &Path) -> Result<u64, Failure> {
        let done = (|| {
            let mut file = match self.writer.take() {
                Some(Writer::Plain(file)) => file,
                Some(Writer::Zstd(encoder)) => encoder.finish()?,
                None => return Ok(0),
            };
            file.flush()?;
            file.get_ref().sync_all()?;
            std::fs::rename(&self.draft, path)?;
            Ok(file.get_ref().metadata()?.len())
        })();
        done.map_err(|error| self.failed(error))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // In its place already, or of no use.
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// Checks the file, then hands it to the server, which checks it again.
pub async fn import(app: &App, args: ImportArgs) -> Result<(), Failure> {
    let keys = match &args.key {
        Some(path) => read_public(path).map_err(|error| Failure::Usage(error.to_string()))?,
        None => Vec::new(),
    };
    let checked = verify::offline(app, &args.file, keys, Vec::new()).await?;
    let report = checked.map_err(|fault| {
        let line = fault.line.map(|line| format!("line {line}, ")).unwrap_or_default();
        Failure::BadEnd(format!("{} does not hold: {line}{fault}", args.file.display()))
    })?;
    let client = app.client()?;
    let bar = progress::bar(&app.out, 0);
    bar.set_message(format!("importing {} events", report.events));
    let input = verify::open(&args.file)?;
    let pieces = stream::unfold(Some(input), async |input| {
        let mut input = input?;
        let read = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; BLOCK];
            let read = input.read(&mut block).map(|count| {
                block.truncate(count);
                Bytes::from(block)
            });
            (read, input)
        });
        match read.await {
            Ok((Ok(block), _)) if block.is_empty() => None,
            Ok((Ok(block), input)) => Some((Ok(block), Some(input))),
            Ok((Err(error), _)) => Some((Err(error), None)),
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    let imported = client.import(pieces).await?;
    bar.finish_and_clear();
    app.out.show(&imported, |_| {
        format!(
            "{} events imported, up to position {}; epoch {} begins\n",
            imported["events"], imported["position"], imported["epoch"]
        )
    })
}
