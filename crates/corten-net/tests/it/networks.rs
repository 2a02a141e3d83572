//! Networks: addresses, isolation, what survives a restart.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};

use corten_base::{Id, Kind};
use corten_net::{IpamConfig, Net, SandboxSpec, option};
use corten_sys::netns;

use crate::world::*;

#[test]
fn containers_reach_outside_under_the_hosts_address() {
    isolated("networks::containers_reach_outside_under_the_hosts_address", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        let (net, bridge) = open();
        let c = container(&net, &bridge, "c", |_| {});
        assert_eq!(c.ip().to_string(), "172.17.0.2");
        assert_eq!(c.endpoints[0].mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!(ask(Some(&c.ns), "198.51.100.2:80").as_deref(), Some("198.51.100.1"));
        // CVE-2024-32473: no IPv6 on the interface of an IPv4-only network; ::1 is there.
        let addresses = sh_in(&c.ns, "ip -6 -o addr");
        assert!(!addresses.contains("eth0") && addresses.contains("::1/128"), "{addresses}");
        let quiet = container(&net, &net.create_network(masquerade_off()).unwrap(), "quiet", |_| {});
        sh_in(&out, "ip route add default via 198.51.100.1");
        assert_eq!(ask(Some(&quiet.ns), "198.51.100.2:80"), Some(quiet.ip().to_string()));
        let stats = net.interface_stats(&c.id).unwrap();
        assert_eq!(stats[0].name, "eth0");
        assert!(stats[0].rx_bytes > 0 && stats[0].tx_packets > 0);
    });
}

fn masquerade_off() -> corten_net::NetworkSpec {
    let mut spec = network("quiet");
    spec.options.insert(option::MASQUERADE.into(), "false".into());
    spec
}

#[test]
fn networks_are_isolated() {
    isolated("networks::networks_are_isolated", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        let (net, bridge) = open();
        let one = net.create_network(network("one")).unwrap();
        let (a, b) = (container(&net, &one, "a", |_| {}), container(&net, &bridge, "b", |_| {}));
        let a2 = container(&net, &one, "a2", |_| {});
        serve(&a.ns, "0.0.0.0:80");
        serve(&b.ns, "0.0.0.0:80");
        assert!(ask(Some(&a2.ns), &format!("{}:80", a.ip())).is_some());
        assert_eq!(ask(Some(&a.ns), &format!("{}:80", b.ip())), None);
        assert_eq!(ask(Some(&b.ns), &format!("{}:80", a.ip())), None);
        let inner =
            net.create_network(corten_net::NetworkSpec { internal: true, ..network("inner") }).unwrap();
        let (i, i2) = (container(&net, &inner, "i", |_| {}), container(&net, &inner, "i2", |_| {}));
        serve(&i.ns, "0.0.0.0:80");
        assert!(ask(Some(&i2.ns), &format!("{}:80", i.ip())).is_some());
        assert_eq!(i.endpoints[0].gateway, None);
        sh_in(&i.ns, &format!("ip route add default via {}", inner.ipam[0].gateway.unwrap()));
        assert_eq!(ask(Some(&i.ns), "198.51.100.2:80"), None, "an internal network has no way out");
        assert_eq!(ask(Some(&a.ns), &format!("{}:80", i.ip())), None);
        let mut spec = network("strangers");
        spec.options.insert(option::ICC.into(), "false".into());
        let strangers = net.create_network(spec).unwrap();
        let (s, s2) = (container(&net, &strangers, "s", |_| {}), container(&net, &strangers, "s2", |_| {}));
        serve(&s.ns, "0.0.0.0:80");
        assert_eq!(ask(Some(&s2.ns), &format!("{}:80", s.ip())), None, "icc=false");
        assert!(ask(Some(&s.ns), "198.51.100.2:80").is_some());
        // Two networks at once: the first by name leads out; after detaching it the other does.
        let both = net.attach(endpoint(&b.id, &one, "b")).unwrap();
        assert_eq!(both.ifname, "eth1");
        assert!(ask(Some(&b.ns), &format!("{}:80", a.ip())).is_some());
        let error = net.attach(endpoint(&b.id, &one, "b")).unwrap_err();
        assert_eq!(error.to_string(), "endpoint with name b already exists in network one");
        net.detach(&b.endpoints[0]).unwrap();
        assert!(sh_in(&b.ns, "ip route show default").contains("dev eth1"));
        assert!(ask(Some(&b.ns), "198.51.100.2:80").is_some());
    });
}

#[test]
fn ipv6_works_like_ipv4() {
    isolated("networks::ipv6_works_like_ipv4", || {
        let out = outside();
        serve(&out, "[::]:80");
        let net = Net::open(config("test")).unwrap();
        let mut spec = network("six");
        spec.ipv6 = true;
        let six = net.create_network(spec).unwrap();
        let ula = six.subnet(true).unwrap().to_string();
        assert!(ula.starts_with("fd") && ula.ends_with("/64"), "{ula}");
        let c = container(&net, &six, "c", |e| {
            e.ports = vec![corten_net::PortSpec {
                container_port: 80,
                protocol: corten_net::Protocol::Tcp,
                host_ip: None,
                host_ports: (8080, 8080),
            }];
        });
        serve(&c.ns, "[::]:80");
        assert_eq!(ask(Some(&c.ns), "[2001:db8::2]:80").as_deref(), Some("2001:db8::1"));
        assert_eq!(ask(Some(&out), "[2001:db8::1]:8080").as_deref(), Some("2001:db8::2"));
        assert!(ask(Some(&out), "198.51.100.1:8080").is_some());
        let direct = format!("[{}]:80", c.endpoints[0].ipv6.unwrap());
        sh_in(&out, &format!("ip route add {ula} via 2001:db8::1"));
        assert_eq!(ask(Some(&out), &direct), None);
        // CVE-2020-13401
        let link = &six.settings.link;
        assert_eq!(sh(&format!("cat /proc/sys/net/ipv6/conf/{link}/accept_ra")).trim(), "0");
        assert_eq!(sh_in(&c.ns, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
    });
}

#[test]
fn wrong_networks_are_refused_in_dockers_words() {
    isolated("networks::wrong_networks_are_refused_in_dockers_words", || {
        let (net, bridge) = open();
        let with = |subnet: &str, gateway: Option<&str>| {
            let mut spec = network("n");
            spec.ipam = vec![IpamConfig {
                subnet: Some(subnet.parse().unwrap()),
                gateway: gateway.map(|g| g.parse().unwrap()),
                ..IpamConfig::default()
            }];
            spec
        };
        let refused = |spec| {
            let error = net.create_network(spec).unwrap_err();
            (error.to_string(), error.kind())
        };
        assert_eq!(
            refused(with("10.77.0.0/24", Some("10.78.0.1"))),
            (
                "invalid network config:\ninvalid gateway 10.78.0.1: parent subnet 10.77.0.0/24 doesn't contain \
                 this address"
                    .into(),
                Kind::InvalidArgument
            )
        );
        let kept = net.create_network(with("10.77.0.0/24", None)).unwrap();
        assert_eq!(
            refused(with("10.77.0.0/16", None)),
            (
                "invalid pool request: Pool overlaps with other one on this address space".into(),
                Kind::Forbidden
            )
        );
        assert_eq!(
            refused(with("10.79.0.1/24", None)).0,
            "invalid network config:\ninvalid subnet 10.79.0.1/24: it should be 10.79.0.0/24"
        );
        let mut spec = network("n");
        spec.driver = "nope".into();
        assert_eq!(refused(spec), ("plugin \"nope\" not found".into(), Kind::NotFound));
        let c = container(&net, &kept, "c", |_| {});
        let error = net.remove_network(&kept.id).unwrap_err().to_string();
        let short = c.endpoints[0].id.short();
        assert_eq!(
            error,
            format!(
                "error while removing network: network n has active endpoints (name:\"c\" id:\"{short}\")"
            )
        );
        net.ensure_no_sandbox(&c.id).unwrap();
        net.remove_network(&kept.id).unwrap();
        assert!(!sh("ip -o link").contains(&kept.settings.link));
        let error = bridge.validate_addresses(&["172.17.0.9".parse().unwrap()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only"
        );
    });
}

#[test]
fn a_restart_keeps_everything_and_sweeps_the_rest() {
    isolated("networks::a_restart_keeps_everything_and_sweeps_the_rest", || {
        let out = outside();
        let (net, bridge) = open();
        let one = net.create_network(network("one")).unwrap();
        let gone = net.create_network(network("gone")).unwrap();
        let web = container(&net, &one, "web", |e| {
            e.ports = vec![corten_net::PortSpec {
                container_port: 80,
                protocol: corten_net::Protocol::Tcp,
                host_ip: None,
                host_ports: (8080, 8080),
            }];
        });
        serve(&web.ns, "0.0.0.0:80");
        let lost = container(&net, &bridge, "lost", |_| {});
        drop(net);
        let net = Net::open(config("test")).unwrap();
        assert_eq!(net.ensure_default_network(bridge.id.clone()).unwrap().unwrap(), bridge);
        let sandbox = SandboxSpec { container: web.id.clone(), upstreams: Vec::new(), users: None };
        let failures = net
            .restore(
                &[bridge.clone(), one.clone()],
                &web.endpoints,
                std::slice::from_ref(&sandbox),
                HashMap::new(),
            )
            .unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        assert!(ask(Some(&out), "198.51.100.1:8080").is_some());
        let links = sh("ip -o link");
        assert!(links.contains(&one.settings.link) && !links.contains(&gone.settings.link), "{links}");
        assert!(!links.contains(&lost.endpoints[0].host_link), "{links}");
        assert!(net.sandbox_path(&web.id).exists() && !net.sandbox_path(&lost.id).exists());
        // Its address is still taken, its port too.
        let next = container(&net, &one, "next", |_| {});
        assert_eq!(next.ip().to_string(), "172.18.0.3");
        net.detach(&web.endpoints[0]).unwrap();
        assert_eq!(ask(Some(&out), "198.51.100.1:8080"), None);
    });
}

#[test]
fn two_daemons_side_by_side() {
    isolated("networks::two_daemons_side_by_side", || {
        let (first, bridge) = open();
        let mut other = config("other");
        other.bridge = Some(corten_net::DefaultBridge {
            name: Some("corten1".into()),
            bip: Some("10.9.0.1/24".parse().unwrap()),
            ..Default::default()
        });
        let second = Net::open(other).unwrap();
        let own = second.ensure_default_network(Id::random()).unwrap().unwrap();
        assert_eq!(own.ipam[0].gateway, Some("10.9.0.1".parse().unwrap()));
        let (a, b) = (container(&first, &bridge, "a", |_| {}), container(&second, &own, "b", |_| {}));
        assert_eq!(b.ip().to_string(), "10.9.0.2");
        serve(&a.ns, "0.0.0.0:80");
        assert_eq!(ask(Some(&b.ns), &format!("{}:80", a.ip())), None);
        let tables = sh("nft list tables");
        assert!(tables.contains("corten-test") && tables.contains("corten-other"), "{tables}");
        second.restore(&[], &[], &[], HashMap::new()).unwrap();
        assert!(sh("ip -o link").contains("docker0"), "the sweeper takes its own only");
    });
}

#[test]
fn macvlan_and_settings() {
    isolated("networks::macvlan_and_settings", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        let (net, bridge) = open();
        let mut spec = network("lan");
        spec.driver = "macvlan".into();
        spec.options = BTreeMap::from([(option::PARENT.into(), "up0".into())]);
        spec.ipam = vec![IpamConfig {
            subnet: Some("198.51.100.0/24".parse().unwrap()),
            gateway: Some("198.51.100.2".parse().unwrap()),
            ..IpamConfig::default()
        }];
        let lan = net.create_network(spec).unwrap();
        let c = container(&net, &lan, "c", |e| e.ipv4 = Some("198.51.100.77".parse().unwrap()));
        assert_eq!(ask(Some(&c.ns), "198.51.100.2:80").as_deref(), Some("198.51.100.77"));
        net.detach(&c.endpoints[0]).unwrap();
        assert!(!sh_in(&c.ns, "ip -o link").contains("eth0"));
        let d = container(&net, &bridge, "d", |e| {
            e.sysctls = vec!["net.ipv4.conf.IFNAME.log_martians=1".into()];
            e.ifname = Some("lan0".into());
        });
        assert_eq!(sh_in(&d.ns, "cat /proc/sys/net/ipv4/conf/lan0/log_martians").trim(), "1");
        assert_eq!(sh_in(&d.ns, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").trim(), "0");
        let mut spec = endpoint(&d.id, &lan, "d");
        spec.sysctls = vec!["kernel.hostname=x".into()];
        assert!(net.attach(spec).is_err());
        assert!(netns::open(&net.sandbox_path(&d.id)).is_ok());
        net.ensure_no_sandbox(&d.id).unwrap();
        // The same name again at once is a new namespace.
        net.ensure_sandbox(SandboxSpec { container: d.id.clone(), upstreams: Vec::new(), users: None })
            .unwrap();
        let path = net.sandbox_path(&d.id);
        assert!(!sh_in(&netns::open(&path).unwrap(), "ip -o link").contains("lan0"));
        net.ensure_no_sandbox(&d.id).unwrap();
        assert!(net.retire().unwrap());
        drop(net);
        assert!(netns::open(&path).is_err());
        assert_eq!(sh("nft list ruleset"), "");
        assert!(!sh("ip -o link").contains("docker0"));
    });
}

/// Docker and ufw set iptables' forward chain to drop; a packet must pass their table and ours.
#[test]
fn a_forward_chain_that_drops_lets_us_pass() {
    isolated("networks::a_forward_chain_that_drops_lets_us_pass", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        sh("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP");
        let (net, bridge) = open();
        let c = container(&net, &bridge, "c", |_| {});
        assert!(ask(Some(&c.ns), "198.51.100.2:80").is_some());
        let gone = net.create_network(network("gone")).unwrap();
        let rules = sh("iptables -S FORWARD");
        assert!(
            rules.contains(&format!(
                "-i {0} -m comment --comment \"corten-test:{0}:in\" -j ACCEPT",
                gone.settings.link
            )),
            "{rules}"
        );
        net.remove_network(&gone.id).unwrap();
        assert_eq!(sh("iptables -S FORWARD").lines().count(), 4);
        net.ensure_no_sandbox(&c.id).unwrap();
        net.retire().unwrap();
        assert_eq!(sh("iptables -S FORWARD"), "-P FORWARD DROP\n");
    });
}

/// Switching forwarding on must not turn the host into a router between its other links.
#[test]
fn the_host_does_not_become_a_router() {
    isolated("networks::the_host_does_not_become_a_router", || {
        // A new namespace starts as the machine's first one is, and somebody may have switched forwarding on there.
        sh("sysctl -qw net.ipv4.ip_forward=0");
        let sides = [("left", "10.1.0", 5), ("right", "10.2.0", 6)].map(|(name, net, id)| {
            let ns = netns::create().unwrap();
            netns::pin(&ns, std::path::Path::new(&format!("/run/{name}"))).unwrap();
            sh(&format!("ip link add {name} type veth peer name up0 && ip link set up0 netns /run/{name}"));
            // Tunnels stand for hardware here: neither is a container's kind of link.
            let tunnel = |link: &str, own: &str, other: &str| {
                format!(
                    "ip addr add {net}.{own}/25 dev {link} && ip link set {link} up && ip link add t{link} type vxlan \
                     id {id} remote {net}.{other} dstport 4789 dev {link} && ip addr add {net}.20{own}/25 dev t{link} && \
                     ip link set t{link} up"
                )
            };
            sh(&tunnel(name, "1", "2"));
            sh_in(&ns, &tunnel("up0", "2", "1"));
            sh_in(&ns, &format!("ip route add default via {net}.201"));
            serve(&ns, "0.0.0.0:80");
            ns
        });
        let mut open_config = config("open");
        open_config.ip_forward_no_drop = true;
        open_config.bridge = None;
        let (net, bridge) = open();
        assert_eq!(ask(Some(&sides[0]), "10.2.0.202:80"), None);
        let c = container(&net, &bridge, "c", |_| {});
        assert_eq!(ask(Some(&c.ns), "10.2.0.202:80").as_deref(), Some("10.2.0.201"));
        assert!(!net.verify().unwrap());
        net.ensure_no_sandbox(&c.id).unwrap();
        drop(net);
        // The next daemon finds forwarding on, and keeps what the first one made.
        let net = Net::open(config("test")).unwrap();
        net.ensure_default_network(bridge.id).unwrap();
        net.restore(&[], &[], &[], HashMap::new()).unwrap();
        assert!(!net.verify().unwrap());
        assert_eq!(ask(Some(&sides[0]), "10.2.0.202:80"), None);
        net.retire().unwrap();
        drop(net);
        sh("sysctl -qw net.ipv4.ip_forward=0");
        let _net = Net::open(open_config).unwrap();
        assert!(ask(Some(&sides[0]), "10.2.0.202:80").is_some());
    });
}

/// A port that does not forward yet swallows a container's first packets, and each costs a second.
#[test]
fn the_first_packet_gets_through() {
    isolated("networks::the_first_packet_gets_through", || {
        let (net, _) = open();
        for n in 0..10 {
            let fresh = net.create_network(network(&format!("n{n}"))).unwrap();
            let listener = std::net::TcpListener::bind((fresh.ipam[0].gateway.unwrap(), 80)).unwrap();
            let c = container(&net, &fresh, "c", |_| {});
            let address = std::net::SocketAddr::new(fresh.ipam[0].gateway.unwrap(), 80);
            let connect =
                || std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(900));
            netns::run_in(std::os::fd::AsFd::as_fd(&c.ns), connect).unwrap();
            drop(listener);
        }
    });
}

/// How long two megabytes take from one namespace to another.
fn transfer(from: &OwnedFd, to: &OwnedFd, address: &str) -> std::time::Duration {
    use std::io::{Read, Write};
    const SIZE: usize = 2 << 20;
    let listener = netns::run_in(to.as_fd(), || std::net::TcpListener::bind(address)).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut (&mut stream).take(SIZE as u64), &mut std::io::sink()).unwrap();
        // The sender waits for this, so that what is still in queues counts.
        stream.write_all(b"!").unwrap();
    });
    let begin = std::time::Instant::now();
    netns::run_in(from.as_fd(), || {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.write_all(&vec![0; SIZE])?;
        stream.read_exact(&mut [0])
    })
    .unwrap();
    reader.join().unwrap();
    begin.elapsed()
}

#[test]
fn bandwidth_is_limited_in_each_direction() {
    isolated("networks::bandwidth_is_limited_in_each_direction", || {
        let (net, bridge) = open();
        let free = container(&net, &bridge, "free", |_| {});
        let rates = |inward, outward| corten_net::Rates { inward, outward };
        let slow = container(&net, &bridge, "slow", |e| e.rates = rates(16_000_000, 0));
        let (free_at, slow_at) = (format!("{}:7000", free.ip()), format!("{}:7000", slow.ip()));
        // Two megabytes at sixteen megabits take a second. That there is no limit, the kernel tells.
        let limited = |d: std::time::Duration| d.as_millis() > 800;
        let queues = || sh("tc qdisc show | grep -c -E 'tbf|ingress' || true").trim().to_owned();
        assert!(limited(transfer(&free.ns, &slow.ns, &slow_at)), "in");
        transfer(&slow.ns, &free.ns, &free_at);
        assert_eq!(queues(), "1", "out is free");
        let record = net.set_rates(&slow.endpoints[0].id, rates(0, 16_000_000)).unwrap();
        assert_eq!(queues(), "2", "a way aside, and a queue there");
        assert!(limited(transfer(&slow.ns, &free.ns, &free_at)), "out");
        // A daemon that starts leaves it as it is.
        drop(net);
        let net = Net::open(config("test")).unwrap();
        net.ensure_default_network(bridge.id).unwrap();
        let spec =
            |c: &Container| SandboxSpec { container: c.id.clone(), upstreams: Vec::new(), users: None };
        let failures = net.restore(
            &[],
            &[record.clone(), free.endpoints[0].clone()],
            &[spec(&slow), spec(&free)],
            HashMap::new(),
        );
        assert!(failures.unwrap().is_empty());
        assert!(limited(transfer(&slow.ns, &free.ns, &free_at)), "out, still");
        net.set_rates(&record.id, rates(0, 0)).unwrap();
        assert_eq!(queues(), "0");
        transfer(&slow.ns, &free.ns, &free_at);
        assert!(!sh("ip -o link").contains("ifb"));
        net.set_rates(&record.id, rates(10_000_000, 10_000_000)).unwrap();
        assert!(sh("ip -o link").contains("ifb"));
        net.ensure_no_sandbox(&slow.id).unwrap();
        net.ensure_no_sandbox(&free.id).unwrap();
        net.retire().unwrap();
        drop(net);
        assert!(!sh("ip -o link").contains("ifb"));
    });
}
