//! `RUN --mount=type=…`.

/// One mount, its values unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// What it is.
    pub kind: MountKind,
    /// `target`, `dst`, `destination`.
    pub target: String,
    /// `source`, `src`.
    pub source: String,
    /// Stage, image, or empty for the context.
    pub from: String,
    /// Cannot be written to.
    pub read_only: bool,
    /// `id`; by default the target (cache) or the target's last part (secret).
    pub id: String,
    /// `required`.
    pub required: bool,
    /// Octal.
    pub mode: Option<u32>,
    /// Owner of a cache, secret or socket.
    pub uid: u32,
    /// Group of the same.
    pub gid: u32,
    /// Of a cache.
    pub sharing: Sharing,
    /// Of a tmpfs, bytes.
    pub size: Option<u64>,
    /// Secret as a variable of this name.
    pub env: String,
}

/// What a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that is kept between builds.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the client.
    Secret,
    /// The client's ssh agent.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All.
    Shared,
    /// Everyone has their own.
    Private,
    /// One after the other.
    Locked,
}

impl MountSpec {
    /// Reads the value of the flag.
    pub(crate) fn parse(value: &str) -> Result<Self, String> {
        let mut mount = Self {
            kind: MountKind::Bind,
            target: String::new(),
            source: String::new(),
            from: String::new(),
            read_only: true,
            id: String::new(),
            required: false,
            mode: None,
            uid: 0,
            gid: 0,
            sharing: Sharing::Shared,
            size: None,
            env: String::new(),
        };
        let fields: Vec<(&str, Option<&str>)> =
            value.split(',').map(|f| f.split_once('=').map_or((f, None), |(k, v)| (k, Some(v)))).collect();
        if let Some((_, kind)) = fields.iter().find(|(k, _)| k.eq_ignore_ascii_case("type")) {
            mount.kind = match kind.unwrap_or_default() {
                "bind" => MountKind::Bind,
                "cache" => MountKind::Cache,
                "tmpfs" => MountKind::Tmpfs,
                "secret" => MountKind::Secret,
                "ssh" => MountKind::Ssh,
                other => return Err(format!("unsupported mount type \"{other}\"")),
            };
        }
        mount.read_only = mount.kind == MountKind::Bind;
        for (key, field) in fields {
            mount.set(&key.to_ascii_lowercase(), field, value)?;
        }
        mount.check()?;
        Ok(mount)
    }

    fn set(&mut self, key: &str, field: Option<&str>, whole: &str) -> Result<(), String> {
        let flag = || match field {
            None => Ok(true),
            Some(v) => parse_bool(v).ok_or_else(|| format!("invalid value for {key}: {v}")),
        };
        let text = || {
            field.map(str::to_owned).ok_or_else(|| format!("invalid field '{key}' must be a key=value pair"))
        };
        let number = || {
            let t = text()?;
            t.parse::<u32>().map_err(|_| format!("invalid value {t} for {key}"))
        };
        let wrong =
            || Err(format!("unexpected key '{key}' for mount type '{}' in '{whole}'", self.kind.name()));
        use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
        match (key, self.kind) {
            ("type", _) => {}
            ("target" | "dst" | "destination", _) => self.target = text()?,
            ("source" | "src", Bind | Cache) => self.source = text()?,
            ("source" | "src", Secret | Ssh) => self.id = text()?,
            ("from", Bind | Cache) => self.from = text()?,
            ("readonly" | "ro", Bind | Cache) => self.read_only = flag()?,
            ("readwrite" | "rw", Bind | Cache) => self.read_only = !flag()?,
            ("required", Secret | Ssh) => self.required = flag()?,
            ("id", Cache | Secret | Ssh) => self.id = text()?,
            ("env", Secret) => self.env = text()?,
            ("size", Tmpfs) => {
                let t = text()?;
                let bytes = corten_base::units::ram_in_bytes(&t).and_then(|b| u64::try_from(b).ok());
                self.size = Some(bytes.ok_or_else(|| format!("invalid value for size: {t}"))?);
            }
            ("sharing", Cache) => {
                self.sharing = match text()?.as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => return Err(format!("unsupported sharing value \"{other}\"")),
                };
            }
            ("mode", Cache | Secret | Ssh) => {
                let t = text()?;
                let mode = u32::from_str_radix(&t, 8).ok().filter(|m| *m <= 0o7777);
                self.mode = Some(mode.ok_or_else(|| format!("invalid value {t} for mode"))?);
            }
            ("uid", Cache | Secret | Ssh) => self.uid = number()?,
            ("gid", Cache | Secret | Ssh) => self.gid = number()?,
            _ => return wrong(),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let needs_target = matches!(self.kind, MountKind::Bind | MountKind::Cache | MountKind::Tmpfs);
        if needs_target && self.target.is_empty() {
            return Err(format!("{} mount requires a target", self.kind.name()));
        }
        Ok(())
    }
}

impl MountKind {
    /// As written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
