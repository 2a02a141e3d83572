//! The rules of the repository as a test: structure, not taste.
//!
//! - the dependency table of ARCHITECTURE.md equals `cargo metadata`;
//! - every test that docs/security.md names exists;
//! - every source file opens with `//!`;
//! - `unsafe` stands in `corten-sys` only;
//! - no `#[ignore]`, no commented-out code;
//! - every failpoint and every environment variable of ours is documented under `docs/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::{capture, cargo, root};

/// Checks everything and prints each violation.
pub fn run() -> Result<()> {
    let mut problems = dependencies()?;
    let files = sources(&root())?;
    let docs = documentation()?;
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(root()).unwrap_or(file).display().to_string();
        problems.extend(check_source(&name, &text, &docs).into_iter().map(|p| format!("{name}: {p}")));
    }
    problems.extend(missing_tests(&files)?);
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} violations", problems.len());
    }
    println!("tidy: {} source files, no violations", files.len());
    Ok(())
}

fn check_source(name: &str, text: &str, docs: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.trim_start_matches("#!/usr/bin/env").starts_with("//!") {
        problems.push("does not open with //!".to_owned());
    }
    let in_sys = name.starts_with("crates/corten-sys/");
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        let comment = line.strip_prefix("//").filter(|c| !c.starts_with(['/', '!']));
        if let Some(comment) = comment {
            let c = comment.trim();
            let statement = c.ends_with(';') || (c.ends_with('{') && c.contains('('));
            let keyword = ["let ", "fn ", "if ", "return ", "use ", "pub "].iter().any(|k| c.starts_with(k));
            if statement && keyword {
                problems.push(format!("{number}: commented-out code"));
            }
            continue;
        }
        if name == "xtask/src/tidy.rs" {
            continue;
        }
        if !in_sys
            && (line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl"))
        {
            problems.push(format!("{number}: unsafe outside corten-sys"));
        }
        if line.starts_with("#[ignore") {
            problems.push(format!("{number}: ignored test"));
        }
        for found in quoted_after(line, "failpoint!(").chain(quoted_after(line, "fail!(")) {
            if !docs.contains(&found) {
                problems.push(format!("{number}: failpoint {found} is not documented"));
            }
        }
        for found in environment(line) {
            if !docs.contains(&found) {
                problems.push(format!("{number}: environment variable {found} is not documented"));
            }
        }
    }
    problems
}

/// Tests that docs/security.md names (`file.rs::name`) and that do not exist.
fn missing_tests(files: &[PathBuf]) -> Result<Vec<String>> {
    let docs = std::fs::read_to_string(root().join("docs/security.md")).context("read docs/security.md")?;
    let mut missing = Vec::new();
    for name in docs.split('`').filter(|n| n.contains(".rs::")) {
        let Some((file, test)) = name.split_once("::") else { continue };
        let has = |path: &&PathBuf| {
            path.ends_with(file)
                && std::fs::read_to_string(path).is_ok_and(|t| t.contains(&format!("fn {test}(")))
        };
        if !files.iter().any(|f| has(&f)) {
            missing.push(format!("docs/security.md: there is no test {name}"));
        }
    }
    Ok(missing)
}

fn quoted_after<'a>(line: &'a str, call: &'a str) -> impl Iterator<Item = String> + 'a {
    line.match_indices(call).filter_map(move |(at, _)| {
        let rest = &line[at + call.len()..];
        let rest = rest.strip_prefix('"')?;
        rest.split_once('"').map(|(name, _)| name.to_owned())
    })
}

/// Names like `CORTEN_X` in string literals.
fn environment(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("\"CORTEN_") {
        let rest = &line[at + 1..];
        let end = rest
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(rest.len());
        found.push(rest[..end].to_owned());
    }
    found
}

fn documentation() -> Result<String> {
    let mut text = std::fs::read_to_string(root().join("README.md")).unwrap_or_default();
    text.push_str(&std::fs::read_to_string(root().join("ARCHITECTURE.md"))?);
    for entry in std::fs::read_dir(root().join("docs")).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "md") {
            text.push_str(&std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(text)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for top in ["crates", "xtask", "tests", "bench", "fuzz"] {
        walk(&root.join(top), &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                walk(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The table `| layer | `crate` | responsibility | may depend on |` of ARCHITECTURE.md.
fn table(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [_, name, _, allowed] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|n| n.strip_suffix('`')) else { continue };
        let allowed = allowed.split(',').map(str::trim).filter(|a| !a.is_empty() && *a != "–");
        rows.insert(name.to_owned(), allowed.map(|a| format!("corten-{a}")).collect());
    }
    rows
}

fn dependencies() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let table = table(&text);
    let metadata: Value = serde_json::from_str(&capture(cargo().args([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
    ]))?)?;
    let mut problems = Vec::new();
    let packages = metadata["packages"].as_array().context("packages in cargo metadata")?;
    for package in packages {
        let name = package["name"].as_str().context("a package name")?;
        let Some(allowed) = table.get(name) else {
            problems.push(format!("ARCHITECTURE.md: no row for {name}"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let to = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"].as_str() == Some("dev");
            if to.starts_with("corten") && !allowed.contains(to) && !(dev && to == "corten-testkit") {
                problems.push(format!("{name} depends on {to}, which ARCHITECTURE.md does not allow"));
            }
        }
    }
    for name in table.keys() {
        if !packages.iter().any(|p| p["name"].as_str() == Some(name)) {
            problems.push(format!("ARCHITECTURE.md: {name} is no package"));
        }
    }
    Ok(problems)
}
