//! `logs`, `top`, `diff`, `port`, `export`, `commit`.

use corten_base::error::errno_text;
use corten_client::{ByteStream, LogOptions, Query};
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Flags;
use crate::streams::Splitter;
use crate::tabwriter::TabWriter;
use crate::{human, term};

/// A time as the API takes it: seconds since the epoch, from RFC 3339, a Go duration before now, or seconds.
pub(crate) fn timestamp(text: &str) -> Result<String> {
    if text.is_empty() || text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Some(ago) = corten_base::units::parse_duration(text) {
        let then = corten_base::time::now_ns() - i128::try_from(ago.as_nanos()).unwrap_or(0);
        return Ok(format!("{}.{:09}", then / 1_000_000_000, then % 1_000_000_000));
    }
    let zoned =
        [text.to_owned(), format!("{text}Z")].iter().find_map(|t| corten_base::time::parse_rfc3339(t));
    if let Some(ns) =
        zoned.filter(|_| text.ends_with('Z') || text.len() > 19 && text[19..].contains(['+', '-']))
    {
        return Ok(format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000));
    }
    // Without a zone a time is local.
    let local = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|d| d.to_datetime(jiff::civil::Time::midnight())));
    let zoned = local.ok().and_then(|t| t.to_zoned(jiff::tz::TimeZone::system()).ok());
    match zoned {
        Some(t) => {
            let ns = t.timestamp().as_nanosecond();
            Ok(format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
        }
        None => Err(fail(
            format!("invalid value for \"since\": failed to parse value as time or duration: {text:?}"),
            1,
        )),
    }
}

/// `logs`.
pub(super) async fn logs(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let name = flags.arg(0);
    let container = client.container_inspect(&name).await?;
    let options = LogOptions {
        follow: flags.on("follow"),
        since: timestamp(flags.text("since"))?,
        until: timestamp(flags.text("until"))?,
        tail: flags.text("tail").to_owned(),
        timestamps: flags.on("timestamps"),
        details: flags.on("details"),
    };
    let id = container["Id"].as_str().unwrap_or(&name);
    let mut stream = client.container_logs(id, &options).await?;
    let mut splitter = Splitter::default();
    let tty = container["Config"]["Tty"].as_bool().unwrap_or(false);
    while let Some(chunk) = stream.next().await? {
        if tty {
            cli.write_out(&chunk)?;
        } else {
            splitter.feed(&chunk, &mut |channel, bytes| {
                if channel == 2 { cli.write_err(bytes) } else { cli.write_out(bytes) }
            })?;
        }
    }
    Ok(())
}

/// `top`.
pub(super) async fn top(cli: &Cli, flags: &Flags) -> Result {
    let args = flags.args();
    let answer = cli.client()?.container_top(&args[0], &args[1..].join(" ")).await?;
    let words = |list: &Value| -> String {
        let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.collect::<Vec<_>>().join("\t")
    };
    let mut table = TabWriter::new(20, 3);
    table.push(&words(&answer["Titles"]));
    table.push("\n");
    for process in answer["Processes"].as_array().into_iter().flatten() {
        table.push(&words(process));
        table.push("\n");
    }
    cli.print(&table.finish())
}

/// `diff`.
pub(super) async fn diff(cli: &Cli, flags: &Flags) -> Result {
    let name = flags.arg(0);
    if name.is_empty() {
        return Err(fail("Container name cannot be empty", 1));
    }
    let changes = cli.client()?.container_changes(&name).await?;
    let mut out = String::new();
    for change in changes.as_array().into_iter().flatten() {
        let kind = match change["Kind"].as_i64() {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        out.push_str(&format!("{kind} {}\n", change["Path"].as_str().unwrap_or_default()));
    }
    cli.print(&out)
}

/// `port`.
pub(super) async fn port(cli: &Cli, flags: &Flags) -> Result {
    let args = flags.args();
    let container = cli.client()?.container_inspect(&args[0]).await?;
    let ports = container["NetworkSettings"]["Ports"].as_object().cloned().unwrap_or_default();
    let address = |b: &Value| {
        let ip = b["HostIp"].as_str().unwrap_or_default();
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        format!("{ip}:{}", b["HostPort"].as_str().unwrap_or_default())
    };
    if let Some(wanted) = args.get(1) {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        if number.parse::<u16>().is_err() {
            return Err(fail(
                format!(
                    "Error: invalid port ({number}): strconv.ParseUint: parsing {number:?}: invalid syntax"
                ),
                1,
            ));
        }
        let key = format!("{number}/{protocol}");
        let bindings = ports.get(&key).and_then(Value::as_array).filter(|b| !b.is_empty());
        let Some(bindings) = bindings else {
            return Err(fail(format!("Error: No public port '{wanted}' published for {}", args[0]), 1));
        };
        return bindings.iter().try_for_each(|b| cli.line(&address(b)));
    }
    let mut lines: Vec<(u32, String)> = Vec::new();
    for (key, bindings) in &ports {
        let number = key.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        for binding in bindings.as_array().into_iter().flatten() {
            lines.push((number, format!("{key} -> {}", address(binding))));
        }
    }
    lines.sort();
    lines.iter().try_for_each(|(_, line)| cli.line(line))
}

/// `export`.
pub(super) async fn export(cli: &Cli, flags: &Flags) -> Result {
    let path = flags.text("output");
    if path.is_empty() && term::stdout_is_tty() {
        return Err(fail("cowardly refusing to save to a terminal. Use the -o flag or redirect", 1));
    }
    check_output("failed to export container", path)?;
    let stream = cli.client()?.container_export(&flags.arg(0)).await?;
    save(cli, stream, path).await
}

/// Whether a file can be written there: its directory exists and it is no device.
pub(crate) fn check_output(what: &str, path: &str) -> Result {
    if path.is_empty() {
        return Ok(());
    }
    let target = std::path::Path::new(path);
    let dir = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    if let Err(e) = std::fs::metadata(dir) {
        let why = errno_text(&e);
        return Err(fail(format!("{what}: invalid output path: stat {}: {why}", dir.display()), 1));
    }
    match std::fs::metadata(target) {
        Ok(meta) if meta.is_dir() => {
            Err(fail(format!("{what}: invalid output path: {path:?} must be a regular file"), 1))
        }
        _ => Ok(()),
    }
}

/// Writes a stream to a file that appears when it is complete, or to standard output.
pub(crate) async fn save(cli: &Cli, mut stream: ByteStream, path: &str) -> Result {
    use std::io::Write;
    if path.is_empty() {
        while let Some(chunk) = stream.next().await? {
            cli.write_out(&chunk)?;
        }
        return Ok(());
    }
    let temp = format!("{path}.tmp{}", std::process::id());
    let write = async {
        let mut file =
            std::fs::File::create(&temp).map_err(|e| fail(format!("open {path}: {}", errno_text(&e)), 1))?;
        while let Some(chunk) = stream.next().await? {
            file.write_all(&chunk)?;
        }
        // A device such as /dev/null stays what it is.
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => std::fs::copy(&temp, path).map(drop)?,
            _ => {
                std::fs::rename(&temp, path)?;
                return Ok(());
            }
        }
        std::fs::remove_file(&temp).map_err(Into::into)
    };
    let written: Result = write.await;
    if written.is_err() {
        std::fs::remove_file(&temp).ok();
    }
    written
}

/// `commit`.
pub(super) async fn commit(cli: &Cli, flags: &Flags) -> Result {
    let (container, reference) = (flags.arg(0), flags.arg(1));
    let (mut repo, mut tag) = (String::new(), String::new());
    if !reference.is_empty() {
        let parsed = reference.parse::<corten_base::Reference>().map_err(|e| fail(e.to_string(), 1))?;
        if parsed.digest().is_some() {
            return Err(fail("refusing to create a tag with a digest reference", 1));
        }
        repo = parsed.name();
        tag = parsed.or_latest().tag().unwrap_or_default().to_owned();
    }
    let pause = flags.on("pause") && !flags.on("no-pause");
    let mut query = Query::new()
        .with("container", container)
        .with_text("repo", &repo)
        .with_text("tag", &tag)
        .with_text("comment", flags.text("message"))
        .with_text("author", flags.text("author"));
    if !pause {
        query = query.with("pause", "0");
    }
    for change in flags.list("change") {
        query = query.with("changes", change);
    }
    let answer = cli.client()?.commit(query, &json!({})).await?;
    cli.line(answer["Id"].as_str().unwrap_or_default())
}

/// A time in the API's RFC 3339, as "2 hours ago".
pub(crate) fn ago(text: &str) -> String {
    match corten_base::time::parse_rfc3339(text) {
        Some(ns) => human::ago(i64::try_from(ns / 1_000_000_000).unwrap_or(0)),
        None => String::new(),
    }
}
