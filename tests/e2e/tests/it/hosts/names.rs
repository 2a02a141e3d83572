//! The name server of user-defined networks: what it answers, whom it asks, and from where.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corten_testkit::{Hosts, Place};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;

/// An answer as it came.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Answer {
    code: u8,
    /// Addresses in the order in which they came; names of a reverse question.
    records: Vec<String>,
    /// It says how large datagrams may be (EDNS0).
    edns: bool,
}

fn name_bytes(name: &str) -> Vec<u8> {
    let parts = name.split('.').filter(|p| !p.is_empty());
    let mut bytes: Vec<u8> = parts
        .flat_map(|p| [&[u8::try_from(p.len()).expect("a short label")], p.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

fn question(name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    message.extend(name_bytes(name));
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    if edns {
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    message
}

/// The name at this place, and what follows it.
fn read_name(message: &[u8], mut at: usize) -> (String, usize) {
    let (mut name, mut end) = (String::new(), 0);
    loop {
        let length = usize::from(message[at]);
        if length >= 0xc0 {
            end = if end == 0 { at + 2 } else { end };
            at = (length & 0x3f) << 8 | usize::from(message[at + 1]);
        } else if length == 0 {
            return (name, if end == 0 { at + 1 } else { end });
        } else {
            name += std::str::from_utf8(&message[at + 1..=at + length]).expect("a name in ASCII");
            name.push('.');
            at += length + 1;
        }
    }
}

fn read_answer(message: &[u8]) -> Answer {
    let count = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let mut answer = Answer { code: message[3] & 15, ..Answer::default() };
    let mut at = 12;
    for _ in 0..count(4) {
        at = read_name(message, at).1 + 4;
    }
    for _ in 0..count(6) + count(8) + count(10) {
        let next = read_name(message, at).1;
        let kind = u16::from_be_bytes([message[next], message[next + 1]]);
        let length = usize::from(u16::from_be_bytes([message[next + 8], message[next + 9]]));
        let data = &message[next + 10..next + 10 + length];
        match kind {
            A => {
                answer.records.push(IpAddr::from(<[u8; 4]>::try_from(data).expect("an address")).to_string())
            }
            AAAA => {
                answer.records.push(IpAddr::from(<[u8; 16]>::try_from(data).expect("an address")).to_string())
            }
            PTR => answer.records.push(read_name(message, next + 10).0),
            41 => answer.edns = true,
            _ => {}
        }
        at = next + 10 + length;
    }
    answer
}

/// Asks 127.0.0.11 inside a container; a datagram that gets lost is sent again.
#[track_caller]
fn ask(place: &Place, name: &str, kind: u16) -> Answer {
    ask_with(place, &question(name, kind, false))
}

#[track_caller]
fn ask_with(place: &Place, question: &[u8]) -> Answer {
    let answer = place.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("127.0.0.11:53").ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(15))).ok()?;
        let mut buffer = [0; 4096];
        (0..2).find_map(|_| {
            socket.send(question).ok()?;
            socket.recv(&mut buffer).ok().map(|length| read_answer(&buffer[..length]))
        })
    });
    answer.expect("an answer")
}

fn ask_by_tcp(place: &Place, name: &str, kind: u16) -> Answer {
    place.run(|| {
        let mut stream = TcpStream::connect("127.0.0.11:53").expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("talk to 127.0.0.11");
        let question = question(name, kind, false);
        stream
            .write_all(&u16::try_from(question.len()).expect("a short question").to_be_bytes())
            .expect("talk to 127.0.0.11");
        stream.write_all(&question).expect("talk to 127.0.0.11");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("talk to 127.0.0.11");
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).expect("talk to 127.0.0.11");
        read_answer(&message)
    })
}

/// Who asked a server for what.
type Asked = Arc<Mutex<Vec<(IpAddr, String)>>>;

/// A name server of somebody else's, on port 53: every name that begins with `host` is 203.0.113.77, others are not.
fn name_server(place: &Place) -> Asked {
    let asked = Asked::default();
    let socket = place.run(|| UdpSocket::bind("0.0.0.0:53")).expect("a free port");
    let list = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let (name, end) = read_name(&buffer[..length], 12);
            list.lock().expect("no panic with it").push((from.ip(), name.clone()));
            let known = name.starts_with("host") && buffer[end..end + 2] == A.to_be_bytes();
            let mut reply = buffer[..end + 4].to_vec();
            let failed = if name.starts_with("host") { 0 } else { NO_SUCH_NAME };
            (reply[2], reply[3]) = (0x81, 0x80 | failed);
            (reply[7], reply[11]) = (u8::from(known), 0);
            if known {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 77]);
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    asked
}

fn asked(list: &Asked) -> Vec<(IpAddr, String)> {
    std::mem::take(&mut *list.lock().expect("no panic with it"))
}

#[test]
fn what_it_knows() {
    let hosts = Hosts::start();
    hosts.network("net", &["--subnet", "10.57.0.0/24", "--ipv6", "--subnet", "fd00:57::/64"]);
    hosts.network("side", &["--subnet", "10.58.0.0/24"]);
    hosts.run("srv", &["--network", "net", "--network-alias", "web", "--hostname", "box"]);
    hosts.run("two", &["--network", "net", "--network-alias", "web"]);
    hosts.run("hidden", &["--network", "side"]);
    let asker = hosts.run("asker", &["--network", "net", "--link", "srv:store"]);
    let (ip, ip6, other) = (hosts.ip("srv", "net"), hosts.ip6("srv", "net"), hosts.ip("two", "net"));
    let id = hosts.daemon.docker(["inspect", "-f", "{{.Id}}", "srv"]).ok();
    for name in ["srv", "SRV", "box", &id[..12], "srv.net", "store"] {
        assert_eq!(ask(&asker, name, A).records, [ip.as_str()], "{name}");
    }
    assert_eq!(ask(&asker, "srv", AAAA).records, [ip6.as_str()]);
    assert_eq!(ask_by_tcp(&asker, "srv", A).records, [ip.as_str()]);
    let large = ask_with(&asker, &question("srv", A, true));
    assert!(large.edns && large.records == [ip.as_str()], "{large:?}");
    // Both have the alias; either comes first, sooner or later.
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let both = ask(&asker, "web", A).records;
        assert_eq!(both.len(), 2);
        firsts.insert(both[0].clone());
    }
    assert_eq!(firsts, [ip.clone(), other].into());
    // Reverse.
    let mut digits: Vec<&str> = ip.split('.').collect();
    digits.reverse();
    let reverse = ask(&asker, &format!("{}.in-addr.arpa", digits.join(".")), PTR);
    assert_eq!(reverse.records, ["srv.net."]);
    // What a program makes of it.
    let ping = hosts.daemon.docker(["exec", "asker", "ping", "-c1", "-W5", "web"]).ok();
    assert!(ping.contains("10.57.0.") || ping.contains("fd00:57::"), "{ping}");
    // A link is the linking container's alone; other networks' names are nobody's here. (No server is asked: there is
    // none that answers, so that these are asked last and not waited for.)
    hosts.daemon.docker(["network", "connect", "--alias", "late", "net", "hidden"]).ok();
    assert_eq!(ask(&asker, "late", A).records, [hosts.ip("hidden", "net")]);
    hosts.daemon.docker(["rename", "two", "second"]).ok();
    assert_eq!(ask(&asker, "second", A).records, [hosts.ip("second", "net")]);
}

#[test]
fn whom_it_asks_and_from_where() {
    let hosts = Hosts::start();
    let (near, far) = (name_server(&hosts.near), name_server(&hosts.far));
    hosts.network("net", &["--subnet", "10.59.0.0/24"]);
    hosts.network("in", &["--internal", "--subnet", "10.60.0.0/24"]);
    let flags =
        "--network net --dns 198.51.100.2 --dns-search a.test --dns-search b.test --dns-option ndots:2";
    let place = hosts.run("asker", &flags.split(' ').collect::<Vec<_>>());
    let captured = place.capture();
    assert_eq!(ask(&place, "host.test", A).records, ["203.0.113.77"]);
    assert_eq!(asked(&near), [("198.51.100.1".parse().unwrap(), "host.test.".to_owned())]);
    // The question leaves from the container itself, so that its network's rules hold for it.
    let (from, to): (IpAddr, IpAddr) =
        (hosts.ip("asker", "net").parse().unwrap(), "198.51.100.2".parse().unwrap());
    assert!(captured.packets().iter().any(|p| (p.from, p.to, p.to_port) == (from, to, 53)));
    assert_eq!(ask(&place, "nothing.test", A).code, NO_SUCH_NAME);
    asked(&near);
    // With fewer dots than ndots the search list comes first.
    let output = hosts.daemon.docker(["exec", "asker", "ping", "-c1", "-W1", "host"]);
    assert!(output.stdout.contains("(203.0.113.77)"), "{}{}", output.stdout, output.stderr);
    let names: Vec<String> = asked(&near).into_iter().map(|(_, name)| name).collect();
    assert!(names.contains(&"host.a.test.".to_owned()) && !names.contains(&"host.".to_owned()), "{names:?}");
    hosts.daemon.docker(["exec", "asker", "ping", "-c1", "-W1", "host.x.y"]);
    let names: Vec<String> = asked(&near).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names.first().map(String::as_str), Some("host.x.y."), "{names:?}");
    // The daemon's servers, unless the container has its own; the second where the first does not answer.
    let second = hosts.run("second", &["--network", "net", "--dns", "203.0.113.9", "--dns", "192.0.2.2"]);
    hosts.host().does("ip route add unreachable 203.0.113.9");
    assert_eq!(ask(&second, "host.test", A).records, ["203.0.113.77"]);
    assert_eq!(asked(&far), [("192.0.2.1".parse().unwrap(), "host.test.".to_owned())]);
    assert_eq!(asked(&near), []);
    // From internal networks no question gets out, known names are answered all the same.
    let inner = hosts.run("inner", &["--network", "in", "--dns", "198.51.100.2"]);
    hosts.run("known", &["--network", "in"]);
    assert_ne!(ask(&inner, "host.test", A).records, ["203.0.113.77"]);
    assert_eq!(ask(&inner, "known", A).records, [hosts.ip("known", "in")]);
    assert_eq!(asked(&near), []);
    // In both networks it may ask again.
    hosts.daemon.docker(["network", "connect", "net", "inner"]).ok();
    assert_eq!(ask(&inner, "host.test", A).records, ["203.0.113.77"]);
}

/// A server on the host's loopback is asked from there; the daemon's `--dns` is everybody's.
#[test]
fn servers_of_the_daemon_and_of_the_hosts_loopback() {
    let hosts = Hosts::start_with(&["--dns", "127.0.0.53"]);
    hosts.network("net", &[]);
    let asked_there = {
        let asked = Asked::default();
        let socket = hosts.host().run(|| UdpSocket::bind("127.0.0.53:53")).unwrap();
        let list = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                list.lock().unwrap().push((from.ip(), read_name(&buffer[..length], 12).0));
                (buffer[2], buffer[3]) = (0x81, 0x80 | NO_SUCH_NAME);
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        asked
    };
    let place = hosts.run("asker", &["--network", "net"]);
    assert_eq!(ask(&place, "some.test", A).code, NO_SUCH_NAME);
    assert_eq!(asked(&asked_there), [("127.0.0.1".parse().unwrap(), "some.test.".to_owned())]);
}

/// The shims keep the sockets: what is asked while no daemon runs waits for the next one.
#[test]
fn questions_wait_while_the_daemon_is_dead() {
    let mut hosts = Hosts::start();
    hosts.network("net", &[]);
    let at_once = hosts.run("at-once", &["--network", "net"]);
    let connected = hosts.run("connected", &[]);
    hosts.daemon.docker(["network", "connect", "net", "connected"]).ok();
    let want = [hosts.ip("at-once", "net")];
    // The second time they are the sockets that a daemon took up.
    for _ in 0..2 {
        hosts.daemon.kill();
        let question = question("at-once", A, false);
        let mut asked = Vec::new();
        for place in [&at_once, &connected] {
            let (datagram, mut stream) = place.run(|| {
                let datagram = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                datagram.connect("127.0.0.11:53").expect("connected");
                (datagram, TcpStream::connect("127.0.0.11:53").expect("the kernel accepts"))
            });
            datagram.send(&question).expect("nobody refuses it");
            let length = u16::try_from(question.len()).expect("a short question").to_be_bytes();
            stream.write_all(&[&length[..], &question].concat()).expect("nobody refuses it");
            asked.push((datagram, stream));
        }
        hosts.daemon.restart();
        for (datagram, mut stream) in asked {
            let mut buffer = [0; 4096];
            datagram.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            let length = datagram.recv(&mut buffer).expect("an answer");
            assert_eq!(read_answer(&buffer[..length]).records, want);
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            stream.read_exact(&mut buffer[..2]).expect("an answer");
            let length = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
            stream.read_exact(&mut buffer[..length]).expect("an answer");
            assert_eq!(read_answer(&buffer[..length]).records, want);
        }
        assert_eq!(ask(&connected, "at-once", A).records, want);
    }
}
