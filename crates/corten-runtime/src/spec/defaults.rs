//! Docker's defaults, as tables.

use std::path::Path;

use corten_wire::oci_runtime::Mount;

use super::{Shm, SpecError, SpecInput};

/// Every capability the kernel's headers know, in their order.
pub const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The 14 capabilities of an ordinary container.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Paths that read as empty.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that cannot be written.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities of a container: names may lack `CAP_`, and `ALL` means all.
///
/// # Errors
/// [`SpecError::UnknownCapability`].
pub fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<String>, SpecError> {
    let add = normalise("CapAdd", add)?;
    let drop = normalise("CapDrop", drop)?;
    let has = |list: &[String], name: &str| list.iter().any(|n| n == name);
    if privileged {
        return Ok(ALL_CAPABILITIES.iter().map(ToString::to_string).collect());
    }
    let base: &[&str] = match (has(&add, "ALL"), has(&drop, "ALL")) {
        (true, _) => ALL_CAPABILITIES,
        (false, true) => &[],
        (false, false) => DEFAULT_CAPABILITIES,
    };
    let mut all: Vec<String> = base.iter().filter(|n| !has(&drop, n)).map(ToString::to_string).collect();
    for name in add.iter().filter(|n| *n != "ALL") {
        // COMPAT: a capability that is both added and dropped is dropped, except that dropping ALL comes first.
        if !has(&all, name) && !has(&drop, name) {
            all.push(name.clone());
        }
    }
    Ok(all)
}

fn normalise(option: &'static str, names: &[String]) -> Result<Vec<String>, SpecError> {
    let one = |name: &String| {
        let mut name = name.trim().to_ascii_uppercase();
        if name == "ALL" || name == "CAP_ALL" {
            return Ok("ALL".to_owned());
        }
        if !name.starts_with("CAP_") {
            name.insert_str(0, "CAP_");
        }
        if ALL_CAPABILITIES.contains(&name.as_str()) {
            Ok(name)
        } else {
            Err(SpecError::UnknownCapability { option, name })
        }
    };
    names.iter().map(one).collect()
}

fn mount(destination: &str, fstype: &str, source: &str, options: &str) -> Mount {
    Mount {
        destination: destination.into(),
        fstype: fstype.into(),
        source: source.into(),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    }
}

/// Default mounts that nothing replaces, then the user's, parents before children.
pub(super) fn mounts(input: &SpecInput) -> Vec<Mount> {
    let access = if input.privileged { "rw" } else { "ro" };
    let cgroups = if input.writable_cgroups.unwrap_or(input.privileged) { "rw" } else { "ro" };
    let quiet = "nosuid,noexec,nodev";
    let mut all = vec![
        mount("/proc", "proc", "proc", quiet),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/sys", "sysfs", "sysfs", &format!("{quiet},{access}")),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &format!("{cgroups},{quiet}")),
        mount("/dev/mqueue", "mqueue", "mqueue", quiet),
    ];
    match &input.shm {
        Shm::Private(size) => {
            let options = format!("{quiet},mode=1777,size={size}");
            all.push(mount("/dev/shm", "tmpfs", "shm", &options));
        }
        Shm::Host => all.push(mount("/dev/shm", "bind", "/dev/shm", "rbind,rprivate")),
        Shm::Of(pid) => {
            all.push(mount("/dev/shm", "bind", &format!("/proc/{pid}/root/dev/shm"), "rbind,rprivate"));
        }
        Shm::None => {}
    }
    // A host that has not mounted its message queues has them all the same.
    if input.namespaces.ipc == super::Ns::Host && Path::new("/dev/mqueue").exists() {
        for m in all.iter_mut().filter(|m| m.destination == Path::new("/dev/mqueue")) {
            *m = mount("/dev/mqueue", "bind", "/dev/mqueue", &format!("rbind,{quiet}"));
        }
    }
    all.retain(|d| !input.mounts.iter().any(|m| m.destination == d.destination));
    let mut users = input.mounts.clone();
    users.sort_by_key(|m| m.destination.components().count());
    // A user's mount over the parent of a default one (/dev, /sys) must come before it.
    let (over, under): (Vec<Mount>, Vec<Mount>) =
        users.into_iter().partition(|m| all.iter().any(|d| d.destination.starts_with(&m.destination)));
    over.into_iter().chain(all).chain(under).collect()
}
