//! What is asked of the builder, and what it says while it works.

use std::collections::BTreeMap;

use corten_base::{Digest, Platform, Reference};
use corten_image::ProgressEvent;

/// The parameters of `POST /build`.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Path of the Dockerfile in the context; empty for `Dockerfile`.
    pub dockerfile: String,
    /// Names of the result.
    pub tags: Vec<Reference>,
    /// `--build-arg`; `None` where no value was given.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--target`; empty for the last stage.
    pub target: String,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--pull`.
    pub pull: bool,
    /// `--rm`: remove the containers of steps that succeeded.
    pub rm: bool,
    /// `--force-rm`: of those that failed too.
    pub force_rm: bool,
    /// `--cache-from`: with any, only steps that one of these local images contains count as cached.
    pub cache_from: Vec<String>,
    /// `--quiet`: say nothing but the id.
    pub quiet: bool,
    /// `--squash`; refused.
    pub squash: bool,
    /// `--network`.
    pub network: String,
    /// `--add-host`.
    pub extra_hosts: Vec<String>,
    /// Limits of the steps.
    pub limits: StepLimits,
}

/// Limits of the containers of steps, with the fields' names and units of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepLimits {
    /// Bytes.
    pub memory: i64,
    /// Bytes, -1 for no limit.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds.
    pub cpu_quota: i64,
    /// `0-2,4`.
    pub cpuset_cpus: String,
    /// `0-2,4`.
    pub cpuset_mems: String,
    /// Parent of the cgroup.
    pub cgroup_parent: String,
    /// Bytes of `/dev/shm`; 0 for the default.
    pub shm_size: i64,
    /// Name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
}

/// What the builder says, in order. The API renders it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// `{"stream": text}`; output of steps included.
    Stream(String),
    /// `{"aux": {"ID": "sha256:…"}}`: a stage is done.
    Image(Digest),
    /// Of a pull.
    Progress(ProgressEvent),
}
