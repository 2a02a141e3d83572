//! Pull and push against our own registry, over loopback.

use std::net::SocketAddr;

use corten_base::Platform;
use corten_registry::server::{Server, ServerConfig};
use corten_registry::{BlobSource, Client, ClientConfig, Credentials, Target};
use corten_wire::oci_image::{Descriptor, Manifest, media_type};

use super::*;

struct Registry {
    address: SocketAddr,
    cancel: Cancel,
    dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn registry() -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().to_owned());
    let server = Server::bind(config).await.unwrap();
    let (address, cancel) = (server.address().unwrap(), Cancel::new());
    let until = cancel.clone();
    tokio::spawn(async move { server.run(&until).await });
    Registry { address, cancel, dir }
}

fn client() -> Client {
    Client::new(ClientConfig { certs_dir: "/nonexistent".into(), ..ClientConfig::default() })
}

fn recorder() -> (Progress, Arc<Mutex<Vec<ProgressEvent>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    (Progress::new(move |e| sink.lock().unwrap().push(e)), lines)
}

fn phases(lines: &Mutex<Vec<ProgressEvent>>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for line in lines.lock().unwrap().iter() {
        let text = match line {
            ProgressEvent::Layer { phase, .. } => phase.to_string(),
            ProgressEvent::Message(text) | ProgressEvent::Subject { text, .. } => text.clone(),
            _ => continue,
        };
        if out.last() != Some(&text) {
            out.push(text);
        }
    }
    out
}

async fn push(f: &Fixture, name: &Reference) -> Result<Vec<String>, String> {
    let (progress, lines) = recorder();
    let pushed =
        f.images.push(&client(), &Credentials::Anonymous, name, None, &progress, &Cancel::new()).await;
    pushed.map(|()| phases(&lines)).map_err(|e| e.to_string())
}

async fn pull(f: &Fixture, name: &Reference) -> Result<(Arc<Image>, Vec<String>), String> {
    let (progress, lines) = recorder();
    let pulled =
        f.images.pull(&client(), &Credentials::Anonymous, name, None, &progress, &Cancel::new()).await;
    pulled.map(|image| (image, phases(&lines))).map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_and_pulled_back() {
    let registry = registry().await;
    let f = fixture();
    let image = three_layers(&f);
    let before = listing(&f, &image);
    let name = reference(&format!("{}/team/app:v1", registry.address));
    f.images.tag("three:1", &name).unwrap();
    let lines = push(&f, &name).await.unwrap();
    assert_eq!(lines[0], format!("The push refers to repository [{}/team/app]", registry.address));
    assert!(lines.contains(&"Pushed".to_owned()), "{lines:?}");
    assert!(lines.last().unwrap().starts_with(&format!("v1: digest: {} size: ", image.id)), "{lines:?}");
    let again = push(&f, &name).await.unwrap();
    assert!(again.contains(&"Layer already exists".to_owned()) && !again.contains(&"Pushed".to_owned()));
    let other_name = reference(&format!("{}/team/other:v1", registry.address));
    f.images.tag("three:1", &other_name).unwrap();
    let mounted = push(&f, &other_name).await.unwrap();
    assert!(mounted.contains(&"Mounted from team/app".to_owned()), "{mounted:?}");

    // A part of a layer is there from an earlier try, another one is damaged.
    let other = fixture();
    let content = other.images.content();
    for (n, layer) in image.layers().iter().take(2).enumerate() {
        let bytes = f.images.content().read(&layer.blob.digest, 1 << 20).unwrap();
        let mut part = content.resume(&layer.blob.digest).unwrap();
        part.write_all(if n == 0 { &bytes[..20] } else { b"damaged" }).unwrap();
    }
    let (pulled, lines) = pull(&other, &name).await.unwrap();
    assert_eq!(pulled.id, image.id);
    assert_eq!(lines[0], "Pulling from team/app");
    assert!(lines.contains(&"Pull complete".to_owned()));
    assert_eq!(lines[lines.len() - 2], format!("Digest: {}", image.id));
    assert_eq!(lines[lines.len() - 1], format!("Status: Downloaded newer image for {}", name.familiar()));
    assert_eq!(listing(&other, &pulled), before);
    let (_, lines) = pull(&other, &name).await.unwrap();
    assert!(lines.contains(&"Already exists".to_owned()));
    assert!(lines.last().unwrap().starts_with("Status: Image is up to date for"));
    let (events, _) = other.bus.subscribe();
    assert_eq!((events[0].action.as_str(), events[0].actor.as_str()), ("pull", name.familiar().as_str()));
    // By digest, then everything goes.
    let by_digest = name.without_tag().with_digest(image.id.clone());
    let (pulled, _) = pull(&other, &by_digest).await.unwrap();
    assert_eq!(pulled.repo_digests(), [by_digest.familiar()]);
    let force = RemoveOptions { force: true, ..RemoveOptions::default() };
    other.remove(image.id.as_str(), &force).unwrap();
    assert_eq!((other.blob_count(), other.layer_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_here_is_not_pushed() {
    let f = fixture();
    let none = push(&f, &reference("none")).await.unwrap_err();
    assert_eq!(none, "An image does not exist locally with the tag: none");
    assert_eq!(push(&f, &reference("none:x")).await.unwrap_err(), "tag does not exist: none:x");
}

/// Puts a manifest whose configuration and layers are what `lie` makes of honest ones.
async fn publish_lie(registry: &Registry, lie: impl FnOnce(&mut ImageConfig, &mut Manifest)) -> Reference {
    let name = reference(&format!("{}/lie:1", registry.address));
    let repository = client().repository(&name, &Credentials::Anonymous);
    let layer = tar(&[("x", Some(b"1"))]);
    let blob = Descriptor::of(media_type::LAYER, &layer);
    let mut config =
        ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
    config.rootfs.diff_ids = vec![Digest::of(&layer)];
    let mut manifest = Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.into(),
        config: blob.clone(),
        layers: vec![blob.clone()],
        annotations: BTreeMap::new(),
        extra: serde_json::Map::new(),
    };
    lie(&mut config, &mut manifest);
    let bytes = serde_json::to_vec(&config).unwrap();
    manifest.config = Descriptor::of(media_type::CONFIG, &bytes);
    for (descriptor, bytes) in [(&manifest.config, bytes), (&blob, layer)] {
        let source = BlobSource::Bytes(bytes.into());
        repository.push_blob(&descriptor.digest, descriptor.size, &source, None).await.unwrap();
    }
    let bytes = serde_json::to_vec(&manifest).unwrap();
    repository.put_manifest(&Target::Tag("1".into()), media_type::MANIFEST, bytes.into()).await.unwrap();
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_are_found_out() {
    let registry = registry().await;
    let f = fixture();
    let name = publish_lie(&registry, |_, _| {}).await;
    assert!(pull(&f, &name).await.is_ok());
    f.remove(&name.familiar(), &RemoveOptions::default()).unwrap();
    let name = publish_lie(&registry, |config, _| config.rootfs.diff_ids = vec![Digest::of(b"other")]).await;
    assert!(pull(&f, &name).await.unwrap_err().starts_with("failed to verify content"));
    let name = publish_lie(&registry, |config, _| config.rootfs.diff_ids.push(Digest::of(b"other"))).await;
    assert!(pull(&f, &name).await.unwrap_err().contains("layers and diff ids differ"));
    let name =
        publish_lie(&registry, |_, manifest| manifest.layers[0].media_type = "text/plain".into()).await;
    assert!(pull(&f, &name).await.unwrap_err().contains("unsupported layer media type"));
    // A foreign address is not followed; the layer comes from the registry itself.
    let name = publish_lie(&registry, |_, manifest| {
        manifest.layers[0].urls = vec!["http://127.0.0.1:1/steal".into()];
    })
    .await;
    assert!(pull(&f, &name).await.is_ok());
    f.remove(&name.familiar(), &RemoveOptions::default()).unwrap();
    assert!(f.tags().is_empty());
    f.images.collect().unwrap();
    assert_eq!((f.blob_count(), f.layer_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_pull_leaves_no_image() {
    let registry = registry().await;
    let f = fixture();
    let image = three_layers(&f);
    let name = reference(&format!("{}/a:1", registry.address));
    f.images.tag("three:1", &name).unwrap();
    push(&f, &name).await.unwrap();
    let other = fixture();
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let progress = Progress::new(move |e| {
        if matches!(e, ProgressEvent::Layer { .. }) {
            stop.cancel();
        }
    });
    let pulled = other.images.pull(&client(), &Credentials::Anonymous, &name, None, &progress, &cancel).await;
    assert!(matches!(pulled, Err(ImageError::Cancelled)), "{pulled:?}");
    assert!(other.images.get(&image.id).is_none());
    assert!(pull(&other, &name).await.is_ok());
}

/// An index of two platforms and an attestation about the host's.
async fn publish_index(registry: &Registry) -> (Reference, Digest) {
    let name = reference(&format!("{}/multi:1", registry.address));
    let repository = client().repository(&name, &Credentials::Anonymous);
    let mut entries = Vec::new();
    for (architecture, os) in
        [("riscv64", "linux"), (Platform::host().architecture.as_str(), "linux"), ("unknown", "unknown")]
    {
        let layer = tar(&[("arch", Some(architecture.as_bytes()))]);
        let mut blob = Descriptor::of(media_type::LAYER, &layer);
        if os == "unknown" {
            blob = Descriptor::of("application/vnd.in-toto+json", &layer);
            blob.annotations.insert("in-toto.io/predicate-type".into(), "https://a.test/built".into());
        }
        let mut config =
            ImageConfig { architecture: architecture.into(), os: os.into(), ..ImageConfig::default() };
        config.rootfs.diff_ids = vec![Digest::of(&layer)];
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config: Descriptor::of(media_type::CONFIG, &config),
            layers: vec![blob.clone()],
            annotations: BTreeMap::new(),
            extra: serde_json::Map::new(),
        };
        for (descriptor, bytes) in [(&manifest.config, config), (&blob, layer)] {
            let source = BlobSource::Bytes(bytes.into());
            repository.push_blob(&descriptor.digest, descriptor.size, &source, None).await.unwrap();
        }
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let mut entry = Descriptor::of(media_type::MANIFEST, &bytes);
        let platform = Platform { os: os.into(), architecture: architecture.into(), variant: String::new() };
        entry.platform = Some((&platform).into());
        if os == "unknown" {
            let about = entries.last().map(|host: &Descriptor| host.digest.to_string()).unwrap();
            entry.annotations = BTreeMap::from([
                ("vnd.docker.reference.type".into(), "attestation-manifest".into()),
                ("vnd.docker.reference.digest".into(), about),
            ]);
        }
        repository
            .put_manifest(&Target::Digest(entry.digest.clone()), media_type::MANIFEST, bytes.into())
            .await
            .unwrap();
        entries.push(entry);
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries,
    });
    let bytes = serde_json::to_vec(&index).unwrap();
    let digest = Digest::of(&bytes);
    repository.put_manifest(&Target::Tag("1".into()), media_type::INDEX, bytes.into()).await.unwrap();
    (name, digest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn platforms_of_an_index() {
    let registry = registry().await;
    let (name, digest) = publish_index(&registry).await;
    let f = fixture();
    let (image, _) = pull(&f, &name).await.unwrap();
    assert_eq!((&image.id, &image.target.digest), (&digest, &digest));
    assert_eq!(image.platform(), Platform::host());
    let other: Platform = "linux/riscv64".parse().unwrap();
    let missing = f.images.resolve_for(&name.familiar(), Some(&other)).unwrap_err();
    assert!(matches!(missing, ImageError::PlatformMismatch { .. }));
    let get = async |platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        let (client, nobody) = (client(), Credentials::Anonymous);
        f.images.pull(&client, &nobody, &name, Some(&platform), &Progress::none(), &Cancel::new()).await
    };
    assert_eq!(
        get("linux/s390x").await.unwrap_err().to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    get("linux/riscv64").await.unwrap();
    let second = f.images.resolve_for(&name.familiar(), Some(&other)).unwrap();
    assert_eq!((&second.id, second.config.architecture.as_str()), (&digest, "riscv64"));
    // The host's stays the one without asking; both survive a collection, a restart, and save and load.
    f.images.collect().unwrap();
    let mut saved = Vec::new();
    f.images.save(&[name.familiar()], &[], &mut saved, &Cancel::new()).unwrap();
    let Fixture { dir, images, .. } = f;
    drop(images);
    let (images, _) = open(dir.path());
    assert_eq!(images.resolve(&name.familiar()).unwrap().platform(), Platform::host());
    assert!(listing(&Fixture { dir, images, bus: Bus::new() }, &second).contains(&"arch".to_owned()));
    let f = fixture();
    let loaded = f.images.load(&mut &saved[..], &[], &Progress::none(), &Cancel::new()).unwrap();
    assert_eq!(loaded[0].id, digest);
    assert!(f.images.resolve_for(&name.familiar(), Some(&other)).is_ok());
    // All of the index is here, with the attestation.
    let lines = push(&f, &name).await.unwrap();
    assert!(lines.last().unwrap().contains(digest.as_str()), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attestations_come_with_their_image() {
    let registry = registry().await;
    let (name, digest) = publish_index(&registry).await;
    let f = fixture();
    let (image, _) = pull(&f, &name).await.unwrap();
    assert_eq!(image.id, digest);
    f.images.collect().unwrap();
    let statements = f.images.attestations(&name.familiar(), None).unwrap();
    assert_eq!(statements.len(), 1);
    // Not all of the index is here, so the platform's manifest goes without it.
    let lines = push(&f, &name).await.unwrap();
    assert!(lines.last().unwrap().contains(image.manifest_descriptor.digest.as_str()), "{lines:?}");
    // Another platform's image comes without it, and every image where the registry has lost it.
    let (name, _) = publish_index(&registry).await;
    let other: Platform = "linux/riscv64".parse().unwrap();
    remove_files(registry.dir.path(), statements[0].descriptor.digest.hex());
    for platform in [&other, &Platform::host()] {
        let g = fixture();
        let (client, nobody) = (client(), Credentials::Anonymous);
        let pulled =
            g.images.pull(&client, &nobody, &name, Some(platform), &Progress::none(), &Cancel::new()).await;
        assert_eq!(pulled.unwrap().id, digest);
        assert!(g.images.attestations(&name.familiar(), Some(platform)).unwrap().is_empty());
    }
}

fn remove_files(dir: &std::path::Path, name: &str) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            remove_files(&entry.path(), name);
        } else if entry.file_name().to_str() == Some(name) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_one_image_side_by_side() {
    let registry = registry().await;
    let f = fixture();
    let image = three_layers(&f);
    let name = reference(&format!("{}/a:1", registry.address));
    f.images.tag("three:1", &name).unwrap();
    push(&f, &name).await.unwrap();
    let other = fixture();
    let (a, b, c) = tokio::join!(pull(&other, &name), pull(&other, &name), pull(&other, &name));
    for pulled in [a, b, c] {
        assert_eq!(pulled.unwrap().0.id, image.id);
    }
    assert_eq!((other.blob_count(), other.layer_count()), (5, 3));
    assert_eq!(std::fs::read_dir(other.dir.path().join("snapshots/tmp")).unwrap().count(), 0);
}
