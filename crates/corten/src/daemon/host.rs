//! Facts about host and daemon, for `GET /info` and `GET /version`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use corten_api::DaemonInfo;
use corten_base::reference::DEFAULT_DOMAIN;
use corten_base::{Id, Platform};
use corten_runtime::cgroup::Cgroup;
use corten_wire::api::system::{
    AddressPool, ContainerdInfo, FirewallInfo, IndexInfo, Info, PluginsInfo, RegistryConfig, Runtime,
    SwarmInfo, Version, VersionComponent, VersionPlatform,
};
use corten_wire::api::{self, TextMap};

use super::config::Config;

/// The release of the reference engine whose behaviour this one has; clients compare it with what they need.
const ENGINE_VERSION: &str = "29.7.2";
/// What our runtime can, in the form of `runc features`.
const FEATURES: &str = r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.3.0","linux":{"cgroup":{"v1":true,"v2":true},"seccomp":{"enabled":true}}}"#;

/// Everything that does not change while we run.
pub(crate) fn facts(config: &Config) -> anyhow::Result<DaemonInfo> {
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy().into_owned();
    Ok(DaemonInfo {
        version: version(config, &kernel),
        info: info(config, kernel, uname.machine().to_string_lossy().into_owned())?,
        experimental: config.experimental,
    })
}

fn version(config: &Config, kernel: &str) -> Version {
    let host = Platform::host();
    let commit = option_env!("CORTEN_COMMIT").unwrap_or("unknown").to_owned();
    let built = option_env!("CORTEN_BUILD_TIME").unwrap_or_default().to_owned();
    let details: TextMap = [
        ("ApiVersion", api::VERSION),
        ("Arch", &host.architecture),
        ("BuildTime", &built),
        ("Experimental", if config.experimental { "true" } else { "false" }),
        ("GitCommit", &commit),
        ("GoVersion", "rust"),
        ("KernelVersion", kernel),
        ("MinAPIVersion", api::MIN_VERSION),
        ("Module", "corten"),
        ("ModuleVersion", env!("CARGO_PKG_VERSION")),
        ("Os", "linux"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    Version {
        platform: VersionPlatform { name: "Corten".to_owned() },
        components: vec![VersionComponent {
            name: "Engine".to_owned(),
            version: ENGINE_VERSION.to_owned(),
            details,
        }],
        version: ENGINE_VERSION.to_owned(),
        api_version: api::VERSION.to_owned(),
        min_api_version: api::MIN_VERSION.to_owned(),
        git_commit: commit,
        go_version: "rust".to_owned(),
        os: "linux".to_owned(),
        arch: host.architecture,
        kernel_version: kernel.to_owned(),
        experimental: config.experimental,
        build_time: built,
    }
}

/// What the kernel's control groups offer.
struct Cgroups {
    v2: bool,
    /// None was handed over to us.
    none: bool,
}

impl Cgroups {
    fn has(&self, v1: &str, controller: &str) -> bool {
        if self.none {
            return false;
        }
        if self.v2 {
            let all = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
            return all.split_whitespace().any(|c| c == controller);
        }
        Path::new("/sys/fs/cgroup").join(v1).exists()
    }
}

fn info(config: &Config, kernel: String, machine: String) -> anyhow::Result<Info> {
    let cgroups = Cgroups {
        v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        none: Cgroup::at(Path::new(&config.engine.cgroup_parent)).is_ok_and(|g| g.is_none()),
    };
    let release = os_release();
    let field = |name: &str| release.get(name).cloned().unwrap_or_default();
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let runtime = Runtime {
        path: "runc".to_owned(),
        runtime_args: Vec::new(),
        status: TextMap::from([("org.opencontainers.runtime-spec.features".to_owned(), FEATURES.to_owned())]),
    };
    let seccomp = match config.engine.seccomp_profile.as_deref() {
        None => "builtin",
        Some("unconfined") => "unconfined",
        Some(_) => "custom",
    };
    let mut security = Vec::new();
    if corten_engine::apparmor::has_default() {
        security.push("name=apparmor".to_owned());
    }
    security.push(format!("name=seccomp,profile={seccomp}"));
    if config.engine.selinux {
        security.push("name=selinux".to_owned());
    }
    if config.engine.no_new_privileges {
        security.push("name=no-new-privileges".to_owned());
    }
    if config.rootless {
        security.push("name=rootless".to_owned());
    }
    if config.engine.userns.is_some() {
        security.push("name=userns".to_owned());
    }
    if cgroups.v2 || config.engine.cgroupns_mode == "private" {
        security.push("name=cgroupns".to_owned());
    }
    Ok(Info {
        id: daemon_id(&config.root)?,
        driver: "overlayfs".to_owned(),
        driver_status: vec![["driver-type".to_owned(), "io.containerd.snapshotter.v1".to_owned()]],
        plugins: PluginsInfo {
            volume: names(&["local"]),
            network: names(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            authorization: None,
            log: corten_logs::DRIVERS.iter().filter(|d| **d != "none").map(|d| (*d).to_owned()).collect(),
        },
        memory_limit: cgroups.has("memory/memory.limit_in_bytes", "memory"),
        swap_limit: cgroups.has("memory/memory.memsw.limit_in_bytes", "memory"),
        cpu_cfs_period: cgroups.has("cpu/cpu.cfs_period_us", "cpu"),
        cpu_cfs_quota: cgroups.has("cpu/cpu.cfs_quota_us", "cpu"),
        cpu_shares: cgroups.has("cpu/cpu.shares", "cpu"),
        cpu_set: cgroups.has("cpuset", "cpuset"),
        pids_limit: cgroups.has("pids", "pids"),
        oom_kill_disable: !cgroups.v2 && cgroups.has("memory/memory.oom_control", "memory"),
        ipv4_forwarding: config.net.ip_forward || read("/proc/sys/net/ipv4/ip_forward").trim() == "1",
        debug: config.debug,
        logging_driver: config.engine.log.kind.clone(),
        cgroup_driver: if cgroups.none { "none" } else { config.engine.cgroup_driver.name() }.to_owned(),
        cgroup_version: if cgroups.v2 { "2" } else { "1" }.to_owned(),
        kernel_version: kernel,
        operating_system: field("PRETTY_NAME"),
        os_version: field("VERSION_ID"),
        os_type: "linux".to_owned(),
        architecture: machine,
        index_server_address: format!("https://index.{DEFAULT_DOMAIN}/v1/"),
        registry_config: registries(config),
        ncpu: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
        mem_total: memory_total(),
        docker_root_dir: config.root.display().to_string(),
        http_proxy: without_password(&config.registry.proxy.http),
        https_proxy: without_password(&config.registry.proxy.https),
        no_proxy: config.registry.proxy.no_proxy.clone(),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        labels: config.labels.clone(),
        experimental_build: config.experimental,
        server_version: ENGINE_VERSION.to_owned(),
        runtimes: runtimes(config, &runtime),
        default_runtime: config.engine.default_runtime.clone(),
        swarm: SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() },
        live_restore_enabled: config.engine.live_restore,
        init_binary: "corten-runtime".to_owned(),
        security_options: security,
        default_address_pools: config
            .net
            .address_pools
            .iter()
            .map(|p| AddressPool { base: p.base.to_string(), size: p.size })
            .collect(),
        firewall_backend: Some(FirewallInfo {
            driver: "nftables".to_owned(),
            info: vec![["Table".to_owned(), format!("corten-{}", config.net.instance)]],
        }),
        cdi_spec_dirs: config.engine.cdi_dirs.iter().map(|d| d.display().to_string()).collect(),
        containerd: Some(ContainerdInfo::default()),
        warnings: Some(warnings(config, &cgroups)),
        ..Info::default()
    })
}

fn runtimes(config: &Config, built_in: &Runtime) -> BTreeMap<String, Runtime> {
    let own = ["io.containerd.runc.v2", "runc"].map(|name| (name.to_owned(), built_in.clone()));
    let added = config.engine.runtimes.iter().map(|(name, r)| {
        let shown = Runtime { path: r.path.clone(), runtime_args: r.args.clone(), status: TextMap::new() };
        (name.clone(), shown)
    });
    own.into_iter().chain(added).collect()
}

fn warnings(config: &Config, cgroups: &Cgroups) -> Vec<String> {
    let mut all = Vec::new();
    for address in config.hosts.iter().filter(|h| corten_api::listen::is_exposed(h, config.tls.as_ref())) {
        all.push(format!(
            "[DEPRECATION NOTICE]: API is accessible on {address} without encryption: access to the remote API is \
             equivalent to root access on the host"
        ));
    }
    for (missing, text) in [
        (!cgroups.has("memory/memory.limit_in_bytes", "memory"), "No memory limit support"),
        (!cgroups.has("memory/memory.memsw.limit_in_bytes", "memory"), "No swap limit support"),
        (!cgroups.has("pids", "pids"), "No pids limit support"),
        (!cgroups.has("cpuset", "cpuset"), "No cpuset support"),
        (!cgroups.v2, "Support for cgroup v1 is deprecated: use cgroup v2"),
        (!config.net.ip_forward, "IPv4 forwarding is not switched on by the daemon"),
    ] {
        if missing {
            all.push(format!("WARNING: {text}"));
        }
    }
    all
}

fn registries(config: &Config) -> RegistryConfig {
    let entry = |name: &str, mirrors: &[String], secure: bool, official: bool| {
        (name.to_owned(), IndexInfo { name: name.to_owned(), mirrors: mirrors.to_vec(), secure, official })
    };
    let registry = &config.registry;
    let mut all = BTreeMap::from([entry(DEFAULT_DOMAIN, &registry.mirrors, true, true)]);
    all.extend(registry.insecure.hosts().iter().map(|h| entry(h, &[], false, false)));
    RegistryConfig {
        insecure_registry_cidrs: registry.insecure.networks(),
        index_configs: all,
        mirrors: registry.mirrors.clone(),
    }
}

/// The daemon's own id: made once, kept in the root.
fn daemon_id(root: &Path) -> anyhow::Result<String> {
    let path = root.join("engine-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && id.len() == 36
    {
        return Ok(id);
    }
    let random = Id::random();
    let h = random.as_str();
    let id = format!("{}-{}-4{}-a{}-{}", &h[..8], &h[8..12], &h[12..15], &h[15..18], &h[18..30]);
    corten_base::fs::replace(&path, id.as_bytes(), 0o600, corten_base::fs::Durability::Process)
        .context("write the daemon's id")?;
    Ok(id)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn os_release() -> BTreeMap<String, String> {
    let text = [read("/etc/os-release"), read("/usr/lib/os-release")].into_iter().find(|t| !t.is_empty());
    text.unwrap_or_default()
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

fn memory_total() -> i64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.trim().split(' ').next()).and_then(|n| n.parse::<i64>().ok());
    kib.unwrap_or_default() * 1024
}

/// `http://user:secret@host` without the secret.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://xxxxx:xxxxx@{}", &url[..scheme], &url[at + 1..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn proxies_are_shown_without_secrets() {
        assert_eq!(super::without_password("http://me:pw@p.test:1"), "http://xxxxx:xxxxx@p.test:1");
        assert_eq!(super::without_password("http://p.test:1"), "http://p.test:1");
    }
}
