//! `-v [source:]target[:options]`.

use super::absolute;

/// What a `-v` means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A bind of a host path, or a named volume: an entry of `Binds`.
    Bind(String),
    /// An anonymous volume at this path.
    Anonymous(String),
}

/// Reads one `-v`.
pub(crate) fn volume(spec: &str) -> Result<Volume, String> {
    if spec.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    let parts: Vec<&str> = spec.split(':').collect();
    if parts.iter().any(|p| p.is_empty()) {
        return Err(format!("invalid spec: {spec}: empty section between colons"));
    }
    match parts[..] {
        [target] => Ok(Volume::Anonymous(target.to_owned())),
        // What has too many parts is the daemon's to refuse.
        [source, ..] => {
            let rest = &spec[source.len()..];
            let source = if source.starts_with('.') { absolute(source) } else { source.to_owned() };
            Ok(Volume::Bind(format!("{source}{rest}")))
        }
        [] => Err("invalid empty volume spec".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        assert_eq!(volume("/data"), Ok(Volume::Anonymous("/data".into())));
        assert_eq!(volume("v:/data:ro"), Ok(Volume::Bind("v:/data:ro".into())));
        assert_eq!(volume("/a:/b"), Ok(Volume::Bind("/a:/b".into())));
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("./x:/b"), Ok(Volume::Bind(format!("{}/x:/b", here.display()))));
        assert!(volume(":/b").is_err() && volume("").is_err());
    }
}
