//! What leaves the builder: caches, images for several platforms, statements about them.

use crate::registry::Registry;

use super::{Bench, bench};

/// Two stages, of which the first says when it runs.
const FILE: &str = "FROM --platform=$BUILDPLATFORM busybox AS made\nARG TARGETARCH\n\
                    RUN echo \"ran-for-$TARGETARCH\" | tee /out\n\
                    FROM scratch\nCOPY --from=made /out /out\nLABEL l=v\n";
const BOTH: &str = "linux/amd64,linux/arm64";

fn forget(b: &Bench) {
    b.docker(&["builder", "prune", "-af"]).ok();
}

#[test]
fn caches_come_back() {
    let Some(b) = bench() else { return };
    let _registry = Registry::start(&b.daemon, &[]);
    b.files(&[("Dockerfile", FILE)]);
    let has_run = |said: &str| said.contains("ran-for-amd64\n");
    for (to, from, all) in [
        ("type=local,dest=cache,mode=max", "type=local,src=cache", true),
        ("type=local,dest=index,mode=max,image-manifest=false", "type=local,src=index", true),
        ("type=local,dest=least", "type=local,src=least", false),
        (
            "type=registry,ref=127.0.0.1:5000/cache:max,mode=max",
            "type=registry,ref=127.0.0.1:5000/cache:max",
            true,
        ),
    ] {
        forget(&b);
        assert!(has_run(&b.build(&["--cache-to", to])), "{to}");
        forget(&b);
        let said = b.build(&["--cache-from", from, "-t", "again"]);
        // The least of a cache has the steps of the result only.
        assert_eq!(has_run(&said), !all, "{said}");
        assert!(
            said.contains("[stage-1 1/1] COPY --from=made /out /out\n") && said.contains("CACHED"),
            "{said}"
        );
        b.docker(&["rmi", "again"]).ok();
    }
    // An image that carries its cache: here, and in a registry.
    b.files(&[("Dockerfile", "FROM busybox\nRUN echo ran-for-$(echo amd64)\nRUN touch /f\n")]);
    let name = "127.0.0.1:5000/app";
    b.build(&["--cache-to", "type=inline", "--push", "-t", name]);
    for local in [true, false] {
        forget(&b);
        if !local {
            b.docker(&["rmi", name]).ok();
        }
        let said = b.build(&["--cache-from", name]);
        assert!(!has_run(&said) && said.contains("importing cache manifest from"), "{said}");
    }
    // What cannot be had is told, and the build goes on.
    forget(&b);
    let said = b.build(&["--cache-from", "127.0.0.1:5000/nothing"]);
    assert!(
        has_run(&said) && said.contains("importing cache manifest from 127.0.0.1:5000/nothing"),
        "{said}"
    );
    assert!(b.fails(&["--cache-to", "type=local,dest=x,compression=zstd"]).contains("compression=zstd"));
    b.assert_clean();
}

#[test]
fn one_image_for_several_platforms() {
    let Some(b) = bench() else { return };
    let _registry = Registry::start(&b.daemon, &[]);
    b.files(&[("Dockerfile", FILE)]);
    let name = "127.0.0.1:5000/both";
    let said = b.build(&["--platform", BOTH, "--push", "-t", name, "--annotation", "index:a.b=c"]);
    assert!(said.contains("[linux/amd64->arm64 made 2/2]"), "{said}");
    let raw = b.docker(&["buildx", "imagetools", "inspect", "--raw", name]).ok();
    let index: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let kinds: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(kinds, ["amd64", "arm64", "unknown", "unknown"]);
    assert_eq!(index["annotations"]["a.b"], "c");
    let id = b.docker(&["inspect", "-f", "{{.Id}}", name]).ok();
    let output = format!("type=image,name={name},annotation-index.a.b=c");
    let again = b.build(&["--platform", BOTH, "--no-cache-filter", "none", "-o", &output]);
    assert!(again.contains(&id), "the same again is the same image: {again}");

    let provenance =
        b.docker(&["buildx", "imagetools", "inspect", "--format", "{{json .Provenance}}", name]).ok();
    assert!(provenance.contains("pkg:docker/busybox@latest"), "{provenance}");
    // Both come back from the registry.
    b.docker(&["rmi", name]).ok();
    b.docker(&["pull", "--platform", "linux/arm64", name]).ok();
    assert_eq!(b.docker(&["inspect", "-f", "{{.Architecture}}", name]).ok(), "arm64");

    b.build(&["--platform", BOTH, "-o", "type=oci,dest=both.tar,name=two:1"]);
    b.docker(&["load", "-i", "both.tar"]).ok();
    let foreign = ["image", "inspect", "--platform", "linux/arm64", "-f", "{{.Architecture}}", "two:1"];
    assert_eq!(b.docker(&foreign).ok(), "arm64");
    b.build(&["--platform", BOTH, "-o", "files"]);
    for arch in ["amd64", "arm64"] {
        let out = std::fs::read_to_string(b.path(&format!("files/linux_{arch}/out"))).unwrap();
        assert_eq!(out, format!("ran-for-{arch}\n"));
    }
    assert!(b.fails(&["--platform", BOTH, "-o", "type=docker,dest=x"]).contains("exporting manifest lists"));
    b.files(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    assert!(b.fails(&["--platform", "linux/arm64"]).contains("busybox"));
    b.assert_clean();
}

#[test]
fn statements_about_images() {
    let Some(b) = bench() else { return };
    let _registry = Registry::start(&b.daemon, &[]);
    b.files(&[("Dockerfile", "FROM busybox\nARG TOKEN\nRUN touch /f\n")]);
    let name = "127.0.0.1:5000/said";
    let provenance =
        || b.docker(&["buildx", "imagetools", "inspect", "--format", "{{json .Provenance.SLSA}}", name]).ok();
    b.build(&["--push", "-t", name, "--build-arg", "TOKEN=sesame"]);
    let least = provenance();
    assert!(least.contains("mobyproject.org/buildkit") && !least.contains("sesame"), "{least}");
    b.build(&["--push", "-t", name, "--build-arg", "TOKEN=sesame", "--provenance=mode=max"]);
    let most = provenance();
    assert!(most.contains("sesame") && most.contains("buildStartedOn"), "{most}");
    // Without any it is an image, as it was before there were such things.
    b.build(&["--push", "-t", name, "--provenance=false"]);
    let raw = b.docker(&["buildx", "imagetools", "inspect", "--raw", name]).ok();
    assert!(raw.contains("\"layers\"") && !raw.contains("\"manifests\""), "{raw}");
    b.build(&["-o", "files", "--provenance=true"]);
    assert!(std::fs::read_to_string(b.path("files/provenance.json")).unwrap().contains("\"predicate\""));
    b.build(&["-o", "plain"]);
    assert!(!b.path("plain/provenance.json").exists());
    assert!(b.fails(&["--sbom=true"]).contains("SBOM attestations need a scanner"));
    b.assert_clean();
}

#[test]
fn layers_in_other_forms() {
    let Some(b) = bench() else { return };
    b.files(&[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN touch /g\n"), ("f", "f\n")]);
    let layout = |name: &str, options: &str| {
        let output = format!("type=oci,dest={name}.tar,name=form:{name},{options}");
        let mut command = b.command(&["build", "--provenance=false", "-o", &output, "."]);
        let ran = command.env("SOURCE_DATE_EPOCH", "1000000").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        b.docker(&["load", "-i", &format!("{name}.tar")]).ok();
        let seen = ["run", "--rm", &format!("form:{name}"), "stat", "-c", "%Y", "/f", "/g"];
        (std::fs::read(b.path(&format!("{name}.tar"))).unwrap(), b.docker(&seen).ok())
    };
    let has = |archive: &[u8], text: &str| archive.windows(text.len()).any(|w| w == text.as_bytes());
    let (plain, times) = layout("plain", "compression=uncompressed,force-compression=true");
    assert!(has(&plain, "image.layer.v1.tar\"") && !has(&plain, "tar+gzip") && !times.contains("1000000"));
    let (zstd, _) = layout("zstd", "compression=zstd,compression-level=5");
    assert!(has(&zstd, "tar+zstd") && has(&zstd, "tar+gzip"), "the base stays as it is");
    let (old, times) = layout("old", "rewrite-timestamp=true");
    assert_eq!(times, "1000000\n1000000");
    // The same content at another time is the same image.
    b.files(&[("f", "f\n")]);
    b.docker(&["builder", "prune", "-af"]).ok();
    assert_eq!(layout("old", "rewrite-timestamp=true").0, old);
    b.assert_clean();
}

#[test]
fn builds_are_remembered() {
    let Some(b) = bench() else { return };
    b.files(&[("Dockerfile", "FROM busybox\nARG FAIL\nRUN echo said-by-the-build; exit $FAIL\n")]);
    b.build(&["--build-arg", "FAIL=0", "--metadata-file", "metadata.json", "-t", "remembered"]);
    b.fails(&["--build-arg", "FAIL=7"]);
    let metadata = std::fs::read_to_string(b.path("metadata.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert!(metadata["buildx.build.provenance"]["buildType"].is_string(), "{metadata}");
    let list = b.docker(&["buildx", "history", "ls", "--format", "{{.Ref}} {{.Status}}"]).ok();
    let listed: Vec<(&str, &str)> = list.lines().filter_map(|l| l.split_once(' ')).collect();
    let states: Vec<&str> = listed.iter().map(|(_, s)| *s).collect();
    assert_eq!(states, ["Error", "Completed"], "{list}");
    let completed = listed[1].0.rsplit('/').next().unwrap();
    let logs = b.docker(&["buildx", "history", "logs", completed, "--progress", "plain"]);
    assert!(format!("{}{}", logs.stdout, logs.stderr).contains("said-by-the-build\n"), "{}", logs.stderr);
    let seen = b.docker(&["buildx", "history", "inspect", completed]).ok();
    assert!(seen.contains("pkg:docker/busybox@latest") && seen.contains("Dockerfile"), "{seen}");
    let seen = b.docker(&["buildx", "history", "inspect"]).ok();
    assert!(seen.contains("exit code: 7"), "{seen}");
    let failed = b.docker(&["buildx", "history", "ls", "--filter", "status=error", "-q"]);
    assert!(failed.code != 0 || failed.stdout.lines().count() == 1, "{}", failed.stdout);
    b.docker(&["buildx", "history", "rm", completed]).ok();
    assert!(!b.docker(&["buildx", "history", "ls"]).ok().contains(completed));
    b.assert_clean();
}
