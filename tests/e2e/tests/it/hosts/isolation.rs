//! What must not reach what.

use corten_testkit::Hosts;
use corten_testkit::Transport::{Tcp, Udp};
use corten_testkit::hosts::{HOST, HOST6, NEAR, NEAR6};

/// `near` knows the way to containers' networks.
fn add_routes(hosts: &Hosts, networks: &[&str]) {
    for network in networks {
        match network.contains(':') {
            true => hosts.near.does(&format!("ip -6 route add {network} via {HOST6}")),
            false => hosts.near.does(&format!("ip route add {network} via {HOST}")),
        }
    }
}

#[test]
fn networks_and_neighbours() {
    let hosts = Hosts::start();
    hosts.network("one", &["--subnet", "10.51.0.0/24", "--ipv6", "--subnet", "fd00:51::/64"]);
    hosts.network("two", &["--subnet", "10.52.0.0/24", "--ipv6", "--subnet", "fd00:52::/64"]);
    let one = hosts.run("one", &["--network", "one", "-p", "8080:80"]);
    let two = hosts.run("two", &["--network", "two"]);
    let both = hosts.run("both", &["--network", "one", "--network", "two"]);
    for place in [&one, &two, &both] {
        place.serve(Tcp, 80);
        place.serve(Tcp, 81);
        place.serve(Udp, 53);
    }
    let (a, b) = (hosts.ip("one", "one"), hosts.ip("two", "two"));
    let (a6, b6) = (hosts.ip6("one", "one"), hosts.ip6("two", "two"));
    for (from, address) in [(&two, &a), (&one, &b)] {
        from.reaches_nobody(Tcp, &format!("{address}:80"));
        from.reaches_nobody(Udp, &format!("{address}:53"));
    }
    two.reaches_nobody(Tcp, &format!("[{a6}]:80"));
    // Another host that knows the way, to a published port at the container's address too.
    add_routes(&hosts, &["10.51.0.0/24", "10.52.0.0/24", "fd00:51::/64", "fd00:52::/64", "172.17.0.0/16"]);
    for address in [format!("{a}:80"), format!("{a}:81"), format!("{b}:80"), format!("[{b6}]:80")] {
        hosts.near.reaches_nobody(Tcp, &address);
    }
    hosts.near.reaches_nobody(Udp, &format!("{b}:53"));
    assert_eq!(hosts.near.ask(Tcp, &format!("{HOST}:8080")), NEAR, "what is published");
    // A container in both is reached from both.
    assert_eq!(one.ask(Tcp, &format!("{}:80", hosts.ip("both", "one"))), a);
    assert_eq!(two.ask(Tcp, &format!("[{}]:80", hosts.ip6("both", "two"))), b6);
    // And nobody outside is at the host's loopback.
    hosts.run("own", &["-p", "127.0.0.1:8082:80"]).serve(Tcp, 80);
    hosts.near.does(
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
         ip route add 127.0.0.0/8 via 198.51.100.1 src 198.51.100.2",
    );
    hosts.near.reaches_nobody(Tcp, "127.0.0.1:8082");
    one.reaches_nobody(Tcp, "127.0.0.1:8082");
}

#[test]
fn internal_networks_have_no_outside() {
    let hosts = Hosts::start();
    hosts.network("in", &["--internal", "--subnet", "10.53.0.0/24", "--ipv6", "--subnet", "fd00:53::/64"]);
    hosts.network("out", &["--subnet", "10.54.0.0/24"]);
    let a = hosts.run("aa", &["--network", "in", "-p", "8080:80"]);
    let b = hosts.run("bb", &["--network", "in"]);
    let stranger = hosts.run("stranger", &["--network", "out"]);
    a.serve(Tcp, 80);
    hosts.near.serve(Tcp, 80);
    let (ip, ip6) = (hosts.ip("aa", "in"), hosts.ip6("aa", "in"));
    assert_eq!(b.ask(Tcp, &format!("{ip}:80")), hosts.ip("bb", "in"));
    assert_eq!(b.ask(Tcp, &format!("[{ip6}]:80")), hosts.ip6("bb", "in"));
    assert_eq!(hosts.host().ask(Tcp, &format!("{ip}:80")), "10.53.0.1", "the host is no outside");
    assert_eq!(
        a.sh("ip route; ip -6 route show default"),
        "10.53.0.0/24 dev eth0 proto kernel scope link src 10.53.0.2"
    );
    let captured = hosts.near.capture();
    a.does("ip route add default via 10.53.0.1; ip -6 route add default via fd00:53::1");
    for address in [format!("{NEAR}:80"), format!("[{NEAR6}]:80")] {
        a.reaches_nobody(Tcp, &address);
    }
    add_routes(&hosts, &["10.53.0.0/24", "fd00:53::/64"]);
    hosts.near.reaches_nobody(Tcp, &format!("{ip}:80"));
    hosts.near.reaches_nobody(Tcp, &format!("[{ip6}]:80"));
    hosts.near.reaches_nobody(Tcp, &format!("{HOST}:8080"));
    stranger.reaches_nobody(Tcp, &format!("{ip}:80"));
    let inside = [ip, ip6].map(|a| a.parse::<std::net::IpAddr>().unwrap());
    for packet in captured.packets() {
        assert!(!inside.contains(&packet.from), "nothing of theirs gets out: {packet:?}");
    }
}

#[test]
fn no_communication_between_containers() {
    let hosts = Hosts::start_with(&["--icc=false"]);
    hosts.network("apart", &["-o", "com.docker.network.bridge.enable_icc=false"]);
    hosts.far.serve(Tcp, 80);
    for network in ["bridge", "apart"] {
        let a = hosts.run(&format!("a-{network}"), &["--network", network]);
        let b = hosts.run(&format!("b-{network}"), &["--network", network, "-p", "8080:80"]);
        b.serve(Tcp, 80);
        b.serve(Udp, 53);
        let ip = hosts.ip(&format!("b-{network}"), network);
        a.reaches_nobody(Tcp, &format!("{ip}:80"));
        a.reaches_nobody(Udp, &format!("{ip}:53"));
        assert_eq!(hosts.near.ask(Tcp, &format!("{HOST}:8080")), NEAR);
        assert_eq!(a.ask(Tcp, "192.0.2.2:80"), "192.0.2.1", "the way out is open");
        hosts.daemon.docker(["rm", "-f", &format!("b-{network}")]).ok();
    }
}

/// Other hosts may reach published ports at containers' own addresses; containers still do not reach each other.
#[test]
fn direct_routing_is_not_for_containers() {
    let hosts = Hosts::start_with(&["--icc=false", "--allow-direct-routing"]);
    let other = hosts.run("other", &[]);
    hosts.run("web", &["-p", "8080:80"]).serve(Tcp, 80);
    let address = format!("{}:80", hosts.ip("web", "bridge"));
    add_routes(&hosts, &["172.17.0.0/16"]);
    assert_eq!(hosts.near.ask(Tcp, &address), NEAR);
    other.reaches_nobody(Tcp, &address);
}

/// Between linked containers exactly the exposed ports are open, in one direction.
#[test]
fn links_open_exposed_ports() {
    let mut hosts = Hosts::start_with(&["--icc=false"]);
    let serve = |hosts: &Hosts| {
        let db = hosts.inside("db");
        db.serve(Tcp, 5432);
        db.serve(Tcp, 5433);
        db.serve(Udp, 53);
    };
    hosts.run("db", &["--expose", "5432", "--expose", "53/udp"]);
    serve(&hosts);
    let web = hosts.run("web", &["--link", "db:store"]);
    let other = hosts.run("other", &[]);
    web.serve(Tcp, 80);
    let (db_ip, web_ip) = (hosts.ip("db", "bridge"), hosts.ip("web", "bridge"));
    let check = |hosts: &Hosts, db_ip: &str| {
        let db = hosts.inside("db");
        assert_eq!(web.ask(Tcp, &format!("{db_ip}:5432")), web_ip, "under its own address");
        assert_eq!(web.ask(Udp, &format!("{db_ip}:53")), web_ip);
        web.reaches_nobody(Tcp, &format!("{db_ip}:5433"));
        db.reaches_nobody(Tcp, &format!("{web_ip}:80"));
        other.reaches_nobody(Tcp, &format!("{db_ip}:5432"));
    };
    check(&hosts, &db_ip);
    // The rule follows the container to another address, and is there after a crash of the daemon.
    hosts.daemon.docker(["stop", "-t", "0", "db"]).ok();
    hosts.run("squatter", &[]).serve(Tcp, 5432);
    web.reaches_nobody(Tcp, &format!("{db_ip}:5432"));
    hosts.daemon.docker(["start", "db"]).ok();
    serve(&hosts);
    let moved = hosts.ip("db", "bridge");
    assert_ne!(moved, db_ip);
    check(&hosts, &moved);
    hosts.daemon.kill();
    hosts.daemon.restart();
    check(&hosts, &moved);
    hosts.daemon.docker(["exec", "web", "nc", "-w", "5", "store", "5432"]).ok();
    hosts.daemon.docker(["rm", "--link", "web/store"]).ok();
    web.reaches_nobody(Tcp, &format!("{moved}:5432"));
}

#[test]
fn routed_and_unprotected_networks() {
    let hosts = Hosts::start();
    let mode = "com.docker.network.bridge.gateway_mode_ipv4";
    let mode6 = "com.docker.network.bridge.gateway_mode_ipv6";
    hosts.network(
        "routed",
        &[
            "--subnet",
            "10.55.0.0/24",
            "--ipv6",
            "--subnet",
            "fd00:55::/64",
            "-o",
            &format!("{mode}=routed"),
            "-o",
            &format!("{mode6}=routed"),
        ],
    );
    hosts.network("open", &["--subnet", "10.56.0.0/24", "-o", &format!("{mode}=nat-unprotected")]);
    let routed = hosts.run("routed", &["--network", "routed", "-p", "8080:80"]);
    let open = hosts.run("open", &["--network", "open", "-p", "8081:80"]);
    for place in [&routed, &open] {
        place.serve(Tcp, 80);
        place.serve(Tcp, 81);
    }
    hosts.near.serve(Tcp, 80);
    add_routes(&hosts, &["10.55.0.0/24", "10.56.0.0/24", "fd00:55::/64"]);
    let (ip, ip6, open_ip) =
        (hosts.ip("routed", "routed"), hosts.ip6("routed", "routed"), hosts.ip("open", "open"));
    assert_eq!(
        hosts.near.ask(Tcp, &format!("{ip}:80")),
        NEAR,
        "a published port, at the container's address"
    );
    assert_eq!(hosts.near.ask(Tcp, &format!("[{ip6}]:80")), NEAR6);
    hosts.near.reaches_nobody(Tcp, &format!("{ip}:81"));
    hosts.near.reaches_nobody(Tcp, &format!("[{ip6}]:81"));
    hosts.near.reaches_nobody(Tcp, &format!("{HOST}:8080"));
    // Nothing is translated on the way out either.
    assert_eq!(routed.ask(Tcp, &format!("{NEAR}:80")), ip);
    assert_eq!(routed.ask(Tcp, &format!("[{NEAR6}]:80")), ip6);
    assert_eq!(open.ask(Tcp, &format!("{NEAR}:80")), HOST);
    assert_eq!(hosts.near.ask(Tcp, &format!("{open_ip}:81")), NEAR, "all ports, at the container's address");
    assert_eq!(hosts.near.ask(Tcp, &format!("{HOST}:8081")), NEAR);
}
