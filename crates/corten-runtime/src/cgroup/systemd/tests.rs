//! Tests of `systemd`: names, properties and messages. What systemd makes of them, `cargo xtask vm` tells.

use corten_wire::oci_runtime::{BlockIo, Cpu, Memory, Pids};

use super::message::{ERROR, Message, Method, Reader, call, parse as read, size};
use super::*;

fn unit(path: &str) -> Option<(String, String)> {
    Unit::named(Path::new(path)).map(|u| (u.slice, u.name))
}

#[test]
fn names() {
    let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
    assert_eq!(unit("system.slice:docker:12ab"), pair("system.slice", "docker-12ab.scope"));
    assert_eq!(unit("a-b.slice:libpod:x"), pair("a-b.slice", "libpod-x.scope"));
    for path in ["/docker/12ab", "x", "a:b", "a:b:c:d", "/a:b:c"] {
        assert_eq!(unit(path), None, "{path}");
    }
    for (user, slice) in [(false, "system.slice"), (true, "user.slice")] {
        assert_eq!(Unit::new("", "runc", "x", user).slice, slice);
    }
}

#[test]
fn slices_are_nested_by_their_names() {
    for (slice, want) in [
        ("system.slice", Some("system.slice")),
        ("a-b-c.slice", Some("a.slice/a-b.slice/a-b-c.slice")),
        ("-.slice", Some("")),
        (".slice", None),
        ("a--b.slice", None),
        ("-a.slice", None),
        ("a-.slice", None),
        ("a/b.slice", None),
        ("docker", None),
        ("", None),
    ] {
        let got = expand(slice).ok();
        assert_eq!(got.as_deref(), want.map(Path::new), "{slice}");
        assert_eq!(is_slice(slice), want.is_some());
    }
    assert_eq!(expand("x/.slice").unwrap_err().to_string(), "invalid slice name: x/.slice");
}

#[test]
fn limits_as_properties() {
    let resources = Resources {
        memory: Some(Memory {
            limit: Some(64 << 20),
            swap: Some(96 << 20),
            reservation: Some(32 << 20),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(1024),
            quota: Some(33_333),
            period: Some(50_000),
            cpus: Some("0-2,9".into()),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: -1 }),
        block_io: Some(BlockIo { weight: Some(1000), ..BlockIo::default() }),
        unified: BTreeMap::from([
            ("memory.high".into(), "max".into()),
            ("hugetlb.2MB.max".into(), "0".into()),
        ]),
        ..Resources::default()
    };
    let of = |v2| {
        let all = properties::limits(&resources, v2).unwrap();
        all.into_iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>()
    };
    assert_eq!(
        of(true),
        [
            "MemoryMax=U64(67108864)",
            "MemoryLow=U64(33554432)",
            "MemorySwapMax=U64(33554432)",
            "CPUWeight=U64(39)",
            "CPUQuotaPeriodUSec=U64(50000)",
            "CPUQuotaPerSecUSec=U64(670000)",
            "AllowedCPUs=List(\"y\", [Byte(7), Byte(2)])",
            "IOWeight=U64(10000)",
            "TasksMax=U64(18446744073709551615)",
            "MemoryHigh=U64(18446744073709551615)",
        ]
    );
    assert_eq!(
        of(false),
        [
            "MemoryLimit=U64(67108864)",
            "CPUShares=U64(1024)",
            "CPUQuotaPeriodUSec=U64(50000)",
            "CPUQuotaPerSecUSec=U64(670000)",
            "BlockIOWeight=U64(1000)",
            "TasksMax=U64(18446744073709551615)",
        ]
    );
    for wrong in ["x", "3-1", "9999999", ","] {
        assert!(properties::bits(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn devices_as_properties() {
    let rule = |text: &str| crate::spec::parse_device_rule(text).unwrap();
    let all = |allow| corten_wire::oci_runtime::DeviceRule { allow, kind: "a".into(), ..Default::default() };
    let text = |rules: &[_]| format!("{:?}", properties::devices(rules));
    let strict = text(&[all(false), rule("c 1:3 rw"), rule("b *:* m"), rule("c 5:* rwm")]);
    for part in ["\"strict\"", "/dev/char/1:3", "\"rw\"", "block-*", "char-5"] {
        assert!(strict.contains(part), "{part} in {strict}");
    }
    let open = text(&[all(false), rule("c 1:3 rw"), all(true)]);
    assert!(open.contains("\"auto\"") && !open.contains("char/"), "{open}");
    assert_eq!(text(&[]), "[]");
}

#[test]
fn annotations_as_properties() {
    for (text, want) in [
        ("true", Some(Value::Bool(true))),
        ("7", Some(Value::I32(7))),
        ("uint64 0x10", Some(Value::U64(16))),
        ("-1.5", Some(Value::F64(-1.5))),
        ("'it\\'s'", Some(Value::text("it's"))),
        ("\"a b\"", Some(Value::text("a b"))),
        ("['a', 'b']", Some(Value::List("s".into(), vec![Value::text("a"), Value::text("b")]))),
        ("@as []", Some(Value::List("s".into(), Vec::new()))),
        ("[uint32 1, 2]", Some(Value::List("u".into(), vec![Value::U32(1), Value::U32(2)]))),
        ("[]", None),
        ("['a', 1]", None),
        ("byte 256", None),
        ("'open", None),
        ("1 2", None),
        ("", None),
        ("name", None),
        ("[[[[[[[[[[1]]]]]]]]]]", None),
    ] {
        assert_eq!(annotations::parse(text).ok(), want, "{text}");
    }
    let of = |name: &str, text: &str| {
        let all = BTreeMap::from([(format!("org.systemd.property.{name}"), text.to_owned())]);
        annotations::properties(&all).map_err(|e| e.to_string())
    };
    assert_eq!(of("TimeoutStopSec", "3").unwrap(), [("TimeoutStopUSec".to_owned(), Value::U64(3_000_000))]);
    assert_eq!(of("RuntimeMaxSec", "1.5").unwrap(), [("RuntimeMaxUSec".to_owned(), Value::U64(1_500_000))]);
    for (name, text, want) in [
        ("No", "1", "annotation org.systemd.property.No name incorrect: too short"),
        ("A_bc", "1", "annotation org.systemd.property.A_bc name incorrect: contains unacceptable character"),
        (
            "TimeoutStopSec",
            "'x'",
            "annotation org.systemd.property.TimeoutStopSec='x' value parse error: not a number",
        ),
    ] {
        assert_eq!(of(name, text).unwrap_err(), want);
    }
    assert!(annotations::properties(&BTreeMap::from([("other".into(), "!".into())])).unwrap().is_empty());
}

/// As libdbus writes the same call.
#[test]
#[cfg(target_endian = "little")]
fn a_call_byte_by_byte() {
    let method = Method { destination: "d.d", path: "/p", interface: "i.i", member: "M" };
    let bytes = call(7, method, &[Value::text("ab"), properties::list(vec![("K".into(), Value::U64(5))])]);
    let want: &[&[u8]] = &[
        b"l\x01\0\x01\x28\0\0\0\x07\0\0\0\x4c\0\0\0",
        b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
        b"\x02\x01s\0\x03\0\0\0i.i\0\0\0\0\0",
        b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0",
        b"\x06\x01s\0\x03\0\0\0d.d\0\0\0\0\0",
        b"\x08\x01g\0\x06sa(sv)\0\0\0\0\0",
        b"\x02\0\0\0ab\0\0\x18\0\0\0\0\0\0\0",
        b"\x01\0\0\0K\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
    ];
    assert_eq!(bytes, want.concat());
}

#[test]
fn messages_are_read() {
    // A call has the fields of an answer but for the number that it answers.
    let method = Method { destination: "d", path: "/p", interface: "i", member: "JobRemoved" };
    let mut bytes = call(9, method, &[Value::U32(3), Value::text("/job/3"), Value::text("x.scope")]);
    bytes[1] = ERROR;
    assert_eq!(size(bytes.first_chunk().unwrap()), Some(bytes.len()));
    let message = read(&bytes).unwrap();
    assert_eq!((message.kind, message.member.as_str(), message.answers), (ERROR, "JobRemoved", 0));
    let mut reader = Reader::new(&message.body);
    assert_eq!((reader.number(), reader.text()), (Some(3), Some("/job/3".to_owned())));
    assert_eq!((reader.text(), reader.text()), (Some("x.scope".to_owned()), None));
    for end in 0..bytes.len() {
        assert_eq!(read(&bytes[..end]), None, "cut after {end}");
    }
    // Whatever is in it, reading it ends.
    for at in 0..bytes.len() {
        for wrong in [0, 1, 0x7F, 0xFF] {
            let mut bytes = bytes.clone();
            bytes[at] = wrong;
            read(&bytes).map(|m: Message| Reader::new(&m.body).text());
        }
    }
}

#[test]
fn addresses_of_buses() {
    for (address, want) in [
        ("unix:path=/run/user/7/bus", Some("/run/user/7/bus")),
        ("unix:path=/a,guid=1;tcp:host=x", Some("/a")),
        ("tcp:host=x;unix:guid=1,path=/b", Some("/b")),
        ("unix:abstract=/c", None),
    ] {
        assert_eq!(bus::unix_path(address).as_deref(), want.map(Path::new), "{address}");
    }
}
