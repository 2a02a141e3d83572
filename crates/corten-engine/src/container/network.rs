//! A container's place in the network: its endpoints, published ports, and the generated files that name them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use corten_base::Id;
use corten_net::{
    EndpointSpec, Opening, PortRecord, PortSpec, Protocol, Rates, SandboxSpec, Upstream, Users,
};
use corten_wire::api::network::EndpointSettings;
use corten_wire::api::port::{Port, PortBinding};

use super::launch::{Run, write_run};
use crate::error::{Error, Result, forbidden, internal, invalid};
use crate::forward::Forwarder;
use crate::hosts::{self, DnsOptions};
use crate::links::Linked;
use crate::record::{ContainerRecord, NetworkEntry};
use crate::shared::Shared;
use crate::spec::Surroundings;
use crate::view::{ContainerView, Endpoint};
use crate::{networks, validate};

/// `HostConfig.PortBindings`.
pub(crate) type Bindings = BTreeMap<Port, Option<Vec<PortBinding>>>;

/// Makes the sandbox, connects it, writes hosts, hostname and resolv.conf. What was made is in `run`, also after a
/// failure.
pub(super) fn join(
    shared: &Shared,
    record: &ContainerRecord,
    run: &mut Run,
    around: &mut Surroundings,
) -> Result<()> {
    let host = &record.host;
    let failed = |e: Error| Error::Net {
        kind: e.kind(),
        text: format!("failed to set up container networking: {}", e.chain()),
    };
    let mut wanted = Vec::new();
    for (name, settings) in record.networks.iter() {
        wanted.push((shared.networks.find(name).map_err(failed)?, settings.clone()));
    }
    // The network of `--network` first: it becomes eth0.
    let primary = shared.networks.find(&host.network_mode).map(|e| e.id).ok();
    wanted.sort_by_key(|(entry, _)| Some(&entry.id) != primary.as_ref());
    let own = host.network_mode != "host";
    let user =
        wanted.iter().any(|(e, _)| e.plan.as_ref().is_some_and(corten_net::NetworkRecord::resolves_names));
    let resolution = resolv_conf(shared, record, own, user);
    run.upstreams = resolution
        .upstream
        .iter()
        .map(|ip| Upstream { address: SocketAddr::new(*ip, 53), from_host: ip.is_loopback() })
        .collect();
    let linked = linked(shared, record)?;
    around.link_env = variables(&linked, &record.name);
    if own {
        let users = crate::userns::of(&shared.config(), host).map(|map| match around.users_of {
            Some(pid) => Users::Of(format!("/proc/{pid}/ns/user").into()),
            None => Users::New { uids: map.uids.clone(), gids: map.gids.clone() },
        });
        let (container, upstreams) = (record.id.clone(), run.upstreams.clone());
        let sandbox = SandboxSpec { container, upstreams, users };
        around.sandbox =
            Some(shared.networks.net().ensure_sandbox(sandbox).map_err(Error::from).map_err(failed)?);
        run.sandbox = true;
    }
    // On the network that the answers leave by.
    let published = wanted
        .iter()
        .filter(|(e, _)| e.plan.as_ref().is_some_and(|p| !p.internal))
        .min_by_key(|(e, settings)| (std::cmp::Reverse(settings.gw_priority), e.name.clone()))
        .map(|(e, _)| e.id.clone());
    for (entry, settings) in &wanted {
        let ports = if published.as_ref() == Some(&entry.id) { wanted_ports(record)? } else { Vec::new() };
        let endpoint = self::attach(shared, record, entry, settings, ports).map_err(failed)?;
        Arc::make_mut(&mut run.endpoints).push(endpoint);
    }
    write_run(shared, &record.id, run)?;
    files(shared, record, run, &resolution.text)?;
    tell_linking(shared, record, run);
    for (entry, _) in &wanted {
        shared.networks.publish("connect", entry, Some(&record.id));
    }
    Ok(())
}

/// The containers that this one is linked to, with their aliases; all must run.
fn linked(shared: &Shared, record: &ContainerRecord) -> Result<Vec<(String, Arc<ContainerView>)>> {
    let mut found = Vec::new();
    for link in record.links.iter() {
        // COMPAT: a link to a container that was removed is gone with it.
        let Some(other) = shared.get(&link.container) else { continue };
        let view = other.view();
        if !view.is_running() {
            return Err(internal(format!(
                "Cannot link to a non running container: /{} AS /{}/{}",
                view.record.name, record.name, link.alias
            )));
        }
        found.push((link.alias.clone(), view));
    }
    Ok(found)
}

/// With an address on the default bridge, where links are.
fn link_of<'a>(alias: &'a str, view: &'a ContainerView) -> Option<Linked<'a>> {
    let bridge = view.endpoints.iter().find(|e| e.name == "bridge")?;
    let attached = bridge.attached.as_ref()?;
    Some(Linked {
        alias,
        name: &view.record.name,
        hostname: &view.record.config.hostname,
        address: attached.ipv4.map(IpAddr::V4).or(attached.ipv6.map(IpAddr::V6))?,
        ports: view.record.config.exposed_ports.keys().collect(),
        env: view.record.config.env.as_deref().unwrap_or_default(),
    })
}

fn variables(linked: &[(String, Arc<ContainerView>)], owner: &str) -> Vec<String> {
    linked.iter().filter_map(|(alias, view)| link_of(alias, view)).flat_map(|l| l.variables(owner)).collect()
}

/// Running containers with a link to this one find it at its new address.
fn tell_linking(shared: &Shared, record: &ContainerRecord, run: &Run) {
    for container in shared.containers() {
        let view = container.view();
        if !view.record.links.iter().any(|l| l.container == record.id) || !view.is_running() {
            continue;
        }
        let path = shared.dir(container.id()).join("hosts");
        let address = run
            .endpoints
            .iter()
            .filter(|e| e.name == "bridge")
            .find_map(|e| e.attached.as_ref()?.ipv4.map(IpAddr::V4));
        let (Some(address), Ok(text)) = (address, std::fs::read_to_string(&path)) else { continue };
        let mut text = text;
        for link in view.record.links.iter().filter(|l| l.container == record.id) {
            let names = Linked {
                alias: &link.alias,
                name: &record.name,
                hostname: &record.config.hostname,
                address,
                ports: Vec::new(),
                env: &[],
            };
            text = hosts::moved(&text, &names.host_names(), address);
        }
        if let Err(error) = std::fs::write(&path, text) {
            tracing::warn!(container.id = %container.id(), %error, "a link cannot be brought up to date");
        }
    }
}

/// Connects the container's sandbox to one network.
pub(crate) fn attach(
    shared: &Shared,
    record: &ContainerRecord,
    entry: &NetworkEntry,
    settings: &EndpointSettings,
    ports: Vec<PortSpec>,
) -> Result<Endpoint> {
    let id = Id::random();
    let mut endpoint = Endpoint {
        name: entry.name.clone(),
        network: entry.id.clone(),
        id: id.clone(),
        dns_names: Vec::new(),
        attached: None,
    };
    if entry.template.is_some() {
        return Err(forbidden("cannot create endpoint on configuration-only network"));
    }
    let Some(plan) = &entry.plan else { return Ok(endpoint) };
    if plan.resolves_names() {
        endpoint.dns_names = dns_names(record, settings);
    }
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let driver = |key: &str| settings.driver_opts.as_ref().and_then(|o| o.get(key)).map(String::as_str);
    let mac = [settings.mac_address.as_str(), record.config.mac_address.as_str()]
        .into_iter()
        .find(|m| !m.is_empty())
        .map(|m| m.parse().map_err(|_| invalid(format!("invalid MAC address: {m}"))))
        .transpose()?;
    let spec = EndpointSpec {
        id,
        container: record.id.clone(),
        network: entry.id.clone(),
        name: record.name.clone(),
        dns_names: endpoint.dns_names.clone(),
        ipv4: ipam.ipv4_address.parse().ok(),
        ipv6: ipam.ipv6_address.parse().ok(),
        link_local: ipam.link_local_ips.iter().filter_map(|a| a.parse().ok()).collect(),
        mac,
        ifname: driver("com.docker.network.endpoint.ifname").map(str::to_owned),
        gw_priority: settings.gw_priority,
        ports,
        links: settings.links.iter().flatten().filter_map(|l| link(l)).collect(),
        openings: if plan.opens_links() { openings(shared, record) } else { Vec::new() },
        rates: Rates {
            inward: record.host.net_rate_in.unsigned_abs(),
            outward: record.host.net_rate_out.unsigned_abs(),
        },
        sysctls: driver("com.docker.network.endpoint.sysctls")
            .map(|s| s.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
    };
    let daemon = shared.config();
    let Some(forwarder) = Forwarder::of(daemon.forwarder.as_ref()) else {
        endpoint.attached = Some(shared.networks.net().attach(spec)?);
        return Ok(endpoint);
    };
    let wanted = spec.ports.clone();
    let mut spec = spec;
    // The address is one of the host's, which the forwarder opens; all come in by one link.
    spec.ports.iter_mut().for_each(|p| p.host_ip = None);
    let attached = shared.networks.net().attach(spec)?;
    if let Err(error) = forwarder.open(&attached.ports, &wanted) {
        shared.networks.net().detach(&attached).ok();
        return Err(error);
    }
    endpoint.attached = Some(attached);
    Ok(endpoint)
}

/// `OTHER[:NAME]` of an endpoint's links; the name is the other's own if none is given.
fn link(text: &str) -> Option<(String, String)> {
    let (other, name) = text.split_once(':').unwrap_or((text, text));
    let other = other.trim_start_matches('/');
    let name = name.rsplit('/').next().unwrap_or_default();
    (!other.is_empty() && !name.is_empty()).then(|| (other.to_owned(), name.to_owned()))
}

/// The exposed ports of the containers that this one is linked to: what `--link` opens where containers of the default
/// bridge do not reach each other.
pub(crate) fn openings(shared: &Shared, record: &ContainerRecord) -> Vec<Opening> {
    let opening = |link: &crate::links::LinkRecord| {
        let view = shared.get(&link.container)?.view();
        let ports = view.record.config.exposed_ports.keys();
        let ports = ports.filter_map(|p| Some((protocol(p.protocol()).ok()?, p.number()))).collect();
        Some(Opening { container: link.container.clone(), ports })
    };
    record.links.iter().filter_map(opening).collect()
}

/// Names that others find it by: name, aliases, short id, host name; each once.
fn dns_names(record: &ContainerRecord, settings: &EndpointSettings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let short = record.id.short().to_owned();
    let all = std::iter::once(record.name.clone())
        .chain(settings.aliases.iter().flatten().cloned())
        .chain([short, record.config.hostname.clone()]);
    for name in all.filter(|n| !n.is_empty()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn protocol(name: &str) -> Result<Protocol> {
    match name {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        other => Err(invalid(format!("invalid proto: {other:?}"))),
    }
}

/// Bindings as corten-net takes them.
pub(crate) fn ports(bindings: &Bindings) -> Result<Vec<PortSpec>> {
    let mut list = Vec::new();
    for (port, bindings) in bindings {
        let any = [PortBinding::default()];
        let given = bindings.as_deref().unwrap_or_default();
        for binding in if given.is_empty() { &any[..] } else { given } {
            list.push(PortSpec {
                container_port: port.number(),
                protocol: protocol(port.protocol())?,
                host_ip: binding.host_ip.parse().ok(),
                host_ports: validate::parse_host_port(&binding.host_port)
                    .ok_or_else(|| invalid(format!("invalid port specification: {:?}", binding.host_port)))?,
            });
        }
    }
    Ok(list)
}

/// What is to be published: bindings, and with `--publish-all` the exposed ports without one.
fn wanted_ports(record: &ContainerRecord) -> Result<Vec<PortSpec>> {
    let mut list = ports(&record.host.port_bindings)?;
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.keys().filter(|p| !record.host.port_bindings.contains_key(p))
        {
            list.push(PortSpec {
                container_port: port.number(),
                protocol: protocol(port.protocol())?,
                host_ip: None,
                host_ports: (0, 0),
            });
        }
    }
    Ok(list)
}

/// Whether a wish to take ports back means this one, which is published at `ip` and `number`.
fn is_meant(wish: Option<&[PortBinding]>, ip: Option<IpAddr>, number: &str) -> bool {
    let fits = |w: &PortBinding| {
        (w.host_ip.is_empty() || w.host_ip.parse().ok() == ip)
            && (w.host_port.is_empty() || w.host_port == number)
    };
    wish.is_none_or(|all| all.is_empty() || all.iter().any(fits))
}

/// The ports of a running container that a wish means.
pub(crate) fn meant(wishes: &Bindings, published: &[PortRecord]) -> Vec<PortRecord> {
    let wish = |p: &&PortRecord| {
        wishes.iter().any(|(port, wish)| {
            (port.number(), protocol(port.protocol()).ok()) == (p.container_port, Some(p.protocol))
                && is_meant(wish.as_deref(), Some(p.host_ip), &p.host_port.to_string())
        })
    };
    published.iter().filter(wish).cloned().collect()
}

/// Bindings without those that a wish means; what is published where no number was asked for is told by `published`.
/// A wish that means nothing is an error.
pub(crate) fn without(bindings: &mut Bindings, wishes: &Bindings, published: &[PortRecord]) -> Result<()> {
    for (port, wish) in wishes {
        let actual = meant(&BTreeMap::from([(port.clone(), wish.clone())]), published);
        let Some(found) = bindings.get_mut(port) else {
            if actual.is_empty() {
                return Err(invalid(format!("port {port} is not published")));
            }
            continue;
        };
        let list = found.get_or_insert_default();
        let before = list.len();
        list.retain(|b| {
            let dynamic = matches!(b.host_port.as_str(), "" | "0") || b.host_port.contains('-');
            let gone = if dynamic {
                !actual.is_empty()
            } else {
                is_meant(wish.as_deref(), b.host_ip.parse().ok(), &b.host_port)
            };
            !gone
        });
        if list.len() == before && before > 0 && actual.is_empty() {
            return Err(invalid(format!("port {port} is not published there")));
        }
        if list.is_empty() {
            bindings.remove(port);
        }
    }
    Ok(())
}

/// The endpoint that published ports belong to: the one that answers leave by.
pub(crate) fn publishing(endpoints: &[Endpoint]) -> Option<&Endpoint> {
    endpoints
        .iter()
        .filter(|e| {
            e.attached
                .as_ref()
                .is_some_and(|a| !a.host_link.is_empty() && (a.gateway.is_some() || a.gateway_v6.is_some()))
        })
        .min_by_key(|e| (std::cmp::Reverse(e.attached.as_ref().map(|a| a.gw_priority)), e.name.clone()))
}

/// Moves published ports to the endpoint that answers leave by, after that has become another one. `ports`: those of
/// an endpoint that has just gone. A container that had no such endpoint has its ports published now.
pub(crate) fn follow_gateway(
    shared: &Shared,
    record: &ContainerRecord,
    endpoints: &mut [Endpoint],
    mut ports: Vec<PortRecord>,
) -> Result<()> {
    let net = shared.networks.net();
    let target = publishing(endpoints).map(|e| e.id.clone());
    for endpoint in endpoints.iter_mut().filter(|e| Some(&e.id) != target.as_ref()) {
        let Some(attached) = endpoint.attached.as_mut().filter(|a| !a.ports.is_empty()) else { continue };
        let held = std::mem::take(&mut attached.ports);
        *attached = net.republish(&attached.id, &held, &[])?;
        ports.extend(held);
    }
    let target = endpoints.iter_mut().find(|e| Some(&e.id) == target.as_ref());
    if let Some(attached) = target.and_then(|e| e.attached.as_mut()) {
        let again = |p: &PortRecord| PortSpec {
            container_port: p.container_port,
            protocol: p.protocol,
            host_ip: Some(p.host_ip),
            host_ports: (p.host_port, p.host_port),
        };
        // The forwarder of a rootless daemon opens ports when a container starts.
        let late = ports.is_empty() && attached.ports.is_empty() && shared.config().forwarder.is_none();
        let specs = if late { wanted_ports(record)? } else { ports.iter().map(again).collect() };
        if specs.is_empty() {
            return Ok(());
        }
        *attached = net.republish(&attached.id, &[], &specs)?;
    }
    Ok(())
}

/// The files of a running container that was just connected to another network: its address gets a line in `hosts`,
/// and names are asked of the embedded server if this is its first network that has them. A `resolv.conf` that somebody
/// edited stays as it is.
pub(crate) fn endpoint_came(shared: &Shared, record: &ContainerRecord, endpoint: &Endpoint) -> Result<()> {
    let c = &record.config;
    rewrite(shared, record, "hosts", |text| {
        Some(text.to_owned() + &hosts::own_lines(&addresses(endpoint), &c.hostname, &c.domainname))
    })?;
    if endpoint.dns_names.is_empty() {
        return Ok(());
    }
    let embedded = resolv_conf(shared, record, true, true).text;
    rewrite(shared, record, "resolv.conf", |text| {
        let new = hosts::is_untouched(text) && !text.contains("(internal resolver)");
        new.then_some(embedded)
    })
}

/// The files of a running container that was just disconnected from a network.
pub(crate) fn endpoint_gone(shared: &Shared, record: &ContainerRecord, endpoint: &Endpoint) -> Result<()> {
    rewrite(shared, record, "hosts", |text| Some(hosts::without_addresses(text, &addresses(endpoint))))
}

fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    let attached = endpoint.attached.iter();
    attached.flat_map(|e| e.ipv4.map(IpAddr::V4).into_iter().chain(e.ipv6.map(IpAddr::V6))).collect()
}

/// Changes one of the files in place: the container has it mounted.
fn rewrite(
    shared: &Shared,
    record: &ContainerRecord,
    name: &str,
    change: impl FnOnce(&str) -> Option<String>,
) -> Result<()> {
    let path = shared.dir(&record.id).join(name);
    let failed = |e| Error::io(format!("write {}", path.display()), e);
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    match change(&text) {
        Some(new) if new != text => std::fs::write(&path, new).map_err(failed),
        _ => Ok(()),
    }
}

fn resolv_conf(shared: &Shared, record: &ContainerRecord, own: bool, user: bool) -> hosts::Resolution {
    let daemon = &shared.config();
    let host = std::fs::read_to_string(&daemon.resolv_conf).unwrap_or_default();
    let choose = |own: &Option<Vec<String>>, default: &[String]| match own.as_deref() {
        None | Some([]) => default.to_vec(),
        Some(list) => list.to_vec(),
    };
    let h = &record.host;
    let (servers, search, options) = (
        choose(&h.dns, &daemon.dns),
        choose(&h.dns_search, &daemon.dns_search),
        choose(&h.dns_options, &daemon.dns_options),
    );
    let dns = DnsOptions { servers: &servers, search: &search, options: &options };
    if user {
        hosts::embedded(&host, &dns)
    } else {
        hosts::plain(&host, &dns, own && h.network_mode != "none")
    }
}

/// Writes hosts, hostname and resolv.conf.
fn files(shared: &Shared, record: &ContainerRecord, run: &Run, resolv: &str) -> Result<()> {
    let dir = shared.dir(&record.id);
    let own: Vec<IpAddr> = run.endpoints.iter().flat_map(addresses).collect();
    let mut extra = Vec::new();
    for entry in record.host.extra_hosts.iter().flatten() {
        let Some((name, address)) = entry.split_once([':', '=']) else { continue };
        let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        match address {
            "host-gateway" => extra.extend(host_gateway(shared).map(|ip| (name.to_owned(), ip))),
            address => extra.extend(address.parse().ok().map(|ip| (name.to_owned(), ip))),
        }
    }
    let linked = linked(shared, record)?;
    let links = linked.iter().filter_map(|(alias, view)| link_of(alias, view));
    extra.extend(links.map(|l| (l.host_names(), l.address)));
    let c = &record.config;
    let mut text = hosts::hosts(&extra, &own, &c.hostname, &c.domainname);
    if record.host.network_mode == "host" {
        // COMPAT: on the host's network the names are the host's.
        let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let lines: String = extra.iter().map(|(n, a)| format!("{a}\t{n}\n")).collect();
        text = format!("{host}{lines}");
    }
    for (name, text) in
        [("hosts", text.as_str()), ("hostname", &format!("{}\n", c.hostname)), ("resolv.conf", resolv)]
    {
        // In place, not by rename: a running container that joined our network has the old file mounted.
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

pub(crate) fn host_gateway(shared: &Shared) -> Option<IpAddr> {
    shared.config().host_gateway.or_else(|| {
        let bridge = shared.networks.find("bridge").ok()?;
        bridge.plan?.ipam.iter().find_map(|c| c.gateway)
    })
}

/// Checks the wanted endpoints of a new container against the networks that are there.
pub(crate) fn check_endpoints(shared: &Shared, wanted: &BTreeMap<String, EndpointSettings>) -> Result<()> {
    for (name, settings) in wanted {
        check_endpoint(shared, name, settings)?;
    }
    Ok(())
}

pub(crate) fn check_endpoint(shared: &Shared, name: &str, settings: &EndpointSettings) -> Result<()> {
    let prefix = |text: String| invalid(format!("invalid config for network {name}: {text}"));
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    if let Some(bad) = ipam.link_local_ips.iter().find(|a| a.parse::<IpAddr>().is_err()) {
        return Err(prefix(format!("invalid endpoint settings:\ninvalid link-local IP address: {bad}")));
    }
    let addresses: Vec<IpAddr> =
        [&ipam.ipv4_address, &ipam.ipv6_address].into_iter().filter_map(|a| a.parse().ok()).collect();
    if networks::is_predefined(name) && name != "bridge" && !addresses.is_empty() {
        return Err(prefix(
            "invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only".into(),
        ));
    }
    if networks::is_predefined(name) && settings.aliases.as_ref().is_some_and(|a| !a.is_empty()) {
        return Err(prefix(
            "invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks"
                .into(),
        ));
    }
    if let Ok(entry) = shared.networks.find(name)
        && let Some(plan) = entry.plan
    {
        plan.validate_addresses(&addresses).map_err(|e| prefix(e.to_string()))?;
    }
    Ok(())
}
