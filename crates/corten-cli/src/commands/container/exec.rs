//! `exec`.

use serde_json::json;

use super::run::resize_exec;
use crate::cli::Cli;
use crate::error::{Result, exit, fail};
use crate::flags::Flags;
use crate::streams::{self, End, Session};
use crate::{opts, term};

pub(super) async fn exec(cli: &Cli, flags: &Flags) -> Result {
    let args = flags.args();
    let (container, command) = (&args[0], &args[1..]);
    let (tty, detach, stdin) = (flags.on("tty"), flags.on("detach"), flags.on("interactive"));
    let env = opts::environment(&flags.list("env"), &flags.list("env-file")).map_err(|e| fail(e, 1))?;
    if tty && stdin && !detach && !term::stdin_is_tty() {
        return Err(fail("the input device is not a TTY", 1));
    }
    let keys = match flags.text("detach-keys") {
        "" => cli.config().borrow().text("detachKeys").to_owned(),
        given => given.to_owned(),
    };
    let mut body = json!({
        "User": flags.text("user"),
        "Privileged": flags.on("privileged"),
        "Tty": tty,
        "AttachStdin": stdin && !detach,
        "AttachStdout": !detach,
        "AttachStderr": !detach,
        "DetachKeys": keys,
        "Detach": detach,
        "Env": env,
        "WorkingDir": flags.text("workdir"),
        "Cmd": command,
    });
    let size = tty.then(term::size).flatten();
    if let Some((rows, columns)) = size {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    let client = cli.client()?;
    let created = client.exec_create(container, &body).await?;
    let id = created["Id"].as_str().unwrap_or_default();
    if id.is_empty() {
        return Err(fail("exec ID empty", 1));
    }
    let mut start = json!({"Detach": detach, "Tty": tty});
    if let Some((rows, columns)) = size {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    if detach {
        return Ok(client.exec_start(id, &start).await?);
    }
    let stream = client.exec_attach(id, &start).await?;
    let _resizer = (tty && term::stdout_is_tty()).then(|| resize_exec(cli, id));
    let session = Session { tty, stdin, detach_keys: &keys, stdout: true, stderr: true };
    if streams::run(cli, stream, &session).await? == End::Detached {
        return Err(fail("read escape sequence", 1));
    }
    match client.exec_inspect(id).await?["ExitCode"].as_i64().unwrap_or(0) {
        0 => Ok(()),
        code => Err(exit(i32::try_from(code).unwrap_or(1))),
    }
}
