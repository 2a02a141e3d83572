//! Changes of a container that exists: its name, its limits, its networks and ports.
//!
//! What runs is changed first, then the record is written, then both are published; a change that fails leaves the
//! record as it was.

use std::sync::Arc;

use corten_base::db::Commit;
use corten_net::{PortRecord, Rates};
use corten_wire::api::host_config::{HostConfig, UpdateRequest};
use corten_wire::api::network::EndpointSettings;
use corten_wire::shim::Call;

use super::Task;
use crate::container::{blocking, call_shim, launch, network as endpoints};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::record::{CONTAINERS, ContainerRecord, NetworkEntry};
use crate::spec;
use crate::view::Endpoint;

/// A change of the record.
#[derive(Debug)]
pub(crate) enum Edit {
    Rename(String),
    Update(Box<UpdateRequest>),
    Connect { network: Box<NetworkEntry>, settings: Box<EndpointSettings> },
    Disconnect { network: Box<NetworkEntry>, force: bool },
    Unlink(String),
}

impl Task {
    pub(super) async fn edit(&mut self, edit: Edit) -> Result<()> {
        match edit {
            Edit::Rename(name) => self.rename(name).await,
            Edit::Update(request) => self.update(&request).await,
            Edit::Connect { network, settings } => self.connect(*network, *settings).await,
            Edit::Disconnect { network, force } => self.disconnect(*network, force).await,
            Edit::Unlink(alias) => self.unlink(&alias).await,
        }
    }

    /// Writes a changed record, then makes it ours.
    async fn save(&mut self, record: ContainerRecord) -> Result<()> {
        let record = Arc::new(record);
        let (shared, saved) = (self.shared.clone(), record.clone());
        blocking(move || {
            shared.db.write::<_, Error>(Commit::Durable, |w| {
                Ok(w.put(CONTAINERS, saved.id.as_str(), saved.as_ref())?)
            })?;
            if saved.host.auto_remove {
                launch::write_transient(&shared, &saved)?;
            }
            Ok(())
        })
        .await?;
        self.record = record;
        self.publish();
        Ok(())
    }

    async fn rename(&mut self, name: String) -> Result<()> {
        let old = self.record.name.clone();
        self.save(ContainerRecord { name: name.clone(), ..self.record.as_ref().clone() }).await?;
        self.shared.renamed(&self.record.id, &old, &name);
        for endpoint in self.run.endpoints.clone().iter() {
            if let Some(attached) = &endpoint.attached {
                let names: Vec<String> = endpoint
                    .dns_names
                    .iter()
                    .map(|n| if *n == old { name.clone() } else { n.clone() })
                    .collect();
                self.shared.networks.net().rename_endpoint(&attached.id, &name, &names);
                Arc::make_mut(&mut self.run.endpoints)
                    .iter_mut()
                    .filter(|e| e.id == endpoint.id)
                    .for_each(|e| e.dns_names.clone_from(&names));
            }
        }
        self.publish();
        let mut attributes = crate::view::attributes(&self.record);
        attributes.insert("oldName".into(), format!("/{old}"));
        self.container.publish("rename", attributes);
        Ok(())
    }

    async fn update(&mut self, request: &UpdateRequest) -> Result<()> {
        let mut host = self.record.host.as_ref().clone();
        spec::apply_update(&mut host, request)?;
        self.republish(&mut host, request).await?;
        if self.phase.run().is_some() {
            let resources = spec::resources(&host)?;
            if resources != spec::resources(&self.record.host)? {
                let shim = self.container.shim()?;
                call_shim(&shim, Call::Update(Box::new(resources)), &[]).await.map_err(|e| {
                    let kind = e.kind();
                    Error::Refused {
                        kind,
                        text: format!(
                            "cannot update container {}: {}",
                            self.record.id,
                            crate::error::chain(&e)
                        ),
                    }
                })?;
            }
        }
        self.save(ContainerRecord { host: Arc::new(host), ..self.record.as_ref().clone() }).await?;
        self.container.publish("update", crate::view::attributes(&self.record));
        Ok(())
    }

    /// Published ports and bandwidth limits: at once if it runs, else from the next start on.
    async fn republish(&mut self, host: &mut HostConfig, request: &UpdateRequest) -> Result<()> {
        let changes_ports = !request.publish_add.is_empty() || !request.publish_remove.is_empty();
        if changes_ports && matches!(host.network_mode.as_str(), "host" | "none") {
            return Err(crate::error::conflict(format!(
                "ports of a container on the network {} cannot be published",
                host.network_mode
            )));
        }
        if changes_ports && host.network_mode.starts_with("container:") {
            return Err(crate::error::conflict("ports belong to the container whose network this one joins"));
        }
        if changes_ports && self.container.shared().config().forwarder.is_some() {
            return Err(crate::error::unsupported(
                "a rootless daemon publishes ports only when a container starts",
            ));
        }
        let published = endpoints::publishing(&self.run.endpoints).cloned();
        let records = published.as_ref().and_then(|e| e.attached.as_ref()).map(|a| a.ports.clone());
        let records = records.unwrap_or_default();
        endpoints::without(&mut host.port_bindings, &request.publish_remove, &records)?;
        for (port, bindings) in &request.publish_add {
            let list = host.port_bindings.entry(port.clone()).or_default().get_or_insert_default();
            list.extend(bindings.iter().flatten().cloned());
        }
        if self.phase.run().is_none() {
            return Ok(());
        }
        let rates =
            Rates { inward: host.net_rate_in.unsigned_abs(), outward: host.net_rate_out.unsigned_abs() };
        let (drop, add) =
            (endpoints::meant(&request.publish_remove, &records), endpoints::ports(&request.publish_add)?);
        let limits = request.net_rate_in.is_some() || request.net_rate_out.is_some();
        if !changes_ports && !limits {
            return Ok(());
        }
        let id = match published {
            Some(endpoint) => Some(endpoint.id),
            None if changes_ports => {
                return Err(crate::error::conflict(
                    "the container has no network on which ports could be published",
                ));
            }
            None => None,
        };
        let (net, mut list) = (self.shared.networks.net().clone(), self.run.endpoints.to_vec());
        let list = blocking(move || {
            for attached in list.iter_mut().filter_map(|e| e.attached.as_mut()) {
                if limits {
                    *attached = net.set_rates(&attached.id, rates)?;
                }
                if changes_ports && Some(&attached.id) == id.as_ref() {
                    *attached = net.republish(&attached.id, &drop, &add)?;
                }
            }
            Ok(list)
        })
        .await?;
        failpoint!("engine.publish.before_record");
        self.run.endpoints = Arc::new(list);
        launch::write_run(&self.shared, &self.record.id, &self.run)
    }

    /// Published ports go where answers leave by, after networks came or went.
    async fn follow_gateway(&mut self, ports: Vec<PortRecord>) -> Result<()> {
        let (shared, record, mut list) =
            (self.shared.clone(), Arc::clone(&self.record), self.run.endpoints.to_vec());
        self.run.endpoints = blocking(move || {
            endpoints::follow_gateway(&shared, &record, &mut list, ports)?;
            Ok(Arc::new(list))
        })
        .await?;
        Ok(())
    }

    async fn connect(&mut self, network: NetworkEntry, settings: EndpointSettings) -> Result<()> {
        let _timer = corten_base::metrics::NETWORK_CONNECT.timer();
        let mut networks = self.record.networks.as_ref().clone();
        networks.insert(network.name.clone(), settings.clone());
        if self.phase.run().is_some() {
            let (shared, record, entry) = (self.shared.clone(), self.record.clone(), network.clone());
            let endpoint = blocking(move || {
                let endpoint = endpoints::attach(&shared, &record, &entry, &settings, Vec::new())?;
                // The container is connected; that its files could not be written is no reason to say otherwise.
                if let Err(error) = endpoints::endpoint_came(&shared, &record, &endpoint) {
                    tracing::warn!(container.id = %record.id, error = error.chain(), "the files of a container are not up to date");
                }
                launch::entrust_names(&shared, &record.id);
                Ok(endpoint)
            })
            .await?;
            Arc::make_mut(&mut self.run.endpoints).push(endpoint);
            self.follow_gateway(Vec::new()).await?;
            launch::write_run(&self.shared, &self.record.id, &self.run)?;
        }
        self.save(ContainerRecord { networks: Arc::new(networks), ..self.record.as_ref().clone() }).await?;
        if self.phase.run().is_some() {
            self.shared.networks.publish("connect", &network, Some(&self.record.id));
        }
        Ok(())
    }

    /// Takes a link's name away; the variables of a run stay.
    async fn unlink(&mut self, alias: &str) -> Result<()> {
        let mut record = self.record.as_ref().clone();
        Arc::make_mut(&mut record.links).retain(|l| l.alias != alias);
        let ends = format!("/{alias}");
        if let Some(shown) = Arc::make_mut(&mut record.host).links.as_mut() {
            shown.retain(|l| !l.ends_with(&ends));
        }
        self.save(record).await?;
        if self.phase.run().is_none() {
            return Ok(());
        }
        self.close_links().await?;
        let path = self.shared.dir(&self.record.id).join("hosts");
        let rewrite =
            || std::fs::write(&path, crate::hosts::without(&std::fs::read_to_string(&path)?, alias));
        rewrite().map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    /// What only a link had opened is closed.
    async fn close_links(&mut self) -> Result<()> {
        let has = |e: &&mut Endpoint| e.attached.as_ref().is_some_and(|a| !a.openings.is_empty());
        let Some(endpoint) = Arc::make_mut(&mut self.run.endpoints).iter_mut().find(has) else {
            return Ok(());
        };
        let (net, id) = (self.shared.networks.net().clone(), endpoint.id.clone());
        let openings = endpoints::openings(&self.shared, &self.record);
        endpoint.attached = Some(blocking(move || Ok(net.set_openings(&id, openings)?)).await?);
        launch::write_run(&self.shared, &self.record.id, &self.run)
    }

    async fn disconnect(&mut self, network: NetworkEntry, force: bool) -> Result<()> {
        let mut networks = self.record.networks.as_ref().clone();
        let wanted = networks.remove(&network.name).is_some();
        let attached = self.run.endpoints.iter().find(|e| e.network == network.id).cloned();
        if !wanted && attached.is_none() {
            return Err(crate::error::internal(format!(
                "container {} is not connected to network {}",
                self.record.id, network.name
            )));
        }
        if let Some(left @ Endpoint { attached: Some(_), .. }) = attached {
            let (shared, record, id) = (self.shared.clone(), Arc::clone(&self.record), left.id.clone());
            let ports = left.attached.as_ref().map(|a| a.ports.clone()).unwrap_or_default();
            let gone = blocking(move || {
                let Some(attached) = &left.attached else { return Ok(()) };
                shared.networks.net().detach(attached)?;
                // As when it was connected.
                if let Err(error) = endpoints::endpoint_gone(&shared, &record, &left) {
                    tracing::warn!(container.id = %record.id, error = error.chain(), "the files of a container are not up to date");
                }
                Ok(())
            })
            .await;
            if !force {
                gone?;
            }
            Arc::make_mut(&mut self.run.endpoints).retain(|e| e.id != id);
            self.follow_gateway(ports).await?;
            launch::write_run(&self.shared, &self.record.id, &self.run)?;
            self.shared.networks.publish("disconnect", &network, Some(&self.record.id));
        }
        self.save(ContainerRecord { networks: Arc::new(networks), ..self.record.as_ref().clone() }).await
    }
}
