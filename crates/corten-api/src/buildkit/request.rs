//! Attributes of the Dockerfile front end: what they mean to the builder.

use std::collections::{BTreeMap, HashMap};

use bollard_buildkit_proto::pb;
use corten_base::Platform;
use corten_build::{ContextSource, SolveRequest, StepLimits};
use prost::Message;

use super::job::Jobs;
use crate::grpc::{Code, Status};

/// Scheme of the sources by which clients hand a result of ours back to us.
const RESULT: &str = "corten-result://";

type Attributes = HashMap<String, String>;

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

fn with_prefix<'a>(attributes: &'a Attributes, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    attributes.iter().filter_map(move |(k, v)| Some((k.strip_prefix(prefix)?, v.as_str())))
}

/// Reads the attributes of a build.
pub(super) fn read(
    attributes: &Attributes,
    inputs: &HashMap<String, pb::Definition>,
    jobs: &Jobs,
) -> Result<SolveRequest, Status> {
    refuse_unsupported(attributes)?;
    let text = |name: &str| attributes.get(name).map_or("", String::as_str);
    let build_args: BTreeMap<String, String> =
        with_prefix(attributes, "build-arg:").map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let epoch = match build_args.get("SOURCE_DATE_EPOCH").map(String::as_str) {
        None | Some("") => None,
        Some(t) => Some(t.parse().map_err(|_| invalid(format!("invalid SOURCE_DATE_EPOCH: {t}")))?),
    };
    let mut contexts = BTreeMap::new();
    for (name, address) in with_prefix(attributes, "context:") {
        // Those are brought before.
        if !super::layout::is_layout(address) {
            contexts.insert(context_name(name), named_context(address, inputs, jobs)?);
        }
    }
    let main = match contexts.remove("context") {
        Some(replaced) => replaced,
        None => main_context(text(key(attributes, "contextkey", "context")), inputs, jobs)?,
    };
    Ok(SolveRequest {
        context: main,
        subdirectory: text("contextsubdir").to_owned(),
        dockerfile_directory: dockerfile_directory(attributes),
        filename: text("filename").to_owned(),
        contexts,
        target: text("target").to_owned(),
        labels: with_prefix(attributes, "label:").map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        platforms: platforms(text("platform"))?,
        no_cache: attributes
            .get("no-cache")
            .map(|list| list.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect()),
        pull: text("image-resolve-mode") == "pull",
        network: network(text("force-network-mode"))?,
        extra_hosts: extra_hosts(text("add-hosts"))?,
        limits: StepLimits {
            cgroup_parent: text("cgroup-parent").to_owned(),
            shm_size: match text("shm-size") {
                "" => 0,
                t => t.parse().map_err(|_| invalid(format!("failed to parse shm size: {t}")))?,
            },
            ulimits: ulimits(text("ulimit"))?,
            ..StepLimits::default()
        },
        cache_namespace: text("build-arg:BUILDKIT_CACHE_MOUNT_NS").to_owned(),
        epoch,
        build_args,
        caches: Vec::new(),
    })
}

fn key<'a>(attributes: &'a Attributes, name: &str, default: &'a str) -> &'a str {
    attributes.get(name).map_or(default, String::as_str)
}

/// Where the Dockerfile is no part of the main context.
fn dockerfile_directory(attributes: &Attributes) -> Option<String> {
    if let Some(name) = attributes.get("dockerfilekey") {
        return Some(name.clone());
    }
    let remote = attributes.contains_key("context");
    (!remote).then(|| "dockerfile".to_owned())
}

fn refuse_unsupported(attributes: &Attributes) -> Result<(), Status> {
    for name in ["hostname", "build-arg:BUILDKIT_SANDBOX_HOSTNAME"] {
        if attributes.get(name).is_some_and(|v| !v.is_empty()) {
            return Err(invalid(format!("{name} is not supported by this daemon")));
        }
    }
    Ok(())
}

/// A name as `FROM` and `--from` would say it; `NAME::os/arch` is for that platform only.
fn context_name(name: &str) -> String {
    match name.split_once("::") {
        Some((name, platform)) => format!("{}::{platform}", context_name(name)),
        None => name.strip_suffix(":latest").unwrap_or(name).to_owned(),
    }
}

fn main_context(
    address: &str,
    inputs: &HashMap<String, pb::Definition>,
    jobs: &Jobs,
) -> Result<ContextSource, Status> {
    if let Some(definition) = inputs.get("context") {
        return Ok(ContextSource::Result(Box::new(result_of(definition, jobs)?)));
    }
    if address.is_empty() {
        return Ok(ContextSource::Local("context".into()));
    }
    remote(address)
}

fn remote(address: &str) -> Result<ContextSource, Status> {
    let is_url = address.starts_with("http://") || address.starts_with("https://");
    // The client sends what comes on its standard input from an address that only it knows.
    if address.starts_with("http://buildkit-session/") {
        return Ok(ContextSource::Upload(address.to_owned()));
    }
    if corten_build::is_git_address(address) {
        return Ok(ContextSource::Git(address.to_owned()));
    }
    match is_url {
        true => Ok(ContextSource::Url(address.to_owned())),
        false => Err(invalid(format!("unsupported context source {address:?}"))),
    }
}

fn named_context(
    address: &str,
    inputs: &HashMap<String, pb::Definition>,
    jobs: &Jobs,
) -> Result<ContextSource, Status> {
    let (scheme, rest) = address.split_once(':').unwrap_or(("", address));
    match scheme {
        "local" => Ok(ContextSource::Local(rest.to_owned())),
        "docker-image" => Ok(ContextSource::Image(rest.trim_start_matches("//").to_owned())),
        "input" => {
            let definition =
                inputs.get(rest).ok_or_else(|| invalid(format!("invalid input {rest} for build context")))?;
            Ok(ContextSource::Result(Box::new(result_of(definition, jobs)?)))
        }
        _ => remote(address),
    }
}

/// A definition that leads back to a result of ours.
pub(super) fn definition_of(id: &str) -> pb::Definition {
    let source = pb::SourceOp { identifier: format!("{RESULT}{id}"), attrs: BTreeMap::new() };
    let source = pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }.encode_to_vec();
    let digest = corten_base::Digest::of(&source).to_string();
    let input = pb::Input { digest: digest.clone(), index: 0 };
    let head = pb::Op { inputs: vec![input], ..pb::Op::default() }.encode_to_vec();
    let head_digest = corten_base::Digest::of(&head).to_string();
    pb::Definition {
        def: vec![source, head],
        metadata: [digest, head_digest].map(|d| (d, pb::OpMetadata::default())).into(),
        source: None,
    }
}

fn result_of(definition: &pb::Definition, jobs: &Jobs) -> Result<corten_build::Solved, Status> {
    let id = definition.def.iter().find_map(|bytes| {
        let op = pb::Op::decode(&bytes[..]).ok()?;
        match op.op? {
            pb::op::Op::Source(source) => source.identifier.strip_prefix(RESULT).map(str::to_owned),
            _ => None,
        }
    });
    let id = id.ok_or_else(|| invalid("low-level build definitions are not supported by this daemon"))?;
    Ok((*jobs.result(&id)?).clone())
}

fn platforms(text: &str) -> Result<Vec<Platform>, Status> {
    let mut out: Vec<Platform> = Vec::new();
    for one in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let platform: Platform =
            one.parse().map_err(|e| invalid(format!("failed to parse target platform {one}: {e}")))?;
        let platform = platform.normalised();
        if !out.contains(&platform) {
            out.push(platform);
        }
    }
    Ok(out)
}

/// Whether the result is one for each platform, also where there is one only.
pub(super) fn is_multi_platform(attributes: &Attributes, platforms: usize) -> Result<bool, Status> {
    let key = ["multi-platform", "build-arg:BUILDKIT_MULTI_PLATFORM"]
        .into_iter()
        .find(|k| attributes.contains_key(*k));
    let Some(key) = key else { return Ok(platforms > 1) };
    match attributes[key].as_str() {
        "" | "true" | "1" => Ok(true),
        "false" | "0" if platforms > 1 => {
            Err(invalid("conflicting config: returning multiple target platforms is not allowed"))
        }
        "false" | "0" => Ok(false),
        other => Err(invalid(format!("invalid boolean value for multi-platform: {other}"))),
    }
}

fn network(text: &str) -> Result<String, Status> {
    match text {
        "" | "sandbox" => Ok(String::new()),
        "none" | "host" => Ok(text.to_owned()),
        other => Err(invalid(format!("invalid netmode {other}"))),
    }
}

/// `name=address` pairs become `name:address`.
fn extra_hosts(text: &str) -> Result<Vec<String>, Status> {
    let fields = text.split(',').map(|f| f.trim_matches('"')).filter(|f| !f.is_empty());
    fields
        .map(|field| {
            let (name, address) =
                field.split_once('=').ok_or_else(|| invalid(format!("invalid key-value pair {field}")))?;
            let ip: std::net::IpAddr =
                address.parse().map_err(|_| invalid(format!("failed to parse IP {address}")))?;
            Ok(format!("{}:{ip}", name.to_lowercase()))
        })
        .collect()
}

/// `nofile=1024:2048`, separated by commas.
fn ulimits(text: &str) -> Result<Vec<(String, i64, i64)>, Status> {
    let fields = text.split(',').map(|f| f.trim_matches('"')).filter(|f| !f.is_empty());
    fields
        .map(|field| {
            let wrong = || invalid(format!("invalid ulimit argument: {field}"));
            let (name, limits) = field.split_once('=').ok_or_else(wrong)?;
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            Ok((name.to_owned(), soft.parse().map_err(|_| wrong())?, hard.parse().map_err(|_| wrong())?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_buildx_sends() {
        let given = attributes(&[
            ("filename", "D"),
            ("target", "t"),
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("add-hosts", "a=10.0.0.1,b=::1"),
            ("ulimit", "nofile=1:2,core=3"),
            ("shm-size", "64"),
            ("context:alpine", "docker-image://busybox:1"),
            ("context:files", "local:files"),
            ("context:source", "git@a.test:x#main"),
            ("platform", "linux/amd64"),
            ("force-network-mode", "none"),
        ]);
        let read = read(&given, &HashMap::new(), &Jobs::default()).unwrap();
        assert!(matches!(&read.context, ContextSource::Local(n) if n == "context"));
        assert_eq!(read.dockerfile_directory.as_deref(), Some("dockerfile"));
        assert_eq!((read.filename.as_str(), read.target.as_str(), read.network.as_str()), ("D", "t", "none"));
        assert_eq!(read.no_cache, Some(Vec::new()));
        assert_eq!(read.extra_hosts, ["a:10.0.0.1", "b:::1"]);
        assert_eq!(read.limits.ulimits, [("nofile".into(), 1, 2), ("core".into(), 3, 3)]);
        assert_eq!(read.limits.shm_size, 64);
        assert!(matches!(&read.contexts["alpine"], ContextSource::Image(i) if i == "busybox:1"));
        assert!(matches!(&read.contexts["source"], ContextSource::Git(i) if i == "git@a.test:x#main"));
        assert!(matches!(&read.contexts["files"], ContextSource::Local(i) if i == "files"));
    }

    #[test]
    fn several_platforms() {
        let names = |text| platforms(text).unwrap().iter().map(Platform::to_string).collect::<Vec<_>>();
        assert_eq!(names("linux/amd64,linux/aarch64,linux/arm64"), ["linux/amd64", "linux/arm64"]);
        assert!(names("").is_empty());
        for (pairs, count, want) in [
            (&[][..], 2, Ok(true)),
            (&[], 1, Ok(false)),
            (&[("multi-platform", "true")], 1, Ok(true)),
            (&[("multi-platform", "false")], 2, Err(())),
        ] {
            assert_eq!(is_multi_platform(&attributes(pairs), count).map_err(drop), want);
        }
        assert_eq!(context_name("a:latest::linux/amd64"), "a::linux/amd64");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (pairs, want) in [
            (&[("platform", "linux/amd64,a/b/c/d")][..], "failed to parse target platform a/b/c/d"),
            (&[("context:x", "ftp://a.test/x")], "unsupported context source \"ftp://a.test/x\""),
            (&[("ulimit", "x")], "invalid ulimit argument: x"),
            (&[("add-hosts", "x=y")], "failed to parse IP y"),
            (&[("context:x", "input:y")], "invalid input y"),
        ] {
            let error = read(&attributes(pairs), &HashMap::new(), &Jobs::default()).unwrap_err();
            assert!(error.message.contains(want), "{}", error.message);
        }
    }
}
