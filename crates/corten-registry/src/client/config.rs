//! The daemon's settings that concern registries. Nothing here reads the environment.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::RegistryError;

/// Settings of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Hosts that may be talked to without verified TLS.
    pub insecure: InsecureRegistries,
    /// Base addresses (`https://mirror.example.test`) tried before the default registry.
    pub mirrors: Vec<String>,
    /// Directory with `<host[:port]>/{*.crt,client.cert,client.key}`.
    pub certs_dir: PathBuf,
    /// Proxies.
    pub proxy: ProxyConfig,
    /// `User-Agent` header.
    pub user_agent: String,
    /// For each address of a host.
    pub connect_timeout: Duration,
    /// Until the headers of an answer, and between two parts of a body.
    pub idle_timeout: Duration,
    /// How often a request is sent at most.
    pub attempts: u32,
    /// Largest body of one `PATCH`; `None` sends each blob in one.
    pub chunk_bytes: Option<u64>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            insecure: InsecureRegistries::default(),
            mirrors: Vec::new(),
            certs_dir: "/etc/docker/certs.d".into(),
            proxy: ProxyConfig::default(),
            user_agent: format!("corten/{}", env!("CARGO_PKG_VERSION")),
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            attempts: 5,
            chunk_bytes: None,
        }
    }
}

/// `--insecure-registry`: hosts and networks. The loopback network is always part of it.
#[derive(Debug, Clone, Default)]
pub struct InsecureRegistries {
    hosts: Vec<String>,
    nets: Vec<IpNet>,
}

impl InsecureRegistries {
    /// Reads the values of the flag: `host`, `host:port`, `http://host` or a CIDR.
    ///
    /// # Errors
    /// [`RegistryError::Config`] in Docker's words.
    pub fn parse<S: AsRef<str>>(values: &[S]) -> Result<Self, RegistryError> {
        let mut out = Self::default();
        for value in values {
            let value = value.as_ref();
            let host =
                value.strip_prefix("https://").or_else(|| value.strip_prefix("http://")).unwrap_or(value);
            if let Ok(net) = host.parse::<IpNet>() {
                out.nets.push(net);
            } else if host.contains("://") {
                return Err(RegistryError::Config {
                    what: format!("insecure registry {value} should not contain '://'"),
                });
            } else if host.is_empty() || host.starts_with('-') || host.contains('/') || host.contains(' ') {
                return Err(RegistryError::Config {
                    what: format!("insecure registry {value} is not valid: invalid host \"{host}\""),
                });
            } else {
                out.hosts.push(host.to_ascii_lowercase());
            }
        }
        Ok(out)
    }

    /// The networks, the implied one included, as `GET /info` lists them.
    #[must_use]
    pub fn networks(&self) -> Vec<String> {
        let mut all = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
        all.extend(self.nets.iter().map(ToString::to_string));
        all
    }

    /// The hosts, as `GET /info` lists them.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Whether `authority` (`host[:port]`) may be insecure. `addresses` are those the host resolves to.
    #[must_use]
    pub fn covers(&self, authority: &str, addresses: &[IpAddr]) -> bool {
        let authority = authority.to_ascii_lowercase();
        let (host, _) = split_port(&authority);
        if host == "localhost" || self.hosts.iter().any(|h| *h == authority || h == host) {
            return true;
        }
        let literal = host.parse::<IpAddr>().ok();
        let in_net = |ip: &IpAddr| ip.is_loopback() || self.nets.iter().any(|n| n.contains(ip));
        match literal {
            Some(ip) => in_net(&ip),
            // COMPAT: docker resolves the name for the listed networks; loopback by name is trusted too.
            None => addresses.iter().any(in_net),
        }
    }
}

/// Splits `host:port`, `[v6]:port`; brackets are removed.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, tail) = rest.split_once(']').unwrap_or((rest, ""));
        return (host, tail.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Values of `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` as the daemon read them. Empty means none.
#[derive(Debug, Clone, Default)]
pub struct ProxyConfig {
    /// For `http://` addresses.
    pub http: String,
    /// For `https://` addresses.
    pub https: String,
    /// Hosts, domains (`.example.test`), addresses and networks to reach directly; `*` for all.
    pub no_proxy: String,
}

impl ProxyConfig {
    /// The proxy to use for this host, if any. Loopback is never proxied, as in Go.
    #[must_use]
    pub fn for_host(&self, tls: bool, host: &str, port: u16) -> Option<&str> {
        let proxy = if tls { self.https.as_str() } else { self.http.as_str() };
        let ip = host.parse::<IpAddr>().ok();
        if proxy.is_empty() || host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return None;
        }
        for rule in self.no_proxy.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            if rule == "*" {
                return None;
            }
            if let (Some(ip), Ok(net)) = (ip, rule.parse::<IpNet>()) {
                if net.contains(&ip) {
                    return None;
                }
                continue;
            }
            let (rule_host, rule_port) = split_port(rule);
            if rule_port.is_some_and(|p| p != port) {
                continue;
            }
            let (domain, only_below) =
                match rule_host.strip_prefix("*.").or_else(|| rule_host.strip_prefix('.')) {
                    Some(domain) => (domain, true),
                    None => (rule_host, false),
                };
            let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
            let below = host.strip_suffix(&domain).is_some_and(|h| h.ends_with('.'));
            if below || (!only_below && host == domain) {
                return None;
            }
        }
        Some(proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_lists() {
        let list = InsecureRegistries::parse(&["10.0.0.0/8", "reg.test:5000", "http://plain.test"]).unwrap();
        for (authority, want) in [
            ("127.0.0.1:5000", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("10.1.2.3:80", true),
            ("11.1.2.3", false),
            ("reg.test:5000", true),
            ("reg.test", false),
            ("plain.test:1234", true),
        ] {
            assert_eq!(list.covers(authority, &[]), want, "{authority}");
        }
        assert!(list.covers("name.test", &["10.9.9.9".parse().unwrap()]));
        assert!(InsecureRegistries::parse(&["ftp://x"]).is_err());
    }

    #[test]
    fn proxies() {
        let p = ProxyConfig {
            http: "http://p:1".into(),
            https: "http://p:2".into(),
            no_proxy: "a.test, .b.test,10.0.0.0/8,c.test:99".into(),
        };
        for (host, port, want) in [
            ("x.test", 80, Some("http://p:1")),
            ("a.test", 80, None),
            ("sub.a.test", 80, None),
            ("b.test", 80, Some("http://p:1")),
            ("x.b.test", 80, None),
            ("10.2.3.4", 80, None),
            ("c.test", 99, None),
            ("c.test", 98, Some("http://p:1")),
            ("127.0.0.1", 80, None),
        ] {
            assert_eq!(p.for_host(false, host, port), want, "{host}:{port}");
        }
    }
}
