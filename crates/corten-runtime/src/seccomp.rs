//! Filters of system calls: from a profile to a BPF program.
//!
//! [`profile`] reads Docker's profile format, [`default`] is Docker's own profile as our table, [`compile`] turns
//! OCI rules into a program: one dispatch on the architecture, then a binary search over ranges of numbers, so
//! that any call costs about nine comparisons.

pub mod default;
mod emit;
mod numbers;
pub mod profile;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use corten_sys::seccomp::Instruction;
use corten_wire::oci_runtime::{Seccomp, SeccompArg};

/// The profile cannot be turned into a filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// It is no JSON of that form.
    #[error("{0}")]
    Parse(#[from] serde_json::Error),
    /// A name that the format does not have.
    #[error("unknown {what} {name:?}")]
    Unknown {
        /// `action`, `operator`, …
        what: &'static str,
        /// As written.
        name: String,
    },
    /// Notifications that nobody would answer, or that would be about the runtime.
    #[error("{0}")]
    Notify(&'static str),
    /// It does not fit into a BPF program.
    #[error("the filter is too large")]
    TooLarge,
}

/// A compiled filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// For the kernel.
    pub(crate) instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_…` bits.
    pub(crate) flags: u32,
    /// Who answers for the filter.
    pub(crate) listener: Option<Listener>,
}

/// The one who answers `SCMP_ACT_NOTIFY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// A unix socket.
    pub(crate) path: PathBuf,
    /// Passed on.
    pub(crate) metadata: String,
}

/// Most rules that a profile may have, after names are counted one by one.
const MAX_RULES: usize = 16 * 1024;

/// What happens with one call: conditions tried in order, then a last word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    pub(crate) conditions: Vec<(Vec<SeccompArg>, u32)>,
    pub(crate) otherwise: u32,
}

/// The filter of one architecture.
#[derive(Debug)]
pub(crate) struct Table {
    /// `AUDIT_ARCH_…`.
    pub(crate) audit: u32,
    /// The x32 calls of the x86-64 architecture: numbers with a marking bit.
    pub(crate) marked: bool,
    pub(crate) verdicts: BTreeMap<u32, Verdict>,
    pub(crate) default: u32,
    /// First number that the profile's author cannot have known; answered with ENOSYS.
    pub(crate) unknown_from: Option<u32>,
}

/// Compiles OCI rules.
///
/// # Errors
/// See [`SeccompError`].
pub fn compile(seccomp: &Seccomp) -> Result<Program, SeccompError> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    if seccomp.syscalls.iter().map(|r| r.names.len()).sum::<usize>() > MAX_RULES {
        return Err(SeccompError::TooLarge);
    }
    let mut tables = Vec::new();
    for arch in architectures(&seccomp.architectures)? {
        tables.push(table(&arch, seccomp, default)?);
    }
    let instructions = emit::program(&tables)?;
    let listener = listener(seccomp, default)?;
    let mut flags = flags(&seccomp.flags)?;
    if listener.is_some() {
        flags |= corten_sys::seccomp::NEW_LISTENER;
    } else {
        // It is about nothing but notifications.
        flags &= !WAIT_KILLABLE;
    }
    Ok(Program { instructions, flags, listener })
}

/// Who answers, if anything is to be answered.
fn listener(seccomp: &Seccomp, default: u32) -> Result<Option<Listener>, SeccompError> {
    if default == NOTIFY {
        return Err(SeccompError::Notify("SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    if !seccomp.syscalls.iter().any(|r| r.action == "SCMP_ACT_NOTIFY") {
        return Ok(None);
    }
    let path = seccomp.listener_path.clone().filter(|p| !p.as_os_str().is_empty());
    let path = path.ok_or(SeccompError::Notify("listenerPath not set but SCMP_ACT_NOTIFY used"))?;
    Ok(Some(Listener { path, metadata: seccomp.listener_metadata.clone() }))
}

struct Arch {
    audit: u32,
    marked: bool,
    numbers: &'static str,
}

/// The architectures that this kernel can run and the profile names; a profile that names none means the
/// native one.
fn architectures(names: &[String]) -> Result<Vec<Arch>, SeccompError> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("SCMP_ARCH_X86_64", 0xC000_003E, false, numbers::X86_64),
        ("SCMP_ARCH_X32", 0xC000_003E, true, numbers::X32),
        ("SCMP_ARCH_X86", 0x4000_0003, false, numbers::X86),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [("SCMP_ARCH_AARCH64", 0xC000_00B7u32, false, numbers::AARCH64)];
    for name in names {
        if !name.starts_with("SCMP_ARCH_") {
            return Err(SeccompError::Unknown { what: "architecture", name: name.clone() });
        }
    }
    let native = known[0].0;
    Ok(known
        .into_iter()
        .filter(|(name, ..)| *name == native || names.iter().any(|n| n == name))
        .map(|(_, audit, marked, numbers)| Arch { audit, marked, numbers })
        .collect())
}

/// `name → number` of one architecture.
fn parse_numbers(text: &'static str) -> HashMap<&'static str, u32> {
    let mut all = HashMap::with_capacity(512);
    let mut next = 0;
    for word in text.split_ascii_whitespace() {
        if word.as_bytes()[0].is_ascii_digit() {
            next = word.parse().unwrap_or(next);
        } else {
            all.insert(word, next);
            next += 1;
        }
    }
    all
}

fn table(arch: &Arch, seccomp: &Seccomp, default: u32) -> Result<Table, SeccompError> {
    let numbers = parse_numbers(arch.numbers);
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut highest = 0;
    for rule in &seccomp.syscalls {
        let answer = action(&rule.action, rule.errno_ret)?;
        for name in &rule.names {
            // COMPAT: libseccomp and runc ignore names that they do not know.
            let Some(number) = numbers.get(name.as_str()).copied() else { continue };
            highest = highest.max(number);
            if answer == default {
                continue;
            }
            let verdict = verdicts
                .entry(number)
                .or_insert_with(|| Verdict { conditions: Vec::new(), otherwise: default });
            for arguments in alternatives(&rule.args) {
                check_arguments(&arguments)?;
                if arguments.is_empty() {
                    verdict.otherwise = answer;
                } else {
                    verdict.conditions.push((arguments, answer));
                }
            }
            // An unconditional rule makes the conditions with the same answer pointless.
            let last = verdict.otherwise;
            verdict.conditions.retain(|(_, a)| *a != last);
        }
    }
    // COMPAT: runc answers calls that are newer than the profile with ENOSYS, so that programs fall back.
    let unknown_from = (default >> 16 == ERRNO >> 16).then_some(highest + 1);
    Ok(Table { audit: arch.audit, marked: arch.marked, verdicts, default, unknown_from })
}

/// COMPAT: where one argument is named twice, runc makes each condition a rule of its own.
fn alternatives(arguments: &[SeccompArg]) -> Vec<Vec<SeccompArg>> {
    let twice = (0..6).any(|i| arguments.iter().filter(|a| a.index == i).count() > 1);
    if twice { arguments.iter().map(|a| vec![a.clone()]).collect() } else { vec![arguments.to_vec()] }
}

fn check_arguments(arguments: &[SeccompArg]) -> Result<(), SeccompError> {
    const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    for a in arguments {
        let known = a.op.strip_prefix("SCMP_CMP_").is_some_and(|op| OPERATORS.contains(&op));
        if !known {
            return Err(SeccompError::Unknown { what: "operator", name: a.op.clone() });
        }
        if a.index > 5 {
            return Err(SeccompError::Unknown { what: "argument", name: a.index.to_string() });
        }
    }
    Ok(())
}

const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | 38;
const NOTIFY: u32 = 0x7FC0_0000;
const WAIT_KILLABLE: u32 = 1 << 5;
/// What happens to calls of an architecture that the filter does not have: the thread is killed.
const BAD_ARCHITECTURE: u32 = 0;

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(1) & 0xFFFF;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => ERRNO | errno,
        "SCMP_ACT_TRACE" => 0x7FF0_0000 | errno,
        "SCMP_ACT_LOG" => 0x7FFC_0000,
        "SCMP_ACT_ALLOW" => 0x7FFF_0000,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        _ => return Err(SeccompError::Unknown { what: "action", name: name.into() }),
    })
}

fn flags(names: &[String]) -> Result<u32, SeccompError> {
    // COMPAT: without a word about flags, runc asks for SPEC_ALLOW.
    let mut bits = if names.is_empty() { 1 << 2 } else { 0 };
    for name in names {
        bits |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => 1 << 0,
            "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 1 << 2,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => WAIT_KILLABLE,
            _ => return Err(SeccompError::Unknown { what: "flag", name: name.clone() }),
        };
    }
    Ok(bits)
}

#[cfg(test)]
mod tests;
