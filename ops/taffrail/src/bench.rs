//! `taffrail bench`: which cells, where, and what becomes of their lines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bench::report::{Sheet, read_lines};
use bench::run::Plan;
use bench::{Cell, Hosted, Line, Product, Tuning, table};
use commands::Clock;
use futures::future::BoxFuture;
use servers::DataDir;

use crate::cli::{
    BenchArgs, BenchVerb, Globals, Output, PlanArgs, ReportArgs, Role, default_data_dir,
};
use crate::config::{Config, Flags};
use crate::wiring::{self, Servers};
use crate::{signals, tokens, up};

/// Runs the cells that were asked for and prints them.
pub async fn run(globals: &Globals, args: BenchArgs) -> anyhow::Result<()> {
    let everything = bench::workloads::all;
    let verb = |name: &'static str| move |cell: &Cell| cell.bench == name;
    let (cells, plan) = match args.verb {
        None => {
            let plan = PlanArgs {
                seconds: 2.0,
                rounds: 1,
                quick: false,
                clients: None,
                only: None,
                no_limits: false,
                out: None,
            };
            (everything().into_iter().filter(|cell| cell.main).collect(), plan)
        }
        Some(BenchVerb::Run(selection)) => {
            (named(everything(), &selection.workloads)?, selection.plan)
        }
        Some(BenchVerb::Limits(plan)) => (bench::limits::all(), plan),
        Some(BenchVerb::Append(plan)) => (only(everything(), verb("append")), plan),
        Some(BenchVerb::Http(plan)) => (only(everything(), verb("http")), plan),
        Some(BenchVerb::Nats(plan)) => (only(everything(), verb("nats")), plan),
        Some(BenchVerb::Tasks(plan)) => (only(everything(), verb("tasks")), plan),
        Some(BenchVerb::Latency(plan)) => (only(everything(), verb("latency")), plan),
        Some(BenchVerb::Rebuild(plan)) => (only(everything(), verb("rebuild")), plan),
        Some(BenchVerb::Fanout(plan)) => (only(everything(), verb("fanout")), plan),
        Some(BenchVerb::Query(plan)) => (only(everything(), verb("query")), plan),
        Some(BenchVerb::Report(args)) => return report(&args),
        Some(BenchVerb::Spawn(plan)) => (only(everything(), verb("spawn")), plan),
        Some(BenchVerb::Deploy(plan)) => (only(everything(), verb("deploy")), plan),
        Some(BenchVerb::Fleet(plan)) => (only(everything(), verb("fleet")), plan),
        Some(BenchVerb::Time(plan)) => (only(everything(), verb("time")), plan),
        Some(BenchVerb::Restart(plan)) => (only(everything(), verb("restart")), plan),
    };
    let cells = narrowed(cells, &plan)?;
    let limits = if plan.no_limits { Vec::new() } else { bench::limits::beside(&cells) };
    measure(globals, &[limits, cells].concat(), &plan).await
}

/// Writes the report from lines of earlier runs.
fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let mut sheet = Sheet::default();
    for path in args.limits.iter().chain(&args.cells) {
        let lines = read_lines(&read(path)?).with_context(|| path.display().to_string())?;
        sheet.take(lines);
    }
    if let Some(path) = &args.reference {
        sheet.reference = read_lines(&read(path)?).with_context(|| path.display().to_string())?;
    }
    sheet.join();
    bench::report::write(&sheet, &args.out)
}

fn only(cells: Vec<Cell>, wanted: impl Fn(&Cell) -> bool) -> Vec<Cell> {
    cells.into_iter().filter(wanted).collect()
}

/// The cells of workloads by name, or by the beginning of it.
fn named(cells: Vec<Cell>, names: &[String]) -> anyhow::Result<Vec<Cell>> {
    let known: std::collections::BTreeSet<&str> = cells.iter().map(|cell| cell.workload).collect();
    for name in names {
        let matches = |known: &&str| known.to_lowercase().starts_with(&name.to_lowercase());
        if name != "all" && !known.iter().any(matches) {
            let known: Vec<&str> = known.into_iter().collect();
            bail!("there is no workload `{name}`; known are {} and all", known.join(", "));
        }
    }
    let wanted = |cell: &Cell| {
        let workload = cell.workload.to_lowercase();
        names.iter().any(|name| name == "all" || workload.starts_with(&name.to_lowercase()))
    };
    Ok(only(cells, wanted))
}

fn narrowed(cells: Vec<Cell>, plan: &PlanArgs) -> anyhow::Result<Vec<Cell>> {
    let had = !cells.is_empty();
    let cells = only(cells, |cell| {
        let count = ["clients", "connections", "workers", "subscribers"]
            .iter()
            .find_map(|name| cell.params.get(name)?.as_u64());
        let fits = |text: &String| cell.params.to_string().contains(text.as_str());
        plan.clients.is_none_or(|n| count == Some(n)) && plan.only.as_ref().is_none_or(fits)
    });
    if had && cells.is_empty() {
        bail!("no cell fits --clients and --only");
    }
    Ok(cells)
}

async fn measure(globals: &Globals, cells: &[Cell], args: &PlanArgs) -> anyhow::Result<()> {
    let folder = globals.data_dir.clone().unwrap_or_else(|| default_data_dir().join("bench"));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    if in_memory(&folder) {
        let _ = writeln!(
            std::io::stderr(),
            "{} is in memory, where a flush costs nothing: these figures are none of this \
             machine's. Name a folder on the disk that will be used: --data-dir",
            folder.display()
        );
    }
    let plan = Plan {
        seconds: if args.quick { 1.0 } else { args.seconds },
        rounds: if args.quick { 1 } else { args.rounds.into() },
        folder,
        quick: args.quick,
        date: today(),
    };
    let product: Arc<dyn Product> = Arc::new(Binary::new(globals)?);
    let quiet = globals.quiet;
    let tell = move |text: &str| {
        if !quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    };
    let lines = tokio::select! {
        lines = bench::run::sitting(product, cells, &plan, &tell) => lines?,
        // Dropping the sitting ends its servers and removes its folder.
        () = signals::terminated() => bail!("interrupted"),
    };
    if let Some(out) = &args.out {
        append(out, &lines)?;
    }
    print(globals, &lines)
}

fn append(path: &Path, lines: &[Line]) -> anyhow::Result<()> {
    let file = std::fs::File::options().create(true).append(true).open(path);
    let mut file = file.with_context(|| path.display().to_string())?;
    for line in lines {
        writeln!(file, "{}", serde_json::to_string(line)?)?;
    }
    Ok(())
}

fn print(globals: &Globals, lines: &[Line]) -> anyhow::Result<()> {
    let out = globals.printer();
    let text = match globals.output {
        Output::Table => {
            let mut text = out.table(&table::HEADERS, lines.iter().map(table::row));
            if lines.iter().any(|line| !line.goals.is_empty()) {
                text.push('\n');
                text += &out.table(&table::GOAL_HEADERS, lines.iter().flat_map(table::goals));
            }
            text
        }
        Output::Json | Output::Jsonl | Output::Yaml => {
            let each: Result<Vec<String>, _> = lines.iter().map(serde_json::to_string).collect();
            each?.iter().map(|line| format!("{line}\n")).collect()
        }
    };
    out.text(&text).map_err(|failure| anyhow::anyhow!("{failure}"))
}

/// Whether a folder is on a file system that lives in memory.
fn in_memory(folder: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994; // statfs(2)
    rustix::fs::statfs(folder)
        .is_ok_and(|found| u64::try_from(found.f_type).ok() == Some(TMPFS_MAGIC))
}

/// The date of a sitting, UTC.
fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = Clock::read_at(domain::Timestamp::UNIX_EPOCH + since.unwrap_or_default()).now();
    now.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// This program, as what is measured.
struct Binary {
    program: PathBuf,
    servers: servers::Options,
    flags: Flags,
}

impl Binary {
    fn new(globals: &Globals) -> anyhow::Result<Self> {
        let mut flags = Flags::new();
        flags.insert("http_addr", "127.0.0.1:0".into());
        // Private servers, whatever the environment says.
        for name in ["database_url", "nats_url", "nats_token"] {
            flags.insert(name, String::new());
        }
        let dir = globals.data_dir.as_ref().map(|dir| dir.display().to_string());
        flags.extend(dir.map(|value| ("data_dir", value)));
        let servers = Config::resolve(&flags, None)?.servers(false)?;
        Ok(Self { program: std::env::current_exe()?, servers, flags })
    }
}

impl Product for Binary {
    fn program(&self) -> &Path {
        &self.program
    }

    fn servers(&self) -> servers::Options {
        self.servers.clone()
    }

    fn host(&self, folder: PathBuf, tuning: Tuning) -> BoxFuture<'static, anyhow::Result<Hosted>> {
        let mut flags = self.flags.clone();
        flags.extend(tuning.cache.map(|cache| ("cache_streams", cache.to_string())));
        Box::pin(host(flags, folder, tuning.unsealed))
    }
}

/// All of `up` in this process, with the library call at hand.
async fn host(flags: Flags, folder: PathBuf, unsealed: bool) -> anyhow::Result<Hosted> {
    let config = Config::resolve(&flags, None)?;
    let data = DataDir::lock(&folder)?;
    let embedded = up::start_servers(&config, false, &data).await?;
    let (postgres, nats) = (embedded.postgres(), embedded.nats());
    let servers = Servers {
        database_url: postgres.url(&postgres.database),
        nats_url: nats.url,
        nats_token: Some(nats.token),
        exclusive: true,
        data_dir: data.path().into(),
    };
    migrations::migrate(&servers.database_url).await?;
    let token = tokens::of_folder(data.path())?;
    let mut roles = Role::ALL.to_vec();
    roles.retain(|role| !unsealed || *role != Role::Sealer);
    let running = wiring::start(&config, &roles, &servers, Some(&token)).await?;
    running.leads().await;
    Ok(Hosted {
        http: running.http.map(|address| format!("http://{address}")).unwrap_or_default(),
        token,
        nats_url: servers.nats_url,
        nats_token: servers.nats_token,
        database_url: servers.database_url,
        postgres_pid: embedded.postgres_pid(),
        nats_pid: embedded.nats_pid(),
        executor: running.executor.clone(),
        stop: Box::new(move || {
            Box::pin(async move {
                running.stop().await;
                embedded.stop().await;
                drop(data);
            })
        }),
    })
}
