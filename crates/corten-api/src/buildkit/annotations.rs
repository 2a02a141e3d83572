//! Annotations of exported images: `annotation[-LEVEL][[platform]].KEY=VALUE`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corten_base::Platform;
use corten_build::Solved;

use crate::grpc::{Code, Status};

fn unknown(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

/// What an annotation is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Manifest,
    Index,
    ManifestDescriptor,
}

/// `annotation-LEVEL[platform].KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Annotation {
    level: Level,
    platform: Option<Platform>,
    key: String,
    value: String,
}

impl Annotation {
    /// `None` for attributes that are something else.
    pub(super) fn parse(key: &str, value: &str) -> Result<Option<Self>, Status> {
        let Some(rest) = key.strip_prefix("annotation") else { return Ok(None) };
        let Some((head, name)) =
            rest.split_once('.').filter(|(h, _)| h.is_empty() || h.starts_with(['-', '[']))
        else {
            return Ok(None);
        };
        // A platform may have dots, too.
        let (head, name) = match rest.split_once("].") {
            Some((head, name)) if head.contains('[') => (head, name),
            _ => (head, name),
        };
        let (level, platform) = head.split_once('[').map_or((head, None), |(l, p)| (l, Some(p)));
        let level = match level {
            "" | "-manifest" => Level::Manifest,
            "-index" => Level::Index,
            "-manifest-descriptor" => Level::ManifestDescriptor,
            other => {
                let message = format!("exporter option annotation{other} is not supported by this daemon");
                return Err(unknown(message));
            }
        };
        let platform = match platform {
            Some(p) => Some(
                p.trim_end_matches(']').parse::<Platform>().map_err(|e| unknown(e.to_string()))?.normalised(),
            ),
            None => None,
        };
        if level == Level::Index && platform.is_some() {
            return Err(unknown("index annotations are for all platforms"));
        }
        Ok(Some(Self { level, platform, key: name.to_owned(), value: value.to_owned() }))
    }
}

/// What is written to a level of each result's image.
pub(super) fn of_level(
    attributes: &HashMap<String, String>,
    level: Level,
    results: &[Arc<Solved>],
) -> Result<Vec<BTreeMap<String, String>>, Status> {
    let mut out = vec![BTreeMap::new(); results.len()];
    for (key, value) in attributes {
        let Some(annotation) = Annotation::parse(key, value)?.filter(|a| a.level == level) else { continue };
        let fits = |s: &Arc<Solved>| {
            annotation.platform.as_ref().is_none_or(|p| *p == s.platform.clone().normalised())
        };
        let mut any = false;
        for (place, _) in results.iter().enumerate().filter(|(_, s)| fits(s)) {
            out[place].insert(annotation.key.clone(), annotation.value.clone());
            any = true;
        }
        if let (false, Some(platform)) = (any, &annotation.platform) {
            return Err(unknown(format!("invalid annotation: no platform {platform} found in source")));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_platforms() {
        let parse = |key: &str| {
            Annotation::parse(key, "v")
                .map(|a| a.map(|a| (a.level, a.platform.map(|p| p.to_string()), a.key)))
        };
        let key = || "org.x/y.z".to_owned();
        for (text, want) in [
            ("annotation.org.x/y.z", Some((Level::Manifest, None, key()))),
            ("annotation-manifest.org.x/y.z", Some((Level::Manifest, None, key()))),
            ("annotation[linux/arm64].org.x/y.z", Some((Level::Manifest, Some("linux/arm64".into()), key()))),
            ("annotation-index.org.x/y.z", Some((Level::Index, None, key()))),
            (
                "annotation-manifest-descriptor[linux/amd64].org.x/y.z",
                Some((Level::ManifestDescriptor, Some("linux/amd64".into()), key())),
            ),
            ("name", None),
            ("annotations", None),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for bad in
            ["annotation-index-descriptor.k", "annotation[a/b/c/d].k", "annotation-index[linux/amd64].k"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
