//! What drivers may say about the container: tags by template, attributes from labels and environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_wire::api::TextMap;
use gotmpl::{MissingKey, Template, Value};

use crate::error::{LogError, bad};

/// Facts about a container.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Full id.
    pub id: String,
    /// Name without the slash.
    pub name: String,
    /// Full id of the image, with its algorithm.
    pub image_id: String,
    /// The image as the user named it.
    pub image_name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// RFC 3339.
    pub created: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Labels.
    pub labels: TextMap,
    /// The log driver's options.
    pub options: TextMap,
}

fn string(text: impl Into<String>) -> Value {
    Value::String(text.into().into())
}

fn list(texts: &[String]) -> Value {
    Value::List(texts.iter().map(string).collect::<Vec<_>>().into())
}

fn map(texts: &TextMap) -> Value {
    let members = texts.iter().map(|(k, v)| (Arc::from(k.as_str()), string(v)));
    Value::Map(Arc::new(members.collect()))
}

/// COMPAT: the first twelve digits, also of `sha256:…`.
fn short(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect()
}

impl Info {
    pub(crate) fn command_line(&self) -> String {
        self.command.join(" ")
    }

    fn fields(&self) -> Value {
        let (entrypoint, args) = match self.command.split_first() {
            Some((first, rest)) => (first.clone(), rest),
            None => (String::new(), &[][..]),
        };
        let members = [
            ("ID", string(short(&self.id))),
            ("FullID", string(&self.id)),
            ("Name", string(&self.name)),
            ("ImageID", string(short(&self.image_id))),
            ("ImageFullID", string(&self.image_id)),
            ("ImageName", string(&self.image_name)),
            ("Command", string(self.command_line())),
            ("Hostname", string(hostname())),
            ("DaemonName", string("docker")),
            ("Config", map(&self.options)),
            ("ContainerID", string(&self.id)),
            ("ContainerName", string(format!("/{}", self.name))),
            ("ContainerEntrypoint", string(entrypoint)),
            ("ContainerArgs", list(args)),
            ("ContainerImageID", string(&self.image_id)),
            ("ContainerImageName", string(&self.image_name)),
            ("ContainerCreated", string(&self.created)),
            ("ContainerEnv", list(&self.env)),
            ("ContainerLabels", map(&self.labels)),
            ("LogPath", string("")),
        ];
        Value::Map(Arc::new(members.into_iter().map(|(k, v)| (Arc::from(k), v)).collect()))
    }

    /// The option `tag`, or `default`, as a template over these facts.
    pub(crate) fn tag(&self, default: &str) -> Result<String, LogError> {
        let source = match self.options.get("tag") {
            Some(tag) if !tag.is_empty() => tag.as_str(),
            _ => default,
        };
        let template = functions(Template::new("log-tag").missing_key(MissingKey::Error))
            .parse(source)
            .map_err(|e| {
                bad(match e {
                    gotmpl::TemplateError::Parse { line, message, .. }
                    | gotmpl::TemplateError::Lex { line, message, .. } => {
                        format!("template: log-tag:{line}: {message}")
                    }
                    other => format!("template: log-tag:1: {other}"),
                })
            })?;
        template.execute_to_string(&self.fields()).map_err(|e| {
            bad(match e {
                gotmpl::TemplateError::MissingKey { key } => format!(
                    "template: log-tag:1: executing \"log-tag\" at <.{key}>: can't evaluate field {key} in type \
                     *logger.Info"
                ),
                other => format!("template: log-tag:1: {other}"),
            })
        })
    }

    /// What the options `labels`, `labels-regex`, `env` and `env-regex` choose; `name` makes the names.
    pub(crate) fn attributes(
        &self,
        name: impl Fn(&str) -> String,
    ) -> Result<BTreeMap<String, String>, LogError> {
        let mut chosen = BTreeMap::new();
        let env: BTreeMap<&str, &str> = self.env.iter().filter_map(|e| e.split_once('=')).collect();
        let labels = self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        for (all, names, regex) in [(labels, "labels", "labels-regex"), (env, "env", "env-regex")] {
            for wanted in self.options.get(names).into_iter().flat_map(|l| l.split(',')) {
                if let Some(value) = all.get(wanted) {
                    chosen.insert(name(wanted), (*value).to_owned());
                }
            }
            let Some(pattern) = self.options.get(regex).filter(|p| !p.is_empty()) else { continue };
            let regex = self::regex(regex, pattern)?;
            for (key, value) in all.iter().filter(|(key, _)| regex.is_match(key)) {
                chosen.insert(name(key), (*value).to_owned());
            }
        }
        Ok(chosen)
    }
}

/// A pattern of an option.
pub(crate) fn regex(option: &str, pattern: &str) -> Result<regex::Regex, LogError> {
    regex::Regex::new(pattern).map_err(|_| {
        let text = format!("error parsing regexp: invalid pattern: `{pattern}`");
        bad(format!("invalid value for {option}: {text}"))
    })
}

/// The host's name, which receivers see as the source.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Docker's functions in templates.
fn functions(template: Template) -> Template {
    let text = |args: &[Value], n: usize| args.get(n).map(ToString::to_string).unwrap_or_default();
    let number = |args: &[Value], n: usize| {
        usize::try_from(args.get(n).and_then(Value::as_int).unwrap_or(0)).unwrap_or(0).min(4096)
    };
    template
        .func("json", |a| Ok(string(json(a.first().unwrap_or(&Value::Nil)).to_string())))
        .func("lower", move |a| Ok(string(text(a, 0).to_lowercase())))
        .func("upper", move |a| Ok(string(text(a, 0).to_uppercase())))
        .func("title", move |a| {
            let body = text(a, 0);
            let mut letters = body.chars();
            let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
            Ok(string(first + letters.as_str()))
        })
        .func("pad", move |a| {
            let body = text(a, 0);
            let (before, after) = (" ".repeat(number(a, 1)), " ".repeat(number(a, 2)));
            Ok(string(if body.is_empty() { body } else { before + &body + &after }))
        })
        .func("truncate", move |a| Ok(string(text(a, 0).chars().take(number(a, 1)).collect::<String>())))
        .func("split", move |a| {
            Ok(list(&text(a, 0).split(text(a, 1).as_str()).map(str::to_owned).collect::<Vec<_>>()))
        })
        .func("join", move |a| match a.first() {
            Some(Value::List(items)) => {
                let words: Vec<String> = items.iter().map(ToString::to_string).collect();
                Ok(string(words.join(&text(a, 1))))
            }
            _ => Ok(string(text(a, 0))),
        })
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Map(map) => map.iter().map(|(k, v)| (k.to_string(), json(v))).collect(),
        Value::List(list) => list.iter().map(json).collect(),
        Value::String(s) => s.to_string().into(),
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn info(options: &[(&str, &str)]) -> Info {
        let pairs = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Info {
            id: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".into(),
            name: "web".into(),
            image_id: "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210".into(),
            image_name: "app:1".into(),
            command: vec!["sh".into(), "-c".into(), "true".into()],
            created: "2026-11-21T10:00:00Z".into(),
            env: vec!["STAGE=live".into(), "SECRET=x".into()],
            labels: pairs(&[("com.team", "blue"), ("other", "1")]),
            options: pairs(options),
        }
    }

    #[test]
    fn tags() {
        for (template, want) in [
            ("{{.ID}}", "0123456789ab"),
            ("{{.ImageID}}/{{.ImageName}}", "fedcba987654/app:1"),
            ("{{.DaemonName}}-{{.Name}}", "docker-web"),
            ("{{.ContainerName}} {{.Command}}", "/web sh -c true"),
            ("{{upper .Name}}{{truncate .FullID 3}}", "WEB012"),
            ("{{index .ContainerLabels \"com.team\"}}", "blue"),
            ("{{join .ContainerArgs \"+\"}}", "-c+true"),
            ("plain", "plain"),
            ("", "0123456789ab"),
        ] {
            assert_eq!(info(&[("tag", template)]).tag("{{.ID}}").unwrap(), want, "{template}");
        }
        for wrong in ["{{.Nope}}", "{{", "{{nope .ID}}"] {
            let text = info(&[("tag", wrong)]).tag("").unwrap_err().to_string();
            assert!(text.starts_with("template: log-tag:1"), "{wrong}: {text}");
        }
    }

    #[test]
    fn attributes() {
        let chosen = |options: &[(&str, &str)]| {
            let all = info(options).attributes(str::to_uppercase).unwrap();
            all.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chosen(&[]), "");
        assert_eq!(chosen(&[("labels", "com.team,absent"), ("env", "STAGE")]), "COM.TEAM=blue STAGE=live");
        assert_eq!(chosen(&[("labels-regex", "^o"), ("env-regex", "^S")]), "OTHER=1 SECRET=x STAGE=live");
        assert!(info(&[("env-regex", "(")]).attributes(str::to_owned).is_err());
    }
}
