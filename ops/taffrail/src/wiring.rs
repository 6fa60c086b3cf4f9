//! All roles and what they hand to one another, from top to bottom.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use broker::{Consumer, Presence, Relay, RemoteClaims, RemoteExecutor, Streams};
use commands::fence::MANAGERS;
use commands::leader::while_leading;
use commands::process::{Managers, ManagersConfig, SchedulerHandle};
use commands::{Claims, Clock, Executor, Ids, ProcessorConfig};
use domain::TenantId;
use futures::future::{Fuse, FusedFuture, FutureExt};
use gateway::Metrics;
use projections::{Progress, Queries};
use store::{Feed, Leases, Log, Reader};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::cli::Role;
use crate::config::Config;
use crate::seals::NatsSeals;
use crate::switch::{SwitchClaims, SwitchExecutor};
use crate::{figures, tokens};

/// How long the relay may take to hand over the last events at the end.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// How long an orderly end may take as a whole, servers that do not answer included.
const STOP: Duration = Duration::from_secs(9);

/// Where the shared servers are.
pub struct Servers {
    /// PostgreSQL, as the role that migrates.
    pub database_url: String,
    /// NATS.
    pub nats_url: String,
    /// NATS's token.
    pub nats_token: Option<String>,
    /// This process alone uses them: whoever held a lease before is dead.
    pub exclusive: bool,
    /// Where the sealer keeps its key and publishes its seals.
    pub data_dir: std::path::PathBuf,
}

/// The roles of this process, running.
pub struct Running {
    /// Where the gateway listens.
    pub http: Option<std::net::SocketAddr>,
    /// The library call: the processor of this process, or one behind NATS.
    pub executor: Arc<dyn Executor>,
    front: Stage,
    actors: Stage,
    processor: Stage,
    back: Stage,
    deciding: Option<tokio::sync::watch::Receiver<bool>>,
    feed: Feed,
    relayed: Option<tokio::sync::watch::Receiver<broker::Standing>>,
}

/// Tasks that end together.
#[derive(Default)]
struct Stage {
    cancel: CancellationToken,
    tasks: Vec<(&'static str, Fuse<JoinHandle<()>>)>,
}

impl Stage {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push((name, tokio::spawn(task).fuse()));
    }

    async fn stop(self) {
        self.cancel.cancel();
        for (name, task) in self.tasks {
            // One that `broken` saw end is not there to be waited for.
            if !task.is_terminated() {
                ended(name, task.await);
            }
        }
    }
}

fn ended(name: &'static str, task: Result<(), JoinError>) {
    if let Err(error) = task {
        tracing::error!(name, %error, "a role ended badly");
    }
}

/// Connects to the servers and starts the roles.
pub async fn start(
    config: &Config,
    roles: &[Role],
    servers: &Servers,
    token: Option<&str>,
) -> anyhow::Result<Running> {
    // An address that is taken must be known before anything runs.
    let listener = if roles.contains(&Role::Gateway) {
        let address = config.http_addr()?;
        let bound = TcpListener::bind(address).await;
        Some(bound.with_context(|| {
            format!("{address} cannot be listened on; choose another --http-addr")
        })?)
    } else {
        None
    };

    // The log, checked, and this process's view of its end.
    let urls = migrations::service_urls(&servers.database_url)?;
    let pool = store::connect_pool(&urls.service, config.pool_size()?)?;
    {
        let client = pool.get().await.context(
            "PostgreSQL cannot be reached as taffrail_service; \
             run `taffrail migrate` once with the same address",
        )?;
        store::check_server(&client).await?;
        migrations::check(&client).await?;
    }
    let log = Log::new(pool.clone(), &urls.service);
    let head = log.head().await?;
    let feed = Feed::at(head.position);
    let reader = Reader { log: log.clone(), feed: feed.clone() };
    let leases = Leases::new(pool.clone());
    let clock = Clock::read_at(leases.now().await?);
    let holder = format!("{}:{}", std::process::id(), Ids.fresh());
    let force = servers.exclusive;

    // NATS, and the agents' wire over it.
    let nats =
        broker::connect(&servers.nats_url, servers.nats_token.as_deref(), "taffrail").await?;
    let streams = Streams::new(nats.clone()).keeping(config.log_limits()?);
    streams.ensure().await?;
    streams.limit_logs().await?;

    let (mut front, mut actors, mut processor, mut back) =
        (Stage::default(), Stage::default(), Stage::default(), Stage::default());
    let metrics = Metrics::default();
    figures::of_log(&metrics, &feed, &pool);
    figures::of_nats(&metrics, &nats);

    back.spawn("clock", until(back.cancel.clone(), clock.clone().follow(leases.clone())));

    // Other processes are told of the head, or tell it.
    if !servers.exclusive {
        if roles.contains(&Role::Processor) {
            back.spawn(
                "notify",
                until(back.cancel.clone(), store::notify(log.clone(), feed.clone())),
            );
        }
        back.spawn(
            "listen",
            until(back.cancel.clone(), store::listen(urls.service.clone(), feed.clone())),
        );
    }

    // Relay: the log into TAFFRAIL_EVENTS. It looks first whether an older copy of the
    // database was put back, before anything new is appended.
    let mut relayed = None;
    if roles.contains(&Role::Relay) {
        // A connection of its own: answers must not queue behind thousands of events.
        let nats =
            broker::connect(&servers.nats_url, servers.nats_token.as_deref(), "taffrail-relay")
                .await?;
        let relay = Arc::new(Relay::new(nats, reader.clone()));
        relay.reconcile().await.context("TAFFRAIL_EVENTS cannot be compared with the log")?;
        relayed = Some(relay.standing());
        figures::of_relay(&metrics, &relay);
        let (leases, holder, cancel) = (leases.clone(), holder.clone(), back.cancel.clone());
        back.spawn("relay", async move {
            while_leading(leases, "relay", &holder, force, cancel, |_, cancel| {
                let relay = relay.clone();
                async move { relay.run(cancel).await }
            })
            .await;
        });
    }

    // Processor: decides in this process or behind NATS.
    let remote: Arc<dyn Executor> = Arc::new(RemoteExecutor::new(nats.clone()));
    let mut executor = remote.clone();
    let mut deciding = None;
    if roles.contains(&Role::Processor) {
        let limits = ProcessorConfig {
            queue: config.queue_capacity()?,
            cache: config.cache_streams()?,
            task_types: Arc::new(config.task_types()?),
            subtasks: config.subtasks()?,
            ..Default::default()
        };
        let (door, role) = commands::processor(log.clone(), feed.clone(), clock.clone(), limits);
        deciding = Some(door.active());
        figures::of_processor(&metrics, &door);
        executor = Arc::new(SwitchExecutor::new(door.clone(), remote));
        let consumer = Consumer::new(nats.clone(), Arc::new(door.clone()), tenants())
            .with_streams(streams.clone());
        figures::of_consumer(&metrics, &consumer);
        let (active, cancel) = (door.active(), actors.cancel.clone());
        actors.spawn("consumer", async move { consumer.run_while(active, cancel).await });
        let (holder, cancel) = (holder.clone(), processor.cancel.clone());
        processor.spawn("processor", async move { role.run(&holder, force, cancel).await });
    }

    // Read models.
    let progress = Progress::default();
    let queries_pool = store::connect_pool(&urls.gateway, config.pool_size()?)?;
    let queries = Queries::new(queries_pool.clone(), progress.clone());
    if roles.contains(&Role::Projector) {
        figures::of_projections(&metrics, &progress, &feed);
        let (leases, holder, cancel) = (leases.clone(), holder.clone(), back.cancel.clone());
        let (pool, reader) = (pool.clone(), reader.clone());
        back.spawn("projector", async move {
            while_leading(leases, "projector", &holder, force, cancel, |_, cancel| {
                projections::engine::run_all(pool.clone(), reader.clone(), progress.clone(), cancel)
            })
            .await;
        });
    }

    // Sealer: signs what the log is, and publishes that outside the database.
    if roles.contains(&Role::Sealer) {
        let key_path = config.seal_key_path(&servers.data_dir);
        std::fs::create_dir_all(&servers.data_dir)
            .with_context(|| format!("{} cannot be made", servers.data_dir.display()))?;
        let outside: Vec<Arc<dyn replay::seal::Outside>> = vec![
            Arc::new(replay::seal::SealFile::of(&servers.data_dir)),
            Arc::new(NatsSeals::new(nats.clone())),
        ];
        let sealer =
            Arc::new(replay::seal::Sealer::new(reader.clone(), clock.clone(), key_path, outside)?);
        figures::of_sealer(&metrics, &feed, &sealer);
        let (leases, holder, cancel) = (leases.clone(), holder.clone(), back.cancel.clone());
        back.spawn("sealer", async move {
            let role = replay::seal::table::ROLE;
            while_leading(leases, role, &holder, force, cancel, |token, cancel| {
                let sealer = sealer.clone();
                async move { sealer.run(token, cancel).await }
            })
            .await;
        });
    }

    // Managers: scheduler, leases, watchdog, operations.
    let scheduling: Arc<OnceLock<Arc<SchedulerHandle>>> = Arc::default();
    let presence = if roles.contains(&Role::Managers) {
        let scheduling = scheduling.clone();
        let desired = move |tenant: &TenantId, agent| {
            Some(scheduling.get()?.desired_state(tenant, agent)?.to_owned())
        };
        Presence::answering(nats.clone(), clock.clone(), tenants(), Arc::new(desired))
    } else {
        Presence::new(nats.clone(), clock.clone(), tenants())
    };
    figures::of_presence(&metrics, &presence);
    actors.spawn("presence", {
        let (presence, cancel) = (presence.clone(), actors.cancel.clone());
        async move { presence.run(cancel).await }
    });
    let wire: Arc<dyn commands::AgentWire> = Arc::new(presence);
    let mut claims: Arc<dyn Claims> = Arc::new(RemoteClaims::new(nats.clone()));
    if roles.contains(&Role::Managers) {
        let works: Vec<Arc<dyn commands::Work>> = vec![
            Arc::new(replay::RebuildWork::new(log.clone())),
            Arc::new(replay::VerifyDecisionsWork::new(log.clone())),
            Arc::new(replay::ForkWork::new(log.clone())),
            Arc::new(replay::PublishWork::new(log.clone(), nats.clone())),
            Arc::new(replay::DeadLettersWork::new(log.clone(), queries.clone())),
        ];
        let (managers, scheduler) = Managers::new(
            Arc::new(reader.clone()),
            executor.clone(),
            wire.clone(),
            clock.clone(),
            works,
            ManagersConfig {
                dead_letters_kept: config.dead_letters_kept()?,
                escalate_after: config.escalate_after()?,
                watch: config.watch()?,
                ..ManagersConfig::default()
            },
        );
        let _ = scheduling.set(scheduler.clone());
        figures::of_scheduler(&metrics, &scheduler);
        claims = Arc::new(SwitchClaims::new(scheduler.clone(), claims));
        let managers = Arc::new(managers);
        let (leases, holder, cancel) = (leases.clone(), holder.clone(), actors.cancel.clone());
        let (client, log, executor) = (nats.clone(), log.clone(), executor.clone());
        actors.spawn("managers", async move {
            while_leading(leases, MANAGERS, &holder, force, cancel, |token, cancel| {
                let (managers, scheduler, client) =
                    (managers.clone(), scheduler.clone(), client.clone());
                let (log, executor) = (log.clone(), executor.clone());
                async move {
                    // Once per term: whoever leads next tries again what failed.
                    let refreshing = cancel.child_token();
                    let refresh = async move {
                        let refresh = replay::refresh(&log, &executor, token);
                        refreshing.run_until_cancelled(refresh).await;
                    };
                    let answering = cancel.child_token();
                    let claims = broker::serve_claims(
                        client.clone(),
                        scheduler,
                        tenants(),
                        answering.clone(),
                    );
                    let nodes =
                        broker::serve_nodes(client, managers.nodes(), tenants(), answering.clone());
                    let managing = async {
                        // An error means that the log is not the one it was: fold it anew.
                        if let Err(error) = managers.run(Some(token), cancel).await {
                            tracing::warn!(%error, "the managers begin anew");
                        }
                        answering.cancel();
                    };
                    tokio::join!(managing, claims, nodes, refresh);
                }
            })
            .await;
        });
    }

    // Gateway.
    let mut http = None;
    if let Some(listener) = listener {
        store::check_tenant_wall(&*queries_pool.get().await?).await?;
        tokens::ensure(&queries_pool, token).await?;
        let health = gateway::Health::default();
        figures::of_health(&health, &pool, &nats);
        http = Some(listener.local_addr()?);
        let app = gateway::App::new(gateway::Doors {
            executor: executor.clone(),
            claims,
            wire,
            heartbeats: Arc::new(gateway::NatsHeartbeats(nats.clone())),
            logs: Arc::new(gateway::NatsLogs(nats.clone())),
            agents: Arc::new(gateway::NatsAgents(nats.clone())),
            queries,
            reader: reader.clone(),
            ids: Ids,
            clock,
            tokens: gateway::Tokens::new(gateway::PgTokens(queries_pool)),
            health,
            metrics,
            limits: gateway::Limits {
                commands: config.http_commands()?,
                ..gateway::Limits::default()
            },
        });
        let cancel = front.cancel.clone();
        front.spawn("gateway", async move {
            if let Err(error) = gateway::serve(app, listener, cancel).await {
                tracing::error!(%error, "the gateway ended");
            }
        });
    }

    Ok(Running { http, executor, front, actors, processor, back, deciding, feed, relayed })
}

impl Running {
    /// Waits until this process decides; one with rivals may never do so.
    ///
    /// The scheduler may still be folding a long log: what is submitted meanwhile is
    /// accepted, and handed out when it has caught up.
    pub fn leads(&self) -> impl Future<Output = ()> + use<> {
        let deciding = self.deciding.clone();
        async move {
            if let Some(mut deciding) = deciding {
                let _ = deciding.wait_for(|active| *active).await;
            }
        }
    }

    /// Ends the roles in the order in which work flows, so that nothing that was taken is
    /// left without an answer.
    pub async fn stop(self) {
        if tokio::time::timeout(STOP, self.stop_in_order()).await.is_err() {
            tracing::warn!("stopped with work under way: repeats find what became of it");
        }
    }

    async fn stop_in_order(self) {
        self.front.stop().await;
        self.actors.stop().await;
        self.processor.stop().await;
        if let Some(mut relayed) = self.relayed {
            let head = self.feed.head();
            let all = relayed.wait_for(|standing| standing.relayed >= head);
            if tokio::time::timeout(LAST_EVENTS, all).await.is_err() {
                tracing::info!("the relay goes on with the last events at the next start");
            }
        }
        self.back.stop().await;
    }

    /// Ready when a role has ended by itself, which none should.
    pub async fn broken(&mut self) -> &'static str {
        let stages = [&mut self.front, &mut self.actors, &mut self.processor, &mut self.back];
        let tasks = stages.into_iter().flat_map(|stage| stage.tasks.iter_mut());
        let ends = tasks.map(|(name, task)| {
            Box::pin(async move {
                ended(name, task.await);
                *name
            })
        });
        futures::future::select_all(ends).await.0
    }
}

/// Which tenants exist: one, so far.
fn tenants() -> broker::TenantCheck {
    Arc::new(|tenant| *tenant == TenantId::default_tenant())
}

async fn until(cancel: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_role_has_ended_by_itself_the_others_are_stopped() {
        let (mut front, mut back) = (Stage::default(), Stage::default());
        front.spawn("frail", async { panic!("a fault") });
        let (stopped, cancel) = (CancellationToken::new(), back.cancel.clone());
        let end = stopped.clone().drop_guard();
        back.spawn("steady", async move {
            cancel.cancelled().await;
            drop(end);
        });
        let (actors, processor) = (Stage::default(), Stage::default());
        let (deciding, relayed) = (None, None);
        let feed = Feed::at(0);
        struct Nobody;
        impl Executor for Nobody {
            fn execute(&self, _: commands::CommandEnvelope) -> commands::Boxed<domain::Outcome> {
                Box::pin(std::future::pending())
            }
        }
        let mut running = Running {
            http: None,
            executor: Arc::new(Nobody),
            front,
            actors,
            processor,
            back,
            deciding,
            feed,
            relayed,
        };
        assert_eq!(running.broken().await, "frail");
        running.stop().await;
        assert!(stopped.is_cancelled());
    }
}
