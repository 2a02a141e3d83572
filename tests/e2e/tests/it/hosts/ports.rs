//! Published ports: of every kind, from everywhere.

use corten_testkit::Transport::{Sctp, Tcp, Udp};
use corten_testkit::hosts::{FAR, HOST, HOST6, NEAR, NEAR6};
use corten_testkit::{Daemon, Hosts, Place, Transport};

/// The default bridge, as which the host's own connections and hairpins come.
const BRIDGE: &str = "172.17.0.1";

/// A client, how it asks, where, and whom the server sees: `None` for nobody, because nothing answers.
type Case<'a> = (&'a Place, Transport, &'a str, Option<&'a str>);

fn check(cases: &[Case<'_>]) {
    for (from, transport, address, seen) in cases {
        match seen {
            Some(seen) => assert_eq!(&from.ask(*transport, address), seen, "{transport:?} {address}"),
            None => from.reaches_nobody(*transport, address),
        }
    }
}

#[test]
fn every_kind_from_everywhere() {
    let hosts = Hosts::start();
    let (near, far, host) = (&hosts.near, &hosts.far, hosts.host());
    let flags = "-p 8080:80 -p 8053:53/udp -p 198.51.100.1:8081:80 -p 127.0.0.1:8082:80 -p 9000-9003:9000-9003 \
         -p 8132:132/sctp -p [2001:db8:1::1]:8083:80";
    let web = hosts.run("web", &flags.split(' ').collect::<Vec<_>>());
    let beside = hosts.run("beside", &[]);
    web.serve(Tcp, 80);
    web.serve(Udp, 53);
    (9000..=9003).for_each(|port| web.serve(Tcp, port));
    let (at_container, at_near) = (web.capture(), near.capture());
    check(&[
        // From other hosts, under their own addresses.
        (near, Tcp, "198.51.100.1:8080", Some(NEAR)),
        (far, Tcp, "192.0.2.1:8080", Some(FAR)),
        (near, Udp, "198.51.100.1:8053", Some(NEAR)),
        (near, Tcp, "198.51.100.1:9000", Some(NEAR)),
        (near, Tcp, "198.51.100.1:9003", Some(NEAR)),
        (near, Tcp, "198.51.100.1:9004", None),
        // At an address, and at no other.
        (near, Tcp, "198.51.100.1:8081", Some(NEAR)),
        (far, Tcp, "192.0.2.1:8081", None),
        (near, Tcp, "198.51.100.1:8082", None),
        (&host, Tcp, "127.0.0.1:8082", Some(BRIDGE)),
        // From the host itself, through loopback and by its addresses.
        (&host, Tcp, "127.0.0.1:8080", Some(BRIDGE)),
        (&host, Udp, "127.0.0.1:8053", Some(BRIDGE)),
        (&host, Tcp, "198.51.100.1:8080", Some(HOST)),
        // From containers, also the server itself.
        (&beside, Tcp, "198.51.100.1:8080", Some(BRIDGE)),
        (&beside, Tcp, "172.17.0.1:8080", Some(BRIDGE)),
        (&web, Tcp, "198.51.100.1:8080", Some(BRIDGE)),
        // The container has no IPv6: what comes by it is carried.
        (near, Tcp, "[2001:db8:1::1]:8080", Some(BRIDGE)),
        (near, Tcp, "[2001:db8:1::1]:8083", Some(BRIDGE)),
        (far, Tcp, "[2001:db8:2::1]:8083", None),
        (near, Udp, "[2001:db8:1::1]:8053", Some(BRIDGE)),
        (&host, Tcp, "[::1]:8080", Some(BRIDGE)),
        (&host, Udp, "[::1]:8053", Some(BRIDGE)),
    ]);
    let sctp = host.has_sctp();
    if sctp {
        web.serve(Sctp, 132);
        check(&[(near, Sctp, "198.51.100.1:8132", Some(NEAR))]);
    }
    // Ports that come and go while it runs.
    hosts.daemon.corten(["update", "--publish-add", "8099:80", "web"]).ok();
    check(&[(near, Tcp, "198.51.100.1:8099", Some(NEAR)), (near, Tcp, "[2001:db8:1::1]:8099", Some(BRIDGE))]);
    hosts.daemon.corten(["update", "--publish-rm", "8099:80", "web"]).ok();
    check(&[(near, Tcp, "198.51.100.1:8099", None), (near, Tcp, "[2001:db8:1::1]:8099", None)]);
    // The packets say the same: clients' addresses come through, containers' do not get out.
    let packets = at_container.packets();
    let near_ip: std::net::IpAddr = NEAR.parse().unwrap();
    assert!(packets.iter().any(|p| p.from == near_ip && p.to_port == 80 && p.protocol == 6));
    assert!(packets.iter().any(|p| p.from == near_ip && p.to_port == 53 && p.protocol == 17));
    let packets = at_near.packets();
    let own = [NEAR, NEAR6, HOST, HOST6].map(|a| a.parse::<std::net::IpAddr>().unwrap());
    assert!(packets.iter().any(|p| p.to_port == 8080));
    let link_local =
        |ip: &std::net::IpAddr| matches!(ip, std::net::IpAddr::V6(a) if a.segments()[0] >= 0xfe80);
    for packet in packets {
        let known = |ip| own.contains(ip) || link_local(ip) || ip.is_unspecified();
        assert!(known(&packet.from) && known(&packet.to), "{packet:?}");
    }
}

#[test]
fn networks_with_ipv6() {
    let hosts = Hosts::start();
    let (near, far, host) = (&hosts.near, &hosts.far, hosts.host());
    hosts.network("dual", &["--ipv6", "--subnet", "10.50.0.0/24", "--subnet", "fd00:50::/64"]);
    hosts.network("six", &["--ipv6", "--ipv4=false", "--subnet", "fd00:60::/64"]);
    let dual = hosts.run("dual", &["--network", "dual", "-p", "8080:80", "-p", "8053:53/udp"]);
    let six = hosts.run("six", &["--network", "six", "-p", "8090:80"]);
    let beside = hosts.run("beside", &["--network", "dual"]);
    for place in [&dual, &six] {
        place.serve(Tcp, 80);
    }
    dual.serve(Udp, 53);
    far.serve(Tcp, 80);
    let (gateway, gateway6, only6) = ("10.50.0.1", "fd00:50::1", "fd00:60::1");
    check(&[
        (near, Tcp, "198.51.100.1:8080", Some(NEAR)),
        (near, Tcp, "[2001:db8:1::1]:8080", Some(NEAR6)),
        (near, Udp, "[2001:db8:1::1]:8053", Some(NEAR6)),
        (near, Tcp, "[2001:db8:1::1]:8090", Some(NEAR6)),
        (near, Tcp, "198.51.100.1:8090", None),
        (&host, Tcp, "127.0.0.1:8080", Some(gateway)),
        (&host, Tcp, "[::1]:8080", Some(gateway6)),
        (&host, Tcp, "[::1]:8090", Some(only6)),
        (&beside, Tcp, "[2001:db8:1::1]:8080", Some(gateway6)),
        (&dual, Tcp, "[2001:db8:1::1]:8080", Some(gateway6)),
        // The way out.
        (&dual, Tcp, "192.0.2.2:80", Some("192.0.2.1")),
        (&dual, Tcp, "[2001:db8:2::2]:80", Some("2001:db8:2::1")),
        (&six, Tcp, "[2001:db8:2::2]:80", Some("2001:db8:2::1")),
        (&six, Tcp, "192.0.2.2:80", None),
    ]);
    assert_eq!(hosts.ip("six", "six"), "");
    assert!(!six.sh("ip -4 -o addr show dev eth0").contains("inet "));
    let ip = hosts.ip6("dual", "dual");
    assert_eq!(beside.ask(Tcp, &format!("[{ip}]:80")), hosts.ip6("beside", "dual"));
    // Carried connections are the daemon's: they come back with it, translated ones never went.
    let mut hosts = hosts;
    hosts.daemon.kill();
    assert_eq!(hosts.near.ask(Tcp, "[2001:db8:1::1]:8080"), NEAR6);
    hosts.daemon.restart();
    assert_eq!(host.ask(Tcp, "[::1]:8090"), only6);
}

#[test]
fn without_the_proxy_ipv6_is_refused() {
    let hosts = Hosts::start_with(&["--userland-proxy=false"]);
    hosts.run("web", &["-p", "8080:80"]).serve(Tcp, 80);
    assert_eq!(hosts.daemon.docker(["port", "web"]).ok(), "80/tcp -> 0.0.0.0:8080");
    check(&[
        (&hosts.near, Tcp, "198.51.100.1:8080", Some(NEAR)),
        (&hosts.near, Tcp, "[2001:db8:1::1]:8080", None),
        (&hosts.host(), Tcp, "[::1]:8080", None),
        (&hosts.host(), Tcp, "127.0.0.1:8080", Some(BRIDGE)),
    ]);
}

#[test]
fn rows_of_thousands_and_no_process_for_any() {
    let hosts = Hosts::start();
    let children = || {
        let pid = hosts.daemon.pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let lists = tasks.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
        lists.map(|l| l.split_whitespace().count()).sum::<usize>()
    };
    hosts.run("none", &[]);
    let for_one = children();
    let web = hosts.run("web", &["-p", "20000-39999:20000-39999"]);
    assert_eq!(children(), for_one * 2, "no process for a port");
    for port in [20000, 31234, 39999] {
        web.serve(Tcp, port);
        assert_eq!(hosts.near.ask(Tcp, &format!("{HOST}:{port}")), NEAR);
    }
    assert_eq!(hosts.host().ask(Tcp, "127.0.0.1:31234"), BRIDGE);
    hosts.near.reaches_nobody(Tcp, &format!("{HOST}:19999"));
    // A port of the row is taken.
    let taken = hosts.daemon.docker(["run", "--rm", "-p", "30000:80", "busybox", "true"]).fails(125);
    assert!(taken.contains("port is already allocated"), "{taken}");
}

#[test]
fn exposed_ports_and_ranges_are_given_and_collisions_told() {
    let hosts = Hosts::start();
    let daemon = &hosts.daemon;
    let all = hosts.run("all", &["-P", "--expose", "80", "--expose", "53/udp"]);
    all.serve(Tcp, 80);
    all.serve(Udp, 53);
    let port = |daemon: &Daemon, name: &str, of: &str| {
        let text = daemon.docker(["port", name, of]).ok();
        text.lines().next().and_then(|l| l.rsplit(':').next()).unwrap().to_owned()
    };
    assert_eq!(hosts.near.ask(Tcp, &format!("{HOST}:{}", port(daemon, "all", "80/tcp"))), NEAR);
    assert_eq!(hosts.near.ask(Udp, &format!("{HOST}:{}", port(daemon, "all", "53/udp"))), NEAR);
    for (name, given) in [("one", "8000"), ("two", "8001")] {
        hosts.run(name, &["-p", "8000-8001:80"]).serve(Tcp, 80);
        assert_eq!(port(daemon, name, "80/tcp"), given);
        assert_eq!(hosts.near.ask(Tcp, &format!("{HOST}:{given}")), NEAR);
    }
    let run = |binding: &str| daemon.docker(["run", "--rm", "-p", binding, "busybox", "true"]).fails(125);
    hosts.host().serve(Tcp, 8090);
    for (binding, want) in [
        ("8000-8001:80", "all ports are allocated"),
        ("8000:80", "Bind for 0.0.0.0:8000 failed: port is already allocated"),
        ("127.0.0.1:8000:80", "Bind for 127.0.0.1:8000 failed: port is already allocated"),
        ("8090:80", "failed to bind host port 0.0.0.0:8090/tcp: address already in use"),
        ("203.0.113.7:8091:80", "cannot assign requested address"),
    ] {
        let text = run(binding);
        assert!(text.contains(want), "{binding}: {text}");
    }
    // What was refused took nothing.
    daemon.docker(["rm", "-f", "one"]).ok();
    daemon.docker(["run", "--rm", "-p", "8000:80", "busybox", "true"]).ok();
}

/// `--ip` and the option of a network say where ports are that no address is given for.
#[test]
fn default_addresses() {
    let hosts = Hosts::start_with(&["--ip", HOST]);
    hosts.network("local", &["-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"]);
    hosts.run("web", &["-p", "8080:80"]).serve(Tcp, 80);
    hosts.run("inner", &["--network", "local", "-p", "8081:80"]).serve(Tcp, 80);
    assert_eq!(hosts.near.ask(Tcp, "198.51.100.1:8080"), NEAR);
    hosts.far.reaches_nobody(Tcp, "192.0.2.1:8080");
    hosts.near.reaches_nobody(Tcp, "198.51.100.1:8081");
    assert!(!hosts.host().ask(Tcp, "127.0.0.1:8081").is_empty());
    assert_eq!(hosts.daemon.docker(["port", "web"]).ok(), "80/tcp -> 198.51.100.1:8080");
}
