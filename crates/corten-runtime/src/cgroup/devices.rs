//! Which device nodes the container's processes may use: a list of rules on v1, a BPF program on v2.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use corten_sys::bpf::{self, Instruction};
use corten_wire::oci_runtime::DeviceRule;

use super::{Cgroup, CgroupError};

pub(super) fn apply(group: &Cgroup, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    if rules.is_empty() {
        return Ok(());
    }
    if !group.is_v2() {
        // One write takes one rule, but a file need not be opened for each.
        for rules in rules.chunk_by(|a, b| a.allow == b.allow) {
            let file = if rules[0].allow { "devices.allow" } else { "devices.deny" };
            group.write_each("devices", file, &rules.iter().map(line).collect::<Vec<_>>())?;
        }
        return Ok(());
    }
    if !corten_sys::users::initial() {
        // The kernel lets only the machine's root filter. Nobody here can make device nodes, and those that are shown
        // are the user's own to open or not.
        return Ok(());
    }
    let dir = group.of("").map(PathBuf::from).unwrap_or_default();
    let attach = || {
        let directory = File::open(&dir)?;
        bpf::attach_device_filter(directory.as_fd(), &program(rules))
    };
    attach().map_err(|source| CgroupError::File {
        what: "set device rules of".into(),
        path: dir.clone(),
        source,
    })
}

pub(super) fn is_all(rule: &DeviceRule) -> bool {
    matches!(rule.kind.as_str(), "" | "a")
}

fn line(rule: &DeviceRule) -> String {
    if is_all(rule) {
        return "a".into();
    }
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or_else(|| "*".to_owned(), |n| n.to_string());
    let access = if rule.access.is_empty() { "rwm" } else { &rule.access };
    format!("{} {}:{} {access}", rule.kind, number(rule.major), number(rule.minor))
}

/// The last matching rule decides, as on v1; so the rules are tried from the last to the first.
///
/// The context has the access type in the lower half of its first word and the wanted access in the upper, then
/// major and minor.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let load = |dst: u8, offset: i16| Instruction { code: 0x61, registers: dst | 1 << 4, offset, value: 0 };
    let op =
        |code: u8, registers: u8, offset: i16, value: i32| Instruction { code, registers, offset, value };
    let mut out = vec![
        load(2, 0),
        op(0x54, 2, 0, 0xFFFF), // w2 &= 0xffff: kind
        load(3, 0),
        op(0x74, 3, 0, 16), // w3 >>= 16: access
        load(4, 4),
        load(5, 8),
    ];
    for rule in rules.iter().rev() {
        let mut checks = Vec::new();
        if !is_all(rule) {
            checks.push((0x55, 2, if rule.kind == "b" { 1 } else { 2 }));
            for (register, number) in [(4, rule.major), (5, rule.minor)] {
                if let Some(n) = number.filter(|n| *n >= 0) {
                    checks.push((0x55, register, i32::try_from(n).unwrap_or(-1)));
                }
            }
        }
        let mut block = Vec::new();
        let granted = ["m", "r", "w"].iter().enumerate();
        let mask: i32 = granted.filter(|(_, l)| rule.access.contains(**l)).map(|(i, _)| 1 << i).sum();
        if mask != 0 && mask != 7 {
            // Access that the rule does not name: it does not match.
            block.push(op(0xBC, 1 | 3 << 4, 0, 0)); // w1 = w3
            block.push(op(0x54, 1, 0, !mask & 7));
            block.push(op(0x55, 1, 2, 0)); // not zero: next rule
        }
        block.push(op(0xB7, 0, 0, i32::from(rule.allow)));
        block.push(op(0x95, 0, 0, 0));
        let total = checks.len() + block.len();
        for (i, (code, register, value)) in checks.into_iter().enumerate() {
            let skip = i16::try_from(total - i - 1).unwrap_or(i16::MAX);
            out.push(op(code, register, skip, value));
        }
        out.extend(block);
        if total == 2 {
            // It matches everything; the verifier refuses what can never be reached.
            return out;
        }
    }
    out.push(op(0xB7, 0, 0, 0));
    out.push(op(0x95, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_accepts_the_program() {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(PathBuf::from)
            .into_iter()
            .find(|d| d.join("cgroup.controllers").exists());
        let Some(root) = unified else {
            println!("skipped: no unified hierarchy");
            return;
        };
        let dir = root.join(format!("corten-test-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let rule = |text: &str| crate::spec::parse_device_rule(text).unwrap();
        let rules = [
            DeviceRule { allow: false, kind: "a".into(), ..DeviceRule::default() },
            rule("c 1:3 rw"),
            rule("b 8:* m"),
        ];
        let result = bpf::attach_device_filter(File::open(&dir).unwrap().as_fd(), &program(&rules));
        let child = corten_sys::process::clone_process(0, None, || {
            if std::fs::write(dir.join("cgroup.procs"), "0").is_err() {
                return 9;
            }
            let null = std::fs::write("/dev/null", "x").is_ok();
            let zero = File::open("/dev/zero").is_ok();
            i32::from(null) + 2 * i32::from(zero)
        })
        .unwrap();
        let code = corten_sys::process::wait(child.pidfd.as_fd()).unwrap().code();
        std::fs::remove_dir(&dir).unwrap();
        result.unwrap();
        assert_eq!(code, 1, "null is allowed, zero is not");
    }
}
