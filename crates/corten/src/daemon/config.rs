//! Settings, checked and made into what each part of the daemon wants to know.

mod runtimes;
mod userns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_api::listen::{Address, Tls};
use corten_base::units;
use corten_engine::{CgroupDriver, EngineConfig, check_cgroup_parent, selinux};
use corten_net::{AddressPool, DefaultBridge, HostRules, NetConfig};
use corten_registry::{ClientConfig, InsecureRegistries, ProxyConfig};
use corten_runtime::cgroup::systemd;
use corten_wire::api::TextMap;
use corten_wire::api::host_config::Ulimit;

use super::rootless::{self, Places};
use super::settings::{Settings, SettingsError};

/// Where we listen if nothing else is said.
const DEFAULT_HOST: &str = "unix:///run/corten/corten.sock";
const DEFAULT_ROOT: &str = "/var/lib/corten";
const DEFAULT_EXEC_ROOT: &str = "/run/corten";
const MAX_SECCOMP: u64 = 1 << 20;

/// The whole configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) hosts: Vec<Address>,
    pub(crate) tls: Option<Tls>,
    pub(crate) group: Option<String>,
    pub(crate) root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: PathBuf,
    pub(crate) debug: bool,
    pub(crate) log_level: String,
    pub(crate) experimental: bool,
    /// `--selinux-enabled` on a host without it.
    pub(crate) selinux_missing: bool,
    /// Of an ordinary user.
    pub(crate) rootless: bool,
    pub(crate) labels: Vec<String>,
    /// `--log-format=json`.
    pub(crate) json_logs: bool,
    /// `--metrics-addr`.
    pub(crate) metrics: Option<std::net::SocketAddr>,
    /// Layers of one pull at a time.
    pub(crate) downloads: usize,
    /// Layers of one push at a time.
    pub(crate) uploads: usize,
    pub(crate) engine: EngineConfig,
    pub(crate) net: NetConfig,
    pub(crate) registry: ClientConfig,
}

fn wrong(text: impl Into<String>) -> SettingsError {
    SettingsError::Value(text.into())
}

/// Parses a text of a known option.
fn parse<T: std::str::FromStr>(s: &Settings, name: &str) -> Result<Option<T>, SettingsError>
where
    T::Err: std::fmt::Display,
{
    s.text(name)
        .map(|t| t.parse::<T>().map_err(|e| wrong(format!("invalid value {t:?} for --{name}: {e}"))))
        .transpose()
}

fn one_of(s: &Settings, name: &str, known: &[&str]) -> Result<(), SettingsError> {
    match s.text(name) {
        Some(t) if !known.contains(&t) => {
            Err(wrong(format!("--{name}={t} is not supported by this daemon: use {}", known.join(" or "))))
        }
        _ => Ok(()),
    }
}

impl Config {
    /// Checks everything.
    pub(crate) fn new(s: &Settings) -> Result<Self, SettingsError> {
        s.refuse_unsupported()?;
        one_of(s, "storage-driver", &["overlayfs", "overlay2"])?;
        one_of(s, "firewall-backend", &["nftables"])?;
        one_of(s, "log-format", &["text", "json"])?;
        one_of(s, "log-level", &["trace", "debug", "info", "warn", "error", "fatal"])?;
        for option in s.list("exec-opt") {
            match option.split_once('=') {
                Some(("native.cgroup-favordynmods", "true" | "false")) => {}
                Some(("native.cgroupdriver", _)) => {}
                _ => return Err(wrong(format!("--exec-opt {option} is not supported by this daemon"))),
            }
        }
        check_features(s)?;
        let places = s.bool_or("rootless", false).then(Places::inside).flatten();
        if s.bool_or("rootless", false) && places.is_none() {
            return Err(wrong("--rootless: start the daemon as the ordinary user"));
        }
        let data = places.as_ref().map_or_else(|| DEFAULT_ROOT.into(), |p| p.data.clone());
        let exec = places.as_ref().map_or_else(|| DEFAULT_EXEC_ROOT.into(), |p| p.runtime.join("corten"));
        let root = absolute(s.path("data-root").unwrap_or(data))?;
        let exec_root = absolute(s.path("exec-root").unwrap_or(exec))?;
        Ok(Self {
            hosts: hosts(s, places.as_ref())?,
            tls: tls(s)?,
            group: s.text("group").map(str::to_owned),
            pidfile: s.path("pidfile").unwrap_or_else(|| exec_root.join("corten.pid")),
            debug: s.bool_or("debug", false),
            log_level: s.text("log-level").unwrap_or("info").to_owned(),
            experimental: s.bool_or("experimental", false),
            selinux_missing: s.bool_or("selinux-enabled", false) && !selinux::is_enabled(),
            labels: labels(s)?,
            json_logs: s.text("log-format") == Some("json"),
            metrics: metrics(s)?,
            downloads: parallel(s, "max-concurrent-downloads", "max concurrent downloads", 3)?,
            uploads: parallel(s, "max-concurrent-uploads", "max concurrent uploads", 5)?,
            engine: engine(s, root.clone(), exec_root.clone(), places.as_ref())?,
            rootless: places.is_some(),
            net: net(s, &root, exec_root.clone())?,
            registry: registry(s)?,
            root,
            exec_root,
        })
    }
}

/// COMPAT: `host:port`, where the host may be left out.
fn metrics(s: &Settings) -> Result<Option<std::net::SocketAddr>, SettingsError> {
    use std::net::ToSocketAddrs;
    let Some(text) = s.text("metrics-addr").filter(|t| !t.is_empty()) else { return Ok(None) };
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let mut all = full.to_socket_addrs().map_err(|e| wrong(format!("invalid metrics-addr {text:?}: {e}")))?;
    Ok(all.next())
}

/// COMPAT: 0 is the default.
fn parallel(s: &Settings, name: &str, words: &str, default: usize) -> Result<usize, SettingsError> {
    match s.number(name) {
        None | Some(0) => Ok(default),
        Some(n) => usize::try_from(n).map_err(|_| wrong(format!("invalid {words}: {n}"))),
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, SettingsError> {
    std::path::absolute(&path).map_err(|e| wrong(format!("{}: {e}", path.display())))
}

fn hosts(s: &Settings, places: Option<&Places>) -> Result<Vec<Address>, SettingsError> {
    let own = |p: &Places| format!("unix://{}", p.runtime.join("corten.sock").display());
    let default = [places.map_or_else(|| DEFAULT_HOST.to_owned(), own)];
    let all = if s.list("host").is_empty() { &default[..] } else { s.list("host") };
    all.iter()
        .map(|h| h.parse().map_err(|e: corten_api::listen::InvalidAddress| wrong(e.to_string())))
        .collect()
}

fn tls(s: &Settings) -> Result<Option<Tls>, SettingsError> {
    let verify = s.bool_or("tlsverify", false);
    if !verify && !s.bool_or("tls", false) {
        return Ok(None);
    }
    let need = |name: &str| s.path(name).ok_or_else(|| wrong(format!("TLS needs --{name}")));
    Ok(Some(Tls {
        certificate: need("tlscert")?,
        key: need("tlskey")?,
        client_authority: if verify { Some(need("tlscacert")?) } else { None },
    }))
}

fn labels(s: &Settings) -> Result<Vec<String>, SettingsError> {
    let mut seen = BTreeMap::new();
    for label in s.list("label") {
        let (key, value) = label
            .split_once('=')
            .filter(|(k, v)| !k.is_empty() && !v.is_empty())
            .ok_or_else(|| wrong(format!("bad attribute format: {label}")))?;
        if seen.insert(key, value).is_some_and(|old| old != value) {
            return Err(wrong(format!("conflict labels for {key}={value} and {key}={}", seen[key])));
        }
    }
    Ok(s.list("label").to_vec())
}

fn check_features(s: &Settings) -> Result<(), SettingsError> {
    let Some(features) = s.json("features") else { return Ok(()) };
    let map = features.as_object().ok_or_else(|| wrong("features: an object is expected"))?;
    for (name, on) in map {
        match (name.as_str(), on.as_bool()) {
            ("containerd-snapshotter", Some(true)) | ("buildkit", Some(false)) | ("cdi", Some(_)) => {}
            (_, Some(_)) => {
                return Err(wrong(format!("features: {name}={on} is not supported by this daemon")));
            }
            (_, None) => return Err(wrong(format!("features: {name}: true or false is expected"))),
        }
    }
    Ok(())
}

fn engine(
    s: &Settings,
    root: PathBuf,
    exec_root: PathBuf,
    places: Option<&Places>,
) -> Result<EngineConfig, SettingsError> {
    let mut e = EngineConfig::new(root, exec_root);
    if let Some(places) = places {
        e.forwarder = Some(places.forwarder());
        e.resolv_conf = places.resolv_conf();
        for option in ["live-restore", "userns-remap"] {
            if s.bool_or(option, false) || s.text(option).is_some() {
                return Err(wrong(format!("--{option} is not supported by a rootless daemon")));
            }
        }
    }
    e.fast_joins = s.list("exec-opt").iter().any(|o| o == "native.cgroup-favordynmods=true");
    if let Some(driver) = s.text("log-driver") {
        driver.clone_into(&mut e.log.kind);
    }
    e.log.config = s.map("log-opt");
    corten_logs::Options::parse(&e.log.kind, &e.log.config)
        .map_err(|e| wrong(format!("failed to set log opts: {e}")))?;
    e.ulimits = ulimits(s)?;
    if let Some(size) = s.text("default-shm-size") {
        e.shm_size = units::ram_in_bytes(size).ok_or_else(|| wrong(format!("invalid size: '{size}'")))?;
    }
    e.init = s.bool_or("init", false);
    runtimes::apply(s, &mut e)?;
    if let Some(text) = s.text("userns-remap") {
        e.userns = userns::read(text, !s.bool_or("validate", false))?;
    }
    if s.given("cdi-spec-dir") {
        e.cdi_dirs = s.list("cdi-spec-dir").iter().filter(|d| !d.is_empty()).map(PathBuf::from).collect();
    }
    if s.json("features").is_some_and(|f| f["cdi"] == false) {
        e.cdi_dirs.clear();
    }
    e.dns = s.list("dns").to_vec();
    if let Some(bad) = e.dns.iter().find(|d| d.parse::<std::net::IpAddr>().is_err()) {
        return Err(wrong(format!("{bad} is not an ip address")));
    }
    e.dns_options = s.list("dns-opt").to_vec();
    e.dns_search = s.list("dns-search").to_vec();
    e.cgroup_driver = cgroup_driver(s, places.is_some())?;
    let given = s.text("cgroup-parent").map(str::to_owned);
    let delegated = || places.as_ref().and_then(|_| rootless::cgroup_parent());
    e.cgroup_parent = given.or_else(delegated).unwrap_or_else(|| e.cgroup_driver.parent().to_owned());
    check_cgroup_parent(e.cgroup_driver, &e.cgroup_parent).map_err(wrong)?;
    e.live_restore = s.bool_or("live-restore", places.is_none());
    if let Some(seconds) = s.number("shutdown-timeout") {
        // dockerd's -1 waits for ever; a year is long enough.
        e.shutdown_timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(365 * 86_400));
    }
    let gateway = s.list("host-gateway-ip").first().map(String::as_str).or_else(|| s.text("host-gateway-ip"));
    e.host_gateway = gateway
        .map(|g| g.parse().map_err(|_| wrong(format!("invalid value {g:?} for --host-gateway-ip"))))
        .transpose()?;
    one_of(s, "default-ipc-mode", &["private", "shareable"])?;
    if let Some(mode) = s.text("default-ipc-mode") {
        mode.clone_into(&mut e.ipc_mode);
    }
    one_of(s, "default-cgroupns-mode", &["private", "host"])?;
    s.text("default-cgroupns-mode").unwrap_or_default().clone_into(&mut e.cgroupns_mode);
    e.selinux = s.bool_or("selinux-enabled", false) && selinux::is_enabled();
    e.no_new_privileges = s.bool_or("no-new-privileges", false);
    e.seccomp_profile = seccomp(s)?;
    e.ipv6 = s.bool_or("ipv6", false);
    e.network_options = network_options(s)?;
    Ok(e)
}

/// The last `native.cgroupdriver` that is given.
fn cgroup_driver(s: &Settings, rootless: bool) -> Result<CgroupDriver, SettingsError> {
    let given = s.list("exec-opt").iter().rev().find_map(|o| o.strip_prefix("native.cgroupdriver="));
    match given {
        None | Some("" | "cgroupfs") => Ok(CgroupDriver::Cgroupfs),
        Some("systemd") if rootless => {
            Err(wrong("native.cgroupdriver=systemd is not supported by a rootless daemon"))
        }
        Some("systemd") if !systemd::is_running() => {
            Err(wrong(format!("native.cgroupdriver=systemd: {}", systemd::UnitError::NotRunning)))
        }
        Some("systemd") => Ok(CgroupDriver::Systemd),
        Some(other) => Err(wrong(format!("native.cgroupdriver option {other} not supported"))),
    }
}

fn ulimits(s: &Settings) -> Result<Vec<Ulimit>, SettingsError> {
    let limit = |(name, text): (String, String)| {
        let (soft, hard) = text.split_once(':').unwrap_or((&text, &text));
        match (soft.parse(), hard.parse()) {
            (Ok(soft), Ok(hard)) => Ok(Ulimit { name, soft, hard }),
            _ => Err(wrong(format!("invalid ulimit argument: {name}={text}"))),
        }
    };
    s.map("default-ulimit").into_iter().map(limit).collect()
}

fn seccomp(s: &Settings) -> Result<Option<String>, SettingsError> {
    match s.text("seccomp-profile") {
        None | Some("builtin") => Ok(None),
        Some("unconfined") => Ok(Some("unconfined".to_owned())),
        Some(path) => {
            let failed = |e: std::io::Error| wrong(format!("opening seccomp profile ({path}) failed: {e}"));
            if std::fs::metadata(path).map_err(failed)?.len() > MAX_SECCOMP {
                return Err(wrong(format!("seccomp profile ({path}) is larger than 1 MiB")));
            }
            std::fs::read_to_string(path).map(Some).map_err(failed)
        }
    }
}

fn network_options(s: &Settings) -> Result<BTreeMap<String, TextMap>, SettingsError> {
    let mut all: BTreeMap<String, TextMap> = match s.json("default-network-opts") {
        None => BTreeMap::new(),
        Some(json) => {
            serde_json::from_value(json.clone()).map_err(|e| wrong(format!("default-network-opts: {e}")))?
        }
    };
    for text in s.list("default-network-opt") {
        let mut parts = text.splitn(3, '=');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(driver), Some(option), Some(value)) if !driver.is_empty() && !option.is_empty() => {
                all.entry(driver.to_owned()).or_default().insert(option.to_owned(), value.to_owned());
            }
            _ => return Err(wrong(format!("default network opts must be driver=option=value: {text:?}"))),
        }
    }
    Ok(all)
}

fn net(s: &Settings, root: &Path, exec_root: PathBuf) -> Result<NetConfig, SettingsError> {
    let mut n = NetConfig::new(exec_root, instance(root));
    n.bridge = match s.text("bridge") {
        Some("none") => None,
        name => Some(DefaultBridge {
            name: name.map(str::to_owned),
            bip: parse(s, "bip")?,
            fixed_cidr: parse(s, "fixed-cidr")?,
            default_gateway: parse(s, "default-gateway")?,
            ipv6: s.bool_or("ipv6", false),
            bip6: parse(s, "bip6")?,
            fixed_cidr_v6: parse(s, "fixed-cidr-v6")?,
            default_gateway_v6: parse(s, "default-gateway-v6")?,
        }),
    };
    n.address_pools = pools(s)?;
    n.mtu = match s.number("mtu") {
        None | Some(0) => None,
        Some(mtu) => Some(u32::try_from(mtu).map_err(|_| wrong(format!("invalid default MTU: {mtu}")))?),
    };
    n.ip_forward = s.bool_or("ip-forward", true);
    n.firewall = s.bool_or("iptables", true);
    if s.given("ip6tables") && s.bool_or("ip6tables", true) != n.firewall {
        return Err(wrong(
            "--iptables and --ip6tables must be the same: one nftables table serves both families",
        ));
    }
    n.host_rules = match s.text("firewall") {
        None | Some("docker") => HostRules::Docker,
        Some("respect") if n.firewall => HostRules::Respect,
        Some("respect") => {
            return Err(wrong("--firewall=respect needs packet filter rules: --iptables must be true"));
        }
        Some(other) => return Err(wrong(format!("--firewall must be docker or respect: {other:?}"))),
    };
    n.ip_forward_no_drop = s.bool_or("ip-forward-no-drop", false);
    n.accept_mark = parse(s, "bridge-accept-fwmark")?;
    n.direct_routing = s.bool_or("allow-direct-routing", false);
    n.ip_masq = s.bool_or("ip-masq", true);
    n.bridge_names = s.bool_or("bridge-dns", false);
    n.relay = s.bool_or("userland-proxy", true);
    n.icc = s.bool_or("icc", true);
    n.host_ip = parse(s, "ip")?;
    Ok(n)
}

fn pools(s: &Settings) -> Result<Vec<AddressPool>, SettingsError> {
    let mut pools = Vec::new();
    let pool = |base: &str, size: u64| -> Result<AddressPool, SettingsError> {
        let bad = || wrong(format!("invalid address pool base={base},size={size}"));
        Ok(AddressPool {
            base: base.parse().map_err(|_| bad())?,
            size: u8::try_from(size).ok().filter(|n| (1..=128).contains(n)).ok_or_else(bad)?,
        })
    };
    for text in s.list("default-address-pool") {
        let fields: BTreeMap<&str, &str> = text.split(',').filter_map(|f| f.trim().split_once('=')).collect();
        let (Some(base), Some(size)) = (fields.get("base"), fields.get("size").and_then(|n| n.parse().ok()))
        else {
            return Err(wrong(format!("invalid argument {text:?} for --default-address-pool")));
        };
        pools.push(pool(base, size)?);
    }
    for entry in s.json("default-address-pools").and_then(|j| j.as_array()).into_iter().flatten() {
        let base = entry.get("base").and_then(|b| b.as_str()).unwrap_or_default();
        pools.push(pool(base, entry.get("size").and_then(serde_json::Value::as_u64).unwrap_or_default())?);
    }
    Ok(pools)
}

/// Tells daemons on one host apart: derived from the data root, so that it survives a restart.
fn instance(root: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a: nothing secret, only short and always the same.
    let hash = root
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn registry(s: &Settings) -> Result<ClientConfig, SettingsError> {
    let insecure = InsecureRegistries::parse(s.list("insecure-registry")).map_err(|e| wrong(e.text()))?;
    let proxies = s.json("proxies");
    let proxy = |flag: &str, variable: &str| {
        let file = proxies.and_then(|p| p.get(flag)).and_then(|v| v.as_str()).filter(|t| !t.is_empty());
        let environment = || {
            std::env::var(variable)
                .or_else(|_| std::env::var(variable.to_ascii_lowercase()))
                .unwrap_or_default()
        };
        s.text(flag).or(file).map_or_else(environment, str::to_owned)
    };
    let mut config = ClientConfig {
        insecure,
        mirrors: s.list("registry-mirror").to_vec(),
        proxy: ProxyConfig {
            http: proxy("http-proxy", "HTTP_PROXY"),
            https: proxy("https-proxy", "HTTPS_PROXY"),
            no_proxy: proxy("no-proxy", "NO_PROXY"),
        },
        ..ClientConfig::default()
    };
    if let Some(bad) = config.mirrors.iter().find(|m| !m.starts_with("http://") && !m.starts_with("https://"))
    {
        return Err(wrong(format!(
            "invalid mirror: no scheme specified for {bad:?}: must use either 'https://' or 'http://'"
        )));
    }
    if let Some(attempts) = s.number("max-download-attempts") {
        config.attempts = u32::try_from(attempts)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| wrong(format!("invalid max download attempts: {attempts}")))?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let args: Vec<_> = args.iter().map(std::ffi::OsString::from).collect();
        Settings::from_args(&args).and_then(|s| Config::new(&s)).map_err(|e| e.to_string())
    }

    #[test]
    fn values_arrive() {
        let c = config(&[
            "-H",
            "unix:///tmp/x.sock",
            "--data-root",
            "/d",
            "--exec-root",
            "/e",
            "--bip",
            "10.9.0.1/24",
            "--default-address-pool",
            "base=10.10.0.0/16,size=24",
            "--dns",
            "192.0.2.1",
            "--log-opt",
            "max-size=1m",
            "--default-ulimit",
            "nofile=10:20",
            "--insecure-registry",
            "r.test:5000",
            "--mtu",
            "1400",
        ])
        .unwrap();
        assert_eq!(c.pidfile, Path::new("/e/corten.pid"));
        assert_eq!(c.net.mtu, Some(1400));
        assert_eq!(c.net.address_pools.len(), 1);
        assert_eq!(c.engine.ulimits[0].hard, 20);
        assert_eq!(c.engine.log.config["max-size"], "1m");
        assert_eq!(c.net.instance.len(), 16);
        assert!(c.engine.live_restore);
    }

    #[test]
    fn refusals_are_clear() {
        for (args, want) in [
            (&["--storage-driver", "zfs"][..], "--storage-driver=zfs is not supported"),
            (&["--tlsverify"], "TLS needs --tlscert"),
            (&["--dns", "nope"], "nope is not an ip address"),
            (
                &["--log-driver", "nope"],
                "failed to set log opts: logger: no log driver named 'nope' is registered",
            ),
            (&["-H", "ftp://x"], "Invalid bind address format: ftp://x"),
            (&["--label", "x"], "bad attribute format: x"),
            (&["--exec-opt", "native.cgroupdriver=x"], "native.cgroupdriver option x not supported"),
            (&["--exec-opt", "native.x=y"], "--exec-opt native.x=y is not supported"),
            (&["--bip", "x"], "invalid value \"x\" for --bip"),
            (&["--metrics-addr", "9323"], "invalid metrics-addr \"9323\": "),
            (&["--max-concurrent-uploads", "-1"], "invalid max concurrent uploads: -1"),
            (&["--rootless"], "--rootless: start the daemon as the ordinary user"),
        ] {
            let text = config(args).unwrap_err();
            assert!(text.starts_with(want), "{text}");
        }
    }
}
