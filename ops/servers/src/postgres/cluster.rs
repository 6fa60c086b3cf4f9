//! Making a cluster: initdb once per cache and version, a copy for each folder.
//!
//! The cached cluster has a random password of its own, kept beside it with mode 0600. A
//! copy gets the folder's password by its first statement, so cache and folder never share
//! one for longer than that, and no cluster is ever open without a password.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::launch::PostgresLaunch;
use super::{DATABASE, USER};
use crate::data_dir::{private_dir, random_secret, write_secret};
use crate::error::StartError;
use crate::locate::{check_cache, lock_cache};
use crate::process::{Kind, Log, Spawn, spawn};
use crate::{Located, Options};

/// Raised whenever the making below changes, so that old cached clusters are left alone.
const REVISION: u32 = 1;

/// Prepares `pg.tmp` when the folder has no cluster; returns the password it begins with.
///
/// [`put_in_place`] follows once that password is on disk: a cluster in its place without
/// a known password would be lost.
pub(super) async fn ensure(
    dir: &Path,
    program: &Located,
    options: &Options,
) -> Result<Option<String>, StartError> {
    let cluster = dir.join("pg");
    if cluster.exists() {
        check_major(&cluster, program)?;
        return Ok(None);
    }
    let draft = dir.join("pg.tmp");
    clear(&draft)?;
    let template = match template(program, options).await {
        Ok(template) => template,
        // A cache that cannot be written costs time, nothing else.
        Err(StartError::File { path, source, .. }) => {
            tracing::warn!(%source, path = %path.display(), "no cached cluster");
            let place = dir.join("pg.init");
            make(program, options, &place).await?;
            place
        }
        Err(error) => return Err(error),
    };
    let password_file = template.join("password");
    let password =
        fs::read_to_string(&password_file).map_err(StartError::file("read", &password_file))?;
    let (from, to) = (template.join("data"), draft.clone());
    let copied = tokio::task::spawn_blocking(move || copy(&from, &to)).await;
    copied
        .map_err(|_| StartError::Interrupted { server: PostgresLaunch::SERVER, doing: "copying" })?
        .map_err(StartError::file("copy the cached cluster to", &draft))?;
    clear(&dir.join("pg.init"))?;
    Ok(Some(password))
}

/// Gives the prepared cluster its name, and has it written to disk in the background.
pub(super) fn put_in_place(dir: &Path) -> Result<(), StartError> {
    let cluster = dir.join("pg");
    fs::rename(dir.join("pg.tmp"), &cluster).map_err(StartError::file("make", &cluster))?;
    // PostgreSQL syncs what it writes; the copied files it only reads are ours to sync. An
    // error here is one PostgreSQL meets too, or a folder that was thrown away meanwhile.
    let sync = move || drop(sync(&cluster));
    drop(std::thread::Builder::new().name("sync-cluster".into()).spawn(sync));
    Ok(())
}

fn check_major(cluster: &Path, program: &Located) -> Result<(), StartError> {
    let file = cluster.join("PG_VERSION");
    let found = fs::read_to_string(&file).map_err(StartError::file("read", &file))?;
    let (found, program) = (found.trim().to_owned(), program.major().to_owned());
    if found == program {
        return Ok(());
    }
    Err(StartError::OtherMajor { path: cluster.to_owned(), found, program })
}

/// The cached cluster of this program, made when absent.
async fn template(program: &Located, options: &Options) -> Result<PathBuf, StartError> {
    let cache = options.cache_dir.clone();
    // The same version from another place may be built with other options.
    let build = format!("{REVISION} {}", program.program.display());
    let build = hex::encode(Sha256::digest(build.as_bytes()));
    let place = cache.join(format!("cluster-{}-{}", program.version, &build[..8]));
    check_cache(&cache)
        .map_err(|reason| StartError::file("trust", &cache)(io::Error::other(reason)))?;
    // Readable too: a cache filled by root for an image keeps its password to root.
    if File::open(place.join("password")).is_ok() {
        return Ok(place);
    }
    let waiting = cache.clone();
    let lock = tokio::task::spawn_blocking(move || lock_cache(&waiting)).await;
    let _held = lock
        .map_err(|_| StartError::Interrupted { server: "initdb", doing: "waiting for the cache" })?
        .map_err(StartError::file("lock", &cache))?;
    if !place.is_dir() {
        let draft = cache.join(format!("cluster.tmp-{}", random_secret()));
        let made = make(program, options, &draft).await;
        let made = made
            .and_then(|()| fs::rename(&draft, &place).map_err(StartError::file("make", &place)));
        if made.is_err() {
            clear(&draft)?;
        }
        made?;
    }
    let password = place.join("password");
    File::open(&password).map_err(StartError::file("read", &password))?;
    Ok(place)
}

/// Makes a cluster in `place/data`, with its password in `place/password`.
async fn make(program: &Located, options: &Options, place: &Path) -> Result<(), StartError> {
    clear(place)?;
    private_dir(place).map_err(StartError::file("make", place))?;
    let password = place.join("password");
    write_secret(&password, &random_secret()).map_err(StartError::file("write", &password))?;
    let data = place.join("data");
    let tool = Tool { options, place };

    let mut args: Vec<OsString> = vec!["-D".into(), data.clone().into()];
    args.extend(["-U", USER, "-E", "UTF8", "--auth=scram-sha-256"].map(OsString::from));
    args.extend(locale(program.major()).iter().map(OsString::from));
    args.extend(["--no-sync", "--no-instructions"].map(OsString::from));
    let mut pwfile = OsString::from("--pwfile=");
    pwfile.push(&password);
    args.push(pwfile);
    tool.run("initdb", program.bin_dir.join("initdb"), args, None).await?;

    // Single-user, so that the database is part of every copy and costs a start nothing.
    let script = place.join("script.sql");
    fs::write(&script, format!("CREATE DATABASE {DATABASE};\n"))
        .map_err(StartError::file("write", &script))?;
    let stdin = File::open(&script).map_err(StartError::file("open", &script))?;
    let mut args: Vec<OsString> = ["--single", "-F", "-j", "-D"].map(OsString::from).into();
    args.extend([data.clone().into(), "postgres".into()]);
    tool.run("postgres --single", program.program.clone(), args, Some(stdin)).await?;
    // Single-user mode reports a failed statement only in its log.
    let databases =
        fs::read_dir(data.join("base")).map_err(StartError::file("read", &data))?.count();
    if databases < 4 {
        let (log, _) = tool.log()?;
        let status = std::process::ExitStatus::default();
        return Err(StartError::Ended { server: "postgres --single", status, log: log.tail() });
    }
    Ok(())
}

/// The built-in provider exists since 17 and, unlike the C library's, sorts the same on
/// every machine the folder is moved to.
fn locale(major: &str) -> &'static [&'static str] {
    if major.parse::<u32>().is_ok_and(|major| major >= 17) {
        &["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    } else {
        &["--locale=C.UTF-8"]
    }
}

/// Runs PostgreSQL's tools to their end, on one folder.
struct Tool<'a> {
    options: &'a Options,
    place: &'a Path,
}

impl Tool<'_> {
    fn log(&self) -> Result<(Log, File), StartError> {
        let path = self.place.join("make.log");
        Log::open(&path).map_err(StartError::file("open", &path))
    }

    async fn run(
        &self,
        server: &'static str,
        program: PathBuf,
        args: Vec<OsString>,
        stdin: Option<File>,
    ) -> Result<(), StartError> {
        let (log, file) = self.log()?;
        let shim = self.options.shim.clone();
        let child = spawn(Spawn {
            kind: Kind::Postgres,
            shim: shim.clone(),
            program,
            args,
            owns: self.place.to_owned(),
            stdin,
            log: file,
        })
        .await
        .map_err(|source| StartError::Spawn { program: shim.display().to_string(), source })?;
        let status = child.ended().await;
        if status.success() {
            return Ok(());
        }
        Err(StartError::Ended { server, status, log: log.tail() })
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn sync(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path)?.sync_all()
}

fn clear(path: &Path) -> Result<(), StartError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StartError::file("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    #[test]
    fn a_cluster_of_another_major_version_is_refused() {
        let cluster = std::env::temp_dir().join(format!("taffrail-pg-{}", random_secret()));
        fs::create_dir_all(&cluster).unwrap();
        fs::write(cluster.join("PG_VERSION"), "15\n").unwrap();
        let program = |version: &str| Located {
            bin_dir: "/bin".into(),
            program: "/bin/postgres".into(),
            version: version.into(),
            source: Source::System,
        };
        assert!(check_major(&cluster, &program("15.18")).is_ok());
        let error = check_major(&cluster, &program("18.4")).unwrap_err();
        assert!(matches!(&error, StartError::OtherMajor { found, .. } if found == "15"));
        assert!(!error.retryable());
        fs::remove_dir_all(&cluster).unwrap();
    }

    #[test]
    fn old_versions_take_the_locale_of_the_c_library() {
        assert_eq!(locale("16"), ["--locale=C.UTF-8"]);
        assert_eq!(locale("18").len(), 3);
    }
}
