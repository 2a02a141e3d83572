//! Ports of containers: `80/tcp` as a key, and where they are published.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de};

/// `80/tcp`, the key of exposed ports and port bindings. The number is checked, the protocol is the engine's to judge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Port(String);

/// Not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// The text is not a number.
    #[error("invalid port '{0}': invalid syntax")]
    Syntax(String),
    /// The number is above 65535.
    #[error("invalid port '{0}': value out of range")]
    Range(String),
}

impl Port {
    /// A port from its parts.
    #[must_use]
    pub fn new(number: u16, protocol: &str) -> Self {
        Self(format!("{number}/{protocol}"))
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.0.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// `tcp`, `udp`, `sctp`, or whatever the user wrote.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.0.split_once('/').map_or("tcp", |(_, p)| p)
    }

    /// `80/tcp`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidPort::Syntax(number.to_owned()));
        }
        let value: u16 = number.parse().map_err(|_| InvalidPort::Range(number.to_owned()))?;
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        Ok(Self(format!("{value}/{}", protocol.to_ascii_lowercase())))
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a port is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortBinding {
    /// Address of the host; empty for all.
    pub host_ip: String,
    /// Number, range `8000-8010`, or empty for any free one.
    pub host_port: String,
}

/// A port in `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortSummary {
    /// Address of the host.
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Number in the container.
    pub private_port: u16,
    /// Number on the host.
    #[serde(skip_serializing_if = "super::is_default")]
    pub public_port: u16,
    /// `tcp`, `udp`, `sctp`.
    #[serde(rename = "Type")]
    pub kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (text, want) in [("80", "80/tcp"), ("80/UDP", "80/udp"), ("53/", "53/tcp"), ("80/foo", "80/foo")]
        {
            assert_eq!(text.parse::<Port>().unwrap().as_str(), want);
        }
        assert_eq!(
            "99999/tcp".parse::<Port>().unwrap_err().to_string(),
            "invalid port '99999': value out of range"
        );
        assert_eq!("x/tcp".parse::<Port>().unwrap_err().to_string(), "invalid port 'x': invalid syntax");
    }
}
