//! Images.

use corten_base::error::errno_text;
use corten_base::{Kind as Failure, Reference, units};
use corten_client::Query;
use serde_json::Value;

use crate::cli::Cli;
use crate::commands::container;
use crate::commands::{FILTER_HELP, FORMAT_HELP};
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Filter, List, Strings, Text};
use crate::flags::{Flags, flag, long};
use crate::format::{Row, Table, text};
use crate::progress::{self, Target};
use crate::tree::{Arity, Command, PLAIN};
use crate::{archive, human, opts, registry, streams, term};

mod tree;

const BASE: Command = Command { group: "image", ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["ls", "list"],
        top: &["images"],
        about: "List images",
        usage: "[OPTIONS] [REPOSITORY[:TAG]]",
        arity: Arity::AtMost(1),
        flags: &[&[
            flag("all", 'a', Bool, "Intermediate images too"),
            long("digests", Bool, "Digests too"),
            flag("filter", 'f', Filter, FILTER_HELP),
            long("format", Text, FORMAT_HELP),
            long("no-trunc", Bool, "Do not shorten"),
            flag("quiet", 'q', Bool, "Only IDs"),
            long("tree", Bool, "As a tree, with the platforms of each image"),
        ]],
        run: |c, f| Box::pin(list(c, f)),
        ..BASE
    },
    Command {
        names: &["pull"],
        top: &["pull"],
        about: "Fetch an image from a registry",
        usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
        arity: Arity::Exactly(1),
        flags: &[&[
            flag("all-tags", 'a', Bool, "All tags of the repository"),
            long("disable-content-trust", Bool, "Do not verify signatures").default("true").hidden(),
            long("platform", Text, "Platform: os/architecture"),
            flag("quiet", 'q', Bool, "No progress"),
        ]],
        run: |c, f| Box::pin(pull(c, f)),
        ..BASE
    },
    Command {
        names: &["push"],
        top: &["push"],
        about: "Send an image to a registry",
        usage: "[OPTIONS] NAME[:TAG]",
        arity: Arity::Exactly(1),
        flags: &[&[
            flag("all-tags", 'a', Bool, "All tags of the repository"),
            long("disable-content-trust", Bool, "Do not sign").default("true").hidden(),
            long("platform", Text, "Only this platform's manifest"),
            flag("quiet", 'q', Bool, "No progress"),
        ]],
        run: |c, f| Box::pin(push(c, f)),
        ..BASE
    },
    Command {
        names: &["tag"],
        top: &["tag"],
        about: "Give an image a further name",
        usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        arity: Arity::Exactly(2),
        interspersed: false,
        run: |c, f| Box::pin(tag(c, f)),
        ..BASE
    },
    Command {
        names: &["rm", "remove"],
        top: &["rmi"],
        about: "Remove images",
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        flags: &[&[
            flag("force", 'f', Bool, "Remove it even if it is used or has several names"),
            long("no-prune", Bool, "Keep parents without a name"),
            long("platform", Strings, "Only this platform"),
        ]],
        run: |c, f| Box::pin(remove(c, f)),
        ..BASE
    },
    Command {
        names: &["history"],
        top: &["history"],
        about: "Show how an image was made",
        usage: "[OPTIONS] IMAGE",
        arity: Arity::Exactly(1),
        flags: &[&[
            long("format", Text, FORMAT_HELP),
            flag("human", 'H', Bool, "Sizes and times for people").default("true"),
            long("no-trunc", Bool, "Do not shorten"),
            long("platform", Text, "Platform: os/architecture"),
            flag("quiet", 'q', Bool, "Only IDs"),
        ]],
        run: |c, f| Box::pin(history(c, f)),
        ..BASE
    },
    Command {
        names: &["save"],
        top: &["save"],
        about: "Write images as a tar archive",
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        flags: &[&[
            flag("output", 'o', Text, "File to write to"),
            long("platform", Text, "Only this platform"),
        ]],
        run: |c, f| Box::pin(save(c, f)),
        ..BASE
    },
    Command {
        names: &["load"],
        top: &["load"],
        about: "Read images from a tar archive",
        usage: "[OPTIONS]",
        arity: Arity::None,
        flags: &[&[
            flag("input", 'i', Text, "File to read instead of standard input"),
            long("platform", Text, "Only this platform"),
            flag("quiet", 'q', Bool, "No progress"),
        ]],
        run: |c, f| Box::pin(load(c, f)),
        ..BASE
    },
    Command {
        names: &["import"],
        top: &["import"],
        about: "Make an image from a file system's tar archive",
        usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        arity: Arity::AtLeast(1),
        flags: &[&[
            flag("change", 'c', List, "Dockerfile instruction to apply"),
            flag("message", 'm', Text, "Comment"),
            long("platform", Text, "Platform: os/architecture"),
        ]],
        run: |c, f| Box::pin(import(c, f)),
        ..BASE
    },
];

const TABLE: Table<'static> = Table {
    context: "*formatter.imageContext",
    raw: &[
        ("repository", "Repository"),
        ("tag", "Tag"),
        ("image_id", "ID"),
        ("created_at", "CreatedAt"),
        ("virtual_size", "Size"),
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
    headers: HEADERS,
};

/// Fields of an image and their headings.
pub(super) const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or(0.0)
}

/// One row per name of an image.
pub(super) fn rows(image: &Value, digests: bool, no_trunc: bool) -> Vec<Row> {
    let id = image["Id"].as_str().unwrap_or_default();
    let created = image["Created"].as_i64().unwrap_or(0);
    let texts = |key: &str| -> Vec<&str> {
        image[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let split = |name: &str| match name.parse::<Reference>() {
        Ok(r) => (
            r.familiar_name(),
            r.tag().unwrap_or("<none>").to_owned(),
            r.digest().map_or_else(|| "<none>".to_owned(), ToString::to_string),
        ),
        Err(_) => ("<none>".to_owned(), "<none>".to_owned(), "<none>".to_owned()),
    };
    let tags: Vec<_> = texts("RepoTags").into_iter().filter(|t| *t != "<none>:<none>").map(split).collect();
    let by_digest: Vec<_> =
        texts("RepoDigests").into_iter().filter(|d| *d != "<none>@<none>").map(split).collect();
    let mut names: Vec<(String, String, String)> = Vec::new();
    for (repo, tag, _) in &tags {
        let of_repo: Vec<_> = by_digest.iter().filter(|(r, _, _)| r == repo).collect();
        if digests && !of_repo.is_empty() {
            names.extend(of_repo.iter().map(|(_, _, d)| (repo.clone(), tag.clone(), d.clone())));
        } else {
            names.push((repo.clone(), tag.clone(), "<none>".into()));
        }
    }
    for (repo, _, digest) in &by_digest {
        if !tags.iter().any(|(r, _, _)| r == repo) {
            let digest = if digests { digest.clone() } else { "<none>".into() };
            let row = (repo.clone(), "<none>".to_owned(), digest);
            if !names.contains(&row) {
                names.push(row);
            }
        }
    }
    if names.is_empty() {
        names.push(("<none>".into(), "<none>".into(), "<none>".into()));
    }
    let count = |v: &Value| match v.as_i64() {
        Some(n) if n >= 0 => n.to_string(),
        _ => "N/A".into(),
    };
    let size = |v: &Value| {
        if number(v) < 0.0 || v.is_null() { "N/A".to_owned() } else { units::human_size3(number(v)) }
    };
    let unique = match (number(&image["SharedSize"]), number(&image["Size"])) {
        (shared, total) if shared >= 0.0 && !image["SharedSize"].is_null() && total >= 0.0 => {
            units::human_size(total - shared)
        }
        _ => "N/A".into(),
    };
    let row = |(repo, tag, digest): (String, String, String)| {
        Row::from([
            ("ID", text(if no_trunc { id } else { container::short(id) })),
            ("Repository", text(repo)),
            ("Tag", text(tag)),
            ("Digest", text(digest)),
            ("CreatedSince", text(if created == 0 { "N/A".into() } else { human::ago(created) })),
            ("CreatedAt", text(if created == 0 { "N/A".into() } else { human::go_time(created) })),
            ("Size", text(units::human_size3(number(&image["Size"])))),
            ("Containers", text(count(&image["Containers"]))),
            ("VirtualSize", text(units::human_size(number(&image["Size"])))),
            ("SharedSize", text(size(&image["SharedSize"]))),
            ("UniqueSize", text(unique.clone())),
        ])
    };
    names.into_iter().map(row).collect()
}

async fn list(cli: &Cli, flags: &Flags) -> Result {
    let mut filters = opts::filters(&flags.list("filter"));
    let pattern = flags.arg(0);
    if !pattern.is_empty() {
        filters.add("reference", &pattern);
    }
    if flags.on("tree") {
        tree::check(flags)?;
        let query = Query::new()
            .with_flag("all", flags.on("all"))
            .with_flag("manifests", true)
            .with_filters(&filters);
        return tree::show(cli, &cli.client()?.image_list(query).await?);
    }
    let format = cli.format_for(flags, "imagesFormat");
    let shows = |field: &str| format.contains(field);
    let query = Query::new()
        .with_flag("all", flags.on("all"))
        .with_flag("shared-size", shows(".SharedSize") || shows(".UniqueSize"))
        .with_filters(&filters);
    let images = cli.client()?.image_list(query).await?;
    let digests = flags.on("digests") || format.contains(".Digest");
    let quiet = flags.on("quiet");
    let mut all: Vec<Row> = Vec::new();
    for image in &images {
        let rows = rows(image, digests, flags.on("no-trunc"));
        all.extend(rows);
    }
    let with_digests = Table {
        default: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        ..TABLE
    };
    let table = if flags.on("digests") { &with_digests } else { &TABLE };
    cli.print(&table.render(&format, quiet, &all)?)
}

async fn pull(cli: &Cli, flags: &Flags) -> Result {
    let reference = registry::reference(&flags.arg(0))?;
    let all = flags.on("all-tags");
    if all && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(fail("tag can't be used with --all-tags/-a", 1));
    }
    let quiet = flags.on("quiet");
    let named = if all { reference } else { reference.clone().or_latest() };
    if !all && !quiet && registry::reference(&flags.arg(0))?.tag().is_none() && named.digest().is_none() {
        cli.line(&format!("Using default tag: {}", named.tag().unwrap_or_default()))?;
    }
    let target = if quiet { Target::Nowhere } else { Target::Stdout };
    match container::pull(cli, &named, &cli.platform(flags), target).await {
        Ok(()) => cli.line(&named.to_string()),
        Err(e) if e.to_string().contains("when fetching 'plugin'") => {
            Err(fail(format!("{e} - Use `docker plugin install`"), 1))
        }
        Err(e) => Err(e),
    }
}

const PLATFORM_NOTE: &str = "
 Info -> Using --platform pushes only the specified platform manifest of a multi-platform image index.
         Other components, like attestations, will not be included.
         To push the complete multi-platform image, remove the --platform flag.
         \n";

async fn push(cli: &Cli, flags: &Flags) -> Result {
    let given = registry::reference(&flags.arg(0))?;
    let all = flags.on("all-tags");
    let quiet = flags.on("quiet");
    if !flags.text("platform").is_empty() {
        cli.print(PLATFORM_NOTE)?;
    }
    let reference = match (all, given.tag()) {
        (true, Some(_)) => return Err(fail("tag can't be used with --all-tags/-a", 1)),
        (true, None) => given,
        (false, None) if given.digest().is_none() => {
            let tagged = given.or_latest();
            if !quiet {
                cli.line(&format!("Using default tag: {}", tagged.tag().unwrap_or_default()))?;
            }
            tagged
        }
        (false, _) => given,
    };
    let mut query = Query::new().with_text("tag", reference.tag().unwrap_or_default());
    let platform = flags.text("platform");
    if !platform.is_empty() {
        query = query.with("platform", platform_json(platform)?);
    }
    let auth = registry::auth_header(cli, &reference);
    let stream = cli.client()?.image_push(&reference.name(), query, &auth).await?;
    let target = if quiet { Target::Nowhere } else { Target::Stdout };
    progress::show(stream, target, &mut |_| {}).await?;
    if quiet { cli.line(&reference.to_string()) } else { Ok(()) }
}

fn is_component(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// `linux/arm64/v8` as the API's JSON.
pub(super) fn platform_json(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts[..] {
        [os, architecture] => (os, architecture, ""),
        [os, architecture, variant] => (os, architecture, variant),
        [os] if !is_component(os) => {
            return Err(fail(
                format!(
                    "{text:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must match \"^([A-Za-z0-9_-]+)(?:\\\\(([A-Za-z0-9_.-]*)\\\\))?$\": invalid argument"
                ),
                1,
            ));
        }
        _ => {
            return Err(fail(format!("{text:?}: cannot parse platform specifier: invalid argument"), 1));
        }
    };
    let mut out = serde_json::json!({"os": os, "architecture": architecture});
    if !variant.is_empty() {
        out["variant"] = variant.into();
    }
    Ok(out.to_string())
}

async fn tag(cli: &Cli, flags: &Flags) -> Result {
    let (source, target) = (flags.arg(0), flags.arg(1));
    let bad = |name: &str, e: String| {
        fail(format!("Error parsing reference: {name:?} is not a valid repository/tag: {e}"), 1)
    };
    if let Err(e) = source.parse::<Reference>()
        && !matches!(e, corten_base::reference::InvalidReference::LooksLikeId(_))
    {
        return Err(bad(&source, e.to_string()));
    }
    let target: Reference =
        target.parse().map_err(|e: corten_base::reference::InvalidReference| bad(&target, e.to_string()))?;
    if target.digest().is_some() {
        return Err(fail("refusing to create a tag with a digest reference", 1));
    }
    let target = target.or_latest();
    Ok(cli.client()?.image_tag(&source, &target.name(), target.tag().unwrap_or_default()).await?)
}

async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let force = flags.on("force");
    let mut query = Query::new().with_flag("force", force).with_flag("noprune", flags.on("no-prune"));
    for platform in flags.list("platform") {
        query = query.with("platforms", platform_json(&platform)?);
    }
    let (mut errors, mut fatal) = (Vec::new(), false);
    for name in flags.args() {
        match client.image_remove(&name, query.clone()).await {
            Ok(items) => {
                for item in items {
                    match (item["Deleted"].as_str(), item["Untagged"].as_str()) {
                        (Some(id), _) if !id.is_empty() => cli.line(&format!("Deleted: {id}"))?,
                        (_, Some(name)) => cli.line(&format!("Untagged: {name}"))?,
                        _ => {}
                    }
                }
            }
            Err(e) => {
                fatal |= e.kind() != Failure::NotFound;
                errors.push(e.to_string());
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let text = errors.join("\n");
    if !force || fatal {
        return Err(fail(text, 1));
    }
    cli.warn(&text);
    Ok(())
}

const HISTORY: Table<'static> = Table {
    context: "*image.historyContext",
    raw: &[],
    default: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
};

async fn history(cli: &Cli, flags: &Flags) -> Result {
    let mut query = Query::new();
    if !flags.text("platform").is_empty() {
        query = query.with("platform", platform_json(flags.text("platform"))?);
    }
    let entries = cli.client()?.image_history(&flags.arg(0), query).await?;
    let (no_trunc, people) = (flags.on("no-trunc"), flags.on("human"));
    let rows: Vec<Row> = entries
        .iter()
        .map(|h| {
            let field = |name: &str| h[name].as_str().unwrap_or_default();
            let created = h["Created"].as_i64().unwrap_or(0);
            let by = field("CreatedBy").replace('\t', " ");
            let epoch = created <= 0;
            let size = h["Size"].as_i64().unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let size = if people { units::human_size3(size as f64) } else { size.to_string() };
            let since = if people { human::ago(created) } else { human::rfc3339_local(created) };
            Row::from([
                ("ID", text(if no_trunc { field("Id") } else { container::short(field("Id")) })),
                ("CreatedSince", text(if epoch { "N/A".into() } else { since })),
                ("CreatedAt", text(human::rfc3339_local(created))),
                ("CreatedBy", text(if no_trunc { by } else { container::ellipsis(&by, 45) })),
                ("Size", text(size)),
                ("Comment", text(field("Comment"))),
            ])
        })
        .collect();
    let exact = Table {
        headers: &[
            ("ID", "IMAGE"),
            ("CreatedSince", "CREATED AT"),
            ("CreatedAt", "CREATED AT"),
            ("CreatedBy", "CREATED BY"),
            ("Size", "SIZE"),
            ("Comment", "COMMENT"),
        ],
        ..HISTORY
    };
    let table = if people { &HISTORY } else { &exact };
    cli.print(&table.render(flags.text("format"), flags.on("quiet"), &rows)?)
}

async fn save(cli: &Cli, flags: &Flags) -> Result {
    let path = flags.text("output");
    if path.is_empty() && term::stdout_is_tty() {
        return Err(fail("cowardly refusing to save to a terminal. Use the -o flag or redirect", 1));
    }
    container::check_output("failed to save image", path)?;
    let mut query = Query::new();
    for name in flags.args() {
        query = query.with("names", name);
    }
    if !flags.text("platform").is_empty() {
        query = query.with("platform", platform_json(flags.text("platform"))?);
    }
    let stream = cli.client()?.image_save(query).await?;
    container::save(cli, stream, path).await
}

/// A file, or standard input, as a request's body.
fn input_body(path: &str) -> Result<corten_client::Body> {
    if path.is_empty() || path == "-" {
        let mut input = streams::stdin_chunks();
        return Ok(archive::body("application/x-tar", move |pipe| {
            while let Some(chunk) = input.blocking_recv() {
                std::io::Write::write_all(pipe, &chunk)?;
            }
            Ok(())
        }));
    }
    let mut file =
        std::fs::File::open(path).map_err(|e| fail(format!("open {path}: {}", errno_text(&e)), 1))?;
    Ok(archive::body("application/x-tar", move |pipe| std::io::copy(&mut file, pipe).map(drop)))
}

async fn load(cli: &Cli, flags: &Flags) -> Result {
    let path = flags.text("input");
    if path.is_empty() && term::stdin_is_tty() {
        return Err(fail("requested load from stdin, but stdin is empty", 1));
    }
    let quiet = flags.on("quiet") || !term::stdout_is_tty();
    let mut query = Query::new().with("quiet", if quiet { "1" } else { "0" });
    if !flags.text("platform").is_empty() {
        query = query.with("platform", platform_json(flags.text("platform"))?);
    }
    let stream = cli.client()?.image_load(query, input_body(path)?).await?;
    progress::show(stream, Target::Stdout, &mut |_| {}).await
}

async fn import(cli: &Cli, flags: &Flags) -> Result {
    let (source, reference) = (flags.arg(0), flags.arg(1));
    if !reference.is_empty() {
        registry::reference(&reference)?;
    }
    let url = source.starts_with("http://") || source.starts_with("https://");
    let mut query = Query::new()
        .with("fromSrc", if url { source.as_str() } else { "-" })
        .with_text("repo", &reference)
        .with_text("message", flags.text("message"))
        .with_text("platform", &cli.platform(flags));
    for change in flags.list("change") {
        query = query.with("changes", change);
    }
    let body = if url { corten_client::Body::Empty } else { input_body(&source)? };
    let stream = cli.client()?.image_import(query, body).await?;
    progress::show(stream, Target::Stdout, &mut |_| {}).await
}
