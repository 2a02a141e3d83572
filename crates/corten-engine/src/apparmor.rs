//! AppArmor: the profile that containers have where nobody asked for another.
//!
//! COMPAT: name and rules are those of the reference engine's profile, so that what is written for it holds here.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use corten_wire::api::host_config::HostConfig;

use crate::error::{Error, Result};

/// What confines an ordinary container.
pub(crate) const DEFAULT: &str = "docker-default";
const UNCONFINED: &str = "unconfined";

const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

/// A container's processes may do what files, capabilities and system-call filter allow, but no mounts, no writing to
/// the kernel's own files, and signals and tracing only among themselves. The daemon is not confined.
const RULES: &str = r"
profile docker-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer=docker-default,
  ptrace (trace,read,tracedby,readby) peer=docker-default,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// The kernel confines with AppArmor, and this process may say how: not from inside a user namespace.
pub(crate) fn is_enabled() -> bool {
    corten_runtime::spec::has_apparmor() && corten_sys::users::initial()
}

fn parser() -> Option<&'static str> {
    PARSERS.into_iter().find(|p| Path::new(p).exists())
}

/// Containers get [`DEFAULT`]: the kernel has AppArmor, and there is somebody to translate the profile for it.
#[must_use]
pub fn has_default() -> bool {
    is_enabled() && parser().is_some()
}

/// The profile of a container that starts now; empty for none.
pub(crate) fn profile(h: &HostConfig, asked: Option<&str>) -> String {
    match asked {
        _ if !is_enabled() => String::new(),
        _ if h.privileged => UNCONFINED.to_owned(),
        Some(name) if !name.is_empty() => name.to_owned(),
        _ if has_default() => DEFAULT.to_owned(),
        _ => String::new(),
    }
}

/// Gives the kernel the profile [`DEFAULT`] unless it has it. Somebody may have taken it away meanwhile.
pub(crate) fn ensure_default() -> Result<()> {
    let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    let is_it = |line: &str| line.split_once(" (").is_some_and(|(name, _)| name == DEFAULT);
    if loaded.lines().any(is_it) {
        return Ok(());
    }
    let fail = |e: io::Error| {
        let what = format!("AppArmor enabled on system but the {DEFAULT} profile could not be loaded");
        Error::io(what, e)
    };
    let parser = parser().ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
    translate(parser, &["-K", "-r"]).map_err(fail)
}

/// Runs the parser over the profile.
fn translate(parser: &str, flags: &[&str]) -> io::Result<()> {
    let mut child = Command::new(parser)
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text(Path::new("/etc/apparmor.d")).as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The profile with what this system has of the usual definitions.
fn text(definitions: &Path) -> String {
    let proc = if definitions.join("tunables/global").exists() {
        "#include <tunables/global>\n"
    } else {
        "@{PROC}=/proc/\n"
    };
    let base = "abstractions/base";
    let base = if definitions.join(base).exists() { format!("  #include <{base}>\n") } else { String::new() };
    let (head, rules) = RULES.split_once("{\n").unwrap_or(("", RULES));
    format!("{proc}{head}{{\n{base}{rules}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_takes_the_profile() {
        let plain = text(Path::new("/nonexistent"));
        assert!(plain.starts_with("@{PROC}=/proc/\n\nprofile docker-default ") && !plain.contains("include"));
        let Some(parser) = parser() else {
            println!("skipped: needs apparmor_parser");
            return;
        };
        // Without the kernel, and without the cache.
        translate(parser, &["-Q", "-K"]).unwrap();
    }

    #[test]
    fn nobody_is_confined_where_the_kernel_does_not() {
        if !is_enabled() {
            assert_eq!(profile(&HostConfig::default(), Some("mine")), "");
            return;
        }
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(profile(&privileged, Some("mine")), UNCONFINED);
        assert_eq!(profile(&HostConfig::default(), Some("mine")), "mine");
    }
}
