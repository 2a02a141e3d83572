//! The embedded name server, asked from inside.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use corten_net::Upstream;
use corten_sys::netns;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, QCLASS, Question, RCODE, ResourceRecord, TYPE};

use crate::world::*;

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(99);
    packet.questions.push(Question::new(
        Name::new(name).unwrap(),
        kind.into(),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().unwrap()
}

fn show(reply: &[u8]) -> String {
    let packet = Packet::parse(reply).unwrap();
    let text = |r: &ResourceRecord<'_>| match &r.rdata {
        RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
        RData::PTR(p) => p.0.to_string(),
        other => format!("{other:?}"),
    };
    match packet.rcode() {
        RCODE::NoError => packet.answers.iter().map(text).collect::<Vec<_>>().join(","),
        other => format!("{other:?}"),
    }
}

fn udp(ns: &OwnedFd, name: &str, kind: TYPE) -> String {
    let message = query(name, kind);
    let talk = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(9)))?;
        socket.connect("127.0.0.11:53")?;
        socket.send(&message)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(show(&buffer[..length]))
    };
    netns::run_in(ns.as_fd(), talk).unwrap_or_else(|e| e.to_string())
}

fn tcp(ns: &OwnedFd, name: &str) -> String {
    let message = query(name, TYPE::A);
    let talk = || {
        let mut stream = TcpStream::connect("127.0.0.11:53")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&(message.len() as u16).to_be_bytes())?;
        stream.write_all(&message)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply)?;
        Ok(show(&reply))
    };
    netns::run_in(ns.as_fd(), talk).unwrap_or_else(|e| e.to_string())
}

/// A name server that says 192.0.2.<tail> to everything, over UDP and TCP.
fn upstream(ns: Option<&OwnedFd>, address: &'static str, tail: u8) {
    let answer = move |message: &[u8]| {
        let query = Packet::parse(message).unwrap();
        let mut reply = Packet::new_reply(query.id());
        let question = query.questions[0].clone();
        let data = RData::A(A { address: u32::from_be_bytes([192, 0, 2, tail]) });
        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 1, data));
        reply.questions.push(question);
        reply.build_bytes_vec().unwrap()
    };
    let open = || Ok((UdpSocket::bind(address)?, std::net::TcpListener::bind(address)?));
    let (socket, listener) = match ns {
        Some(ns) => netns::run_in(ns.as_fd(), open).unwrap(),
        None => open().unwrap(),
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&answer(&buffer[..length]), from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut message).unwrap();
            let reply = answer(&message);
            stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
}

#[test]
fn names_forwarding_and_refusals() {
    isolated("dns::names_forwarding_and_refusals", || {
        let out = outside();
        upstream(Some(&out), "198.51.100.2:53", 1);
        upstream(None, "127.0.0.53:53", 2);
        let (net, _) = open();
        let one = net.create_network(network("one")).unwrap();
        let dead = Upstream { address: "198.51.100.2:5".parse().unwrap(), from_host: false };
        let beyond = Upstream { address: "198.51.100.2:53".parse().unwrap(), from_host: false };
        let stub = Upstream { address: "127.0.0.53:53".parse().unwrap(), from_host: true };
        let a = container_asking(&net, &one, "a", vec![dead, beyond], |e| e.dns_names.push("web".into()));
        let b = container_asking(&net, &one, "b", vec![stub], |e| e.dns_names.push("web".into()));
        println!("{}", sh_in(&a.ns, "nft list ruleset"));
        assert_eq!(udp(&a.ns, "b", TYPE::A), "172.18.0.3");
        assert_eq!(udp(&a.ns, "a", TYPE::A), "172.18.0.2");
        assert_eq!(udp(&a.ns, "B.one", TYPE::A), "172.18.0.3");
        assert_eq!(udp(&a.ns, b.id.short(), TYPE::A), "172.18.0.3");
        assert_eq!(udp(&a.ns, "b", TYPE::AAAA), "");
        assert_eq!(udp(&a.ns, "3.0.18.172.in-addr.arpa", TYPE::PTR), "b.one");
        assert_eq!(udp(&a.ns, "web", TYPE::A).len(), "172.18.0.2,172.18.0.3".len());
        assert_eq!(tcp(&a.ns, "b"), "172.18.0.3");
        // The first upstream refuses, the second answers; over UDP and TCP; from the sandbox and from the host.
        assert_eq!(udp(&a.ns, "example.org", TYPE::A), "192.0.2.1");
        assert_eq!(tcp(&a.ns, "example.org"), "192.0.2.1");
        assert_eq!(udp(&b.ns, "example.org", TYPE::A), "192.0.2.2");
        assert_eq!(tcp(&b.ns, "example.org"), "192.0.2.2");
        // Port 53 stays free for the container itself.
        netns::run_in(a.ns.as_fd(), || UdpSocket::bind("0.0.0.0:53")).unwrap();
        // CVE-2024-29018
        let inner =
            net.create_network(corten_net::NetworkSpec { internal: true, ..network("inner") }).unwrap();
        let i = container_asking(&net, &inner, "i", vec![stub, beyond], |_| {});
        assert_eq!(udp(&i.ns, "secret.example.org", TYPE::A), "ServerFailure");
        assert_eq!(udp(&i.ns, "i", TYPE::A), "172.19.0.2");
        net.rename_endpoint(&b.endpoints[0].id, "c", &["c".into()]);
        assert_eq!(udp(&a.ns, "c", TYPE::A), "172.18.0.3");
        net.detach(&b.endpoints[0]).unwrap();
        assert_eq!(udp(&a.ns, "c", TYPE::A), "192.0.2.1");
        net.ensure_no_sandbox(&a.id).unwrap();
    });
}
