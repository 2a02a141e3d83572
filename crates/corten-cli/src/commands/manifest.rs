//! `manifest create`, `annotate`, `inspect`, `push`, `rm`: one name for images of several platforms. As in docker,
//! lists are put together in files of the client and the daemon is not asked; see [`store`].

mod fetch;
mod store;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corten_base::Reference;
use corten_registry::{Repository, Target};
use corten_wire::oci_image::{Descriptor, OciPlatform, media_type};
use serde::Serialize;

use self::fetch::{Found, Registries};
use self::store::{Entry, Store};
use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Strings, Text};
use crate::flags::{Flags, flag, long};
use crate::tree::{Arity, Command, PLAIN};

const BASE: Command = Command { group: "manifest", ..PLAIN };
const INSECURE: &str = "The registry may do without verified TLS";

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["create"],
        about: "Begin a list of manifests, kept by this client until it is pushed",
        usage: "MANIFEST_LIST MANIFEST [MANIFEST...]",
        arity: Arity::AtLeast(2),
        flags: &[&[
            flag("amend", 'a', Bool, "Add to a list that is there"),
            long("insecure", Bool, INSECURE),
        ]],
        run: |c, f| Box::pin(create(c, f)),
        ..BASE
    },
    Command {
        names: &["annotate"],
        about: "Say what platform a manifest of a list is for",
        usage: "[OPTIONS] MANIFEST_LIST MANIFEST",
        arity: Arity::Exactly(2),
        flags: &[&[
            long("arch", Text, "Architecture"),
            long("os", Text, "Operating system"),
            long("os-features", Strings, "Features of the operating system"),
            long("os-version", Text, "Version of the operating system"),
            long("variant", Text, "Variant of the architecture"),
        ]],
        run: |c, f| Box::pin(annotate(c, f)),
        ..BASE
    },
    Command {
        names: &["inspect"],
        about: "Show a manifest or a list of them",
        usage: "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        arity: Arity::Between(1, 2),
        flags: &[&[
            long("insecure", Bool, INSECURE),
            flag("verbose", 'v', Bool, "With platforms, and the manifests of a list"),
        ]],
        run: |c, f| Box::pin(inspect(c, f)),
        ..BASE
    },
    Command {
        names: &["push"],
        about: "Push a list to its repository",
        usage: "[OPTIONS] MANIFEST_LIST",
        arity: Arity::Exactly(1),
        flags: &[&[long("insecure", Bool, INSECURE), flag("purge", 'p', Bool, "Then forget the list here")]],
        run: |c, f| Box::pin(push(c, f)),
        ..BASE
    },
    Command {
        names: &["rm"],
        about: "Forget lists of this client",
        usage: "MANIFEST_LIST [MANIFEST_LIST...]",
        run: |c, f| Box::pin(remove(c, f)),
        ..BASE
    },
];

fn parse(text: &str) -> Result<Reference> {
    Ok(crate::registry::reference(text)?.or_latest())
}

fn parse_for(text: &str, what: &str) -> Result<Reference> {
    parse(text).map_err(|e| fail(format!("{what} {text}: {e}"), 1))
}

async fn create(cli: &Cli, flags: &Flags) -> Result {
    let list = parse_for(&flags.arg(0), "error parsing name for manifest list")?;
    let store = Store::of(cli);
    if store.list(&list)?.is_some() && !flags.on("amend") {
        return Err(fail("refusing to amend an existing manifest list with no --amend flag", 1));
    }
    let registries = Registries::new(cli, flags.on("insecure"));
    for text in flags.args().iter().skip(1) {
        let member = parse(text)?;
        let entry = match store.member(&list, &member)? {
            Some(known) => known,
            None => match registries.find(&member).await? {
                Found::Manifest(entry) => *entry,
                Found::List(_) => return Err(fail(format!("{text} is a manifest list"), 1)),
            },
        };
        store.save(&list, &member, &entry)?;
    }
    cli.line(&format!("Created manifest list {list}"))
}

async fn annotate(cli: &Cli, flags: &Flags) -> Result {
    let list = parse_for(&flags.arg(0), "annotate: error parsing name for manifest list")?;
    let member = parse_for(&flags.arg(1), "annotate: error parsing name for manifest")?;
    let store = Store::of(cli);
    let Some(mut entry) = store.member(&list, &member)? else {
        let text = format!("manifest for image {} does not exist in {}", flags.arg(1), flags.arg(0));
        return Err(fail(text, 1));
    };
    let platform = entry.descriptor.platform.get_or_insert_default();
    let set = |slot: &mut String, flag: &str| {
        if !flags.text(flag).is_empty() {
            flags.text(flag).clone_into(slot);
        }
    };
    set(&mut platform.os, "os");
    set(&mut platform.architecture, "arch");
    set(&mut platform.variant, "variant");
    set(&mut platform.os_version, "os-version");
    for feature in flags.list("os-features") {
        if !platform.os_features.contains(&feature) {
            platform.os_features.push(feature);
        }
    }
    if !known(platform) {
        let (os, arch) = (flags.text("os"), flags.text("arch"));
        return Err(fail(
            format!("manifest entry for image has unsupported os/arch combination: {os}/{arch}"),
            1,
        ));
    }
    store.save(&list, &member, &entry)
}

/// Whether there are images for such a platform at all.
fn known(platform: &OciPlatform) -> bool {
    let architectures = match platform.os.as_str() {
        "linux" => "386 amd64 arm arm64 loong64 mips64 mips64le ppc64le riscv64 s390x",
        "windows" => "386 amd64 arm arm64",
        "darwin" => "386 amd64 arm arm64",
        "freebsd" | "netbsd" => "386 amd64 arm arm64",
        "openbsd" => "386 amd64 arm arm64",
        "dragonfly" | "solaris" => "amd64",
        "plan9" => "386 amd64",
        _ => "",
    };
    architectures.split(' ').any(|a| !a.is_empty() && a == platform.architecture)
}

async fn inspect(cli: &Cli, flags: &Flags) -> Result {
    let (store, verbose) = (Store::of(cli), flags.on("verbose"));
    let registries = Registries::new(cli, flags.on("insecure"));
    if flags.args().len() == 2 {
        let (list, member) = (parse(&flags.arg(0))?, parse(&flags.arg(1))?);
        let missing = || fail(format!("No such manifest: {member}"), 1);
        return show_one(cli, &store.member(&list, &member)?.ok_or_else(missing)?, verbose);
    }
    let name = parse(&flags.arg(0))?;
    if let Some(entries) = store.list(&name)? {
        return show_list(cli, &entries, verbose);
    }
    match registries.find(&name).await? {
        Found::Manifest(entry) => show_one(cli, &entry, verbose),
        Found::List(index) if verbose => show_list(cli, &registries.members(&name, &index).await?, true),
        Found::List(index) => cli.line(&list_json(index.manifests.iter())?),
    }
}

fn show_one(cli: &Cli, entry: &Entry, verbose: bool) -> Result {
    if verbose {
        return cli.line(&indent(&serde_json::to_string(entry)?, "\t"));
    }
    cli.line(&indent(&String::from_utf8_lossy(&entry.bytes()?), "\t"))
}

fn show_list(cli: &Cli, entries: &[Entry], verbose: bool) -> Result {
    if verbose {
        return cli.line(&indent(&serde_json::to_string(entries)?, "\t"));
    }
    cli.line(&list_json(entries.iter().map(|e| &e.descriptor))?)
}

/// A list as it is pushed: its bytes, and so its digest, are those that docker makes.
fn list_json<'a>(members: impl Iterator<Item = &'a Descriptor>) -> Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        schema_version: u32,
        media_type: &'a str,
        manifests: Vec<Member<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Member<'a> {
        media_type: &'a str,
        size: u64,
        digest: &'a str,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        urls: &'a [String],
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        annotations: &'a std::collections::BTreeMap<String, String>,
        platform: &'a OciPlatform,
    }
    let nowhere = OciPlatform::default();
    let manifests: Vec<Member<'_>> = members
        .map(|d| Member {
            media_type: &d.media_type,
            size: d.size,
            digest: d.digest.as_str(),
            urls: &d.urls,
            annotations: &d.annotations,
            platform: d.platform.as_ref().unwrap_or(&nowhere),
        })
        .collect();
    let media_type = match manifests.first() {
        Some(first) if first.media_type != media_type::MANIFEST => media_type::DOCKER_LIST,
        _ => media_type::INDEX,
    };
    Ok(indent(&serde_json::to_string(&List { schema_version: 2, media_type, manifests })?, "   "))
}

/// JSON with each member on a line of its own, as Go's `json.Indent`; the order of keys stays.
fn indent(text: &str, step: &str) -> String {
    let (mut out, mut depth, mut quoted, mut escaped) =
        (String::with_capacity(text.len() * 2), 0usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&step.repeat(depth));
    };
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                quoted = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

async fn push(cli: &Cli, flags: &Flags) -> Result {
    let (list, store) = (parse(&flags.arg(0))?, Store::of(cli));
    let entries = store.list(&list)?.unwrap_or_default();
    if entries.is_empty() {
        return Err(fail(format!("No such manifest: {list}"), 1));
    }
    let registries = Registries::new(cli, flags.on("insecure"));
    let target = registries.repository(&list);
    let members = entries.iter().map(|e| Ok((e, parse(&e.reference)?))).collect::<Result<Vec<_>>>()?;
    if let Some((_, other)) = members.iter().find(|(_, m)| m.domain() != list.domain()) {
        let text = format!(
            "cannot use source images from a different registry than the target image: {} != {}",
            other.domain(),
            list.domain()
        );
        return Err(fail(text, 1));
    }
    for (entry, member) in members.iter().filter(|(_, m)| m.path() != list.path()) {
        copy(&registries, &target, entry, member).await?;
        let digest = &entry.descriptor.digest;
        cli.line(&format!("Pushed ref {}@{digest} with digest: {digest}", list.name()))?;
    }
    let text = list_json(entries.iter().map(|e| &e.descriptor))?;
    let kind = corten_wire::oci_image::Document::parse("", text.as_bytes())?;
    let kind = match kind {
        corten_wire::oci_image::Document::Index(index) => index.media_type,
        corten_wire::oci_image::Document::Manifest(manifest) => manifest.media_type,
    };
    let digest = target.put_manifest(&Target::of(&list), &kind, text.into_bytes().into()).await?;
    if flags.on("purge") {
        store.remove(&list)?;
    }
    cli.line(digest.as_str())
}

/// Brings a manifest of another repository of the same registry, whose blobs need not be sent for that.
async fn copy(registries: &Registries<'_>, target: &Repository, entry: &Entry, member: &Reference) -> Result {
    let bytes = entry.bytes()?;
    for blob in entry.blobs()? {
        if target.has_blob(&blob.digest).await?.is_some() || target.mount(&blob.digest, member.path()).await?
        {
            continue;
        }
        let content = registries.blob(member, &blob).await?;
        let source = corten_registry::BlobSource::Bytes(content.into());
        target.push_blob(&blob.digest, blob.size, &source, None).await?;
    }
    let digest = Target::Digest(entry.descriptor.digest.clone());
    target.put_manifest(&digest, &entry.descriptor.media_type, bytes.into()).await?;
    Ok(())
}

async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let store = Store::of(cli);
    let mut failures = Vec::new();
    for text in flags.args() {
        match parse(&text) {
            Ok(list) if store.list(&list)?.is_none() => failures.push(format!("No such manifest: {list}")),
            Ok(list) => store.remove(&list)?,
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(fail(failures.join("\n"), 1)) }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_lines() {
        let text = r#"{"a":[{"b":"x,{}: \"y\\"}],"c":{ },"d":[],"e":1}"#;
        let want = "{\n\t\"a\": [\n\t\t{\n\t\t\t\"b\": \"x,{}: \\\"y\\\\\"\n\t\t}\n\t],\n\t\"c\": {},\n\t\"d\": [],\n\t\"e\": 1\n}";
        assert_eq!(indent(text, "\t"), want);
        assert_eq!(indent(want, "\t"), want);
    }

    #[test]
    fn a_list_has_the_bytes_that_docker_makes() {
        let digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let mut member = Descriptor::new(media_type::MANIFEST, digest, 405);
        member.platform =
            Some(OciPlatform { architecture: "amd64".into(), os: "linux".into(), ..OciPlatform::default() });
        let want = "{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"application/vnd.oci.image.index.v1+json\",\n   \"manifests\": [\n      {\n         \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n         \"size\": 405,\n         \"digest\": \"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\n         \"platform\": {\n            \"architecture\": \"amd64\",\n            \"os\": \"linux\"\n         }\n      }\n   ]\n}";
        assert_eq!(list_json([&member].into_iter()).unwrap(), want);
    }

    #[test]
    fn platforms_that_exist() {
        let of = |os: &str, architecture: &str| OciPlatform {
            os: os.into(),
            architecture: architecture.into(),
            ..OciPlatform::default()
        };
        for (os, architecture, want) in
            [("linux", "arm64", true), ("linux", "nope", false), ("", "amd64", false), ("windows", "", false)]
        {
            assert_eq!(known(&of(os, architecture)), want, "{os}/{architecture}");
        }
    }
}
