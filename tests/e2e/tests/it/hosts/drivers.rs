//! Drivers and their options, as other hosts and containers see them.

use corten_testkit::Hosts;
use corten_testkit::Transport::{Tcp, Udp};
use corten_testkit::hosts::{NEAR, Packet};

#[test]
fn macvlan_is_on_the_neighbours_network() {
    let hosts = Hosts::start();
    let lan = "-d macvlan --subnet 198.51.100.0/24 --ip-range 198.51.100.128/25 --gateway 198.51.100.2 -o parent=up0";
    hosts.network("lan", &lan.split(' ').collect::<Vec<_>>());
    let web = hosts
        .run("web", &["--network", "lan", "--ip", "198.51.100.200", "--mac-address", "02:00:00:00:00:77"]);
    let other = hosts.run("other", &["--network", "lan"]);
    web.serve(Tcp, 80);
    hosts.near.serve(Tcp, 80);
    let captured = hosts.near.capture();
    assert_eq!(hosts.near.ask(Tcp, "198.51.100.200:80"), NEAR, "without any port published");
    let from = "198.51.100.200".parse::<std::net::IpAddr>().unwrap();
    assert!(captured.packets().iter().any(|p| p.from == from && p.sender == [2, 0, 0, 0, 0, 0x77]));
    assert_eq!(web.ask(Tcp, "198.51.100.2:80"), "198.51.100.200", "under its own address");
    assert_eq!(other.ask(Tcp, "198.51.100.200:80"), hosts.ip("other", "lan"));
    let given = hosts.ip("other", "lan");
    assert!(given.starts_with("198.51.100.1") && *given > *"198.51.100.127", "of the range: {given}");
    hosts.host().reaches_nobody(Tcp, "198.51.100.200:80");
    vlans(&hosts);
    // Without addresses from us the container takes its own.
    hosts.network("bare", &["-d", "macvlan", "--ipam-driver", "null", "-o", "parent=up1"]);
    let bare = hosts.run("bare", &["--network", "bare"]);
    bare.serve(Tcp, 80);
    bare.does("ip addr add 192.0.2.77/24 dev eth0");
    assert_eq!(hosts.far.ask(Tcp, "192.0.2.77:80"), "192.0.2.2");
    let shown =
        hosts.daemon.docker(["network", "inspect", "-f", "{{.IPAM.Driver}} {{.IPAM.Config}}", "bare"]).ok();
    assert!(shown.starts_with("null [{0.0.0.0/0"), "{shown}");
    hosts.daemon.docker(["rm", "-f", "bare"]).ok();
    hosts.daemon.docker(["network", "rm", "bare"]).ok();
    // Private containers hear their neighbours and not each other.
    hosts.network(
        "private",
        &[
            "-d",
            "macvlan",
            "--subnet",
            "10.8.0.0/24",
            "--subnet",
            "10.9.0.0/24",
            "-o",
            "parent=up1",
            "-o",
            "macvlan_mode=private",
        ],
    );
    let one = hosts.run("one", &["--network", "private", "--ip", "10.8.0.10"]);
    let two = hosts.run("two", &["--network", "private", "--ip", "10.8.0.20"]);
    hosts.run("three", &["--network", "private", "--ip", "10.9.0.30"]).serve(Tcp, 80);
    two.serve(Tcp, 80);
    hosts.far.does("ip addr add 10.8.0.1/24 dev eth0; ip addr add 10.9.0.1/24 dev eth0");
    assert_eq!(hosts.far.ask(Tcp, "10.8.0.20:80"), "10.8.0.1");
    assert_eq!(hosts.far.ask(Tcp, "10.9.0.30:80"), "10.9.0.1", "the second subnet");
    one.reaches_nobody(Tcp, "10.8.0.20:80");
}

/// A VLAN of the parent is made for its network, and goes with it.
fn vlans(hosts: &Hosts) {
    let create = "network create -d macvlan --subnet 10.7.0.0/24 --gateway 10.7.0.1 -o parent=up0.7 seven";
    let made = hosts.daemon.docker(create.split(' '));
    let neighbour = "ip link add link eth0 name eth0.7 type vlan id 7 && ip addr add 10.7.0.1/24 dev eth0.7 && ip link set eth0.7 up";
    if !hosts.near.command("sh").args(["-c", neighbour]).output().expect("nsenter").status.success() {
        corten_testkit::say("not tested: VLANs (the kernel has none)");
        assert!(made.fails(1).contains("make parent up0.7"));
        return;
    }
    made.ok();
    hosts.run("tagged", &["--network", "seven"]).serve(Tcp, 80);
    assert_eq!(hosts.near.ask(Tcp, &format!("{}:80", hosts.ip("tagged", "seven"))), "10.7.0.1");
    hosts.daemon.docker(["rm", "-f", "tagged"]).ok();
    hosts.daemon.docker(["network", "rm", "seven"]).ok();
    assert!(!hosts.host().sh("ip -o link").contains("up0.7"));
}

#[test]
fn ipvlan_where_the_kernel_has_it() {
    let hosts = Hosts::start();
    let create = "network create -d ipvlan --subnet 198.51.100.0/24 --gateway 198.51.100.2 -o parent=up0 lan";
    let made = hosts.daemon.docker(create.split(' '));
    if made.code != 0 {
        corten_testkit::say("not tested: ipvlan (the kernel has none)");
        assert!(
            made.stderr.contains("network driver \"ipvlan\" is not supported by this kernel"),
            "{}",
            made.stderr
        );
        assert!(!hosts.daemon.docker(["network", "ls", "-q", "-f", "name=lan"]).ok().contains(|_| true));
        return;
    }
    hosts.run("web", &["--network", "lan", "--ip", "198.51.100.200"]).serve(Tcp, 80);
    assert_eq!(hosts.near.ask(Tcp, "198.51.100.200:80"), NEAR);
}

#[test]
fn the_hosts_network_none_and_another_containers() {
    let hosts = Hosts::start();
    let host = hosts.run("host", &["--network", "host"]);
    host.serve(Tcp, 8070);
    assert_eq!(hosts.near.ask(Tcp, "198.51.100.1:8070"), NEAR);
    assert_eq!(host.sh("ip -o link show up0 | wc -l"), "1");
    let none = hosts.run("none", &["--network", "none"]);
    assert_eq!(none.sh("ip -o link | wc -l; ip route | wc -l"), "1\n0");
    hosts.run("web", &["-p", "8080:80"]);
    hosts.run("side", &["--network", "container:web"]).serve(Tcp, 80);
    assert_eq!(hosts.near.ask(Tcp, "198.51.100.1:8080"), NEAR, "through the port of the other");
    let refused = hosts
        .daemon
        .docker(["run", "--rm", "--network", "container:web", "-p", "1:1", "busybox", "true"])
        .fails(125);
    assert!(refused.contains("conflicting options"), "{refused}");
}

#[test]
fn addresses_names_of_links_and_settings() {
    let hosts = Hosts::start_with(&["--default-address-pool", "base=10.88.0.0/16,size=26"]);
    let plan = "--subnet 10.61.0.0/24 --ip-range 10.61.0.64/26 --gateway 10.61.0.254 --aux-address router=10.61.0.64 \
         --label a=b -o com.docker.network.container_iface_prefix=net -o com.docker.network.driver.mtu=1400 \
         -o com.docker.network.bridge.name=mybridge --attachable";
    hosts.network("plan", &plan.split_whitespace().collect::<Vec<_>>());
    let first = hosts.run("first", &["--network", "plan"]);
    assert_eq!(hosts.ip("first", "plan"), "10.61.0.65", "of the range, not an auxiliary one");
    assert!(first.sh("ip route show default").starts_with("default via 10.61.0.254 dev net0"));
    assert!(first.sh("ip link show net0").contains("mtu 1400"));
    assert!(hosts.host().sh("ip -o addr show mybridge").contains("10.61.0.254/24"));
    let fixed = "name=plan,ip=10.61.0.7,mac-address=02:00:00:00:00:42,alias=fix,link-local-ip=169.254.7.7,\
         driver-opt=com.docker.network.endpoint.ifname=lan0,\
         driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1";
    let second = hosts.run("second", &["--network", fixed]);
    let shown =
        second.sh("ip -o addr show lan0; ip link show lan0; cat /proc/sys/net/ipv4/conf/lan0/log_martians");
    for want in ["10.61.0.7/24", "169.254.7.7/16", "02:00:00:00:00:42", "\n1"] {
        assert!(shown.contains(want), "{want}: {shown}");
    }
    second.serve(Tcp, 80);
    assert_eq!(first.ask(Tcp, "10.61.0.7:80"), "10.61.0.65");
    for (address, want) in [
        ("10.61.0.7", "Address already in use"),
        ("10.62.0.7", "no configured subnet contains IP address 10.62.0.7"),
    ] {
        let text = hosts
            .daemon
            .docker(["run", "--rm", "--network", "plan", "--ip", address, "busybox", "true"])
            .fails(125);
        assert!(text.contains(want), "{address}: {text}");
    }
    // The daemon's own pools, in order.
    for (name, subnet) in [("p1", "10.88.0.64/26"), ("p2", "10.88.0.128/26")] {
        hosts.network(name, &[]);
        let shown =
            hosts.daemon.docker(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", name]).ok();
        assert_eq!(shown, subnet);
    }
    assert!(hosts.host().sh("ip -o addr show docker0").contains("10.88.0.1/26"));
}

/// What a network is called, and what it cannot be; subnets stay clear of what the host has routes to.
#[test]
fn flags_and_subnets_of_networks() {
    let hosts = Hosts::start();
    hosts.host().does("ip route add 172.18.0.0/15 via 192.0.2.2");
    hosts.network("net", &["--attachable", "--label", "a=b", "--ipam-opt", "c=d", "--scope", "local"]);
    let format =
        "{{(index .IPAM.Config 0).Subnet}} {{.Attachable}} {{.Ingress}} {{.Labels}} {{.IPAM.Options}}";
    let shown = hosts.daemon.docker(["network", "inspect", "-f", format, "net"]).ok();
    assert_eq!(shown, "172.20.0.0/16 true false map[a:b] map[c:d]");
    for (flags, want) in [
        ("--ingress", "This node is not a swarm manager"),
        ("--scope swarm", "This node is not a swarm manager"),
        ("-d overlay", "This node is not a swarm manager"),
        ("-d nothing", "plugin \"nothing\" not found"),
        ("-d host", "only one instance of \"host\" network is allowed"),
        ("--ipam-driver nothing", "plugin \"nothing\" not found"),
        ("--ipam-driver null", "ipv4 pool is empty"),
        ("--subnet 172.20.1.0/24", "Pool overlaps with other one on this address space"),
        ("-o com.docker.network.bridge.nothing=1", "unknown option"),
        ("--ipv4=false", "IPv4 or IPv6 must be enabled"),
    ] {
        let command = format!("network create {flags} wrong");
        let text = hosts.daemon.docker(command.split(' ')).fails(1);
        assert!(text.contains(want), "{flags}: {text}");
    }
    let all = hosts.daemon.docker(["network", "ls", "-q", "--filter", "type=custom"]).ok();
    assert_eq!(all.lines().count(), 1, "what was refused left nothing");
    hosts.run("user", &["--network", "net"]);
    let list = |filter: &str| {
        hosts.daemon.docker(["network", "ls", "--format", "{{.Name}}", "--filter", filter]).ok()
    };
    for (filter, want) in [
        ("dangling=true", ""),
        ("dangling=false", "net"),
        ("label=a", "net"),
        ("label=a=c", ""),
        ("driver=null", "none"),
        ("type=builtin", "bridge\nhost\nnone"),
        ("scope=swarm", ""),
        ("name=ne", "net\nnone"),
    ] {
        assert_eq!(list(filter), want, "{filter}");
    }
    hosts.daemon.docker(["rm", "-f", "user"]).ok();
    assert_eq!(list("dangling=true"), "net");
    assert_eq!(hosts.daemon.docker(["network", "prune", "-f", "--filter", "label!=a"]).ok(), "");
    assert!(hosts.daemon.docker(["network", "prune", "-f", "--filter", "label=a"]).ok().contains("net"));
}

/// A running container with several networks: what it leaves by, and where it is reached.
#[test]
fn several_networks_come_and_go() {
    let hosts = Hosts::start();
    hosts.network("one", &["--subnet", "10.63.0.0/24"]);
    hosts.network("two", &["--subnet", "10.64.0.0/24"]);
    hosts.network("in", &["--internal", "--subnet", "10.65.0.0/24"]);
    let web = hosts.run("web", &["--network", "in", "-p", "8080:80"]);
    let beside = hosts.run("beside", &["--network", "two"]);
    web.serve(Tcp, 80);
    web.serve(Udp, 53);
    hosts.near.reaches_nobody(Tcp, "198.51.100.1:8080");
    let gateway = |want: &str| {
        let route = web.sh("ip route show default");
        assert!(route.starts_with(want), "{want}: {route}");
    };
    // Whether `beside` reaches it on the network `two`.
    let steps = [
        ("network connect one web", "default via 10.63.0.1", false),
        (
            "network connect --gw-priority 7 --ip 10.64.0.99 --alias late two web",
            "default via 10.64.0.1",
            true,
        ),
        ("network disconnect two web", "default via 10.63.0.1", false),
        ("network connect --gw-priority -1 --ip 10.64.0.99 two web", "default via 10.63.0.1", true),
        ("network disconnect one web", "default via 10.64.0.1", true),
    ];
    let docker = |command: &str| hosts.daemon.docker(command.split(' ')).ok();
    for (command, route, reached) in steps {
        docker(command);
        gateway(route);
        match reached {
            true => assert!(beside.ask(Tcp, "10.64.0.99:80").starts_with("10.64.0.")),
            false => beside.reaches_nobody(Tcp, "10.64.0.99:80"),
        }
        assert_eq!(hosts.near.ask(Tcp, "198.51.100.1:8080"), NEAR, "{command}");
    }
    // Its files follow: a line for each address, and names from the first network that has them on.
    let file = |name: &str| docker(&format!("exec plain cat /etc/{name}"));
    hosts.run("plain", &["--hostname", "box"]);
    assert!(!file("resolv.conf").contains("127.0.0.11"));
    docker("network connect two plain");
    assert!(file("resolv.conf").contains("nameserver 127.0.0.11"));
    assert!(file("hosts").contains(&format!("{}\tbox", hosts.ip("plain", "two"))));
    docker("exec plain ping -c1 -W5 beside");
    let before = hosts.ip("plain", "two");
    docker("network disconnect two plain");
    assert!(!file("hosts").contains(&before));
    docker("network disconnect two web");
    assert_eq!(web.sh("ip route show default"), "");
    docker("restart -t 0 web");
    assert!(hosts.inside("web").sh("ip -o addr").contains("10.65.0."));
}

/// A fixed address moves to a container with another hardware address, and neighbours know at once.
#[test]
fn addresses_that_change_hands() {
    let hosts = Hosts::start();
    hosts.network("net", &["--subnet", "10.66.0.0/24"]);
    hosts.network("six", &["--ipv6", "--ipv4=false", "--subnet", "fd00:66::/64"]);
    let asker = hosts.run("asker", &["--network", "net", "--network", "six"]);
    for (mac, seen) in [("02:00:00:00:00:01", "1"), ("02:00:00:00:00:02", "2")] {
        let flags = ["--network", "net", "--ip", "10.66.0.9", "--mac-address", mac];
        hosts.run("owner", &flags).serve(Tcp, 80);
        hosts.run("six", &["--network", "six"]).serve(Tcp, 80);
        assert!(!asker.ask(Tcp, "10.66.0.9:80").is_empty());
        assert!(!asker.ask(Tcp, &format!("[{}]:80", hosts.ip6("six", "six"))).is_empty());
        assert!(asker.sh("ip neigh show 10.66.0.9").contains(mac), "{seen}");
        hosts.daemon.docker(["rm", "-f", "owner", "six"]).ok();
    }
}

/// Nobody confirms an announcement, so there are three, or as many as the network wants.
#[test]
fn addresses_are_announced_more_than_once() {
    let hosts = Hosts::start();
    let often = ["--subnet", "10.67.0.0/24", "-o", "com.docker.network.advertise_addr_ms=100"];
    let never = ["--subnet", "10.68.0.0/24", "-o", "com.docker.network.advertise_addr_nmsgs=0"];
    hosts.network("often", &often);
    hosts.network("never", &never);
    let neighbour = hosts.run("neighbour", &["--network", "often", "--network", "never"]);
    let captured = neighbour.capture();
    let mac = "--mac-address=02:00:00:00:00:09";
    hosts.run("silent", &["--network", "never", "--ip", "10.68.0.9", mac]);
    hosts.run("loud", &["--network", "often", "--ip", "10.67.0.9", mac]);
    let mut seen = Vec::new();
    hosts.daemon.eventually("three announcements", || {
        seen.extend(captured.packets().into_iter().filter(|p| p.protocol == Packet::ARP && p.from == p.to));
        (seen.iter().filter(|p| p.from.to_string() == "10.67.0.9").count() >= 3).then_some(())
    });
    assert!(seen.iter().all(|p| p.from.to_string() != "10.68.0.9"), "{seen:?}");
}

/// What `--config-only` keeps is what `--config-from` makes.
#[test]
fn configurations_for_other_networks() {
    let mut hosts = Hosts::start();
    let template = "--config-only --subnet 198.51.100.0/24 --ip-range 198.51.100.192/26 --gateway 198.51.100.2 -o parent=up0 --label a=b";
    hosts.network("template", &template.split(' ').collect::<Vec<_>>());
    let show = |hosts: &Hosts, name: &str| {
        let format = "{{.Driver}} {{.Scope}} {{.ConfigOnly}} {{.ConfigFrom.Network}} {{json .IPAM.Config}} {{json .Options}} {{json .Labels}}";
        hosts.daemon.docker(["network", "inspect", "-f", format, name]).ok()
    };
    let rest = r#"[{"Subnet":"198.51.100.0/24","IPRange":"198.51.100.192/26","Gateway":"198.51.100.2"}] {"parent":"up0"} {"a":"b"}"#;
    assert_eq!(show(&hosts, "template"), format!("null local true  {rest}"));
    hosts.network("lan", &["-d", "macvlan", "--config-from", "template"]);
    assert_eq!(show(&hosts, "lan"), format!("macvlan local false template {rest}"));
    hosts.daemon.kill();
    hosts.daemon.restart();
    assert_eq!(show(&hosts, "template"), format!("null local true  {rest}"));
    hosts.run("web", &["--network", "lan"]).serve(Tcp, 80);
    assert_eq!(hosts.near.ask(Tcp, &format!("{}:80", hosts.ip("web", "lan"))), NEAR);
    let docker = |command: &str, code: i32| hosts.daemon.docker(command.split(' ')).fails(code);
    for (command, code, want) in [
        ("network rm template", 1, "configuration network \"template\" is in use"),
        (
            "run --rm --network template busybox true",
            125,
            "cannot create endpoint on configuration-only network",
        ),
        ("network connect template web", 1, "cannot create endpoint on configuration-only network"),
        ("network create --config-from nothing x", 1, "configuration network \"nothing\" does not exist"),
        ("network create --config-from lan x", 1, "configuration network \"lan\" does not exist"),
        (
            "network create --config-only --internal x",
            1,
            "configuration network can only contain network specific fields",
        ),
        (
            "network create --config-only --config-from template x",
            1,
            "a configuration network cannot depend on another",
        ),
        (
            "network create --config-from template --subnet 10.1.0.0/24 x",
            1,
            "user specified configurations are not supported",
        ),
        ("network create --config-from template -o a=b x", 1, "network driver options are not supported"),
        (
            "network create --config-only --subnet 10.1.0.1/24 x",
            1,
            "invalid subnet 10.1.0.1/24: it should be 10.1.0.0/24",
        ),
    ] {
        let text = docker(command, code);
        assert!(text.contains(want), "{command}: {text}");
    }
    hosts.daemon.docker(["rm", "-f", "web"]).ok();
    hosts.daemon.docker(["network", "prune", "-f"]).ok();
    let left = hosts.daemon.docker(["network", "ls", "--format", "{{.Name}}"]).ok();
    assert_eq!(left, "bridge\nhost\nnone\ntemplate", "templates are not pruned");
    hosts.daemon.docker(["network", "rm", "template"]).ok();
}
