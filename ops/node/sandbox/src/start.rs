//! Starting programs, and finding those that run.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::error::StartError;
use crate::exit::{EXIT_FILE, STATE_FILE, State, read};
use crate::handle::Handle;
use crate::level::Probes;
use crate::lock::files::newest_abi;
use crate::logs::{Stream, segment, segments};
use crate::plan::{Layer, Plan};
use crate::spec::{Level, Spec};
use crate::stage::shim::Answer;
use crate::stage::{OWN_EXE, STAGE_ARG};

/// Longest time for a shim to answer; a little more than it allows itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Folders of a run without a root of its own, gone with it.
const LEFTOVERS: [&str; 3] = ["secrets", "tmp", "workspace"];

/// Starts programs in isolation. Cheap to clone; what the host offers is found out once.
#[derive(Debug, Clone)]
pub struct Sandbox {
    exe: PathBuf,
    removed: BTreeSet<Layer>,
    forced: Option<Level>,
    pub(crate) probes: Arc<Probes>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Stages are this same binary, whose `main` must begin with
    /// [`stage_main`](crate::stage_main).
    pub fn new() -> Self {
        Self::at(OWN_EXE)
    }

    /// Stages are another binary that begins with [`stage_main`](crate::stage_main).
    pub fn at(exe: impl Into<PathBuf>) -> Self {
        let (removed, forced) = (BTreeSet::new(), None);
        Self { exe: exe.into(), removed, forced, probes: Arc::default() }
    }

    /// Leaves a layer out, to show in a test what it stops. Never for a program of others.
    #[doc(hidden)]
    #[must_use]
    pub fn without(mut self, layer: Layer) -> Self {
        self.removed.insert(layer);
        self
    }

    /// Uses exactly this level, to test the weaker ones on a host with the stronger.
    #[doc(hidden)]
    #[must_use]
    pub fn exactly(mut self, level: Level) -> Self {
        self.forced = Some(level);
        self
    }

    /// Starts a program; returns when it was executed.
    ///
    /// The folder holds one run: output, state, and in the end how it ended. What an earlier run
    /// left there is removed. The program goes on when the handle or the caller is gone.
    ///
    /// # Errors
    /// Why it was not started; nothing of it is left then.
    pub async fn start(&self, dir: &Path, spec: &Spec) -> Result<Handle, StartError> {
        self.launch(dir, spec, &[]).await
    }

    /// The same with bytes on the program's standard input.
    ///
    /// # Errors
    /// Why it was not started; nothing of it is left then.
    pub async fn start_with(
        &self,
        dir: &Path,
        spec: &Spec,
        input: &[u8],
    ) -> Result<Handle, StartError> {
        self.launch(dir, spec, input).await
    }

    /// Finds the program of an earlier [`start`](Self::start) again, running or ended; none if
    /// there was no run in the folder.
    ///
    /// A process is recognised by number, start time and boot, never by number alone.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn adopt(dir: &Path) -> io::Result<Option<Handle>> {
        let state: Option<State> = read(&dir.join(STATE_FILE))?;
        Ok(state.map(|state| Handle::new(dir.to_owned(), state, None)))
    }

    pub(crate) async fn launch(
        &self,
        dir: &Path,
        spec: &Spec,
        input: &[u8],
    ) -> Result<Handle, StartError> {
        spec.check()?;
        let level = match self.forced {
            Some(level) => level,
            None => self.level_for(spec).await?,
        };
        self.launch_at(level, dir, spec, input).await
    }

    pub(crate) async fn launch_at(
        &self,
        level: Level,
        dir: &Path,
        spec: &Spec,
        input: &[u8],
    ) -> Result<Handle, StartError> {
        let failed = |error: io::Error| StartError::supervisor("folder", error);
        if !dir.is_absolute() {
            return Err(StartError::supervisor("folder", "must be an absolute path"));
        }
        clear(dir)?;
        let plan = Plan {
            spec: spec.clone(),
            level,
            removed: self.removed.clone(),
            dir: dir.to_owned(),
            abi: newest_abi(),
            outer_uid: None,
            binds: Vec::new(),
            opened: false,
            grouped: false,
        };
        let mut message = serde_json::to_vec(&plan).map_err(|error| failed(error.into()))?;
        message.push(b'\n');
        message.extend_from_slice(input);
        let log = File::create(dir.join("shim.log")).map_err(failed)?;
        let mut shim = Command::new(&self.exe)
            .args([STAGE_ARG, "shim"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| StartError::supervisor("the shim cannot be executed", error))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, converse(&mut shim, &message)).await;
        let answer = match answer {
            Ok(Ok(Some(answer))) => answer,
            other => {
                // Whatever it started dies with it.
                let _ = shim.kill().await;
                let said = fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
                let why = match other {
                    Err(_) => "no answer in time".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Ok(Ok(_)) => "it died without a word".to_owned(),
                };
                return Err(StartError::supervisor(&why, said.trim()));
            }
        };
        // Somebody must collect it as long as this process lives.
        let (collected, collector) = watch::channel(false);
        tokio::spawn(async move {
            let _ = shim.wait().await;
            collected.send_replace(true);
        });
        match answer {
            Answer::Started(state) => Ok(Handle::new(dir.to_owned(), state, Some(collector))),
            Answer::Failed(error) => Err(error),
        }
    }
}

async fn converse(shim: &mut Child, message: &[u8]) -> io::Result<Option<Answer>> {
    let (Some(mut stdin), Some(stdout)) = (shim.stdin.take(), shim.stdout.take()) else {
        return Ok(None);
    };
    // A shim that died early has closed its input; what it said counts, not that.
    let _ = stdin.write_all(message).await;
    drop(stdin);
    let mut line = Vec::new();
    BufReader::new(stdout).read_until(b'\n', &mut line).await?;
    Ok(if line.is_empty() { None } else { Some(serde_json::from_slice(&line)?) })
}

/// Makes the folder of a run, or empties it.
fn clear(dir: &Path) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::supervisor("folder", error);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let running: Option<State> = read(&dir.join(STATE_FILE)).unwrap_or_default();
    if running.is_some_and(|state| state.alive()) {
        return Err(StartError::Running { dir: dir.to_owned() });
    }
    for name in [STATE_FILE, EXIT_FILE] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
    }
    // A program without a root of its own could write there, so nothing of it is kept: a link it
    // left would lead the next run's secrets elsewhere.
    for name in LEFTOVERS {
        match fs::remove_dir_all(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        for start in segments(dir, stream).map_err(failed)? {
            fs::remove_file(segment(dir, stream, start)).map_err(failed)?;
        }
    }
    Ok(())
}
