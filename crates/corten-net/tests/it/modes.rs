//! Ways in and out of networks: gateway modes, trusted links, fixed source addresses, IPv6 alone, protocols.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use corten_base::Kind;
use corten_net::{IpamConfig, Net, NetworkSpec, PortSpec, Protocol, option};
use corten_sys::netns;

use crate::world::*;

fn port(protocol: Protocol, host_port: u16, container_port: u16) -> PortSpec {
    PortSpec { container_port, protocol, host_ip: None, host_ports: (host_port, host_port) }
}

fn with(name: &str, options: &[(&str, &str)]) -> NetworkSpec {
    let mut spec = network(name);
    spec.options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    spec
}

/// What of a network can be reached from outside, where somebody knows the way to its addresses.
#[test]
fn gateway_modes() {
    isolated("modes::gateway_modes", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        let (net, _) = open();
        // mode, [published port at the host, published port at the container, another port there], client's address
        let cases: [(&str, [bool; 3], &str); 3] = [
            ("nat", [true, false, false], "198.51.100.1"),
            ("nat-unprotected", [true, true, true], "198.51.100.1"),
            ("routed", [false, true, false], "own"),
        ];
        for (mode, reached, source) in cases {
            let lan = net.create_network(with(mode, &[(option::GATEWAY_MODE_V4, mode)])).unwrap();
            let c = container(&net, &lan, mode, |e| e.ports = vec![port(Protocol::Tcp, 8080, 80)]);
            serve(&c.ns, "0.0.0.0:80");
            serve(&c.ns, "0.0.0.0:81");
            sh_in(&out, &format!("ip route replace {} via 198.51.100.1", lan.subnet(false).unwrap()));
            let found = ["198.51.100.1:8080".to_owned(), format!("{}:80", c.ip()), format!("{}:81", c.ip())]
                .map(|a| ask(Some(&out), &a).is_some());
            assert_eq!(found, reached, "{mode}");
            let own = c.ip().to_string();
            let source = if source == "own" { own.as_str() } else { source };
            assert_eq!(ask(Some(&c.ns), "198.51.100.2:80").as_deref(), Some(source), "{mode}");
            net.ensure_no_sandbox(&c.id).unwrap();
        }
        let isolated =
            NetworkSpec { internal: true, ..with("isolated", &[(option::GATEWAY_MODE_V4, "isolated")]) };
        let alone = net.create_network(isolated).unwrap();
        assert!(!sh(&format!("ip -4 -o addr show dev {}", alone.settings.link)).contains("inet "));
        let (a, b) = (container(&net, &alone, "a", |_| {}), container(&net, &alone, "b", |_| {}));
        serve(&a.ns, "0.0.0.0:80");
        assert!(ask(Some(&b.ns), &format!("{}:80", a.ip())).is_some());
        assert!(ask(None, &format!("{}:80", a.ip())).is_none(), "not even the host");
        let error = net.create_network(with("no", &[(option::GATEWAY_MODE_V4, "isolated")])).unwrap_err();
        assert!(error.to_string().contains("can only be used for an internal network"), "{error}");
    });
}

#[test]
fn trusted_links_fixed_sources_and_bridges_without_an_address() {
    isolated("modes::trusted_links_fixed_sources_and_bridges_without_an_address", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        sh("ip addr add 198.51.100.9/24 dev up0");
        let (net, _) = open();
        let options = [(option::TRUSTED_INTERFACES, "up0"), (option::HOST_IPV4, "198.51.100.9")];
        let lan = net.create_network(with("lan", &options)).unwrap();
        let c = container(&net, &lan, "c", |_| {});
        serve(&c.ns, "0.0.0.0:81");
        sh_in(&out, &format!("ip route add {} via 198.51.100.1", lan.subnet(false).unwrap()));
        assert!(ask(Some(&out), &format!("{}:81", c.ip())).is_some(), "from a trusted link");
        assert_eq!(ask(Some(&c.ns), "198.51.100.2:80").as_deref(), Some("198.51.100.9"));
        let options =
            [(option::INHIBIT_V4, "true"), (option::BRIDGE_NAME, "plain0"), (option::IFACE_PREFIX, "lan")];
        let plain = net.create_network(with("plain", &options)).unwrap();
        assert!(!sh("ip -4 -o addr show dev plain0").contains("inet "));
        let p = container(&net, &plain, "p", |_| {});
        assert_eq!(p.endpoints[0].ifname, "lan0");
        for (key, value) in [
            ("com.docker.network.bridge.no_such_thing", "1"),
            (option::ICC, "perhaps"),
            (option::HOST_BINDING, "here"),
            (option::MTU, "12"),
            (option::GATEWAY_MODE_V6, "sometimes"),
            (option::BRIDGE_NAME, "a name that is too long"),
        ] {
            let error = net.create_network(with("bad", &[(key, value)])).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{key}: {error}");
        }
    });
}

#[test]
fn ipv6_alone() {
    isolated("modes::ipv6_alone", || {
        let out = outside();
        serve(&out, "[::]:80");
        let (net, _) = open();
        let six = net.create_network(NetworkSpec { ipv4: false, ipv6: true, ..network("six") }).unwrap();
        let wish = || vec![port(Protocol::Tcp, 8080, 80)];
        let c = container(&net, &six, "c", |e| e.ports = wish());
        let d = container(&net, &six, "d", |_| {});
        serve(&c.ns, "[::]:80");
        assert_eq!((c.endpoints[0].ipv4, c.endpoints[0].gateway), (None, None));
        assert!(!sh_in(&c.ns, "ip -4 -o addr show dev eth0").contains("inet "));
        let direct = format!("[{}]:80", c.endpoints[0].ipv6.unwrap());
        assert_eq!(ask(Some(&d.ns), &direct), d.endpoints[0].ipv6.map(|a| a.to_string()));
        assert_eq!(ask(Some(&c.ns), "[2001:db8::2]:80").as_deref(), Some("2001:db8::1"));
        assert_eq!(ask(Some(&out), "[2001:db8::1]:8080").as_deref(), Some("2001:db8::2"));
        assert_eq!(ask(None, "[::1]:8080"), six.ipam[0].gateway.map(|a| a.to_string()), "carried");
        // Without IPv6 in the container connections are carried, unless that is switched off: then [::] refuses at once,
        // so that clients take IPv4.
        let four = net.create_network(network("four")).unwrap();
        let f = container(&net, &four, "f", |e| e.ports = vec![port(Protocol::Tcp, 8081, 80)]);
        serve(&f.ns, "0.0.0.0:80");
        let bridge = four.ipam[0].gateway.map(|a| a.to_string());
        assert_eq!(ask(Some(&out), "[2001:db8::1]:8081"), bridge);
        assert_eq!(ask(None, "[::1]:8081"), bridge);
        net.detach(&f.endpoints[0]).unwrap();
        assert!(ask(None, "[::1]:8081").is_none());
        let mut config = config("plain");
        (config.relay, config.bridge) = (false, None);
        let net = Net::open(config).unwrap();
        let four = net.create_network(network("four")).unwrap();
        let f = container(&net, &four, "f", |e| e.ports = vec![port(Protocol::Tcp, 8082, 80)]);
        serve(&f.ns, "0.0.0.0:80");
        let refused = netns::run_in(out.as_fd(), || {
            let begin = std::time::Instant::now();
            let outcome = std::net::TcpStream::connect_timeout(
                &"[2001:db8::1]:8082".parse().unwrap(),
                Duration::from_secs(30),
            );
            Ok((outcome.map_err(|e| e.kind()).err(), begin.elapsed().as_secs() < 20))
        });
        assert_eq!(refused.unwrap(), (Some(std::io::ErrorKind::ConnectionRefused), true));
        assert!(ask(Some(&out), "198.51.100.1:8082").is_some());
    });
}

#[test]
fn marks_direct_routing_and_the_bridges_own_ipv6() {
    isolated("modes::marks_direct_routing_and_the_bridges_own_ipv6", || {
        let out = outside();
        let mut config = config("test");
        config.accept_mark = Some("0x2/0x3".parse().unwrap());
        config.direct_routing = true;
        let own = config.bridge.as_mut().unwrap();
        own.ipv6 = true;
        own.bip6 = Some("2001:db8:7::9/64".parse().unwrap());
        let net = corten_net::Net::open(config).unwrap();
        let bridge = net.ensure_default_network(corten_base::Id::random()).unwrap().unwrap();
        assert!(sh("ip -6 -o addr show dev docker0").contains("2001:db8:7::9/64"));
        let c = container(&net, &bridge, "c", |e| e.ports = vec![port(Protocol::Tcp, 8080, 80)]);
        assert_eq!(c.endpoints[0].gateway_v6, Some("2001:db8:7::9".parse().unwrap()));
        serve(&c.ns, "0.0.0.0:80");
        serve(&c.ns, "0.0.0.0:81");
        sh_in(&out, "ip route add 172.17.0.0/16 via 198.51.100.1");
        assert!(ask(Some(&out), "172.17.0.2:80").is_some(), "published, at its own address");
        assert!(ask(Some(&out), "172.17.0.2:81").is_none());
        let mark = |value: &str| {
            format!(
                "nft add table ip marks; nft 'add chain ip marks in {{ type filter hook prerouting priority -150; }}'; \
                     nft flush chain ip marks in; nft add rule ip marks in tcp dport 81 meta mark set {value}"
            )
        };
        sh(&mark("5"));
        assert!(ask(Some(&out), "172.17.0.2:81").is_none());
        sh(&mark("6"));
        assert!(ask(Some(&out), "172.17.0.2:81").is_some(), "the bits that count are right");
        assert!(!net.verify().unwrap());
    });
}

/// Waits for one packet of this IP protocol on a link and gives its bytes from the IP header on.
const CAPTURE: &str = "import socket,sys
s=socket.socket(socket.AF_PACKET,socket.SOCK_DGRAM,socket.htons(3)); s.bind((sys.argv[1],0)); s.settimeout(20)
print('ready',flush=True)
while True:
    p=s.recv(65535)
    if p[0]>>4==4 and p[9]==int(sys.argv[2]): print(p.hex(),flush=True); break
";

/// A packet is captured where it arrives: this kernel may have no SCTP of its own, and translates it all the same.
#[test]
fn sctp_arrives() {
    use std::io::{BufRead, BufReader};
    isolated("modes::sctp_arrives", || {
        let out = outside();
        let (net, bridge) = open();
        let c = container(&net, &bridge, "c", |e| e.ports = vec![port(Protocol::Sctp, 7000, 7)]);
        let mut capture = netns::run_in(c.ns.as_fd(), || {
            std::process::Command::new("python3")
                .args(["-c", CAPTURE, "eth0", "132"])
                .stdout(std::process::Stdio::piped())
                .spawn()
        })
        .unwrap();
        let mut lines = BufReader::new(capture.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        // An INIT chunk from port 5000 to port 7000, with the checksum that connection tracking asks for.
        let send = "import socket,struct
def crc32c(b):
    c=0xffffffff
    for x in b:
        c^=x
        for _ in range(8): c=(c>>1)^(0x82f63b78 if c&1 else 0)
    return c^0xffffffff
chunk=struct.pack('!BBHIIHHI',1,0,20,1,65535,1,1,1)
head=struct.pack('!HHI',5000,7000,0)
sum=struct.pack('<I',crc32c(head+b'\\0\\0\\0\\0'+chunk))
s=socket.socket(socket.AF_INET,socket.SOCK_RAW,132)
s.sendto(head+sum+chunk,('198.51.100.1',0))";
        std::fs::write("/run/send.py", send).unwrap();
        sh_in(&out, "python3 /run/send.py");
        let packet = lines.next().unwrap().unwrap();
        capture.wait().unwrap();
        let byte = |n: usize| u8::from_str_radix(&packet[2 * n..2 * n + 2], 16).unwrap();
        assert_eq!([12, 13, 14, 15].map(byte), [198, 51, 100, 2], "the client's own address");
        assert_eq!([16, 17, 18, 19].map(byte), [172, 17, 0, 2]);
        assert_eq!([byte(22), byte(23)], [0, 7], "the container's port");
    });
}

fn udp_echo(ns: &OwnedFd, address: &str) {
    let server = netns::run_in(ns.as_fd(), || UdpSocket::bind(address)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = server.recv_from(&mut buffer) {
            server.send_to(from.ip().to_string().as_bytes(), from).unwrap();
        }
    });
}

/// Whom a UDP server sees, asked from a namespace.
fn udp_ask(from: Option<&OwnedFd>, to: &str) -> Option<String> {
    let talk = || {
        let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut buffer = [0; 64];
        for _ in 0..3 {
            socket.send_to(b"?", to)?;
            if let Ok((n, _)) = socket.recv_from(&mut buffer) {
                return Ok(Some(String::from_utf8_lossy(&buffer[..n]).into_owned()));
            }
        }
        Ok(None)
    };
    match from {
        Some(ns) => netns::run_in(ns.as_fd(), talk).unwrap(),
        None => talk().unwrap(),
    }
}

#[test]
fn udp_servers_see_their_clients() {
    isolated("modes::udp_servers_see_their_clients", || {
        let out = outside();
        let (net, _) = open();
        let lan = net.create_network(NetworkSpec { ipv6: true, ..network("lan") }).unwrap();
        let c = container(&net, &lan, "c", |e| e.ports = vec![port(Protocol::Udp, 5300, 53)]);
        udp_echo(&c.ns, "[::]:53");
        assert_eq!(udp_ask(Some(&out), "198.51.100.1:5300").as_deref(), Some("::ffff:198.51.100.2"));
        assert_eq!(udp_ask(Some(&out), "[2001:db8::1]:5300").as_deref(), Some("2001:db8::2"));
        let gateway = lan.ipam[0].gateway.unwrap();
        assert_eq!(udp_ask(None, "127.0.0.1:5300"), Some(format!("::ffff:{gateway}")));
        assert_eq!(udp_ask(Some(&c.ns), "198.51.100.1:5300"), Some(format!("::ffff:{gateway}")), "hairpin");
    });
}

#[test]
fn address_plans() {
    isolated("modes::address_plans", || {
        let _out = outside();
        let (net, _) = open();
        let config = |subnet: &str, range: &str, aux: &[&str]| IpamConfig {
            subnet: Some(subnet.parse().unwrap()),
            ip_range: (!range.is_empty()).then(|| range.parse().unwrap()),
            gateway: None,
            aux_addresses: aux
                .iter()
                .enumerate()
                .map(|(n, a)| (format!("x{n}"), a.parse().unwrap()))
                .collect(),
        };
        let plan = vec![config("10.9.0.0/24", "10.9.0.8/29", &["10.9.0.8", "10.9.0.9"])];
        let lan = net.create_network(NetworkSpec { ipam: plan, ..network("lan") }).unwrap();
        let first = container(&net, &lan, "first", |_| {});
        assert!(!["10.9.0.8", "10.9.0.9"].contains(&first.ip().to_string().as_str()), "{}", first.ip());
        assert!("10.9.0.8/29".parse::<ipnet::IpNet>().unwrap().contains(&first.ip()));
        let own = container(&net, &lan, "own", |e| {
            e.ipv4 = Some("10.9.0.200".parse().unwrap());
            e.mac = Some("02:00:00:00:00:77".parse().unwrap());
        });
        assert_eq!(own.ip(), "10.9.0.200".parse::<IpAddr>().unwrap());
        assert!(sh_in(&own.ns, "ip link show eth0").contains("02:00:00:00:00:77"));
        let two = || vec![config("10.10.0.0/24", "", &[]), config("10.11.0.0/24", "", &[])];
        let error = net.create_network(NetworkSpec { ipam: two(), ..network("two") }).unwrap_err();
        assert_eq!(error.to_string(), "bridge driver doesn't support multiple subnets");
        let parent = [(option::PARENT.to_owned(), "up0".to_owned())].into();
        let both = NetworkSpec { ipam: two(), driver: "macvlan".into(), options: parent, ..network("both") };
        let both = net.create_network(both).unwrap();
        assert_eq!(both.ipam.len(), 2);
        let c = container(&net, &both, "c", |e| e.ipv4 = Some("10.11.0.5".parse().unwrap()));
        assert!(sh_in(&c.ns, "ip -4 -o addr show dev eth0").contains("10.11.0.5/24"));
        assert!(sh_in(&c.ns, "ip route show default").contains("10.11.0.1"));
    });
}

/// Where the kernel has ipvlan it works, elsewhere it is refused when the network is made.
#[test]
fn ipvlan_as_far_as_the_kernel_goes() {
    isolated("modes::ipvlan_as_far_as_the_kernel_goes", || {
        let out = outside();
        serve(&out, "0.0.0.0:80");
        let (net, _) = open();
        let plan = IpamConfig {
            subnet: Some("198.51.100.0/24".parse().unwrap()),
            gateway: Some("198.51.100.2".parse().unwrap()),
            ..IpamConfig::default()
        };
        let options = [(option::PARENT, "up0"), (option::IPVLAN_MODE, "l2")];
        let spec = NetworkSpec { driver: "ipvlan".into(), ipam: vec![plan], ..with("lan", &options) };
        match net.create_network(spec) {
            Err(error) => {
                assert_eq!(error.to_string(), "network driver \"ipvlan\" is not supported by this kernel");
                assert_eq!(error.kind(), Kind::Unsupported);
            }
            Ok(lan) => {
                let c = container(&net, &lan, "c", |e| e.ipv4 = Some("198.51.100.77".parse().unwrap()));
                assert_eq!(ask(Some(&c.ns), "198.51.100.2:80").as_deref(), Some("198.51.100.77"));
            }
        }
        let bad = NetworkSpec { driver: "ipvlan".into(), ..with("bad", &[(option::IPVLAN_MODE, "l4")]) };
        assert!(net.create_network(bad).unwrap_err().to_string().contains("unknown ipvlan mode"));
    });
}

#[test]
fn networks_avoid_the_hosts_routes_and_follow_its_mtu() {
    isolated("modes::networks_avoid_the_hosts_routes_and_follow_its_mtu", || {
        let _out = outside();
        // A VPN, and a default route over a link with a small MTU.
        sh(
            "ip route add 172.18.0.0/15 via 198.51.100.2; ip link set up0 mtu 1420; ip route add default via 198.51.100.2",
        );
        let (net, bridge) = open();
        let first = net.create_network(network("first")).unwrap();
        assert_eq!(first.subnet(false).unwrap().to_string(), "172.20.0.0/16");
        // A route that came later is seen, too.
        sh("ip route add 172.21.0.0/16 via 198.51.100.2");
        let second = net.create_network(network("second")).unwrap();
        assert_eq!(second.subnet(false).unwrap().to_string(), "172.22.0.0/16");
        for n in [&bridge, &first] {
            let c = container(&net, n, "c", |_| {});
            let mtu = |text: String| text.contains("mtu 1420");
            assert!(
                mtu(sh_in(&c.ns, "ip link show eth0"))
                    && mtu(sh(&format!("ip link show {}", n.settings.link)))
            );
        }
        let own = net.create_network(with("own", &[(option::MTU, "1300")])).unwrap();
        let c = container(&net, &own, "c", |_| {});
        assert!(sh_in(&c.ns, "ip link show eth0").contains("mtu 1300"));
    });
}
