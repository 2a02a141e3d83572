//! Networks and endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{TextMap, is_default};

/// `NetworkingConfig` of a create request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkingConfig {
    /// Endpoints by network name or id.
    pub endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
}

/// A container's attachment to a network: what was asked for and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// Addresses asked for.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpamConfig>,
    /// `container:alias` (legacy).
    pub links: Option<Vec<String>>,
    /// Further names on this network.
    pub aliases: Option<Vec<String>>,
    /// Options of the driver.
    pub driver_opts: Option<TextMap>,
    /// The endpoint of highest priority gives the default route.
    pub gw_priority: i64,
    /// Network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Endpoint; empty when not running.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Asked for or given.
    pub mac_address: String,
    /// Length of the IPv4 prefix.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Length of the IPv6 prefix.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// Names that the embedded DNS answers.
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

/// Addresses that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpamConfig {
    /// IPv4.
    #[serde(rename = "IPv4Address", skip_serializing_if = "is_default", deserialize_with = "address")]
    pub ipv4_address: String,
    /// IPv6.
    #[serde(rename = "IPv6Address", skip_serializing_if = "is_default", deserialize_with = "address")]
    pub ipv6_address: String,
    /// Link-local addresses.
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "is_default")]
    pub link_local_ips: Vec<String>,
}

/// Body of `POST /networks/create`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkCreateRequest {
    /// Name.
    pub name: String,
    /// Ignored: names are unique.
    #[serde(skip_serializing_if = "is_default")]
    pub check_duplicate: bool,
    /// `bridge` when empty.
    pub driver: String,
    /// `local`.
    #[serde(skip_serializing_if = "is_default")]
    pub scope: String,
    /// Not given: yes.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// Not given: the daemon's default.
    #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6: Option<bool>,
    /// Subnets.
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
    /// No way out.
    pub internal: bool,
    /// Swarm: standalone containers may attach.
    pub attachable: bool,
    /// Swarm's routing mesh.
    pub ingress: bool,
    /// Only a template.
    pub config_only: bool,
    /// Template to use.
    pub config_from: Option<ConfigReference>,
    /// Options of the driver.
    pub options: Option<TextMap>,
    /// Labels.
    pub labels: Option<TextMap>,
}

/// Name of a template network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ConfigReference {
    /// Its name.
    pub network: String,
}

/// Address management of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ipam {
    /// `default`.
    pub driver: String,
    /// Options of the driver.
    pub options: Option<TextMap>,
    /// Subnets.
    pub config: Option<Vec<IpamConfig>>,
}

/// One subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// CIDR.
    #[serde(rename = "Subnet", skip_serializing_if = "is_default", deserialize_with = "prefix")]
    pub subnet: String,
    /// CIDR within the subnet that containers get addresses from.
    #[serde(rename = "IPRange", skip_serializing_if = "is_default", deserialize_with = "prefix")]
    pub ip_range: String,
    /// Address of the bridge.
    #[serde(rename = "Gateway", skip_serializing_if = "is_default", deserialize_with = "address")]
    pub gateway: String,
    /// Addresses not to give out, by name. `AuxAddress` is the key that old clients send.
    #[serde(rename = "AuxiliaryAddresses", alias = "AuxAddress", skip_serializing_if = "is_default")]
    pub auxiliary_addresses: TextMap,
}

/// Answer of `POST /networks/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkCreateResponse {
    /// New network.
    pub id: String,
    /// What was ignored.
    pub warning: String,
}

/// A network in list and inspect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    /// `local`.
    pub scope: String,
    /// `bridge`, `host`, `null`, …
    pub driver: String,
    /// IPv4 is used.
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    /// IPv6 is used.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    /// Subnets.
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    /// No way out.
    pub internal: bool,
    /// Swarm.
    pub attachable: bool,
    /// Swarm.
    pub ingress: bool,
    /// Template used.
    pub config_from: ConfigReference,
    /// Only a template.
    pub config_only: bool,
    /// Running containers by id; absent in lists from API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<BTreeMap<String, NetworkContainer>>,
    /// Options of the driver.
    pub options: TextMap,
    /// Labels.
    pub labels: TextMap,
    /// Addresses in use; of inspect, from API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<NetworkStatus>,
}

/// What is so at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// Addresses.
    #[serde(rename = "IPAM")]
    pub ipam: IpamStatus,
}

/// Addresses of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpamStatus {
    /// By subnet.
    pub subnets: BTreeMap<String, SubnetStatus>,
}

/// Addresses of a subnet; 2^64 - 1 stands for more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubnetStatus {
    /// Taken or reserved.
    #[serde(rename = "IPsInUse")]
    pub ips_in_use: u64,
    /// Left in the range that containers get theirs from.
    #[serde(rename = "DynamicIPsAvailable")]
    pub dynamic_ips_available: u64,
}

/// A container in the inspection of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkContainer {
    /// Name without the slash.
    pub name: String,
    /// Endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// MAC address.
    pub mac_address: String,
    /// With prefix length.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    /// With prefix length.
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// Body of `POST /networks/{id}/connect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkConnectRequest {
    /// Name or id.
    pub container: String,
    /// What is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_config: Option<EndpointSettings>,
}

/// Body of `POST /networks/{id}/disconnect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkDisconnectRequest {
    /// Name or id.
    pub container: String,
    /// Also where the container does not answer.
    pub force: bool,
}

/// Answer of `POST /networks/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworksPruneResponse {
    /// Names.
    pub networks_deleted: Option<Vec<String>>,
}

/// An address or nothing, with Go's words for anything else.
fn address<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text);
    }
    Err(de::Error::custom(format_args!("ParseAddr({text:?}): unable to parse IP")))
}

/// A CIDR or nothing, with Go's words for anything else.
fn prefix<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() {
        return Ok(text);
    }
    let wrong = |why: &str| de::Error::custom(format_args!("netip.ParsePrefix({text:?}): {why}"));
    let Some((ip, bits)) = text.rsplit_once('/') else { return Err(wrong("no '/'")) };
    let Ok(ip) = ip.parse::<std::net::IpAddr>() else {
        return Err(wrong(&format!("ParseAddr({ip:?}): unable to parse IP")));
    };
    if bits.is_empty()
        || !bits.bytes().all(|b| b.is_ascii_digit())
        || (bits.len() > 1 && bits.starts_with('0'))
    {
        return Err(wrong(&format!("bad bits after slash: {bits:?}")));
    }
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if bits.parse::<u32>().is_ok_and(|b| b <= most) {
        Ok(text)
    } else {
        Err(wrong("prefix length out of range"))
    }
}
