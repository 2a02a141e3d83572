//! Tests of `network`.

use super::*;

fn plan(subnet: &str, range: &str, gateway: &str) -> IpamConfig {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    IpamConfig {
        subnet: some(subnet).map(|s| s.parse().unwrap()),
        ip_range: some(range).map(|s| s.parse().unwrap()),
        gateway: some(gateway).map(|s| s.parse().unwrap()),
        aux_addresses: BTreeMap::new(),
    }
}

#[test]
fn address_plans_are_checked_in_dockers_words() {
    for (config, expected) in [
        (plan("10.0.0.0/24", "10.0.0.128/25", "10.0.0.1"), ""),
        (plan("10.0.0.1/24", "", ""), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        (
            plan("10.0.0.0/24", "10.0.1.0/25", ""),
            "invalid ip-range 10.0.1.0/25: parent subnet 10.0.0.0/24 doesn't contain ip-range",
        ),
        (
            plan("10.0.0.0/24", "10.0.0.0/23", ""),
            "invalid ip-range 10.0.0.0/23: CIDR block is bigger than its parent subnet 10.0.0.0/24",
        ),
        (plan("10.0.0.0/24", "10.0.0.9/28", ""), "invalid ip-range 10.0.0.9/28: it should be 10.0.0.0/28"),
        (plan("10.0.0.0/24", "fd00::/64", ""), "invalid ip-range fd00::/64: parent subnet is an IPv4 block"),
        (plan("10.0.0.0/24", "", "fd00::1"), "invalid gateway fd00::1: parent subnet is an IPv4 block"),
        (plan("", "", "10.0.0.1"), "invalid subnet : invalid CIDR block notation"),
    ] {
        let found = validate_ipam(&[config], true).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(found.strip_prefix("invalid network config:\n").unwrap_or(&found), expected);
    }
}

#[test]
fn options_are_understood_or_refused() {
    let parse = |key: &str, value: &str| {
        let spec = NetworkSpec {
            id: "0123456789ab".repeat(6)[..64].parse().unwrap(),
            name: "n".into(),
            driver: "bridge".into(),
            ipam_driver: String::new(),
            ipam: Vec::new(),
            internal: false,
            ipv4: true,
            ipv6: false,
            options: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        };
        settings(&spec, Driver::Bridge).map_err(|e| e.to_string())
    };
    assert_eq!(parse("x", "y").unwrap().link, "br-0123456789ab");
    assert_eq!(parse(option::BRIDGE_NAME, "gold2").unwrap().link, "gold2");
    assert_eq!(parse(option::MTU, "1400").unwrap().mtu, Some(1400));
    assert!(!parse(option::ICC, "false").unwrap().icc);
    assert_eq!(parse(option::ADVERTISE_COUNT, "2").unwrap().announcements, 2);
    assert_eq!(parse(option::ADVERTISE_INTERVAL, "100").unwrap().announcement_interval_ms, 100);
    for (key, value) in [
        (option::BRIDGE_NAME, "a name that is too long"),
        (option::BRIDGE_NAME, "../x"),
        (option::ICC, "maybe"),
        (option::MTU, "-1"),
        (option::ADVERTISE_COUNT, "4"),
        (option::ADVERTISE_INTERVAL, "99"),
        (option::HOST_IPV4, "fd00::1"),
        (option::GATEWAY_MODE_V4, "isolated"),
        ("com.docker.network.bridge.bogus", "1"),
    ] {
        assert!(parse(key, value).is_err(), "{key}={value}");
    }
}
