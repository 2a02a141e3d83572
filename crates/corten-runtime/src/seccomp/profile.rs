//! Docker's profile format: OCI rules with conditions on capabilities, architecture and kernel version.

use std::path::PathBuf;

use corten_wire::oci_runtime::{Seccomp, SeccompArg, SeccompRule};
use serde::Deserialize;

use super::SeccompError;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Rule>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<SeccompArg>>,
    includes: Filter,
    excludes: Filter,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Largest profile that we read.
const MAX_BYTES: usize = 4 << 20;

#[cfg(target_arch = "x86_64")]
const NATIVE: (&str, &str) = ("amd64", "SCMP_ARCH_X86_64");
#[cfg(target_arch = "aarch64")]
const NATIVE: (&str, &str) = ("arm64", "SCMP_ARCH_AARCH64");

/// Evaluates a profile's text for a container with these capabilities on this machine.
///
/// # Errors
/// [`SeccompError::Parse`], or what [`super::compile`] would refuse.
pub fn resolve(text: &str, capabilities: &[String]) -> Result<Seccomp, SeccompError> {
    if text.len() > MAX_BYTES {
        return Err(SeccompError::TooLarge);
    }
    let profile: Profile = serde_json::from_str(text)?;
    let mut architectures = profile.architectures.unwrap_or_default();
    for map in profile.arch_map.into_iter().flatten().filter(|m| m.architecture == NATIVE.1) {
        architectures.push(map.architecture);
        architectures.extend(map.sub_architectures.into_iter().flatten());
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        if !rule.includes.allows(capabilities, true) || !rule.excludes.allows(capabilities, false) {
            continue;
        }
        let mut names = rule.names.unwrap_or_default();
        names.extend(rule.name);
        let args = rule.args.unwrap_or_default();
        syscalls.push(SeccompRule { names, action: rule.action, errno_ret: rule.errno_ret, args });
    }
    let seccomp = Seccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags.unwrap_or_default(),
        syscalls,
        listener_path: profile.listener_path,
        listener_metadata: profile.listener_metadata.unwrap_or_default(),
    };
    super::compile(&seccomp)?;
    Ok(seccomp)
}

impl Filter {
    /// As an inclusion all parts must hold (every capability, one of the architectures, the kernel); as an
    /// exclusion none may.
    fn allows(&self, capabilities: &[String], including: bool) -> bool {
        let arch = self.arches.as_deref().unwrap_or_default();
        let caps = self.caps.as_deref().unwrap_or_default();
        let has_arch = arch.iter().any(|a| a == NATIVE.0);
        let has_cap = |c: &String| capabilities.contains(c);
        let kernel = self.min_kernel.as_deref().is_none_or(kernel_at_least);
        if including {
            (arch.is_empty() || has_arch) && caps.iter().all(has_cap) && kernel
        } else {
            !has_arch && !caps.iter().any(has_cap) && (self.min_kernel.is_none() || !kernel)
        }
    }
}

fn kernel_at_least(wanted: &str) -> bool {
    let mut numbers = wanted.split('.').map(|n| n.parse().unwrap_or(0));
    corten_sys::kernel::at_least(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
