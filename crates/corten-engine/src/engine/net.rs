//! Networks and the containers in them.

use std::collections::BTreeMap;

use corten_wire::api::Filters;
use corten_wire::api::network::{
    Network, NetworkConnectRequest, NetworkContainer, NetworkCreateRequest, NetworkCreateResponse,
    NetworkDisconnectRequest, NetworksPruneResponse,
};

use super::create::wished;
use super::{Engine, chosen, prune_filter};
use crate::container::{Edit, blocking, check_endpoint};
use crate::error::{Result, conflict, forbidden, internal, invalid};
use crate::networks::{self, is_predefined};
use crate::record::NetworkEntry;

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];

impl Engine {
    /// `POST /networks/create`.
    ///
    /// # Errors
    /// What Docker refuses, in its words.
    pub async fn create_network(&self, request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        let shared = self.shared.clone();
        let id = blocking(move || shared.networks.create(request)).await?;
        Ok(NetworkCreateResponse { id: id.to_string(), warning: String::new() })
    }

    /// `GET /networks/{id}`, with its running containers.
    ///
    /// # Errors
    /// None, or several.
    pub fn network(&self, reference: &str) -> Result<Network> {
        let entry = self.shared.networks.find(reference)?;
        let network = networks::view(&entry, self.members(&entry));
        Ok(Network { status: networks::status::of(&network), ..network })
    }

    /// `GET /networks`.
    ///
    /// # Errors
    /// Filters that cannot be right.
    pub fn networks(&self, filters: &Filters) -> Result<Vec<Network>> {
        filters.validate(FILTERS).map_err(|e| invalid(e.to_string()))?;
        let mut list = Vec::new();
        for entry in self.shared.networks.all() {
            let members = self.members(&entry);
            if networks::matches(filters, &entry, !members.is_empty())? {
                // COMPAT: lists leave the containers out.
                list.push(networks::view(&entry, BTreeMap::new()));
            }
        }
        list.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
        Ok(list)
    }

    fn members(&self, entry: &NetworkEntry) -> BTreeMap<String, NetworkContainer> {
        let mut members = BTreeMap::new();
        for view in self.views() {
            let Some(endpoint) = view.endpoints.iter().find(|e| e.network == entry.id) else { continue };
            let attached = endpoint.attached.as_ref();
            let v4 = attached.and_then(|a| Some(format!("{}/{}", a.ipv4?, a.ipv4_prefix)));
            let v6 = attached.and_then(|a| Some(format!("{}/{}", a.ipv6?, a.ipv6_prefix)));
            members.insert(
                view.record.id.to_string(),
                NetworkContainer {
                    name: view.record.name.clone(),
                    endpoint_id: endpoint.id.to_string(),
                    mac_address: attached.map(|a| a.mac.to_string()).unwrap_or_default(),
                    ipv4_address: v4.unwrap_or_default(),
                    ipv6_address: v6.unwrap_or_default(),
                },
            );
        }
        members
    }

    /// `DELETE /networks/{id}`.
    ///
    /// # Errors
    /// None; predefined; in use.
    pub async fn remove_network(&self, reference: &str) -> Result<()> {
        let (shared, reference) = (self.shared.clone(), reference.to_owned());
        blocking(move || shared.networks.remove(&reference)).await
    }

    /// `POST /networks/prune`: those without a running container.
    ///
    /// # Errors
    /// Filters that cannot be right.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworksPruneResponse> {
        let until = prune_filter(filters, &["label", "label!", "until"])?;
        let mut deleted = Vec::new();
        for entry in self.shared.networks.all() {
            if is_predefined(&entry.name)
                || entry.template.is_some()
                || !self.members(&entry).is_empty()
                || !chosen(filters, &entry.labels, i128::from(entry.created_ns), until)
            {
                continue;
            }
            // A container may have joined since we looked.
            if self.remove_network(entry.id.as_str()).await.is_ok() {
                deleted.push(entry.name);
            }
        }
        self.shared.bus.publish(
            "network",
            "prune",
            "",
            BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]),
        );
        Ok(NetworksPruneResponse { networks_deleted: (!deleted.is_empty()).then_some(deleted) })
    }

    /// `POST /networks/{id}/connect`.
    ///
    /// # Errors
    /// No such network or container; already connected; addresses that cannot be.
    pub async fn connect(&self, network: &str, request: NetworkConnectRequest) -> Result<()> {
        let entry = self.shared.networks.find(network)?;
        let container = self.find(&request.container)?;
        let view = container.view();
        let mode = view.record.host.network_mode.as_str();
        if mode == "host" || entry.name == "host" {
            return Err(forbidden(
                "container cannot be connected to host network or disconnected from hostnetwork network",
            ));
        }
        if mode.starts_with("container:") {
            return Err(forbidden(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if mode == "none" && entry.name != "none" || entry.name == "none" && mode != "none" {
            return Err(forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        if view.record.networks.contains_key(&entry.name) {
            return Err(forbidden(format!(
                "endpoint with name {} already exists in network {}",
                view.record.name, entry.name
            )));
        }
        let settings = wished(request.endpoint_config.unwrap_or_default());
        check_endpoint(&self.shared, &entry.name, &settings)?;
        container.edit(Edit::Connect { network: Box::new(entry), settings: Box::new(settings) }).await
    }

    /// `DELETE /containers/{owner}/{alias}?link=1`.
    ///
    /// # Errors
    /// No such container, or no such link.
    pub async fn remove_link(&self, name: &str) -> Result<()> {
        let unknown = || crate::error::Error::NoSuchContainer(name.to_owned());
        let (owner, alias) = name.trim_start_matches('/').split_once('/').ok_or_else(unknown)?;
        let container = self.find(owner)?;
        if !container.view().record.links.iter().any(|l| l.alias == alias) {
            return Err(unknown());
        }
        container.edit(Edit::Unlink(alias.to_owned())).await
    }

    /// `POST /networks/{id}/disconnect`.
    ///
    /// # Errors
    /// No such network or container; not connected.
    pub async fn disconnect(&self, network: &str, request: NetworkDisconnectRequest) -> Result<()> {
        let entry = self.shared.networks.find(network)?;
        let container = self.find(&request.container)?;
        if entry.name == "host" && container.view().is_running() {
            return Err(conflict(
                "container cannot be disconnected from host network: it was created with it",
            ));
        }
        if container.view().gone {
            return Err(internal(format!("container {} is being removed", container.id())));
        }
        container.edit(Edit::Disconnect { network: Box::new(entry), force: request.force }).await
    }
}
