//! What untrusted bytes reach in this crate, for `fuzz/`. Each function takes anything; a panic in one is a bug, and so
//! is a result that contradicts itself.

use corten_wire::oci_runtime::Seccomp;
use corten_wire::shim::{Bootstrap, BootstrapReply, Exit, Message, Request, ShimRecord, UserSpec};

use crate::container::options;
use crate::{oci, seccomp, user};

/// `config.json`: what is accepted can be written and read again, and is the same.
pub fn config(bytes: &[u8]) {
    let Some(spec) = oci::config::accepted(bytes) else { return };
    let text = serde_json::to_vec(&spec).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<corten_wire::oci_runtime::Spec>(&text).ok(), Some(spec.clone()));
    for m in &spec.mounts {
        options::parse(&m.fstype, &m.options).ok();
    }
    if let Some(filter) = spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()) {
        seccomp::compile(filter).ok();
    }
}

/// A profile of `--security-opt seccomp=`, and one of the configuration: what is accepted fits the kernel's limit.
pub fn profile(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let names = ["CAP_SYS_ADMIN".to_owned(), "CAP_SYS_PTRACE".to_owned()];
        if let Ok(resolved) = seccomp::profile::resolve(text, &names) {
            seccomp::compile(&resolved).expect("a resolved profile was compiled already");
        }
    }
    if let Ok(given) = serde_json::from_slice::<Seccomp>(bytes)
        && let Ok(program) = seccomp::compile(&given)
    {
        assert!(!program.instructions.is_empty() && program.instructions.len() <= 4096);
        for (at, i) in program.instructions.iter().enumerate() {
            let rest = program.instructions.len() - at - 1;
            // A jump lands inside: 5 is the unconditional one, other codes of this class have two targets.
            let longest = match i.code {
                5 => i.k as usize,
                code if code & 7 == 5 => usize::from(i.jt.max(i.jf)),
                _ => 0,
            };
            assert!(longest < rest.max(1), "instruction {at} jumps out");
        }
    }
}

/// Mount options: a file system type and comma-separated options.
pub fn mount(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (fstype, rest) = text.split_once(' ').unwrap_or(("bind", &text));
    let all: Vec<String> = rest.split(',').map(str::to_owned).collect();
    if let Ok(o) = options::parse(fstype, &all) {
        assert!(o.change.set & o.change.clear & !corten_sys::mount::attr::ATIME == 0, "{text:?}");
    }
}

/// passwd, group and whom to look up, separated by NUL bytes: numbers stay in range, the primary group is listed.
pub fn users(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (passwd, group, user) = (next(), next(), next());
    let group_add: Vec<String> = parts.map(str::to_owned).collect();
    if let Ok(identity) = user::look_up_in(&passwd, &group, &UserSpec { user, group_add }) {
        assert!(identity.uid <= i32::MAX as u32 && identity.groups.first() == Some(&identity.gid));
        assert!(identity.groups.len() <= 65_536);
    }
}

/// Messages between daemon and shim, and the files that a shim leaves.
pub fn shim(bytes: &[u8]) {
    serde_json::from_slice::<Bootstrap>(bytes).ok();
    serde_json::from_slice::<BootstrapReply>(bytes).ok();
    serde_json::from_slice::<Request>(bytes).ok();
    serde_json::from_slice::<Message>(bytes).ok();
    serde_json::from_slice::<ShimRecord>(bytes).ok();
    serde_json::from_slice::<Exit>(bytes).ok();
}
