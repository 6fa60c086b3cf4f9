//! A program per task: input in, output back.

use std::io;
use std::path::Path;

use crate::error::StartError;
use crate::exit::Exit;
use crate::handle::Handle;
use crate::logs::Stream;
use crate::spec::Spec;
use crate::start::Sandbox;

/// What a program left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// The end of its standard output, as far as it was kept.
    pub stdout: Vec<u8>,
    /// The end of its standard error, as far as it was kept.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The last line of standard output that is not blank.
    pub fn last_line(&self) -> Option<&[u8]> {
        let lines = self.stdout.split(|byte| *byte == b'\n').rev();
        lines.map(<[u8]>::trim_ascii).find(|line| !line.is_empty())
    }
}

impl Sandbox {
    /// Runs a program to its end with `input` on its standard input.
    ///
    /// The folder holds the run while it lasts and is removed afterwards. A call that is given
    /// up ends the program.
    ///
    /// # Errors
    /// Why it was not started, or [`StartError::Supervisor`] when its end could not be read.
    pub async fn run_once(
        &self,
        dir: &Path,
        spec: &Spec,
        input: &[u8],
    ) -> Result<Output, StartError> {
        let folder = Removed(dir);
        let handle = self.launch(dir, spec, input).await?;
        let running = Ended(&handle);
        let failed = |error: io::Error| StartError::supervisor("run", error);
        let exit = handle.wait().await.map_err(failed)?;
        let all = |stream| {
            let (mut bytes, mut offset) = (Vec::new(), 0);
            while let Some(chunk) = handle.read(stream, offset)? {
                offset = chunk.next();
                bytes.extend(chunk.bytes);
            }
            Ok(bytes)
        };
        let stdout = all(Stream::Stdout).map_err(failed)?;
        let stderr = all(Stream::Stderr).map_err(failed)?;
        drop(running);
        drop(folder);
        Ok(Output { exit, stdout, stderr })
    }
}

struct Ended<'a>(&'a Handle);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}
