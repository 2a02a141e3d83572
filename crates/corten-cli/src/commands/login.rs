//! `login`, `logout`, `search`.

use std::io::Read;

use corten_client::Query;
use serde_json::Value;

use crate::cli::Cli;
use crate::commands::FILTER_HELP;
use crate::commands::container::ellipsis;
use crate::config::{Credentials, INDEX_SERVER, host_of};
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Filter, Int, Text};
use crate::flags::{Flags, flag, long};
use crate::format::{Row, Table, text};
use crate::tree::{Arity, Command, PLAIN};
use crate::{opts, registry, term};

const BASE: Command = Command { arity: Arity::AtMost(1), ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        top: &["login"],
        about: "Log in to a registry",
        usage: "[OPTIONS] [SERVER]",
        flags: &[&[
            flag("password", 'p', Text, "Password"),
            long("password-stdin", Bool, "Read the password from standard input"),
            flag("username", 'u', Text, "User name"),
        ]],
        run: |c, f| Box::pin(login(c, f)),
        ..BASE
    },
    Command {
        top: &["logout"],
        about: "Log out from a registry",
        usage: "[SERVER]",
        run: |c, f| Box::pin(logout(c, f)),
        ..BASE
    },
    Command {
        top: &["search"],
        about: "Search a registry for images",
        usage: "[OPTIONS] TERM",
        arity: Arity::Exactly(1),
        flags: &[&[
            flag("filter", 'f', Filter, FILTER_HELP),
            long("format", Text, "Go template"),
            long("limit", Int, "How many results at most"),
            long("no-trunc", Bool, "Do not shorten"),
        ]],
        run: |c, f| Box::pin(search(c, f)),
        ..BASE
    },
];

fn server_of(argument: &str) -> String {
    match argument {
        "" | "docker.io" | "index.docker.io" => INDEX_SERVER.to_owned(),
        given => host_of(given),
    }
}

async fn login(cli: &Cli, flags: &Flags) -> Result {
    let server = server_of(&flags.arg(0));
    let (mut user, mut password) = (flags.text("username").to_owned(), flags.text("password").to_owned());
    if flags.changed("password") {
        if flags.on("password-stdin") {
            return Err(fail("conflicting options: cannot specify both --password and --password-stdin", 1));
        }
        cli.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if flags.on("password-stdin") {
        if user.is_empty() {
            return Err(fail("the --password-stdin option requires --username to be set", 1));
        }
        let mut text = String::new();
        std::io::stdin().lock().take(1 << 20).read_to_string(&mut text)?;
        password = text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r').to_owned();
    }
    let stored = cli.config().borrow().credentials(&server).unwrap_or_default();
    let mut again = false;
    if user.is_empty() && password.is_empty() && !stored.username.is_empty() {
        cli.line("Authenticating with existing credentials...")?;
        again = true;
    }
    if !again && password.is_empty() {
        if !term::stdin_is_tty() {
            return Err(fail("Error: Cannot perform an interactive login from a non TTY device", 1));
        }
        if user.is_empty() {
            cli.print("Username: ")?;
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            user = line.trim().to_owned();
        }
        if user.is_empty() {
            return Err(fail("username is empty", 1));
        }
        password = term::read_secret("Password: ")?;
        if password.is_empty() {
            return Err(fail("password is empty", 1));
        }
    }
    let mut credentials = match again {
        true => stored,
        false => Credentials { username: user, password, server: server.clone(), ..Credentials::default() },
    };
    let answer = cli.client()?.auth(&credentials.to_json()).await?;
    if let Some(token) = answer["IdentityToken"].as_str().filter(|t| !t.is_empty()) {
        credentials.password.clear();
        token.clone_into(&mut credentials.identity_token);
    }
    let mut config = cli.config().borrow_mut();
    if !config.has_helper(&server) {
        cli.warn(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            config.path().display()
        ));
    }
    config.store(&credentials).map_err(|e| fail(format!("Error saving credentials: {e:#}"), 1))?;
    cli.line(answer["Status"].as_str().filter(|s| !s.is_empty()).unwrap_or("Login Succeeded"))
}

async fn logout(cli: &Cli, flags: &Flags) -> Result {
    let server = server_of(&flags.arg(0));
    let shown = if server == INDEX_SERVER { INDEX_SERVER } else { &server };
    cli.line(&format!("Removing login credentials for {shown}"))?;
    let mut config = cli.config().borrow_mut();
    let mut keys = vec![server.clone()];
    if server != INDEX_SERVER {
        keys.extend([format!("http://{server}"), format!("https://{server}")]);
    }
    let mut failed = Vec::new();
    for key in keys {
        if let Err(e) = config.erase(&key) {
            failed.push(format!("{e:#}"));
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(fail(format!("WARNING: could not erase credentials:\n{}", failed.join("\n")), 1))
    }
}

const TABLE: Table<'static> = Table {
    context: "*registry.searchContext",
    raw: &[],
    default: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
    quiet: "{{.Name}}",
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
};

async fn search(cli: &Cli, flags: &Flags) -> Result {
    let filters = opts::filters(&flags.list("filter"));
    let term = flags.arg(0);
    let reference = term.parse::<corten_base::Reference>().ok();
    let auth = reference.map(|r| registry::auth_header(cli, &r)).unwrap_or_default();
    let mut query = Query::new().with("term", term).with_filters(&filters);
    if flags.changed("limit") {
        query = query.with("limit", flags.int("limit").to_string());
    }
    let mut results = cli.client()?.image_search(query, &auth).await?;
    results.sort_by_key(|r| std::cmp::Reverse(r["star_count"].as_i64().unwrap_or(0)));
    let row = |r: &Value| {
        let description = r["description"].as_str().unwrap_or_default().replace(['\n', '\r'], " ");
        let ok = |name: &str| text(if r[name].as_bool().unwrap_or(false) { "[OK]" } else { "" });
        Row::from([
            ("Name", text(r["name"].as_str().unwrap_or_default())),
            (
                "Description",
                text(if flags.on("no-trunc") { description } else { ellipsis(&description, 45) }),
            ),
            ("StarCount", text(r["star_count"].as_i64().unwrap_or(0).to_string())),
            ("IsOfficial", ok("is_official")),
            ("IsAutomated", ok("is_automated")),
        ])
    };
    let rows: Vec<Row> = results.iter().map(row).collect();
    cli.print(&TABLE.render(flags.text("format"), false, &rows)?)
}
