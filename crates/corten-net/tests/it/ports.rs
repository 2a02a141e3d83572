//! Published ports: who gets through, who does not.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use corten_net::{PortSpec, Protocol, SandboxSpec};
use corten_sys::netns;

use crate::world::*;

fn port(host_ip: Option<&str>, host_port: u16, container_port: u16) -> PortSpec {
    PortSpec {
        container_port,
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|a| a.parse().unwrap()),
        host_ports: (host_port, host_port),
    }
}

#[test]
fn reachable_from_everywhere_they_should() {
    isolated("ports::reachable_from_everywhere_they_should", || {
        let out = outside();
        let (net, bridge) = open();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(None, 8080, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        let other = container(&net, &bridge, "other", |_| {});
        println!("{}", sh("nft list ruleset; ip -d addr; bridge link"));
        assert_eq!(web.endpoints[0].ports.len(), 2, "IPv4 and IPv6");
        // From outside the container sees the real client.
        assert_eq!(ask(Some(&out), "198.51.100.1:8080").as_deref(), Some("198.51.100.2"));
        assert_eq!(ask(None, "127.0.0.1:8080").as_deref(), Some("172.17.0.1"));
        assert_eq!(ask(None, "198.51.100.1:8080").as_deref(), Some("198.51.100.1"));
        assert_eq!(ask(None, "172.17.0.1:8080").as_deref(), Some("172.17.0.1"));
        // A neighbour, and the container itself, through the host's addresses.
        assert_eq!(ask(Some(&other.ns), "198.51.100.1:8080").as_deref(), Some("172.17.0.1"));
        assert_eq!(ask(Some(&web.ns), "172.17.0.1:8080").as_deref(), Some("172.17.0.1"));
        // Directly, within the network.
        assert_eq!(ask(Some(&other.ns), &format!("{}:80", web.ip())), Some(other.ip().to_string()));
        // From another network, through the host.
        let second = net.create_network(network("second")).unwrap();
        let far = container(&net, &second, "far", |_| {});
        assert!(ask(Some(&far.ns), "198.51.100.1:8080").is_some());
        assert_eq!(ask(Some(&far.ns), &format!("{}:80", web.ip())), None);
        net.detach(&web.endpoints[0]).unwrap();
        assert_eq!(ask(Some(&out), "198.51.100.1:8080"), None);
        assert_eq!(ask(None, "127.0.0.1:8080"), None);
        assert!(TcpListener::bind("0.0.0.0:8080").is_ok(), "the port is free again");
    });
}

#[test]
fn udp_ranges_and_addresses() {
    isolated("ports::udp_ranges_and_addresses", || {
        let out = outside();
        let (net, bridge) = open();
        let echo = container(&net, &bridge, "echo", |e| {
            e.ports = vec![PortSpec { protocol: Protocol::Udp, ..port(Some("198.51.100.1"), 5300, 53) }];
            e.ports.extend((9000..9400).map(|n| port(Some("0.0.0.0"), n, n)));
            e.ports.push(PortSpec { protocol: Protocol::Sctp, ..port(None, 7000, 7000) });
        });
        let server = netns::run_in(echo.ns.as_fd(), || UdpSocket::bind("0.0.0.0:53")).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((n, from)) = server.recv_from(&mut buffer) {
                server.send_to(&buffer[..n], from).unwrap();
            }
        });
        let answered = |from: Option<&std::os::fd::OwnedFd>, to: &'static str| {
            let talk = move || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                socket.send_to(b"hello", to)?;
                socket.recv_from(&mut [0; 64])
            };
            match from {
                Some(ns) => netns::run_in(ns.as_fd(), talk).is_ok(),
                None => talk().is_ok(),
            }
        };
        assert!(answered(Some(&out), "198.51.100.1:5300"));
        assert!(answered(None, "198.51.100.1:5300"));
        assert!(!answered(None, "127.0.0.1:5300"), "published on another address");
        serve(&echo.ns, "0.0.0.0:9399");
        assert!(ask(Some(&out), "198.51.100.1:9399").is_some());
        assert!(ask(Some(&out), "198.51.100.1:9400").is_none());
        net.detach(&echo.endpoints[0]).unwrap();
        assert!(!answered(Some(&out), "198.51.100.1:5300"));
    });
}

/// CVE list: a port published on 127.0.0.1 must stay the host's own, and containers are reached by published ports
/// only, whatever routes the neighbour has.
#[test]
fn neighbours_do_not_reach_loopback_or_unpublished_ports() {
    isolated("ports::neighbours_do_not_reach_loopback_or_unpublished_ports", || {
        let out = outside();
        let (net, bridge) = open();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(Some("127.0.0.1"), 18123, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        serve(&web.ns, "0.0.0.0:81");
        let neighbour = container(&net, &bridge, "neighbour", |_| {});
        assert_eq!(ask(None, "127.0.0.1:18123").as_deref(), Some("172.17.0.1"));
        assert_eq!(ask(Some(&out), "198.51.100.1:18123"), None);
        sh_in(&out, "ip route add 172.17.0.0/16 via 198.51.100.1");
        assert_eq!(ask(Some(&out), "172.17.0.2:80"), None, "published on loopback only");
        assert_eq!(ask(Some(&out), "172.17.0.2:81"), None, "not published at all");
        for (ns, gateway) in [(&out, "198.51.100.1"), (&neighbour.ns, "172.17.0.1")] {
            sh_in(ns, "ip addr del 127.0.0.1/8 dev lo; sysctl -qw net.ipv4.conf.all.route_localnet=1");
            sh_in(ns, &format!("ip route add 127.0.0.1/32 via {gateway}"));
            assert_eq!(ask(Some(ns), "127.0.0.1:18123"), None, "routed to 127.0.0.1 by way of {gateway}");
        }
        // Even with the host's own martian filter off.
        sh("sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.up0.route_localnet=1");
        assert_eq!(ask(Some(&out), "127.0.0.1:18123"), None);
        assert!(ask(None, "127.0.0.1:18123").is_some(), "the host still does");
    });
}

#[test]
fn taken_ports_are_refused_in_dockers_words() {
    isolated("ports::taken_ports_are_refused_in_dockers_words", || {
        let (net, bridge) = open();
        let _first = container(&net, &bridge, "pub", |e| e.ports = vec![port(Some("127.0.0.1"), 18123, 80)]);
        let squatter = TcpListener::bind("0.0.0.0:18200").unwrap();
        let try_port = |n| {
            let id = corten_base::Id::random();
            net.ensure_sandbox(SandboxSpec { container: id.clone(), upstreams: Vec::new(), users: None })
                .unwrap();
            let mut spec = endpoint(&id, &bridge, "pub2");
            spec.ports = vec![port(None, 18199, 80), port(Some("127.0.0.1"), n, 80)];
            let endpoint = spec.id.to_string();
            let error = net.attach(spec).unwrap_err();
            error.to_string().replace(&endpoint, "<id>")
        };
        let prefix = "driver failed programming external connectivity on endpoint pub2 (<id>): ";
        assert_eq!(
            try_port(18123),
            format!("{prefix}Bind for 127.0.0.1:18123 failed: port is already allocated")
        );
        assert_eq!(
            try_port(18200),
            format!("{prefix}failed to bind host port 127.0.0.1:18200/tcp: address already in use")
        );
        drop(squatter);
        // What was taken before the failure is free, so is the address.
        let third = container(&net, &bridge, "third", |e| e.ports = vec![port(None, 18199, 80)]);
        assert_eq!(third.ip(), "172.17.0.3".parse::<IpAddr>().unwrap());
        let dynamic = container(&net, &bridge, "dynamic", |e| e.ports = vec![port(None, 0, 80)]);
        assert_eq!(dynamic.endpoints[0].ports[0].host_port, 32768);
    });
}

#[test]
fn a_flushed_rule_set_does_not_open_anything() {
    isolated("ports::a_flushed_rule_set_does_not_open_anything", || {
        let out = outside();
        let (net, bridge) = open();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(None, 8080, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        serve(&web.ns, "0.0.0.0:81");
        sh_in(&out, "ip route add 172.17.0.0/16 via 198.51.100.1");
        sh("nft flush ruleset");
        net.verify().unwrap();
        assert_eq!(ask(Some(&out), "172.17.0.2:81"), None);
        assert!(ask(Some(&out), "198.51.100.1:8080").is_some());
        assert!(!net.verify().unwrap());
    });
}

/// The same on kernels where anybody can flush our table.
#[test]
fn flushed_rules_are_made_again() {
    isolated("ports::flushed_rules_are_made_again", || {
        let out = outside();
        let mut plain = config("test");
        plain.exclusive_rules = false;
        let net = corten_net::Net::open(plain).unwrap();
        let bridge = net.ensure_default_network(corten_base::Id::random()).unwrap().unwrap();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(None, 8080, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        sh_in(&out, "ip route add 172.17.0.0/16 via 198.51.100.1");
        for harm in [
            "nft flush ruleset",
            "nft flush table inet corten-test",
            "nft flush map inet corten-test anyports4",
        ] {
            sh(harm);
            assert!(ask(Some(&out), "198.51.100.1:8080").is_some(), "{harm}");
            assert_eq!(ask(Some(&out), "172.17.0.2:80"), None, "{harm}");
        }
    });
}

/// A client that never stops sending must reach the container that has the port now.
#[test]
fn udp_flows_follow_the_port() {
    isolated("ports::udp_flows_follow_the_port", || {
        let out = outside();
        let (net, bridge) = open();
        let wish = || PortSpec { protocol: Protocol::Udp, ..port(None, 5300, 53) };
        let client = netns::run_in(out.as_fd(), || UdpSocket::bind("0.0.0.0:4000")).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let ask = |text: &str| {
            client.send_to(b"?", "198.51.100.1:5300").unwrap();
            let mut buffer = [0; 64];
            let found =
                client.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
            assert_eq!(found.unwrap_or_default(), text);
        };
        let start = |name: &'static str| {
            let c = container(&net, &bridge, name, |e| e.ports = vec![wish()]);
            let server = netns::run_in(c.ns.as_fd(), || UdpSocket::bind("0.0.0.0:53")).unwrap();
            std::thread::spawn(move || {
                while let Ok((_, from)) = server.recv_from(&mut [0; 64]) {
                    server.send_to(name.as_bytes(), from).unwrap();
                }
            });
            c
        };
        // Conntrack is at work only while there are rules, so there is an entry for this already.
        ask("");
        let one = start("one");
        ask("one");
        let spare = container(&net, &bridge, "spare", |_| {});
        net.detach(&one.endpoints[0]).unwrap();
        ask("");
        net.detach(&spare.endpoints[0]).unwrap();
        let hold = container(&net, &bridge, "hold", |_| {});
        assert_eq!(hold.ip(), one.ip(), "so that the next gets another address");
        start("two");
        ask("two");
    });
}

#[test]
fn ports_of_a_running_container_change() {
    isolated("ports::ports_of_a_running_container_change", || {
        let out = outside();
        let (net, bridge) = open();
        let web = container(&net, &bridge, "web", |e| e.ports = vec![port(None, 8080, 80)]);
        serve(&web.ns, "0.0.0.0:80");
        let at = |n: u16| ask(Some(&out), &format!("198.51.100.1:{n}")).is_some();
        let changed = net.republish(&web.endpoints[0].id, &[], &[port(None, 8081, 80)]).unwrap();
        assert_eq!(changed.ports.len(), 4);
        assert!(at(8080) && at(8081));
        // One that cannot be had changes nothing.
        let squatter = TcpListener::bind("0.0.0.0:8082").unwrap();
        let old: Vec<_> = changed.ports.iter().filter(|p| p.host_port == 8080).cloned().collect();
        let wishes = [port(None, 8083, 80), port(None, 8082, 80)];
        assert!(net.republish(&changed.id, &old, &wishes).is_err());
        assert!(at(8080) && at(8081) && !at(8083));
        drop(squatter);
        let changed = net.republish(&changed.id, &old, &wishes).unwrap();
        assert!(!at(8080) && at(8081) && at(8082) && at(8083));
        assert!(TcpListener::bind("0.0.0.0:8080").is_ok());
        net.detach(&changed).unwrap();
        assert!(!at(8081) && !at(8082));
        assert!(TcpListener::bind("0.0.0.0:8082").is_ok());
    });
}

/// Twenty thousand ports are one element and no socket.
#[test]
fn a_row_of_ports_costs_what_one_costs() {
    isolated("ports::a_row_of_ports_costs_what_one_costs", || {
        let out = outside();
        let (net, bridge) = open();
        let sockets = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = sockets();
        let web = container(&net, &bridge, "web", |e| {
            e.ports = (20_000..40_000).map(|n| port(None, n, n)).collect();
            e.ports.extend(
                (20_000..40_000)
                    .map(|n| PortSpec { protocol: Protocol::Udp, ..port(Some("198.51.100.1"), n, n) }),
            );
        });
        assert!(sockets() < before + 20);
        let rules = sh("nft list table inet corten-test");
        assert!(rules.contains("tcp . 20000-39999 : 172.17.0.2"), "{rules}");
        assert!(rules.contains("198.51.100.1 . udp . 20000-39999 : 172.17.0.2"), "{rules}");
        for n in [20_000, 33_333, 39_999] {
            serve(&web.ns, &format!("0.0.0.0:{n}"));
            assert_eq!(ask(Some(&out), &format!("198.51.100.1:{n}")).as_deref(), Some("198.51.100.2"));
            assert!(ask(None, &format!("127.0.0.1:{n}")).is_some());
        }
        assert!(ask(Some(&out), "198.51.100.1:40000").is_none());
        // One of them goes elsewhere; the rest stays.
        let drop: Vec<_> = web.endpoints[0].ports.iter().filter(|p| p.host_port == 33_333).cloned().collect();
        let web_now = net.republish(&web.endpoints[0].id, &drop, &[]).unwrap();
        assert!(ask(Some(&out), "198.51.100.1:33333").is_none());
        assert!(ask(Some(&out), "198.51.100.1:39999").is_some());
        let other = container(&net, &bridge, "other", |e| e.ports = vec![port(None, 33_333, 80)]);
        serve(&other.ns, "0.0.0.0:80");
        assert!(ask(Some(&out), "198.51.100.1:33333").is_some());
        net.detach(&web_now).unwrap();
        assert!(ask(Some(&out), "198.51.100.1:39999").is_none());
    });
}
