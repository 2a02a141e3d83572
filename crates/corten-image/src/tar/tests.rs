//! Conformance with other people's tar, and attacks.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use corten_base::Cancel;

use super::*;
use crate::beneath;

fn open(path: &Path) -> std::os::fd::OwnedFd {
    rustix::fs::open(path, beneath::DIR, rustix::fs::Mode::empty()).unwrap()
}

fn unpack(archive: &[u8], to: &Path, whiteouts: bool) -> Result<Extracted, String> {
    let options = ExtractOptions { whiteouts, ..ExtractOptions::default() };
    extract(open(to).as_fd(), &mut Reader::new(archive), &options, &Cancel::new()).map_err(|e| {
        let mut text = e.to_string();
        if let Some(source) = std::error::Error::source(&e) {
            text += &format!(": {source}");
        }
        text
    })
}

/// A tree with everything that an archive can hold.
fn tree(root: &Path) {
    let long = "n".repeat(120);
    std::fs::create_dir_all(root.join("d/sub")).unwrap();
    std::fs::write(root.join("d/file"), "hello").unwrap();
    std::fs::write(root.join(format!("d/{long}")), "long").unwrap();
    std::fs::write(root.join("d/ünïcode"), "u").unwrap();
    std::fs::hard_link(root.join("d/file"), root.join("d/sub/hard")).unwrap();
    std::os::unix::fs::symlink(format!("../{long}"), root.join("d/link")).unwrap();
    std::fs::write(root.join("suid"), "x").unwrap();
    std::fs::set_permissions(root.join("suid"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(root.join("d/sub"), Some(3_000_000), Some(1000)).unwrap();
    let dir = open(root);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(&dir, "null", rustix::fs::FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
        .unwrap();
    rustix::fs::mknodat(&dir, "pipe", rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let file = std::fs::File::options().write(true).open(root.join("d/file")).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::fsetxattr(&file, "user.note", b"a=b\nc", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::fsetxattr(&file, "security.capability", &capability, rustix::fs::XattrFlags::empty())
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789)).unwrap();
}

fn pack(root: &Path, options: PackOptions) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let cancel = Cancel::new();
    Packer::new(&mut writer, options, &cancel).pack_children(open(root).as_fd(), b"").unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_tree_survives_the_round_trip() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    let archive = pack(from.path(), PackOptions { nanoseconds: true, ..PackOptions::default() });
    unpack(&archive, to.path(), false).unwrap();
    let to = to.path();
    let file = std::fs::metadata(to.join("d/file")).unwrap();
    assert_eq!((file.mtime(), file.mtime_nsec(), file.nlink()), (1_500_000_000, 123_456_789, 2));
    assert_eq!(std::fs::read_to_string(to.join("d/sub/hard")).unwrap(), "hello");
    assert_eq!(std::fs::metadata(to.join("suid")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(std::fs::metadata(to.join("d/sub")).unwrap().uid(), 3_000_000);
    assert_eq!(std::fs::read_link(to.join("d/link")).unwrap().to_str().unwrap().len(), 123);
    let null = std::fs::metadata(to.join("null")).unwrap();
    assert_eq!((null.rdev(), null.mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o600));
    assert!(std::fs::metadata(to.join("pipe")).unwrap().file_type().is_fifo());
    let fd = std::fs::File::open(to.join("d/file")).unwrap();
    assert_eq!(beneath::xattr(fd.as_fd(), "user.note").unwrap().unwrap(), b"a=b\nc");
    assert_eq!(beneath::xattr(fd.as_fd(), "security.capability").unwrap().unwrap().len(), 20);
    // The same tree gives the same bytes again.
    assert_eq!(pack(to, PackOptions { nanoseconds: true, ..PackOptions::default() }), archive);
}

#[test]
fn others_read_what_we_write() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let archive = pack(from.path(), PackOptions::default());
    let mut theirs: Vec<(String, u64)> = ::tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.path().unwrap().display().to_string(), e.size()))
        .collect();
    let mut ours = Vec::new();
    let mut reader = Reader::new(&archive[..]);
    while let Some(entry) = reader.next_entry().unwrap() {
        ours.push((String::from_utf8(entry.path).unwrap(), entry.size));
    }
    theirs.sort();
    ours.sort();
    assert_eq!(ours, theirs);
    let path = from.path().join("out.tar");
    std::fs::write(&path, &archive).unwrap();
    let script = "import sys,tarfile\nt=tarfile.open(sys.argv[1])\nprint(len(t.getmembers()), t.extractfile('d/file').read().decode(), t.getmember('d/sub').uid)";
    let python = std::process::Command::new("python3").arg("-c").arg(script).arg(&path).output();
    match python {
        Ok(out) => assert_eq!(
            String::from_utf8_lossy(&out.stdout).trim(),
            format!("{} hello 3000000", ours.len()),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        ),
        Err(_) => eprintln!("skipped: no python3"),
    }
}

#[test]
fn we_read_what_others_write() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let script = r#"
import sys,tarfile,io
for f in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    t=tarfile.open(sys.argv[2]+"/%d.tar"%f,"w",format=f)
    for n in ("d/"+"n"*120,"d/file","d/sub","suid","pipe"):
        if f==tarfile.USTAR_FORMAT and n in("d/sub","d/"+"n"*120): continue
        i=t.gettarinfo(sys.argv[1]+"/"+n,arcname=n)
        t.addfile(i,open(sys.argv[1]+"/"+n,"rb") if i.isreg() else None)
    i=tarfile.TarInfo("deep/"*30+"x"); i.size=3; t.addfile(i,io.BytesIO(b"abc"))
    i=tarfile.TarInfo("old"); i.mtime=-5 if f!=tarfile.USTAR_FORMAT else 5; t.addfile(i)
    t.close()
"#;
    let out = tempfile::tempdir().unwrap();
    let run =
        std::process::Command::new("python3").arg("-c").arg(script).args([from.path(), out.path()]).output();
    let Ok(run) = run else {
        eprintln!("skipped: no python3");
        return;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    for format in 0..3 {
        let archive = std::fs::read(out.path().join(format!("{format}.tar"))).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(&archive, to.path(), false).unwrap();
        assert_eq!(std::fs::read_to_string(to.path().join("d/file")).unwrap(), "hello");
        assert_eq!(std::fs::read_to_string(to.path().join("deep/".repeat(30) + "x")).unwrap(), "abc");
        let old = std::fs::metadata(to.path().join("old")).unwrap().mtime();
        assert_eq!(old, if format == 0 { 5 } else { -5 }, "{format}");
        if format > 0 {
            assert_eq!(std::fs::metadata(to.path().join("d/sub")).unwrap().uid(), 3_000_000);
            assert_eq!(
                std::fs::read_to_string(to.path().join(format!("d/{}", "n".repeat(120)))).unwrap(),
                "long"
            );
        }
    }
}

fn archive_of(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        writer.append(entry, &mut std::io::repeat(b'x')).unwrap();
    }
    writer.finish().unwrap()
}

fn linked(path: &str, kind: EntryKind, target: &str) -> Entry {
    Entry { link: target.into(), ..Entry::new(path, kind, 0o777) }
}

/// Attacks of CVE-2014-6407, -9356, -9357, CVE-2021-41089 and friends: nothing outside is made, changed or read.
#[test]
fn nothing_gets_out() {
    let attacks: Vec<(&str, Vec<Entry>)> = vec![
        ("climbing name", vec![Entry::file("../evil", 0o644, 1)]),
        ("climbing in the middle", vec![Entry::file("a/../../evil", 0o644, 1)]),
        ("absolute name", vec![Entry::file("/evil", 0o644, 1)]),
        (
            "through an absolute link",
            vec![linked("l", EntryKind::Symlink, "OUTSIDE"), Entry::file("l/evil", 0o644, 1)],
        ),
        (
            "through a climbing link",
            vec![linked("l", EntryKind::Symlink, "../outside"), Entry::file("l/evil", 0o644, 1)],
        ),
        (
            "through a chain of links",
            vec![
                linked("a", EntryKind::Symlink, ".."),
                linked("b", EntryKind::Symlink, "a/outside"),
                Entry::file("b/evil", 0o644, 1),
            ],
        ),
        ("over a link", vec![linked("l", EntryKind::Symlink, "OUTSIDE/victim"), Entry::file("l", 0o666, 1)]),
        (
            "directory over a link",
            vec![linked("l", EntryKind::Symlink, "OUTSIDE"), Entry::new("l/", EntryKind::Directory, 0o777)],
        ),
        (
            "hard link out",
            vec![linked("h", EntryKind::HardLink, "../outside/victim"), Entry::file("h", 0o666, 1)],
        ),
        ("absolute hard link out", vec![linked("h", EntryKind::HardLink, "OUTSIDE/victim")]),
        (
            "hard link through a link",
            vec![linked("l", EntryKind::Symlink, "OUTSIDE"), linked("h", EntryKind::HardLink, "l/victim")],
        ),
        ("whiteout that climbs", vec![Entry::file(".wh...", 0o644, 0)]),
        ("whiteout of the directory", vec![Entry::file("d/.wh..", 0o644, 0)]),
        (
            "whiteout through a link",
            vec![linked("l", EntryKind::Symlink, "OUTSIDE"), Entry::file("l/.wh.victim", 0o644, 0)],
        ),
        (
            "opaque through a link",
            vec![linked("l", EntryKind::Symlink, "OUTSIDE"), Entry::file("l/.wh..wh..opq", 0o644, 0)],
        ),
        ("the root as a file", vec![Entry::file(".", 0o644, 1)]),
        ("an empty name", vec![Entry::file("", 0o644, 1)]),
    ];
    for (what, mut entries) in attacks {
        for whiteouts in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
            std::fs::create_dir(&root).unwrap();
            std::fs::create_dir(&outside).unwrap();
            std::fs::write(outside.join("victim"), "untouched").unwrap();
            std::fs::set_permissions(outside.join("victim"), std::fs::Permissions::from_mode(0o600)).unwrap();
            for entry in &mut entries {
                let link = String::from_utf8(entry.link.clone()).unwrap();
                entry.link = link.replace("OUTSIDE", outside.to_str().unwrap()).into_bytes();
            }
            // Refusing and staying inside are both right.
            let _ = unpack(&archive_of(&entries), &root, whiteouts);
            let left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["victim"], "{what}");
            let victim = std::fs::metadata(outside.join("victim")).unwrap();
            assert_eq!((victim.mode() & 0o777, victim.nlink()), (0o600, 1), "{what}");
            assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "untouched", "{what}");
            assert!(!dir.path().join("evil").exists(), "{what}");
            assert!(!std::path::Path::new("/evil").exists(), "{what}");
            let opaque = std::fs::File::open(&outside).unwrap();
            assert_eq!(beneath::xattr(opaque.as_fd(), "trusted.overlay.opaque").unwrap(), None, "{what}");
        }
    }
}

#[test]
fn refusals_in_gos_words() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |archive: &[u8]| unpack(archive, dir.path(), true).unwrap_err();
    assert_eq!(
        refuse(&archive_of(&[Entry::file("../../../../escape.txt", 0o644, 1)])),
        "invalid entry name \"../../../../escape.txt\""
    );
    assert_eq!(refuse(&b"garbage".repeat(100)), "archive/tar: invalid tar header");
    assert_eq!(refuse(b"this is no tar"), "unexpected EOF");
    let whole = archive_of(&[Entry::file("x", 0o644, 1000)]);
    assert_eq!(refuse(&whole[..800]), "unexpected EOF");
    assert!(refuse(&archive_of(&[linked("h", EntryKind::HardLink, "missing")])).contains("invalid hardlink"));
    // One zero block and then a header is no end.
    let mut gap = vec![0; 512];
    gap.extend(&whole);
    assert_eq!(refuse(&gap), "archive/tar: invalid tar header");
    assert!(unpack(&[0; 1024], dir.path(), true).is_ok());
    assert!(unpack(b"", dir.path(), true).is_ok());
}

/// A header block of any type and its data.
fn raw(name: &str, flag: u8, size: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    out.append_empty(&Entry::file(name, 0o644, 0)).unwrap();
    let mut block: [u8; 512] = out.finish().unwrap()[..512].try_into().unwrap();
    block[156] = flag;
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    let (sum, _) = header::checksums(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = block.to_vec();
    all.extend(data);
    all.resize(all.len().div_ceil(512) * 512, 0);
    all
}

fn names(archive: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = Reader::new(archive);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|e| e.to_string())? {
        names.push(String::from_utf8(entry.path).unwrap());
        if names.len() > 100 {
            break;
        }
    }
    Ok(names)
}

/// CVE-2025-62518: what a PAX header says about the size governs what is skipped; it says it about the next member
/// only, never about another extension header.
#[test]
fn nothing_is_smuggled_by_pax() {
    let inner = raw("smuggled", b'0', 0, b"");
    let mut archive = raw("pax", b'x', 12, b"12 size=512\n");
    archive.extend(raw("carrier", b'0', 0, &inner));
    archive.extend(raw("after", b'0', 0, b""));
    assert_eq!(names(&archive).unwrap(), ["carrier", "after"]);
    // Between the PAX header and its member stands a long name: its own size holds for it.
    let mut archive = raw("pax", b'x', 12, b"12 size=512\n");
    archive.extend(raw("././@LongLink", b'L', 5, b"long\0"));
    archive.extend(raw("carrier", b'0', 0, &inner));
    archive.extend(raw("after", b'0', 0, b""));
    assert_eq!(names(&archive).unwrap(), ["long", "after"]);
    // And the member after it is not touched.
    let mut archive = raw("pax", b'x', 15, b"15 path=/other\n");
    archive.extend(raw("one", b'0', 0, b""));
    archive.extend(raw("two", b'0', 0, b""));
    assert_eq!(names(&archive).unwrap(), ["/other", "two"]);
    // A global header changes nothing.
    let mut archive = raw("pax", b'g', 12, b"12 size=512\n");
    archive.extend(raw("one", b'0', 0, b""));
    archive.extend(raw("two", b'0', 0, b""));
    assert_eq!(names(&archive).unwrap(), ["one", "two"]);
}

#[test]
fn malformed_pax_is_refused() {
    for bad in [
        "11 size=-5\n",
        "12 size=1 2\n",
        "99 path=x\n",
        "9 path=x",
        "x path=x\n",
        "5 =x\n",
        "11 path=a\0b\n",
        "10 size=z\n",
        "22 size=99999999999999\n",
        "31 size=99999999999999999999999\n",
        "14 uid=8589934592\n",
        "0 \n",
        "12 mtime=1.x\n",
    ] {
        let mut archive = raw("pax", b'x', bad.len() as u64, bad.as_bytes());
        archive.extend(raw("one", b'0', 0, b""));
        let got = names(&archive);
        assert!(got.is_err() || bad.starts_with("22"), "{bad:?}: {got:?}");
    }
    let huge = raw("pax", b'x', 2 << 20, b"");
    assert!(names(&huge).unwrap_err().contains("exceeds the limit"));
    let sparse = [raw("pax", b'x', 22, b"22 GNU.sparse.major=1\n"), raw("s", b'0', 0, b"")].concat();
    assert!(names(&sparse).unwrap_err().contains("not supported"));
}

#[test]
fn limits_stop_bombs() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Entry> = (0..20).map(|n| Entry::file(format!("f{n}"), 0o644, 100)).collect();
    let archive = archive_of(&many);
    for limits in [Limits { entries: 10, ..Limits::default() }, Limits { bytes: 1000, ..Limits::default() }] {
        let options = ExtractOptions { limits, ..ExtractOptions::default() };
        let done =
            extract(open(dir.path()).as_fd(), &mut Reader::new(&archive[..]), &options, &Cancel::new());
        assert!(matches!(done, Err(TarError::Limit { .. })));
    }
    // A header that announces more than there is does not fill memory or disk.
    let lie = raw("big", b'0', 0o77_777_777_777, b"x");
    assert_eq!(unpack(&lie, dir.path(), true).unwrap_err(), "unexpected EOF");
}

#[test]
fn whiteouts_become_overlays() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive_of(&[
        Entry::new("d/", EntryKind::Directory, 0o755),
        Entry::file("d/.wh.gone", 0o644, 0),
        Entry::file("o/.wh..wh..opq", 0o644, 0),
        Entry::file("d/.wh.again", 0o644, 0),
        Entry::new("d/again/", EntryKind::Directory, 0o755),
        Entry::file(".wh..wh.plnk", 0o644, 0),
    ]);
    let done = unpack(&archive, dir.path(), true).unwrap();
    assert_eq!(done.implicit, [b"o".to_vec()]);
    let gone = std::fs::symlink_metadata(dir.path().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["o", "d/again"] {
        let fd = std::fs::File::open(dir.path().join(opaque)).unwrap();
        assert_eq!(beneath::xattr(fd.as_fd(), "trusted.overlay.opaque").unwrap().unwrap(), b"y", "{opaque}");
    }
    assert!(!dir.path().join(".wh..wh.plnk").exists());
    // And back.
    let packed = pack(dir.path(), PackOptions { overlay: true, nanoseconds: false });
    let mut found = names(&packed).unwrap();
    found.sort();
    assert_eq!(found, ["d/", "d/.wh.gone", "d/again/", "d/again/.wh..wh..opq", "o/", "o/.wh..wh..opq"]);
    let mut text = String::new();
    Reader::new(&packed[..]).data().read_to_string(&mut text).unwrap();
    assert!(text.is_empty());
}

/// An attribute of overlay in a layer would redirect reads; it is dropped.
#[test]
fn overlay_attributes_are_not_taken_from_archives() {
    let dir = tempfile::tempdir().unwrap();
    let mut entry = Entry::new("d/", EntryKind::Directory, 0o755);
    entry.xattrs =
        vec![(b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()), (b"user.ok".to_vec(), b"1".to_vec())];
    unpack(&archive_of(&[entry]), dir.path(), true).unwrap();
    let fd = std::fs::File::open(dir.path().join("d")).unwrap();
    assert_eq!(beneath::xattr(fd.as_fd(), "trusted.overlay.redirect").unwrap(), None);
    assert_eq!(beneath::xattr(fd.as_fd(), "user.ok").unwrap().unwrap(), b"1");
}

#[test]
fn no_input_panics() {
    let mut state = 7u32;
    let base = archive_of(&[Entry::file("a", 0o644, 700), Entry::file("n".repeat(300), 0o644, 3)]);
    for _ in 0..3000 {
        let mut bytes = base.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = (state >> 3) as u8;
            if at % 512 < 500 {
                // Keep the checksum right now and then, so that the fields are reached.
                let start = at / 512 * 512;
                let block: [u8; 512] = bytes[start..start + 512].try_into().unwrap();
                let (sum, _) = header::checksums(&block);
                bytes[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = names(&bytes);
    }
}
