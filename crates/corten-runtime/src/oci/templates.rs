//! `spec` and `features`: a first configuration, and what this runtime can do.

use std::io::Write;
use std::path::Path;

use corten_wire::oci_runtime::{Capabilities, IdMapping, Namespace, NamespaceKind, Rlimit, Spec};
use serde_json::json;

use super::arguments::Arguments;
use super::report::{SPEC_VERSION, print_json};
use super::{OciError, absolute};
use crate::spec::{ALL_CAPABILITIES, Ns, SpecInput, build};

/// Those of the mount itself; others are for the file system.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "idmap",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "tmpcopyup",
    "unbindable",
];
const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
const SECCOMP_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64"];

pub(super) fn spec(given: &Arguments) -> Result<(), OciError> {
    let dir = absolute(given.value("bundle").filter(|b| !b.is_empty()).unwrap_or("."))?;
    let refused = |e: String| OciError::refused(e);
    let input = SpecInput {
        args: vec!["sh".into()],
        env: vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            "TERM=xterm".into(),
        ],
        tty: true,
        hostname: "corten".into(),
        readonly_root: true,
        no_new_privileges: true,
        ..SpecInput::default()
    };
    let mut input = input;
    input.namespaces.cgroup = if crate::cgroup::Cgroup::host_is_v2() { Ns::New } else { Ns::Host };
    let mut spec = build(input).map_err(|e| refused(e.to_string()))?.spec;
    spec.oci_version = SPEC_VERSION.into();
    if let Some(process) = &mut spec.process {
        // COMPAT: runc's template has fewer capabilities than a container of Docker's.
        let names = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"].map(str::to_owned).to_vec();
        process.capabilities = Some(Capabilities {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            ..Capabilities::default()
        });
        process.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), hard: 1024, soft: 1024 }];
    }
    if let Some(linux) = &mut spec.linux {
        linux.cgroups_path = None;
    }
    if given.has("rootless") {
        make_rootless(&mut spec);
    }
    let text = serde_json::to_string_pretty(&spec).map_err(|e| refused(e.to_string()))?;
    write_new(&dir.join("config.json"), &text)
}

/// Changes a configuration so that the user who asks can run it, with nothing but their own ids.
fn make_rootless(spec: &mut Spec) {
    let linux = spec.linux.get_or_insert_default();
    linux.resources = None;
    linux.namespaces.retain(|n| !matches!(n.kind, NamespaceKind::Network | NamespaceKind::User));
    linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: None });
    let own = |id| vec![IdMapping { container_id: 0, host_id: id, size: 1 }];
    linux.uid_mappings = own(rustix::process::geteuid().as_raw());
    linux.gid_mappings = own(rustix::process::getegid().as_raw());
    for mount in &mut spec.mounts {
        // There are no such ids inside.
        mount.options.retain(|o| !(o.starts_with("uid=") || o.starts_with("gid=")));
        if mount.destination == Path::new("/sys") {
            // Without a network namespace of its own no new one can be mounted.
            mount.fstype = "none".into();
            mount.source = "/sys".into();
            mount.options = ["rbind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
        }
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), OciError> {
    let file = std::fs::File::options().write(true).create_new(true).open(path);
    let mut file = file.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => OciError::refused(format!(
            "File {} exists. Remove it first",
            path.file_name().unwrap_or_default().display()
        )),
        _ => OciError::io(format_args!("open {}", path.display()))(e),
    })?;
    file.write_all(text.as_bytes()).map_err(OciError::io(format_args!("write {}", path.display())))
}

pub(super) fn features() {
    print_json(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": ALL_CAPABILITIES,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ARCHITECTURES,
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "netDevices": { "enabled": true },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        // COMPAT: what runc's callers ask before they offer checkpoints.
        "annotations": { "org.opencontainers.runc.checkpoint.enabled": "true" },
        // It makes criu read a file that the configuration names.
        "potentiallyUnsafeConfigAnnotations": ["org.criu.config"],
    }));
}
