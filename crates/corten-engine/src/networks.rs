//! Networks as records: names, ids, labels, Docker's views. What they are in the kernel is corten-net's.

pub(crate) mod status;
pub(crate) mod template;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_base::db::{Commit, Db};
use corten_base::event::Bus;
use corten_base::{Id, time};
use corten_net::{IpamConfig, Net, NetError, NetworkSpec};
use corten_wire::api::network::{
    ConfigReference, Ipam, IpamConfig as ApiIpamConfig, Network, NetworkContainer, NetworkCreateRequest,
};
use corten_wire::api::{Filters, TextMap};

use crate::config::EngineConfig;
use crate::error::{Error, Result, chain, conflict, forbidden, invalid, unavailable};
use crate::failpoint::failpoint;
use crate::record::{NETWORKS, NetworkEntry};
use crate::volumes::now;
use template::Template;

impl From<NetError> for Error {
    fn from(error: NetError) -> Self {
        Self::Net { kind: error.kind(), text: chain(&error) }
    }
}

/// All networks. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    net: Net,
    db: Db,
    bus: Bus,
    ipv6: bool,
    defaults: BTreeMap<String, TextMap>,
    entries: Mutex<BTreeMap<Id, NetworkEntry>>,
}

/// Names that are there from the beginning and stay.
pub(crate) fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none")
}

impl Networks {
    /// Loads the records and makes sure of the predefined networks. Blocks: kernel and disk.
    pub(crate) fn open(config: &EngineConfig, net: Net, db: Db, bus: Bus) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (_, entry) in db.all(NETWORKS)? {
            entries.insert(entry.id.clone(), entry);
        }
        for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
            let known = entries.values().find(|e| e.name == name).map(|e| e.id.clone());
            let id = known.unwrap_or_else(Id::random);
            let mut entry = entries.get(&id).cloned().unwrap_or_else(|| NetworkEntry {
                id: id.clone(),
                name: name.into(),
                driver: driver.into(),
                created_ns: now(),
                labels: TextMap::new(),
                attachable: false,
                ipam_options: None,
                plan: None,
                template: None,
                config_from: String::new(),
            });
            if driver == "bridge" {
                match net.ensure_default_network(id.clone())? {
                    Some(plan) => entry.plan = Some(plan),
                    None => {
                        entries.remove(&id);
                        continue;
                    }
                }
            }
            entries.insert(id, entry);
        }
        db.write::<_, Error>(Commit::Durable, |w| {
            for entry in entries.values().filter(|e| is_predefined(&e.name)) {
                w.put(NETWORKS, entry.id.as_str(), entry)?;
            }
            Ok(())
        })?;
        let inner = Inner {
            net,
            db,
            bus,
            ipv6: config.ipv6,
            defaults: config.network_options.clone(),
            entries: Mutex::new(entries),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Id, NetworkEntry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn net(&self) -> &Net {
        &self.inner.net
    }

    /// All networks that have a plan, for [`Net::restore`].
    pub(crate) fn plans(&self) -> Vec<corten_net::NetworkRecord> {
        self.entries().values().filter_map(|e| e.plan.clone()).collect()
    }

    /// By id, name, or unique prefix of the id.
    pub(crate) fn find(&self, reference: &str) -> Result<NetworkEntry> {
        let entries = self.entries();
        let exact = entries.values().find(|e| e.id.as_str() == reference);
        if let Some(entry) = exact.or_else(|| entries.values().find(|e| e.name == reference)) {
            return Ok(entry.clone());
        }
        let mut matching =
            entries.values().filter(|e| !reference.is_empty() && e.id.as_str().starts_with(reference));
        match (matching.next(), matching.count()) {
            (Some(entry), 0) => Ok(entry.clone()),
            (Some(_), more) => Err(invalid(format!(
                "network {reference} is ambiguous ({} matches found based on ID prefix)",
                more + 1
            ))),
            (None, _) => Err(Error::NoSuchNetwork(reference.to_owned())),
        }
    }

    pub(crate) fn get(&self, id: &Id) -> Option<NetworkEntry> {
        self.entries().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<NetworkEntry> {
        self.entries().values().cloned().collect()
    }

    pub(crate) fn publish(&self, action: &str, entry: &NetworkEntry, container: Option<&Id>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), entry.name.clone()),
            ("type".to_owned(), entry.driver.clone()),
        ]);
        if let Some(container) = container {
            attributes.insert("container".into(), container.to_string());
        }
        self.inner.bus.publish("network", action, entry.id.as_str(), attributes);
    }

    /// `POST /networks/create`. Blocks.
    pub(crate) fn create(&self, mut request: NetworkCreateRequest) -> Result<Id> {
        check_name(&request.name)?;
        template::validate(&request)?;
        {
            let entries = self.entries();
            let named = |e: &&NetworkEntry| Some(e.name.as_str()) == template::source(&request);
            let found = entries.values().find(named).cloned();
            drop(entries);
            template::apply(&mut request, found.as_ref())?;
        }
        let spec = self.spec(&request)?;
        let id = spec.id.clone();
        let mut entry = NetworkEntry {
            id: id.clone(),
            name: request.name.clone(),
            driver: if request.config_only { "null".into() } else { spec.driver.clone() },
            created_ns: now(),
            labels: request.labels.clone().unwrap_or_default(),
            attachable: request.attachable,
            ipam_options: request.ipam.as_ref().and_then(|i| i.options.clone()),
            plan: None,
            template: request.config_only.then(|| Template {
                ipv4: spec.ipv4,
                ipv6: spec.ipv6,
                ipam: request.ipam.clone().unwrap_or_default(),
                options: spec.options.clone(),
            }),
            config_from: template::source(&request).unwrap_or_default().to_owned(),
        };
        {
            // The name is taken before the slow part, so that two requests cannot both have it.
            let mut entries = self.entries();
            if entries.values().any(|e| e.name == request.name) {
                return Err(conflict(format!("network with name {} already exists", request.name)));
            }
            entries.insert(id.clone(), entry.clone());
        }
        let planned = match entry.template {
            Some(_) => spec.validate_ipam().map(|()| None),
            None => self.inner.net.create_network(spec).map(Some),
        };
        let made = planned.map_err(Error::from).and_then(|plan| {
            entry.plan = plan;
            failpoint!("engine.network.before_record");
            let saved = self
                .inner
                .db
                .write::<_, Error>(Commit::Durable, |w| Ok(w.put(NETWORKS, id.as_str(), &entry)?));
            if saved.is_err()
                && let Err(error) = self.inner.net.remove_network(&id)
            {
                tracing::warn!(network = %id, %error, "network cannot be taken back");
            }
            saved
        });
        if let Err(error) = made {
            self.entries().remove(&id);
            return Err(error);
        }
        failpoint!("engine.network.after_record");
        self.entries().insert(id.clone(), entry.clone());
        self.publish("create", &entry, None);
        Ok(id)
    }

    fn spec(&self, request: &NetworkCreateRequest) -> Result<NetworkSpec> {
        let driver =
            if request.driver.is_empty() || request.driver == "default" { "bridge" } else { &request.driver };
        if matches!(driver, "host" | "null") && !request.config_only {
            return Err(forbidden(format!("only one instance of {driver:?} network is allowed")));
        }
        if request.ingress || !matches!(request.scope.as_str(), "" | "local") || driver == "overlay" {
            return Err(unavailable(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        let ipam = request.ipam.clone().unwrap_or_default();
        let mut plan = Vec::new();
        for config in ipam.config.iter().flatten() {
            plan.push(ipam_config(config)?);
        }
        let mut options: BTreeMap<String, String> = request.options.clone().unwrap_or_default();
        let defaults = self.inner.defaults.get(driver).filter(|_| request.config_from.is_none());
        for (key, value) in defaults.into_iter().flatten() {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
        Ok(NetworkSpec {
            id: Id::random(),
            name: request.name.clone(),
            driver: driver.to_owned(),
            ipam_driver: ipam.driver,
            ipam: plan,
            internal: request.internal,
            ipv4: request.enable_ipv4.unwrap_or(true),
            ipv6: request.enable_ipv6.unwrap_or(self.inner.ipv6),
            options,
        })
    }

    /// `DELETE /networks/{id}`. Blocks.
    pub(crate) fn remove(&self, reference: &str) -> Result<()> {
        let entry = self.find(reference)?;
        if is_predefined(&entry.name) {
            return Err(forbidden(format!("{} is a pre-defined network and cannot be removed", entry.name)));
        }
        if entry.template.is_some() && self.entries().values().any(|e| e.config_from == entry.name) {
            return Err(forbidden(format!("configuration network {:?} is in use", entry.name)));
        }
        self.inner.net.remove_network(&entry.id)?;
        failpoint!("engine.network.after_kernel");
        self.inner.db.write::<_, Error>(Commit::Durable, |w| {
            w.remove(NETWORKS, entry.id.as_str())?;
            Ok(())
        })?;
        self.entries().remove(&entry.id);
        self.publish("destroy", &entry, None);
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(invalid("invalid name: name is empty"));
    }
    if is_predefined(name) || name == "default" {
        return Err(forbidden(format!("operation is not permitted on predefined {name} network")));
    }
    Ok(())
}

fn ipam_config(config: &ApiIpamConfig) -> Result<IpamConfig> {
    let net = |text: &str| -> Result<Option<ipnet::IpNet>> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| invalid(format!("invalid subnet {text}: invalid CIDR block notation")))
    };
    let address = |what: &str, text: &str| {
        text.parse::<std::net::IpAddr>()
            .map_err(|_| invalid(format!("invalid {what} {text}: invalid address")))
    };
    let gateway = if config.gateway.is_empty() { None } else { Some(address("gateway", &config.gateway)?) };
    let mut aux_addresses = BTreeMap::new();
    for (name, text) in &config.auxiliary_addresses {
        aux_addresses.insert(name.clone(), address("auxiliary address", text)?);
    }
    Ok(IpamConfig { subnet: net(&config.subnet)?, ip_range: net(&config.ip_range)?, gateway, aux_addresses })
}

/// As inspect and list show it.
pub(crate) fn view(entry: &NetworkEntry, containers: BTreeMap<String, NetworkContainer>) -> Network {
    let config = entry.plan.as_ref().map(|plan| {
        plan.ipam
            .iter()
            .map(|c| ApiIpamConfig {
                subnet: c.subnet.map(|s| s.to_string()).unwrap_or_default(),
                ip_range: c.ip_range.map(|s| s.to_string()).unwrap_or_default(),
                gateway: c.gateway.map(|s| s.to_string()).unwrap_or_default(),
                auxiliary_addresses: c
                    .aux_addresses
                    .iter()
                    .map(|(n, a)| (n.clone(), a.to_string()))
                    .collect(),
            })
            .collect()
    });
    let (plan, template) = (entry.plan.as_ref(), entry.template.as_ref());
    let unmanaged = plan.is_some_and(|p| p.unmanaged);
    let default = if unmanaged { "null" } else { "default" };
    let anything = || vec![ApiIpamConfig { subnet: "0.0.0.0/0".into(), ..ApiIpamConfig::default() }];
    let ipam = Ipam {
        driver: template
            .map(|t| &t.ipam.driver)
            .filter(|d| !d.is_empty())
            .cloned()
            .unwrap_or_else(|| default.into()),
        options: entry.ipam_options.clone(),
        config: if unmanaged { Some(anything()) } else { config.or_else(|| template?.shown()) },
    };
    let options = plan.map(|p| &p.options).or(template.map(|t| &t.options));
    Network {
        name: entry.name.clone(),
        id: entry.id.to_string(),
        created: time::rfc3339_nano(i128::from(entry.created_ns)),
        scope: "local".into(),
        driver: entry.driver.clone(),
        enable_ipv4: plan.is_none_or(|p| p.ipv4) && template.is_none_or(|t| t.ipv4),
        enable_ipv6: plan.is_some_and(|p| p.ipv6) || template.is_some_and(|t| t.ipv6),
        ipam,
        internal: plan.is_some_and(|p| p.internal),
        attachable: entry.attachable,
        ingress: false,
        config_from: ConfigReference { network: entry.config_from.clone() },
        config_only: template.is_some(),
        containers: Some(containers),
        options: options.cloned().unwrap_or_default(),
        labels: entry.labels.clone(),
        status: None,
    }
}

/// Filters of `GET /networks`. `used` says whether a network has endpoints.
pub(crate) fn matches(filters: &Filters, entry: &NetworkEntry, used: bool) -> Result<bool> {
    let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.contains(key) || filters.get(key).any(test);
    let dangling = match filters.contains("dangling") {
        true => Some(filters.bool_or("dangling", false).map_err(|e| invalid(e.to_string()))?),
        false => None,
    };
    if let Some(bad) = filters.get("type").find(|t| !matches!(*t, "custom" | "builtin")) {
        return Err(invalid(format!("invalid filter: 'type'='{bad}'")));
    }
    let predefined = is_predefined(&entry.name);
    Ok(any("driver", &|d| d == entry.driver)
        && any("id", &|i| entry.id.as_str().contains(i))
        && any("name", &|n| entry.name.contains(n))
        && any("scope", &|s| s == "local")
        && any("type", &|t| (t == "builtin") == predefined)
        && dangling.is_none_or(|want| !predefined && want != used)
        && filters.match_labels("label", &entry.labels)
        && filters.match_no_labels("label!", &entry.labels))
}
