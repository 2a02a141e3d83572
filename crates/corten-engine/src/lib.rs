//! Containers, execs, volumes, networks, events.
//!
//! One task per container owns its phase (`container::phase`, pure), performs effects (`container::effects`) and
//! publishes an `Arc` snapshot ([`ContainerView`]); reads never touch the task. Records live in `container_*`,
//! `volume_*` and `network_*` of `meta.db`.
//!
//! # Public surface
//!
//! ```text
//! Engine (Clone)
//!   async open(EngineConfig, Db, Images, Net, Bus, Launcher) -> Result<Engine>       recovers everything
//!   async create(name: Option<&str>, CreateRequest, platform: Option<&Platform>) -> Result<CreateResponse>
//!   find(name|id|prefix) -> Result<Container>                    views() -> Vec<Arc<ContainerView>> newest first
//!   async list(&ListOptions{all, limit, size, filters}) -> Result<Vec<ContainerSummary>>
//!   counts() -> Counts{total, running, paused, stopped}          running_ids() -> Vec<String>
//!   async prune_containers(&Filters) -> Result<ContainersPruneResponse>
//!   exec(id) -> Result<Exec>
//!   async create_volume(VolumeCreateRequest) -> Result<Volume>   volume(name) -> Result<Volume>
//!   volumes(&Filters) -> Result<VolumeList>                      async remove_volume(name, force) -> Result<()>
//!   async prune_volumes(&Filters) -> Result<VolumesPruneResponse>
//!   async create_network(NetworkCreateRequest) -> Result<NetworkCreateResponse>
//!   network(name|id) -> Result<Network>                          networks(&Filters) -> Result<Vec<Network>>
//!   async remove_network(name|id) -> Result<()>                  async prune_networks(&Filters) -> Result<NetworksPruneResponse>
//!   async connect(network, NetworkConnectRequest) -> Result<()>  async disconnect(network, NetworkDisconnectRequest) -> Result<()>
//!   async disk_usage() -> Result<EngineUsage{containers, volumes}>
//!   bus() -> &Bus                                                async shutdown()
//! Container (Clone)
//!   id() name() view() -> Arc<ContainerView>                     async inspect(size: bool) -> Result<ContainerInspect>
//!   async start() -> Result<Outcome>                             Outcome::{Done, Unchanged}; Unchanged is 304
//!   async stop(signal: Option<&str>, timeout: Option<i64>) -> Result<Outcome>      async restart(..) -> Result<()>
//!   async kill(signal: Option<&str>) -> Result<()>               async pause()/unpause() -> Result<()>
//!   wait(WaitCondition) -> Result<impl Future<WaitResponse>>     the future is 'static: send headers first
//!   async rename(&str) / update(UpdateRequest) -> Result<UpdateResponse> / remove(RemoveOptions{force, volumes, link})
//!   async attach(AttachSpec) -> Result<Attached>                 Attached: AsyncRead + AsyncWrite + tty()
//!   async resize(height, width)                                  logs(&LogQuery) -> Result<LogStream>   tty() -> bool
//!   async top(ps_args: &str) -> Result<TopResponse>              async stats(one_shot: bool) -> Result<Stats>
//!   stats_stream() -> impl Stream<Item = Stats>                  async exec_create(ExecCreateRequest) -> Result<String>
//!   async changes() -> Result<Vec<Change>>                       async export() -> Result<ByteStream>
//!   commit_config() -> oci config to apply changes to            async commit(CommitSpec) -> Result<Digest>
//!   async archive_stat(path) -> Result<PathStat>                 async archive_get(path) -> Result<(PathStat, ByteStream)>
//!   async archive_put(path, ByteStream, PutOptions) -> Result<()>
//! Exec
//!   async start(ExecStart{detach, console_size}) -> Result<Option<Attached>>   None when detached
//!   inspect() -> ExecInspect      async resize(height, width) -> Result<()>    tty() -> bool
//! EventFilter::new(&Filters) / matches(&Event)                   for GET /events
//! ```
//! All errors are [`Error`]: `kind()` decides the status, `chain()` is the text a client reads.

mod config;
mod container;
mod engine;
mod error;
mod exec;
mod failpoint;
mod filters;
mod hosts;
mod logs;
mod merge;
mod mounts;
mod names;
mod networks;
mod record;
mod shared;
mod signal;
mod spec;
mod validate;
mod view;
mod volumes;

pub use config::EngineConfig;
pub use container::{
    AttachSpec, Attached, ByteStream, CommitSpec, Container, DetachKeys, Outcome, PutOptions, RemoveOptions,
    WaitCondition,
};
pub use engine::{Counts, Engine, EngineUsage, ListOptions};
pub use error::{Error, Result};
pub use exec::{Exec, ExecStart};
pub use failpoint::VARIABLE as FAILPOINT_VARIABLE;
pub use filters::EventFilter;
pub use logs::{LogQuery, LogStream};
pub use record::{ContainerRecord, MountKind, MountRecord, RootfsRecord, Standing, StateRecord};
pub use view::{ContainerView, Endpoint, Status, human_duration};
