//! `--link` on the default bridge: names in `/etc/hosts` and variables in the environment. Pure text; on user networks
//! links are names of the embedded name server instead.

use std::collections::BTreeMap;
use std::net::IpAddr;

use corten_base::Id;
use corten_wire::api::port::Port;
use serde::{Deserialize, Serialize};

/// A link of a container as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The other container.
    pub container: Id,
    /// What it is called here.
    pub alias: String,
}

/// `NAME`, `NAME:ALIAS`, or as inspect shows it: `/NAME:/OWN/ALIAS`. The other container's name, and the alias.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    if text.is_empty() {
        return Err("empty string specified for links".into());
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (name, alias) = match parts.as_slice() {
        [name] => (*name, *name),
        [name, alias] => (*name, *alias),
        _ => return Err(format!("bad format for links: {text}")),
    };
    let alias = alias.rsplit('/').next().unwrap_or_default();
    let name = name.trim_start_matches('/');
    if name.is_empty() || alias.is_empty() {
        return Err(format!("bad format for links: {text}"));
    }
    Ok((name.to_owned(), alias.to_owned()))
}

/// A linked container that runs.
#[derive(Debug, Clone)]
pub(crate) struct Linked<'a> {
    pub(crate) alias: &'a str,
    pub(crate) name: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) address: IpAddr,
    pub(crate) ports: Vec<&'a Port>,
    pub(crate) env: &'a [String],
}

impl Linked<'_> {
    /// The names of its line in `/etc/hosts`: alias, host name, and its own name if that is another one.
    pub(crate) fn host_names(&self) -> String {
        let own = if self.name == self.alias { String::new() } else { format!(" {}", self.name) };
        format!("{} {}{own}", self.alias, self.hostname)
    }

    /// The variables, for a container of the name `owner`.
    pub(crate) fn variables(&self, owner: &str) -> Vec<String> {
        let prefix = self.alias.to_uppercase().replace('-', "_");
        let ip = self.address;
        let mut env = Vec::new();
        // By number, TCP first; the lowest is the default.
        let mut ports: Vec<(u16, &str)> = self.ports.iter().map(|p| (p.number(), p.protocol())).collect();
        ports.sort_by_key(|(number, protocol)| (*protocol != "tcp", *number));
        if let Some((number, protocol)) = ports.first() {
            env.push(format!("{prefix}_PORT={protocol}://{ip}:{number}"));
        }
        let mut runs: BTreeMap<(&str, u16), u16> = BTreeMap::new();
        for (number, protocol) in &ports {
            match runs.iter_mut().find(|((p, _), last)| p == protocol && last.checked_add(1) == Some(*number))
            {
                Some((_, last)) => *last = *number,
                None => {
                    runs.insert((protocol, *number), *number);
                }
            }
        }
        for ((protocol, first), last) in runs.iter().filter(|((_, first), last)| first != *last) {
            let key = format!("{prefix}_PORT_{first}_{}", protocol.to_uppercase());
            env.push(format!("{key}_START={protocol}://{ip}:{first}"));
            env.push(format!("{key}_ADDR={ip}"));
            env.push(format!("{key}_PROTO={protocol}"));
            env.push(format!("{key}_PORT_START={first}"));
            env.push(format!("{key}_END={protocol}://{ip}:{last}"));
            env.push(format!("{key}_PORT_END={last}"));
        }
        for (number, protocol) in &ports {
            let key = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
            env.push(format!("{key}={protocol}://{ip}:{number}"));
            env.push(format!("{key}_ADDR={ip}"));
            env.push(format!("{key}_PORT={number}"));
            env.push(format!("{key}_PROTO={protocol}"));
        }
        env.push(format!("{prefix}_NAME=/{owner}/{}", self.alias));
        for entry in self.env {
            match entry.split_once('=') {
                None | Some(("HOME" | "PATH", _)) => {}
                Some((name, value)) => env.push(format!("{prefix}_ENV_{name}={value}")),
            }
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, want) in [
            ("db", Ok(("db", "db"))),
            ("db:store", Ok(("db", "store"))),
            ("/db:/web/store", Ok(("db", "store"))),
            ("", Err("empty string specified for links")),
            ("a:b:c", Err("bad format for links: a:b:c")),
            ("a:", Err("bad format for links: a:")),
        ] {
            let want = want.map(|(a, b): (&str, &str)| (a.to_owned(), b.to_owned())).map_err(str::to_owned);
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn what_the_linking_container_sees() {
        let ports: Vec<Port> =
            ["5433/tcp", "5432/tcp", "53/udp"].iter().map(|p| p.parse().unwrap()).collect();
        let linked = Linked {
            alias: "my-db",
            name: "db",
            hostname: "0123456789ab",
            address: "172.17.0.5".parse().unwrap(),
            ports: ports.iter().collect(),
            env: &["PATH=/bin".into(), "PASS=a=b".into(), "UNSET".into()],
        };
        assert_eq!(linked.host_names(), "my-db 0123456789ab db");
        let env = linked.variables("web");
        assert_eq!(env[0], "MY_DB_PORT=tcp://172.17.0.5:5432");
        for want in [
            "MY_DB_PORT_5432_TCP_START=tcp://172.17.0.5:5432",
            "MY_DB_PORT_5432_TCP_END=tcp://172.17.0.5:5433",
            "MY_DB_PORT_5433_TCP_PORT=5433",
            "MY_DB_PORT_53_UDP=udp://172.17.0.5:53",
            "MY_DB_PORT_53_UDP_ADDR=172.17.0.5",
            "MY_DB_NAME=/web/my-db",
            "MY_DB_ENV_PASS=a=b",
        ] {
            assert!(env.iter().any(|e| e == want), "{want} in {env:?}");
        }
        assert!(!env.iter().any(|e| e.contains("PATH") || e.contains("UNSET")));
    }
}
