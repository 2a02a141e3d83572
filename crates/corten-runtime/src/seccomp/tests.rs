//! Tests of `seccomp`.

use super::*;
use corten_wire::oci_runtime::SeccompRule;

/// Runs the program as the kernel would.
fn run(program: &Program, audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&audit.to_le_bytes());
    for (i, a) in arguments.iter().enumerate() {
        data[16 + i * 8..24 + i * 8].copy_from_slice(&a.to_le_bytes());
    }
    let (mut pc, mut acc) = (0usize, 0u32);
    loop {
        let i = program.instructions[pc];
        pc += 1;
        let jump = |holds: bool| if holds { i.jt } else { i.jf } as usize;
        match i.code {
            0x20 => acc = u32::from_le_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap()),
            0x54 => acc &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += jump(acc == i.k),
            0x25 => pc += jump(acc > i.k),
            0x35 => pc += jump(acc >= i.k),
            0x06 => return i.k,
            code => panic!("code {code:#x}"),
        }
    }
}

const X86_64: u32 = 0xC000_003E;
const X86: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7FFF_0000;
const EPERM: u32 = ERRNO | 1;

fn docker(capabilities: &[&str]) -> Vec<String> {
    capabilities.iter().chain(crate::spec::DEFAULT_CAPABILITIES).map(ToString::to_string).collect()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn default_profile() {
    let program = compile(&default::profile(&docker(&[]))).unwrap();
    let call = |audit, number, first| run(&program, audit, number, [first, 0, 0, 0, 0, 0]);
    for (audit, number, first, want) in [
        (X86_64, 0, 0, ALLOW),            // read
        (X86_64, 165, 0, EPERM),          // mount
        (X86_64, 56, 0x11, ALLOW),        // clone, plain
        (X86_64, 56, 0x1000_0000, EPERM), // clone, new user namespace
        (X86_64, 435, 0, ENOSYS),         // clone3
        (X86_64, 41, 2, ALLOW),           // socket, inet
        (X86_64, 41, 38, EPERM),          // socket, alg
        (X86_64, 41, 39, ALLOW),          // socket
        (X86_64, 41, 40, EPERM),          // socket, vsock
        (X86_64, 41, 1 << 32 | 1, ALLOW), // greater than 40 in 64 bits
        (X86_64, 135, 8, ALLOW),          // personality
        (X86_64, 135, 1, EPERM),          // personality
        (X86_64, 248, 0, EPERM),          // add_key
        (X86_64, 1000, 0, ENOSYS),        // newer than the profile
        (X86_64, 0x4000_0000, 0, ALLOW),  // x32 read
        (X86_64, 0x4000_0000 + 165, 0, EPERM),
        (X86, 3, 0, ALLOW),     // x86 read
        (X86, 21, 0, EPERM),    // x86 mount
        (0xC000_00B7, 0, 0, 0), // a foreign architecture
    ] {
        assert_eq!(call(audit, number, first), want, "{audit:#x} {number} {first:#x}");
    }
    let admin = compile(&default::profile(&docker(&["CAP_SYS_ADMIN"]))).unwrap();
    assert_eq!(run(&admin, X86_64, 165, [0; 6]), ALLOW);
    assert_eq!(run(&admin, X86_64, 56, [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn operators_compare_64_bits() {
    let (low, high) = (5u64, 5u64 << 32 | 5);
    for (op, holds) in [
        ("EQ", [false, true, false]),
        ("NE", [true, false, true]),
        ("LT", [true, false, false]),
        ("LE", [true, true, false]),
        ("GT", [false, false, true]),
        ("GE", [false, true, true]),
    ] {
        let arg = SeccompArg { index: 2, value: high, value_two: 0, op: format!("SCMP_CMP_{op}") };
        let rule = SeccompRule {
            names: vec!["read".into()],
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(7),
            args: vec![arg],
        };
        let seccomp =
            Seccomp { default_action: "SCMP_ACT_ALLOW".into(), syscalls: vec![rule], ..Seccomp::default() };
        let program = compile(&seccomp).unwrap();
        for (value, want) in [low, high, high + 1].into_iter().zip(holds) {
            let got = run(&program, X86_64, 0, [0, 0, value, 0, 0, 0]);
            assert_eq!(got == ERRNO | 7, want, "{op} {value:#x}");
        }
    }
}

/// The reference profile is not part of the repository; name it to compare with it.
#[test]
fn equal_to_the_reference() {
    let Ok(path) = std::env::var("CORTEN_SECCOMP_REFERENCE") else {
        println!("skipped: CORTEN_SECCOMP_REFERENCE is not set");
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    for extra in crate::spec::ALL_CAPABILITIES {
        let capabilities = docker(&[extra]);
        let ours = compile(&default::profile(&capabilities)).unwrap();
        let theirs = compile(&profile::resolve(&text, &capabilities).unwrap()).unwrap();
        for audit in [X86_64, X86] {
            for number in (0..600).chain(0x4000_0000..0x4000_0258) {
                for first in
                    [0, 1, 2, 8, 38, 39, 40, 41, 0x20000, 0x20008, 0x11, 0x1000_0000, 0xFFFF_FFFF, 1 << 40]
                {
                    let a = [first, 0, 0, 0, 0, 0];
                    assert_eq!(
                        run(&ours, audit, number, a),
                        run(&theirs, audit, number, a),
                        "{extra} {number}"
                    );
                }
            }
        }
    }
}

#[test]
fn bad_profiles_are_refused() {
    for text in [
        "",
        r#"{"defaultAction":"SCMP_ACT_NOPE"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert!(profile::resolve(text, &[]).is_err(), "{text}");
    }
}
