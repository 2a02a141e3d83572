//! Living beside other programs' packet filters.
//!
//! A packet must be accepted by every table that sees it, so that the forward chains of iptables and firewalld get
//! rules that leave our bridges' traffic to our own table. `DOCKER-USER`, where users put what they want to be true of
//! all container traffic, is there before they need it and comes first:
//!
//! ```text
//! table ip filter                  (iptables; the same for ip6)
//!   FORWARD (forward)
//!     jump DOCKER-USER             ours unless somebody else made one
//!     iifname br-… accept          only where the chain drops by default or has rules
//!     oifname br-… accept
//!     …                            whatever else there is; with `respect` it comes first
//!   DOCKER-USER
//! table inet firewalld
//!   filter_FORWARD                 the same without DOCKER-USER
//! ```
//!
//! [`Foreign::settle`] changes nothing if all is as it should be, so that it can be called whenever somebody has
//! changed something.

use std::io;

use crate::endpoint::Protocol;
use crate::nft::copy::Copier;
use crate::nft::shorthand::{accept, in_link, out_link, padded};
use crate::nft::{ChainKind, Command, Expr, Hook, Place, RuleNote, Table, TableFamily, Verdict};

const USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// Everybody else's tables.
#[derive(Debug)]
pub(super) struct Foreign {
    chains: Vec<ForwardChain>,
    /// Copies of the host's rules for itself: `--firewall=respect`.
    copier: Copier,
    respect: bool,
    mark: String,
}

/// A chain of another program that sees forwarded packets.
#[derive(Debug)]
struct ForwardChain {
    table: Table,
    chain: &'static str,
    /// It is iptables', where DOCKER-USER belongs.
    iptables: bool,
    /// Told once that it cannot be changed.
    told: bool,
}

impl Foreign {
    /// Opens sockets in the calling thread's namespace; changes nothing yet. `mark` is the name of our own table.
    pub(super) fn open(mark: String, respect: bool) -> io::Result<Self> {
        let chain = |family, table: &str, chain, iptables| {
            let table = Table::open(family, table.to_owned())?;
            io::Result::Ok(ForwardChain { table, chain, iptables, told: false })
        };
        let chains = vec![
            chain(TableFamily::Ip, "filter", FORWARD, true)?,
            chain(TableFamily::Ip6, "filter", FORWARD, true)?,
            chain(TableFamily::Inet, "firewalld", "filter_FORWARD", false)?,
        ];
        Ok(Self { chains, copier: Copier::open()?, respect, mark })
    }

    /// The numbers by which the kernel says that a change was ours.
    pub(super) fn ports(&self) -> io::Result<Vec<u32>> {
        self.chains.iter().map(|c| c.table.port()).chain([self.copier.port()]).collect()
    }

    /// Makes sure of our rules in other programs' chains. Not being able to is no reason to fail: containers work, but
    /// may not get out.
    pub(super) fn settle(&mut self, links: &[&str]) {
        let (mark, respect) = (&self.mark, self.respect);
        for chain in &mut self.chains {
            match chain.settle(links, mark, respect) {
                Ok(()) => chain.told = false,
                Err(error) if !chain.told => {
                    chain.told = true;
                    tracing::warn!(
                        table = chain.table.name(), chain = chain.chain, %error,
                        "cannot add our bridges to another program's forward chain: containers may not get out"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// Takes everything of ours out of other programs' chains, and DOCKER-USER away unless it is used.
    pub(super) fn leave(&mut self) {
        for chain in &mut self.chains {
            if let Err(error) = chain.leave(&self.mark) {
                tracing::warn!(table = chain.table.name(), %error, "rules of ours are left behind");
            }
        }
        if let Err(error) = self.remove_twins(&[]) {
            tracing::warn!(%error, "copies of the host's rules are left behind");
        }
    }

    /// Whether published ports are subject to the host's own rules.
    pub(super) fn respects(&self) -> bool {
        self.respect
    }

    /// Makes the copies of the host's rules for itself anew, for these published ports. Without `respect`: takes those
    /// of an earlier daemon away.
    pub(super) fn copy(&mut self, published: &[(Protocol, u16)]) -> io::Result<()> {
        if !self.respect {
            return self.remove_twins(&[]);
        }
        let own = self.mark.clone();
        let originals = self.copier.read(|table| table.starts_with("corten-"))?;
        let key = |(protocol, port): &(Protocol, u16)| {
            let key = [padded(&[protocol.number()]), padded(&port.to_be_bytes())].concat();
            key.try_into().expect("two registers are eight bytes")
        };
        let services: Vec<[u8; 8]> = published.iter().map(key).collect();
        let mut twins = Vec::new();
        for original in &originals {
            let twin = format!("{own}-{}", original.name());
            if let Err(error) = self.copier.write(original, &twin, &services, false) {
                tracing::error!(
                    table = original.name(), %error,
                    "the host's rules cannot be copied: published ports stay closed (--firewall=respect)"
                );
                self.copier.write(original, &twin, &services, true)?;
            }
            twins.push(twin);
        }
        self.remove_twins(&twins)
    }

    fn remove_twins(&mut self, keep: &[String]) -> io::Result<()> {
        let prefix = format!("{}-", self.mark);
        for (family, table) in self.copier.tables()? {
            if table.starts_with(&prefix) && !keep.contains(&table) {
                self.copier.remove(family, &table)?;
            }
        }
        Ok(())
    }
}

impl ForwardChain {
    fn settle(&mut self, links: &[&str], mark: &str, respect: bool) -> io::Result<()> {
        let policy = self.table.drops_by_default(self.chain)?;
        if policy.is_none() && !self.iptables {
            return Ok(());
        }
        let rules = if policy.is_some() { self.table.rules(self.chain)? } else { Vec::new() };
        let ours = |rule: &RuleNote| is_ours(rule, mark);
        let jump = rules.iter().position(|r| r.jump == USER);
        let others = rules.iter().any(|r| !is_ours(r, "corten-") && r.jump != USER);
        let admits = policy == Some(true) || others;
        let wanted: Vec<String> =
            if admits { links.iter().flat_map(|l| notes(l, mark)).collect() } else { Vec::new() };
        let mut present: Vec<&str> =
            rules.iter().filter(|r| ours(r) && r.jump.is_empty()).map(|r| r.comment.as_str()).collect();
        present.sort_unstable();
        let mut sorted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let first = rules.iter().position(|r| ours(r) && r.jump.is_empty());
        let in_order = match (jump, first) {
            (Some(jump), Some(first)) => jump < first,
            _ => true,
        };
        let called = !self.iptables || jump.is_some() && self.table.chains()?.iter().any(|c| c == USER);
        if called && in_order && present == sorted {
            return Ok(());
        }
        let jump = rules.iter().find(|r| r.jump == USER && !ours(r)).map(|r| r.handle);
        let chain = self.chain;
        let old = rules.iter().filter(|r| ours(r)).map(|r| Command::RemoveRule { chain, handle: r.handle });
        let mut commands: Vec<Command> = old.collect();
        if policy.is_none() {
            let (kind, hook) = (ChainKind::Filter, Hook::Forward);
            commands.push(Command::Chain { name: chain, kind, hook, priority: 0, drops: false });
        }
        // firewalld's zones have the last word about links that they do not know.
        let zones = |r: &&RuleNote| !self.iptables && !ours(r) && !r.jump.is_empty();
        let zones = rules.iter().find(zones).map(|r| Place::Before(r.handle));
        let place = match jump {
            _ if respect => zones.unwrap_or(Place::Last),
            Some(handle) => Place::Behind(handle),
            None => Place::First,
        };
        if admits {
            commands.extend(links.iter().flat_map(|l| admission(chain, l, mark, place)));
        }
        if self.iptables && jump.is_none() {
            commands.push(Command::PlainChain { name: USER });
            commands.push(Command::Tagged {
                chain,
                expressions: vec![Expr::Verdict(Verdict::Jump(USER))],
                comment: mark.to_owned(),
                place: Place::First,
            });
        }
        self.table.commit(&commands)
    }

    fn leave(&mut self, mark: &str) -> io::Result<()> {
        if self.table.drops_by_default(self.chain)?.is_none() {
            return Ok(());
        }
        let rules = self.table.rules(self.chain)?;
        let chain = self.chain;
        let old = rules.iter().filter(|r| is_ours(r, mark));
        let mut commands: Vec<Command> =
            old.map(|r| Command::RemoveRule { chain, handle: r.handle }).collect();
        let used = !self.iptables
            || rules.iter().any(|r| r.jump == USER && !is_ours(r, mark))
            || !self.table.rules(USER)?.is_empty();
        let mut left = self.table.chains()?;
        if !used && left.iter().any(|c| c == USER) {
            commands.push(Command::RemoveChain { chain: USER });
            left.retain(|c| c != USER);
        }
        if !commands.is_empty() {
            self.table.commit(&commands)?;
        }
        // Nobody but us ever used iptables here.
        let untouched = left == [self.chain] && self.table.rules(self.chain)?.is_empty();
        if self.iptables && untouched && self.table.drops_by_default(self.chain)? == Some(false) {
            self.table.remove()?;
        }
        Ok(())
    }
}

fn is_ours(rule: &RuleNote, mark: &str) -> bool {
    rule.comment
        .strip_prefix(mark)
        .is_some_and(|rest| mark.ends_with('-') || rest.is_empty() || rest.starts_with(':'))
}

/// Whether somebody filters by iptables-legacy, in the calling thread's namespace.
pub(super) fn has_legacy_rules() -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().any(|file| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))
            .is_ok_and(|names| names.lines().any(|name| name == "filter"))
    })
}

/// The comments of the two rules for a link.
fn notes(link: &str, mark: &str) -> [String; 2] {
    [format!("{mark}:{link}:in"), format!("{mark}:{link}:out")]
}

fn admission(chain: &'static str, link: &str, mark: &str, place: Place) -> [Command; 2] {
    let [inward, outward] = notes(link, mark);
    let tagged = |pieces: [Vec<Expr>; 2], comment| Command::Tagged {
        chain,
        expressions: pieces.concat(),
        comment,
        place,
    };
    [tagged([in_link(link), accept()], inward), tagged([out_link(link, true), accept()], outward)]
}
