//! From method and path to a route, with Docker's rules: names in the middle of a path may contain slashes, HEAD
//! is GET unless a route of its own exists, a known path with another method is "page not found" as well.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::handlers::{ROUTES, Route};

/// A route and what the path's variables stand for.
#[derive(Debug)]
pub(crate) struct Match {
    /// The route.
    pub(crate) route: &'static Route,
    /// Variables in the order of the pattern.
    pub(crate) variables: Vec<String>,
}

/// Finds the route of a path without its version.
#[must_use]
pub(crate) fn find(method: &Method, path: &str) -> Option<Match> {
    let exact = ROUTES.iter().find_map(|r| matches(r, method, path));
    if exact.is_none() && method == Method::HEAD {
        return ROUTES.iter().find_map(|r| matches(r, &Method::GET, path));
    }
    exact
}

fn matches(route: &'static Route, method: &Method, path: &str) -> Option<Match> {
    if route.method != *method {
        return None;
    }
    let mut variables = Vec::new();
    walk(route.pattern, path, &mut variables).then_some(Match { route, variables })
}

/// `{x}` is one segment, `{x*}` one or more.
fn walk(pattern: &str, path: &str, variables: &mut Vec<String>) -> bool {
    let Some(open) = pattern.find('{') else { return pattern == path };
    let Some(rest) = path.strip_prefix(&pattern[..open]) else { return false };
    let close = pattern.find('}').unwrap_or(pattern.len() - 1);
    let many = pattern[open..close].ends_with('*');
    let tail = &pattern[close + 1..];
    if many {
        // The longest name wins, as in Go's router: /images/a/json/json is the image "a/json".
        let Some(value) = rest.strip_suffix(tail) else { return false };
        return push(value, variables);
    }
    let end = rest.find('/').unwrap_or(rest.len());
    let depth = variables.len();
    if push(&rest[..end], variables) && walk(tail, &rest[end..], variables) {
        return true;
    }
    variables.truncate(depth);
    false
}

fn push(value: &str, variables: &mut Vec<String>) -> bool {
    if value.is_empty() {
        return false;
    }
    let Ok(text) = percent_decode_str(value).decode_utf8() else { return false };
    variables.push(text.into_owned());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, want) in [
            ("/info", "/info", Some(vec![])),
            ("/info", "/info/", None),
            ("/containers/{name}/json", "/containers/a%2Fb/json", Some(vec!["a/b"])),
            ("/containers/{name}/json", "/containers//json", None),
            ("/containers/{name}/json", "/containers/a/b/json", None),
            ("/images/{name*}/json", "/images/h:5000/a/b:c/json", Some(vec!["h:5000/a/b:c"])),
            ("/images/{name*}", "/images/a/b", Some(vec!["a/b"])),
            ("/images/{name*}/json", "/images/json", None),
        ] {
            let mut got = Vec::new();
            let found = walk(pattern, path, &mut got).then_some(got);
            assert_eq!(found, want.map(|w| w.into_iter().map(str::to_owned).collect()), "{pattern} {path}");
        }
    }

    #[test]
    fn routes() {
        let get = |path| find(&Method::GET, path).map(|m| m.route.pattern);
        assert_eq!(get("/images/json"), Some("/images/json"));
        assert_eq!(get("/images/json/json"), Some("/images/{name*}/json"));
        assert_eq!(get("/containers/x/json"), Some("/containers/{name}/json"));
        assert_eq!(find(&Method::POST, "/info").map(|m| m.route.pattern), None);
        assert_eq!(
            find(&Method::HEAD, "/containers/json").map(|m| m.route.pattern),
            Some("/containers/json")
        );
        assert_eq!(get("/nope"), None);
    }
}
