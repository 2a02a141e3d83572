//! Networks: what a user asks for (`NetworkSpec`) and what was made of it (`NetworkRecord`, persisted by the
//! engine).
//!
//! Pure: parsing and validating options and address plans. Error texts are Docker's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corten_base::Id;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::NetError;

/// Names of the driver options we understand.
pub mod option {
    /// Name of the bridge link.
    pub const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
    /// Names of containers on the network `bridge` (ours, not Docker's).
    pub const NAMES: &str = "io.corten.network.names";
    /// Marks the network `bridge`.
    pub const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
    /// Whether containers of the network may talk to each other.
    pub const ICC: &str = "com.docker.network.bridge.enable_icc";
    /// Whether traffic leaving the network takes the host's address.
    pub const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    /// Host address that published ports bind to by default.
    pub const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    /// Whether the bridge goes without an address.
    pub const INHIBIT_V4: &str = "com.docker.network.bridge.inhibit_ipv4";
    /// How IPv4 packets reach containers: `nat`, `nat-unprotected`, `routed`, `isolated`.
    pub const GATEWAY_MODE_V4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
    /// The same for IPv6.
    pub const GATEWAY_MODE_V6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
    /// Links from which container addresses may be reached directly, separated by `:`.
    pub const TRUSTED_INTERFACES: &str = "com.docker.network.bridge.trusted_host_interfaces";
    /// MTU of the bridge and of the containers' links.
    pub const MTU: &str = "com.docker.network.driver.mtu";
    /// Prefix of the link names inside containers, `eth` by default.
    pub const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
    /// How often neighbours are told of a container's address, 0 to 3.
    pub const ADVERTISE_COUNT: &str = "com.docker.network.advertise_addr_nmsgs";
    /// In between, 100 to 2000 milliseconds.
    pub const ADVERTISE_INTERVAL: &str = "com.docker.network.advertise_addr_ms";
    /// Source address of traffic that leaves the network (instead of masquerading).
    pub const HOST_IPV4: &str = "com.docker.network.host_ipv4";
    /// The same for IPv6.
    pub const HOST_IPV6: &str = "com.docker.network.host_ipv6";
    /// Overrides `EnableIPv4`.
    pub const ENABLE_V4: &str = "com.docker.network.enable_ipv4";
    /// Overrides `EnableIPv6`.
    pub const ENABLE_V6: &str = "com.docker.network.enable_ipv6";
    /// Parent link of a macvlan network.
    pub const PARENT: &str = "parent";
    /// Mode of a macvlan network.
    pub const MACVLAN_MODE: &str = "macvlan_mode";
    /// Mode of an ipvlan network: `l2`, `l3`, `l3s`.
    pub const IPVLAN_MODE: &str = "ipvlan_mode";
    /// What sub-interfaces of one ipvlan parent may say to each other: `bridge`, `private`, `vepa`.
    pub const IPVLAN_FLAG: &str = "ipvlan_flag";
}

/// One entry of `IPAM.Config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// The subnet; `None` takes one from the address pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<IpNet>,
    /// The part of the subnet that containers get addresses from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    /// The host's address in the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Addresses that are never given out, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// A network as a user wants it.
#[derive(Debug, Clone)]
pub struct NetworkSpec {
    /// Its id, chosen by the engine.
    pub id: Id,
    /// Its name (also the suffix of names in DNS).
    pub name: String,
    /// `bridge` or `macvlan`; `host` and `none` need nothing from this crate.
    pub driver: String,
    /// `default` (or empty) is the only one we have.
    pub ipam_driver: String,
    /// `IPAM.Config`.
    pub ipam: Vec<IpamConfig>,
    /// No traffic to or from outside.
    pub internal: bool,
    /// `EnableIPv4`.
    pub ipv4: bool,
    /// `EnableIPv6`.
    pub ipv6: bool,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// Checks the address plan as [`crate::Net::create_network`] does, for a network that is not made.
    pub fn validate_ipam(&self) -> Result<(), NetError> {
        let (_, v6) = families(self)?;
        validate_ipam(&self.ipam, v6)
    }
}

/// The drivers that make links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge with veth pairs.
    Bridge,
    /// Sub-interfaces of a host link.
    Macvlan,
    /// The same under the host link's own hardware address.
    Ipvlan,
}

/// How packets from other links reach the containers of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Published ports only, through address translation.
    #[default]
    Nat,
    /// Like `nat`, but all ports can be reached directly too.
    NatUnprotected,
    /// No translation; published ports are open.
    Routed,
    /// The host itself has no address in the network (internal networks only).
    Isolated,
}

/// A network with everything decided. The engine persists it and gives it back to [`crate::Net::restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Who makes its links.
    pub driver: Driver,
    /// The address plan, in the order in which `inspect` shows it; subnet and gateway are filled in.
    pub ipam: Vec<IpamConfig>,
    /// Nobody gives containers addresses here (`--ipam-driver null`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmanaged: bool,
    /// Subnets of a family that containers get no addresses of: a user may ask for one, and gets none.
    #[serde(default)]
    pub idle: Vec<IpNet>,
    /// No traffic to or from outside.
    pub internal: bool,
    /// Containers get IPv4 addresses.
    pub ipv4: bool,
    /// Containers get IPv6 addresses.
    pub ipv6: bool,
    /// Options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// Options as understood.
    pub settings: Settings,
}

/// Driver options, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The bridge, or the parent of a macvlan network.
    pub link: String,
    /// The network `bridge`: no static addresses, and no DNS names unless `names`.
    pub default_bridge: bool,
    /// The default bridge has DNS names.
    #[serde(default)]
    pub names: bool,
    /// Containers may talk to each other.
    pub icc: bool,
    /// Outgoing traffic takes the host's address.
    pub masquerade: bool,
    /// Address that published ports bind to when none is given.
    pub host_binding: Option<IpAddr>,
    /// The bridge goes without an IPv4 address.
    pub inhibit_v4: bool,
    /// How IPv4 gets in.
    pub mode_v4: GatewayMode,
    /// How IPv6 gets in.
    pub mode_v6: GatewayMode,
    /// Links from which container addresses may be reached directly.
    pub trusted_links: Vec<String>,
    /// MTU; `None` follows the daemon's.
    pub mtu: Option<u32>,
    /// Prefix of link names inside containers.
    pub ifname_prefix: String,
    /// How often neighbours are told of an address that comes with a hardware address of the user's choice.
    #[serde(default = "announcements")]
    pub announcements: u8,
    /// Time between two of these, in milliseconds.
    #[serde(default = "announcement_interval")]
    pub announcement_interval_ms: u32,
    /// Fixed source address of outgoing IPv4.
    pub host_v4: Option<Ipv4Addr>,
    /// Fixed source address of outgoing IPv6.
    pub host_v6: Option<Ipv6Addr>,
    /// Mode of a macvlan network, flag of an ipvlan network.
    pub macvlan: MacvlanMode,
    /// Mode of an ipvlan network.
    #[serde(default)]
    pub ipvlan: IpvlanMode,
}

fn announcements() -> u8 {
    3
}

fn announcement_interval() -> u32 {
    1000
}

/// What ipvlan sub-interfaces do with packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// Frames, with a gateway on the parent's network.
    #[default]
    L2,
    /// Packets, which the host routes.
    L3,
    /// The same, seen by the host's packet filter.
    L3s,
}

/// What macvlan sub-interfaces of one parent may say to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// They talk directly.
    #[default]
    Bridge,
    /// They do not talk.
    Private,
    /// The switch outside decides.
    Vepa,
    /// One sub-interface takes over the parent.
    Passthru,
}

impl NetworkRecord {
    /// Whether containers find each other by name: every network but the default bridge, unless that is switched on.
    #[must_use]
    pub fn resolves_names(&self) -> bool {
        !self.settings.default_bridge || self.settings.names
    }

    /// Whether `--link` opens ports here that are closed otherwise: on a default bridge without communication between
    /// containers.
    #[must_use]
    pub fn opens_links(&self) -> bool {
        self.settings.default_bridge && !self.settings.icc
    }

    /// The subnet of one family.
    #[must_use]
    pub fn subnet(&self, v6: bool) -> Option<IpNet> {
        self.ipam.iter().filter_map(|c| c.subnet).find(|s| matches!(s, IpNet::V6(_)) == v6)
    }

    /// The part of the address plan that an address belongs to.
    fn config_of(&self, address: IpAddr) -> Option<&IpamConfig> {
        self.ipam.iter().find(|c| c.subnet.is_some_and(|s| s.contains(&address)))
    }

    /// Prefix length of the subnet that an address belongs to.
    pub(crate) fn prefix_of(&self, address: IpAddr) -> u8 {
        self.config_of(address).and_then(|c| c.subnet).map_or(0, |s| s.prefix_len())
    }

    /// The gateway for an address: for an internal network none.
    pub(crate) fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        let config = self.config_of(address).filter(|_| !self.internal)?;
        config.aux_addresses.get("DefaultGatewayIPv4").copied().or(config.gateway)
    }

    /// Checks addresses that a user wants for an endpoint, in Docker's words (without the prefix
    /// `invalid config for network NAME: `).
    pub fn validate_addresses(&self, addresses: &[IpAddr]) -> Result<(), NetError> {
        let mut messages = Vec::new();
        if !addresses.is_empty() && self.settings.default_bridge {
            messages.push("user-specified IP address is supported on user-defined networks only".to_owned());
        } else {
            for address in addresses {
                let mut subnets = self.ipam.iter().filter_map(|c| c.subnet.as_ref()).chain(&self.idle);
                if !subnets.any(|s| s.contains(address)) {
                    messages.push(format!("no configured subnet contains IP address {address}"));
                }
            }
        }
        if messages.is_empty() { Ok(()) } else { Err(NetError::InvalidEndpoint { messages }) }
    }
}

/// Parses `com.docker.network.*` options. Unknown ones of that family are refused by name; others (labels of
/// tools) are kept and have no effect, as in Docker.
pub(crate) fn settings(spec: &NetworkSpec, driver: Driver) -> Result<Settings, NetError> {
    let mut settings = Settings {
        link: match driver {
            Driver::Bridge => format!("br-{}", spec.id.short()),
            Driver::Macvlan => format!("dm-{}", spec.id.short()),
            Driver::Ipvlan => format!("di-{}", spec.id.short()),
        },
        default_bridge: false,
        names: false,
        icc: true,
        masquerade: true,
        host_binding: None,
        inhibit_v4: false,
        mode_v4: GatewayMode::Nat,
        mode_v6: GatewayMode::Nat,
        trusted_links: Vec::new(),
        mtu: None,
        ifname_prefix: "eth".to_owned(),
        announcements: announcements(),
        announcement_interval_ms: announcement_interval(),
        host_v4: None,
        host_v6: None,
        macvlan: MacvlanMode::Bridge,
        ipvlan: IpvlanMode::L2,
    };
    for (key, value) in &spec.options {
        match key.as_str() {
            option::BRIDGE_NAME | option::PARENT => settings.link = link_name(value)?,
            option::NAMES => settings.names = boolean(key, value)?,
            option::DEFAULT_BRIDGE => settings.default_bridge = boolean(key, value)?,
            option::ICC => settings.icc = boolean(key, value)?,
            option::MASQUERADE => settings.masquerade = boolean(key, value)?,
            option::INHIBIT_V4 => settings.inhibit_v4 = boolean(key, value)?,
            option::HOST_BINDING => settings.host_binding = Some(parse(key, value)?),
            option::GATEWAY_MODE_V4 => settings.mode_v4 = gateway_mode(key, value, spec.internal)?,
            option::GATEWAY_MODE_V6 => settings.mode_v6 = gateway_mode(key, value, spec.internal)?,
            option::TRUSTED_INTERFACES => {
                settings.trusted_links =
                    value.split(':').filter(|l| !l.is_empty()).map(link_name).collect::<Result<_, _>>()?;
            }
            option::MTU => settings.mtu = mtu(value)?,
            option::IFACE_PREFIX => settings.ifname_prefix = link_name(value)?,
            option::ADVERTISE_COUNT => match value.parse::<u8>() {
                Ok(count @ 0..=3) => settings.announcements = count,
                _ => return Err(NetError::option(key, value, "must be an integer from 0 to 3")),
            },
            option::ADVERTISE_INTERVAL => match value.parse::<u32>() {
                Ok(ms @ 100..=2000) => settings.announcement_interval_ms = ms,
                _ => return Err(NetError::option(key, value, "must be an integer from 100 to 2000")),
            },
            option::HOST_IPV4 => settings.host_v4 = Some(parse(key, value)?),
            option::HOST_IPV6 => settings.host_v6 = Some(parse(key, value)?),
            option::ENABLE_V4 | option::ENABLE_V6 => {
                boolean(key, value)?;
            }
            option::IPVLAN_MODE => {
                settings.ipvlan = match value.as_str() {
                    "" | "l2" => IpvlanMode::L2,
                    "l3" => IpvlanMode::L3,
                    "l3s" => IpvlanMode::L3s,
                    _ => return Err(NetError::option(key, value, "unknown ipvlan mode")),
                }
            }
            option::IPVLAN_FLAG => {
                settings.macvlan = match value.as_str() {
                    "" | "bridge" => MacvlanMode::Bridge,
                    "private" => MacvlanMode::Private,
                    "vepa" => MacvlanMode::Vepa,
                    _ => return Err(NetError::option(key, value, "unknown ipvlan flag")),
                }
            }
            option::MACVLAN_MODE => {
                settings.macvlan = match value.as_str() {
                    "" | "bridge" => MacvlanMode::Bridge,
                    "private" => MacvlanMode::Private,
                    "vepa" => MacvlanMode::Vepa,
                    "passthru" => MacvlanMode::Passthru,
                    _ => return Err(NetError::option(key, value, "unknown macvlan mode")),
                }
            }
            _ if key.starts_with("com.docker.network.") => {
                return Err(NetError::option(key, value, "unknown option"));
            }
            _ => {}
        }
    }
    Ok(settings)
}

/// `EnableIPv4`/`EnableIPv6` after the options that override them.
pub(crate) fn families(spec: &NetworkSpec) -> Result<(bool, bool), NetError> {
    let flag = |key: &str, default| match spec.options.get(key) {
        Some(value) => boolean(key, value),
        None => Ok(default),
    };
    let (v4, v6) = (flag(option::ENABLE_V4, spec.ipv4)?, flag(option::ENABLE_V6, spec.ipv6)?);
    if !v4 && !v6 {
        return Err(NetError::NoFamily);
    }
    Ok((v4, v6))
}

/// Checks the address plan as a user wrote it; all faults are told at once.
pub(crate) fn validate_ipam(configs: &[IpamConfig], v6: bool) -> Result<(), NetError> {
    let mut messages = Vec::new();
    for config in configs {
        let Some(subnet) = config.subnet else {
            if config.gateway.is_some() || config.ip_range.is_some() || !config.aux_addresses.is_empty() {
                messages.push("invalid subnet : invalid CIDR block notation".to_owned());
            }
            continue;
        };
        if matches!(subnet, IpNet::V6(_)) && !v6 {
            continue;
        }
        if subnet.trunc() != subnet {
            messages.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
        }
        if let Some(range) = config.ip_range {
            validate_range(range, subnet.trunc(), &mut messages);
        }
        let gateway = config.gateway.map(|a| (format!("invalid gateway {a}"), a));
        let aux = config.aux_addresses.iter().map(|(n, a)| (format!("invalid auxiliary address {n}"), *a));
        for (what, address) in gateway.into_iter().chain(aux) {
            if address.is_ipv4() != matches!(subnet, IpNet::V4(_)) {
                messages.push(format!("{what}: parent subnet is an {} block", family(subnet)));
            } else if !subnet.contains(&address) {
                messages.push(format!("{what}: parent subnet {subnet} doesn't contain this address"));
            }
        }
    }
    if messages.is_empty() { Ok(()) } else { Err(NetError::InvalidIpam { messages }) }
}

fn validate_range(range: IpNet, subnet: IpNet, messages: &mut Vec<String>) {
    if matches!(range, IpNet::V4(_)) != matches!(subnet, IpNet::V4(_)) {
        messages.push(format!("invalid ip-range {range}: parent subnet is an {} block", family(subnet)));
        return;
    }
    if range.prefix_len() < subnet.prefix_len() {
        messages
            .push(format!("invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"));
    }
    if range.trunc() != range {
        messages.push(format!("invalid ip-range {range}: it should be {}", range.trunc()));
    }
    if !subnet.contains(&range.network()) && !range.contains(&subnet.network()) {
        messages.push(format!("invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"));
    }
}

fn family(subnet: IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, NetError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(NetError::option(key, value, "not a boolean")),
    }
}

fn parse<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, NetError> {
    value.parse().map_err(|_| NetError::option(key, value, "not an address of this family"))
}

fn mtu(value: &str) -> Result<Option<u32>, NetError> {
    match value.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(mtu) if (68..=65535).contains(&mtu) => Ok(Some(mtu)),
        _ => Err(NetError::option(option::MTU, value, "not an MTU")),
    }
}

fn gateway_mode(key: &str, value: &str, internal: bool) -> Result<GatewayMode, NetError> {
    Ok(match value {
        "" | "nat" => GatewayMode::Nat,
        "nat-unprotected" => GatewayMode::NatUnprotected,
        "routed" => GatewayMode::Routed,
        "isolated" if internal => GatewayMode::Isolated,
        "isolated" => {
            return Err(NetError::option(
                key,
                value,
                "gateway mode 'isolated' can only be used for an internal network",
            ));
        }
        _ => return Err(NetError::option(key, value, "unknown gateway mode")),
    })
}

/// A name the kernel accepts for a link: at most 15 bytes, no slash, no white space.
pub(crate) fn link_name(name: impl AsRef<str>) -> Result<String, NetError> {
    let name = name.as_ref();
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    if fits && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
        Ok(name.to_owned())
    } else {
        Err(NetError::InvalidLinkName { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests;
