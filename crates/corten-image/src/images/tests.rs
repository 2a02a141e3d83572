//! Images end to end, without a registry: import, build steps, commit, names, save and load, removal.

use std::io::Write as _;

use corten_base::Reference;
use corten_wire::oci_image::{ContainerConfig, History, ImageConfig};

use super::*;
use crate::tar::{Entry, EntryKind, Writer};
use crate::{
    ChangeKind, CommitRequest, ImportRequest, Layer, NewImage, Progress, ProgressEvent, RemoveOptions,
    Removed,
};

struct Fixture {
    dir: tempfile::TempDir,
    images: Images,
    bus: Bus,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let (images, bus) = open(dir.path());
    Fixture { dir, images, bus }
}

fn open(root: &Path) -> (Images, Bus) {
    let bus = Bus::new();
    let db = Db::open(&root.join("meta.db")).unwrap();
    (Images::open(root, db, bus.clone()).unwrap(), bus)
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn tar(members: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, data) in members {
        match data {
            Some(data) => writer.append_bytes(name, 0o644, (1_600_000_000, 0), data).unwrap(),
            None => writer.append_empty(&Entry::new(*name, EntryKind::Directory, 0o755)).unwrap(),
        }
    }
    writer.finish().unwrap()
}

impl Fixture {
    fn import(&self, name: &str, members: &[(&str, Option<&[u8]>)]) -> Arc<Image> {
        let request = ImportRequest {
            config: ContainerConfig::default(),
            comment: "Imported from -".into(),
            reference: Some(reference(name)),
            platform: None,
        };
        self.images.import(&mut &tar(members)[..], request, &Cancel::new()).unwrap()
    }

    fn tags(&self) -> Vec<String> {
        self.images.list(&Filters::new(), false).unwrap().iter().flat_map(|s| s.repo_tags.clone()).collect()
    }

    fn remove(&self, name: &str, options: &RemoveOptions) -> Result<Vec<String>, String> {
        let text = |r: Removed| match r {
            Removed::Untagged(name) => format!("untagged {name}"),
            Removed::Deleted(id) => format!("deleted {}", &id.hex()[..6]),
        };
        let removed = self.images.remove(name, options).map_err(|e| e.to_string())?;
        Ok(removed.into_iter().map(text).collect())
    }

    fn blob_count(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("blobs/sha256")).unwrap().count()
    }

    fn layer_count(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("snapshots/layers")).unwrap().count()
    }
}

#[test]
fn names_and_lookups() {
    let f = fixture();
    let image = f.import("busybox:golden", &[("etc/", None), ("etc/x", Some(b"1"))]);
    assert_eq!(f.images.resolve("busybox:golden").unwrap().id, image.id);
    assert_eq!(f.images.resolve(&image.id.hex()[..8]).unwrap().id, image.id);
    assert_eq!(f.images.resolve(image.id.as_str()).unwrap().id, image.id);
    assert_eq!(f.images.resolve(&format!("busybox@{}", image.id)).unwrap().id, image.id);
    for (name, want) in [
        ("none:such", "No such image: none:such"),
        ("nope", "No such image: nope:latest"),
        ("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
    ] {
        assert_eq!(f.images.resolve(name).unwrap_err().to_string(), want);
    }
    f.images.tag("busybox:golden", &reference("example.test:5000/team/app:v1")).unwrap();
    f.images.tag("busybox:golden", &reference("copy")).unwrap();
    f.images.tag("busybox:golden", &reference("Upper/x")).unwrap();
    assert_eq!(
        f.tags(),
        ["Upper/x:latest", "busybox:golden", "copy:latest", "example.test:5000/team/app:v1"]
    );
    let filter = |name: &str, value: &str| Filters::from([(name.into(), vec![value.into()])]);
    let tags = |name, value| -> Result<Vec<String>, String> {
        let list = f.images.list(&filter(name, value), false).map_err(|e| e.to_string())?;
        Ok(list.into_iter().flat_map(|s| s.repo_tags).collect())
    };
    assert_eq!(tags("reference", "copy").unwrap(), ["copy:latest"]);
    assert_eq!(tags("reference", "*/team/*:v1").unwrap(), ["example.test:5000/team/app:v1"]);
    assert!(tags("dangling", "true").unwrap().is_empty());
    assert_eq!(tags("dangling", "x").unwrap_err(), "invalid filter 'dangling=[x]'");
    assert_eq!(tags("bogus", "x").unwrap_err(), "invalid filter 'bogus'");
    let (events, _) = f.bus.subscribe();
    assert_eq!(events[1].action, "tag");
    assert_eq!(events[1].actor, image.id.as_str());
    assert_eq!(events[1].attributes["name"], "example.test:5000/team/app:v1");
    // Everything survives a restart.
    let Fixture { dir, images, .. } = f;
    drop(images);
    let (images, _) = open(dir.path());
    assert_eq!(images.resolve("copy").unwrap().id, image.id);
}

#[test]
fn removal_follows_dockers_rules() {
    let f = fixture();
    let image = f.import("a:1", &[("x", Some(b"1"))]);
    f.images.tag("a:1", &reference("b:1")).unwrap();
    let short = &image.id.hex()[..6];
    let options = RemoveOptions::default();
    assert_eq!(f.remove("a:1", &options).unwrap(), ["untagged a:1"]);
    assert_eq!(f.remove("a:1", &options).unwrap_err(), "No such image: a:1");
    // A container holds it.
    f.images
        .inner
        .db
        .write(Commit::Durable, |txn| f.images.hold(txn, &image.id, "0123456789abcdef"))
        .unwrap();
    let conflict = f.remove("b:1", &options).unwrap_err();
    assert!(conflict.contains("container 0123456789ab is using its referenced image"), "{conflict}");
    let by_id = f.remove(image.id.as_str(), &options).unwrap_err();
    assert!(
        by_id.contains("(must be forced) - image is being used by stopped container 0123456789ab"),
        "{by_id}"
    );
    let force = RemoveOptions { force: true, ..RemoveOptions::default() };
    let running = RemoveOptions { running: vec!["0123456789abcdef".into()], ..force.clone() };
    let hard = f.remove(image.id.as_str(), &running).unwrap_err();
    assert!(hard.contains("(cannot be forced) - image is being used by running container"), "{hard}");
    assert_eq!(f.remove("b:1", &force).unwrap(), ["untagged b:1"]);
    // Nameless now, but there; prune spares it until the container is gone.
    assert!(f.images.get(&image.id).is_some());
    assert!(f.images.prune(&Filters::new()).unwrap().removed.is_empty());
    f.images
        .inner
        .db
        .write(Commit::Durable, |txn| f.images.release(txn, &image.id, "0123456789abcdef"))
        .unwrap();
    let pruned = f.images.prune(&Filters::new()).unwrap();
    assert_eq!(pruned.removed, [Removed::Deleted(image.id.clone())]);
    assert!(pruned.space_reclaimed > 0);
    assert_eq!((f.blob_count(), f.layer_count()), (0, 0), "{short}");
    let gone = f.images.inner.db.write(Commit::Durable, |txn| f.images.hold(txn, &image.id, "c"));
    assert!(gone.is_err());
}

/// Three layers on top of each other, the middle one with whiteouts, as the builder makes them.
fn three_layers(f: &Fixture) -> Arc<Image> {
    let base = f.import(
        "base:1",
        &[("d/", None), ("d/one", Some(b"1")), ("d/two", Some(b"2")), ("keep", Some(b"k"))],
    );
    let mut layers = base.layers();
    let step = |layers: &[Layer], work: &dyn Fn(&Path)| {
        let overlay = f.images.snapshots().prepare_on("step", layers).unwrap();
        let root = f.images.snapshots().mount_detached(&overlay, false).unwrap();
        work(&crate::beneath::proc_path(std::os::fd::AsFd::as_fd(&root)));
        drop(root);
        f.images.take_layer("step", &Cancel::new()).unwrap()
    };
    let second = step(&layers, &|root| {
        std::fs::remove_file(root.join("d/one")).unwrap();
        std::fs::write(root.join("d/three"), "3").unwrap();
    });
    layers.push(second.unwrap());
    let third = step(&layers, &|root| {
        std::fs::remove_dir_all(root.join("d")).unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/four"), "4").unwrap();
        std::fs::hard_link(root.join("d/four"), root.join("d/five")).unwrap();
    });
    layers.push(third.unwrap());
    assert_eq!(step(&layers, &|_| {}), None, "nothing changed, no layer");
    let history = |by: &str| History { created_by: by.into(), ..History::default() };
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        history: vec![history("import"), history("RUN one"), history("RUN two")],
        ..ImageConfig::default()
    };
    f.images
        .create_image(NewImage {
            config,
            layers,
            parent: Some(base.id.clone()),
            references: vec![reference("three:1")],
            ..NewImage::default()
        })
        .unwrap()
}

fn listing(f: &Fixture, image: &Image) -> Vec<String> {
    let overlay = f.images.snapshots().prepare("look", image).unwrap();
    let root = f.images.snapshots().mount_detached(&overlay, true).unwrap();
    let mut out = Vec::new();
    crate::archive::export(std::os::fd::AsFd::as_fd(&root), &mut out, &Cancel::new()).unwrap();
    f.images.snapshots().remove("look").unwrap();
    let mut archive = tar::Archive::new(&out[..]);
    archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
}

#[test]
fn three_layers_survive_save_and_load() {
    let f = fixture();
    let image = three_layers(&f);
    let before = listing(&f, &image);
    assert!(before.contains(&"d/four".to_owned()) && before.contains(&"keep".to_owned()));
    assert!(!before.iter().any(|n| n == "d/one" || n == "d/two" || n == "d/three"));
    assert!(before.contains(&".dockerenv".to_owned()) && before.contains(&"etc/mtab".to_owned()));
    let history = f.images.history("three:1", None).unwrap();
    assert_eq!(history[0].id.as_ref(), Some(&image.id));
    assert_eq!(history[1].tags, ["base:1"]);
    let mut saved = Vec::new();
    f.images.save(&["three:1".into()], &[], &mut saved, &Cancel::new()).unwrap();
    for compressed in [saved.clone(), gzip(&saved), zstd::encode_all(&saved[..], 1).unwrap()] {
        let other = fixture();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let progress = Progress::new(move |e| sink.lock().unwrap().push(e));
        let loaded = other.images.load(&mut &compressed[..], &[], &progress, &Cancel::new()).unwrap();
        assert_eq!(loaded[0].id, image.id);
        assert_eq!(
            lines.lock().unwrap().last(),
            Some(&ProgressEvent::Stream("Loaded image: three:1\n".into()))
        );
        assert_eq!(listing(&other, &loaded[0]), before);
        // Blobs of the archive's own documents are gone.
        assert_eq!(other.blob_count(), 5);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn commit_takes_what_changed() {
    let f = fixture();
    let base = f.import("base:1", &[("d/", None), ("d/one", Some(b"1"))]);
    let overlay = f.images.snapshots().prepare("c1", &base).unwrap();
    let commit = |name: &str| {
        f.images
            .commit(
                CommitRequest {
                    snapshot: "c1".into(),
                    base: Arc::clone(&base),
                    config: ContainerConfig { cmd: Some(vec!["x".into()]), ..ContainerConfig::default() },
                    author: "me".into(),
                    comment: "c".into(),
                    created_by: "sleep 600".into(),
                    container: String::new(),
                    reference: Some(reference(name)),
                },
                &Cancel::new(),
            )
            .unwrap()
    };
    let same = commit("same:1");
    assert_eq!(same.config.rootfs.diff_ids, base.config.rootfs.diff_ids);
    let steps = f.images.history("same:1", None).unwrap();
    assert_eq!((steps[0].created_by.as_str(), steps[0].size), ("sleep 600", 0));
    assert_eq!(steps[1].id.as_ref(), Some(&base.id));
    {
        let root = f.images.snapshots().mount_detached(&overlay, false).unwrap();
        let path = crate::beneath::proc_path(std::os::fd::AsFd::as_fd(&root));
        std::fs::remove_file(path.join("d/one")).unwrap();
        std::fs::write(path.join("d/two"), "22").unwrap();
        std::fs::write(path.join("etc/hosts"), "127.0.0.1 x\n").unwrap();
    }
    let changes = f.images.snapshots().changes(&overlay).unwrap();
    let shown: Vec<_> = changes.iter().map(|c| (c.path.as_str(), c.kind)).collect();
    assert_eq!(
        shown,
        [
            ("/d", ChangeKind::Modified),
            ("/d/one", ChangeKind::Deleted),
            ("/d/two", ChangeKind::Added),
            ("/etc", ChangeKind::Modified),
            ("/etc/hosts", ChangeKind::Modified)
        ]
    );
    assert_eq!(f.images.snapshots().usage("c1").unwrap() % 512, 0, "in blocks");
    let image = commit("changed:1");
    assert_eq!(image.config.rootfs.diff_ids.len(), 2);
    let names = listing(&f, &image);
    assert!(names.contains(&"d/two".to_owned()) && !names.contains(&"d/one".to_owned()), "{names:?}");
    // The parent stays listed as such, and removal of the child leaves the named parent.
    assert_eq!(image.parent.as_ref(), Some(&base.id));
    assert_eq!(f.remove("changed:1", &RemoveOptions::default()).unwrap().len(), 2);
    assert!(f.images.resolve("base:1").is_ok());
}

#[test]
fn archives_that_are_no_images() {
    let f = fixture();
    let load = |bytes: &[u8]| {
        f.images.load(&mut &bytes[..], &[], &Progress::none(), &Cancel::new()).unwrap_err().to_string()
    };
    assert_eq!(load(b"this is no tar"), "unexpected EOF");
    assert_eq!(load(&tar(&[("x", Some(b"1"))])), "unrecognized image format");
    let wrong = format!("blobs/sha256/{}", "a".repeat(64));
    assert!(load(&tar(&[(&wrong, Some(b"1"))])).starts_with("failed to verify content"));
    // Names of the archive are never paths: a config that climbs is simply not there.
    let manifest = br#"[{"Config":"../../../../etc/passwd","RepoTags":["x:1"],"Layers":["/etc/shadow"]}]"#;
    assert!(load(&tar(&[("manifest.json", Some(manifest))])).contains("is missing"));
    assert!(load(&tar(&[("../x", Some(b"1"))])).starts_with("invalid entry name"));
    let both = br#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#;
    assert!(load(&tar(&[("index.json", Some(both))])).contains("ambiguous"));
    assert_eq!((f.blob_count(), f.layer_count()), (0, 0));
    assert!(f.images.list(&Filters::new(), true).unwrap().is_empty());
}

#[test]
fn old_docker_archives_load() {
    let f = fixture();
    let layer = tar(&[("d/", None), ("d/x", Some(b"1"))]);
    let diff_id = Digest::of(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["x"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}","{diff_id}"]}}}}"#
    );
    let manifest =
        br#"[{"Config":"c.json","RepoTags":["old:1","old:2"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let mut writer = Writer::new(Vec::new());
    writer.append_bytes("a/layer.tar", 0o644, (0, 0), &layer).unwrap();
    let mut link = Entry::new("b/layer.tar", EntryKind::Symlink, 0o777);
    link.link = b"../a/layer.tar".to_vec();
    writer.append_empty(&link).unwrap();
    writer.append_bytes("c.json", 0o644, (0, 0), config.as_bytes()).unwrap();
    writer.append_bytes("manifest.json", 0o644, (0, 0), manifest).unwrap();
    let archive = writer.finish().unwrap();
    let loaded = f.images.load(&mut &archive[..], &[], &Progress::none(), &Cancel::new()).unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(f.tags(), ["old:1", "old:2"]);
    assert!(listing(&f, &loaded[0]).contains(&"d/x".to_owned()));
}

#[test]
fn a_layer_without_directories_keeps_those_below() {
    let f = fixture();
    let mut writer = Writer::new(Vec::new());
    writer.append_empty(&Entry::new("tmp/", EntryKind::Directory, 0o1777)).unwrap();
    let base = f.images.put_layer(&mut &writer.finish().unwrap()[..], &Cancel::new()).unwrap();
    let top = f.images.put_layer(&mut &tar(&[("tmp/x", Some(b"1"))])[..], &Cancel::new()).unwrap();
    let layers = [base, top];
    let overlay = f.images.snapshots().prepare_on("t", &layers).unwrap();
    let files = f.images.snapshots().prepare_files("u", &layers).unwrap();
    for overlay in [&overlay, &files] {
        let root = f.images.snapshots().mount_detached(overlay, true).unwrap();
        let stat = |path| crate::archive::stat(std::os::fd::AsFd::as_fd(&root), path);
        let tmp = stat("/tmp").unwrap();
        assert_eq!(tmp.mode & 0o777, 0o777);
        assert_eq!(tmp.mode & (1 << 20), 1 << 20, "sticky");
        assert_eq!(stat("/.dockerenv").is_ok(), overlay.upper.ends_with("t/fs"));
    }
}

mod manifests;
mod transfer;
