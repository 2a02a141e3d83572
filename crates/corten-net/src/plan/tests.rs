//! Tests of `plan`.

use corten_base::Id;

use super::*;
use crate::network::NetworkSpec;
use crate::state::State;

fn record(change: impl FnOnce(&mut NetworkSpec)) -> NetworkRecord {
    let mut spec = NetworkSpec {
        id: Id::random(),
        name: "n".into(),
        driver: "bridge".into(),
        ipam_driver: String::new(),
        ipam: Vec::new(),
        internal: false,
        ipv4: true,
        ipv6: false,
        options: Default::default(),
    };
    spec.options.insert(crate::network::option::BRIDGE_NAME.into(), "br0".into());
    change(&mut spec);
    State::new(false).add_network(spec, &crate::ipam::default_pools(), &[]).unwrap()
}

fn members(commands: &[Command], name: &str) -> usize {
    let count = |c: &Command| match c {
        Command::Add { set, elements } if *set == name => elements.len(),
        _ => 0,
    };
    commands.iter().map(count).sum()
}

fn rules<'a>(commands: &'a [Command], name: &'a str) -> impl Iterator<Item = &'a Vec<Expr>> {
    commands.iter().filter_map(move |c| match c {
        Command::Rule { chain, expressions } if *chain == name => Some(expressions),
        _ => None,
    })
}

#[test]
fn what_a_network_is_decides_its_sets() {
    let plain = record(|_| {});
    let internal = record(|s| s.internal = true);
    let strangers = record(|s| {
        s.options.insert(crate::network::option::ICC.into(), "false".into());
    });
    let direct = record(|s| {
        s.options.insert(crate::network::option::GATEWAY_MODE_V4.into(), "nat-unprotected".into());
    });
    // network, [bridges, internal, open, direct4], rules of the chain `outgoing`
    for (network, expected, outgoing) in [
        (&plain, [1, 0, 1, 0], 3),
        (&internal, [1, 1, 1, 0], 1),
        (&strangers, [1, 0, 0, 0], 3),
        (&direct, [1, 0, 1, 1], 3),
    ] {
        let commands = ruleset(&[network], false, None);
        assert_eq!([BRIDGES, INTERNAL, OPEN, DIRECT[0]].map(|s| members(&commands, s)), expected);
        assert_eq!(rules(&commands, OUTGOING).count(), outgoing);
    }
}

#[test]
fn the_last_word_of_forward_is_drop_into_and_accept_out_of_bridges() {
    let commands = ruleset(&[], false, None);
    let last: Vec<&Vec<Expr>> = rules(&commands, FORWARD).collect();
    let [.., into, out] = last.as_slice() else { panic!("too few rules") };
    assert_eq!(**into, [out_link_among(BRIDGES), deny()].concat());
    assert_eq!(**out, [in_link_among(BRIDGES), accept()].concat());
}

#[test]
fn ports_in_a_row_become_one_element() {
    let port = |host: u16, container: u16| Publication {
        protocol: Protocol::Tcp,
        host_ip: "0.0.0.0".parse().unwrap(),
        host_port: host,
        container_ip: "172.17.0.2".parse().unwrap(),
        container_port: container,
        count: 1,
        routed: false,
        direct: false,
    };
    // (host ports, shift), [intervals, single elements]
    for (ports, shift, expected) in [
        (20_000..=39_999, 0, [1, 0]),
        (65_520..=65_535, 0, [1, 0]),
        (8_000..=8_015, 1, [0, 16]),
        (8_000..=8_014, 0, [0, 15]),
    ] {
        let mut all: Vec<Publication> = ports.map(|n| port(n, n - shift)).collect();
        all.reverse();
        let commands = publish(&in_rows(all));
        assert_eq!([ANY_RANGES[0], ANYWHERE[0]].map(|s| members(&commands, s)), expected);
    }
    let hole = (100..=140).filter(|n| *n != 120).map(|n| port(n, n)).collect();
    assert_eq!(
        in_rows(hole).iter().map(|p| (p.host_port, p.count)).collect::<Vec<_>>(),
        [(100, 20), (121, 20)]
    );
}

#[test]
fn ports_become_elements() {
    let port = |host: &str, target: &str, routed| Publication {
        protocol: Protocol::Udp,
        host_ip: host.parse().unwrap(),
        host_port: 0x1234,
        container_ip: target.parse().unwrap(),
        container_port: 80,
        count: 1,
        routed,
        direct: false,
    };
    let check = |port: Publication, set: &str, key: &[u8], value: Option<&[u8]>| {
        let commands = publish(std::slice::from_ref(&port));
        let [Command::Add { set: found, elements }] = commands.as_slice() else { panic!("{commands:?}") };
        assert_eq!((*found, elements[0].key.as_slice(), elements[0].value.as_deref()), (set, key, value));
        assert!(matches!(unpublish(&[port]).as_slice(), [Command::Remove { .. }]));
    };
    let target: &[u8] = &[172, 17, 0, 2, 0, 80, 0, 0];
    let service: &[u8] = &[17, 0, 0, 0, 0x12, 0x34, 0, 0];
    check(port("0.0.0.0", "172.17.0.2", false), "anyports4", service, Some(target));
    check(
        port("127.0.0.1", "172.17.0.2", false),
        "ports4",
        &[&[127, 0, 0, 1], service].concat(),
        Some(target),
    );
    let direct = publish(&[Publication { direct: true, ..port("0.0.0.0", "172.17.0.2", false) }]);
    assert_eq!((members(&direct, "routed4"), members(&direct, "anyports4")), (1, 1));
    let routed = [172, 17, 0, 2, 17, 0, 0, 0, 0, 80, 0, 0];
    check(port("0.0.0.0", "172.17.0.2", true), "routed4", &routed, None);
    assert!(matches!(
        publish(&[port("::", "fd00::2", false)]).as_slice(),
        [Command::Add { set: "anyports6", .. }]
    ));
}
