//! `image ls --tree`: every image with its names, and below it the platforms it is for.

use corten_base::units;
use serde_json::Value;

use crate::cli::Cli;
use crate::commands::container;
use crate::error::{Result, fail};
use crate::flags::Flags;
use crate::term;

const WARNING: &str =
    "WARNING: This is an experimental feature. The output may change and shouldn't be depended on.";
const HEADINGS: [&str; 5] = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];
/// Where there is no terminal.
const WIDTH: usize = 80;

/// Refuses what the tree has no place for.
pub(super) fn check(flags: &Flags) -> Result {
    for (flag, name) in
        [("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest"), ("format", "format")]
    {
        let given = if flag == "format" { !flags.text(flag).is_empty() } else { flags.on(flag) };
        if given {
            return Err(fail(format!("--{name} is not yet supported with --tree"), 1));
        }
    }
    Ok(())
}

struct Line {
    /// Names of an image, or the platform of a part of it.
    names: Vec<String>,
    id: String,
    disk: String,
    content: String,
    in_use: bool,
}

struct Tree {
    top: Line,
    parts: Vec<Line>,
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn size(bytes: i64) -> String {
    units::human_size3(bytes as f64)
}

fn tree(image: &Value) -> Tree {
    let id = |v: &Value| container::short(v.as_str().unwrap_or_default()).to_owned();
    let number = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let manifests = image["Manifests"].as_array().into_iter().flatten();
    let manifests: Vec<&Value> = manifests.filter(|m| m["Kind"] == "image").collect();
    let parts: Vec<Line> = manifests
        .iter()
        .map(|m| {
            let platform = &m["ImageData"]["Platform"];
            let words =
                ["os", "architecture", "variant"].map(|key| platform[key].as_str().unwrap_or_default());
            let used = m["ImageData"]["Containers"].as_array().is_some_and(|c| !c.is_empty());
            Line {
                names: vec![words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join("/")],
                id: id(&m["ID"]),
                disk: size(number(m, "/Size/Total")),
                content: size(number(m, "/Size/Content")),
                in_use: used,
            }
        })
        .collect();
    let names =
        image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let mut names: Vec<String> = names.filter(|n| n != "<none>:<none>").collect();
    if names.is_empty() {
        names.push("<untagged>".into());
    }
    let top = Line {
        names,
        id: id(&image["Id"]),
        disk: size(number(image, "/Size")),
        content: size(manifests.iter().map(|m| number(m, "/Size/Content")).sum()),
        in_use: number(image, "/Containers") > 0 || parts.iter().any(|p| p.in_use),
    };
    Tree { top, parts }
}

/// Bold, coloured or plain words.
struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn columns(line: &Line, name: &str, width: usize) -> String {
    let used = if line.in_use { "U" } else { "" };
    // Padded by hand: the name may carry colours.
    let plain = format!("   {:<12}   {:>10}   {:>12}   {used:^5}", line.id, line.disk, line.content);
    format!("{name}{}{plain}\n", " ".repeat(width))
}

/// The listing for a terminal so wide, with colours or without.
fn render(images: &[Value], width: usize, colours: bool) -> String {
    let paint = Paint(colours);
    let trees: Vec<Tree> = images.iter().map(tree).collect();
    let names = trees.iter().flat_map(|t| {
        t.top
            .names
            .iter()
            .map(|n| n.chars().count())
            .chain(t.parts.iter().map(|p| 3 + p.names[0].chars().count()))
    });
    let first = names.chain([HEADINGS[0].len()]).max().unwrap_or_default();
    let mut out = format!("{}\n", paint.with("93", WARNING));
    let legend = "Info ->  U In Use ";
    out.push_str(&format!("{legend:>width$}\n\n"));
    let [image, id, disk, content, extra] = HEADINGS;
    let heading = format!("{image:<first$}   {id:<12}   {disk:>10}   {content:>12}   {extra:<5}");
    out.push_str(&format!("{}\n", paint.with("1", &heading)));
    for tree in &trees {
        let (last, others) = tree.top.names.split_last().map_or((None, &[][..]), |(l, o)| (Some(l), o));
        for name in others {
            out.push_str(&format!("{}\n", paint.with("34;1", name)));
        }
        let last = last.map_or("", String::as_str);
        out.push_str(&columns(&tree.top, &paint.with("34;1", last), first - last.chars().count()));
        for (i, part) in tree.parts.iter().enumerate() {
            let branch = if i + 1 == tree.parts.len() { "└─ " } else { "├─ " };
            let name = format!("{branch}{}", part.names[0]);
            out.push_str(&columns(part, &name, first - name.chars().count()));
        }
        out.push('\n');
    }
    out
}

/// Prints it.
pub(super) fn show(cli: &Cli, images: &[Value]) -> Result {
    let terminal = term::stdout_is_tty();
    let width = if terminal { term::width() } else { WIDTH };
    cli.print(&render(images, width, terminal && cli.env.colours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_stand_above_platforms() {
        let part = |id: &str, architecture: &str, used: &[&str]| {
            json!({"ID": format!("sha256:{id}"), "Kind": "image", "Size": {"Total": 3_279_432, "Content": 1_297_047},
                "ImageData": {"Platform": {"os": "linux", "architecture": architecture}, "Containers": used}})
        };
        let images = [
            json!({"Id": format!("sha256:{}", "a".repeat(64)), "RepoTags": ["busybox:latest", "bb:1"], "Size": 3_279_432,
                "Containers": -1, "Manifests": [part(&"b".repeat(64), "amd64", &["c"]), part(&"d".repeat(64), "arm64", &[]),
                {"Kind": "attestation"}]}),
            json!({"Id": format!("sha256:{}", "e".repeat(64)), "RepoTags": [], "Size": 1000, "Manifests": []}),
        ];
        let got = render(&images, 80, false);
        let want = [
            "IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA",
            "busybox:latest",
            "bb:1             aaaaaaaaaaaa       3.28MB         2.59MB     U  ",
            "├─ linux/amd64   bbbbbbbbbbbb       3.28MB          1.3MB     U  ",
            "└─ linux/arm64   dddddddddddd       3.28MB          1.3MB        ",
            "",
            "<untagged>       eeeeeeeeeeee          1kB             0B        ",
            "",
            "",
        ]
        .join("\n");
        assert_eq!(got.split_once("\n\n").unwrap().1, want, "{got}");
        assert!(got.lines().nth(1).unwrap().ends_with("Info ->  U In Use ") && !got.contains('\x1b'));
        assert!(render(&images, 80, true).contains("\x1b[34;1mbb:1\x1b[0m"));
    }
}
