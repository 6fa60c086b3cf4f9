//! The `taffrail` binary: one program for every role and every client verb.

mod bench;
mod cli;
mod config;
mod doctor;
mod figures;
mod logging;
mod node;
mod ready;
mod seals;
mod serve;
mod signals;
mod switch;
mod tokens;
mod up;
mod wiring;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, ConfigVerb, Globals, Output, ServersVerb, Verb};
use config::{Config, Flags};
use ready::Ready;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A child on its way to becoming a server or an agent: before any thread exists.
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == sandbox::STAGE_ARG).is_some() {
        return sandbox::stage_main(args);
    }
    if args.next_if(|arg| arg == servers::SHIM_ARG).is_some() {
        eprintln!("{:#}", servers::run_shim(args));
        return ExitCode::from(71);
    }
    // Without a provider no HTTP client can be built; a second installation is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("taffrail: no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(dispatch(cli));
    // What still waits for a blocking call must not hold the exit up.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}

async fn dispatch(cli: Cli) -> ExitCode {
    let Cli { globals, verb } = cli;
    if globals.as_of.is_some() && !matches!(verb, Verb::Client(_)) {
        let refusal = cli::no_past();
        refusal.report(globals.output);
        return refusal.exit().into();
    }
    let ready = Ready::new(matches!(globals.output, Output::Json | Output::Jsonl));
    let done = match verb {
        Verb::Client(verb) => {
            logging::init_client();
            return cli::run(globals, verb).await;
        }
        Verb::Bench(args) => {
            logging::init_bench();
            self::bench::run(&globals, args).await
        }
        Verb::Up(args) => {
            let mut flags = flags(&globals);
            flags.extend(args.http_addr.map(|value| ("http_addr", value)));
            flags.extend(args.database_url.map(|value| ("database_url", value)));
            host(&flags, args.config.as_deref(), async |config| {
                let options = up::Options {
                    ephemeral: args.ephemeral,
                    offline: args.offline,
                    node: args.node,
                };
                up::up(&config, &options, ready).await
            })
            .await
        }
        Verb::Serve(args) => {
            let mut flags = flags(&globals);
            flags.extend(args.http_addr.map(|value| ("http_addr", value)));
            flags.extend(args.database_url.map(|value| ("database_url", value)));
            host(&flags, args.config.as_deref(), async |config| {
                serve::serve(&config, &args.roles, ready).await
            })
            .await
        }
        Verb::Node(args) => {
            let mut flags = flags(&globals);
            flags.extend(args.settings());
            host(&flags, args.config.as_deref(), async |config| {
                // A server that nobody named is the `taffrail up` of this data folder.
                let named = Globals {
                    nats_url: config.nats_url().map(Into::into),
                    nats_token: config.nats_token().map(Into::into),
                    ..globals.clone()
                };
                let server = cli::nats_server(&named).map_err(|why| anyhow::anyhow!("{why}"))?;
                let options = node::Options {
                    tenant: args.tenant,
                    nats_url: server.url,
                    nats_token: server.token,
                    data_dir: config.data_dir().join("node"),
                    stop_agents: args.stop_agents,
                };
                node::run(&config, options, ready).await
            })
            .await
        }
        Verb::Migrate(args) => {
            let mut flags = flags(&globals);
            flags.extend(args.database_url.map(|value| ("database_url", value)));
            host(&flags, args.config.as_deref(), async |config| {
                let applied = serve::migrate(&config).await?;
                let text = match applied.as_slice() {
                    [] => "The schema is up to date.".into(),
                    applied => format!("Applied: {}", applied.join(", ")),
                };
                show(&globals, &json!({ "applied": applied }), &text)?;
                Ok(())
            })
            .await
        }
        Verb::Doctor(args) => {
            let mut flags = flags(&globals);
            flags.extend(args.database_url.map(|value| ("database_url", value)));
            host(&flags, None, async |config| {
                let attempts = doctor::attempts(&config, args.offline)?;
                let sandbox = doctor::sandbox().await;
                let mut text: Vec<String> = attempts.iter().map(ToString::to_string).collect();
                text.push(sandbox.to_string());
                show(&globals, &doctor::as_json(&attempts, &sandbox), &text.join("\n"))?;
                Ok(())
            })
            .await
        }
        Verb::Servers(args) => {
            let ServersVerb::Fetch { offline } = args.verb;
            host(&flags(&globals), None, async |config| {
                let found = doctor::fetch(&config, offline).await?;
                let object = json!({
                    "postgres": { "version": found.postgres.version, "path": found.postgres.bin_dir },
                    "nats": { "version": found.nats.version, "path": found.nats.bin_dir },
                });
                let text = format!(
                    "PostgreSQL {} in {}\nnats-server {} in {}",
                    found.postgres.version,
                    found.postgres.bin_dir.display(),
                    found.nats.version,
                    found.nats.bin_dir.display()
                );
                show(&globals, &object, &text)?;
                Ok(())
            })
            .await
        }
        Verb::Config(args) => {
            let ConfigVerb::Show { origin, config } = args.verb;
            host(&flags(&globals), config.as_deref(), async |config| {
                let width = config.values().iter().map(|v| v.name.len()).max().unwrap_or_default();
                let line = |value: &config::Value| {
                    let Value { name, value, origin: from, variable, .. } = value;
                    if origin {
                        format!("{name:width$}  {value}  ({from}; {variable})")
                    } else {
                        format!("{name:width$}  {value}")
                    }
                };
                use config::Value;
                let text: Vec<String> = config.values().iter().map(line).collect();
                show(&globals, &json!(config.values()), &text.join("\n"))?;
                Ok(())
            })
            .await
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("taffrail: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a document in the form that was asked for.
fn show(globals: &Globals, document: &serde_json::Value, text: &str) -> anyhow::Result<()> {
    let shown = globals.printer().show(document, |_| format!("{text}\n"));
    shown.map_err(|failure| anyhow::anyhow!("{failure}"))
}

/// The settings that stand among the global flags.
fn flags(globals: &Globals) -> Flags {
    let mut flags = Flags::new();
    flags.extend(globals.nats_url.clone().map(|value| ("nats_url", value)));
    flags.extend(globals.nats_token.clone().map(|value| ("nats_token", value)));
    let dir = globals.data_dir.as_ref().map(|dir| dir.display().to_string());
    flags.extend(dir.map(|value| ("data_dir", value)));
    flags
}

/// Does something of a host with its settings and its log.
async fn host(
    flags: &Flags,
    file: Option<&Path>,
    work: impl AsyncFnOnce(Config) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let config = Config::resolve(flags, file)?;
    let _written_out_at_the_end = logging::init(config.log());
    work(config).await
}
