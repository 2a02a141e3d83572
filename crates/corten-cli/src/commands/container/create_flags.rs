//! The flags that `run` and `create` share.

use crate::flags::Kind::{
    Bool, Bytes, Cpus, Duration, Env, Gpus, Int, Int64, List, Map as Pairs, Mount, Network, SwapBytes, Text,
    Uint, Uint16, Ulimit,
};
use crate::flags::{Flag, flag, long};
use crate::opts;

/// Everything that `run` and `create` share.
pub(crate) const FLAGS: &[Flag] = &[
    long("add-host", List, "Extra line of /etc/hosts (name:ip)").check(check_host),
    long("annotation", Pairs, "Annotation handed to the OCI runtime"),
    flag("attach", 'a', List, "Stream to attach: stdin, stdout or stderr").check(check_stream),
    long("blkio-weight", Uint16, "Relative block I/O weight, 10 to 1000; 0 for none"),
    long("blkio-weight-device", List, "Relative block I/O weight of a device")
        .check(|t| opts::weight_device(t).map(drop)),
    long("cap-add", List, "Capability to add"),
    long("cap-drop", List, "Capability to take away"),
    long("cgroup-parent", Text, "Cgroup to make the container's cgroup in"),
    long("cgroupns", Text, "Cgroup namespace: host or private"),
    long("cidfile", Text, "File to write the container's ID to"),
    long("cpu-count", Int64, "Number of CPUs (Windows)"),
    long("cpu-percent", Int64, "CPU share in percent (Windows)"),
    long("cpu-period", Int64, "Period of the CPU quota in microseconds"),
    long("cpu-quota", Int64, "CPU time per period in microseconds"),
    long("cpu-rt-period", Int64, "Real-time CPU period in microseconds"),
    long("cpu-rt-runtime", Int64, "Real-time CPU time in microseconds"),
    flag("cpu-shares", 'c', Int64, "Relative CPU weight"),
    long("cpus", Cpus, "How many CPUs' worth of time"),
    long("cpuset-cpus", Text, "CPUs that may be used (0-3, 0,1)"),
    long("cpuset-mems", Text, "Memory nodes that may be used (0-3, 0,1)"),
    long("device", List, "Host device, or name of a CDI device"),
    long("device-cgroup-rule", List, "Further device rule, such as 'c 1:3 rwm'").check(opts::device_rule),
    long("device-read-bps", List, "Read limit of a device, bytes per second")
        .check(|t| opts::throttle(t, true).map(drop)),
    long("device-read-iops", List, "Read limit of a device, operations per second")
        .check(|t| opts::throttle(t, false).map(drop)),
    long("device-write-bps", List, "Write limit of a device, bytes per second")
        .check(|t| opts::throttle(t, true).map(drop)),
    long("device-write-iops", List, "Write limit of a device, operations per second")
        .check(|t| opts::throttle(t, false).map(drop)),
    long("disable-content-trust", Bool, "Do not verify signatures").default("true").hidden(),
    long("dns", List, "DNS server").check(check_ip),
    long("dns-option", List, "Option of the resolver").alias(&["dns-opt"]),
    long("dns-search", List, "Domain to search"),
    long("domainname", Text, "NIS domain"),
    long("entrypoint", Text, "Program instead of the image's entry point"),
    flag("env", 'e', Env, "Environment variable"),
    long("env-file", List, "File of environment variables"),
    long("expose", List, "Port or range that the container listens on"),
    long("gpus", Gpus, "GPUs: all, a number, or key=value pairs").check(|t| opts::gpus(t).map(drop)),
    long("group-add", List, "Further group"),
    long("health-cmd", Text, "Command that checks health"),
    long("health-interval", Duration, "Time between checks").default("0s"),
    long("health-retries", Int, "Failures in a row that mean unhealthy"),
    long("health-start-interval", Duration, "Time between checks while starting").default("0s"),
    long("health-start-period", Duration, "Time to start in which failures do not count").default("0s"),
    long("health-timeout", Duration, "Time one check may take").default("0s"),
    flag("hostname", 'h', Text, "Host name"),
    long("init", Bool, "Run a small init as PID 1 that forwards signals and reaps"),
    flag("interactive", 'i', Bool, "Keep standard input open"),
    long("io-maxbandwidth", Bytes, "I/O bandwidth of the system drive (Windows)"),
    long("io-maxiops", Uint, "I/O operations of the system drive (Windows)"),
    long("ip", Text, "IPv4 address"),
    long("ip6", Text, "IPv6 address"),
    long("ipc", Text, "IPC namespace: none, private, shareable, host or container:NAME"),
    long("isolation", Text, "Isolation technology"),
    long("kernel-memory", Bytes, "Kernel memory limit").hidden(),
    flag("label", 'l', List, "Label").check(opts::check_label),
    long("label-file", List, "File of labels"),
    long("link", List, "Container to link to"),
    long("link-local-ip", List, "Link-local address").check(check_ip),
    long("log-driver", Text, "Logging driver"),
    long("log-opt", List, "Option of the logging driver"),
    long("mac-address", Text, "MAC address"),
    flag("memory", 'm', Bytes, "Memory limit"),
    long("memory-reservation", Bytes, "Soft memory limit"),
    long("memory-swap", SwapBytes, "Limit of memory and swap together; -1 for no limit"),
    long("memory-swappiness", Int64, "Swappiness, 0 to 100").default("-1"),
    long("mount", Mount, "Mount: type=bind|volume|tmpfs|image,source=…,target=…"),
    long("name", Text, "Name"),
    long("network", Network, "Network to attach to").alias(&["net"]),
    long("net-rate-in", Text, "Bandwidth to the container: 10mbit"),
    long("net-rate-out", Text, "Bandwidth from the container: 10mbit"),
    long("network-alias", List, "Name on the network").alias(&["net-alias"]),
    long("no-healthcheck", Bool, "Ignore the image's health check"),
    long("oom-kill-disable", Bool, "Do not kill when memory runs out"),
    long("oom-score-adj", Int, "OOM score, -1000 to 1000"),
    long("pid", Text, "PID namespace: host or container:NAME"),
    long("pids-limit", Int64, "Number of processes; -1 for no limit"),
    long("platform", Text, "Platform of the image: os/architecture"),
    long("privileged", Bool, "Take all restrictions away"),
    flag("publish", 'p', List, "Publish a port: [ip:][host:]container[/protocol]"),
    flag("publish-all", 'P', Bool, "Publish all exposed ports on free host ports"),
    long("pull", Text, "When to pull the image: always, missing or never").default("missing"),
    flag("quiet", 'q', Bool, "Do not show the progress of a pull"),
    long("read-only", Bool, "Root file system read-only"),
    long("restart", Text, "Restart policy: no, on-failure[:max], always, unless-stopped").default("no"),
    long("rm", Bool, "Remove the container and its anonymous volumes when it ends"),
    long("runtime", Text, "OCI runtime"),
    long("security-opt", List, "Security option"),
    long("shm-size", Bytes, "Size of /dev/shm"),
    long("stop-signal", Text, "Signal that stops the container"),
    long("stop-timeout", Int, "Seconds until a stop becomes a kill"),
    long("storage-opt", List, "Option of the storage driver"),
    long("sysctl", Pairs, "Kernel parameter").check(check_sysctl),
    long("tmpfs", List, "Directory to mount a tmpfs on"),
    flag("tty", 't', Bool, "Allocate a terminal"),
    long("ulimit", Ulimit, "Resource limit: name=soft[:hard]"),
    long("use-api-socket", Bool, "Give the container the engine's socket"),
    flag("user", 'u', Text, "User and group: name|uid[:group|gid]"),
    long("userns", Text, "User namespace"),
    long("uts", Text, "UTS namespace"),
    flag("volume", 'v', List, "Bind or volume: [source:]target[:options]"),
    long("volume-driver", Text, "Driver of named volumes"),
    long("volumes-from", List, "Container whose volumes to mount too"),
    flag("workdir", 'w', Text, "Working directory"),
];

fn check_host(text: &str) -> Result<(), String> {
    opts::extra_host(text).map(drop)
}

/// Parameters that have a namespace; the kernel's others would change the host.
fn check_sysctl(text: &str) -> Result<(), String> {
    const NAMES: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let key = text.split('=').next().unwrap_or_default();
    let known = key.strip_prefix("kernel.").is_some_and(|name| NAMES.contains(&name));
    if text.contains('=') && (known || key.starts_with("net.") || key.starts_with("fs.mqueue.")) {
        return Ok(());
    }
    Err(format!("sysctl '{text}' is not allowed"))
}

fn check_ip(text: &str) -> Result<(), String> {
    match text.trim().parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

fn check_stream(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
    }
}
