//! Tests of `relay`: between ::1 and 127.0.0.1 of the machine they run on.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::*;

/// A port of ::1 that is carried to `target`; `None` on a machine without IPv6.
fn carried(relay: &Relay, protocol: Protocol, target: SocketAddr) -> Option<SocketAddr> {
    let (socket, address): (OwnedFd, _) = match protocol {
        Protocol::Udp => {
            let socket = UdpSocket::bind("[::1]:0").ok()?;
            socket.set_nonblocking(true).unwrap();
            let address = socket.local_addr().unwrap();
            (socket.into(), address)
        }
        _ => {
            let socket = TcpListener::bind("[::1]:0").ok()?;
            socket.set_nonblocking(true).unwrap();
            let address = socket.local_addr().unwrap();
            (socket.into(), address)
        }
    };
    let port = (protocol, address.port(), IpAddr::V6(Ipv6Addr::LOCALHOST));
    relay.open(vec![Line { port, socket: Arc::new(socket), target }]).unwrap();
    Some(address)
}

#[test]
fn streams_go_both_ways_and_end_one_by_one() {
    let relay = Relay::default();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(address) = carried(&relay, Protocol::Tcp, server.local_addr().unwrap()) else { return };
    let echo = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = Vec::new();
            // The end of what the client says is seen while the other direction is open.
            stream.read_to_end(&mut text).unwrap();
            stream.write_all(&text).unwrap();
        }
    });
    for size in [5, 9_000_000] {
        let sent: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[(n % 3) as usize]).collect();
        let mut client = TcpStream::connect(address).unwrap();
        let mut writer = client.try_clone().unwrap();
        let words = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&words).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == sent, "{size} bytes");
    }
    echo.join().unwrap();
}

#[test]
fn a_container_that_refuses_resets_and_a_closed_port_ends_its_connections() {
    let relay = Relay::default();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap();
    let Some(address) = carried(&relay, Protocol::Tcp, target) else { return };
    let mut client = TcpStream::connect(address).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    client.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    drop(server);
    let mut late = TcpStream::connect(address).unwrap();
    assert!(late.read(&mut [0]).is_err(), "reset, not ended");
    relay.close(vec![(Protocol::Tcp, address.port(), address.ip())]);
    // Both sides see an end.
    assert_eq!(accepted.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn datagrams_find_their_way_back() {
    let relay = Relay::default();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let Some(address) = carried(&relay, Protocol::Udp, server.local_addr().unwrap()) else { return };
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..4 {
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..length], from).unwrap();
        }
    });
    let clients: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("[::1]:0").unwrap()).collect();
    for round in 0..2 {
        for (n, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client.send_to(format!("{round} {n}").as_bytes(), address).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let mut buffer = [0; 64];
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (format!("{round} {n}").as_bytes(), address));
        }
    }
    echo.join().unwrap();
}
