//! Man pages, written from the tables of commands: `docker man DIRECTORY`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::commands::{self, GROUPS};
use crate::error::{Result, fail};
use crate::flags::{Flag, FlagSet, default_note, type_name};
use crate::tree::{self, Command};

/// Writes one page for the program, one for each group and one for each command.
pub(crate) fn run(args: &[OsString]) -> Result {
    let usage = "Usage:  docker man DIRECTORY\n\nWrite the man pages of all commands into a directory";
    let [directory] = args else { return Err(fail(usage, i32::from(!args.is_empty()))) };
    if matches!(directory.to_str(), Some("--help" | "-h")) {
        return tree::out(&format!("{usage}\n"));
    }
    let directory = Path::new(directory);
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    for (name, text) in pages() {
        let file = directory.join(format!("{name}.1"));
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Names and texts of all pages.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec![("docker".to_owned(), top())];
    for (group, about) in GROUPS {
        pages.push((format!("docker-{group}"), group_page(group, about)));
    }
    for command in commands::all() {
        for path in paths(command) {
            pages.push((path.replace(' ', "-"), command_page(command, &path)));
        }
    }
    pages
}

/// `docker container ls`, `docker container list`, `docker ps`.
fn paths(command: &Command) -> Vec<String> {
    let grouped = command.names.iter().filter(|_| !command.group.is_empty());
    let grouped = grouped.map(|name| format!("docker {} {name}", command.group));
    grouped.chain(command.top.iter().map(|name| format!("docker {name}"))).collect()
}

fn head(path: &str, about: &str, synopsis: &str) -> String {
    let name = path.replace(' ', "-");
    format!(
        ".TH {} 1 \"\" \"Corten\" \"Docker commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.B {}\n{}\n",
        quoted(&name.to_uppercase()),
        text(&name),
        text(about),
        text(path),
        text(synopsis)
    )
}

fn command_page(command: &Command, path: &str) -> String {
    let mut page = head(path, command.about, command.usage);
    let _ = write!(page, ".SH DESCRIPTION\n{}.\n", text(command.about));
    page.push_str(&options(command.flags));
    let others: Vec<String> = paths(command).into_iter().filter(|p| p != path).collect();
    if !others.is_empty() {
        let _ = write!(page, ".SH ALIASES\n{}\n", text(&others.join(", ")));
    }
    page.push_str(".SH SEE ALSO\n.BR docker (1)\n");
    page
}

fn group_page(group: &str, about: &str) -> String {
    let mut page = head(&format!("docker {group}"), about, "COMMAND");
    let of_group = commands::all().filter(|c| c.group == group);
    page.push_str(&list("COMMANDS", of_group.map(|c| (format!("docker-{group}-{}", c.names[0]), c.about))));
    page.push_str(".SH SEE ALSO\n.BR docker (1)\n");
    page
}

fn top() -> String {
    let mut page = head("docker", "build, ship and run containers", "[OPTIONS] COMMAND [ARG...]");
    let groups = GROUPS.iter().map(|(name, about)| (format!("docker-{name}"), *about));
    page.push_str(&list("MANAGEMENT COMMANDS", groups));
    let tops = commands::all().flat_map(|c| c.top.iter().map(|name| (format!("docker-{name}"), c.about)));
    page.push_str(&list("COMMANDS", tops));
    page.push_str(&options(tree::GLOBAL));
    page
}

fn list<'a>(title: &str, entries: impl Iterator<Item = (String, &'a str)>) -> String {
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries.dedup();
    let lines = entries.iter().map(|(page, about)| format!(".TP\n.BR {} (1)\n{}\n", text(page), text(about)));
    format!(".SH {title}\n{}", lines.collect::<String>())
}

fn options(set: FlagSet) -> String {
    let mut flags: Vec<&Flag> = set.iter().flat_map(|part| part.iter()).filter(|f| !f.hidden).collect();
    if flags.is_empty() {
        return String::new();
    }
    flags.sort_by_key(|f| f.long);
    let mut out = ".SH OPTIONS\n".to_owned();
    for flag in flags {
        let short = flag.short.map(|c| format!("\\-{c}, ")).unwrap_or_default();
        let value = match type_name(flag.kind) {
            "" => String::new(),
            name => format!(" \\fI{}\\fR", text(name)),
        };
        let _ = write!(
            out,
            ".TP\n\\fB{short}\\-\\-{}\\fR{value}\n{}\n",
            text(flag.long),
            text(&format!("{}{}", flag.help, default_note(flag)))
        );
    }
    out
}

/// Text that troff takes for text.
fn text(plain: &str) -> String {
    let escaped = plain.replace('\\', "\\e").replace('-', "\\-");
    // A dot or a quote at the beginning of a line is a command.
    escaped
        .lines()
        .map(|l| if l.starts_with(['.', '\'']) { format!("\\&{l}") } else { l.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

fn quoted(plain: &str) -> String {
    format!("\"{}\"", text(plain).replace('"', "\\(dq"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_under_each_of_its_names() {
        let pages = pages();
        let page =
            |name: &str| &pages.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1;
        for name in [
            "docker",
            "docker-run",
            "docker-container-run",
            "docker-image",
            "docker-ps",
            "docker-container-ls",
        ] {
            assert!(page(name).starts_with(".TH \"DOCKER"), "{name}");
        }
        let run = page("docker-run");
        assert!(
            run.contains(".SH NAME\ndocker\\-run \\- Create a container from an image and run it\n"),
            "{run}"
        );
        assert!(run.contains("\\fB\\-d, \\-\\-detach\\fR\n"), "{run}");
        assert!(run.contains(".SH ALIASES\ndocker container run\n"), "{run}");
        let mut names: Vec<_> = pages.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), pages.len(), "two pages with one name");
    }

    #[test]
    fn nothing_is_taken_for_a_command() {
        assert_eq!(text(".dot\n'quote --flag \\"), "\\&.dot\n\\&'quote \\-\\-flag \\e");
        for (name, page) in pages() {
            for line in page.lines().filter(|l| l.starts_with('.')) {
                let known = [".TH ", ".SH ", ".TP", ".B ", ".BR "].iter().any(|k| line.starts_with(k));
                assert!(known, "{name}: {line}");
            }
        }
    }
}
