//! Expressions: what rules are made of.
//!
//! Registers are the 32-bit ones, numbered from 0; what is loaded side by side is compared or looked up as one key.

use crate::nla::Batch;

/// What happens to the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    /// Goes on in a plain chain, and comes back from there.
    Jump(&'static str),
}

impl Verdict {
    pub(super) fn encode(self, m: &mut Batch) {
        let code: i32 = match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
        };
        m.nest(2, |m| {
            m.put_be32(1, code as u32);
            if let Self::Jump(chain) = self {
                m.put_str(2, chain);
            }
        });
    }
}

/// Facts about a packet that are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Mark = 3,
    InName = 6,
    OutName = 7,
    /// IPv4 or IPv6: 2 or 10.
    NetworkProtocol = 15,
    /// TCP, UDP, SCTP, …
    Protocol = 16,
    /// `bridge`, `veth`, …; hardware has none.
    InKind = 26,
    OutKind = 27,
}

/// Where an offset into the packet counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// Facts about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    State = 0,
    Status = 2,
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta {
        key: Meta,
        to: u32,
    },
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: u32,
    },
    /// Writes a register into the packet; the checksum of the transport header at `checksum` is kept right.
    WritePayload {
        base: Base,
        offset: u32,
        length: u32,
        from: u32,
        checksum: u32,
    },
    Connection {
        key: Connection,
        to: u32,
    },
    /// Whether the packet's destination is an address of this host.
    DestinationType {
        to: u32,
    },
    /// The rule ends here unless the register is (or is not) this.
    Compare {
        register: u32,
        equal: bool,
        value: Vec<u8>,
    },
    /// `register = register & mask`
    Mask {
        register: u32,
        mask: Vec<u8>,
    },
    /// The rule ends here unless the registers from this one on are a key of the set (`to`: their value).
    Lookup {
        set: &'static str,
        register: u32,
        to: Option<u32>,
    },
    /// The rule ends here if the registers from this one on are a key of the set.
    NoLookup {
        set: &'static str,
        register: u32,
    },
    Immediate {
        to: u32,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// New destination: address in one register, port in another unless it stays.
    Dnat {
        v6: bool,
        address: u32,
        port: Option<u32>,
    },
    /// New source address.
    Snat {
        v6: bool,
        address: u32,
    },
    Masquerade,
    /// The connection is not followed.
    NoTrack,
}

fn register(number: u32) -> u32 {
    // NFT_REG32_00
    8 + number
}

impl Expr {
    pub(super) fn encode(&self, m: &mut Batch) {
        m.nest(1, |m| {
            m.put_str(1, self.name());
            m.nest(2, |m| self.encode_data(m));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } | Self::WritePayload { .. } => "payload",
            Self::Connection { .. } => "ct",
            Self::DestinationType { .. } => "fib",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } | Self::NoLookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Dnat { .. } | Self::Snat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::NoTrack => "notrack",
        }
    }

    fn encode_data(&self, m: &mut Batch) {
        match self {
            Self::Meta { key, to } => {
                m.put_be32(1, register(*to));
                m.put_be32(2, *key as u32);
            }
            Self::Payload { base, offset, length, to } => {
                m.put_be32(1, register(*to));
                m.put_be32(2, *base as u32);
                m.put_be32(3, *offset);
                m.put_be32(4, *length);
            }
            Self::WritePayload { base, offset, length, from, checksum } => {
                m.put_be32(2, *base as u32);
                m.put_be32(3, *offset);
                m.put_be32(4, *length);
                m.put_be32(5, register(*from));
                m.put_be32(6, 1);
                m.put_be32(7, *checksum);
            }
            Self::Connection { key, to } => {
                m.put_be32(1, register(*to));
                m.put_be32(2, *key as u32);
            }
            Self::DestinationType { to } => {
                m.put_be32(1, register(*to));
                m.put_be32(2, 3);
                m.put_be32(3, 2);
            }
            Self::Compare { register: from, equal, value } => {
                m.put_be32(1, register(*from));
                m.put_be32(2, u32::from(!equal));
                m.nest(3, |m| m.put(1, value));
            }
            Self::Mask { register: both, mask } => {
                m.put_be32(1, register(*both));
                m.put_be32(2, register(*both));
                m.put_be32(3, mask.len() as u32);
                m.nest(4, |m| m.put(1, mask));
                m.nest(5, |m| m.put(1, &vec![0; mask.len()]));
            }
            Self::Lookup { set, register: from, to } => {
                m.put_str(1, set);
                m.put_be32(2, register(*from));
                if let Some(to) = to {
                    m.put_be32(3, register(*to));
                }
            }
            Self::NoLookup { set, register: from } => {
                const INVERTED: u32 = 1;
                m.put_str(1, set);
                m.put_be32(2, register(*from));
                m.put_be32(5, INVERTED);
            }
            Self::Immediate { to, value } => {
                m.put_be32(1, register(*to));
                m.nest(2, |m| m.put(1, value));
            }
            Self::Verdict(verdict) => {
                m.put_be32(1, 0);
                m.nest(2, |m| verdict.encode(m));
            }
            Self::Dnat { v6, address, port } => {
                m.put_be32(1, 1);
                m.put_be32(2, family(*v6));
                m.put_be32(3, register(*address));
                if let Some(port) = port {
                    m.put_be32(5, register(*port));
                }
            }
            Self::Snat { v6, address } => {
                m.put_be32(1, 0);
                m.put_be32(2, family(*v6));
                m.put_be32(3, register(*address));
            }
            Self::Masquerade | Self::NoTrack => {}
        }
    }
}

fn family(v6: bool) -> u32 {
    if v6 { 10 } else { 2 }
}
