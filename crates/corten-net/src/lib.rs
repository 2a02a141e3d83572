//! Host networking by netlink and nftables.
//!
//! The way through the crate: [`Net`] decides with pure code (`ipam`, `ports`, `plan`) under one lock, then acts
//! with dumb code (`route` for links and addresses, `nft` for packet filtering, `sandbox` for namespaces). No
//! program is executed. Every kernel object has a name that derives from an id or from the daemon's instance:
//!
//! | object | name |
//! |---|---|
//! | bridge | `br-<12 digits of the network id>`, `docker0` |
//! | host side of a container's link | `veth<7 digits of the endpoint id>` |
//! | link that delays what a container sends | `ifb<7 digits of the endpoint id>` |
//! | namespace | `<exec-root>/netns/<12 digits of the sandbox id>` |
//! | nft table | `inet corten-<instance>` |
//!
//! # Order of calls
//!
//! 1. [`Net::open`], [`Net::ensure_default_network`], [`Net::restore`] once at start;
//! 2. per container [`Net::ensure_sandbox`], [`Net::attach`] for each network, then the container's processes enter
//!    the namespace;
//! 3. [`Net::detach`] for each endpoint, [`Net::ensure_no_sandbox`].
//!
//! All calls block and are for a blocking pool; they can come from any number of threads.
//!
//! # Threads
//!
//! `net-sandbox` makes namespaces ready ahead of need and takes links down behind the caller's back; `net-dns`
//! serves every container's 127.0.0.11; `net-relay` carries connections from IPv6 to containers without it; `net-filter` looks after the packet filter when other programs have changed it.
//! All end with the last [`Net`].

mod config;
mod conntrack;
mod dns;
mod endpoint;
mod error;
mod ipam;
mod net;
mod network;
mod nft;
mod nla;
mod plan;
mod ports;
mod relay;
mod route;
mod sandbox;
mod state;
mod worker;

pub use config::{AddressPool, DefaultBridge, FirewallMark, HostRules, InvalidMark, NetConfig};
pub use endpoint::{
    EndpointRecord, EndpointSpec, InterfaceStats, InvalidMac, Mac, Opening, PortRecord, PortSpec, Protocol,
    Rates, SandboxSpec, Upstream, Users, sandbox_id,
};
pub use error::{NetError, PortError};
pub use net::Net;
pub use network::{
    Driver, GatewayMode, IpamConfig, IpvlanMode, MacvlanMode, NetworkRecord, NetworkSpec, Settings, option,
};
