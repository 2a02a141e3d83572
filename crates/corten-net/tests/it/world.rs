//! What the tests play with: a host, somebody outside, containers with servers in them.
//!
//! Each test runs in a process of its own in new network and mount namespaces (the "host"), made by unshare(1).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use corten_base::Id;
use corten_net::{
    EndpointRecord, EndpointSpec, Net, NetConfig, NetworkRecord, NetworkSpec, SandboxSpec, Upstream,
};
use corten_sys::netns;

/// Runs `test` isolated; `name` is the path of the calling test.
pub(crate) fn isolated(name: &str, test: impl FnOnce()) {
    if std::env::var_os("CORTEN_NET_TEST").is_some() {
        sh("ip link set lo up");
        sh("mount -t tmpfs none /run");
        return test();
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped {name}: needs root");
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env("CORTEN_NET_TEST", "1")
        .output()
        .unwrap();
    // Without the inner harness's own lines: somebody may be counting them.
    let text = String::from_utf8_lossy(&output.stdout);
    let noise = |l: &&str| l.is_empty() || l.starts_with("running ") || l.starts_with("test ");
    text.lines().filter(|l| !noise(l)).for_each(|l| println!("{l}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program of the host, for looking and for the outside world.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same inside a namespace.
pub(crate) fn sh_in(ns: &OwnedFd, command: &str) -> String {
    netns::run_in(ns.as_fd(), || Ok(sh(command))).unwrap()
}

pub(crate) fn config(instance: &str) -> NetConfig {
    NetConfig::new(format!("/run/{instance}").into(), instance.to_owned())
}

pub(crate) fn open() -> (Net, NetworkRecord) {
    let net = Net::open(config("test")).unwrap();
    let bridge = net.ensure_default_network(Id::random()).unwrap().unwrap();
    (net, bridge)
}

pub(crate) fn network(name: &str) -> NetworkSpec {
    NetworkSpec {
        id: Id::random(),
        name: name.into(),
        driver: "bridge".into(),
        ipam_driver: String::new(),
        ipam: Vec::new(),
        internal: false,
        ipv4: true,
        ipv6: false,
        options: Default::default(),
    }
}

/// 198.51.100.2 (2001:db8::2) behind the host's 198.51.100.1 (2001:db8::1), knowing nothing of containers.
pub(crate) fn outside() -> OwnedFd {
    let ns = netns::create().unwrap();
    netns::pin(&ns, Path::new("/run/outside")).unwrap();
    sh("ip link add up0 type veth peer name out0 && ip link set out0 netns /run/outside");
    sh(
        "ip addr add 198.51.100.1/24 dev up0 && ip addr add 2001:db8::1/64 dev up0 nodad && ip link set up0 up",
    );
    sh_in(&ns, "ip link set lo up && ip addr add 198.51.100.2/24 dev out0 && ip link set out0 up");
    sh_in(&ns, "ip addr add 2001:db8::2/64 dev out0 nodad");
    ns
}

/// A container that is attached to networks; dropping it does nothing.
pub(crate) struct Container {
    pub(crate) id: Id,
    pub(crate) ns: OwnedFd,
    pub(crate) endpoints: Vec<EndpointRecord>,
}

pub(crate) fn endpoint(container: &Id, network: &NetworkRecord, name: &str) -> EndpointSpec {
    EndpointSpec {
        id: Id::random(),
        container: container.clone(),
        network: network.id.clone(),
        name: name.into(),
        dns_names: vec![name.into(), container.short().into()],
        ipv4: None,
        ipv6: None,
        link_local: Vec::new(),
        mac: None,
        ifname: None,
        gw_priority: 0,
        ports: Vec::new(),
        links: Vec::new(),
        openings: Vec::new(),
        rates: Default::default(),
        sysctls: Vec::new(),
    }
}

pub(crate) fn container(
    net: &Net,
    network: &NetworkRecord,
    name: &str,
    change: impl FnOnce(&mut EndpointSpec),
) -> Container {
    container_asking(net, network, name, Vec::new(), change)
}

pub(crate) fn container_asking(
    net: &Net,
    network: &NetworkRecord,
    name: &str,
    upstreams: Vec<Upstream>,
    change: impl FnOnce(&mut EndpointSpec),
) -> Container {
    let id = Id::random();
    let path = net.ensure_sandbox(SandboxSpec { container: id.clone(), upstreams, users: None }).unwrap();
    let mut spec = endpoint(&id, network, name);
    change(&mut spec);
    let endpoint = net.attach(spec).unwrap();
    Container { ns: netns::open(&path).unwrap(), id, endpoints: vec![endpoint] }
}

impl Container {
    pub(crate) fn ip(&self) -> IpAddr {
        self.endpoints[0].ipv4.unwrap().into()
    }
}

/// A TCP server that tells every client its address as the server sees it.
pub(crate) fn serve(ns: &OwnedFd, address: &str) {
    let listener = netns::run_in(ns.as_fd(), || TcpListener::bind(address)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
}

/// What a server says to a client in this namespace (`None`: on the host), with some patience for a busy machine; `None`
/// if there is no connection.
pub(crate) fn ask(from: Option<&OwnedFd>, address: &str) -> Option<String> {
    (0..2).find_map(|_| ask_once(from, address))
}

/// The same, where the first packet must get through.
pub(crate) fn ask_once(from: Option<&OwnedFd>, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700))?;
        stream.set_read_timeout(Some(Duration::from_millis(700)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match from {
        Some(ns) => netns::run_in(ns.as_fd(), talk).ok(),
        None => talk().ok(),
    }
}
