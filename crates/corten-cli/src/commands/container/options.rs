//! The flags of `run` and `create`, and the request they make.

use corten_base::error::errno_text;
use serde_json::{Map, Value, json};

use super::api_socket;
use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Flags;
use crate::opts::{self, Ports, Volume};

/// A request for `POST /containers/create`, and what it means for our side.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) body: Value,
    pub(crate) image: String,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) attach_stdin: bool,
    pub(crate) attach_stdout: bool,
    pub(crate) attach_stderr: bool,
    pub(crate) auto_remove: bool,
    /// `--use-api-socket`, and the container does not bring credentials of its own.
    pub(crate) give_credentials: bool,
}

/// Makes the request from flags. Errors are texts without `docker: `.
pub(crate) fn create(cli: &Cli, flags: &Flags, detach: bool) -> Result<Create> {
    build(cli, flags, detach).map_err(|text| fail(text, 125))
}

fn build(cli: &Cli, flags: &Flags, detach: bool) -> Result<Create, String> {
    let args = flags.args();
    let (image, command) = args.split_first().ok_or("requires at least 1 argument")?;
    refuse(flags)?;
    let attach: Vec<String> = flags.list("attach").iter().map(|s| s.to_lowercase()).collect();
    let all = attach.is_empty() && !detach;
    let open_stdin = flags.on("interactive");
    let on = |name: &str| attach.iter().any(|a| a == name);
    let (attach_stdin, attach_stdout, attach_stderr) =
        (on("stdin") || (all && open_stdin), on("stdout") || all, on("stderr") || all);
    let tty = flags.on("tty");
    let mut ports = Ports::default();
    for spec in flags.list("publish") {
        opts::publish(&mut ports, &spec)?;
    }
    for spec in flags.list("expose") {
        opts::expose(&mut ports, &spec)?;
    }
    let (mut binds, mut anonymous) = (Vec::new(), Map::new());
    for spec in flags.list("volume") {
        match opts::volume(&spec)? {
            Volume::Bind(bind) => binds.push(bind),
            Volume::Anonymous(path) => drop(anonymous.insert(path, json!({}))),
        }
    }
    let mut body = json!({
        "Hostname": flags.text("hostname"),
        "Domainname": flags.text("domainname"),
        "User": flags.text("user"),
        "AttachStdin": attach_stdin,
        "AttachStdout": attach_stdout,
        "AttachStderr": attach_stderr,
        "Tty": tty,
        "OpenStdin": open_stdin,
        "StdinOnce": open_stdin && attach_stdin,
        "Env": Value::Null,
        "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
        "Image": image,
        "Volumes": anonymous,
        "WorkingDir": flags.text("workdir"),
        "Entrypoint": Value::Null,
        "OnBuild": Value::Null,
        "Labels": opts::labels(&flags.list("label"), &flags.list("label-file"))?,
    });
    set_if(&mut body, "ExposedPorts", ports.exposed());
    if flags.changed("entrypoint") {
        body["Entrypoint"] = json!([flags.text("entrypoint")]);
    }
    if flags.changed("stop-signal") {
        body["StopSignal"] = flags.text("stop-signal").into();
    }
    if flags.changed("stop-timeout") {
        body["StopTimeout"] = flags.int("stop-timeout").into();
    }
    if flags.changed("mac-address") {
        check_mac(flags.text("mac-address"))?;
    }
    set_if(&mut body, "Healthcheck", health(flags)?);
    let mut env = opts::environment(&flags.list("env"), &flags.list("env-file"))?;
    let proxies = proxy_environment(cli, &env);
    env.extend(proxies);
    let has_config = env.iter().any(|e| e.starts_with("DOCKER_CONFIG="));
    if flags.on("use-api-socket") && !has_config {
        env.push(format!("DOCKER_CONFIG={}", api_socket::CONFIG_DIR));
    }
    body["Env"] = null_if_empty(env);
    let networks = super::networking::networks(flags)?;
    body["HostConfig"] = host_config(flags, &ports, binds, &networks.mode)?;
    if flags.on("use-api-socket") {
        let mount = api_socket::mount(cli)?;
        match body["HostConfig"]["Mounts"].as_array_mut() {
            Some(mounts) => mounts.push(mount),
            None => body["HostConfig"]["Mounts"] = json!([mount]),
        }
    }
    body["NetworkingConfig"] = json!({"EndpointsConfig": networks.endpoints});
    Ok(Create {
        image: image.clone(),
        tty,
        open_stdin,
        attach_stdin,
        attach_stdout,
        attach_stderr,
        auto_remove: flags.on("rm"),
        give_credentials: flags.on("use-api-socket") && !has_config,
        body,
    })
}

fn set_if(body: &mut Value, key: &str, value: Value) {
    if !value.is_null() {
        body[key] = value;
    }
}

/// Options that this engine cannot honour are refused, not ignored.
fn refuse(flags: &Flags) -> Result<(), String> {
    for name in ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"] {
        if flags.changed(name) {
            return Err(format!("invalid option: --{name} is only supported on Windows"));
        }
    }
    let swappiness = flags.int("memory-swappiness");
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(format!("invalid value: {swappiness}. Valid memory swappiness range is 0-100"));
    }
    for (flag, modes) in [("pid", "PID"), ("uts", "UTS"), ("userns", "USER"), ("cgroupns", "CGROUP")] {
        let value = flags.text(flag);
        let good = match flag {
            "pid" => {
                matches!(value, "" | "host")
                    || value.strip_prefix("container:").is_some_and(|n| !n.is_empty())
            }
            "uts" | "userns" => matches!(value, "" | "host"),
            _ => matches!(value, "" | "host" | "private"),
        };
        if !good {
            return Err(format!("--{flag}: invalid {modes} mode"));
        }
    }
    Ok(())
}

fn check_mac(text: &str) -> Result<(), String> {
    let groups: Vec<&str> = text.split([':', '-']).collect();
    let good = groups.len() == 6 && groups.iter().all(|g| g.len() == 2 && u8::from_str_radix(g, 16).is_ok());
    if good { Ok(()) } else { Err(format!("{text} is not a valid mac address")) }
}

fn health(flags: &Flags) -> Result<Value, String> {
    const OPTIONS: [&str; 6] = [
        "health-cmd",
        "health-interval",
        "health-timeout",
        "health-start-period",
        "health-start-interval",
        "health-retries",
    ];
    let given = OPTIONS.iter().any(|name| flags.changed(name));
    if flags.on("no-healthcheck") {
        if given {
            return Err("--no-healthcheck conflicts with --health-* options".into());
        }
        return Ok(json!({"Test": ["NONE"]}));
    }
    if !given {
        return Ok(Value::Null);
    }
    let mut out = Map::new();
    if !flags.text("health-cmd").is_empty() {
        out.insert("Test".into(), json!(["CMD-SHELL", flags.text("health-cmd")]));
    }
    for (key, name) in [
        ("Interval", "health-interval"),
        ("Timeout", "health-timeout"),
        ("StartPeriod", "health-start-period"),
        ("StartInterval", "health-start-interval"),
    ] {
        if flags.text(name).starts_with('-') {
            return Err(format!("--{name} cannot be negative"));
        }
        if flags.duration_ns(name) != 0 {
            out.insert(key.into(), flags.duration_ns(name).into());
        }
    }
    if flags.int("health-retries") < 0 {
        return Err("--health-retries cannot be negative".into());
    }
    if flags.int("health-retries") != 0 {
        out.insert("Retries".into(), flags.int("health-retries").into());
    }
    Ok(Value::Object(out))
}

/// Proxy settings of config.json that the container does not set itself.
fn proxy_environment(cli: &Cli, env: &[String]) -> Vec<String> {
    let config = cli.config().borrow();
    let Some(proxies) = config.get("proxies").and_then(Value::as_object) else { return Vec::new() };
    let host = cli.globals.host.clone().or_else(|| cli.env.host.clone()).unwrap_or_default();
    let Some(settings) = proxies.get(&host).or_else(|| proxies.get("default")) else { return Vec::new() };
    let mut out = Vec::new();
    for (key, name) in crate::commands::PROXY_KEYS {
        let Some(value) = settings.get(*key).and_then(Value::as_str).filter(|v| !v.is_empty()) else {
            continue;
        };
        for name in [(*name).to_owned(), name.to_lowercase()] {
            let set = env.iter().any(|e| e.split('=').next() == Some(name.as_str()));
            if !set {
                out.push(format!("{name}={value}"));
            }
        }
    }
    out
}

fn host_config(
    flags: &Flags,
    ports: &Ports,
    binds: Vec<String>,
    network_mode: &str,
) -> Result<Value, String> {
    let restart = opts::restart_policy(flags.text("restart"))?;
    if flags.on("rm") && restart["Name"] != "no" && restart["Name"] != "" {
        return Err("conflicting options: cannot specify both --restart and --rm".into());
    }
    let mut tmpfs = Map::new();
    for spec in flags.list("tmpfs") {
        let (path, options) = spec.split_once(':').unwrap_or((&spec, ""));
        tmpfs.insert(path.into(), options.into());
    }
    let (mut devices, mut requests, mut cdi) = (Vec::new(), Vec::new(), Vec::new());
    for spec in flags.list("device") {
        if opts::is_cdi(&spec) { cdi.push(spec) } else { devices.push(opts::device(&spec)?) }
    }
    for spec in flags.list("gpus") {
        requests.push(opts::gpus(&spec)?);
    }
    if !cdi.is_empty() {
        requests.push(
            json!({"Driver": "cdi", "Count": 0, "DeviceIDs": cdi, "Capabilities": null, "Options": null}),
        );
    }
    let hosts: Result<Vec<String>, String> =
        flags.list("add-host").iter().map(|h| opts::extra_host(h)).collect();
    let ulimits: Result<Vec<Value>, String> = flags.list("ulimit").iter().map(|u| opts::ulimit(u)).collect();
    let security = security(&flags.list("security-opt"))?;
    let mut mounts = Vec::new();
    for spec in flags.list("mount") {
        mounts.push(opts::mount(&spec)?);
    }
    let log_options = opts::pairs(&flags.list("log-opt"));
    if flags.text("log-driver") == "none" && !log_options.is_empty() {
        return Err("invalid logging opts for driver none".into());
    }
    let list = |name: &str| null_if_empty(flags.list(name));
    let mut out = json!({
        "Binds": null_if_empty(binds),
        "ContainerIDFile": flags.text("cidfile"),
        "LogConfig": {"Type": flags.text("log-driver"), "Config": log_options},
        "NetworkMode": network_mode,
        "PortBindings": ports.bindings(),
        "RestartPolicy": restart,
        "AutoRemove": flags.on("rm"),
        "VolumeDriver": flags.text("volume-driver"),
        "VolumesFrom": list("volumes-from"),
        "ConsoleSize": console_size(flags),
        "CapAdd": null_if_empty(capabilities(&flags.list("cap-add"))),
        "CapDrop": null_if_empty(capabilities(&flags.list("cap-drop"))),
        "CgroupnsMode": flags.text("cgroupns"),
        "Dns": flags.list("dns"),
        "DnsOptions": flags.list("dns-option"),
        "DnsSearch": flags.list("dns-search"),
        "ExtraHosts": null_if_empty(hosts?),
        "GroupAdd": list("group-add"),
        "IpcMode": flags.text("ipc"),
        "Cgroup": "",
        "Links": list("link"),
        "OomScoreAdj": flags.int("oom-score-adj"),
        "PidMode": flags.text("pid"),
        "Privileged": flags.on("privileged"),
        "PublishAllPorts": flags.on("publish-all"),
        "ReadonlyRootfs": flags.on("read-only"),
        "SecurityOpt": null_if_empty(security.options),
        "UTSMode": flags.text("uts"),
        "UsernsMode": flags.text("userns"),
        "ShmSize": flags.bytes("shm-size"),
        "Isolation": flags.text("isolation"),
        "MaskedPaths": security.paths.clone(),
        "ReadonlyPaths": security.paths,
    });
    for (flag, key) in [("net-rate-in", "NetRateIn"), ("net-rate-out", "NetRateOut")] {
        if flags.changed(flag) {
            out[key] = opts::rate(flags.text(flag))?.into();
        }
    }
    let optional = [
        ("Annotations", opts::pairs(&flags.list("annotation"))),
        ("StorageOpt", opts::pairs(&flags.list("storage-opt"))),
        ("Sysctls", opts::pairs(&flags.list("sysctl"))),
        ("Tmpfs", tmpfs),
    ];
    for (key, value) in optional {
        if !value.is_empty() {
            out[key] = Value::Object(value);
        }
    }
    if !mounts.is_empty() {
        out["Mounts"] = json!(mounts);
    }
    if flags.changed("runtime") {
        out["Runtime"] = flags.text("runtime").into();
    }
    if flags.changed("init") {
        out["Init"] = flags.on("init").into();
    }
    resources(flags, &mut out);
    out["Devices"] = json!(devices);
    out["DeviceRequests"] = if requests.is_empty() { Value::Null } else { json!(requests) };
    let mut ulimits = ulimits?;
    ulimits.sort_by_key(|u| u["Name"].as_str().map(str::to_owned));
    out["Ulimits"] = json!(ulimits);
    Ok(out)
}

/// `[rows, columns]` of our terminal, so that the container's starts with the right size.
fn console_size(flags: &Flags) -> Value {
    match crate::term::size() {
        Some((rows, columns)) if flags.on("tty") => json!([rows, columns]),
        _ => json!([0, 0]),
    }
}

/// Names with their prefix, each once, in order; `ALL` alone where it is among them.
fn capabilities(given: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in given {
        let upper = name.trim().to_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            return vec!["ALL".into()];
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if !out.contains(&full) {
            out.push(full);
        }
    }
    out.sort();
    out
}

fn null_if_empty<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

fn resources(flags: &Flags, out: &mut Value) {
    let throttle = |name: &str, bytes| -> Value {
        let all: Vec<Value> = flags.list(name).iter().filter_map(|t| opts::throttle(t, bytes).ok()).collect();
        json!(all)
    };
    let weights: Vec<Value> =
        flags.list("blkio-weight-device").iter().filter_map(|t| opts::weight_device(t).ok()).collect();
    for (key, value) in [
        ("CpuShares", flags.int("cpu-shares").into()),
        ("Memory", flags.bytes("memory").into()),
        ("NanoCpus", opts::cpus(flags.text("cpus")).unwrap_or(0).into()),
        ("CgroupParent", flags.text("cgroup-parent").into()),
        ("BlkioWeight", flags.int("blkio-weight").into()),
        ("BlkioWeightDevice", json!(weights)),
        ("BlkioDeviceReadBps", throttle("device-read-bps", true)),
        ("BlkioDeviceWriteBps", throttle("device-write-bps", true)),
        ("BlkioDeviceReadIOps", throttle("device-read-iops", false)),
        ("BlkioDeviceWriteIOps", throttle("device-write-iops", false)),
        ("CpuPeriod", flags.int("cpu-period").into()),
        ("CpuQuota", flags.int("cpu-quota").into()),
        ("CpuRealtimePeriod", flags.int("cpu-rt-period").into()),
        ("CpuRealtimeRuntime", flags.int("cpu-rt-runtime").into()),
        ("CpusetCpus", flags.text("cpuset-cpus").into()),
        ("CpusetMems", flags.text("cpuset-mems").into()),
        ("DeviceCgroupRules", null_if_empty(flags.list("device-cgroup-rule"))),
        ("MemoryReservation", flags.bytes("memory-reservation").into()),
        ("MemorySwap", flags.bytes("memory-swap").into()),
        ("MemorySwappiness", flags.int("memory-swappiness").into()),
        ("OomKillDisable", flags.on("oom-kill-disable").into()),
        ("PidsLimit", flags.int("pids-limit").into()),
        ("CpuCount", 0.into()),
        ("CpuPercent", 0.into()),
        ("IOMaximumIOps", 0.into()),
        ("IOMaximumBandwidth", 0.into()),
    ] {
        out[key] = value;
    }
    if flags.changed("kernel-memory") {
        out["KernelMemory"] = flags.bytes("kernel-memory").into();
    }
}

struct Security {
    options: Vec<String>,
    /// Empty lists where system paths are to be visible, null otherwise.
    paths: Value,
}

/// Reads `--security-opt`: profiles are sent, not their paths.
fn security(values: &[String]) -> Result<Security, String> {
    let (mut options, mut paths) = (Vec::new(), Value::Null);
    for value in values {
        let separator = if value.contains('=') { '=' } else { ':' };
        match value.split_once(separator) {
            None if value == "systempaths=unconfined" => paths = json!([]),
            None if value != "no-new-privileges" => return Err(format!("Invalid --security-opt: {value:?}")),
            Some(("systempaths", "unconfined")) => paths = json!([]),
            Some(("seccomp", profile)) if !["unconfined", "builtin"].contains(&profile) => {
                let text = std::fs::read_to_string(profile).map_err(|e| {
                    format!("opening seccomp profile ({profile}) failed: open {profile}: {}", errno_text(&e))
                })?;
                let json: Value = serde_json::from_str(&text)
                    .map_err(|e| format!("compacting json for seccomp profile ({profile}) failed: {e}"))?;
                options.push(format!("seccomp={json}"));
            }
            _ => options.push(value.clone()),
        }
    }
    Ok(Security { options, paths })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Globals;
    use crate::env;

    /// What the API gets for these arguments, at a JSON pointer.
    fn sent(words: &str, pointer: &str) -> Result<Value, String> {
        let words: Vec<std::ffi::OsString> = words.split(' ').map(Into::into).collect();
        let flags = crate::flags::parse(&[super::super::create_flags::FLAGS], false, &words)?;
        let cli = Cli::new(env::Env::default(), Globals::default(), "docker create".into());
        let body = create(&cli, &flags, false).map_err(|e| e.to_string())?.body;
        Ok(body.pointer(pointer).cloned().unwrap_or(Value::Null))
    }

    #[test]
    fn flags_become_fields() {
        for (words, pointer, want) in [
            ("x a b", "/Cmd", json!(["a", "b"])),
            ("-it x", "/StdinOnce", json!(true)),
            ("-l a=b -l c x", "/Labels", json!({"a": "b", "c": ""})),
            ("-e A=1 x", "/Env", json!(["A=1"])),
            ("--entrypoint /e x", "/Entrypoint", json!(["/e"])),
            ("-m 1g x", "/HostConfig/Memory", json!(1 << 30)),
            ("--memory-swap -1 x", "/HostConfig/MemorySwap", json!(-1)),
            ("--cpus .5 x", "/HostConfig/NanoCpus", json!(500_000_000)),
            (
                "--cap-add net_admin --cap-add CAP_CHOWN x",
                "/HostConfig/CapAdd",
                json!(["CAP_CHOWN", "CAP_NET_ADMIN"]),
            ),
            (
                "--restart on-failure:2 x",
                "/HostConfig/RestartPolicy",
                json!({"Name": "on-failure", "MaximumRetryCount": 2}),
            ),
            ("-v /a:/b -v v:/c:ro x", "/HostConfig/Binds", json!(["/a:/b", "v:/c:ro"])),
            ("-v /d x", "/Volumes", json!({"/d": {}})),
            ("--tmpfs /t:size=1m x", "/HostConfig/Tmpfs", json!({"/t": "size=1m"})),
            ("-p 80:81 x", "/HostConfig/PortBindings", json!({"81/tcp": [{"HostIp": "", "HostPort": "80"}]})),
            ("--expose 5/udp x", "/ExposedPorts", json!({"5/udp": {}})),
            ("--net host x", "/HostConfig/NetworkMode", json!("host")),
            (
                "--network n --ip 1.2.3.4 x",
                "/NetworkingConfig/EndpointsConfig/n/IPAMConfig",
                json!({"IPv4Address": "1.2.3.4"}),
            ),
            (
                "--health-cmd x --health-interval 2s x",
                "/Healthcheck",
                json!({"Test": ["CMD-SHELL", "x"], "Interval": 2_000_000_000i64}),
            ),
            ("--security-opt systempaths=unconfined x", "/HostConfig/MaskedPaths", json!([])),
            ("--gpus all x", "/HostConfig/DeviceRequests/0/Count", json!(-1)),
            ("--init x", "/HostConfig/Init", json!(true)),
            ("x", "/HostConfig/Init", Value::Null),
        ] {
            assert_eq!(sent(words, pointer), Ok(want), "{words}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (words, want) in [
            ("--rm --restart always x", "conflicting options: cannot specify both --restart and --rm"),
            ("--no-healthcheck --health-cmd x x", "--no-healthcheck conflicts with --health-* options"),
            ("--pid foo x", "--pid: invalid PID mode"),
            ("--cpu-count 1 x", "invalid option: --cpu-count is only supported on Windows"),
            ("--memory-swappiness 101 x", "invalid value: 101. Valid memory swappiness range is 0-100"),
            ("--network a --network a x", "network \"a\" is specified multiple times"),
        ] {
            assert_eq!(sent(words, "/Image"), Err(want.into()), "{words}");
        }
    }
}
