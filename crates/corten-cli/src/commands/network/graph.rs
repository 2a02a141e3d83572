//! `network graph`: who reaches whom, and through which rule of the packet filter. Pure: from the API's answers to text
//! or SVG.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Graph {
    networks: Vec<Network>,
    containers: Vec<Container>,
}

#[derive(Debug)]
struct Network {
    name: String,
    driver: String,
    link: String,
    subnets: Vec<String>,
    /// How its containers get out, and by which rule.
    way_out: (&'static str, &'static str),
    /// Containers reach each other.
    open: bool,
    internal: bool,
}

#[derive(Debug)]
struct Container {
    name: String,
    /// By name of the network: its address.
    addresses: BTreeMap<String, String>,
    /// Where it can be reached from outside, its own port, and the map of the packet filter that leads there.
    published: Vec<Published>,
    shares: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Published {
    address: String,
    protocol: String,
    host: (u16, u16),
    container: (u16, u16),
}

impl Published {
    fn show(&self) -> String {
        let range = |(a, b): (u16, u16)| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let address =
            if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.clone() };
        format!("{address}:{} → {}/{}", range(self.host), range(self.container), self.protocol)
    }

    fn is_loopback(&self) -> bool {
        self.address.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
    }

    /// The map that holds it.
    fn map(&self) -> String {
        let family = if self.address.contains(':') { 6 } else { 4 };
        let any = matches!(self.address.as_str(), "0.0.0.0" | "::");
        let row = self.host == self.container && self.host.1 - self.host.0 >= 15;
        let kind = match (any, row) {
            (true, true) => "anyranges",
            (true, false) => "anyports",
            (false, true) => "ranges",
            (false, false) => "ports",
        };
        format!("@{kind}{family}")
    }
}

impl Container {
    /// Whether it has an address of the port's family.
    fn takes(&self, port: &Published) -> bool {
        let v6 = port.address.contains(':');
        self.addresses.values().flat_map(|a| a.split(' ')).any(|a| !a.is_empty() && a.contains(':') == v6)
    }
}

impl Graph {
    /// From `GET /networks` and the inspections of running containers.
    pub(super) fn new(networks: &[Value], containers: &[Value]) -> Self {
        let mut graph = Self {
            networks: networks.iter().filter(|n| n["Driver"] != "null").map(network).collect(),
            containers: containers.iter().map(container).collect(),
        };
        let used = |n: &Network| graph.containers.iter().any(|c| c.addresses.contains_key(&n.name));
        // The host's network is always there, and says nothing unless somebody is in it.
        graph.networks.retain(|n| n.driver != "host" || used(n));
        graph.networks.sort_by(|a, b| a.name.cmp(&b.name));
        graph.containers.sort_by(|a, b| a.name.cmp(&b.name));
        graph
    }

    /// Only these networks, and what is in them.
    pub(super) fn limit(&mut self, names: &[String]) {
        self.networks.retain(|n| names.contains(&n.name));
        self.containers.retain(|c| names.iter().any(|n| c.addresses.contains_key(n)));
    }

    fn members<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = (&'a Container, &'a str)> {
        self.containers.iter().filter_map(|c| Some((c, c.addresses.get(&network.name)?.as_str())))
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for network in &self.networks {
            let _infallible = writeln!(
                out,
                "{} ({}{}{})",
                network.name,
                network.driver,
                if network.link.is_empty() { String::new() } else { format!(", {}", network.link) },
                network.subnets.iter().map(|s| format!(", {s}")).collect::<String>()
            );
            let (way, rule) = network.way_out;
            let _infallible = writeln!(out, "  to outside: {way}{}", by(rule));
            let members: Vec<_> = self.members(network).collect();
            let among = match (network.driver.as_str(), network.open) {
                ("host", _) => "they are the host",
                ("bridge", true) => "reach each other  [forward: iifname . oifname @open accept]",
                ("bridge", false) => "do not reach each other  [isolated ports of the bridge]",
                (_, true) => "reach each other on the parent link, past the packet filter",
                (_, false) => "do not reach each other",
            };
            if members.len() > 1 {
                let _infallible = writeln!(out, "  containers: {among}");
            }
            for (container, address) in members {
                let _infallible = writeln!(out, "  {:<24} {address}", container.name);
                for port in container.published.iter().filter(|_| self.publishes(network, container)) {
                    let (from, rule) = match (port.is_loopback(), container.takes(port)) {
                        (_, false) => ("refused", "the container has no IPv6 address".to_owned()),
                        (true, _) => ("from the host", format!("local: dnat by {}", port.map())),
                        (false, _) => (
                            "from outside",
                            format!("published: dnat by {}; forward: ct status dnat accept", port.map()),
                        ),
                    };
                    let _infallible = writeln!(out, "    {from}: {}  [{rule}]", port.show());
                }
            }
        }
        let shared: Vec<_> =
            self.containers.iter().filter_map(|c| Some((&c.name, c.shares.as_ref()?))).collect();
        for (name, other) in shared {
            let _infallible = writeln!(out, "{name} shares the network of {other}");
        }
        if self.networks.iter().filter(|n| n.driver == "bridge").count() > 1 {
            out.push_str("between networks: nothing but published ports  [forward: oifname @bridges drop]\n");
        }
        out
    }

    /// Ports are told with the first network that has a way out.
    fn publishes(&self, network: &Network, container: &Container) -> bool {
        let mut candidates =
            self.networks.iter().filter(|n| !n.internal && container.addresses.contains_key(&n.name));
        candidates.next().is_some_and(|first| first.name == network.name)
    }

    /// As a picture: outside on the left, networks in the middle, containers on the right.
    pub(super) fn svg(&self) -> String {
        const STEP: usize = 76;
        let rows = self.networks.len().max(self.containers.len()).max(1);
        let height = rows * STEP + 30;
        let y = |row: usize| 20 + row * STEP;
        let middle = height / 2;
        // Boxes come after lines, so that a line that passes one is behind it.
        let (mut lines, mut boxes) = (String::new(), String::new());
        boxed(&mut boxes, (20, middle - 30, 110), ["outside", "", ""], "#eeeeee", false);
        for (row, network) in self.networks.iter().enumerate() {
            let subtitle = format!("{} {}", network.link, network.subnets.join(" "));
            let colour = if network.internal { "#fde8e8" } else { "#e8f0fd" };
            let way = if network.internal { "internal" } else { network.way_out.0 };
            let texts = [network.name.as_str(), subtitle.trim(), way];
            boxed(&mut boxes, (330, y(row), 230), texts, colour, !network.open);
            if !network.internal {
                line(&mut lines, (330, y(row) + 30), (130, middle), "#555", true);
            }
        }
        for (row, container) in self.containers.iter().enumerate() {
            let subtitle = container.addresses.values().cloned().collect::<Vec<_>>().join(" ");
            let open = container.published.iter().filter(|p| container.takes(p));
            let ports = open.map(Published::show).collect::<Vec<_>>().join(", ");
            let texts = [container.name.as_str(), &subtitle, &ports];
            boxed(&mut boxes, (700, y(row), 260), texts, "#eafaea", false);
            for (at, network) in self.networks.iter().enumerate() {
                if container.addresses.contains_key(&network.name) {
                    line(&mut lines, (700, y(row) + 30), (560, y(at) + 30), "#555", false);
                }
            }
            if !ports.is_empty() {
                line(&mut lines, (130, middle), (700, y(row) + 52), "#b45309", true);
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"980\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
             orient=\"auto\"><path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n\
             <rect width=\"980\" height=\"{height}\" fill=\"white\"/>\n{lines}{boxes}</svg>\n"
        )
    }
}

fn by(rule: &str) -> String {
    if rule.is_empty() { String::new() } else { format!("  [{rule}]") }
}

fn network(n: &Value) -> Network {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let option = |key: &str| n["Options"][key].as_str().unwrap_or_default();
    let (driver, id) = (text(&n["Driver"]), text(&n["Id"]));
    let named = option("com.docker.network.bridge.name");
    let link = match driver.as_str() {
        "bridge" if !named.is_empty() => named.to_owned(),
        "bridge" => format!("br-{}", id.get(..12).unwrap_or(&id)),
        _ => option("parent").to_owned(),
    };
    let internal = n["Internal"] == true;
    let mode = option("com.docker.network.bridge.gateway_mode_ipv4");
    let masquerades = option("com.docker.network.bridge.enable_ip_masquerade") != "false";
    let way_out = match (driver.as_str(), mode) {
        _ if internal => ("nothing", "forward: iifname @internal drop"),
        ("host", _) => ("as the host", ""),
        ("bridge", "routed") => ("under their own addresses", "forward: iifname @bridges accept"),
        ("bridge", _) if masquerades => ("under the host's address", "outgoing: masquerade"),
        ("bridge", _) => ("under their own addresses", "forward: iifname @bridges accept"),
        _ => ("on the parent link", ""),
    };
    let subnets = n["IPAM"]["Config"].as_array().into_iter().flatten().map(|c| text(&c["Subnet"])).collect();
    let open =
        option("com.docker.network.bridge.enable_icc") != "false" && option("macvlan_mode") != "private";
    Network { name: text(&n["Name"]), driver, link, subnets, way_out, open, internal }
}

fn container(c: &Value) -> Container {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut addresses = BTreeMap::new();
    for (name, endpoint) in c["NetworkSettings"]["Networks"].as_object().into_iter().flatten() {
        let both = [text(&endpoint["IPAddress"]), text(&endpoint["GlobalIPv6Address"])];
        let shown: Vec<String> = both.into_iter().filter(|a| !a.is_empty()).collect();
        addresses.insert(name.clone(), shown.join(" "));
    }
    let mut published = Vec::new();
    for (port, bindings) in c["NetworkSettings"]["Ports"].as_object().into_iter().flatten() {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(inside) = number.parse::<u16>() else { continue };
        for binding in bindings.as_array().into_iter().flatten() {
            let Ok(host) = text(&binding["HostPort"]).parse::<u16>() else { continue };
            let (address, protocol) = (text(&binding["HostIp"]), protocol.to_owned());
            published.push(Published { address, protocol, host: (host, host), container: (inside, inside) });
        }
    }
    published.sort();
    published.dedup_by(|next, row| {
        let follows = next.address == row.address
            && next.protocol == row.protocol
            && row.host.1.checked_add(1) == Some(next.host.0)
            && row.container.1.checked_add(1) == Some(next.container.0);
        if follows {
            row.host.1 = next.host.1;
            row.container.1 = next.container.1;
        }
        follows
    });
    let mode = text(&c["HostConfig"]["NetworkMode"]);
    Container {
        name: text(&c["Name"]).trim_start_matches('/').to_owned(),
        addresses,
        published,
        shares: mode.strip_prefix("container:").map(|other| other.get(..12).unwrap_or(other).to_owned()),
    }
}

fn boxed(out: &mut String, at: (usize, usize, usize), texts: [&str; 3], fill: &str, dashed: bool) {
    let (x, y, width) = at;
    let dash = if dashed { " stroke-dasharray=\"4 3\"" } else { "" };
    let _infallible = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"60\" rx=\"6\" fill=\"{fill}\" stroke=\"#555\"{dash}/>"
    );
    for (n, text) in texts.into_iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let style = ["font-weight=\"bold\"", "font-size=\"10\"", "font-size=\"10\" fill=\"#b45309\""][n];
        let (left, base) = (x + 10, y + 20 + 16 * n);
        // A letter of this size is about six wide.
        let room = (width - 20) / if n == 0 { 8 } else { 6 };
        let text = if text.chars().count() > room {
            text.chars().take(room - 1).chain(['…']).collect()
        } else {
            text.to_owned()
        };
        let _infallible = writeln!(out, "<text x=\"{left}\" y=\"{base}\" {style}>{}</text>", escape(&text));
    }
}

fn line(out: &mut String, from: (usize, usize), to: (usize, usize), colour: &str, arrow: bool) {
    let marker = if arrow { " marker-end=\"url(#a)\"" } else { "" };
    let ((x1, y1), (x2, y2)) = (from, to);
    let _infallible =
        writeln!(out, "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"{colour}\"{marker}/>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example() -> Graph {
        let networks = [
            json!({"Name": "bridge", "Id": "1", "Driver": "bridge", "Options": {"com.docker.network.bridge.name": "docker0"},
                   "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}),
            json!({"Name": "back", "Id": "0123456789abcdef", "Driver": "bridge", "Internal": true,
                   "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}),
            json!({"Name": "none", "Driver": "null"}),
        ];
        let ports = json!({
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "9000/udp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}],
            "9001/udp": [{"HostIp": "127.0.0.1", "HostPort": "9001"}],
            "443/tcp": null,
        });
        let containers = [
            json!({"Name": "/web", "HostConfig": {"NetworkMode": "bridge"}, "NetworkSettings": {"Ports": ports,
                   "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "back": {"IPAddress": "10.1.0.2"}}}}),
            json!({"Name": "/db<1>", "HostConfig": {"NetworkMode": "back"}, "NetworkSettings": {
                   "Networks": {"back": {"IPAddress": "10.1.0.3"}}}}),
        ];
        Graph::new(&networks, &containers)
    }

    #[test]
    fn who_reaches_whom() {
        let want = "\
back (bridge, br-0123456789ab, 10.1.0.0/24)
  to outside: nothing  [forward: iifname @internal drop]
  containers: reach each other  [forward: iifname . oifname @open accept]
  db<1>                    10.1.0.3
  web                      10.1.0.2
bridge (bridge, docker0, 172.17.0.0/16)
  to outside: under the host's address  [outgoing: masquerade]
  web                      172.17.0.2
    from outside: 0.0.0.0:8080 → 80/tcp  [published: dnat by @anyports4; forward: ct status dnat accept]
    from the host: 127.0.0.1:9000-9001 → 9000-9001/udp  [local: dnat by @ports4]
    refused: [::]:8080 → 80/tcp  [the container has no IPv6 address]
between networks: nothing but published ports  [forward: oifname @bridges drop]
";
        assert_eq!(example().text(), want);
        let mut one = example();
        one.limit(&["back".into()]);
        assert!(!one.text().contains("docker0"));
    }

    #[test]
    fn a_picture_is_well_formed() {
        let svg = example().svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("db&lt;1&gt;") && !svg.contains("db<1>"));
        assert_eq!(svg.matches("<rect").count(), 1 + 1 + 2 + 2);
    }
}
