//! `run`, `create`, `start -a`, `attach`: a container's life seen from a terminal.
//!
//! ```text
//!  create ──404──▶ pull ──▶ create
//!    │
//!    ├─ attach (hijacked connection) ┐ both answered
//!    ├─ wait   (own connection)      ┘ before start
//!    ▼
//!  start ──▶ copy streams ──▶ status from wait ──▶ exit code
//! ```

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use corten_base::error::errno_text;
use corten_base::{Kind, Reference};
use corten_client::{AttachOptions, Client, Error, JsonLines, Query};
use serde_json::Value;

use super::options::{self, Create};
use crate::cli::Cli;
use crate::error::{Failure, Result, exit, fail};
use crate::flags::Flags;
use crate::progress::{self, Target};
use crate::streams::{self, End, Session};
use crate::{registry, term};

/// Puts docker's frame around the error of `run` and `create`.
fn framed(cli: &Cli, error: anyhow::Error, code: i32) -> anyhow::Error {
    let (text, code) = match error.downcast_ref::<Failure>() {
        Some(f) if f.text.is_empty() => return error,
        Some(f) => (f.text.clone(), if f.code == 1 { code } else { f.code }),
        None => match error.downcast_ref::<Error>() {
            Some(api) => (api.to_string(), code),
            None => (format!("{error:#}"), code),
        },
    };
    // COMPAT: by the short name, also under `docker container`.
    let name = cli.path.rsplit(' ').next().unwrap_or_default();
    fail(format!("docker: {text}\n\nRun 'docker {name} --help' for more information"), code)
}

/// `create`.
pub(super) async fn create(cli: &Cli, flags: &Flags) -> Result {
    let made = async {
        let request = options::create(cli, flags, false)?;
        create_container(cli, flags, &request).await
    };
    let id = made.await.map_err(|e| match e.downcast_ref::<Error>() {
        // COMPAT: what the daemon says stands alone here, what we find wrong ourselves does not.
        Some(_) => e,
        None => framed(cli, e, 1),
    })?;
    cli.line(&id)
}

/// `run`.
pub(super) async fn run(cli: &Cli, flags: &Flags) -> Result {
    let detach = flags.on("detach");
    if detach && !flags.list("attach").is_empty() {
        return Err(fail("conflicting options: cannot specify both --attach and --detach", 1));
    }
    let prepared = async {
        let request = options::create(cli, flags, detach)?;
        if request.tty && request.attach_stdin && !detach && !term::stdin_is_tty() {
            return Err(fail("the input device is not a TTY", 1));
        }
        let id = create_container(cli, flags, &request).await?;
        Ok((request, id))
    };
    let (request, id) = match prepared.await {
        Ok(made) => made,
        Err(e) if e.to_string() == "the input device is not a TTY" => return Err(e),
        Err(e) => return Err(framed(cli, e, 125)),
    };
    let client = cli.client()?;
    if detach {
        client.container_start(&id, Query::new()).await.map_err(|e| start_error(cli, &e))?;
        return cli.line(&id);
    }
    foreground(cli, client, flags, &request, &id).await
}

/// Attaches, waits, starts, and ends with the container's exit code.
async fn foreground(cli: &Cli, client: &Client, flags: &Flags, request: &Create, id: &str) -> Result {
    let keys = detach_keys(cli, flags);
    let attached = request.attach_stdin || request.attach_stdout || request.attach_stderr;
    let proxied = (flags.on("sig-proxy") && !request.tty).then(streams::signals);
    let options = AttachOptions {
        stdin: request.attach_stdin && request.open_stdin,
        stdout: request.attach_stdout,
        stderr: request.attach_stderr,
        logs: false,
        detach_keys: keys.clone(),
    };
    let condition = if request.auto_remove { "removed" } else { "next-exit" };
    let api = |e: Error| framed(cli, e.into(), 125);
    let (stream, wait) = match attached {
        true => {
            let (stream, wait) =
                tokio::try_join!(client.container_attach(id, &options), client.container_wait(id, condition))
                    .map_err(api)?;
            (Some(stream), wait)
        }
        false => (None, client.container_wait(id, condition).await.map_err(api)?),
    };
    if let Err(e) = client.container_start(id, Query::new()).await {
        return Err(start_error(cli, &e));
    }
    let _forwarder = proxied.map(|signals| forward(cli, id, signals));
    let _resizer = (request.tty && term::stdout_is_tty()).then(|| resize(cli, id, false));
    let Some(stream) = stream else {
        cli.line(id)?;
        return finish(wait).await;
    };
    let session = Session {
        tty: request.tty,
        stdin: options.stdin,
        detach_keys: &keys,
        stdout: request.attach_stdout,
        stderr: request.attach_stderr,
    };
    match streams::run(cli, stream, &session).await? {
        End::Detached => {
            // The line of the terminal ends here; the container goes on.
            cli.warn("read escape sequence");
            Ok(())
        }
        End::Closed => finish(wait).await,
    }
}

fn detach_keys(cli: &Cli, flags: &Flags) -> String {
    match flags.text("detach-keys") {
        "" => cli.config().borrow().text("detachKeys").to_owned(),
        given => given.to_owned(),
    }
}

/// 127 where the program was not found, 126 where it cannot be run, else 125.
fn start_error(cli: &Cli, error: &Error) -> anyhow::Error {
    let text = error.to_string();
    let has = |needle: &str| text.contains(needle);
    let code = match () {
        () if has("executable file not found")
            || has("no such file or directory")
            || has("system cannot find") =>
        {
            127
        }
        () if has("permission denied") || has("is a directory") => 126,
        () => 125,
    };
    framed(cli, anyhow!("{text}"), code)
}

/// Ends with the status that `wait` reports.
async fn finish(mut wait: JsonLines) -> Result {
    let status = wait.next().await;
    match status {
        Ok(Some(value)) => {
            if let Some(message) = value["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
                return Err(fail(format!("Error waiting for container: {message}"), 125));
            }
            match i32::try_from(value["StatusCode"].as_i64().unwrap_or(125)).unwrap_or(125) {
                0 => Ok(()),
                code => Err(exit(code)),
            }
        }
        Ok(None) => Err(fail("error waiting for container: unexpected EOF", 125)),
        Err(e) => Err(fail(format!("error waiting for container: {}", e.message()), 125)),
    }
}

/// Aborts its task when it goes out of scope.
#[derive(Debug)]
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A client of its own for a background task: the command's connection may be in use.
fn side_client(cli: &Cli) -> Option<Client> {
    let client = cli.client().ok()?;
    Client::new(client.endpoint().clone(), Some(client.api_version()), &[]).ok()
}

/// Passes signals on to the container.
fn forward(cli: &Cli, id: &str, mut signals: tokio::sync::mpsc::Receiver<&'static str>) -> Task {
    let (client, id) = (side_client(cli), id.to_owned());
    Task(tokio::spawn(async move {
        let Some(client) = client else { return };
        while let Some(name) = signals.recv().await {
            client.container_action(&id, "kill", Query::new().with("signal", name)).await.ok();
        }
    }))
}

/// Tells the container's terminal the size of ours, now and whenever it changes. The first time is tried again
/// for a while: the terminal may not be there yet.
fn resize(cli: &Cli, id: &str, exec: bool) -> Task {
    let (client, id) = (side_client(cli), id.to_owned());
    Task(tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Some(client), Ok(mut changes)) = (client, signal(SignalKind::window_change())) else { return };
        let send = async || {
            let Some((rows, columns)) = term::size() else { return true };
            let query = Query::new().with("h", rows.to_string()).with("w", columns.to_string());
            let sent = if exec {
                client.exec_resize(&id, query).await
            } else {
                client.container_action(&id, "resize", query).await
            };
            sent.is_ok()
        };
        for attempt in 1..=10u64 {
            if send().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(attempt * 10)).await;
        }
        while changes.recv().await.is_some() {
            send().await;
        }
    }))
}

/// The same for an exec.
pub(super) fn resize_exec(cli: &Cli, id: &str) -> impl Sized + use<> {
    resize(cli, id, true)
}

/// Creates the container, pulling its image as `--pull` says; returns its id.
async fn create_container(cli: &Cli, flags: &Flags, request: &Create) -> Result<String> {
    let policy = flags.text("pull");
    if !["always", "missing", "never"].contains(&policy) {
        return Err(fail(
            format!("invalid pull option: '{policy}': must be one of \"always\", \"missing\" or \"never\""),
            125,
        ));
    }
    let cidfile = flags.text("cidfile");
    if !cidfile.is_empty() && Path::new(cidfile).exists() {
        return Err(fail(
            format!(
                "container ID file found, make sure the other container isn't running or delete {cidfile}"
            ),
            125,
        ));
    }
    let platform = cli.platform(flags);
    let reference = match request.image.parse::<Reference>() {
        Ok(reference) => Some(reference.or_latest()),
        // An id is no reference but a good image.
        Err(corten_base::reference::InvalidReference::LooksLikeId(_)) => None,
        Err(e) => return Err(fail(e.to_string(), 125)),
    };
    let client = cli.client()?;
    let target = if flags.on("quiet") { Target::Nowhere } else { Target::Stderr };
    if let (Some(reference), "always") = (&reference, policy) {
        pull(cli, reference, &platform, target).await?;
    }
    // The file is made before the container: where it cannot be, nothing is left behind.
    let mut file = match cidfile {
        "" => None,
        path => Some(std::fs::File::create_new(path).map_err(|e| {
            fail(format!("failed to create the container ID file: open {path}: {}", errno_text(&e)), 125)
        })?),
    };
    let created = match client.container_create(flags.text("name"), &platform, &request.body).await {
        Err(e) if policy == "missing" && image_is_missing(&e) => {
            let Some(reference) = &reference else { return Err(drop_cidfile(cidfile, e.into())) };
            if target != Target::Nowhere {
                cli.warn(&format!("Unable to find image '{}' locally", reference.familiar()));
            }
            match pull(cli, reference, &platform, target).await {
                Ok(()) => client.container_create(flags.text("name"), &platform, &request.body).await,
                Err(e) => return Err(drop_cidfile(cidfile, e)),
            }
        }
        other => other,
    };
    let created = created.map_err(|e| drop_cidfile(cidfile, e.into()))?;
    for warning in created["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        cli.warn(&format!("WARNING: {warning}"));
    }
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(file) = &mut file {
        file.write_all(id.as_bytes())?;
    }
    if request.give_credentials {
        super::api_socket::give_credentials(cli, &id).await?;
    }
    Ok(id)
}

/// Whether a create failed because the image, or its variant for the platform, is not there.
fn image_is_missing(error: &Error) -> bool {
    let text = error.message().to_lowercase();
    error.kind() == Kind::NotFound
        && (text.contains("no such image") || text.contains("does not provide the specified platform"))
}

/// Removes the empty file of a container that was not made.
fn drop_cidfile(path: &str, error: anyhow::Error) -> anyhow::Error {
    if !path.is_empty() {
        std::fs::remove_file(path).ok();
    }
    error
}

/// Pulls an image and shows the progress.
pub(crate) async fn pull(cli: &Cli, reference: &Reference, platform: &str, target: Target) -> Result {
    let tag = match reference.digest() {
        Some(digest) => digest.as_str().to_owned(),
        None => reference.tag().unwrap_or_default().to_owned(),
    };
    let query = Query::new()
        .with("fromImage", reference.name())
        .with_text("tag", &tag)
        .with_text("platform", platform);
    let stream = cli.client()?.image_pull(query, &registry::auth_header(cli, reference)).await?;
    progress::show(stream, target, &mut |_| {}).await
}

/// `attach`.
pub(super) async fn attach(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let name = flags.arg(0);
    let container = client.container_inspect(&name).await?;
    let state = &container["State"];
    let on = |value: &Value| value.as_bool().unwrap_or(false);
    if !on(&state["Running"]) {
        return Err(fail("You cannot attach to a stopped container, start it first", 1));
    }
    if on(&state["Paused"]) {
        return Err(fail("You cannot attach to a paused container, unpause it first", 1));
    }
    if on(&state["Restarting"]) {
        return Err(fail("You cannot attach to a restarting container, wait until it is running", 1));
    }
    let tty = on(&container["Config"]["Tty"]);
    let stdin = !flags.on("no-stdin") && on(&container["Config"]["OpenStdin"]);
    if tty && stdin && !term::stdin_is_tty() {
        return Err(fail("the input device is not a TTY", 1));
    }
    let id = container["Id"].as_str().unwrap_or(&name).to_owned();
    let keys = detach_keys(cli, flags);
    let options = AttachOptions { stdin, stdout: true, stderr: true, logs: false, detach_keys: keys.clone() };
    let (wait, stream) =
        tokio::try_join!(client.container_wait(&id, ""), client.container_attach(&id, &options))?;
    let _forwarder = (flags.on("sig-proxy") && !tty).then(|| forward(cli, &id, streams::signals()));
    if tty && let Some((rows, columns)) = term::size() {
        // A prompt is drawn again only when the size changes: change it, the resizer then sets the real one.
        let query = Query::new().with("h", (rows + 1).to_string()).with("w", (columns + 1).to_string());
        client.container_action(&id, "resize", query).await.ok();
    }
    let _resizer = (tty && term::stdout_is_tty()).then(|| resize(cli, &id, false));
    let session = Session { tty, stdin, detach_keys: &keys, stdout: true, stderr: true };
    match streams::run(cli, stream, &session).await? {
        // COMPAT: leaving an attach is an error of docker's, leaving a run is none.
        End::Detached => Err(fail("read escape sequence", 1)),
        End::Closed => finish(wait).await,
    }
}

/// `start`.
pub(super) async fn start(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let (attach, interactive) = (flags.on("attach"), flags.on("interactive"));
    let from = Query::new()
        .with_text("checkpoint", flags.text("checkpoint"))
        .with_text("checkpoint-dir", flags.text("checkpoint-dir"));
    if !attach && !interactive && !flags.text("checkpoint").is_empty() {
        if flags.args().len() > 1 {
            return Err(fail("you cannot restore multiple containers at once", 1));
        }
        return Ok(client.container_start(&flags.arg(0), from).await?);
    }
    if !attach && !interactive {
        let (mut errors, mut failed) = (Vec::new(), Vec::new());
        for name in flags.args() {
            match client.container_start(&name, Query::new()).await {
                Ok(()) => cli.line(&name)?,
                Err(e) => {
                    errors.push(e.to_string());
                    failed.push(name);
                }
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        return Err(fail(
            format!("{}\nError: failed to start containers: {}", errors.join("\n"), failed.join(", ")),
            1,
        ));
    }
    if flags.args().len() > 1 {
        return Err(fail("you cannot start and attach multiple containers at once", 1));
    }
    let name = flags.arg(0);
    let container = client.container_inspect(&name).await?;
    let on = |value: &Value| value.as_bool().unwrap_or(false);
    let (tty, auto_remove) = (on(&container["Config"]["Tty"]), on(&container["HostConfig"]["AutoRemove"]));
    let stdin = interactive && on(&container["Config"]["OpenStdin"]);
    if tty && stdin && !term::stdin_is_tty() {
        return Err(fail("the input device is not a TTY", 1));
    }
    let id = container["Id"].as_str().unwrap_or(&name).to_owned();
    let keys = detach_keys(cli, flags);
    let options = AttachOptions { stdin, stdout: true, stderr: true, logs: false, detach_keys: keys.clone() };
    let condition = if auto_remove { "removed" } else { "next-exit" };
    let (stream, wait) =
        tokio::try_join!(client.container_attach(&id, &options), client.container_wait(&id, condition))?;
    client.container_start(&id, from).await?;
    let _forwarder = (flags.on("sig-proxy") && !tty).then(|| forward(cli, &id, streams::signals()));
    let _resizer = (tty && term::stdout_is_tty()).then(|| resize(cli, &id, false));
    let session = Session { tty, stdin, detach_keys: &keys, stdout: true, stderr: true };
    match streams::run(cli, stream, &session).await? {
        End::Detached => {
            cli.warn("read escape sequence");
            Ok(())
        }
        End::Closed => finish(wait).await,
    }
}
