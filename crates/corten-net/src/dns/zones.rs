//! Which names a container can ask for, and the answers. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corten_base::Id;
use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

use crate::endpoint::{EndpointRecord, Upstream};

/// Docker's.
const TTL: u32 = 600;
/// Of a reply over UDP to somebody who does not say how much he can take.
const SMALL: usize = 512;
/// The most we send over UDP.
const LARGE: u16 = 4096;

/// What one container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The networks whose names it may ask for.
    pub(crate) networks: Vec<Id>,
    /// Further names, in lower case, for endpoints of a network: network, the endpoint's own name, this container's.
    pub(crate) links: Vec<(Id, String, String)>,
    /// Where other questions go.
    pub(crate) upstreams: Vec<Upstream>,
    /// Whether they go anywhere at all.
    pub(crate) forwards: bool,
}

/// All names, by network, and all containers.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    networks: HashMap<Id, Zone>,
    views: HashMap<Id, View>,
    turn: usize,
}

#[derive(Debug, Default)]
struct Zone {
    /// ` .name` of the network, lower case, as a suffix of names.
    suffix: String,
    endpoints: Vec<Names>,
}

#[derive(Debug)]
struct Names {
    endpoint: Id,
    name: String,
    names: Vec<String>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

/// What to do with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask these, in this order; if none answers send the second field back.
    Forward(Vec<Upstream>, Vec<u8>),
    /// Not a question.
    Ignore,
}

impl Zones {
    pub(crate) fn announce(&mut self, record: &EndpointRecord, network_name: &str) {
        self.forget(&record.network, &record.id);
        let zone = self.networks.entry(record.network.clone()).or_default();
        zone.suffix = format!(".{}", network_name.to_ascii_lowercase());
        zone.endpoints.push(Names {
            endpoint: record.id.clone(),
            name: record.name.clone(),
            names: record.dns_names.iter().map(|n| n.to_ascii_lowercase()).collect(),
            v4: record.ipv4,
            v6: record.ipv6,
        });
    }

    pub(crate) fn forget(&mut self, network: &Id, endpoint: &Id) {
        let Some(zone) = self.networks.get_mut(network) else { return };
        zone.endpoints.retain(|e| e.endpoint != *endpoint);
        if zone.endpoints.is_empty() {
            self.networks.remove(network);
        }
    }

    pub(crate) fn set_view(&mut self, container: &Id, view: Option<View>) {
        match view {
            Some(view) => self.views.insert(container.clone(), view),
            None => self.views.remove(container),
        };
    }

    /// Decides about one message from a container. `udp`: the reply must fit into a datagram.
    pub(crate) fn answer(&mut self, container: &Id, message: &[u8], udp: bool) -> Answer {
        let Some(view) = self.views.get(container).cloned() else { return Answer::Ignore };
        let is_query = message.len() >= 12 && message[2] & 0x80 == 0;
        if !is_query {
            return Answer::Ignore;
        }
        let forward = |failure: Vec<u8>| {
            if view.forwards && !view.upstreams.is_empty() {
                Answer::Forward(view.upstreams.clone(), failure)
            } else {
                Answer::Reply(failure)
            }
        };
        // What this library cannot read (a type it does not know) may still make sense to the name servers beyond.
        let Ok(query) = Packet::parse(message) else { return forward(failure(message)) };
        let [question] = query.questions.as_slice() else { return forward(failure(message)) };
        match self.local(&view, question) {
            Some(records) => Answer::Reply(reply(&query, question, records, udp)),
            None => forward(failure(message)),
        }
    }

    /// The records for a question about a name that we know; empty if it has none of that type.
    fn local<'q>(&mut self, view: &View, question: &Question<'q>) -> Option<Vec<ResourceRecord<'q>>> {
        let name = question.qname.to_string().to_ascii_lowercase();
        let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data);
        if question.qtype == QTYPE::TYPE(TYPE::PTR) {
            let owner = self.owner(view, reverse(&name)?)?;
            let target = Name::new(&owner).ok()?.into_owned();
            return Some(vec![record(RData::PTR(PTR(target)))]);
        }
        let mut found: Vec<(Option<Ipv4Addr>, Option<Ipv6Addr>)> = Vec::new();
        for (network, zone) in view.networks.iter().filter_map(|n| Some((n, self.networks.get(n)?))) {
            let short = name.strip_suffix(&zone.suffix).unwrap_or(&name);
            let linked = |n: &String| {
                view.links.iter().any(|(at, other, alias)| at == network && other == n && *alias == name)
            };
            let known = |e: &&Names| e.names.iter().any(|n| *n == name || n == short || linked(n));
            found.extend(zone.endpoints.iter().filter(known).map(|e| (e.v4, e.v6)));
        }
        if found.is_empty() {
            return None;
        }
        let mut records: Vec<ResourceRecord<'q>> = match question.qtype {
            QTYPE::TYPE(TYPE::A) => {
                found.iter().filter_map(|f| f.0).map(|a| record(RData::A(A { address: a.into() }))).collect()
            }
            QTYPE::TYPE(TYPE::AAAA) => found
                .iter()
                .filter_map(|f| f.1)
                .map(|a| record(RData::AAAA(AAAA { address: a.into() })))
                .collect(),
            _ => Vec::new(),
        };
        // Whoever takes the first answer gets another one each time.
        if !records.is_empty() {
            self.turn = self.turn.wrapping_add(1);
            let turn = self.turn % records.len();
            records.rotate_left(turn);
        }
        Some(records)
    }

    fn owner(&self, view: &View, address: IpAddr) -> Option<String> {
        view.networks.iter().filter_map(|n| self.networks.get(n)).find_map(|zone| {
            let has = |e: &&Names| match address {
                IpAddr::V4(a) => e.v4 == Some(a),
                IpAddr::V6(a) => e.v6 == Some(a),
            };
            zone.endpoints.iter().find(has).map(|e| format!("{}{}", e.name, zone.suffix))
        })
    }
}

/// `2.0.17.172.in-addr.arpa` → 172.17.0.2, and the same for IPv6.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = digits.split('.').map(|d| d.parse::<u8>().ok()).collect::<Option<Vec<u8>>>()?;
        octets.reverse();
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut number = 0u128;
    let mut count = 0;
    for digit in digits.split('.').rev() {
        number = number << 4 | u128::from(u8::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?);
        count += 1;
    }
    (count == 32).then(|| IpAddr::from(Ipv6Addr::from(number)))
}

fn reply(
    query: &Packet<'_>,
    question: &Question<'_>,
    records: Vec<ResourceRecord<'_>>,
    udp: bool,
) -> Vec<u8> {
    let mut packet = Packet::new_reply(query.id());
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    packet.questions.push(question.clone());
    packet.answers = records;
    let mut room = SMALL;
    if let Some(opt) = query.opt() {
        room = usize::from(opt.udp_packet_size.clamp(SMALL as u16, LARGE));
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: LARGE, version: 0 });
    }
    let build = |packet: &Packet<'_>| packet.build_bytes_vec_compressed().unwrap_or_default();
    let bytes = build(&packet);
    if !udp || bytes.len() <= room {
        return bytes;
    }
    packet.answers.clear();
    packet.set_flags(PacketFlag::TRUNCATION);
    build(&packet)
}

/// "I could not find out", for any message that has a header.
fn failure(message: &[u8]) -> Vec<u8> {
    let mut reply = match Packet::parse(message) {
        Ok(query) => {
            let mut reply = Packet::new_reply(query.id());
            reply.questions = query.questions.into_iter().map(Question::into_owned).collect();
            reply
        }
        Err(_) => Packet::new_reply(u16::from_be_bytes([message[0], message[1]])),
    };
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    *reply.rcode_mut() = RCODE::ServerFailure;
    reply.build_bytes_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use simple_dns::QCLASS;

    use super::*;
    use crate::endpoint::Mac;

    fn endpoint(network: &Id, name: &str, names: &[&str], ip: [u8; 4]) -> EndpointRecord {
        EndpointRecord {
            id: Id::random(),
            container: Id::random(),
            network: network.clone(),
            name: name.into(),
            dns_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ipv4: Some(ip.into()),
            ipv4_prefix: 16,
            gateway: None,
            ipv6: None,
            ipv6_prefix: 0,
            gateway_v6: None,
            mac: Mac([2; 6]),
            ifname: "eth0".into(),
            host_link: String::new(),
            gw_priority: 0,
            ports: Vec::new(),
            links: Vec::new(),
            openings: Vec::new(),
            rates: Default::default(),
        }
    }

    fn ask(zones: &mut Zones, who: &Id, name: &str, kind: TYPE) -> String {
        let mut query = Packet::new_query(7);
        query.questions.push(Question::new(
            Name::new(name).unwrap(),
            kind.into(),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        match zones.answer(who, &query.build_bytes_vec().unwrap(), true) {
            Answer::Reply(bytes) => {
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.id(), 7);
                let show = |r: &ResourceRecord<'_>| match &r.rdata {
                    RData::A(a) => Ipv4Addr::from(a.address).to_string(),
                    RData::PTR(p) => p.to_string(),
                    _ => String::from("?"),
                };
                let shown: Vec<String> = packet.answers.iter().map(show).collect();
                format!("{:?} {}", packet.rcode(), shown.join(","))
            }
            Answer::Forward(to, _) => format!("forward to {}", to.len()),
            Answer::Ignore => "ignore".into(),
        }
    }

    #[test]
    fn names_of_own_networks_are_answered_others_forwarded() {
        let (one, two, me) = (Id::random(), Id::random(), Id::random());
        let mut zones = Zones::default();
        zones.announce(&endpoint(&one, "Srv", &["Srv", "web", "0123456789ab"], [10, 0, 0, 2]), "net1");
        let second = endpoint(&one, "srv2", &["srv2", "web"], [10, 0, 0, 3]);
        zones.announce(&second, "net1");
        zones.announce(&endpoint(&two, "secret", &["secret"], [10, 1, 0, 2]), "net2");
        let upstream = Upstream { address: "192.0.2.53:53".parse().unwrap(), from_host: false };
        zones.set_view(
            &me,
            Some(View {
                networks: vec![one.clone()],
                links: vec![],
                upstreams: vec![upstream],
                forwards: true,
            }),
        );
        let mut check = |name: &str, kind: TYPE, expected: &str| {
            assert_eq!(ask(&mut zones, &me, name, kind), expected, "{name}");
        };
        check("srv", TYPE::A, "NoError 10.0.0.2");
        check("SRV.net1", TYPE::A, "NoError 10.0.0.2");
        check("srv", TYPE::AAAA, "NoError ");
        check("srv", TYPE::MX, "NoError ");
        check("web", TYPE::A, "NoError 10.0.0.3,10.0.0.2");
        check("web", TYPE::A, "NoError 10.0.0.2,10.0.0.3");
        check("2.0.0.10.in-addr.arpa", TYPE::PTR, "NoError Srv.net1");
        check("2.0.1.10.in-addr.arpa", TYPE::PTR, "forward to 1");
        check("secret", TYPE::A, "forward to 1");
        check("example.org", TYPE::A, "forward to 1");
        zones.forget(&one, &second.id);
        assert_eq!(ask(&mut zones, &me, "srv2", TYPE::A), "forward to 1");
    }

    #[test]
    fn an_internal_network_does_not_forward() {
        let me = Id::random();
        let mut zones = Zones::default();
        let upstream = Upstream { address: "192.0.2.53:53".parse().unwrap(), from_host: false };
        zones.set_view(
            &me,
            Some(View { networks: vec![], links: vec![], upstreams: vec![upstream], forwards: false }),
        );
        assert_eq!(ask(&mut zones, &me, "secret.attacker.example", TYPE::TXT), "ServerFailure ");
        zones.set_view(&me, None);
        assert_eq!(ask(&mut zones, &me, "x", TYPE::A), "ignore");
    }

    #[test]
    fn many_answers_are_cut_over_udp_only() {
        let (net, me) = (Id::random(), Id::random());
        let mut zones = Zones::default();
        for n in 0..100 {
            zones.announce(&endpoint(&net, &format!("c{n}"), &["all"], [10, 0, 0, n]), "net");
        }
        zones.set_view(&me, Some(View { networks: vec![net], ..View::default() }));
        let mut query = Packet::new_query(1);
        let name = Name::new("all").unwrap();
        query.questions.push(Question::new(name, TYPE::A.into(), QCLASS::CLASS(CLASS::IN), false));
        let bytes = query.build_bytes_vec().unwrap();
        for (udp, count) in [(true, 0), (false, 100)] {
            let Answer::Reply(reply) = zones.answer(&me, &bytes, udp) else { panic!("no reply") };
            let packet = Packet::parse(&reply).unwrap();
            assert_eq!(packet.answers.len(), count);
            assert_eq!(packet.has_flags(PacketFlag::TRUNCATION), udp);
        }
        // Whoever says that he can take more gets more.
        *query.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: 4096, version: 0 });
        let bytes = query.build_bytes_vec().unwrap();
        let Answer::Reply(reply) = zones.answer(&me, &bytes, true) else { panic!("no reply") };
        let packet = Packet::parse(&reply).unwrap();
        assert!(reply.len() > SMALL && packet.answers.len() == 100 && packet.opt().is_some());
    }

    #[test]
    fn links_are_names_for_one_container() {
        let (net, me, other) = (Id::random(), Id::random(), Id::random());
        let mut zones = Zones::default();
        zones.announce(&endpoint(&net, "db", &["db"], [10, 0, 0, 2]), "n");
        let links = vec![(net.clone(), "db".to_owned(), "store".to_owned())];
        zones.set_view(&me, Some(View { networks: vec![net.clone()], links, ..View::default() }));
        zones.set_view(&other, Some(View { networks: vec![net], ..View::default() }));
        let through_link = ask(&mut zones, &me, "store", TYPE::A);
        assert!(through_link.contains("10.0.0.2"), "{through_link}");
        assert_eq!(through_link, ask(&mut zones, &me, "db", TYPE::A));
        assert!(!ask(&mut zones, &other, "store", TYPE::A).contains("10.0.0.2"));
    }

    #[test]
    fn rubbish_does_no_harm() {
        let me = Id::random();
        let mut zones = Zones::default();
        zones.set_view(&me, Some(View::default()));
        for length in 0..64 {
            let rubbish: Vec<u8> = (0..length).map(|i| (i * 37 + length) as u8).collect();
            zones.answer(&me, &rubbish, true);
        }
        assert_eq!(reverse("1.2.3.in-addr.arpa"), None);
        assert_eq!(reverse("x.ip6.arpa"), None);
    }
}
