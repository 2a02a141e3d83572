//! Images with several manifests: one platform of them saved, loaded, removed; what is said about them.

use corten_base::Platform;
use corten_wire::oci_image::{Descriptor, media_type};
use serde_json::{Value, json};

use super::*;

/// Puts a blob beside the others of a layout; its descriptor.
fn blob(members: &mut Vec<(String, Vec<u8>)>, kind: &str, bytes: Vec<u8>) -> Value {
    let descriptor = Descriptor::of(kind, &bytes);
    members.push((format!("blobs/sha256/{}", descriptor.digest.hex()), bytes));
    serde_json::to_value(descriptor).unwrap()
}

/// An archive of `many:1`: manifests for the host and for riscv64, and one statement about the host's.
fn archive() -> Vec<u8> {
    let mut members = Vec::new();
    let mut entries = Vec::new();
    for platform in ["linux/riscv64".parse().unwrap(), Platform::host()] {
        let layer = tar(&[("arch", Some(platform.architecture.as_bytes()))]);
        let config = json!({
            "architecture": platform.architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let layer = blob(&mut members, media_type::LAYER, layer);
        let config = blob(&mut members, media_type::CONFIG, config.to_string().into_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config, "layers": [layer] });
        let mut entry = blob(&mut members, media_type::MANIFEST, manifest.to_string().into_bytes());
        entry["platform"] = json!({ "architecture": platform.architecture, "os": "linux" });
        entries.push(entry);
    }
    let mut statement = blob(&mut members, "application/vnd.in-toto+json", b"{\"about\":1}".to_vec());
    statement["annotations"] = json!({ "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" });
    let config = blob(&mut members, media_type::CONFIG, b"{}".to_vec());
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config, "layers": [statement] });
    let mut attestation = blob(&mut members, media_type::MANIFEST, manifest.to_string().into_bytes());
    attestation["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": entries[1]["digest"],
    });
    entries.push(attestation);
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries });
    let mut top = blob(&mut members, media_type::INDEX, index.to_string().into_bytes());
    top["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/many:1" });
    let index = json!({ "schemaVersion": 2, "manifests": [top] }).to_string().into_bytes();
    members.push(("index.json".to_owned(), index));
    let members: Vec<_> = members.iter().map(|(n, b)| (n.as_str(), Some(b.as_slice()))).collect();
    tar(&members)
}

fn load(f: &Fixture, archive: &[u8], platforms: &[&str]) -> Result<Arc<Image>, String> {
    let platforms: Vec<Platform> = platforms.iter().map(|p| p.parse().unwrap()).collect();
    let loaded = f.images.load(&mut &archive[..], &platforms, &Progress::none(), &Cancel::new());
    loaded.map(|all| Arc::clone(&all[0])).map_err(|e| e.to_string())
}

/// `platform`, `!` where it is not here; `about` for attestations.
fn brief(entries: &[ManifestEntry]) -> Vec<String> {
    let text = |e: &ManifestEntry| match &e.kind {
        ManifestKind::Image { platform, .. } => platform.architecture.clone(),
        ManifestKind::Attestation { .. } => "about".to_owned(),
    };
    let mark = |e: &ManifestEntry| if e.available { "" } else { "!" };
    entries.iter().map(|e| format!("{}{}", mark(e), text(e))).collect()
}

#[test]
fn what_an_index_lists() {
    let f = fixture();
    let image = load(&f, &archive(), &[]).unwrap();
    let host = Platform::host();
    assert_eq!(image.platform(), host);
    // A collection leaves what is said about the image.
    f.images.collect().unwrap();
    let entries = f.images.manifests(&image).unwrap();
    assert_eq!(brief(&entries), ["riscv64", host.architecture.as_str(), "about"]);
    assert!(entries.iter().all(|e| e.content_size > e.descriptor.size));
    let ManifestKind::Attestation { about } = &entries[2].kind else { panic!("{entries:?}") };
    assert_eq!(*about, entries[1].descriptor.digest.as_str());
    let statements = f.images.attestations("many:1", None).unwrap();
    assert_eq!(statements[0].predicate_type, "https://slsa.dev/provenance/v0.2");
    assert_eq!(f.images.statement(&statements[0]).unwrap(), b"{\"about\":1}");
    let other: Platform = "linux/riscv64".parse().unwrap();
    assert!(f.images.attestations("many:1", Some(&other)).unwrap().is_empty());
    // Saved as a whole it loads as a whole.
    let mut saved = Vec::new();
    f.images.save(&["many:1".into()], &[], &mut saved, &Cancel::new()).unwrap();
    let again = fixture();
    let image = load(&again, &saved, &[]).unwrap();
    let entries = again.images.manifests(&image).unwrap();
    assert_eq!(brief(&entries), ["riscv64", host.architecture.as_str(), "about"]);
}

#[test]
fn one_platform_of_several() {
    let (f, host) = (fixture(), Platform::host());
    let refused = load(&f, &archive(), &["linux/s390x"]).unwrap_err();
    assert_eq!(
        refused,
        "image with reference many:1 was found but does not provide the specified platform (linux/s390x)"
    );
    let image = load(&f, &archive(), &["linux/riscv64"]).unwrap();
    assert_eq!(image.platform().architecture, "riscv64");
    let entries = f.images.manifests(&image).unwrap();
    assert_eq!(
        brief(&entries),
        ["riscv64".to_owned(), format!("!{}", host.architecture), "!about".to_owned()]
    );
    // What comes later for the host is what the name means from then on.
    let image = load(&f, &archive(), &[]).unwrap();
    assert_eq!(image.platform(), host);
    assert_eq!(f.images.resolve("many:1").unwrap().platform(), host);
    // Saving one of them gives an image that promises no other.
    let mut saved = Vec::new();
    let other: Platform = "linux/riscv64".parse().unwrap();
    f.images.save(&["many:1".into()], std::slice::from_ref(&other), &mut saved, &Cancel::new()).unwrap();
    let alone = fixture();
    let single = load(&alone, &saved, &[]).unwrap();
    assert_eq!(brief(&alone.images.manifests(&single).unwrap()), ["riscv64"]);
    assert_eq!(alone.tags(), ["many:1"]);
}

#[test]
fn platforms_go_one_by_one() {
    let f = fixture();
    let image = load(&f, &archive(), &[]).unwrap();
    let of =
        |platform: &Platform| RemoveOptions { platforms: vec![platform.clone()], ..RemoveOptions::default() };
    let (host, other): (Platform, Platform) = (Platform::host(), "linux/riscv64".parse().unwrap());
    let manifest = image.manifest_descriptor.digest.clone();
    let used = RemoveOptions { in_use: [(manifest.clone(), "c".repeat(64))].into(), ..of(&host) };
    assert!(f.remove("many:1", &used).unwrap_err().contains("image is being used by container cccccccccccc"));
    assert!(
        f.remove("many:1", &of(&"linux/s390x".parse().unwrap())).unwrap_err().contains("does not provide")
    );
    assert_eq!(f.remove("many:1", &of(&host)).unwrap(), [format!("deleted {}", &manifest.hex()[..6])]);
    let left = f.images.resolve("many:1").unwrap();
    // The other one's layer was not needed yet, so it is not unpacked.
    assert_eq!((left.platform().architecture.as_str(), f.layer_count()), ("riscv64", 0));
    assert!(f.images.attestations("many:1", Some(&other)).unwrap().is_empty());
    let last = f.remove("many:1", &of(&other)).unwrap();
    assert_eq!(last, ["untagged many:1".to_owned(), format!("deleted {}", &image.id.hex()[..6])]);
    assert_eq!((f.blob_count(), f.layer_count()), (0, 0));
}
