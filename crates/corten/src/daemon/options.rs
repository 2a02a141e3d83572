//! dockerd's options, each once: its flag, its key in the configuration file, what it takes.

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true`.
    Bool,
    /// A text.
    Text,
    /// A number.
    Number,
    /// Any number of texts.
    List,
    /// Any number of `key=value`; an object in the file.
    Map,
    /// A text on the command line, any JSON in the file.
    Json,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Its flag without dashes; empty where the file alone has it.
    pub(crate) long: &'static str,
    /// Its one-letter form.
    pub(crate) short: Option<char>,
    /// Its key in the file; empty where only the flag exists.
    pub(crate) key: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// Its line in `--help`; empty where we know it only to refuse it.
    pub(crate) help: &'static str,
}

const fn flag(long: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { long, short: None, key: long, kind, help }
}

impl Flag {
    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn key(mut self, key: &'static str) -> Self {
        self.key = key;
        self
    }

    /// Whether `help` says that we do it.
    pub(crate) const fn is_supported(&self) -> bool {
        !self.help.is_empty()
    }
}

use Kind::{Bool, Json, List, Map, Number, Text};

/// All options.
pub(crate) static OPTIONS: &[Flag] = &[
    flag("host", List, "Address to listen on: unix://PATH, tcp://HOST:PORT, fd://").short('H').key("hosts"),
    flag("config-file", Text, "Configuration file").key(""),
    flag("validate", Bool, "Check flags and configuration file, then exit").key(""),
    flag("version", Bool, "Print the version and exit").short('v').key(""),
    flag("help", Bool, "Print this and exit").short('h').key(""),
    flag("data-root", Text, "Directory of all persistent state"),
    flag("exec-root", Text, "Directory of all state that ends with the machine"),
    flag("pidfile", Text, "File for our process id").short('p'),
    flag("group", Text, "Group of the unix socket").short('G'),
    flag("debug", Bool, "Log debug messages").short('D'),
    flag("log-level", Text, "trace, debug, info, warn, error").short('l'),
    flag("log-format", Text, "text or json"),
    flag("raw-logs", Bool, "Logs without colours (they never have any)"),
    flag("metrics-addr", Text, "Address of /metrics for Prometheus: HOST:PORT"),
    flag("experimental", Bool, "Report experimental features as switched on"),
    flag("label", List, "key=value shown by GET /info").key("labels"),
    flag("shutdown-timeout", Number, "Seconds that containers get when they are stopped at shutdown"),
    flag("live-restore", Bool, "Containers go on when the daemon ends (default true)"),
    flag("rootless", Bool, "Set by the daemon of an ordinary user in its own namespaces").key(""),
    flag("tls", Bool, "TLS on tcp:// listeners"),
    flag("tlsverify", Bool, "TLS, and clients need a certificate"),
    flag("tlscacert", Text, "Certificates that sign those of clients"),
    flag("tlscert", Text, "Our certificate"),
    flag("tlskey", Text, "Our key"),
    // containers
    flag("log-driver", Text, "Default log driver"),
    flag("log-opt", Map, "Default options of the log driver").key("log-opts"),
    flag("default-ulimit", Map, "Default limits: name=soft[:hard]").key("default-ulimits"),
    flag("default-shm-size", Text, "Default size of /dev/shm"),
    flag("default-ipc-mode", Text, "private or shareable"),
    flag("default-cgroupns-mode", Text, "host or private"),
    flag("cgroup-parent", Text, "Parent of all containers' cgroups"),
    flag("init", Bool, "An init in every container that does not say otherwise"),
    flag("no-new-privileges", Bool, "Default of the security option of this name"),
    flag("seccomp-profile", Text, "File with the default seccomp profile, builtin, or unconfined"),
    flag("exec-opt", List, "native.cgroupdriver=cgroupfs|systemd, native.cgroup-favordynmods=true")
        .key("exec-opts"),
    flag("default-runtime", Text, "Runtime of containers that name none (default runc: the built-in one)"),
    flag("add-runtime", List, "name=path: a program with runc's command line").key(""),
    Flag { long: "", short: None, key: "runtimes", kind: Json, help: "see --add-runtime" },
    flag("userns-remap", Text, "User namespaces for containers: default, user[:group] or uid[:gid]"),
    flag("cdi-spec-dir", List, "Directory of CDI specifications (default /etc/cdi, /var/run/cdi)")
        .key("cdi-spec-dirs"),
    flag("storage-driver", Text, "overlayfs").short('s'),
    // networks
    flag("bridge", Text, "Name of the default bridge; none for no default network").short('b'),
    flag("bip", Text, "Address and prefix of the default bridge"),
    flag("bip6", Text, "IPv6 address and prefix of the default bridge"),
    flag("fixed-cidr", Text, "IPv4 range of containers on the default bridge"),
    flag("fixed-cidr-v6", Text, "IPv6 subnet of the default bridge"),
    flag("default-gateway", Text, "IPv4 gateway of containers on the default bridge"),
    flag("default-gateway-v6", Text, "IPv6 gateway of containers on the default bridge"),
    flag("default-address-pool", List, "base=CIDR,size=N: pool that networks get subnets from").key(""),
    Flag {
        long: "",
        short: None,
        key: "default-address-pools",
        kind: Json,
        help: "see --default-address-pool",
    },
    flag("default-network-opt", List, "driver=option=value for new networks").key(""),
    Flag {
        long: "",
        short: None,
        key: "default-network-opts",
        kind: Json,
        help: "see --default-network-opt",
    },
    flag("mtu", Number, "MTU of networks; 0 follows the host's default route"),
    flag("icc", Bool, "Containers on the default bridge may talk to each other (default true)"),
    flag(
        "bridge-dns",
        Bool,
        "Containers on the default bridge, and steps of builds, find each other by name",
    ),
    flag("ip", Text, "Default address of published ports"),
    flag("ip-forward", Bool, "Switch forwarding on (default true)"),
    flag("ip-masq", Bool, "Masquerade the default bridge (default true)"),
    flag("iptables", Bool, "Make packet filter rules (default true)"),
    flag("ip6tables", Bool, "Make IPv6 packet filter rules (default true)"),
    flag("firewall-backend", Text, "nftables"),
    flag("firewall", Text, "docker, or respect: published ports are subject to the host's own rules"),
    flag("ip-forward-no-drop", Bool, "Switching forwarding on leaves the host's other links open to it"),
    flag("bridge-accept-fwmark", Text, "VALUE[/MASK]: packets into bridges with this mark are let through"),
    flag("allow-direct-routing", Bool, "Published ports can be reached at containers' addresses too"),
    flag("ipv6", Bool, "IPv6 on the default bridge"),
    flag(
        "userland-proxy",
        Bool,
        "Published ports of IPv6 addresses lead to containers without IPv6 too (default true)",
    ),
    flag("dns", List, "Default name servers"),
    flag("dns-opt", List, "Default resolver options").key("dns-opts"),
    flag("dns-search", List, "Default search domains"),
    flag("host-gateway-ip", List, "What host-gateway in --add-host stands for").key("host-gateway-ips"),
    Flag { long: "", short: None, key: "host-gateway-ip", kind: Text, help: "see --host-gateway-ip" },
    // registries
    flag("insecure-registry", List, "Registry that may be talked to without verified TLS")
        .key("insecure-registries"),
    flag("registry-mirror", List, "Mirror of the default registry").key("registry-mirrors"),
    flag("max-concurrent-downloads", Number, "Layers of one pull at the same time (default 3)"),
    flag("max-concurrent-uploads", Number, "Layers of one push at the same time (default 5)"),
    flag("max-download-attempts", Number, "Attempts of one download (default 5)"),
    flag("http-proxy", Text, "Proxy for http:// registries").key(""),
    flag("https-proxy", Text, "Proxy for https:// registries").key(""),
    flag("no-proxy", Text, "Hosts that are reached without the proxy").key(""),
    Flag { long: "", short: None, key: "proxies", kind: Json, help: "http-proxy, https-proxy, no-proxy" },
    Flag { long: "", short: None, key: "features", kind: Json, help: "containerd-snapshotter, buildkit" },
    flag(
        "selinux-enabled",
        Bool,
        "Containers and their files have labels of their own, where the kernel has SELinux",
    ),
    // known, and refused
    flag("authorization-plugin", List, "").key("authorization-plugins"),
    flag("storage-opt", List, "").key("storage-opts"),
    flag("containerd", Text, ""),
    flag("containerd-namespace", Text, ""),
    flag("containerd-plugins-namespace", Text, "").key("containerd-plugin-namespace"),
    flag("cri-containerd", Bool, ""),
    flag("init-path", Text, ""),
    flag("swarm-default-advertise-addr", Text, ""),
    flag("network-control-plane-mtu", Number, ""),
    flag("node-generic-resource", List, "").key("node-generic-resources"),
    flag("cpu-rt-period", Number, ""),
    flag("cpu-rt-runtime", Number, ""),
    flag("userland-proxy-path", Text, ""),
    flag("min-api-version", Text, "").key(""),
    Flag { long: "", short: None, key: "builder", kind: Json, help: "" },
];

/// `--help`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Usage: corten daemon [OPTIONS]\n\nA self-sufficient runtime for containers.\n\nOptions:\n",
    );
    for o in OPTIONS.iter().filter(|o| !o.long.is_empty() && o.is_supported()) {
        let short = o.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
        let takes = match o.kind {
            Bool => "",
            Number => " int",
            Text | Json => " string",
            List => " list",
            Map => " map",
        };
        let left = format!("  {short}--{}{takes}", o.long);
        text.push_str(&format!("{left:<36} {}\n", o.help));
    }
    text
}
