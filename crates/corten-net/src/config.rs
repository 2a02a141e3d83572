//! What the daemon tells this crate once, at start: dockerd's network flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use corten_base::Id;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::network::{IpamConfig, NetworkSpec, option};

/// A block that networks without a subnet of their own are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// The block.
    pub base: IpNet,
    /// Prefix length of each network cut from it.
    pub size: u8,
}

/// The default bridge network (`docker0`), as `--bridge`, `--bip` and their relatives describe it.
#[derive(Debug, Clone, Default)]
pub struct DefaultBridge {
    /// `--bridge`: name of the link; `None` stands for `docker0`.
    pub name: Option<String>,
    /// `--bip`: address and prefix of the link.
    pub bip: Option<IpNet>,
    /// `--fixed-cidr`: the part of the subnet that containers get addresses from.
    pub fixed_cidr: Option<Ipv4Net>,
    /// `--default-gateway`.
    pub default_gateway: Option<Ipv4Addr>,
    /// `--ipv6`.
    pub ipv6: bool,
    /// `--bip6`: address and prefix of the link.
    pub bip6: Option<Ipv6Net>,
    /// `--fixed-cidr-v6`.
    pub fixed_cidr_v6: Option<Ipv6Net>,
    /// `--default-gateway-v6`.
    pub default_gateway_v6: Option<Ipv6Addr>,
}

/// What published ports have to do with the host's own rules (`--firewall`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostRules {
    /// As in Docker: a published port is open, whatever the host's rules for itself say.
    #[default]
    Docker,
    /// A published port is subject to the rules of the hook `input` like a port of the host.
    Respect,
}

/// A mark of the packet filter, and which of its bits count: `0x2/0xff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirewallMark {
    /// The bits as they must be.
    pub value: u32,
    /// Those that are looked at.
    pub mask: u32,
}

/// The text is no mark.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid firewall mark {0:?}: VALUE or VALUE/MASK is expected")]
pub struct InvalidMark(String);

impl std::str::FromStr for FirewallMark {
    type Err = InvalidMark;

    fn from_str(text: &str) -> Result<Self, InvalidMark> {
        let number = |t: &str| match t.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => t.parse().ok(),
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        let mark = number(value).zip(number(mask)).map(|(value, mask)| Self { value: value & mask, mask });
        mark.ok_or_else(|| InvalidMark(text.to_owned()))
    }
}

/// Everything [`crate::Net::open`] needs to know.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The daemon's runtime directory; namespaces are kept in `<exec_root>/netns/`.
    pub exec_root: PathBuf,
    /// Tells daemons on one host apart, `[a-z0-9]{1,16}`: names the nft table `corten-<instance>`.
    pub instance: String,
    /// The default bridge; `None` for `--bridge=none`.
    pub bridge: Option<DefaultBridge>,
    /// `--default-address-pool`; empty stands for Docker's own list.
    pub address_pools: Vec<AddressPool>,
    /// `--mtu`; `None` follows the host's default route.
    pub mtu: Option<u32>,
    /// `--ip-forward`: switch forwarding on in the host.
    pub ip_forward: bool,
    /// `--ip-forward-no-drop`: switching forwarding on does not make the host drop what it would now forward between
    /// links that are not containers'.
    pub ip_forward_no_drop: bool,
    /// `--iptables` and `--ip6tables`: whether packet filter rules are made at all.
    pub firewall: bool,
    /// `--firewall`.
    pub host_rules: HostRules,
    /// Nobody else may change our rules, where the kernel can see to that (Linux 6.9). Elsewhere, and if this is false,
    /// rules that somebody takes away are made again at once.
    pub exclusive_rules: bool,
    /// `--bridge-accept-fwmark`: packets into bridges with this mark, under this mask, are let through.
    pub accept_mark: Option<FirewallMark>,
    /// `--allow-direct-routing`: published ports can be reached at containers' own addresses from other links.
    pub direct_routing: bool,
    /// `--ip-masq` of the default bridge.
    pub ip_masq: bool,
    /// `--icc` of the default bridge.
    pub icc: bool,
    /// `--userland-proxy`: ports of IPv6 addresses lead to containers without IPv6 too.
    pub relay: bool,
    /// `--bridge-dns`: names of containers on the default bridge too.
    pub bridge_names: bool,
    /// `--ip`: address that published ports bind to by default.
    pub host_ip: Option<IpAddr>,
    /// How many namespaces are kept ready for containers to come; 0 makes each on demand.
    pub ready_sandboxes: usize,
}

impl NetConfig {
    /// Docker's defaults below `exec_root`.
    #[must_use]
    pub fn new(exec_root: PathBuf, instance: String) -> Self {
        Self {
            exec_root,
            instance,
            bridge: Some(DefaultBridge::default()),
            address_pools: Vec::new(),
            mtu: None,
            ip_forward: true,
            ip_forward_no_drop: false,
            firewall: true,
            host_rules: HostRules::Docker,
            exclusive_rules: true,
            accept_mark: None,
            direct_routing: false,
            ip_masq: true,
            icc: true,
            relay: true,
            bridge_names: false,
            host_ip: None,
            ready_sandboxes: 2,
        }
    }

    /// The network `bridge` that these settings describe, `None` for `--bridge=none`.
    #[must_use]
    pub fn default_network(&self, id: Id) -> Option<NetworkSpec> {
        let bridge = self.bridge.as_ref()?;
        let mut options = std::collections::BTreeMap::new();
        options.insert(option::DEFAULT_BRIDGE.to_owned(), "true".to_owned());
        options.insert(option::ICC.to_owned(), self.icc.to_string());
        options.insert(option::MASQUERADE.to_owned(), self.ip_masq.to_string());
        if self.bridge_names {
            options.insert(option::NAMES.to_owned(), "true".to_owned());
        }
        let host_ip = self.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        options.insert(option::HOST_BINDING.to_owned(), host_ip.to_string());
        options.insert(
            option::BRIDGE_NAME.to_owned(),
            bridge.name.clone().unwrap_or_else(|| "docker0".to_owned()),
        );
        options.insert(option::MTU.to_owned(), self.mtu.unwrap_or(1500).to_string());
        let mut ipam = Vec::new();
        let own_v4 = bridge.bip.is_some() || bridge.fixed_cidr.is_some();
        if own_v4 {
            let bip = bridge.bip.unwrap_or_else(|| {
                IpNet::V4(bridge.fixed_cidr.expect("one of the two is given, checked just above"))
            });
            ipam.push(IpamConfig {
                subnet: Some(bip.trunc()),
                ip_range: bridge.fixed_cidr.map(IpNet::V4),
                gateway: bridge.bip.map(|b| b.addr()).filter(|a| *a != bip.network()),
                aux_addresses: bridge
                    .default_gateway
                    .map(|g| ("DefaultGatewayIPv4".to_owned(), IpAddr::V4(g)))
                    .into_iter()
                    .collect(),
            });
        }
        if let Some(bip6) = bridge.bip6 {
            ipam.push(IpamConfig {
                subnet: Some(IpNet::V6(bip6.trunc())),
                ip_range: bridge.fixed_cidr_v6.map(IpNet::V6),
                gateway: Some(IpAddr::V6(bip6.addr())).filter(|a| *a != IpAddr::V6(bip6.network())),
                aux_addresses: std::collections::BTreeMap::new(),
            });
        } else if let Some(v6) = bridge.fixed_cidr_v6 {
            ipam.push(IpamConfig {
                subnet: Some(IpNet::V6(v6.trunc())),
                ip_range: None,
                gateway: bridge.default_gateway_v6.map(IpAddr::V6),
                aux_addresses: std::collections::BTreeMap::new(),
            });
        }
        Some(NetworkSpec {
            id,
            name: "bridge".to_owned(),
            driver: "bridge".to_owned(),
            ipam_driver: "default".to_owned(),
            ipam,
            internal: false,
            ipv4: true,
            ipv6: bridge.ipv6,
            options,
        })
    }
}
