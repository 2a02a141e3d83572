//! nftables by nfnetlink: commands, their encoding, and atomic commits.
//!
//! A commit is one batch: the kernel takes all of it or none. Only what our rules need is here; listing is limited to
//! the question whether our table is as we left it.

use std::io;

use corten_sys::netlink::Family as NetlinkFamily;

use crate::nla::{Attributes, Batch, Conversation, flag, str_of, u32_of};

pub(crate) mod copy;
mod expr;
pub(crate) mod shorthand;

pub(crate) use expr::{Base, Expr, Meta, Verdict};

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    Nat,
}

/// The types of set keys and map values; sizes and the numbers by which `nft list` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    Link,
}

impl Field {
    fn size(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
            Self::Ipv6 | Self::Link => 16,
        }
    }

    /// Without the filling up to whole registers.
    fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            _ => self.size(),
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Link => 41,
        }
    }
}

/// What a set's elements carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Nothing,
    Fields(&'static [Field]),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// Last key of an interval, field by field.
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Where a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    /// Behind the rule with this handle.
    Behind(u64),
    Before(u64),
    Last,
}

/// A rule of somebody's, as far as we need to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuleNote {
    pub(crate) handle: u64,
    pub(crate) comment: String,
    /// Where it jumps to, if that is what it does.
    pub(crate) jump: String,
}

/// One step of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Base chain, which accepts or drops by default; there already is success.
    Chain { name: &'static str, kind: ChainKind, hook: Hook, priority: i32, drops: bool },
    /// Set or map; there already is success.
    Set { name: &'static str, key: &'static [Field], value: Value },
    /// A set or map whose elements are intervals; there already is success.
    Intervals { name: &'static str, key: &'static [Field], value: Value },
    /// Takes a chain away, with its rules.
    RemoveChain { chain: &'static str },
    /// Takes all rules out of a chain.
    FlushChain { chain: &'static str },
    /// Takes all elements out of a set.
    FlushSet { set: &'static str },
    /// Appends a rule.
    Rule { chain: &'static str, expressions: Vec<Expr> },
    /// A chain that is jumped to; there already is success.
    PlainChain { name: &'static str },
    /// Adds a rule that can be found again by its comment.
    Tagged { chain: &'static str, expressions: Vec<Expr>, comment: String, place: Place },
    /// Takes one rule out.
    RemoveRule { chain: &'static str, handle: u64 },
    /// Adds elements; one that is there with another value fails the commit.
    Add { set: &'static str, elements: Vec<Element> },
    /// Removes elements; one that is not there fails the commit.
    Remove { set: &'static str, elements: Vec<Element> },
}

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const GETSET: u16 = SUBSYSTEM | 10;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const TABLE_OWNER: u32 = 2;
const TABLE_PERSIST: u32 = 4;

/// Elements per message: an attribute holds 64 KiB.
const CHUNK: usize = 256;

/// One table, and the socket that changes it.
#[derive(Debug)]
pub(crate) struct Table {
    conversation: Conversation,
    family: TableFamily,
    name: String,
    flags: u32,
}

impl Table {
    /// Opens a socket in the calling thread's namespace; makes nothing yet.
    pub(crate) fn open(family: TableFamily, name: String) -> io::Result<Self> {
        Ok(Self { conversation: Conversation::open(NetlinkFamily::Netfilter)?, family, name, flags: 0 })
    }

    /// Makes the table, there already is success. With `own` nobody else can change or flush it, and it outlives us.
    ///
    /// LINUX 6.9: `persist`; older kernels get a plain table, which [`Self::is_intact`] watches over.
    pub(crate) fn ensure(&mut self, own: bool) -> io::Result<()> {
        if own {
            self.flags = TABLE_OWNER | TABLE_PERSIST;
            match self.commit(&[]) {
                // EOPNOTSUPP, EINVAL: this kernel has no such flags, or the table was made without them.
                Err(error) if matches!(error.raw_os_error(), Some(95 | 22)) => self.flags = 0,
                outcome => return outcome,
            }
        }
        self.commit(&[])
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel keeps others from changing the table.
    pub(crate) fn is_own(&self) -> bool {
        self.flags & TABLE_OWNER != 0
    }

    /// The number by which the kernel says that a change was ours.
    pub(crate) fn port(&self) -> io::Result<u32> {
        self.conversation.port()
    }

    /// Carries out all commands, or none.
    pub(crate) fn commit(&mut self, commands: &[Command]) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, &[0, 0, 0, 10], |_| {});
        let mut last = batch.len();
        let header = self.header();
        batch.message(NEWTABLE, flag::CREATE, &header, |m| {
            m.put_str(1, &self.name);
            m.put_be32(2, self.flags);
        });
        for (id, command) in commands.iter().enumerate() {
            self.encode(&mut batch, &mut last, command, id as u32 + 1);
        }
        batch.message(BATCH_END, 0, &[0, 0, 0, 10], |_| {});
        self.conversation.execute_before_last(batch, last)
    }

    /// Whether somebody made the table before.
    pub(crate) fn exists(&mut self) -> io::Result<bool> {
        let mut batch = Batch::default();
        batch.message(GETTABLE, 0, &self.header(), |m| m.put_str(1, &self.name));
        match self.conversation.get(batch) {
            Ok(answer) => Ok(answer.is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the table with everything in it; not there is success.
    pub(crate) fn remove(&mut self) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, &[0, 0, 0, 10], |_| {});
        let last = batch.len();
        batch.message(DELTABLE, 0, &self.header(), |m| m.put_str(1, &self.name));
        batch.message(BATCH_END, 0, &[0, 0, 0, 10], |_| {});
        match self.conversation.execute_before_last(batch, last) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether the table is there with this number of rules.
    pub(crate) fn is_intact(&mut self, rules: usize) -> io::Result<bool> {
        let mut batch = Batch::default();
        batch.message(GETTABLE, 0, &self.header(), |m| m.put_str(1, &self.name));
        match self.conversation.get(batch) {
            Ok(None) => return Ok(false),
            Ok(Some((_, payload))) => {
                let flags =
                    payload.get(4..).and_then(|p| Attributes(p).get(2)).and_then(u32_of).map(u32::from_be);
                // DORMANT: the table is there, but switched off.
                if flags.is_some_and(|f| f & 1 != 0) {
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut batch = Batch::default();
        batch.message(GETRULE, flag::DUMP, &self.header(), |m| m.put_str(1, &self.name));
        let mut found = 0;
        self.conversation.dump(batch, |kind, _| found += usize::from(kind == NEWRULE))?;
        Ok(found == rules)
    }

    /// Whether packets that no rule of this base chain decides about are dropped; `None` without such a chain.
    pub(crate) fn drops_by_default(&mut self, chain: &str) -> io::Result<Option<bool>> {
        let mut batch = Batch::default();
        batch.message(GETCHAIN, flag::DUMP, &self.header(), |_| {});
        let (mut found, name) = (None, self.name.clone());
        self.conversation.dump(batch, |_, payload| {
            let Some(attributes) = payload.get(4..).map(Attributes) else { return };
            let is = |kind, text: &str| attributes.get(kind).map(str_of).as_deref() == Some(text);
            if is(1, &name) && is(3, chain) {
                found = attributes.get(5).and_then(u32_of).map(|policy| policy == 0);
            }
        })?;
        Ok(found)
    }

    /// The rules of a chain, in order.
    pub(crate) fn rules(&mut self, chain: &str) -> io::Result<Vec<RuleNote>> {
        let mut batch = Batch::default();
        batch.message(GETRULE, flag::DUMP, &self.header(), |m| {
            m.put_str(1, &self.name);
            m.put_str(2, chain);
        });
        let mut rules = Vec::new();
        let found = self.conversation.dump(batch, |kind, payload| {
            let Some(attributes) = payload.get(4..).map(Attributes).filter(|_| kind == NEWRULE) else {
                return;
            };
            let handle = attributes.get(3).and_then(|h| h.try_into().ok()).map(u64::from_be_bytes);
            rules.push(RuleNote {
                handle: handle.unwrap_or_default(),
                comment: attributes.get(7).map(comment_of).unwrap_or_default(),
                jump: attributes.get(4).and_then(copy::jump_of).unwrap_or_default(),
            });
        });
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            outcome => outcome.map(|()| rules),
        }
    }

    /// The names of all chains of the table.
    pub(crate) fn chains(&mut self) -> io::Result<Vec<String>> {
        let mut batch = Batch::default();
        batch.message(GETCHAIN, flag::DUMP, &self.header(), |_| {});
        let (mut found, name) = (Vec::new(), self.name.clone());
        self.conversation.dump(batch, |_, payload| {
            let Some(attributes) = payload.get(4..).map(Attributes) else { return };
            if attributes.get(1).map(str_of).as_deref() == Some(&name) {
                found.extend(attributes.get(3).map(str_of));
            }
        })?;
        Ok(found)
    }

    fn header(&self) -> [u8; 4] {
        let family = match self.family {
            TableFamily::Inet => 1,
            TableFamily::Ip => 2,
            TableFamily::Ip6 => 10,
        };
        [family, 0, 0, 0]
    }

    fn encode(&self, batch: &mut Batch, last: &mut usize, command: &Command, id: u32) {
        let header = self.header();
        match command {
            Command::Chain { name, kind, hook, priority, drops } => {
                *last = batch.len();
                batch.message(NEWCHAIN, flag::CREATE, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(3, name);
                    m.nest(4, |m| {
                        m.put_be32(1, hook_number(*hook));
                        m.put_be32(2, *priority as u32);
                    });
                    m.put_be32(5, u32::from(!drops));
                    m.put_str(7, chain_kind(*kind));
                });
            }
            Command::Set { name, key, value } => {
                *last = batch.len();
                batch
                    .message(NEWSET, flag::CREATE, &header, |m| self.encode_set(m, name, key, *value, id, 0));
            }
            Command::Intervals { name, key, value } => {
                const INTERVAL_AND_CONCATENATION: u32 = 4 | 0x80;
                *last = batch.len();
                batch.message(NEWSET, flag::CREATE, &header, |m| {
                    self.encode_set(m, name, key, *value, id, INTERVAL_AND_CONCATENATION);
                    m.nest(9, |m| {
                        m.nest(2, |m| {
                            key.iter().for_each(|field| m.nest(1, |m| m.put_be32(1, field.length())));
                        });
                    });
                });
            }
            Command::RemoveChain { chain } => {
                *last = batch.len();
                batch.message(DELCHAIN, 0, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(3, chain);
                });
            }
            Command::FlushChain { chain } => {
                *last = batch.len();
                batch.message(DELRULE, 0, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(2, chain);
                });
            }
            Command::FlushSet { set } => {
                *last = batch.len();
                batch.message(DELSETELEM, 0, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(2, set);
                });
            }
            Command::Rule { chain, expressions } => {
                *last = batch.len();
                batch.message(NEWRULE, flag::CREATE | flag::APPEND, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(2, chain);
                    m.nest(4, |m| expressions.iter().for_each(|e| e.encode(m)));
                });
            }
            Command::PlainChain { name } => {
                *last = batch.len();
                batch.message(NEWCHAIN, flag::CREATE, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(3, name);
                });
            }
            Command::Tagged { chain, expressions, comment, place } => {
                *last = batch.len();
                let append = match place {
                    Place::First | Place::Before(_) => 0,
                    Place::Behind(_) | Place::Last => flag::APPEND,
                };
                batch.message(NEWRULE, flag::CREATE | append, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(2, chain);
                    m.nest(4, |m| expressions.iter().for_each(|e| e.encode(m)));
                    if let Place::Behind(handle) | Place::Before(handle) = place {
                        m.put(6, &handle.to_be_bytes());
                    }
                    m.put(7, &comment_data(comment));
                });
            }
            Command::RemoveRule { chain, handle } => {
                *last = batch.len();
                batch.message(DELRULE, 0, &header, |m| {
                    m.put_str(1, &self.name);
                    m.put_str(2, chain);
                    m.put(3, &handle.to_be_bytes());
                });
            }
            Command::Add { set, elements } => {
                self.encode_elements(batch, last, NEWSETELEM, flag::CREATE, set, elements);
            }
            Command::Remove { set, elements } => {
                self.encode_elements(batch, last, DELSETELEM, 0, set, elements);
            }
        }
    }

    fn encode_set(&self, m: &mut Batch, name: &str, key: &[Field], value: Value, id: u32, flags: u32) {
        const MAP: u32 = 8;
        let numbers = |fields: &[Field]| fields.iter().fold(0, |n, f| (n << 6) | f.number());
        let sizes = |fields: &[Field]| fields.iter().map(|f| f.size()).sum();
        m.put_str(1, &self.name);
        m.put_str(2, name);
        m.put_be32(3, flags | if value == Value::Nothing { 0 } else { MAP });
        m.put_be32(4, numbers(key));
        m.put_be32(5, sizes(key));
        match value {
            Value::Nothing => {}
            Value::Fields(fields) => {
                m.put_be32(6, numbers(fields));
                m.put_be32(7, sizes(fields));
            }
        }
        m.put_be32(10, id);
        // For `nft list` only: link names are text in the host's byte order.
        if key == [Field::Link] {
            const KEY_BYTE_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
            m.put(13, &KEY_BYTE_ORDER);
        }
    }

    fn encode_elements(
        &self,
        batch: &mut Batch,
        last: &mut usize,
        kind: u16,
        flags: u16,
        set: &str,
        elements: &[Element],
    ) {
        for chunk in elements.chunks(CHUNK) {
            *last = batch.len();
            batch.message(kind, flags, &self.header(), |m| {
                m.put_str(1, &self.name);
                m.put_str(2, set);
                m.nest(3, |m| {
                    for element in chunk {
                        m.nest(1, |m| {
                            m.nest(1, |m| m.put(1, &element.key));
                            if let Some(end) = &element.end {
                                m.nest(10, |m| m.put(1, end));
                            }
                            if let Some(value) = &element.value {
                                m.nest(2, |m| m.put(1, value));
                            }
                        });
                    }
                });
            });
        }
    }
}

/// A comment as nft(8) keeps it with a rule: type 0, length, text with a zero.
fn comment_data(comment: &str) -> Vec<u8> {
    let mut data = vec![0, comment.len() as u8 + 1];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    data
}

/// The text of such a comment; empty where there is none.
fn comment_of(data: &[u8]) -> String {
    match data {
        [0, length, text @ ..] => str_of(text.get(..usize::from(*length)).unwrap_or_default()),
        _ => String::new(),
    }
}

/// The table that a notice is about.
pub(crate) fn table_of(payload: &[u8]) -> Option<String> {
    payload.get(4..).and_then(|p| Attributes(p).get(1)).map(str_of)
}

/// Whether a notice says that something was taken out of this table.
pub(crate) fn is_removal(kind: u16, payload: &[u8], table: &str) -> bool {
    let removals = [DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM];
    removals.contains(&kind) && table_of(payload).as_deref() == Some(table)
}

/// The multicast group of [`is_removal`]'s notices.
pub(crate) const NOTICES: u32 = 7;

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

fn chain_kind(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    }
}
