//! Steps of a build as containers of the engine: the builder's `StepRunner`.

use corten_base::Cancel;
use corten_build::{StepError, StepMount, StepRunner, StepSpec, StepStream};
use corten_engine::{AttachSpec, Attached, Container, Engine, RemoveOptions, WaitCondition};
use corten_wire::api::Empty;
use corten_wire::api::container::{ContainerConfig, CreateRequest, Healthcheck};
use corten_wire::api::host_config::{HostConfig, Ulimit};
use corten_wire::api::mount::{Mount, TmpfsOptions};
use corten_wire::api::stream::{StreamKind, parse_frame_header};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

/// A frame of output that is longer is garbage.
const MAX_FRAME: u32 = 16 << 20;

/// See the module. Its functions block: they are for the thread of a build.
pub(crate) struct EngineSteps {
    engine: Engine,
    runtime: Handle,
}

impl EngineSteps {
    pub(crate) fn new(engine: Engine, runtime: Handle) -> Self {
        Self { engine, runtime }
    }

    async fn run_container(
        &self,
        id: &str,
        output: &mut dyn FnMut(StepStream, &[u8]),
        cancel: &Cancel,
    ) -> Result<i64, StepError> {
        let container = self.engine.find(id).map_err(failed)?;
        let spec = AttachSpec { stream: true, stdout: true, stderr: true, ..AttachSpec::default() };
        let mut attached = container.attach(spec).await.map_err(failed)?;
        let ended = container.wait(WaitCondition::NextExit);
        container.start().await.map_err(failed)?;
        let ended = async {
            copy_output(&mut attached, output).await;
            ended.await
        };
        tokio::select! {
            biased;
            ended = ended => match ended.error {
                Some(e) => Err(StepError::Failed { kind: corten_base::Kind::Internal, message: e.message }),
                None => Ok(ended.status_code),
            },
            () = cancel.cancelled() => {
                stop(&container).await;
                Err(StepError::Cancelled)
            }
        }
    }
}

/// Kills the container and waits until it is gone.
async fn stop(container: &Container) {
    // It may have ended by itself; then there is nothing to kill.
    if container.kill(None).await.is_ok() {
        container.wait(WaitCondition::NotRunning).await;
    }
}

/// Passes frames on until the end of output.
async fn copy_output(attached: &mut Attached, output: &mut dyn FnMut(StepStream, &[u8])) {
    let mut head = [0; 8];
    let mut data = Vec::new();
    while attached.read_exact(&mut head).await.is_ok() {
        let Some((kind, len)) = parse_frame_header(head).filter(|(_, len)| *len <= MAX_FRAME) else { return };
        data.resize(usize::try_from(len).unwrap_or_default(), 0);
        if attached.read_exact(&mut data).await.is_err() {
            return;
        }
        let stream = if kind == StreamKind::Stderr { StepStream::Stderr } else { StepStream::Stdout };
        output(stream, &data);
    }
}

fn failed(e: corten_engine::Error) -> StepError {
    StepError::Failed { kind: e.kind(), message: e.chain() }
}

impl StepRunner for EngineSteps {
    fn create(&self, spec: &StepSpec) -> Result<String, StepError> {
        let made = self.runtime.block_on(self.engine.create_step(request(spec))).map_err(failed)?;
        Ok(made.id)
    }

    fn run(
        &self,
        id: &str,
        output: &mut dyn FnMut(StepStream, &[u8]),
        cancel: &Cancel,
    ) -> Result<i64, StepError> {
        self.runtime.block_on(self.run_container(id, output, cancel))
    }

    fn remove(&self, id: &str) -> Result<(), StepError> {
        let options = RemoveOptions { force: true, volumes: true, link: false };
        let removed = async { self.engine.find(id)?.remove(options).await };
        self.runtime.block_on(removed).map_err(failed)
    }
}

/// The create request of a step.
fn request(spec: &StepSpec) -> CreateRequest {
    let c = &spec.config;
    let limits = &spec.limits;
    let ports = c.exposed_ports.iter().flatten().filter_map(|(port, _)| port.parse().ok());
    let config = ContainerConfig {
        user: c.user.clone(),
        attach_stdout: true,
        attach_stderr: true,
        exposed_ports: ports.map(|p| (p, Empty {})).collect(),
        env: c.env.clone(),
        cmd: c.cmd.clone(),
        // The image's own would come before the command, and its health check would run.
        entrypoint: Some(vec![String::new()]),
        healthcheck: Some(Healthcheck { test: Some(vec!["NONE".to_owned()]), ..Healthcheck::default() }),
        image: spec.image.id.to_string(),
        volumes: c.volumes.as_ref().map(|v| v.keys().map(|k| (k.clone(), Empty {})).collect()),
        working_dir: c.working_dir.clone(),
        labels: c.labels.clone(),
        shell: c.shell.clone(),
        ..ContainerConfig::default()
    };
    let network = if spec.network.is_empty() { "default" } else { &spec.network };
    let host_config = HostConfig {
        network_mode: network.to_owned(),
        extra_hosts: (!spec.extra_hosts.is_empty()).then(|| spec.extra_hosts.clone()),
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        cgroup_parent: limits.cgroup_parent.clone(),
        shm_size: limits.shm_size,
        ulimits: (!limits.ulimits.is_empty()).then(|| {
            limits
                .ulimits
                .iter()
                .map(|(name, soft, hard)| Ulimit { name: name.clone(), soft: *soft, hard: *hard })
                .collect()
        }),
        mounts: (!spec.mounts.is_empty()).then(|| spec.mounts.iter().map(mount).collect()),
        ..HostConfig::default()
    };
    CreateRequest { config, host_config, ..CreateRequest::default() }
}

fn mount(m: &StepMount) -> Mount {
    match m {
        StepMount::Bind { source, target, read_only } => Mount {
            kind: "bind".to_owned(),
            source: source.display().to_string(),
            target: target.clone(),
            read_only: *read_only,
            ..Mount::default()
        },
        StepMount::Tmpfs { target, size } => Mount {
            kind: "tmpfs".to_owned(),
            target: target.clone(),
            tmpfs_options: size.map(|s| TmpfsOptions {
                size_bytes: i64::try_from(s).unwrap_or(i64::MAX),
                ..TmpfsOptions::default()
            }),
            ..Mount::default()
        },
    }
}
