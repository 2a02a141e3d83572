//! Endpoints: a container's attachment to a network, and its published ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use corten_base::Id;
use corten_wire::oci_runtime::IdMapping;
use serde::{Deserialize, Serialize};

/// A hardware address, written `02:42:ac:11:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// The text is not a hardware address.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid MAC address: {0}")]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(s: &str) -> Result<Self, InvalidMac> {
        let mut bytes = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(|| InvalidMac(s.to_owned()))?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMac(s.to_owned()))?;
        }
        if parts.next().is_some() { Err(InvalidMac(s.to_owned())) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;

    fn try_from(s: String) -> Result<Self, InvalidMac> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The transport protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// How much may pass a container's link, in bits per second; 0 for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// To the container.
    pub inward: u64,
    /// From the container.
    pub outward: u64,
}

impl Rates {
    pub(crate) fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// One published port as the user wants it: one element of `HostConfig.PortBindings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Port in the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Host address; `None` binds to all, IPv4 and IPv6 (or to the network's `host_binding_ipv4`).
    pub host_ip: Option<IpAddr>,
    /// First and last acceptable host port; `(0, 0)` takes one of the dynamic range.
    pub host_ports: (u16, u16),
}

/// One published port as it is: what `NetworkSettings.Ports` shows. Ordered as Docker shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Port in the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Host address, `0.0.0.0` or `::` for all.
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
}

/// Ports of another container that are open to a linked one, where containers otherwise do not reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The other container.
    pub container: Id,
    /// Its ports.
    pub ports: Vec<(Protocol, u16)>,
}

/// A container's attachment to a network as the engine wants it.
#[derive(Debug, Clone)]
pub struct EndpointSpec {
    /// Id of the endpoint, chosen by the engine.
    pub id: Id,
    /// The container; its sandbox must exist.
    pub container: Id,
    /// The network.
    pub network: Id,
    /// The container's name, for error texts and reverse lookups.
    pub name: String,
    /// Names that other containers of the network find it by: name, aliases, short id, host name.
    pub dns_names: Vec<String>,
    /// Address the user asked for.
    pub ipv4: Option<Ipv4Addr>,
    /// Address the user asked for.
    pub ipv6: Option<Ipv6Addr>,
    /// Further addresses of the link that are known on it alone (`LinkLocalIPs`).
    pub link_local: Vec<IpAddr>,
    /// Hardware address the user asked for.
    pub mac: Option<Mac>,
    /// Link name inside the container; `None` takes the next free `ethN`.
    pub ifname: Option<String>,
    /// The endpoint of the highest priority provides the default route.
    pub gw_priority: i64,
    /// Ports to publish on this endpoint.
    pub ports: Vec<PortSpec>,
    /// Names of its own that the container has for others of the network: (other, name).
    pub links: Vec<(String, String)>,
    /// What is open to it although the network has no communication between containers (`--link`).
    pub openings: Vec<Opening>,
    /// Limits of its link.
    pub rates: Rates,
    /// `net.X.Y.IFNAME.Z=value` settings for its link (`com.docker.network.endpoint.sysctls`).
    pub sysctls: Vec<String>,
}

/// An attachment as it is. The engine keeps it for `inspect`, persists it for [`crate::Net::restore`] and gives
/// it back to [`crate::Net::detach`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Id of the endpoint.
    pub id: Id,
    /// The container.
    pub container: Id,
    /// The network.
    pub network: Id,
    /// The container's name.
    pub name: String,
    /// Names in DNS.
    pub dns_names: Vec<String>,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its prefix length, 0 without address.
    pub ipv4_prefix: u8,
    /// IPv4 gateway of the network (none on internal networks), whether or not it is the container's default.
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its prefix length, 0 without address.
    pub ipv6_prefix: u8,
    /// IPv6 gateway of the network.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Hardware address.
    pub mac: Mac,
    /// Link name inside the container.
    pub ifname: String,
    /// Link name on the host; empty for macvlan.
    pub host_link: String,
    /// Priority for the default route.
    pub gw_priority: i64,
    /// Published ports.
    pub ports: Vec<PortRecord>,
    /// Names of its own that the container has for others of the network: (other, name).
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// What is open to it although the network has no communication between containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub openings: Vec<Opening>,
    /// Limits of its link.
    #[serde(default, skip_serializing_if = "Rates::is_unlimited")]
    pub rates: Rates,
}

impl EndpointRecord {
    /// The link that what the container sends is delayed on.
    pub(crate) fn brake_link(&self) -> String {
        format!("ifb{}", &self.id.as_str()[..7])
    }
}

/// The id of a container's sandbox (`NetworkSettings.SandboxID`): the container's, turned by twelve digits, so that it
/// is another one and needs not be remembered.
#[must_use]
pub fn sandbox_id(container: &Id) -> String {
    let (head, tail) = container.as_str().split_at(12);
    format!("{tail}{head}")
}

/// A container's network namespace as the engine wants it.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// The container.
    pub container: Id,
    /// Where its embedded DNS server forwards to.
    pub upstreams: Vec<Upstream>,
    /// Who it belongs to, if the container has users of its own: its root is to have power over its network.
    pub users: Option<Users>,
}

/// A user namespace that a network namespace belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// A new one, which lives as long as the network namespace.
    New {
        /// Users.
        uids: Vec<IdMapping>,
        /// Groups.
        gids: Vec<IdMapping>,
    },
    /// The one at this path.
    Of(PathBuf),
}

/// A name server that the embedded DNS server forwards to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its address; port 53 as a rule.
    pub address: SocketAddr,
    /// Ask from the host's namespace: for servers on the host's loopback.
    pub from_host: bool,
}

/// Counters of one link of a container, seen from inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceStats {
    /// Link name inside the container.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped before sending.
    pub tx_dropped: u64,
}
