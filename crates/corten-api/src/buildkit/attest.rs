//! What is said about a result: provenance as BuildKit writes it, an in-toto statement for each image.
//!
//! ```text
//!   attest:provenance=mode=min|max,version=v0.2|v1,…  ─▶ Provenance ─▶ statement(image)
//! ```
//! With the default that clients send by themselves (`inline-only=true`) the statement has no times, no id of the build
//! and no name of the image: the same build is the same image again. Bills of materials need a scanner's image; they are refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corten_base::{Digest, Platform, Reference, time};
use corten_build::{Materials, Solved, without_secrets};
use corten_image::NewStatement;
use corten_wire::oci_image::Descriptor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use crate::grpc::{Code, Status, base64};

type Attributes = HashMap<String, String>;

const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
const PREDICATE_02: &str = "https://slsa.dev/provenance/v0.2";
const PREDICATE_1: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
/// What package addresses have escaped.
const PURL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

/// What is wanted of `attest:provenance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    max: bool,
    v1: bool,
    /// Only where the result is an image, and by the client's own will.
    pub(super) inline_only: bool,
    reproducible: bool,
    builder_id: String,
    pub(super) filename: String,
}

/// Reads `attest:…` and `BUILDKIT_ATTEST_…`; `None` where nothing is to be said.
pub(super) fn wanted(attributes: &Attributes) -> Result<Option<Wanted>, Status> {
    let mut provenance = None;
    for (key, value) in attributes {
        let kind = key.strip_prefix("attest:").or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"));
        match kind.map(str::to_ascii_lowercase).as_deref() {
            None => {}
            Some("provenance") => provenance = Some(value.as_str()),
            Some("sbom") => {
                let message = "SBOM attestations need a scanner, which this daemon does not run: build without \
                               --sbom, and scan the image";
                return Err(invalid(message));
            }
            Some(other) => return Err(invalid(format!("unknown attestation type {other:?}"))),
        }
    }
    let Some(text) = provenance else { return Ok(None) };
    let mut wanted = Wanted {
        max: true,
        v1: false,
        inline_only: false,
        reproducible: false,
        builder_id: String::new(),
        filename: "provenance.json".to_owned(),
    };
    for field in text.split(',').map(|f| f.trim_matches('"')).filter(|f| !f.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let on = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" | "" => Ok(false),
            other => Err(invalid(format!("failed to parse {name} flag {other:?}"))),
        };
        match name {
            "mode" => match value {
                "max" | "full" => wanted.max = true,
                "min" => wanted.max = false,
                other => return Err(invalid(format!("invalid mode {other:?}"))),
            },
            "version" => match value {
                "v1" => wanted.v1 = true,
                "v0.2" => wanted.v1 = false,
                other => return Err(invalid(format!("invalid provenance SLSA version: {other}"))),
            },
            "disabled" if on()? => return Ok(None),
            "inline-only" => wanted.inline_only = on()?,
            "reproducible" => wanted.reproducible = on()?,
            "builder-id" => value.clone_into(&mut wanted.builder_id),
            "filename" => value.clone_into(&mut wanted.filename),
            // Samples of what steps used are not taken.
            _ => {}
        }
    }
    Ok(Some(wanted))
}

/// Provenance of one build.
#[derive(Debug)]
pub(super) struct Provenance {
    pub(super) wanted: Wanted,
    /// Of the front end.
    attributes: Attributes,
    id: String,
    started_ns: i128,
    finished_ns: i128,
}

impl Provenance {
    pub(super) fn new(wanted: Wanted, attributes: Attributes, id: &str, started_ns: i128) -> Self {
        Self { wanted, attributes, id: id.to_owned(), started_ns, finished_ns: time::now_ns() }
    }

    /// The statement about an image.
    pub(super) fn statement(&self, solved: &Solved, image: &Descriptor, names: &[Reference]) -> NewStatement {
        let digest = json!({ "sha256": image.digest.hex() });
        let named = |name: &Reference| {
            let name = package(&name.to_string(), Some(&solved.platform.to_string()));
            json!({ "name": name, "digest": digest })
        };
        let subjects: Vec<Value> = match self.wanted.inline_only {
            // The same image under another name is the same image.
            true => vec![json!({ "name": "_", "digest": digest })],
            false => names.iter().map(named).collect(),
        };
        let content = self.whole(solved, subjects.into()).to_string().into_bytes();
        NewStatement { predicate_type: self.predicate_type().to_owned(), content }
    }

    /// The statement as a file beside exported files.
    pub(super) fn file(&self, solved: &Solved, subjects: Value) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.whole(solved, subjects)).unwrap_or_default()
    }

    /// What the record of the build keeps: the type, and the predicate alone.
    pub(super) fn recorded(&self, solved: &Solved) -> (String, Vec<u8>) {
        (self.predicate_type().to_owned(), self.predicate(solved).to_string().into_bytes())
    }

    const fn predicate_type(&self) -> &'static str {
        if self.wanted.v1 { PREDICATE_1 } else { PREDICATE_02 }
    }

    fn whole(&self, solved: &Solved, subjects: Value) -> Value {
        json!({
            "_type": STATEMENT,
            "predicateType": self.predicate_type(),
            "subject": subjects,
            "predicate": self.predicate(solved),
        })
    }

    fn predicate(&self, solved: &Solved) -> Value {
        let materials = &solved.build.materials;
        let (source, parameters) = self.parameters(materials);
        let local = !materials.directories.is_empty();
        let hermetic = !local && !materials.network;
        let mut buildkit = Map::new();
        let vcs: Map<String, Value> = self
            .attributes
            .iter()
            .filter_map(|(k, v)| {
                let key = k.strip_prefix("vcs:").filter(|_| !v.is_empty())?;
                Some((key.to_owned(), without_secrets(v).into()))
            })
            .collect();
        if !vcs.is_empty() {
            buildkit.insert("vcs".into(), vcs.into());
        }
        if let (true, Some(file)) = (self.wanted.max, &solved.build.source) {
            let info = json!({ "filename": file.name, "language": "Dockerfile", "data": base64(&file.text) });
            buildkit.insert("source".into(), json!({ "infos": [info] }));
        }
        let complete = self.wanted.max || !self.attributes.keys().any(|k| is_users(k));
        // What clients ask for by themselves must not make a new image of every build.
        let run = (!self.wanted.inline_only).then(|| {
            let shown = |ns| time::rfc3339_nano(ns);
            (self.id.as_str(), shown(self.started_ns), shown(self.finished_ns))
        });
        let host = Platform::host().to_string();
        let dependencies = dependencies(materials, &solved.platform);
        if self.wanted.v1 {
            let mut metadata = json!({
                "buildkit_metadata": buildkit,
                "buildkit_completeness": { "request": complete, "resolvedDependencies": !local },
            });
            if let Some((id, started, finished)) = run {
                metadata["invocationID"] = id.into();
                metadata["startedOn"] = started.into();
                metadata["finishedOn"] = finished.into();
            }
            set_true(&mut metadata, "buildkit_hermetic", hermetic);
            set_true(&mut metadata, "buildkit_reproducible", self.wanted.reproducible);
            let mut config = source;
            rename(&mut config, "entryPoint", "path");
            return json!({
                "buildDefinition": {
                    "buildType": BUILD_TYPE_1,
                    "externalParameters": { "configSource": config, "request": parameters },
                    "internalParameters": { "builderPlatform": host },
                    "resolvedDependencies": dependencies,
                },
                "runDetails": { "builder": { "id": self.wanted.builder_id }, "metadata": metadata },
            });
        }
        let mut metadata = json!({
            "completeness": { "parameters": complete, "environment": true, "materials": !local },
            "reproducible": self.wanted.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": buildkit,
        });
        if let Some((id, started, finished)) = run {
            metadata["buildInvocationID"] = id.into();
            metadata["buildStartedOn"] = started.into();
            metadata["buildFinishedOn"] = finished.into();
        }
        set_true(&mut metadata, "https://mobyproject.org/buildkit@v1#hermetic", hermetic);
        json!({
            "builder": { "id": self.wanted.builder_id },
            "buildType": BUILD_TYPE_02,
            "materials": dependencies,
            "invocation": {
                "configSource": source,
                "parameters": parameters,
                "environment": { "platform": host },
            },
            "metadata": metadata,
        })
    }

    /// Where the build is described, and what was asked.
    fn parameters(&self, materials: &Materials) -> (Value, Value) {
        let mut args: BTreeMap<&str, String> = BTreeMap::new();
        for (key, value) in &self.attributes {
            let skip = is_of_the_host(key)
                || ["attest:", "vcs:", "local-sessionid:"].iter().any(|p| key.starts_with(p))
                || (!self.wanted.max && is_users(key))
                // It says nothing of what the image is.
                || (self.wanted.inline_only && key == "no-cache");
            if !skip {
                let value = if key.starts_with("context") { without_secrets(value) } else { value.clone() };
                args.insert(key, value);
            }
        }
        let mut source = Map::new();
        let context = self.attributes.get("contextkey").map_or("context", String::as_str).to_owned();
        if let Some(uri) = args.remove(context.as_str()).filter(|u| !u.is_empty()) {
            let digest = match (materials.downloads.get(&uri), materials.repositories.get(&uri)) {
                (Some(digest), _) => Some(json!({ "sha256": digest.hex() })),
                (None, Some(commit)) => Some(commit_digest(commit)),
                (None, None) => None,
            };
            source.insert("uri".into(), uri.into());
            source.extend(digest.map(|d| ("digest".to_owned(), d)));
        }
        if let Some(name) = args.remove("filename") {
            source.insert("entryPoint".into(), name.into());
        }
        let mut parameters = json!({ "frontend": "dockerfile.v0" });
        let listed = |known: &BTreeMap<String, bool>| -> Value {
            let one = |(id, optional): (&String, &bool)| {
                let mut entry = json!({ "id": id });
                set_true(&mut entry, "optional", *optional);
                entry
            };
            known.iter().map(one).collect()
        };
        let locals: Vec<Value> = materials.directories.iter().map(|d| json!({ "name": d })).collect();
        for (name, value, wanted) in [
            ("args", json!(args), true),
            ("secrets", listed(&materials.secrets), self.wanted.max),
            ("ssh", listed(&materials.agents), self.wanted.max),
            ("locals", locals.into(), true),
        ] {
            let empty =
                value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
            if wanted && !empty {
                parameters[name] = value;
            }
        }
        (source.into(), parameters)
    }
}

fn set_true(value: &mut Value, name: &str, on: bool) {
    if on {
        value[name] = true.into();
    }
}

fn rename(value: &mut Value, from: &str, to: &str) {
    if let Some(map) = value.as_object_mut()
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}

/// What the user gave, and may be private.
fn is_users(key: &str) -> bool {
    key.starts_with("build-arg:") || key.starts_with("label:")
}

fn is_of_the_host(key: &str) -> bool {
    matches!(key, "cgroup-parent" | "image-resolve-mode" | "platform" | "cache-imports" | "requestid")
}

fn commit_digest(commit: &str) -> Value {
    let kind = if commit.len() == 64 { "sha256" } else { "sha1" };
    json!({ kind: commit })
}

/// What the result was made of.
fn dependencies(materials: &Materials, platform: &Platform) -> Value {
    let host = Platform::host().to_string();
    let wanted = platform.to_string();
    let images = materials
        .images
        .iter()
        .filter(|((_, of), _)| *of == wanted || *of == host)
        .map(|((name, of), digest)| json!({ "uri": package(name, Some(of)), "digest": sha256(digest) }));
    let downloads = materials
        .downloads
        .iter()
        .map(|(url, digest)| json!({ "uri": without_secrets(url), "digest": sha256(digest) }));
    let repositories = materials
        .repositories
        .iter()
        .map(|(url, commit)| json!({ "uri": without_secrets(url), "digest": commit_digest(commit) }));
    images.chain(repositories).chain(downloads).collect()
}

fn sha256(digest: &Digest) -> Value {
    json!({ "sha256": digest.hex() })
}

/// An image as a package: `pkg:docker/team/app@1.2?platform=linux%2Famd64`.
fn package(name: &str, platform: Option<&str>) -> String {
    let Ok(reference) = name.parse::<Reference>() else { return format!("pkg:docker/{name}") };
    let reference = reference.or_latest();
    let escaped = |text: &str| utf8_percent_encode(text, PURL).to_string();
    let path: Vec<String> = reference.familiar_name().split('/').map(escaped).collect();
    let mut out = format!("pkg:docker/{}", path.join("/"));
    if let Some(tag) = reference.tag() {
        out.push_str(&format!("@{}", escaped(tag)));
    }
    let digest = reference.digest().map(|d| format!("digest={}", escaped(d.as_str())));
    let platform = platform.map(|p| format!("platform={}", escaped(p)));
    let qualifiers: Vec<String> = digest.into_iter().chain(platform).collect();
    if !qualifiers.is_empty() {
        out.push_str(&format!("?{}", qualifiers.join("&")));
    }
    out
}

/// See [`Provenance`]; shared by the exporters of one build.
pub(super) type Shared = Option<Arc<Provenance>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_is_wanted() {
        let read = |pairs: &[(&str, &str)]| wanted(&attributes(pairs));
        assert_eq!(read(&[("target", "x")]).unwrap(), None);
        let default = read(&[("attest:provenance", "mode=min,inline-only=true")]).unwrap().unwrap();
        assert!(default.inline_only && !default.max && !default.v1);
        let max = read(&[("attest:provenance", "mode=max,version=v1,builder-id=me")]).unwrap().unwrap();
        assert!(max.max && max.v1 && !max.inline_only && max.builder_id == "me");
        assert!(read(&[("build-arg:BUILDKIT_ATTEST_PROVENANCE", "")]).unwrap().unwrap().max);
        for (pairs, want) in [
            (("attest:provenance", "mode=mid"), "invalid mode \"mid\""),
            (("attest:provenance", "version=v9"), "invalid provenance SLSA version: v9"),
            (("attest:sbom", ""), "SBOM attestations need a scanner"),
            (("attest:vex", ""), "unknown attestation type \"vex\""),
        ] {
            let message = read(&[pairs]).unwrap_err().message;
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn packages() {
        for (name, platform, want) in [
            ("busybox", None, "pkg:docker/busybox@latest"),
            ("docker.io/library/a:1", Some("linux/amd64"), "pkg:docker/a@1?platform=linux%2Famd64"),
            ("reg.test:5000/team/a:1", None, "pkg:docker/reg.test:5000/team/a@1"),
        ] {
            assert_eq!(package(name, platform), want);
        }
    }

    fn provenance(mode: &str) -> Value {
        let given = attributes(&[
            ("attest:provenance", mode),
            ("build-arg:TOKEN", "secret"),
            ("target", "t"),
            ("filename", "Dockerfile"),
            ("vcs:revision", "abc"),
        ]);
        let mut built = corten_build::Built::default();
        let materials = &mut built.materials;
        materials.images.insert(("docker.io/library/a:1".into(), "linux/amd64".into()), Digest::of(b"a"));
        materials.directories.insert("context".into());
        materials.secrets.insert("s".into(), true);
        let solved = Solved {
            layers: Vec::new(),
            config: Default::default(),
            history: Vec::new(),
            author: String::new(),
            platform: Platform::host(),
            created: String::new(),
            steps: Vec::new(),
            base_layers: 0,
            build: Arc::new(built),
        };
        let wanted = wanted(&given).unwrap().unwrap();
        let provenance = Provenance::new(wanted, given, "id", 0);
        let image = Descriptor::of("m", b"image");
        let statement = provenance.statement(&solved, &image, &["x:1".parse().unwrap()]);
        serde_json::from_slice(&statement.content).unwrap()
    }

    #[test]
    fn statements() {
        let least = provenance("mode=min,inline-only=true");
        assert_eq!(least["predicateType"], PREDICATE_02);
        let about = &least["predicate"];
        assert!(!least.to_string().contains("secret") && about["metadata"]["buildStartedOn"].is_null());
        assert_eq!(about["invocation"]["parameters"]["args"], json!({ "target": "t" }));
        assert_eq!(about["invocation"]["configSource"]["entryPoint"], "Dockerfile");
        assert_eq!(about["metadata"]["completeness"]["parameters"], false);
        assert_eq!(
            about["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["vcs"]["revision"],
            "abc"
        );
        assert!(about["materials"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/a@1?platform="));
        assert_eq!(least["subject"][0]["name"], "_");

        let most = provenance("mode=max,version=v1");
        let about = &most["predicate"];
        assert!(most["subject"][0]["name"].as_str().unwrap().starts_with("pkg:docker/x@1"));
        assert_eq!(most["predicateType"], PREDICATE_1);
        let request = &about["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["args"]["build-arg:TOKEN"], "secret");
        assert_eq!(request["secrets"], json!([{ "id": "s", "optional": true }]));
        assert_eq!(about["runDetails"]["metadata"]["invocationID"], "id");
    }
}
