//! Ports of the host for the daemon of an ordinary user: the daemon's own network namespace is not the host's, and
//! slirp4netns carries the connections in between.
//!
//! Its protocol: one JSON request on a connection, one JSON answer.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_net::{PortRecord, PortSpec, Protocol};
use serde_json::{Value, json};

use crate::error::{Error, Result, internal};

/// Beside the socket: the host's `net.ipv4.ip_unprivileged_port_start`. In here one reads that of the own namespace.
pub const FIRST_PORT: &str = "first-port";

const PATIENCE: Duration = Duration::from_secs(10);

/// Where slirp4netns listens.
#[derive(Debug)]
pub(crate) struct Forwarder<'a> {
    socket: &'a Path,
}

impl<'a> Forwarder<'a> {
    pub(crate) fn of(socket: Option<&'a PathBuf>) -> Option<Self> {
        socket.map(|socket| Self { socket })
    }

    fn ask(&self, request: &Value) -> Result<Value> {
        let failed = |e: std::io::Error| Error::io("ask slirp4netns", e);
        let mut stream = UnixStream::connect(self.socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.write_all(request.to_string().as_bytes()).map_err(failed)?;
        stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
        let mut text = String::new();
        stream.take(1 << 20).read_to_string(&mut text).map_err(failed)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        match answer["error"]["desc"].as_str() {
            Some(why) => Err(internal(why)),
            // Some answers are wrapped, some are not.
            None if answer["return"].is_object() => Ok(answer["return"].clone()),
            None => Ok(answer),
        }
    }

    /// Opens the ports of an endpoint on the host; `wanted` says at which addresses.
    pub(crate) fn open(&self, ports: &[PortRecord], wanted: &[PortSpec]) -> Result<()> {
        for (at, port) in ports.iter().enumerate().filter(|(_, p)| p.host_ip.is_ipv4()) {
            if let Err(error) = self.open_one(port, address(port, wanted)?) {
                self.close(&ports[..at]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The first port that an ordinary user of the host may take, as the outside noted it.
    fn first_port(&self) -> u16 {
        let noted = std::fs::read_to_string(self.socket.with_file_name(FIRST_PORT));
        noted.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn open_one(&self, port: &PortRecord, host: Ipv4Addr) -> Result<()> {
        let proto = name(port.protocol)?;
        let first = self.first_port();
        if port.host_port < first {
            return Err(internal(format!(
                "driver failed programming external connectivity: cannot expose privileged port {number}, you can \
                 add 'net.ipv4.ip_unprivileged_port_start={number}' to /etc/sysctl.conf (currently {first}), or \
                 choose a larger port number (>= {first}): listen {proto} {host}:{number}: bind: permission denied",
                number = port.host_port,
            )));
        }
        let arguments = json!({
            "proto": proto, "host_addr": host.to_string(), "host_port": port.host_port, "guest_port": port.host_port,
        });
        self.ask(&json!({"execute": "add_hostfwd", "arguments": arguments})).map_err(|e| {
            internal(format!(
                "driver failed programming external connectivity: failed to bind host port {host}:{}/{proto}: {} \
                 (is it taken?)",
                port.host_port,
                e.chain()
            ))
        })?;
        Ok(())
    }

    /// Closes them. Best effort: they end with the daemon at the latest.
    pub(crate) fn close(&self, ports: &[PortRecord]) {
        let Ok(list) = self.ask(&json!({"execute": "list_hostfwd"})) else { return };
        for entry in list["entries"].as_array().into_iter().flatten() {
            let is_one = |p: &PortRecord| {
                name(p.protocol).is_ok_and(|n| entry["proto"] == n) && entry["host_port"] == p.host_port
            };
            if ports.iter().any(is_one)
                && let Err(error) =
                    self.ask(&json!({"execute": "remove_hostfwd", "arguments": {"id": entry["id"]}}))
            {
                tracing::warn!(error = error.chain(), "a port of the host stays open");
            }
        }
    }
}

fn name(protocol: Protocol) -> Result<&'static str> {
    match protocol {
        Protocol::Tcp => Ok("tcp"),
        Protocol::Udp => Ok("udp"),
        Protocol::Sctp => Err(internal("sctp ports cannot be published by a rootless daemon")),
    }
}

/// Where a port is to be opened: inside, all are on all addresses.
fn address(port: &PortRecord, wanted: &[PortSpec]) -> Result<Ipv4Addr> {
    let fits = |s: &&PortSpec| {
        (s.container_port, s.protocol) == (port.container_port, port.protocol)
            && (s.host_ports == (0, 0) || (s.host_ports.0..=s.host_ports.1).contains(&port.host_port))
    };
    match wanted.iter().find(fits).and_then(|s| s.host_ip) {
        None => Ok(Ipv4Addr::UNSPECIFIED),
        Some(IpAddr::V4(ip)) => Ok(ip),
        Some(IpAddr::V6(ip)) => {
            Err(internal(format!("ports cannot be published at {ip} by a rootless daemon: only IPv4 is")))
        }
    }
}
