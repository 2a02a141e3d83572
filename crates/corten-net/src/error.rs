//! What can go wrong, in Docker's words where a user sees it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use corten_base::{Id, Kind};

use crate::endpoint::Protocol;

/// An operation on networks, sandboxes or endpoints failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address plan of a network cannot be right.
    #[error("invalid network config:\n{}", messages.join("\n"))]
    InvalidIpam {
        /// One line per fault.
        messages: Vec<String>,
    },
    /// The addresses wanted for an endpoint cannot be right.
    #[error("invalid endpoint settings:\n{}", messages.join("\n"))]
    InvalidEndpoint {
        /// One line per fault.
        messages: Vec<String>,
    },
    /// The network's driver is not one we know.
    #[error("plugin {driver:?} not found")]
    UnknownDriver {
        /// As given.
        driver: String,
    },
    /// The driver exists in Docker, but not here.
    #[error("network driver {driver:?} is not supported by this engine")]
    UnsupportedDriver {
        /// As given.
        driver: String,
    },
    /// A bridge has one subnet of each family.
    #[error("bridge driver doesn't support multiple subnets")]
    SeveralSubnets,
    /// The kernel cannot make links of this kind.
    #[error("network driver {driver:?} is not supported by this kernel")]
    NoSuchLinks {
        /// Name of the driver.
        driver: &'static str,
    },
    /// Rules that the host filters by cannot be followed.
    #[error(
        "--firewall=respect: this host has rules of iptables-legacy, which cannot be followed; move them to iptables-nft"
    )]
    LegacyRules,
    /// No such endpoint.
    #[error("no endpoint {id}")]
    NoEndpoint {
        /// As given.
        id: Id,
    },
    /// Only links with a side on the host can be limited.
    #[error("network {network}: bandwidth limits need a bridge network")]
    NoRates {
        /// Name of the network.
        network: String,
    },
    /// Only endpoints of bridge networks with a way out have published ports.
    #[error("network {network}: ports cannot be published on this network")]
    NoPorts {
        /// Name of the network.
        network: String,
    },
    /// An option's value is wrong, or the option is unknown.
    #[error("invalid option {key}={value}: {reason}")]
    Option {
        /// Name of the option.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Neither IPv4 nor IPv6.
    #[error("IPv4 or IPv6 must be enabled")]
    NoFamily,
    /// The kernel would not accept this name for a link.
    #[error("invalid interface name {name:?}")]
    InvalidLinkName {
        /// As given.
        name: String,
    },
    /// `sysctls` of an endpoint are malformed or for another link.
    #[error("invalid endpoint sysctl {setting:?}")]
    InvalidSysctl {
        /// As given.
        setting: String,
    },
    /// The instance name cannot be part of a table's name.
    #[error("invalid instance name {name:?}")]
    InvalidInstance {
        /// As given.
        name: String,
    },
    /// A bridge is to do without addresses.
    #[error("ipv{family} pool is empty")]
    NoPool {
        /// 4 or 6.
        family: u8,
    },
    /// Nobody gives addresses on the network, and one was asked for.
    #[error("null ipam driver does not handle specific address {what}requests")]
    Unmanaged {
        /// `pool `, or nothing.
        what: &'static str,
    },
    /// A subnet is taken by another network.
    #[error("invalid pool request: Pool overlaps with other one on this address space")]
    PoolOverlap,
    /// No subnet is left in the default pools.
    #[error("all predefined address pools have been fully subnetted")]
    PoolsExhausted,
    /// The network has no address left.
    #[error("no available IPv{family} addresses on this network's address pools: {name} ({id})")]
    AddressesExhausted {
        /// 4 or 6.
        family: u8,
        /// The network.
        name: String,
        /// The network.
        id: Id,
    },
    /// The address is taken by another endpoint.
    #[error("Address already in use")]
    AddressInUse {
        /// Which.
        address: IpAddr,
    },
    /// Another network uses the link.
    #[error("networks have same bridge name")]
    LinkInUse {
        /// Which.
        link: String,
    },
    /// A link of that name exists, and is not a bridge.
    #[error("interface {link} exists and is not a bridge")]
    NotABridge {
        /// Which.
        link: String,
    },
    /// The parent of a macvlan network does not exist.
    #[error("invalid subinterface vlan name {link}, example formatting is eth0.10")]
    NoParent {
        /// Which.
        link: String,
    },
    /// The network is not known here.
    #[error("network {id} not found")]
    NoNetwork {
        /// Which.
        id: String,
    },
    /// The container has no sandbox.
    #[error("no network sandbox for container {id}")]
    NoSandbox {
        /// Which.
        id: Id,
    },
    /// The network still has endpoints.
    #[error("error while removing network: network {network} has active endpoints (name:{name:?} id:{:?})", endpoint.short())]
    ActiveEndpoints {
        /// The network's name.
        network: String,
        /// Name of one of the containers.
        name: String,
        /// Its endpoint.
        endpoint: Id,
    },
    /// The container is attached already.
    #[error("endpoint with name {name} already exists in network {network}")]
    EndpointExists {
        /// The container's name.
        name: String,
        /// The network's name.
        network: String,
    },
    /// Publishing ports failed.
    #[error("driver failed programming external connectivity on endpoint {name} ({id}): {reason}")]
    Publish {
        /// The container's name.
        name: String,
        /// The endpoint.
        id: Id,
        /// Why; part of the text above as Docker has it, therefore not a `source` that would be joined once more.
        reason: PortError,
    },
    /// A request to the kernel failed.
    #[error("{action}: {error}")]
    Kernel {
        /// What we were doing.
        action: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another container has it.
    #[error("Bind for {address} failed: port is already allocated")]
    Allocated {
        /// What was wanted.
        address: SocketAddr,
    },
    /// Another program of the host has it.
    #[error("failed to bind host port {address}/{protocol}: {}", reason(error))]
    Bind {
        /// What was wanted.
        address: SocketAddr,
        /// Over which protocol.
        protocol: Protocol,
        /// What the kernel said.
        error: io::Error,
    },
    /// The dynamic range, or the range given, is used up.
    #[error("Bind for {host}:{first}-{last} failed: all ports are allocated")]
    Exhausted {
        /// The host address.
        host: IpAddr,
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
    },
}

/// Go's text for the errors that people meet here.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

impl NetError {
    pub(crate) fn option(key: &str, value: &str, reason: &'static str) -> Self {
        Self::Option { key: key.to_owned(), value: value.to_owned(), reason }
    }

    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |error| Self::Kernel { action, error }
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::InvalidIpam { .. }
            | Self::InvalidEndpoint { .. }
            | Self::Option { .. }
            | Self::NoFamily
            | Self::InvalidLinkName { .. }
            | Self::InvalidSysctl { .. }
            | Self::InvalidInstance { .. }
            | Self::NoParent { .. }
            | Self::NoPool { .. }
            | Self::Unmanaged { .. }
            | Self::PoolsExhausted => Kind::InvalidArgument,
            Self::UnknownDriver { .. }
            | Self::NoNetwork { .. }
            | Self::NoSandbox { .. }
            | Self::NoEndpoint { .. } => Kind::NotFound,
            Self::SeveralSubnets => Kind::Forbidden,
            Self::LegacyRules
            | Self::UnsupportedDriver { .. }
            | Self::NoSuchLinks { .. }
            | Self::NoRates { .. }
            | Self::NoPorts { .. } => Kind::Unsupported,
            Self::PoolOverlap
            | Self::AddressInUse { .. }
            | Self::LinkInUse { .. }
            | Self::NotABridge { .. }
            | Self::ActiveEndpoints { .. }
            | Self::EndpointExists { .. } => Kind::Forbidden,
            Self::AddressesExhausted { .. } => Kind::Unavailable,
            Self::Publish { .. } | Self::Kernel { .. } => Kind::Internal,
        }
    }
}
