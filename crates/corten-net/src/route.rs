//! Links, addresses, routes and neighbours by rtnetlink. No decisions: every function does what it says.
//!
//! Changes are gathered in a [`Batch`] and go to the kernel in one datagram; the kernel works through it in order
//! and carries on after a failure, so that a batch must be undone as a whole when it fails.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use corten_sys::netlink::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::endpoint::Mac;
use crate::nla::{Attributes, Batch, Conversation, flag, str_of, u32_of};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const DELADDR: u16 = 21;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const GETQDISC: u16 = 38;
const NEWTFILTER: u16 = 44;

/// Where queues hang.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;

const AF_BRIDGE: u8 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;

mod ifla {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const IFNAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const PROTINFO: u16 = 12;
    pub(super) const LINKINFO: u16 = 18;
    pub(super) const ALIAS: u16 = 20;
    pub(super) const STATS64: u16 = 23;
    pub(super) const AF_SPEC: u16 = 26;
    pub(super) const NET_NS_FD: u16 = 28;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const INFO_SLAVE_KIND: u16 = 4;
    pub(super) const INFO_SLAVE_DATA: u16 = 5;
    pub(super) const VETH_PEER: u16 = 1;
    pub(super) const VLAN_ID: u16 = 1;
    pub(super) const MACVLAN_MODE: u16 = 1;
    pub(super) const INET6_ADDR_GEN_MODE: u16 = 8;
    pub(super) const BRPORT_STATE: u16 = 1;
    pub(super) const BRPORT_HAIRPIN: u16 = 4;
    pub(super) const BRPORT_FLUSH: u16 = 24;
    pub(super) const BRPORT_ISOLATED: u16 = 33;
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    /// The bridge it is a port of, or 0.
    pub(crate) master: u32,
    /// It has a carrier, and the kernel has drawn the consequences.
    pub(crate) running: bool,
    /// As a bridge port: frames pass.
    pub(crate) forwarding: bool,
    /// Free text, by which we know our own.
    pub(crate) alias: String,
    /// rx packets, tx packets, rx bytes, tx bytes, rx errors, tx errors, rx dropped, tx dropped
    pub(crate) counters: [u64; 8],
}

/// A new veth pair.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) peer_ns: BorrowedFd<'a>,
    pub(crate) mtu: u32,
    pub(crate) bridge: u32,
}

/// Changes to be made in one go.
#[derive(Debug, Default)]
pub(crate) struct Changes(Batch);

impl Changes {
    pub(crate) fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, IFF_UP, IFF_UP), |m| {
            m.put_str(ifla::IFNAME, name);
            m.put(ifla::ADDRESS, &mac.0);
            m.put_u32(ifla::MTU, mtu);
            m.nest(ifla::LINKINFO, |m| m.put_str(ifla::INFO_KIND, "bridge"));
        });
    }

    /// The host side is a port of the bridge, the other side appears in its namespace; both are down.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, 0, 0), |m| {
            m.put_str(ifla::IFNAME, veth.host_name);
            m.put_u32(ifla::MTU, veth.mtu);
            m.put_u32(ifla::MASTER, veth.bridge);
            m.nest(ifla::LINKINFO, |m| {
                m.put_str(ifla::INFO_KIND, "veth");
                m.nest(ifla::INFO_DATA, |m| {
                    m.nest(ifla::VETH_PEER, |m| {
                        m.raw(&link_header(0, 0, 0, 0));
                        m.put_str(ifla::IFNAME, veth.peer_name);
                        m.put(ifla::ADDRESS, &veth.peer_mac.0);
                        m.put_u32(ifla::MTU, veth.mtu);
                        m.put_u32(ifla::NET_NS_FD, veth.peer_ns.as_raw_fd() as u32);
                    });
                });
            });
        });
    }

    /// A macvlan link on `parent`, made directly in the target namespace.
    pub(crate) fn add_macvlan(&mut self, name: &str, parent: u32, mode: u32, mac: Mac, ns: BorrowedFd<'_>) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, 0, 0), |m| {
            m.put_str(ifla::IFNAME, name);
            m.put(ifla::ADDRESS, &mac.0);
            m.put_u32(ifla::LINK, parent);
            m.put_u32(ifla::NET_NS_FD, ns.as_raw_fd() as u32);
            m.nest(ifla::LINKINFO, |m| {
                m.put_str(ifla::INFO_KIND, "macvlan");
                m.nest(ifla::INFO_DATA, |m| m.put_u32(ifla::MACVLAN_MODE, mode));
            });
        });
    }

    /// An ipvlan link on `parent`, made directly in the target namespace; mode and flags are the kernel's.
    pub(crate) fn add_ipvlan(
        &mut self,
        name: &str,
        parent: u32,
        (mode, flags): (u16, u16),
        ns: Option<BorrowedFd<'_>>,
    ) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, 0, 0), |m| {
            m.put_str(ifla::IFNAME, name);
            m.put_u32(ifla::LINK, parent);
            if let Some(ns) = ns {
                m.put_u32(ifla::NET_NS_FD, ns.as_raw_fd() as u32);
            }
            m.nest(ifla::LINKINFO, |m| {
                m.put_str(ifla::INFO_KIND, "ipvlan");
                m.nest(ifla::INFO_DATA, |m| {
                    m.put(1, &mode.to_ne_bytes());
                    m.put(2, &flags.to_ne_bytes());
                });
            });
        });
    }

    /// A dummy link: the parent of macvlan networks that have none.
    pub(crate) fn add_dummy(&mut self, name: &str) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, IFF_UP, IFF_UP), |m| {
            m.put_str(ifla::IFNAME, name);
            m.nest(ifla::LINKINFO, |m| m.put_str(ifla::INFO_KIND, "dummy"));
        });
    }

    /// A VLAN on top of a link.
    pub(crate) fn add_vlan(&mut self, name: &str, parent: u32, number: u16) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, IFF_UP, IFF_UP), |m| {
            m.put_str(ifla::IFNAME, name);
            m.put_u32(ifla::LINK, parent);
            m.nest(ifla::LINKINFO, |m| {
                m.put_str(ifla::INFO_KIND, "vlan");
                m.nest(ifla::INFO_DATA, |m| m.put(ifla::VLAN_ID, &number.to_ne_bytes()));
            });
        });
    }

    /// A link that gives back what is redirected to it, after its queue.
    pub(crate) fn add_ifb(&mut self, name: &str) {
        self.0.message(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, IFF_UP, IFF_UP), |m| {
            m.put_str(ifla::IFNAME, name);
            m.nest(ifla::LINKINFO, |m| m.put_str(ifla::INFO_KIND, "ifb"));
        });
    }

    /// Lets no more than `rate` bits per second out of the link.
    pub(crate) fn set_token_bucket(&mut self, index: u32, rate: u64) {
        let bytes = (rate / 8).max(1);
        // A hundredth of a second may go in one piece, and a fifth may wait.
        let burst = u32::try_from(bytes / 100).unwrap_or(u32::MAX / 2).max(16 * 1024);
        let limit = u32::try_from(bytes / 5).unwrap_or(u32::MAX / 2).saturating_add(burst);
        // struct tc_ratespec, twice, then limit, buffer, mtu; linklayer is Ethernet, so that no table is needed
        let mut options = vec![0, 1, 0, 0, 0, 0, 0, 0];
        options.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_ne_bytes());
        options.extend_from_slice(&[0; 12]);
        options.extend_from_slice(&limit.to_ne_bytes());
        options.extend_from_slice(&[0; 8]);
        self.0.message(NEWQDISC, flag::CREATE | flag::REPLACE, &queue_header(index, 0, ROOT, 0), |m| {
            m.put_str(1, "tbf");
            m.nest(2, |m| {
                m.put(1, &options);
                if bytes > u64::from(u32::MAX) {
                    m.put(4, &bytes.to_ne_bytes());
                }
                m.put_u32(6, burst);
            });
        });
    }

    /// The queue that every link has.
    pub(crate) fn no_queue(&mut self, index: u32) {
        self.0.message(DELQDISC, 0, &queue_header(index, 0, ROOT, 0), |_| {});
    }

    /// What comes in by one link goes through the queue of another first.
    pub(crate) fn redirect_ingress(&mut self, index: u32, to: u32) {
        const PRIORITY_AND_ALL_PROTOCOLS: u32 = (1 << 16) | (3u16.to_be() as u32);
        const STOLEN: u32 = 4;
        const EGRESS_REDIRECT: u32 = 1;
        self.0.message(NEWQDISC, flag::CREATE, &queue_header(index, INGRESS_HANDLE, INGRESS, 0), |m| {
            m.put_str(1, "ingress");
        });
        let header = queue_header(index, 0, INGRESS_HANDLE, PRIORITY_AND_ALL_PROTOCOLS);
        self.0.message(NEWTFILTER, flag::CREATE | flag::EXCL, &header, |m| {
            m.put_str(1, "u32");
            m.nest(2, |m| {
                // struct tc_u32_sel: the last word, one key; the key: nothing of the first word
                let mut selector = vec![0; 32];
                selector[0] = 1;
                selector[2] = 1;
                m.put(5, &selector);
                m.nest(7, |m| {
                    m.nest(1, |m| {
                        m.put_str(1, "mirred");
                        m.nest(2, |m| {
                            // struct tc_mirred: index, capabilities, action, two counts, what to do, where
                            let fields = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to];
                            m.put(2, &fields.map(u32::to_ne_bytes).concat());
                        });
                    });
                });
            });
        });
    }

    pub(crate) fn no_ingress(&mut self, index: u32) {
        self.0.message(DELQDISC, 0, &queue_header(index, INGRESS_HANDLE, INGRESS, 0), |_| {});
    }

    pub(crate) fn set_up(&mut self, index: u32) {
        self.0.message(SETLINK, 0, &link_header(0, index, IFF_UP, IFF_UP), |_| {});
    }

    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) {
        self.0.message(SETLINK, 0, &link_header(0, index, 0, 0), |m| m.put_u32(ifla::MTU, mtu));
    }

    /// Sets the hardware address of a link; also where it is that already, the kernel announces the link's addresses
    /// (`arp_notify`, `ndisc_notify`).
    pub(crate) fn set_mac(&mut self, index: u32, mac: Mac) {
        self.0.message(SETLINK, 0, &link_header(0, index, 0, 0), |m| m.put(ifla::ADDRESS, &mac.0));
    }

    pub(crate) fn set_up_named(&mut self, name: &str) {
        self.0.message(SETLINK, 0, &link_header(0, 0, IFF_UP, IFF_UP), |m| m.put_str(ifla::IFNAME, name));
    }

    pub(crate) fn set_alias(&mut self, name: &str, alias: &str) {
        self.0.message(SETLINK, 0, &link_header(0, 0, 0, 0), |m| {
            m.put_str(ifla::IFNAME, name);
            m.put(ifla::ALIAS, alias.as_bytes());
        });
    }

    /// No link-local IPv6 address on this link.
    pub(crate) fn no_link_local(&mut self, name: &str) {
        self.0.message(SETLINK, 0, &link_header(0, 0, 0, 0), |m| {
            m.put_str(ifla::IFNAME, name);
            m.nest(ifla::AF_SPEC, |m| {
                m.nest(u16::from(AF_INET6), |m| m.put_u8(ifla::INET6_ADDR_GEN_MODE, 1));
            });
        });
    }

    /// Port behaviour: `isolated` ports do not talk to each other, `hairpin` ports may get their own frames back.
    pub(crate) fn set_port(&mut self, name: &str, isolated: bool, hairpin: bool) {
        // NEWLINK on a link that exists changes it; SETLINK knows nothing of port data.
        self.0.message(NEWLINK, 0, &link_header(0, 0, 0, 0), |m| {
            m.put_str(ifla::IFNAME, name);
            m.nest(ifla::LINKINFO, |m| {
                m.put_str(ifla::INFO_SLAVE_KIND, "bridge");
                m.nest(ifla::INFO_SLAVE_DATA, |m| {
                    m.put_u8(ifla::BRPORT_ISOLATED, u8::from(isolated));
                    m.put_u8(ifla::BRPORT_HAIRPIN, u8::from(hairpin));
                });
            });
        });
    }

    /// The port neither sends nor receives any more, and the bridge forgets who was behind it: the quick half of
    /// taking a link away.
    pub(crate) fn mute_port(&mut self, index: u32) {
        self.0.message(SETLINK, 0, &link_header(AF_BRIDGE, index, 0, 0), |m| {
            m.nest(ifla::PROTINFO, |m| {
                m.put_u8(ifla::BRPORT_STATE, 0);
                m.put(ifla::BRPORT_FLUSH, &[]);
            });
        });
    }

    pub(crate) fn delete_link(&mut self, index: u32) {
        self.0.message(DELLINK, 0, &link_header(0, index, 0, 0), |_| {});
    }

    /// Replaces an equal address; IPv6 addresses are usable at once, without duplicate address detection.
    pub(crate) fn add_address(&mut self, index: u32, address: IpNet) {
        const IFA_F_NODAD: u8 = 2;
        let (family, bytes) = octets(address.addr());
        let flags = if family == AF_INET6 { IFA_F_NODAD } else { 0 };
        let mut header = vec![family, address.prefix_len(), flags, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        self.0.message(NEWADDR, flag::CREATE | flag::REPLACE, &header, |m| {
            m.put(1, &bytes);
            m.put(2, &bytes);
            if let IpNet::V4(net) = address
                && net.prefix_len() < 31
            {
                m.put(4, &net.broadcast().octets());
            }
        });
    }

    pub(crate) fn delete_address(&mut self, index: u32, address: IpNet) {
        let (family, bytes) = octets(address.addr());
        let mut header = vec![family, address.prefix_len(), 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        self.0.message(DELADDR, 0, &header, |m| m.put(2, &bytes));
    }

    /// The default route of the gateway's family, replacing an earlier one.
    pub(crate) fn set_default_route(&mut self, index: u32, gateway: IpAddr) {
        let (family, bytes) = octets(gateway);
        self.0.message(NEWROUTE, flag::CREATE | flag::REPLACE, &route_header(family, 0), |m| {
            m.put(5, &bytes);
            m.put_u32(4, index);
        });
    }

    /// Everything goes out by this link, without a gateway.
    pub(crate) fn set_device_route(&mut self, index: u32, v6: bool) {
        const SCOPE_LINK: u8 = 253;
        let family = if v6 { AF_INET6 } else { AF_INET };
        let mut header = route_header(family, 0);
        header[6] = if v6 { 0 } else { SCOPE_LINK };
        self.0.message(NEWROUTE, flag::CREATE | flag::REPLACE, &header, |m| m.put_u32(4, index));
    }

    /// Tells the host which hardware address answers for `address`, so that nobody asks an earlier owner.
    pub(crate) fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) {
        const NUD_STALE: u16 = 4;
        let (family, bytes) = octets(address);
        let mut header = vec![family, 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&NUD_STALE.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        self.0.message(NEWNEIGH, flag::CREATE | flag::REPLACE, &header, |m| {
            m.put(1, &bytes);
            m.put(2, &mac.0);
        });
    }
}

/// A route of the main table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) link: Option<u32>,
}

/// rtnetlink in one namespace.
#[derive(Debug)]
pub(crate) struct Rtnetlink(Conversation);

impl Rtnetlink {
    /// Opens it in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Conversation::open(Family::Route)?))
    }

    pub(crate) fn apply(&mut self, changes: Changes) -> io::Result<()> {
        self.0.execute(changes.0)
    }

    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut batch = Batch::default();
        batch.message(GETLINK, 0, &link_header(0, 0, 0, 0), |m| m.put_str(ifla::IFNAME, name));
        match self.0.get(batch) {
            Ok(answer) => Ok(answer.and_then(|(kind, payload)| parse_link(kind, &payload))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut batch = Batch::default();
        batch.message(GETLINK, flag::DUMP, &link_header(0, 0, 0, 0), |_| {});
        let mut links = Vec::new();
        self.0.dump(batch, |kind, payload| links.extend(parse_link(kind, payload)))?;
        Ok(links)
    }

    /// All addresses, with the index of their link.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(u32, IpNet)>> {
        let mut batch = Batch::default();
        batch.message(GETADDR, flag::DUMP, &[0; 8], |_| {});
        let mut addresses = Vec::new();
        self.0.dump(batch, |kind, payload| {
            if kind != NEWADDR || payload.len() < 8 {
                return;
            }
            let attributes = Attributes(&payload[8..]);
            let address = attributes.get(2).or_else(|| attributes.get(1)).and_then(address_of);
            let net = address.and_then(|a| IpNet::new(a, payload[1]).ok());
            addresses.extend(u32_of(&payload[4..]).zip(net));
        })?;
        Ok(addresses)
    }

    /// Addresses of one link.
    pub(crate) fn addresses_of(&mut self, index: u32) -> io::Result<Vec<IpNet>> {
        Ok(self.addresses()?.into_iter().filter(|(i, _)| *i == index).map(|(_, net)| net).collect())
    }

    /// Whether something is done with what comes in by the link.
    pub(crate) fn has_ingress(&mut self, index: u32) -> io::Result<bool> {
        let mut batch = Batch::default();
        batch.message(GETQDISC, flag::DUMP, &queue_header(index, 0, 0, 0), |_| {});
        let mut found = false;
        self.0.dump(batch, |_, payload| {
            let number = |at: usize| payload.get(at..).and_then(u32_of);
            found |= number(4) == Some(index) && number(8) == Some(INGRESS_HANDLE);
        })?;
        Ok(found)
    }

    /// Unicast routes of the main table, both families.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        const MAIN: u8 = 254;
        const UNICAST: u8 = 1;
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut batch = Batch::default();
            let mut header = [0u8; 12];
            header[0] = family;
            batch.message(GETROUTE, flag::DUMP, &header, |_| {});
            self.0.dump(batch, |kind, payload| {
                if kind != NEWROUTE || payload.len() < 12 || payload[4] != MAIN || payload[7] != UNICAST {
                    return;
                }
                let attributes = Attributes(&payload[12..]);
                let any = if family == AF_INET {
                    IpNet::from(Ipv4Net::default())
                } else {
                    Ipv6Net::default().into()
                };
                let destination = match attributes.get(1).and_then(address_of) {
                    Some(address) => IpNet::new(address, payload[1]).ok(),
                    None => Some(any),
                };
                let link = attributes.get(4).and_then(u32_of);
                routes.extend(destination.map(|destination| Route { destination, link }));
            })?;
        }
        Ok(routes)
    }

    /// MTU of the link that the IPv4 (else IPv6) default route leaves by; 1500 without one.
    pub(crate) fn default_mtu(&mut self) -> io::Result<u32> {
        let index = self.routes()?.iter().find(|r| r.destination.prefix_len() == 0).and_then(|r| r.link);
        let Some(index) = index else { return Ok(1500) };
        Ok(self.links()?.iter().find(|l| l.index == index).map_or(1500, |l| l.mtu))
    }
}

/// Whether the kernel says that there is no such thing.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    // ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(19 | 2 | 3 | 99))
}

/// struct tcmsg
fn queue_header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    for (at, number) in [(4, index), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    header
}

fn parse_link(kind: u16, payload: &[u8]) -> Option<Link> {
    if kind != NEWLINK {
        return None;
    }
    let header = payload.get(..16)?;
    let mut link = Link {
        index: u32_of(&header[4..])?,
        running: u32_of(&header[8..])? & IFF_RUNNING != 0,
        ..Link::default()
    };
    for (kind, value) in Attributes(&payload[16..]) {
        match kind {
            ifla::IFNAME => link.name = str_of(value),
            ifla::ADDRESS => link.mac = value.try_into().ok().map(Mac),
            ifla::MTU => link.mtu = u32_of(value)?,
            ifla::MASTER => link.master = u32_of(value)?,
            ifla::ALIAS => link.alias = str_of(value),
            ifla::LINKINFO => {
                const FORWARDING: &[u8] = &[3];
                let info = Attributes(value);
                link.kind = info.get(ifla::INFO_KIND).map(str_of).unwrap_or_default();
                let port = info.get(ifla::INFO_SLAVE_DATA).map(Attributes);
                link.forwarding = port.and_then(|p| p.get(ifla::BRPORT_STATE)) == Some(FORWARDING);
            }
            ifla::STATS64 => {
                for (counter, bytes) in link.counters.iter_mut().zip(value.chunks_exact(8)) {
                    *counter = u64::from_ne_bytes(bytes.try_into().ok()?);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn link_header(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![family, 0, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&flags.to_ne_bytes());
    header.extend_from_slice(&change.to_ne_bytes());
    header
}

fn route_header(family: u8, prefix: u8) -> Vec<u8> {
    // table main, protocol boot, scope universe, type unicast
    vec![family, prefix, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
    }
}

/// An address as the kernel writes it: 4 or 16 bytes.
pub(crate) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}
