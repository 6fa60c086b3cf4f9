//! `taffrail profile`

use std::path::Path;

use clap::Subcommand;
use serde_json::Value;

use super::App;
use super::fail::Failure;
use super::human::{age, text};
use super::table::Cell;
use super::task::Page;

/// Largest file that is read, in bytes: a profile has at most 64 KiB of JSON.
const MAX_FILE: u64 = 1024 * 1024;

/// What can be done about profiles.
#[derive(Debug, Subcommand)]
pub enum ProfileVerb {
    /// Set a profile from a file (YAML or JSON)
    Put {
        /// Its name
        name: String,
        /// The file; - for standard input
        file: String,
    },
    /// List profiles
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Show a profile
    Get {
        /// Its name
        name: String,
        /// Put together with those that it extends
        #[arg(long)]
        resolved: bool,
    },
    /// Take a profile away; agents that run with it go on
    Delete {
        /// Its name
        name: String,
    },
}

/// Does it.
pub async fn run(app: &App, verb: ProfileVerb) -> Result<(), Failure> {
    let client = app.client()?;
    match verb {
        ProfileVerb::Put { name, file } => {
            let answer = client.put_profile(&name, &read(&file)?).await?;
            app.out.show(&answer, |_| format!("profile {name} is set\n"))
        }
        ProfileVerb::List { page } => {
            let answer = client.profiles(&page.with(vec![])).await?;
            let headers = ["NAME", "TIER", "EXTENDS", "COMMAND", "CHANGED"];
            app.out.list(&answer, &headers, row)
        }
        ProfileVerb::Get { name, resolved } => {
            let profile = client.profile(&name, resolved).await?;
            app.out.show(&profile, |_| {
                serde_saphyr::to_string(&profile["profile"]).unwrap_or_default()
            })
        }
        ProfileVerb::Delete { name } => {
            let answer = client.delete_profile(&name).await?;
            app.out.show(&answer, |_| format!("profile {name} is gone\n"))
        }
    }
}

/// A profile as it was given: a file where there is one of that name, else a name.
pub fn given(profile: &str) -> Result<Value, Failure> {
    if profile == "-" || Path::new(profile).is_file() { read(profile) } else { Ok(profile.into()) }
}

fn read(file: &str) -> Result<Value, Failure> {
    let failed = |why: String| Failure::Usage(format!("{file}: {why}"));
    let text = if file == "-" {
        std::io::read_to_string(std::io::Read::take(std::io::stdin(), MAX_FILE))
    } else {
        let length = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
        if length > MAX_FILE {
            return Err(failed("it is larger than 1 MiB".into()));
        }
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    // JSON is YAML as well.
    serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))
}

fn row(profile: &Value) -> Vec<Cell> {
    let command = profile["profile"]["command"].as_array().into_iter().flatten();
    let command: Vec<&str> = command.filter_map(Value::as_str).collect();
    vec![
        text(profile, "name").into(),
        text(&profile["profile"], "tier").into(),
        text(&profile["profile"], "extends").into(),
        command.join(" ").into(),
        age(&text(profile, "updated_at")).into(),
    ]
}
