//! Archives of paths, and links that try to lead out.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::*;
use crate::tar::{Entry, EntryKind};

struct Root {
    dir: tempfile::TempDir,
    fd: OwnedFd,
}

fn root() -> Root {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root");
    std::fs::create_dir_all(path.join("tmp/d")).unwrap();
    std::fs::create_dir_all(path.join("bin")).unwrap();
    std::fs::create_dir_all(path.join("etc")).unwrap();
    std::fs::write(path.join("tmp/a.txt"), "hello").unwrap();
    std::fs::write(path.join("tmp/d/b.txt"), "b").unwrap();
    std::fs::write(path.join("bin/busybox"), "elf").unwrap();
    std::os::unix::fs::symlink("busybox", path.join("bin/sh")).unwrap();
    std::os::unix::fs::symlink("/etc", path.join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../../etc", path.join("climb")).unwrap();
    std::os::unix::fs::symlink("loop", path.join("loop")).unwrap();
    let fd = rustix::fs::open(&path, beneath::DIR, Mode::empty()).unwrap();
    Root { dir, fd }
}

impl Root {
    fn path(&self, rest: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(rest)
    }

    fn get(&self, path: &str) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        get(self.fd.as_fd(), path, &mut out, &Cancel::new()).map_err(|e| e.to_string())?;
        let mut reader = Reader::new(&out[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        Ok(names)
    }

    fn put(&self, path: &str, entries: &[Entry], options: PutOptions) -> Result<(), String> {
        let mut writer = Writer::new(Vec::new());
        for entry in entries {
            writer.append(entry, &mut std::io::repeat(b'x')).unwrap();
        }
        let tar = writer.finish().unwrap();
        put(self.fd.as_fd(), path, &mut &tar[..], options, &Cancel::new()).map_err(|e| e.to_string())
    }
}

#[test]
fn stats_as_docker_shows_them() {
    let r = root();
    let stat = |path| stat(r.fd.as_fd(), path).map_err(|e| e.to_string());
    let file = stat("/tmp/a.txt").unwrap();
    assert_eq!((file.name.as_str(), file.size, file.mode), ("a.txt", 5, 0o644));
    assert_eq!(stat("/tmp/d").unwrap().mode, 2_147_484_141);
    let link = stat("/bin/sh").unwrap();
    assert_eq!(
        (link.name.as_str(), link.mode, link.link_target.as_str()),
        ("sh", 134_218_239, "/bin/busybox")
    );
    assert_eq!(stat("/climb").unwrap().link_target, "/etc");
    assert_eq!(stat("/").unwrap().name, "/");
    assert_eq!(stat("/nope").unwrap_err(), "Could not find the file /nope");
    assert_eq!(stat("/tmp/a.txt/").unwrap_err(), "path not a directory");
    assert!(stat("/loop").is_err());
}

#[test]
fn names_as_docker_writes_them() {
    let r = root();
    assert_eq!(r.get("/tmp/a.txt").unwrap(), ["a.txt"]);
    assert_eq!(r.get("tmp/d").unwrap(), ["d/", "d/b.txt"]);
    assert_eq!(r.get("/tmp/d/.").unwrap(), ["./", "./b.txt"]);
    assert_eq!(r.get("/bin/sh").unwrap(), ["sh"]);
    assert_eq!(r.get("/tmp/../bin/busybox").unwrap(), ["busybox"]);
    assert_eq!(r.get("/nope").unwrap_err(), "Could not find the file /nope");
}

#[test]
fn put_as_docker_does() {
    let r = root();
    let keep = PutOptions { copy_uid_gid: true, ..PutOptions::default() };
    let strict = PutOptions { no_overwrite_dir_non_dir: true, ..keep };
    r.put("/tmp", &[Entry::file("new", 0o600, 3)], keep).unwrap();
    assert_eq!(std::fs::read_to_string(r.path("tmp/new")).unwrap(), "xxx");
    assert_eq!(r.put("/nope", &[], keep).unwrap_err(), "Could not find the file /nope");
    assert_eq!(r.put("/tmp/a.txt", &[], keep).unwrap_err(), "extraction point is not a directory");
    assert_eq!(
        r.put("/tmp", &[Entry::new("a.txt", EntryKind::Directory, 0o755)], strict).unwrap_err(),
        "cannot overwrite non-directory \"a.txt\" with directory \"/tmp\""
    );
    assert_eq!(
        r.put("/tmp", &[Entry::file("d", 0o644, 1)], strict).unwrap_err(),
        "cannot overwrite directory \"d\" with non-directory \"/tmp\""
    );
    assert_eq!(
        r.put("/tmp", &[Entry::file("../../../../escape.txt", 0o644, 1)], keep).unwrap_err(),
        "invalid entry name \"../../../../escape.txt\""
    );
    let fixed = PutOptions { owner: (1000, 1001), ..PutOptions::default() };
    r.put("/tmp", &[Entry::file("mine", 0o600, 0)], fixed).unwrap();
    use std::os::unix::fs::MetadataExt;
    let mine = std::fs::metadata(r.path("tmp/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (1000, 1001));
}

/// CVE-2018-15664 and CVE-2021-41089: links of the container lead around in the container only.
#[test]
fn links_of_the_container_stay_there() {
    let r = root();
    let keep = PutOptions { copy_uid_gid: true, ..PutOptions::default() };
    for link in ["/out", "/climb", "/out/."] {
        r.put(link, &[Entry::file("corten-planted", 0o644, 1)], keep).unwrap();
        assert!(r.path("etc/corten-planted").exists());
        assert!(!Path::new("/etc/corten-planted").exists());
        std::fs::remove_file(r.path("etc/corten-planted")).unwrap();
    }
    std::fs::write(r.path("etc/inside"), "1").unwrap();
    assert_eq!(r.get("/climb/.").unwrap(), ["./", "./inside"]);
    assert_eq!(r.get("/out/inside").unwrap(), ["inside"]);
    assert!(r.get("/out/passwd").is_err());
}

/// A process of the container swaps a directory for a link all the time.
#[test]
fn a_race_for_the_path_is_lost() {
    let r = root();
    let outside = r.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let stop = Cancel::new();
    let (running, base, away) = (stop.clone(), r.path("tmp"), outside.clone());
    std::os::unix::fs::symlink(&away, base.join("evil")).unwrap();
    std::fs::create_dir(base.join("good")).unwrap();
    let swapper = std::thread::spawn(move || {
        while !running.is_cancelled() {
            let (a, b) = (base.join("good"), base.join("evil"));
            let cwd = rustix::fs::CWD;
            // Our side may have removed one of them in between.
            let _ = rustix::fs::renameat_with(cwd, &a, cwd, &b, rustix::fs::RenameFlags::EXCHANGE);
        }
    });
    let keep = PutOptions { copy_uid_gid: true, ..PutOptions::default() };
    for n in 0..300 {
        let entries =
            [Entry::file(format!("good/f{n}"), 0o644, 1), Entry::file(format!("evil/f{n}"), 0o644, 1)];
        let _ = r.put("/tmp", &entries, keep);
        let _ = r.get("/tmp/good/.");
    }
    stop.cancel();
    swapper.join().unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}
