//! Contexts.

use std::io::{Read, Write};

use corten_base::error::errno_text;
use serde_json::{Value, json};

use crate::archive::{Header, Reader, Writer};
use crate::cli::Cli;
use crate::commands::FORMAT_HELP;
use crate::commands::network::natural;
use crate::context::{Context, check_name};
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Pairs, Text};
use crate::flags::{Flags, flag, long};
use crate::format::{self, Row, Table, text};
use crate::term;
use crate::tree::{Arity, Command, PLAIN};

const DESCRIPTION: crate::flags::Flag = long("description", Text, "What it is");
const DOCKER: crate::flags::Flag =
    long("docker", Pairs, "Endpoint: host=…,ca=…,cert=…,key=…,skip-tls-verify=…,from=…");
/// A context's archive is at most this long.
const MAX_ARCHIVE: u64 = 10 << 20;

const BASE: Command = Command { group: "context", arity: Arity::Exactly(1), ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["create"],
        about: "Create a context",
        usage: "[OPTIONS] CONTEXT",
        flags: &[&[DESCRIPTION, DOCKER, long("from", Text, "Context to copy")]],
        run: |c, f| Box::pin(create(c, f)),
        ..BASE
    },
    Command {
        names: &["update"],
        about: "Change a context",
        usage: "[OPTIONS] CONTEXT",
        flags: &[&[DESCRIPTION, DOCKER]],
        run: |c, f| Box::pin(update(c, f)),
        ..BASE
    },
    Command {
        names: &["ls", "list"],
        about: "List contexts",
        usage: "[OPTIONS]",
        arity: Arity::None,
        flags: &[&[long("format", Text, FORMAT_HELP), flag("quiet", 'q', Bool, "Only names")]],
        run: |c, f| Box::pin(list(c, f)),
        ..BASE
    },
    Command {
        names: &["use"],
        about: "Make a context the current one",
        usage: "CONTEXT",
        run: |c, f| Box::pin(switch(c, f)),
        ..BASE
    },
    Command {
        names: &["show"],
        about: "Print the name of the current context",
        usage: "",
        arity: Arity::None,
        run: |c, _| Box::pin(async { c.line(&c.context_name()) }),
        ..BASE
    },
    Command {
        names: &["inspect"],
        about: "Show all that is known about contexts",
        usage: "[OPTIONS] [CONTEXT] [CONTEXT...]",
        arity: Arity::AtLeast(0),
        flags: &[&[flag("format", 'f', Text, "Go template")]],
        run: |c, f| Box::pin(inspect(c, f)),
        ..BASE
    },
    Command {
        names: &["rm", "remove"],
        about: "Remove contexts",
        usage: "CONTEXT [CONTEXT...]",
        arity: Arity::AtLeast(1),
        flags: &[&[flag("force", 'f', Bool, "Even the one in use")]],
        run: |c, f| Box::pin(remove(c, f)),
        ..BASE
    },
    Command {
        names: &["export"],
        about: "Write a context to a file",
        usage: "[OPTIONS] CONTEXT [FILE|-]",
        arity: Arity::Between(1, 2),
        run: |c, f| Box::pin(export(c, f)),
        ..BASE
    },
    Command {
        names: &["import"],
        about: "Read a context from a file",
        usage: "CONTEXT FILE|-",
        arity: Arity::Exactly(2),
        run: |c, f| Box::pin(import(c, f)),
        ..BASE
    },
];

/// An endpoint read from `--docker`: its description and certificate files.
struct Endpoint {
    meta: Value,
    files: Vec<(&'static str, Vec<u8>)>,
}

fn endpoint(cli: &Cli, values: &[String]) -> Result<Endpoint> {
    let bad = |why: String| fail(format!("unable to create docker endpoint config: {why}"), 1);
    let mut host = String::new();
    let mut skip = false;
    let mut files = Vec::new();
    for pair in values.iter().flat_map(|v| v.split(',')) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            fail(
                format!(
                    "invalid argument {pair:?} for \"--docker\" flag: {pair} must be formatted as key=value"
                ),
                125,
            )
        })?;
        let read = || std::fs::read(value).map_err(|e| bad(format!("open {value}: {}", errno_text(&e))));
        match key {
            "host" => host = value.to_owned(),
            "ca" => files.push(("ca.pem", read()?)),
            "cert" => files.push(("cert.pem", read()?)),
            "key" => files.push(("key.pem", read()?)),
            "skip-tls-verify" => {
                skip =
                    crate::flags::parse_bool(value).ok_or_else(|| bad(format!("skip-tls-verify: {value}")))?
            }
            "from" => {
                let from = cli.contexts().get(value)?;
                return Ok(Endpoint {
                    meta: from.meta["Endpoints"]["docker"].clone(),
                    files: copied(&from)?,
                });
            }
            _ => return Err(bad(format!("unrecognized config key: {key}"))),
        }
    }
    if !host.is_empty() {
        corten_client::Endpoint::parse(&host, None).map_err(|e| bad(e.to_string()))?;
    }
    Ok(Endpoint { meta: json!({"Host": host, "SkipTLSVerify": skip}), files })
}

fn copied(context: &Context) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = Vec::new();
    for (name, path) in context.tls_files() {
        let name = ["ca.pem", "cert.pem", "key.pem"].into_iter().find(|n| *n == name).unwrap_or("ca.pem");
        files.push((name, std::fs::read(path)?));
    }
    Ok(files)
}

async fn create(cli: &Cli, flags: &Flags) -> Result {
    let name = flags.arg(0);
    check_name(&name)?;
    let contexts = cli.contexts();
    if contexts.exists(&name) {
        return Err(fail(format!("context {name:?} already exists"), 1));
    }
    let from = flags.text("from");
    let mut description = flags.text("description").to_owned();
    let endpoint = match (from, flags.changed("docker")) {
        ("", true) => endpoint(cli, &flags.list("docker"))?,
        ("", false) => {
            Endpoint { meta: json!({"Host": current_host(cli), "SkipTLSVerify": false}), files: Vec::new() }
        }
        ("default", _) => {
            Endpoint { meta: json!({"Host": current_host(cli), "SkipTLSVerify": false}), files: Vec::new() }
        }
        (from, false) => {
            let source = contexts.get(from)?;
            if description.is_empty() {
                description = source.description();
            }
            Endpoint { meta: source.meta["Endpoints"]["docker"].clone(), files: copied(&source)? }
        }
        (_, true) => return Err(fail("cannot use --docker flag when --from is set", 1)),
    };
    contexts.put(&name, &description, &endpoint.meta)?;
    for (file, content) in &endpoint.files {
        contexts.put_tls(&name, file, content)?;
    }
    cli.line(&name)?;
    cli.warn(&format!("Successfully created context {name:?}"));
    Ok(())
}

fn current_host(cli: &Cli) -> String {
    cli.globals.host.clone().or_else(|| cli.env.host.clone()).unwrap_or_else(|| cli.default_host())
}

async fn update(cli: &Cli, flags: &Flags) -> Result {
    let name = flags.arg(0);
    check_name(&name)?;
    let contexts = cli.contexts();
    let old = contexts.get(&name)?;
    let description =
        if flags.changed("description") { flags.text("description").to_owned() } else { old.description() };
    let endpoint = match flags.changed("docker") {
        true => endpoint(cli, &flags.list("docker"))?,
        false => Endpoint { meta: old.meta["Endpoints"]["docker"].clone(), files: copied(&old)? },
    };
    contexts.put(&name, &description, &endpoint.meta)?;
    for (file, content) in &endpoint.files {
        contexts.put_tls(&name, file, content)?;
    }
    cli.line(&name)?;
    cli.warn(&format!("Successfully updated context {name:?}"));
    Ok(())
}

const TABLE: Table<'static> = Table {
    context: "*formatter.clientContextContext",
    raw: &[],
    default: "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
    quiet: "{{.Name}}",
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("DockerEndpoint", "DOCKER ENDPOINT"),
        ("Error", "ERROR"),
        ("Current", ""),
    ],
};

async fn list(cli: &Cli, flags: &Flags) -> Result {
    let current = cli.context_name();
    let row = |name: &str, description: &str, host: &str| {
        Row::from([
            ("Name", text(name)),
            ("Description", text(description)),
            ("DockerEndpoint", text(host)),
            ("Error", text("")),
            ("Current", gotmpl::Value::Bool(name == current)),
        ])
    };
    let host = current_host(cli);
    let mut all = vec![("default".to_owned(), "Current DOCKER_HOST based configuration".to_owned(), host)];
    all.extend(cli.contexts().list().iter().map(|c| (c.name.clone(), c.description(), c.host())));
    all.sort_by_key(|(name, _, _)| natural(name));
    let rows: Vec<Row> = all.iter().map(|(name, description, host)| row(name, description, host)).collect();
    cli.print(&TABLE.render(flags.text("format"), flags.on("quiet"), &rows)?)?;
    if cli.env.host.is_some() {
        cli.warn("Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable.");
    }
    Ok(())
}

async fn switch(cli: &Cli, flags: &Flags) -> Result {
    let name = flags.arg(0);
    if name != "default" {
        check_name(&name)?;
        cli.contexts().get(&name)?;
    }
    let stored = if name == "default" { "" } else { name.as_str() };
    cli.config().borrow_mut().set_text("currentContext", stored)?;
    cli.line(&name)?;
    cli.warn(&format!("Current context is now {name:?}"));
    if name != "default" && cli.env.host.is_some() {
        cli.warn(&format!("Warning: DOCKER_HOST environment variable overrides the active context. To use {name:?}, either set the global --context flag, or unset DOCKER_HOST environment variable."));
    }
    Ok(())
}

async fn inspect(cli: &Cli, flags: &Flags) -> Result {
    let mut names = flags.args();
    if names.is_empty() {
        names.push(cli.context_name());
    }
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        if name == "default" {
            found.push(format!(
                "{{\"Name\":\"default\",\"Metadata\":{{}},\"Endpoints\":{{\"docker\":{{\"Host\":{},\"SkipTLSVerify\":false}}}},\"TLSMaterial\":{{}},\"Storage\":{{\"MetadataPath\":\"\\u003cIN MEMORY\\u003e\",\"TLSPath\":\"\\u003cIN MEMORY\\u003e\"}}}}",
                Value::from(current_host(cli))
            ));
            continue;
        }
        match cli.contexts().get(&name) {
            Ok(context) => found.push(format::html_escaped(context.inspect())),
            Err(e) => errors.push(e.to_string()),
        }
    }
    match flags.text("format") {
        "" => cli.line(&format::indent(&format!("[{}]", found.join(",")), "", "    "))?,
        "json" => cli.line(&format!("[{}]", found.join(",")))?,
        template => {
            for json in &found {
                cli.line(&format::render(template, json, &["Metadata.Description"])?)?;
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(fail(errors.join("\n"), 1)) }
}

async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let contexts = cli.contexts();
    let current = cli.config().borrow().text("currentContext").to_owned();
    let mut errors = Vec::new();
    for name in flags.args() {
        if name == "default" {
            errors.push("context \"default\" cannot be removed".to_owned());
        } else if !flags.on("force") && name == current {
            errors.push(format!("context {name:?} is in use, set -f flag to force remove"));
        } else if !contexts.exists(&name) {
            if !flags.on("force") {
                errors.push(format!("context {name:?} does not exist"));
            }
        } else {
            contexts.remove(&name)?;
            if name == current {
                cli.config().borrow_mut().set_text("currentContext", "")?;
            }
            cli.line(&name)?;
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(fail(errors.join("\n"), 1)) }
}

async fn export(cli: &Cli, flags: &Flags) -> Result {
    let name = flags.arg(0);
    if name != "default" {
        check_name(&name)?;
    }
    let context = cli.contexts().get(&name)?;
    let target = match flags.arg(1) {
        given if given.is_empty() => format!("{name}.dockercontext"),
        given => given,
    };
    let mut writer = Writer::new(Vec::new());
    writer.bytes("meta.json", 0o644, &std::fs::read(context.meta_dir.join("meta.json"))?)?;
    let dir =
        |name: &str| Header { name: name.as_bytes().to_vec(), kind: b'5', mode: 0o700, ..Header::default() };
    writer.header(&dir("tls"))?;
    let files = context.tls_files();
    if !files.is_empty() {
        writer.header(&dir("tls/docker"))?;
    }
    for (file, path) in files {
        writer.bytes(&format!("tls/docker/{file}"), 0o600, &std::fs::read(path)?)?;
    }
    let archive = writer.finish()?;
    if target == "-" {
        if term::stdout_is_tty() {
            return Err(fail("cowardly refusing to export to a terminal, specify a file path", 1));
        }
        return cli.write_out(&archive);
    }
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
    let mut file = file.map_err(|e| {
        let why = if e.kind() == std::io::ErrorKind::AlreadyExists {
            "file exists".to_owned()
        } else {
            errno_text(&e)
        };
        fail(format!("open {target}: {why}"), 1)
    })?;
    file.write_all(&archive)?;
    cli.warn(&format!("Written file {target:?}"));
    Ok(())
}

async fn import(cli: &Cli, flags: &Flags) -> Result {
    let (name, source) = (flags.arg(0), flags.arg(1));
    check_name(&name)?;
    let contexts = cli.contexts();
    if contexts.exists(&name) {
        return Err(fail(format!("context {name:?} already exists"), 1));
    }
    let mut bytes = Vec::new();
    match source.as_str() {
        "-" => std::io::stdin().lock().take(MAX_ARCHIVE + 1).read_to_end(&mut bytes)?,
        path => std::fs::File::open(path)
            .map_err(|e| fail(format!("open {path}: {}", errno_text(&e)), 1))?
            .take(MAX_ARCHIVE + 1)
            .read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > MAX_ARCHIVE {
        return Err(fail("the context's archive is too large", 1));
    }
    let mut reader = Reader::new(bytes.as_slice());
    let (mut meta, mut files) = (None, Vec::new());
    while let Some(header) = reader.next()? {
        let entry = String::from_utf8_lossy(&header.name).into_owned();
        let mut content = Vec::new();
        match entry.as_str() {
            "meta.json" => {
                reader.read_to_end(&mut content)?;
                meta = Some(serde_json::from_slice::<Value>(&content)?);
            }
            "tls/docker/ca.pem" | "tls/docker/cert.pem" | "tls/docker/key.pem" => {
                reader.read_to_end(&mut content)?;
                files.push((entry.trim_start_matches("tls/docker/").to_owned(), content));
            }
            other if other.trim_end_matches('/') == "tls" || other.trim_end_matches('/') == "tls/docker" => {}
            other => return Err(fail(format!("unexpected context file: {other}"), 1)),
        }
    }
    let meta = meta.ok_or_else(|| fail("invalid context: no metadata found", 1))?;
    let description = meta["Metadata"]["Description"].as_str().unwrap_or_default();
    contexts.put(&name, description, &meta["Endpoints"]["docker"])?;
    for (file, content) in &files {
        contexts.put_tls(&name, file, content)?;
    }
    cli.line(&name)?;
    cli.warn(&format!("Successfully imported context {name:?}"));
    Ok(())
}
