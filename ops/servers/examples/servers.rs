//! Starts both servers on a folder and waits for Ctrl-C; also the shim of its own children.
//!
//! `cargo run -p servers --example servers -- FOLDER [--offline]`, or `--probe`, or `--fetch`.

use std::time::Instant;

use anyhow::Context;
use servers::{DataDir, Embedded, Options, SHIM_ARG};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == SHIM_ARG).is_some() {
        return Err(servers::run_shim(args));
    }
    let folder = args.next().context("usage: servers FOLDER [--offline]")?;
    let mut options = Options::from_env(std::env::current_exe()?);
    options.offline = args.next().is_some_and(|arg| arg == "--offline");
    if folder == "--probe" {
        servers::probe(&options).iter().for_each(|attempt| println!("{attempt}"));
        return Ok(());
    }
    if folder == "--fetch" {
        println!("{:#?}", servers::fetch(&options)?);
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(up(folder.as_ref(), &options))
}

async fn up(folder: &std::path::Path, options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let programs = servers::locate(options)?;
    println!("located after {:?}", started.elapsed());
    println!(
        "  PostgreSQL {} in {}",
        programs.postgres.version,
        programs.postgres.bin_dir.display()
    );
    println!("  NATS {} in {}", programs.nats.version, programs.nats.bin_dir.display());
    let data = DataDir::lock(folder)?;
    let servers = Embedded::start(&programs, &data, options).await?;
    println!("ready after {:?}", started.elapsed());
    println!("postgres {:?} pid {:?}", servers.postgres(), servers.postgres_pid());
    println!("nats {:?} pid {:?}", servers.nats(), servers.nats_pid());

    let mut health = servers.healthy();
    loop {
        tokio::select! {
            stop = tokio::signal::ctrl_c() => { stop?; break }
            changed = health.changed() => {
                changed?;
                println!("{:?}", *health.borrow_and_update());
            }
        }
    }
    println!("{:?}", servers.stop().await);
    Ok(())
}
