//! Snapshots on real directories.

use std::os::fd::AsFd;

use corten_wire::oci_image::{Descriptor, media_type};

use super::*;
use crate::tar::{Entry, EntryKind, Writer};

fn open(root: &Path) -> (Content, Snapshots) {
    let content = Content::open(root).unwrap();
    let snapshots = Snapshots::open(root, content.clone()).unwrap();
    (content, snapshots)
}

fn layer(content: &Content, entries: &[Entry]) -> Layer {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        writer.append(entry, &mut std::io::repeat(b'x')).unwrap();
    }
    let tar = writer.finish().unwrap();
    let digest = content.put(&tar, &mut content.pins()).unwrap();
    Layer { blob: Descriptor::new(media_type::LAYER, digest.clone(), tar.len() as u64), diff_id: digest }
}

#[test]
fn what_a_crash_leaves_is_swept_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (content, snapshots) = open(dir.path());
    let layers: Vec<Layer> =
        (0..6).map(|n| layer(&content, &[Entry::file(format!("f{n}"), 0o644, 10)])).collect();
    let overlay = snapshots.prepare_on("c", &layers).unwrap();
    assert_eq!(overlay.lowers.len(), 7);
    let layer_dir = overlay.lowers[1].parent().unwrap().to_owned();
    // A layer of another boot that was not flushed, one without its note, and leavings in tmp.
    let note = std::fs::read_to_string(layer_dir.join("layer.json")).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(layer_dir.join("layer.json"), note.replace(boot.trim(), "other")).unwrap();
    std::fs::remove_file(overlay.lowers[2].parent().unwrap().join("layer.json")).unwrap();
    std::fs::create_dir_all(dir.path().join("snapshots/tmp/half/fs")).unwrap();
    let (_, snapshots) = open(dir.path());
    assert!(!overlay.lowers[1].exists() && !overlay.lowers[2].exists() && overlay.lowers[3].exists());
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots/tmp")).unwrap().count(), 0);
    assert_eq!(snapshots.prepare_on("c", &layers).unwrap(), overlay);
    assert!(overlay.lowers[1].join("f5").exists());
    snapshots.flush().unwrap();
    assert_eq!(snapshots.ids().unwrap(), ["c"]);
    snapshots.remove("c").unwrap();
    snapshots.remove("c").unwrap();
    assert!(snapshots.ids().unwrap().is_empty());
    for name in ["", "..", "a/b", "/etc", "x\0"] {
        assert!(snapshots.remove(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_wrong_diff_id_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let (content, snapshots) = open(dir.path());
    let mut lying = layer(&content, &[Entry::file("f", 0o644, 10)]);
    lying.diff_id = Digest::of(b"other");
    assert!(matches!(snapshots.prepare_on("c", &[lying]), Err(ImageError::DigestMismatch { .. })));
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots/layers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots/tmp")).unwrap().count(), 0);
}

/// An image whose /etc and /dev are links: mounts stand on directories of ours, the links lead nowhere.
#[test]
fn links_in_place_of_mount_points_are_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let (content, snapshots) = open(dir.path());
    let link = |path: &str, target: &str| Entry {
        link: target.into(),
        ..Entry::new(path, EntryKind::Symlink, 0o777)
    };
    let base = layer(&content, &[link("etc", "/tmp"), link("dev", "../../.."), link("proc", "/sys")]);
    let overlay = snapshots.prepare_on("c", &[base]).unwrap();
    let root = snapshots.mount_detached(&overlay, true).unwrap();
    for (path, target) in [("/etc", ""), ("/dev", ""), ("/proc", ""), ("/etc/mtab", "/proc/mounts")] {
        let stat = crate::archive::stat(root.as_fd(), path).unwrap();
        assert_eq!(stat.link_target, target, "{path}");
    }
}

#[test]
fn most_containers_share_one_top() {
    let dir = tempfile::tempdir().unwrap();
    let (content, snapshots) = open(dir.path());
    let a = layer(&content, &[Entry::file("a", 0o644, 1)]);
    let b = layer(&content, &[Entry::file("b", 0o644, 1)]);
    let top = |layers: &[Layer]| snapshots.prepare_on("c", layers).unwrap().lowers[0].clone();
    let (one, two) = (top(std::slice::from_ref(&a)), top(&[a.clone(), b]));
    assert_eq!(one.parent().unwrap().parent(), two.parent().unwrap().parent());
    let none = snapshots.prepare_on("scratch", &[]).unwrap();
    assert_eq!(none.lowers.len(), 1);
    assert!(none.lowers[0].join("etc/hosts").exists());
    snapshots.mount_detached(&none, false).unwrap();
}
