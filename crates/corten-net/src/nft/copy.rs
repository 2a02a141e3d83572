//! The host's own rules for packets to itself, copied to where packets pass before published ports are translated.
//!
//! A published port's packets are forwarded, so that the hook `input`, where a firewall like ufw closes ports, never
//! sees them. For `--firewall=respect` every table that filters at `input` gets a twin of ours that does the same at
//! `prerouting`, for new connections to published ports only:
//!
//! ```text
//! table ip filter { INPUT (input): jump ufw-user-input … }          what ufw made
//! table ip corten-<instance>-filter
//!   corten-published   (protocol, port) of everything published
//!   INPUT (prerouting, after connection tracking, before dstnat)
//!     not to this host: accept · established: accept · not among corten-published: accept
//!     jump ufw-user-input …                                          the same expressions, byte for byte
//!   ufw-user-input …
//! ```
//!
//! Expressions are not understood, except for what must change: the extension `REJECT` of iptables is limited to other
//! hooks and becomes the kernel's own. A table that cannot be copied (rules the kernel does not take at this hook) is
//! replaced by a twin that lets nothing through: closed is what somebody who asks for respect can live with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use corten_sys::netlink::Family as NetlinkFamily;

use super::expr::{Expr, Verdict};
use super::shorthand::{established, service};
use super::{
    BATCH_BEGIN, BATCH_END, DELTABLE, GETCHAIN, GETRULE, GETSET, GETSETELEM, GETTABLE, NEWCHAIN, NEWRULE,
    NEWSET, NEWSETELEM, NEWTABLE,
};
use crate::nla::{Attributes, Batch, Conversation, flag, str_of, u32_of};

/// The set of published ports in each twin.
const PUBLISHED: &str = "corten-published";
/// Between `mangle`, whose marks rules may look at, and `dstnat`.
const PRIORITY: i32 = -149;
const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;
/// Bytes of elements per message: an attribute holds 64 KiB.
const CHUNK: usize = 32 * 1024;

/// A table that filters what comes to this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Original {
    family: u8,
    name: String,
    inputs: Vec<BaseChain>,
    /// Expressions of each rule, by chain.
    chains: BTreeMap<String, Vec<Vec<u8>>>,
    sets: BTreeMap<String, Set>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct BaseChain {
    name: String,
    priority: i32,
    drops: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Set {
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
    elements: Vec<Vec<u8>>,
}

impl Original {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Reads originals and writes twins.
#[derive(Debug)]
pub(crate) struct Copier(Conversation);

impl Copier {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Conversation::open(NetlinkFamily::Netfilter)?))
    }

    /// The number by which the kernel says that a change was ours.
    pub(crate) fn port(&self) -> io::Result<u32> {
        self.0.port()
    }

    /// All tables, as family and name.
    pub(crate) fn tables(&mut self) -> io::Result<Vec<(u8, String)>> {
        let mut batch = Batch::default();
        batch.message(GETTABLE, flag::DUMP, &[0; 4], |_| {});
        let mut tables = Vec::new();
        self.0.dump(batch, |_, payload| {
            let name = payload.get(4..).and_then(|p| Attributes(p).get(1)).map(str_of);
            tables.extend(payload.first().copied().zip(name));
        })?;
        Ok(tables)
    }

    /// The tables with a filter at the hook `input`, but for those `ours` says yes to.
    pub(crate) fn read(&mut self, ours: impl Fn(&str) -> bool) -> io::Result<Vec<Original>> {
        let mut found: BTreeMap<(u8, String), Vec<BaseChain>> = BTreeMap::new();
        let mut batch = Batch::default();
        batch.message(GETCHAIN, flag::DUMP, &[0; 4], |_| {});
        self.0.dump(batch, |_, payload| {
            let Some((family, table, chain)) = input_chain(payload) else { return };
            if !ours(&table) {
                found.entry((family, table)).or_default().push(chain);
            }
        })?;
        let mut originals = Vec::new();
        for ((family, name), inputs) in found {
            let mut original = Original { family, name, inputs, ..Original::default() };
            self.read_chains(&mut original)?;
            self.read_sets(&mut original)?;
            original.keep_reachable();
            originals.push(original);
        }
        originals.sort_by_key(|o| o.inputs.iter().map(|c| c.priority).min());
        Ok(originals)
    }

    fn read_chains(&mut self, original: &mut Original) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(GETRULE, flag::DUMP, &[original.family, 0, 0, 0], |m| m.put_str(1, &original.name));
        let chains = &mut original.chains;
        self.0.dump(batch, |_, payload| {
            let Some(attributes) = payload.get(4..).map(Attributes) else { return };
            let Some(chain) = attributes.get(3).and(attributes.get(2)).map(str_of) else { return };
            chains.entry(chain).or_default().push(attributes.get(4).unwrap_or_default().to_vec());
        })
    }

    fn read_sets(&mut self, original: &mut Original) -> io::Result<()> {
        let header = [original.family, 0, 0, 0];
        let mut batch = Batch::default();
        batch.message(GETSET, flag::DUMP, &header, |m| m.put_str(1, &original.name));
        let sets = &mut original.sets;
        self.0.dump(batch, |_, payload| {
            let Some(attributes) = payload.get(4..).map(Attributes) else { return };
            let Some(name) = attributes.get(2).map(str_of) else { return };
            let kept = |kind: u16| matches!(kind, 4..=9 | 11..=13 | 17 | 18);
            sets.insert(
                name,
                Set {
                    flags: attributes.get(3).and_then(u32_of).map_or(0, u32::from_be),
                    attributes: attributes.filter(|(k, _)| kept(*k)).map(|(k, v)| (k, v.to_vec())).collect(),
                    elements: Vec::new(),
                },
            );
        })?;
        for (name, set) in sets {
            let mut batch = Batch::default();
            batch.message(GETSETELEM, flag::DUMP, &header, |m| {
                m.put_str(1, &original.name);
                m.put_str(2, name);
            });
            self.0.dump(batch, |_, payload| {
                let list = payload.get(4..).and_then(|p| Attributes(p).get(3)).unwrap_or_default();
                set.elements.extend(Attributes(list).map(|(_, element)| element.to_vec()));
            })?;
        }
        Ok(())
    }

    /// Makes the twin anew. With `closed` it has no rules, and drops what the original would have judged.
    pub(crate) fn write(
        &mut self,
        original: &Original,
        twin: &str,
        services: &[[u8; 8]],
        closed: bool,
    ) -> io::Result<()> {
        let mut writer = Writer::new(original.family, twin);
        // Nothing, if there was one.
        writer.message(NEWTABLE, flag::CREATE, |m| m.put_str(1, twin));
        writer.message(DELTABLE, 0, |m| m.put_str(1, twin));
        writer.message(NEWTABLE, flag::CREATE, |m| m.put_str(1, twin));
        for (n, chain) in original.inputs.iter().enumerate() {
            writer.base_chain(chain, PRIORITY + n as i32, closed);
        }
        writer.published(services);
        if !closed {
            writer.contents(original);
        }
        for chain in &original.inputs {
            writer.guard(&chain.name);
        }
        if !closed {
            writer.rules(original);
        }
        self.0.execute_before_last(writer.batch, writer.last)
    }

    /// Removes a twin; not there is success.
    pub(crate) fn remove(&mut self, family: u8, twin: &str) -> io::Result<()> {
        let mut writer = Writer::new(family, twin);
        writer.message(DELTABLE, 0, |m| m.put_str(1, twin));
        match self.0.execute_before_last(writer.batch, writer.last) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}

/// A base chain of type filter at the hook `input`, with its family and table.
fn input_chain(payload: &[u8]) -> Option<(u8, String, BaseChain)> {
    let attributes = Attributes(payload.get(4..)?);
    let hook = Attributes(attributes.get(4)?);
    let number = |kind| hook.get(kind).and_then(u32_of).map(u32::from_be);
    if number(1)? != HOOK_INPUT || str_of(attributes.get(7)?) != "filter" || !matches!(payload[0], 1 | 2 | 10)
    {
        return None;
    }
    let chain = BaseChain {
        name: str_of(attributes.get(3)?),
        priority: number(2)? as i32,
        drops: attributes.get(5).and_then(u32_of) == Some(0),
    };
    Some((payload[0], str_of(attributes.get(1)?), chain))
}

impl Original {
    /// Forgets chains and sets that no packet gets to from `input`.
    fn keep_reachable(&mut self) {
        let mut chains: BTreeSet<String> = BTreeSet::new();
        let mut sets: BTreeSet<String> = BTreeSet::new();
        let mut next: Vec<String> = self.inputs.iter().map(|c| c.name.clone()).collect();
        while let Some(chain) = next.pop() {
            if !chains.insert(chain.clone()) {
                continue;
            }
            for (name, data) in self.chains.get(&chain).into_iter().flatten().flat_map(|r| expressions(r)) {
                match name.as_str() {
                    "immediate" => next.extend(verdict_chain(data.get(2))),
                    "lookup" | "dynset" => {
                        let Some(set) = data.get(1).map(str_of) else { continue };
                        let elements = self.sets.get(&set).into_iter().flat_map(|s| &s.elements);
                        next.extend(elements.filter_map(|e| verdict_chain(Attributes(e).get(2))));
                        sets.insert(set);
                    }
                    _ => {}
                }
            }
        }
        self.chains.retain(|name, _| chains.contains(name));
        // A chain without rules is jumped to like any other.
        for name in chains {
            self.chains.entry(name).or_default();
        }
        self.sets.retain(|name, _| sets.contains(name));
    }
}

/// Name and data of each expression of a rule.
fn expressions(rule: &[u8]) -> impl Iterator<Item = (String, Attributes<'_>)> {
    Attributes(rule).filter_map(|(_, expression)| {
        let attributes = Attributes(expression);
        Some((str_of(attributes.get(1)?), Attributes(attributes.get(2).unwrap_or_default())))
    })
}

/// The chain of a verdict inside `NFTA_DATA_*`.
fn verdict_chain(data: Option<&[u8]>) -> Option<String> {
    Attributes(Attributes(data?).get(2)?).get(2).map(str_of)
}

/// The chain that a rule jumps to.
pub(super) fn jump_of(rule: &[u8]) -> Option<String> {
    expressions(rule).filter(|(name, _)| name == "immediate").find_map(|(_, data)| verdict_chain(data.get(2)))
}

/// A batch for one table.
struct Writer<'a> {
    batch: Batch,
    last: usize,
    family: u8,
    table: &'a str,
}

impl<'a> Writer<'a> {
    fn new(family: u8, table: &'a str) -> Self {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, &[0, 0, 0, 10], |_| {});
        Self { last: batch.len(), batch, family, table }
    }

    /// Adds a message, and the end of the batch after it, which the next one overwrites.
    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Batch)) {
        self.batch.take_back_end(BATCH_END);
        self.last = self.batch.len();
        self.batch.message(kind, flags, &[self.family, 0, 0, 0], body);
        self.batch.message(BATCH_END, 0, &[0, 0, 0, 10], |_| {});
    }

    fn base_chain(&mut self, chain: &BaseChain, priority: i32, closed: bool) {
        let table = self.table;
        self.message(NEWCHAIN, flag::CREATE, |m| {
            m.put_str(1, table);
            m.put_str(3, &chain.name);
            m.nest(4, |m| {
                m.put_be32(1, HOOK_PREROUTING);
                m.put_be32(2, priority as u32);
            });
            m.put_be32(5, u32::from(!(chain.drops || closed)));
            m.put_str(7, "filter");
        });
    }

    fn published(&mut self, services: &[[u8; 8]]) {
        const PROTOCOL_AND_PORT: u32 = (12 << 6) | 13;
        let table = self.table;
        self.message(NEWSET, flag::CREATE, |m| {
            m.put_str(1, table);
            m.put_str(2, PUBLISHED);
            m.put_be32(3, 0);
            m.put_be32(4, PROTOCOL_AND_PORT);
            m.put_be32(5, 8);
            m.put_be32(10, 1);
        });
        for chunk in services.chunks(1024) {
            self.message(NEWSETELEM, flag::CREATE, |m| {
                m.put_str(1, table);
                m.put_str(2, PUBLISHED);
                m.nest(3, |m| {
                    for key in chunk {
                        m.nest(1, |m| m.nest(1, |m| m.put(1, key)));
                    }
                });
            });
        }
    }

    /// What is not for the original to judge here.
    fn guard(&mut self, chain: &str) {
        const RTN_LOCAL: u32 = 2;
        let accept = Expr::Verdict(Verdict::Accept);
        let elsewhere = vec![
            Expr::DestinationType { to: 0 },
            Expr::Compare { register: 0, equal: false, value: RTN_LOCAL.to_ne_bytes().to_vec() },
        ];
        let other = [service(0), vec![Expr::NoLookup { set: PUBLISHED, register: 0 }]].concat();
        for expressions in [elsewhere, established(), other] {
            let table = self.table;
            self.message(NEWRULE, flag::CREATE | flag::APPEND, |m| {
                m.put_str(1, table);
                m.put_str(2, chain);
                m.nest(4, |m| expressions.iter().chain([&accept]).for_each(|e| e.encode(m)));
            });
        }
    }

    /// Plain chains, then sets and their elements, which may lead to chains.
    fn contents(&mut self, original: &Original) {
        let table = self.table;
        let base = |name: &str| original.inputs.iter().any(|c| c.name == name);
        for name in original.chains.keys().filter(|n| !base(n)) {
            self.message(NEWCHAIN, flag::CREATE, |m| {
                m.put_str(1, table);
                m.put_str(3, name);
            });
        }
        for (id, (name, set)) in original.sets.iter().enumerate() {
            const ANONYMOUS_OR_CONSTANT: u32 = 1 | 2;
            self.message(NEWSET, flag::CREATE, |m| {
                m.put_str(1, table);
                m.put_str(2, name);
                m.put_be32(3, set.flags & !ANONYMOUS_OR_CONSTANT);
                m.put_be32(10, id as u32 + 2);
                for (kind, value) in &set.attributes {
                    if matches!(kind, 9 | 17 | 18) {
                        m.nest(*kind, |m| m.raw(value))
                    } else {
                        m.put(*kind, value)
                    }
                }
            });
            let mut rest = set.elements.as_slice();
            while !rest.is_empty() {
                let mut bytes = 0;
                let fits = rest.iter().take_while(|e| {
                    bytes += e.len() + 8;
                    bytes <= CHUNK
                });
                let (now, later) = rest.split_at(fits.count().max(1));
                rest = later;
                self.message(NEWSETELEM, flag::CREATE, |m| {
                    m.put_str(1, table);
                    m.put_str(2, name);
                    m.nest(3, |m| now.iter().for_each(|e| m.nest(1, |m| m.raw(e))));
                });
            }
        }
    }

    fn rules(&mut self, original: &Original) {
        let (table, family) = (self.table, self.family);
        for (chain, rules) in &original.chains {
            for rule in rules {
                self.message(NEWRULE, flag::CREATE | flag::APPEND, |m| {
                    m.put_str(1, table);
                    m.put_str(2, chain);
                    m.nest(4, |m| {
                        for (_, expression) in Attributes(rule) {
                            match reject_of(expression, family) {
                                Some((kind, code)) => m.nest(1, |m| {
                                    m.put_str(1, "reject");
                                    m.nest(2, |m| {
                                        m.put_be32(1, kind);
                                        m.put_u8(2, code);
                                    });
                                }),
                                None => m.nest(1, |m| m.raw(expression)),
                            }
                        }
                    });
                    if let Some(protocol) = protocol_of(rule) {
                        m.nest(5, |m| {
                            m.put_be32(1, protocol.into());
                            m.put_be32(2, 0);
                        });
                    }
                });
            }
        }
    }
}

/// The transport protocol that a rule with extensions of iptables is limited to. Some extensions insist on one; it is
/// told beside the rule, and the kernel does not tell it back.
fn protocol_of(rule: &[u8]) -> Option<u8> {
    const L4PROTO: u32 = 16;
    const NETWORK_HEADER: u32 = 1;
    let all: Vec<(String, Attributes<'_>)> = expressions(rule).collect();
    if !all.iter().any(|(name, _)| matches!(name.as_str(), "match" | "target")) {
        return None;
    }
    let number = |data: Attributes<'_>, kind| data.get(kind).and_then(u32_of).map(u32::from_be);
    all.windows(2).find_map(|pair| {
        let [(load, what), (compare, with)] = pair else { return None };
        let protocol = match load.as_str() {
            "meta" => number(*what, 2) == Some(L4PROTO),
            // The field of the IPv4 header
            "payload" => (number(*what, 2), number(*what, 3)) == (Some(NETWORK_HEADER), Some(9)),
            _ => false,
        };
        let equal = compare == "cmp" && number(*with, 2) == Some(0);
        (protocol && equal).then(|| Attributes(with.get(3)?).get(1)?.first().copied()).flatten()
    })
}

/// The kernel's own `reject` (type, ICMP code) for the extension of iptables.
fn reject_of(expression: &[u8], family: u8) -> Option<(u32, u8)> {
    const ICMP_UNREACHABLE: u32 = 0;
    const TCP_RESET: u32 = 1;
    let attributes = Attributes(expression);
    if str_of(attributes.get(1)?) != "target" {
        return None;
    }
    let data = Attributes(attributes.get(2)?);
    if str_of(data.get(1)?) != "REJECT" {
        return None;
    }
    // enum ipt_reject_with and ip6t_reject_with
    let with = data.get(3).and_then(u32_of).unwrap_or(u32::MAX);
    Some(match (family, with) {
        (2, 7) | (10, 6) => (TCP_RESET, 0),
        (2, 0..=2) | (10, 0..=4) => (ICMP_UNREACHABLE, with as u8),
        (2, 5) => (ICMP_UNREACHABLE, 9),
        (2, 6) => (ICMP_UNREACHABLE, 10),
        (2, 8) => (ICMP_UNREACHABLE, 13),
        (10, _) => (ICMP_UNREACHABLE, 4),
        _ => (ICMP_UNREACHABLE, 3),
    })
}
