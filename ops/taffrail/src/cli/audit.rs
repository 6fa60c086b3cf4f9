//! `taffrail audit`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::App;
use super::fail::Failure;
use super::human::{clock, text};
use super::progress;
use super::table::Cell;
use super::task::Page;

/// `taffrail audit`
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Who asked
    #[arg(long)]
    actor: Option<String>,
    /// About this agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// About this task
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// About this crew
    #[arg(long, value_name = "ID")]
    crew: Option<String>,
    /// About this stream, whatever its kind
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Of this type, such as task.submitted
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// From this position or time on
    #[arg(long)]
    from: Option<String>,
    /// Up to this position or time
    #[arg(long)]
    to: Option<String>,
    /// Caused by the event at this position
    #[arg(long, value_name = "POSITION")]
    cause: Option<String>,
    /// Of this correlation
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Came with this credential, such as token:0123456789abcdef
    #[arg(long)]
    credential: Option<String>,
    /// Came with this request (its trace id)
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Came of this command
    #[arg(long, value_name = "ID")]
    command: Option<String>,
    /// Only what happened (event) or only what was refused
    #[arg(long, value_name = "event|refused")]
    outcome: Option<String>,
    /// Which come first
    #[arg(long, value_name = "newest|oldest")]
    order: Option<String>,
    /// Write every line into this file instead (- is stdout)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["limit", "cursor"])]
    export: Option<PathBuf>,
    /// The file's form; as its name ends when absent, else CSV
    #[arg(long, value_enum, requires = "export")]
    format: Option<Form>,
    #[command(flatten)]
    page: Page,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For spreadsheets; what would be a formula there has an apostrophe before it
    Csv,
    /// One JSON object per line
    Jsonl,
}

impl Form {
    fn of(file: &Path) -> Self {
        match file.extension().and_then(|end| end.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Self::Jsonl,
            _ => Self::Csv,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Jsonl => "application/x-ndjson",
        }
    }
}

/// Does it.
pub async fn run(app: &App, args: AuditArgs) -> Result<(), Failure> {
    let filter = vec![
        ("actor", args.actor),
        ("agent", args.agent),
        ("task", args.task),
        ("crew", args.crew),
        ("stream", args.stream),
        ("type", args.kind),
        ("from", args.from),
        ("to", args.to),
        ("cause", args.cause),
        ("correlation", args.correlation),
        ("credential", args.credential),
        ("request", args.request),
        ("command", args.command),
        ("outcome", args.outcome),
        ("order", args.order),
    ];
    let query = args.page.with(filter);
    if let Some(file) = &args.export {
        return export(app, &query, file, args.format.unwrap_or_else(|| Form::of(file))).await;
    }
    let answer = app.client()?.audit(&query).await?;
    let headers = ["POSITION", "TIME", "OUTCOME", "TYPE", "SUBJECT", "ACTOR", "DETAIL"];
    app.out.list(&answer, &headers, row)
}

fn row(entry: &Value) -> Vec<Cell> {
    let detail = match entry["problem"]["detail"].as_str() {
        Some(detail) => detail.to_owned(),
        None => text(entry, "summary"),
    };
    vec![
        text(entry, "position").into(),
        clock(&text(entry, "occurred_at")).into(),
        Cell::state(&text(entry, "outcome")),
        text(entry, "type").into(),
        text(entry, "stream_id").into(),
        text(entry, "actor").into(),
        detail.into(),
    ]
}

/// Writes all lines. A file gets its name when it is whole, so that half of one is never taken
/// for all.
async fn export(
    app: &App,
    query: &[(&str, String)],
    file: &Path,
    form: Form,
) -> Result<(), Failure> {
    let mut download = app.client()?.audit_file(query, form.media_type()).await?;
    let until = download.position.map_or_else(String::new, |at| format!(" up to position {at}"));
    let failed = |what: &str| {
        let what = format!("cannot {what} {}", file.display());
        move |source| Failure::Io { what, source }
    };
    let stdout = file == Path::new("-");
    let part = file.with_extension("part");
    let mut out: Box<dyn Write + Send> = if stdout {
        Box::new(std::io::stdout())
    } else {
        Box::new(BufWriter::new(File::create(&part).map_err(failed("write"))?))
    };
    let waiting = progress::spinner(&app.out, format!("reading the audit{until}"));
    let mut lines: u64 = 0;
    let copied = async {
        while let Some(piece) = download.piece().await? {
            lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            waiting.set_message(format!("{lines} lines{until}"));
            out.write_all(&piece).map_err(Failure::writing)?;
        }
        out.flush().map_err(Failure::writing)
    }
    .await;
    waiting.finish_and_clear();
    if stdout {
        return copied;
    }
    if let Err(failure) = copied {
        let _ = std::fs::remove_file(&part);
        return Err(failure);
    }
    std::fs::rename(&part, file).map_err(failed("name"))?;
    app.out.hint(&format!("{lines} lines{until} in {}", file.display()));
    Ok(())
}
