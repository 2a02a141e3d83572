//! `--network name` and `--network name=…,alias=…,ip=…`.

use serde_json::{Map, Value, json};

use super::csv;

/// A network to attach to: its name and the API's `EndpointSettings`, null where nothing was set.
pub(crate) fn network(text: &str) -> Result<(String, Map<String, Value>), String> {
    let mut settings = Map::new();
    if !text.contains('=') {
        return Ok((text.to_owned(), settings));
    }
    let mut name = String::new();
    let (mut aliases, mut link_local, mut driver_opts) =
        (Vec::<String>::new(), Vec::<String>::new(), Map::new());
    for field in csv(text)? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        let (key, value) = (key.trim().to_lowercase(), value.trim());
        let ip = || match value.parse::<std::net::IpAddr>() {
            Ok(ip) => Ok(ip.to_string()),
            Err(_) => Err(format!("invalid IP address: {value}")),
        };
        let mut ipam = |key: &str, ip: String| {
            settings.entry("IPAMConfig").or_insert_with(|| json!({}))[key] = ip.into()
        };
        match key.as_str() {
            "name" => name = value.to_owned(),
            "alias" => aliases.push(value.to_owned()),
            "ip" => ipam("IPv4Address", ip()?),
            "ip6" => ipam("IPv6Address", ip()?),
            "link-local-ip" => link_local.push(ip()?),
            "mac-address" => drop(settings.insert("MacAddress".into(), value.into())),
            "gw-priority" => {
                let priority = value.parse::<i64>().map_err(|_| format!("invalid gw-priority: {value}"))?;
                settings.insert("GwPriority".into(), priority.into());
            }
            "driver-opt" => {
                let (k, v) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                driver_opts.insert(k.trim().to_lowercase(), v.trim().into());
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if !aliases.is_empty() {
        settings.insert("Aliases".into(), json!(aliases));
    }
    if !driver_opts.is_empty() {
        settings.insert("DriverOpts".into(), Value::Object(driver_opts));
    }
    if !link_local.is_empty() {
        settings.entry("IPAMConfig").or_insert_with(|| json!({}))["LinkLocalIPs"] = json!(link_local);
    }
    if name.is_empty() {
        return Err("network name/id is not specified".into());
    }
    Ok((name, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(network("host"), Ok(("host".into(), Map::new())));
        let (name, s) = network("name=n,alias=a,alias=b,ip=10.0.0.2,driver-opt=x=1").unwrap();
        let want = json!({"Aliases": ["a", "b"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}, "DriverOpts": {"x": "1"}});
        assert_eq!((name.as_str(), Value::Object(s)), ("n", want));
        assert_eq!(network("alias=a"), Err("network name/id is not specified".into()));
        assert_eq!(network("name=a,foo=b"), Err("invalid field key foo".into()));
    }
}
