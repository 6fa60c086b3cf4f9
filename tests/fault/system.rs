//! The product under test as processes, each of which can be killed and comes back, as
//! under any supervisor.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use servers::{Nats, Postgres};
use tokio::task::spawn_blocking;
use tokio_postgres::NoTls;
use tokio_util::task::AbortOnDropHandle;

use crate::client::LIVENESS;
use crate::doors::Doors;
use crate::support::{Api, Process, background, database, programs, run_dir, said, unique};

/// A token that every gateway of a fleet takes.
const TOKEN: &str = "tfr_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// How often a process that ended by itself is looked for.
const TEND: Duration = Duration::from_millis(50);
/// All roles that `serve` knows.
pub const ROLES: [&str; 5] = ["gateway", "processor", "relay", "projector", "managers"];

/// Servers and processes.
pub struct System {
    folder: PathBuf,
    pub slots: Arc<Vec<Slot>>,
    pub database_url: String,
    nats_url: String,
    nats_token: String,
    token: String,
    /// Ends of processes that nobody killed.
    pub deaths: Arc<AtomicU32>,
    /// Absent where the product runs its own.
    _servers: Option<Servers>,
    _tending: AbortOnDropHandle<()>,
}

/// What the processes stand on.
struct Servers {
    database_url: String,
    nats: Nats,
    /// Absent where it is the one that all tests share.
    _postgres: Option<Postgres>,
}

/// A process that is there, or is about to be again.
pub struct Slot {
    pub role: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// `http://…` of its gateway.
    pub http: Option<String>,
    process: Mutex<Option<Process>>,
}

impl Slot {
    fn new(role: &'static str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut arguments: Vec<String> = arguments.iter().map(|text| (*text).into()).collect();
        arguments.extend(["-o".into(), "json".into()]);
        let http = ["up", "one", "gateway"].contains(&role).then(|| {
            let address = free_address();
            arguments.extend(["--http-addr".into(), address.clone()]);
            format!("http://{address}")
        });
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        let environment = environment.iter().map(owned).collect();
        Self { role, arguments, environment, http, process: Mutex::new(None) }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(|process| process.pid)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        let log = self.process.lock().as_ref().map(|process| process.log.clone());
        log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default()
    }

    /// Starts it and waits until it is ready; tries again, as a supervisor does.
    fn start(&self) -> Vec<serde_json::Value> {
        let began = Instant::now();
        loop {
            let environment: Vec<(&str, &str)> =
                self.environment.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let process = Process::start(self.role, &self.arguments, &environment);
            let ready = process.try_ready();
            if let Some(ready) = ready {
                *self.process.lock() = Some(process);
                return ready;
            }
            assert!(began.elapsed() < LIVENESS, "{} does not start", self.role);
            std::thread::sleep(TEND);
        }
    }

    /// kill -9; it stays away until `start`.
    fn kill(&self) {
        let process = self.process.lock().take();
        if let Some(mut process) = process {
            process.kill();
        }
    }
}

impl System {
    /// One `taffrail up` with the servers that it runs itself.
    pub async fn product() -> Self {
        let folder = run_dir().join(format!("fault-{}", unique()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.display().to_string();
        let slot = Arc::new(Slot::new("up", &["up", "--data-dir", &path], &[]));
        let ready = blocking({
            let slot = slot.clone();
            move || slot.start()
        })
        .await;
        let slots = Arc::new(vec![Arc::into_inner(slot).unwrap()]);
        let deaths = Arc::default();
        Self {
            folder,
            database_url: said(&ready, "postgres", "url"),
            nats_url: said(&ready, "nats", "url"),
            nats_token: said(&ready, "nats", "token"),
            token: said(&ready, "token", "token"),
            _tending: tend(&slots, &deaths),
            slots,
            deaths,
            _servers: None,
        }
    }

    /// A process per role, so many of each, on servers of the test.
    pub async fn fleet(each: usize) -> Self {
        let (folder, servers) = servers().await;
        let slots = |environment: &[(&str, &str)]| {
            let of = |role: &'static str| Slot::new(role, &["serve", "--role", role], environment);
            ROLES.into_iter().flat_map(|role| (0..each).map(move |_| of(role))).collect()
        };
        Self::serving(folder, servers, &[], slots).await
    }

    /// All roles in one process, with a fault planted in it; with servers of its own where
    /// those are to be hit, too.
    pub async fn planted(fault: &str, own_servers: bool) -> Self {
        let (folder, servers) = if own_servers { servers().await } else { shared_servers().await };
        let slots = |environment: &[(&str, &str)]| {
            let mut arguments = vec!["serve"];
            arguments.extend(ROLES.iter().flat_map(|role| ["--role", role]));
            vec![Slot::new("one", &arguments, environment)]
        };
        Self::serving(folder, servers, &[("TAFFRAIL_SEED_FAULT", fault)], slots).await
    }

    async fn serving(
        folder: PathBuf,
        servers: Servers,
        more: &[(&str, &str)],
        slots: impl FnOnce(&[(&str, &str)]) -> Vec<Slot>,
    ) -> Self {
        let database_url = servers.database_url.clone();
        migrations::migrate(&database_url).await.unwrap();
        let nats = servers.nats.address();
        let mut environment = vec![
            ("TAFFRAIL_DATABASE_URL", database_url.as_str()),
            ("TAFFRAIL_NATS_URL", &nats.url),
            ("TAFFRAIL_NATS_TOKEN", &nats.token),
            ("TAFFRAIL_TOKEN", TOKEN),
        ];
        environment.extend(more);
        let slots = Arc::new(slots(&environment));
        let starting: Vec<_> = (0..slots.len())
            .map(|at| {
                let slots = slots.clone();
                spawn_blocking(move || slots[at].start())
            })
            .collect();
        for started in starting {
            started.await.unwrap();
        }
        let deaths = Arc::default();
        Self {
            folder,
            _tending: tend(&slots, &deaths),
            slots,
            deaths,
            nats_url: nats.url,
            nats_token: nats.token,
            token: TOKEN.into(),
            database_url,
            _servers: Some(servers),
        }
    }

    /// Clients' connections.
    pub async fn doors(&self) -> Doors {
        let gateways = self.slots.iter().filter_map(|slot| slot.http.as_deref());
        let options = async_nats::ConnectOptions::with_token(self.nats_token.clone());
        // At once, so that what is measured is the product and not this client.
        let options = options
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .event_callback(async |_| {});
        Doors {
            gateways: gateways.map(|http| Api::new(http, &self.token)).collect(),
            nats: options.connect(&self.nats_url).await.unwrap(),
        }
    }

    /// kill -9, and the same process again.
    pub async fn kill(&self, at: usize) {
        let slots = self.slots.clone();
        blocking(move || slots[at].kill()).await;
    }

    /// Brings a killed one back.
    pub async fn revive(&self, at: usize) {
        let slots = self.slots.clone();
        blocking(move || slots[at].start()).await;
    }

    /// The processes with a role; the one that leads comes first.
    pub async fn with_role(&self, role: &str) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.slots.len())
            .filter(|at| [role, "up", "one"].contains(&self.slots[*at].role))
            .collect();
        let holder = match self.sql().await {
            Some(client) => {
                let holder = "SELECT holder FROM leases WHERE role = $1";
                client.query_opt(holder, &[&role]).await.ok().flatten()
            }
            None => None,
        };
        let holder: Option<String> = holder.map(|row| row.get(0));
        let pid = holder.and_then(|holder| holder.split(':').next()?.parse().ok());
        found.sort_by_key(|at| pid.is_none() || self.slots[*at].pid() != pid);
        found
    }

    /// A connection of the checker's own, while PostgreSQL is there.
    pub async fn sql(&self) -> Option<tokio_postgres::Client> {
        let connecting = tokio_postgres::connect(&self.database_url, NoTls);
        let (client, connection) =
            tokio::time::timeout(Duration::from_secs(2), connecting).await.ok()?.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// The postmaster, while there is one.
    pub fn postmaster(&self) -> Option<u32> {
        let file = std::fs::read_to_string(self.folder.join("pg/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// nats-server, while there is one.
    pub fn nats_server(&self) -> Option<u32> {
        let config = self.folder.canonicalize().ok()?.join("nats.conf");
        let config = config.display().to_string();
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            let of_it =
                name.starts_with("nats") && String::from_utf8_lossy(&line).contains(&config);
            of_it.then_some(pid)
        })
    }

    /// The postmaster and all its children.
    pub fn postgres(&self) -> Vec<u32> {
        self.postmaster().into_iter().flat_map(|pid| [vec![pid], children(pid)].concat()).collect()
    }

    /// NATS's address and token.
    pub fn nats(&self) -> (&str, &str) {
        (&self.nats_url, &self.nats_token)
    }

    /// The folder of the streams.
    pub fn nats_store(&self) -> PathBuf {
        self.folder.join("nats")
    }
}

/// Sends a signal to a process, if it is still there.
pub fn signal(pid: Option<u32>, signal: Signal) -> bool {
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The processes right below one.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let of_it = processes.filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent_of_it = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok();
        (parent_of_it == Some(parent)).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    of_it.collect()
}

/// Starts again what ended by itself, as the supervisor of any installation does.
fn tend(slots: &Arc<Vec<Slot>>, deaths: &Arc<AtomicU32>) -> AbortOnDropHandle<()> {
    let (slots, deaths) = (slots.clone(), deaths.clone());
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(TEND).await;
            for at in 0..slots.len() {
                let ended = slots[at].process.lock().as_mut().and_then(Process::ended);
                if let Some(status) = ended {
                    deaths.fetch_add(1, Ordering::Relaxed);
                    println!("{} ended by itself: {status}", slots[at].role);
                    let slots = slots.clone();
                    blocking(move || {
                        slots[at].process.lock().take();
                        slots[at].start();
                    })
                    .await;
                }
            }
        }
    }))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.unwrap()
}

/// Servers of a test's own; they outlive its runtime's tasks.
async fn servers() -> (PathBuf, Servers) {
    let (folder, nats) = nats().await;
    let starting = background().spawn({
        let folder = folder.clone();
        async move {
            let (options, programs) = programs();
            Postgres::start(&programs.postgres, &folder, options).await.unwrap()
        }
    });
    let postgres = starting.await.unwrap();
    let database_url = postgres.address().url(&postgres.address().database);
    (folder, Servers { database_url, nats, _postgres: Some(postgres) })
}

/// A database on the PostgreSQL that all tests share.
async fn shared_servers() -> (PathBuf, Servers) {
    let (folder, nats) = nats().await;
    (folder, Servers { database_url: database().await.admin_url, nats, _postgres: None })
}

async fn nats() -> (PathBuf, Nats) {
    let folder = run_dir().join(format!("fault-{}", unique()));
    std::fs::create_dir_all(&folder).unwrap();
    let starting = background().spawn({
        let folder = folder.clone();
        async move {
            let (options, programs) = programs();
            Nats::start(&programs.nats, &folder, options).await.unwrap()
        }
    });
    (folder, starting.await.unwrap())
}

/// An address below the ports that the kernel gives to outgoing connections: while its
/// gateway is dead nobody else gets it.
fn free_address() -> String {
    loop {
        let address = format!("127.0.0.1:{}", rand::rng().random_range(10_000..30_000));
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
