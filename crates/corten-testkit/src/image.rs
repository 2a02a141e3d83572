//! Images made on the spot from Debian's `busybox-static`; no test needs a registry it did not start.

use std::path::Path;

use anyhow::{Context, Result};

const APPLETS: &str = "sh ash echo sleep cat true false top ps id ls env hostname mount umount wc printf kill tail seq httpd nc \
    wget ping ip ifconfig mkdir rmdir touch rm ln chmod chown dd stat test head sort tr date nslookup grep awk sed tar yes stty \
    uname find df cp mv pwd readlink tty nproc cut uniq tee mktemp mknod route timeout usleep du xargs expr free pidof md5sum \
    sha256sum gzip gunzip vi less su whoami traceroute netstat telnet sync";

/// A root file system with busybox, its applets, and the users `root`, `daemon` and `alice`, as one tar.
///
/// # Errors
/// When `/bin/busybox` cannot be read: install Debian's `busybox-static`.
pub fn busybox_tar() -> Result<Vec<u8>> {
    let busybox =
        std::fs::read("/bin/busybox").context("read /bin/busybox (Debian package busybox-static)")?;
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin", "etc", "root", "home", "var", "usr", "usr/bin", "dev", "proc", "sys", "www"] {
        add_dir(&mut tar, dir, 0o755)?;
    }
    add_dir(&mut tar, "tmp", 0o1777)?;
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nalice:x:1000:1000::/home:/bin/sh\n";
    add_file(&mut tar, "etc/passwd", passwd.as_bytes(), 0o644)?;
    add_file(&mut tar, "etc/group", b"root:x:0:\ndaemon:x:1:\nwheel:x:10:alice\nalice:x:1000:\n", 0o644)?;
    add_file(&mut tar, "www/index.html", b"hello from busybox\n", 0o644)?;
    add_file(&mut tar, "bin/busybox", &busybox, 0o755)?;
    for applet in APPLETS.split_whitespace() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

/// A tar of these regular files, for `docker build -` and `PUT …/archive`.
///
/// # Errors
/// Only when a name does not fit a tar header.
pub fn tar_of(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        add_file(&mut tar, name, data, 0o644)?;
    }
    Ok(tar.into_inner()?)
}

/// Writes these files below `dir`, parents included: a build context.
///
/// # Errors
/// When the disk refuses.
pub fn write_tree(dir: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().context("a file below the directory")?)?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn add_dir(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    Ok(tar.append_data(&mut header, format!("{name}/"), std::io::empty())?)
}

fn add_file(tar: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    Ok(tar.append_data(&mut header, name, data)?)
}
