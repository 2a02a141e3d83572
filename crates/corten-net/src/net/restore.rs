//! Taking over what an earlier daemon left, and sweeping away what nobody knows any more.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use corten_base::Id;
use corten_sys::netns;

use super::{Net, link, lock};
use crate::dns::Listener;
use crate::endpoint::sandbox_id;
use crate::endpoint::{EndpointRecord, SandboxSpec};
use crate::error::NetError;
use crate::network::NetworkRecord;
use crate::route::Changes;

impl Net {
    /// Takes over what an earlier daemon left: networks are made again where something is missing, endpoints of
    /// running containers keep their addresses, ports and names, everything without a record is swept away.
    /// Failures of single networks or endpoints are returned, not fatal. `kept` are the sockets of
    /// [`Net::name_sockets`], by container.
    ///
    /// To be called at every start, after which the packet filter is as it should be; until then the rules of an earlier
    /// daemon stay. [`Net::ensure_default_network`] comes before; `networks` may name
    /// the default network again.
    pub fn restore(
        &self,
        networks: &[NetworkRecord],
        endpoints: &[EndpointRecord],
        sandboxes: &[SandboxSpec],
        mut kept: HashMap<Id, Vec<OwnedFd>>,
    ) -> Result<Vec<NetError>, NetError> {
        let mut failures = Vec::new();
        for network in networks {
            if lock(&self.0.state).networks.contains_key(&network.id) {
                continue;
            }
            let taken = lock(&self.0.state).restore_network(network);
            if let Err(error) = taken.and_then(|()| self.0.ensure_link(network)) {
                failures.push(error);
            }
        }
        {
            let mut state = lock(&self.0.state);
            for sandbox in sandboxes {
                state.sandboxes.insert(sandbox.container.clone(), sandbox.clone());
            }
            failures.extend(endpoints.iter().filter_map(|e| state.restore_endpoint(e).err()));
        }
        self.0.commit_everything()?;
        let relayed = {
            let state = lock(&self.0.state);
            endpoints.iter().flat_map(|e| state.relayed(e)).collect()
        };
        failures
            .extend(self.0.relay.open(relayed).map_err(NetError::kernel("carry published IPv6 ports")).err());
        // All names are known before the first question is heard: some wait already.
        let mut asking = Vec::new();
        for endpoint in endpoints {
            match self.restore_names(endpoint) {
                Ok(true) => asking.push(endpoint),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        failures.extend(asking.iter().filter_map(|e| self.listen(e, &mut kept).err()));
        self.sweep()?;
        Ok(failures)
    }

    /// Makes an endpoint's names known; whether its container asks for names.
    fn restore_names(&self, endpoint: &EndpointRecord) -> Result<bool, NetError> {
        let (view, network) = {
            let state = lock(&self.0.state);
            (link::view(&state, &endpoint.container), state.network(&endpoint.network)?.clone())
        };
        if !network.resolves_names() {
            return Ok(false);
        }
        self.0.dns.announce(endpoint, &network.name);
        self.0.dns.set_view(&endpoint.container, view);
        Ok(true)
    }

    /// Answers in the endpoint's sandbox, on the sockets that were kept, where there are any.
    fn listen(
        &self,
        endpoint: &EndpointRecord,
        kept: &mut HashMap<Id, Vec<OwnedFd>>,
    ) -> Result<(), NetError> {
        let container = &endpoint.container;
        if self.0.dns.serves(container) {
            return Ok(());
        }
        let kept = kept.remove(container).unwrap_or_default();
        let open = || -> io::Result<()> {
            let ns = netns::open(&self.0.sandboxes.path(container))?;
            let listener = netns::run_in(ns.as_fd(), || {
                if kept.is_empty() {
                    return Listener::open_here();
                }
                Listener::adopt_here(kept).or_else(|_| Listener::open_here())
            })?;
            self.0.dns.serve(container, listener)
        };
        open().map_err(NetError::kernel(format!("serve names in the sandbox of {}", endpoint.name)))
    }

    /// Removes namespaces, ports of our bridges and bridges that have no record.
    fn sweep(&self) -> Result<(), NetError> {
        let (containers, host_links, links) = {
            let state = lock(&self.0.state);
            let containers: Vec<String> =
                state.sandboxes.keys().map(|id| sandbox_id(id)[..12].to_owned()).collect();
            let host_links: Vec<String> = state.endpoints.values().map(|e| e.host_link.clone()).collect();
            let networks = state.networks.values().map(|n| n.settings.link.clone());
            let brakes = state.endpoints.values().filter(|e| e.rates.outward != 0).map(|e| e.brake_link());
            let links: Vec<String> = networks.chain(brakes).collect();
            (containers, host_links, links)
        };
        let kernel = |action: &'static str| NetError::kernel(action);
        self.0
            .sandboxes
            .sweep(|name| containers.iter().any(|c| c == name))
            .map_err(kernel("sweep network namespaces"))?;
        let mut host = lock(&self.0.host);
        let present = host.links().map_err(kernel("list links"))?;
        let mark = self.0.mark();
        let ours: Vec<u32> = present.iter().filter(|l| l.alias == mark).map(|l| l.index).collect();
        for link in &present {
            let port = ours.contains(&link.master) && link.kind == "veth" && !host_links.contains(&link.name);
            let bridge = link.alias == mark && !links.contains(&link.name);
            if port || bridge {
                let mut changes = Changes::default();
                changes.delete_link(link.index);
                // A namespace that was swept above may take its links with it at this very moment.
                let _ = host.apply(changes);
            }
        }
        Ok(())
    }
}
