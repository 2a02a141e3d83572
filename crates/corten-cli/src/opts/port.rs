//! `-p` and `--expose`: `[[ip:][hostPort[-range]]:]containerPort[-range][/protocol]`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Exposed ports and their bindings, keyed `80/tcp`.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    exposed: Map<String, Value>,
    bindings: BTreeMap<String, Vec<Value>>,
}

impl Ports {
    /// The API's `ExposedPorts`; null where there are none.
    pub(crate) fn exposed(&self) -> Value {
        if self.exposed.is_empty() { Value::Null } else { Value::Object(self.exposed.clone()) }
    }

    /// The API's `PortBindings`.
    pub(crate) fn bindings(&self) -> Value {
        json!(self.bindings)
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    match text.split_once('-') {
        None => text.parse().ok().map(|p| (p, p)),
        Some((a, b)) => {
            let (a, b) = (a.parse().ok()?, b.parse().ok()?);
            (a <= b).then_some((a, b))
        }
    }
}

/// Adds one `-p`.
pub(crate) fn publish(ports: &mut Ports, spec: &str) -> Result<(), String> {
    let spec = &long_form(spec)?;
    let (rest, protocol) = spec.rsplit_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_lowercase();
    let (head, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (ip, host) = match head.rsplit_once(':') {
        Some((ip, host)) => (ip, host),
        None => ("", head),
    };
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let ip = match ip.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(|| format!("invalid IP address: {ip}"))?,
        None => ip,
    };
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        _ => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    if let Some((a, b)) = hosts
        && b - a != last - first
        && first != last
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    for port in first..=last {
        let host_port = match hosts {
            None => String::new(),
            Some((a, b)) if first == last && a != b => format!("{a}-{b}"),
            Some((a, _)) => (a + (port - first)).to_string(),
        };
        let key = format!("{port}/{protocol}");
        ports.exposed.insert(key.clone(), json!({}));
        ports.bindings.entry(key).or_default().push(json!({"HostIp": ip, "HostPort": host_port}));
    }
    Ok(())
}

/// `-p target=80,published=8080,protocol=udp` in the short form.
fn long_form(spec: &str) -> Result<String, String> {
    if !spec.contains('=') {
        return Ok(spec.to_owned());
    }
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for field in spec.split(',') {
        match field.split_once('=') {
            Some(("target", v)) => target = v,
            Some(("published", v)) => published = v,
            Some(("protocol", v)) => protocol = v,
            Some(("mode", "ingress" | "host")) => {}
            Some((key, _)) => return Err(format!("invalid field key {key}")),
            None => return Err(format!("invalid field {field}")),
        }
    }
    Ok(if published.is_empty() {
        format!("{target}/{protocol}")
    } else {
        format!("{published}:{target}/{protocol}")
    })
}

/// Adds one `--expose`.
pub(crate) fn expose(ports: &mut Ports, spec: &str) -> Result<(), String> {
    if spec.contains(':') {
        return Err(format!("invalid port format for --expose: {spec}"));
    }
    let (numbers, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let bad = || {
        let part = numbers.split('-').find(|p| p.parse::<u16>().is_err()).unwrap_or(numbers);
        format!(
            "invalid range format for --expose: {spec}, error: strconv.ParseUint: parsing {part:?}: invalid syntax"
        )
    };
    let (first, last) = range(numbers).ok_or_else(bad)?;
    for port in first..=last {
        ports.exposed.insert(format!("{port}/{protocol}"), json!({}));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, want: &str) {
        let mut ports = Ports::default();
        let got = publish(&mut ports, spec).map(|()| {
            let one = |(k, v): (&String, &Vec<Value>)| {
                let b = v.iter().map(|b| {
                    format!("{}:{}", b["HostIp"].as_str().unwrap(), b["HostPort"].as_str().unwrap())
                });
                format!("{k}={}", b.collect::<Vec<_>>().join(","))
            };
            ports.bindings.iter().map(one).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(got.unwrap_or_else(|e| e), want, "{spec}");
    }

    #[test]
    fn published() {
        check("80", "80/tcp=:");
        check("8080:80", "80/tcp=:8080");
        check("127.0.0.1:8080:80/udp", "80/udp=127.0.0.1:8080");
        check("127.0.0.1::80", "80/tcp=127.0.0.1:");
        check("[::1]:80:81", "81/tcp=::1:80");
        check("8000-8001:80-81", "80/tcp=:8000 81/tcp=:8001");
        check("8000-8010:80", "80/tcp=:8000-8010");
        check("x", "invalid containerPort: x");
        check("x:80", "invalid hostPort: x");
        check("1.2.3:80:80", "invalid IP address: 1.2.3");
        check("80/foo", "invalid proto: foo");
        check(
            "8000-8002:80-81",
            "invalid ranges specified for container and host Ports: 80-81 and 8000-8002",
        );
    }
}
