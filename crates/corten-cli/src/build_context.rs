//! The context of a build: a directory filtered by `.dockerignore`, a tar archive or a Dockerfile from standard
//! input, packed as the daemon's `POST /build` takes it.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corten_base::error::errno_text;
use corten_client::Body;

use crate::archive::{self, Owner, Pipe, Writer};
use crate::error::{Result, fail};
use crate::opts;

/// A Dockerfile or ignore file is at most this long.
const MAX_FILE: u64 = 16 << 20;

/// What is sent, and the name of the Dockerfile in it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) body: Body,
    pub(crate) dockerfile: String,
    pub(crate) sent: Arc<AtomicU64>,
}

/// A Dockerfile that is not part of the context gets a name that no file in it has.
fn outside_name() -> String {
    format!(".dockerfile.{}", &corten_base::Id::random().as_str()[..20])
}

struct Count<'a> {
    pipe: &'a mut Pipe,
    sent: Arc<AtomicU64>,
}

impl Write for Count<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.pipe.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

fn read_limited(mut input: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    input.by_ref().take(MAX_FILE + 1).read_to_end(&mut out)?;
    if out.len() as u64 > MAX_FILE {
        return Err(fail(format!("{what} is too large"), 1));
    }
    Ok(out)
}

/// Context from standard input: an archive passes through, anything else is a Dockerfile.
pub(crate) fn from_stdin(dockerfile: &str) -> Result<Packed> {
    if dockerfile == "-" {
        return Err(fail("invalid argument: can't use stdin for both build context and dockerfile", 1));
    }
    let mut head = vec![0u8; 512];
    let mut filled = 0;
    let mut stdin = io::stdin().lock();
    while filled < head.len() {
        match stdin.read(&mut head[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    head.truncate(filled);
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    if is_archive(&head) {
        drop(stdin);
        let body = archive::body("application/x-tar", move |pipe| {
            let mut out = Count { pipe, sent: count };
            out.write_all(&head)?;
            io::copy(&mut io::stdin().lock(), &mut out).map(drop)
        });
        let dockerfile = if dockerfile.is_empty() { "Dockerfile".into() } else { dockerfile.to_owned() };
        return Ok(Packed { body, dockerfile, sent });
    }
    if head.is_empty() {
        return Err(fail("the Dockerfile cannot be empty", 1));
    }
    let mut text = head;
    text.extend(read_limited(stdin, "Dockerfile")?);
    let body = archive::body("application/x-tar", move |pipe| {
        let mut writer = Writer::new(Count { pipe, sent: count });
        writer.bytes("Dockerfile", 0o600, &text)?;
        writer.finish().map(drop)
    });
    Ok(Packed { body, dockerfile: "Dockerfile".into(), sent })
}

fn is_archive(head: &[u8]) -> bool {
    let magic: [&[u8]; 5] =
        [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd], b"LZIP"];
    if magic.iter().any(|m| head.starts_with(m)) {
        return true;
    }
    head.len() == 512 && archive::Reader::new(head).next().is_ok_and(|h| h.is_some())
}

/// Context from a directory. `dockerfile` is `-f`: inside the context, outside of it, or `-`. `compress`: as gzip,
/// which the daemon finds out by itself.
pub(crate) fn from_directory(dir: &str, dockerfile: &str, compress: bool) -> Result<Packed> {
    let root = std::fs::canonicalize(dir)
        .map_err(|_| fail(format!("unable to prepare context: path {dir:?} not found"), 1))?;
    if !root.is_dir() {
        return Err(fail(
            format!("unable to prepare context: context must be a directory: {}", root.display()),
            1,
        ));
    }
    let (name, outside) = locate(&root, dockerfile)?;
    let ignore = match std::fs::File::open(root.join(".dockerignore")) {
        Ok(file) => Ignore::parse(&String::from_utf8_lossy(&read_limited(file, ".dockerignore")?)),
        Err(_) => Ignore::default(),
    };
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let keep = [name.clone(), ".dockerignore".to_owned()];
    check_readable(&root, &ignore, &keep)?;
    let inner = name.clone();
    let body = archive::body("application/x-tar", move |pipe| {
        let out = Count { pipe, sent: count };
        let fill = |out: &mut dyn Write| {
            let mut writer = Writer::new(out);
            walk(&root, Path::new(""), &ignore, &keep, &mut |path, relative, meta| {
                writer.path(path, relative.as_os_str().as_bytes(), Owner::Root, meta)
            })?;
            if let Some(text) = &outside {
                writer.bytes(&inner, 0o600, text)?;
            }
            writer.finish().map(drop)
        };
        if compress {
            let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            fill(&mut gzip)?;
            gzip.finish().map(drop)
        } else {
            let mut out = out;
            fill(&mut out)
        }
    });
    Ok(Packed { body, dockerfile: name, sent })
}

/// The Dockerfile's name in the context, and its text where it must be added.
fn locate(root: &Path, dockerfile: &str) -> Result<(String, Option<Vec<u8>>)> {
    if dockerfile == "-" {
        return Ok((outside_name(), Some(read_limited(io::stdin().lock(), "Dockerfile")?)));
    }
    let path = match dockerfile {
        "" => {
            let usual = root.join("Dockerfile");
            let lower = root.join("dockerfile");
            if !usual.exists() && lower.exists() { lower } else { usual }
        }
        given => PathBuf::from(opts::absolute(given)),
    };
    let missing = |path: &Path| {
        let shown = path.display();
        fail(
            format!(
                "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {shown}: no such file or directory"
            ),
            1,
        )
    };
    let real = std::fs::canonicalize(&path).map_err(|_| missing(&path))?;
    match path.strip_prefix(root).or_else(|_| real.strip_prefix(root)) {
        Ok(inside) => Ok((inside.to_string_lossy().into_owned(), None)),
        Err(_) => {
            let file = std::fs::File::open(&real)
                .map_err(|e| fail(format!("unable to open Dockerfile: {}", errno_text(&e)), 1))?;
            Ok((outside_name(), Some(read_limited(file, "Dockerfile")?)))
        }
    }
}

/// Refuses a context with files that cannot be read before anything is sent.
fn check_readable(root: &Path, ignore: &Ignore, keep: &[String]) -> Result {
    let checked = walk(root, Path::new(""), ignore, keep, &mut |path, _, meta| {
        if meta.is_file() {
            rustix::fs::access(path, rustix::fs::Access::READ_OK)
                .map_err(|_| io::Error::other(path.display().to_string()))?;
        }
        Ok(())
    });
    checked.map_err(|e| fail(format!("error checking context: no permission to read from '{e}'"), 1))
}

type Visit<'a> = &'a mut dyn FnMut(&Path, &Path, &std::fs::Metadata) -> io::Result<()>;

/// Visits what is not ignored, in order of names.
fn walk(root: &Path, relative: &Path, ignore: &Ignore, keep: &[String], visit: Visit<'_>) -> io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(root.join(relative))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = relative.join(entry.file_name());
        let text = path.to_string_lossy();
        let kept = keep.iter().any(|k| *k == text || k.starts_with(&format!("{text}/")));
        let ignored = !kept && ignore.matches(&text);
        let full = entry.path();
        let meta = std::fs::symlink_metadata(&full)?;
        if !ignored {
            visit(&full, &path, &meta)?;
        }
        if meta.is_dir() && (!ignored || ignore.may_keep_below(&text)) {
            walk(root, &path, ignore, keep, visit)?;
        }
    }
    Ok(())
}

/// The patterns of a `.dockerignore`.
#[derive(Debug, Default)]
struct Ignore {
    patterns: Vec<(bool, String)>,
}

impl Ignore {
    fn parse(text: &str) -> Self {
        let mut patterns = Vec::new();
        for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keep, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            // `opts::clean` makes it absolute; patterns are relative to the context.
            let cleaned = opts::clean(Path::new(&format!("/{pattern}")));
            let cleaned = cleaned.trim_start_matches('/');
            if !cleaned.is_empty() {
                patterns.push((keep, cleaned.to_owned()));
            }
        }
        Self { patterns }
    }

    /// Whether a path is left out: the last pattern that matches it or a directory above it decides.
    fn matches(&self, path: &str) -> bool {
        let mut ignored = false;
        for (keep, pattern) in &self.patterns {
            if ignored != *keep {
                continue;
            }
            let above = path.match_indices('/').map(|(i, _)| &path[..i]).chain(std::iter::once(path));
            let mut above = above;
            if above.any(|p| glob(pattern.as_bytes(), p.as_bytes())) {
                ignored = !keep;
            }
        }
        ignored
    }

    /// Whether an ignored directory may hold something that a `!` pattern keeps.
    fn may_keep_below(&self, dir: &str) -> bool {
        self.patterns.iter().filter(|(keep, _)| *keep).any(|(_, p)| {
            let fixed = p.split(['*', '?', '[']).next().unwrap_or_default();
            format!("{p}/").starts_with(&format!("{dir}/"))
                || (fixed.len() < p.len()
                    && (dir.starts_with(fixed.trim_end_matches('/')) || fixed.starts_with(dir)))
        })
    }
}

/// Go's `filepath.Match` with `**` for any number of directories.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) if rest.first() == Some(&b'*') => {
            let rest = &rest[1..];
            let after = rest.strip_prefix(b"/").unwrap_or(rest);
            (0..=text.len()).any(|i| {
                (i == 0 || i == text.len() || text[i - 1] == b'/' || rest.is_empty())
                    && glob(after, &text[i..])
            })
        }
        Some((b'*', rest)) => {
            let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=end).any(|i| glob(rest, &text[i..]))
        }
        Some((b'?', rest)) => text.first().is_some_and(|b| *b != b'/') && glob(rest, &text[1..]),
        Some((b'[', rest)) => {
            let (Some(close), Some(c)) =
                (rest.iter().skip(1).position(|b| *b == b']').map(|i| i + 1), text.first())
            else {
                return false;
            };
            let (negate, set) = match rest[..close].strip_prefix(b"^") {
                Some(set) => (true, set),
                None => (false, &rest[..close]),
            };
            let mut inside = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == b'-' {
                    inside |= (set[i]..=set[i + 2]).contains(c);
                    i += 3;
                } else {
                    inside |= set[i] == *c;
                    i += 1;
                }
            }
            inside != negate && *c != b'/' && glob(&rest[close + 1..], &text[1..])
        }
        Some((b'\\', rest)) if !rest.is_empty() => {
            text.first() == rest.first() && glob(&rest[1..], &text[1..])
        }
        Some((b, rest)) => text.first() == Some(b) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_rules() {
        let rules = "# c\n*.log\n/target\n**/tmp\n!keep.log\ndocs/*\n!docs/a.md\n  sp  \n";
        let ignore = Ignore::parse(rules);
        for (path, want) in [
            ("a.log", true),
            ("x/a.log", false),
            ("keep.log", false),
            ("target", true),
            ("target/x/y", true),
            ("x/y/tmp", true),
            ("tmp/z", true),
            ("docs/a.md", false),
            ("docs/b.md", true),
            ("docs", false),
            ("sp", true),
        ] {
            assert_eq!(ignore.matches(path), want, "{path}");
        }
        assert!(glob(b"**/*.go", b"a/b/c.go") && glob(b"**/*.go", b"c.go") && !glob(b"*.go", b"a/c.go"));
        assert!(glob(b"a/**", b"a/b/c") && glob(b"[a-c]?", b"bz") && !glob(b"[^a]", b"a"));
        assert!(Ignore::parse("*\n!src").may_keep_below("src"));
    }
}
