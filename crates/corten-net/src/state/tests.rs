//! Tests of `state`.

use super::*;
use crate::ipam::{default_pools, unique_local_pool};

fn pools() -> Vec<AddressPool> {
    let mut pools = default_pools();
    pools.push(unique_local_pool(b"test"));
    pools
}

fn spec(name: &str) -> NetworkSpec {
    NetworkSpec {
        id: Id::random(),
        name: name.into(),
        driver: "bridge".into(),
        ipam_driver: "default".into(),
        ipam: Vec::new(),
        internal: false,
        ipv4: true,
        ipv6: false,
        options: Default::default(),
    }
}

fn ipam(subnet: &str, range: Option<&str>, gateway: Option<&str>, aux: &[&str]) -> IpamConfig {
    IpamConfig {
        subnet: Some(subnet.parse().unwrap()),
        ip_range: range.map(|r| r.parse().unwrap()),
        gateway: gateway.map(|g| g.parse().unwrap()),
        aux_addresses: aux.iter().enumerate().map(|(n, a)| (n.to_string(), a.parse().unwrap())).collect(),
    }
}

fn show(record: &NetworkRecord) -> Vec<String> {
    let entry =
        |c: &IpamConfig| format!("{} {}", c.subnet.unwrap(), c.gateway.map_or("-".into(), |g| g.to_string()));
    record.ipam.iter().map(entry).collect()
}

fn endpoint(state: &mut State, network: &NetworkRecord, container: &Id, priority: i64) -> EndpointSpec {
    let sandbox = SandboxSpec { container: container.clone(), upstreams: Vec::new(), users: None };
    state.sandboxes.insert(container.clone(), sandbox);
    EndpointSpec {
        id: Id::random(),
        container: container.clone(),
        network: network.id.clone(),
        name: "c".into(),
        dns_names: Vec::new(),
        ipv4: None,
        ipv6: None,
        link_local: Vec::new(),
        mac: None,
        ifname: None,
        gw_priority: priority,
        ports: Vec::new(),
        links: Vec::new(),
        openings: Vec::new(),
        rates: Default::default(),
        sysctls: Vec::new(),
    }
}

#[test]
fn address_plans_are_filled_in_as_docker_does() {
    let mut state = State::new(false);
    let mut plan = |change: &dyn Fn(&mut NetworkSpec)| {
        let mut spec = spec("n");
        change(&mut spec);
        state.add_network(spec, &pools(), &[]).map(|r| show(&r)).map_err(|e| e.to_string())
    };
    assert_eq!(plan(&|_| {}).unwrap(), ["172.17.0.0/16 172.17.0.1"]);
    // Golden `networks/create with subnet`: the gateway is out of the range for containers.
    let given = ipam("10.77.0.0/24", Some("10.77.0.128/25"), Some("10.77.0.1"), &["10.77.0.130"]);
    assert_eq!(plan(&|s| s.ipam = vec![given.clone()]).unwrap(), ["10.77.0.0/24 10.77.0.1"]);
    assert_eq!(
        plan(&|s| s.ipam = vec![ipam("10.77.0.0/16", None, None, &[])]).unwrap_err(),
        "invalid pool request: Pool overlaps with other one on this address space"
    );
    // Golden `networks/create v6`: what the user gave comes first.
    let six = plan(&|s| {
        s.ipv6 = true;
        s.ipam = vec![ipam("fd77:1::/64", None, None, &[])];
    });
    assert_eq!(six.unwrap(), ["fd77:1::/64 fd77:1::1", "172.18.0.0/16 172.18.0.1"]);
    let only = plan(&|s| {
        s.ipv4 = false;
        s.ipv6 = true;
    });
    assert!(only.unwrap()[0].starts_with("fd"));
    assert_eq!(plan(&|s| s.ipv4 = false).unwrap_err(), "IPv4 or IPv6 must be enabled");
    assert_eq!(plan(&|s| s.ipam_driver = "x".into()).unwrap_err(), "plugin \"x\" not found");
    assert_eq!(
        plan(&|s| s.driver = "overlay".into()).unwrap_err(),
        "network driver \"overlay\" is not supported by this engine"
    );
    let null = |driver: &'static str| {
        move |s: &mut NetworkSpec| (s.ipam_driver, s.driver) = ("null".into(), driver.into())
    };
    assert_eq!(plan(&null("bridge")).unwrap_err(), "ipv4 pool is empty");
    assert_eq!(plan(&null("macvlan")).unwrap(), [""; 0]);
    let subnet = |s: &mut NetworkSpec| {
        null("macvlan")(s);
        s.ipam = vec![ipam("10.99.0.0/24", None, None, &[])];
    };
    assert_eq!(plan(&subnet).unwrap_err(), "null ipam driver does not handle specific address pool requests");
    // A failure leaves nothing taken.
    assert_eq!(plan(&|_| {}).unwrap(), ["172.19.0.0/16 172.19.0.1"]);
}

#[test]
fn the_default_route_follows_priority_then_name() {
    let mut state = State::new(false);
    let [b, a] = ["b", "a"].map(|n| state.add_network(spec(n), &pools(), &[]).unwrap());
    let inner = NetworkSpec { internal: true, ..spec("0") };
    let inner = state.add_network(inner, &pools(), &[]).unwrap();
    let c = Id::random();
    let mut attach = |network: &NetworkRecord, priority| {
        let spec = endpoint(&mut state, network, &c, priority);
        let record = state.add_endpoint(&spec).unwrap();
        (record, state.default_route(&c, false).map(|r| r.ifname))
    };
    assert_eq!(attach(&inner, 9).1, None);
    assert_eq!(attach(&b, 0).1.as_deref(), Some("eth1"));
    let (on_a, route) = attach(&a, 0);
    assert_eq!(route.as_deref(), Some("eth2"));
    state.forget_endpoint(&on_a.id);
    assert_eq!(state.default_route(&c, false).unwrap().ifname, "eth1");
    let preferred = endpoint(&mut state, &a, &c, -1);
    assert_eq!(state.add_endpoint(&preferred).unwrap().ifname, "eth2");
    assert_eq!(state.default_route(&c, false).unwrap().ifname, "eth1");
}

#[test]
fn a_failed_endpoint_leaves_nothing_taken() {
    let mut state = State::new(false);
    let network = state.add_network(spec("n"), &pools(), &[]).unwrap();
    let port =
        |n| PortSpec { container_port: 80, protocol: Protocol::Tcp, host_ip: None, host_ports: (n, n) };
    let (one, two) = (Id::random(), Id::random());
    let mut first = endpoint(&mut state, &network, &one, 0);
    first.ports = vec![port(80)];
    let first = state.add_endpoint(&first).unwrap();
    assert_eq!(
        (first.ipv4.unwrap().to_string(), first.mac.to_string()),
        ("172.17.0.2".into(), "02:42:ac:11:00:02".into())
    );
    let mut second = endpoint(&mut state, &network, &two, 0);
    second.ports = vec![port(81), port(80)];
    assert!(state.add_endpoint(&second).unwrap_err().to_string().contains("Bind for 0.0.0.0:80 failed"));
    second.ports = vec![port(81)];
    second.ipv4 = Some("172.17.0.2".parse().unwrap());
    assert_eq!(state.add_endpoint(&second).unwrap_err().to_string(), "Address already in use");
    second.ipv4 = Some("10.99.0.1".parse().unwrap());
    assert_eq!(
        state.add_endpoint(&second).unwrap_err().to_string(),
        "invalid endpoint settings:\nno configured subnet contains IP address 10.99.0.1"
    );
    second.ipv4 = None;
    assert_eq!(state.add_endpoint(&second).unwrap().ipv4.unwrap().to_string(), "172.17.0.3");
    state.forget_endpoint(&first.id);
    let third = endpoint(&mut state, &network, &Id::random(), 0);
    assert_eq!(state.add_endpoint(&third).unwrap().ipv4.unwrap().to_string(), "172.17.0.2");
}

#[test]
fn records_come_back_as_they_were() {
    let mut state = State::new(false);
    let network = state.add_network(NetworkSpec { ipv6: true, ..spec("n") }, &pools(), &[]).unwrap();
    let c = Id::random();
    let endpoint = endpoint(&mut state, &network, &c, 0);
    let endpoint = state.add_endpoint(&endpoint).unwrap();
    let text = serde_json::to_string(&(&network, &endpoint)).unwrap();
    let (network, endpoint): (NetworkRecord, EndpointRecord) = serde_json::from_str(&text).unwrap();
    let mut next = State::new(false);
    next.restore_network(&network).unwrap();
    next.restore_endpoint(&endpoint).unwrap();
    assert_eq!(next.networks, state.networks);
    assert_eq!(next.endpoints, state.endpoints);
    assert!(next.restore_endpoint(&endpoint).is_err(), "its address is taken");
}
