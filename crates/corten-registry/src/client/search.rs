//! Searching by the first protocol's index: `GET /v1/search?q=…&n=…`. No registry of the second protocol has more.

use corten_wire::api::image::SearchResult;
use http::{Method, StatusCode};

use super::transport::{self, Call, api_error, read_body};
use super::{Client, DEFAULT_DOMAIN};
use crate::credentials::Credentials;
use crate::error::RegistryError;

/// A hundred lines are less.
const LIMIT: usize = 4 << 20;

#[derive(serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Answer {
    results: Option<Vec<SearchResult>>,
}

impl Client {
    /// Asks the registry that the term begins with (`host:port/…`), or the default one.
    ///
    /// # Errors
    /// No answer, or none that is one.
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        let (authority, name) = split(term);
        let transport = self.transport();
        let insecure = transport.connector.is_insecure(&authority).await;
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("q", &name)
            .append_pair("n", &limit.to_string())
            .finish();
        let schemes: &[&str] = if insecure { &["https", "http"] } else { &["https"] };
        let mut failure = RegistryError::protocol("no endpoint");
        for scheme in schemes {
            let address = format!("{scheme}://{authority}/v1/search?{query}");
            let uri: http::Uri = address
                .parse()
                .map_err(|_| RegistryError::Config { what: format!("invalid URL {address:?}") })?;
            let mut call = Call::new(Method::GET, uri.clone());
            if let Some(basic) = credentials.basic().filter(|_| *scheme == "https") {
                call.headers.insert(http::header::AUTHORIZATION, basic);
            }
            // A wrong scheme shows at once.
            let response = match transport.send_once(&call, transport::full(bytes::Bytes::new())).await {
                Ok(response) => response,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            let idle = transport.config.idle_timeout;
            if response.status() != StatusCode::OK {
                return Err(RegistryError::Api(api_error(response, idle, (&call.method, &uri)).await));
            }
            let body = read_body(response.into_body(), LIMIT, idle, (&call.method, &uri)).await?;
            let answer: Answer = serde_json::from_slice(&body)
                .map_err(|e| RegistryError::protocol(format!("the answer to a search is none: {e}")))?;
            return Ok(answer.results.unwrap_or_default());
        }
        Err(failure)
    }
}

/// Where to ask, and what for.
fn split(term: &str) -> (String, String) {
    if let Some((first, rest)) = term.split_once('/') {
        let is_default = first == DEFAULT_DOMAIN || first.strip_prefix("index.") == Some(DEFAULT_DOMAIN);
        if is_default {
            return split_default(rest);
        }
        if first.contains(['.', ':']) || first == "localhost" {
            return (first.to_owned(), rest.to_owned());
        }
    }
    split_default(term)
}

/// COMPAT: official images are searched without their prefix.
fn split_default(name: &str) -> (String, String) {
    (format!("index.{DEFAULT_DOMAIN}"), name.strip_prefix("library/").unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_and_what() {
        let index = format!("index.{DEFAULT_DOMAIN}");
        for (term, authority, name) in [
            ("busybox", index.as_str(), "busybox"),
            ("library/busybox", &index, "busybox"),
            ("someone/thing", &index, "someone/thing"),
            ("localhost:5000/x", "localhost:5000", "x"),
            ("registry.test/a/b", "registry.test", "a/b"),
            ("docker.io/library/x", &index, "x"),
        ] {
            assert_eq!(split(term), (authority.to_owned(), name.to_owned()), "{term}");
        }
    }

    /// A search without TLS, by credentials that are not for such a connection.
    #[tokio::test]
    async fn results() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap();
                // A greeting of TLS begins with 22.
                if n == 0 || head[0] == 22 {
                    continue;
                }
                let body =
                    r#"{"num_results":1,"results":[{"name":"a/b","star_count":3,"is_official":true}]}"#;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                return String::from_utf8_lossy(&head[..n]).into_owned();
            }
        });
        let client = Client::new(crate::ClientConfig::default());
        let secret = Credentials::from_parts("me", "secret", "", "", "");
        let found = client.search(&format!("{address}/a b"), 7, &secret).await.unwrap();
        let request = server.await.unwrap().to_lowercase();
        assert!(request.starts_with("get /v1/search?q=a+b&n=7 http/1.1"), "{request}");
        assert!(!request.contains("authorization"), "{request}");
        assert_eq!((found[0].name.as_str(), found[0].star_count, found[0].is_official), ("a/b", 3, true));
    }
}
