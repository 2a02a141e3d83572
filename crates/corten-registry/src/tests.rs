//! Client against server, over real sockets on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use corten_base::{Cancel, Digest, Kind, Reference};
use corten_wire::distribution::{OCI_INDEX, OCI_MANIFEST};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::gc::{GcOptions, collect_garbage};
use crate::server::{Server, ServerConfig};
use crate::{
    BlobSource, Client, ClientConfig, Credentials, InsecureRegistries, RegistryError, Repository, Target,
};

struct Running {
    address: SocketAddr,
    cancel: Cancel,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn start(change: impl FnOnce(&mut ServerConfig), root: &Path) -> Running {
    let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), root.to_owned());
    change(&mut config);
    let server = Server::bind(config).await.unwrap();
    let (address, cancel) = (server.address().unwrap(), Cancel::new());
    let until = cancel.clone();
    tokio::spawn(async move { server.run(&until).await });
    Running { address, cancel }
}

fn client() -> Client {
    Client::new(ClientConfig { certs_dir: "/nonexistent".into(), ..ClientConfig::default() })
}

fn repository(client: &Client, address: SocketAddr, name: &str, credentials: &Credentials) -> Repository {
    let reference: Reference = format!("{address}/{name}").parse().unwrap();
    client.repository(&reference, credentials)
}

async fn read_all(repository: &Repository, digest: &Digest, offset: u64) -> Result<Vec<u8>, RegistryError> {
    let mut stream = repository.blob(digest, None, offset).await?;
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Pushes an image with one layer; returns the layer's and the manifest's digest.
async fn push(repository: &Repository, layer: &[u8], tag: &str) -> Result<(Digest, Digest), RegistryError> {
    let config = Bytes::from_static(b"{\"os\":\"linux\"}");
    let (config_digest, layer_digest) = (Digest::of(&config), Digest::of(layer));
    repository
        .push_blob(&config_digest, config.len() as u64, &BlobSource::Bytes(config.clone()), None)
        .await?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), layer).unwrap();
    let seen = Arc::new(Mutex::new(0));
    let report = Arc::clone(&seen);
    let source = BlobSource::File(file.path().to_owned());
    let progress: crate::Progress = Arc::new(move |n| *report.lock().unwrap() = n);
    repository.push_blob(&layer_digest, layer.len() as u64, &source, Some(progress)).await?;
    assert_eq!(*seen.lock().unwrap(), layer.len() as u64);
    let manifest = manifest(&config_digest, config.len(), &layer_digest, layer.len());
    let digest = repository.put_manifest(&Target::Tag(tag.into()), OCI_MANIFEST, manifest).await?;
    Ok((layer_digest, digest))
}

fn manifest(config: &Digest, config_size: usize, layer: &Digest, layer_size: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
    ))
}

#[tokio::test]
async fn push_pull_list_and_delete() {
    let root = tempfile::tempdir().unwrap();
    let server = start(|_| {}, root.path()).await;
    let client = client();
    let one = repository(&client, server.address, "team/app", &Credentials::Anonymous);
    let layer = noise(3 << 20);
    let (layer_digest, digest) = push(&one, &layer, "v1").await.unwrap();

    let got = one.resolve(&Target::Tag("v1".into())).await.unwrap();
    assert_eq!((got.digest.clone(), got.media_type.as_str()), (digest.clone(), OCI_MANIFEST));
    assert_eq!(
        one.head(&Target::Digest(digest.clone())).await.unwrap().unwrap().size,
        got.bytes.len() as u64
    );
    assert_eq!(read_all(&one, &layer_digest, 0).await.unwrap(), layer);
    assert_eq!(read_all(&one, &layer_digest, 1_000_001).await.unwrap(), layer[1_000_001..]);
    assert_eq!(one.tags().await.unwrap(), ["v1"]);
    assert_eq!(one.has_blob(&layer_digest).await.unwrap(), Some(layer.len() as u64));

    // Another repository does not see the blob until it is mounted.
    let two = repository(&client, server.address, "other", &Credentials::Anonymous);
    assert_eq!(two.has_blob(&layer_digest).await.unwrap(), None);
    assert!(two.mount(&layer_digest, "team/app").await.unwrap());
    assert!(!two.mount(&Digest::of(b"nothing"), "team/app").await.unwrap());
    assert_eq!(two.has_blob(&layer_digest).await.unwrap(), Some(layer.len() as u64));

    let missing = one.resolve(&Target::Tag("nope".into())).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert_eq!(
        missing.text(),
        format!(
            "manifest for {}/team/app:nope not found: manifest unknown: manifest unknown",
            server.address
        )
    );

    // A manifest whose layer is missing is refused.
    let bad = manifest(&Digest::of(b"{\"os\":\"linux\"}"), 14, &Digest::of(b"x"), 1);
    let refused = one.put_manifest(&Target::Tag("bad".into()), OCI_MANIFEST, bad).await.unwrap_err();
    assert!(refused.text().starts_with("manifest blob unknown: "), "{}", refused.text());
}

#[tokio::test]
async fn chunks_and_wrong_digests() {
    let root = tempfile::tempdir().unwrap();
    let server = start(|_| {}, root.path()).await;
    let config = ClientConfig { chunk_bytes: Some(100_000), ..ClientConfig::default() };
    let repository = repository(&Client::new(config), server.address, "chunked", &Credentials::Anonymous);
    let layer = noise(777_777);
    let (layer_digest, _) = push(&repository, &layer, "v1").await.unwrap();
    assert_eq!(read_all(&repository, &layer_digest, 0).await.unwrap(), layer);

    let wrong = Digest::of(b"something else");
    let e = repository.push_blob(&wrong, 3, &BlobSource::Bytes("abc".into()), None).await.unwrap_err();
    assert_eq!(e.text(), "digest invalid: provided digest did not match uploaded content");
    assert_eq!(repository.has_blob(&wrong).await.unwrap(), None);
    assert_eq!(std::fs::read_dir(root.path().join("uploads")).unwrap().count(), 0, "nothing is left over");
}

#[tokio::test]
async fn uploads_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let data = noise(50_000);
    let digest = Digest::of(&data);
    let server = start(|_| {}, root.path()).await;
    let started = raw(server.address, "POST /v2/r/blobs/uploads/ HTTP/1.1", &[], b"").await;
    let location = header(&started, "location");
    let patched = raw(
        server.address,
        &format!("PATCH {location} HTTP/1.1"),
        &["content-range: 0-19999"],
        &data[..20_000],
    )
    .await;
    assert!(patched.starts_with("HTTP/1.1 202"), "{patched}");
    drop(server);
    let server = start(|_| {}, root.path()).await;
    let status = raw(server.address, &format!("GET {location} HTTP/1.1"), &[], b"").await;
    assert_eq!(header(&status, "range"), "0-19999");
    let wrong =
        raw(server.address, &format!("PATCH {location} HTTP/1.1"), &["content-range: 1-2"], b"xx").await;
    assert!(wrong.starts_with("HTTP/1.1 416"), "{wrong}");
    let patched = raw(
        server.address,
        &format!("PATCH {location} HTTP/1.1"),
        &["content-range: 20000-49999"],
        &data[20_000..],
    )
    .await;
    assert!(patched.starts_with("HTTP/1.1 202"), "{patched}");
    let done = raw(server.address, &format!("PUT {location}?digest={digest} HTTP/1.1"), &[], b"").await;
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
}

#[tokio::test]
async fn basic_authentication_and_login() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("htpasswd");
    std::fs::write(&file, format!("# users\nme:{}\n", bcrypt::hash("pw", 4).unwrap())).unwrap();
    let server = start(|c| c.htpasswd = Some(file.clone()), &root.path().join("data")).await;
    let client = client();
    let good = Credentials::from_parts("me", "pw", "", "", "");
    let bad = Credentials::from_parts("me", "no", "", "", "");
    push(&repository(&client, server.address, "x", &good), &noise(200_000), "v1").await.unwrap();
    let at = server.address.to_string();
    assert!(client.login(&at, &good).await.unwrap().identity_token.is_none());
    let e = client.login(&at, &bad).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthorized);
    assert_eq!(e.text(), format!("login attempt to http://{at}/v2/ failed with status: 401 Unauthorized"));
    let e =
        repository(&client, server.address, "x", &bad).resolve(&Target::Tag("v1".into())).await.unwrap_err();
    assert_eq!((e.text().as_str(), e.kind()), ("unauthorized: authentication required", Kind::Internal));
    let e = repository(&client, server.address, "x", &Credentials::Anonymous)
        .resolve(&Target::Tag("v1".into()))
        .await;
    assert!(e.unwrap_err().text().ends_with("no basic auth credentials"));
}

#[tokio::test]
async fn garbage_and_referrers() {
    let root = tempfile::tempdir().unwrap();
    let server = start(|_| {}, root.path()).await;
    let repository = repository(&client(), server.address, "r", &Credentials::Anonymous);
    let (layer, first) = push(&repository, &noise(10_000), "v1").await.unwrap();
    let subject = format!(r#""subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{first}","size":1}},"#);
    let config = Digest::of(b"{\"os\":\"linux\"}");
    let referrer = Bytes::from(format!(
        r#"{{"schemaVersion":2,{subject}"artifactType":"a/b","config":{{"mediaType":"c/d","digest":"{config}","size":14}},"layers":[]}}"#
    ));
    let target = Target::Digest(Digest::of(&referrer));
    repository.put_manifest(&target, OCI_MANIFEST, referrer.clone()).await.unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&repository.referrers(&first).await.unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["artifactType"], "a/b");
    assert_eq!(index["mediaType"], OCI_INDEX);

    let (orphan, second) = push(&repository, &noise(20_000), "v2").await.unwrap();
    let deleted = raw(server.address, &format!("DELETE /v2/r/manifests/{second} HTTP/1.1"), &[], b"").await;
    assert!(deleted.starts_with("HTTP/1.1 202"), "{deleted}");
    let mut options = GcOptions { delete_untagged: true, dry_run: true, grace: Duration::from_secs(3600) };
    assert!(collect_garbage(root.path(), &options).unwrap().blobs.is_empty(), "young content stays");
    options.grace = Duration::ZERO;
    assert_eq!(collect_garbage(root.path(), &options).unwrap().blobs.len(), 2);
    options.dry_run = false;
    let report = collect_garbage(root.path(), &options).unwrap();
    assert!(report.blobs.contains(&orphan) && report.blobs.contains(&second), "{report:?}");
    assert!(report.manifests.is_empty(), "a referrer of a tagged manifest stays");
    assert_eq!(read_all(&repository, &layer, 0).await.unwrap().len(), 10_000);
    assert_eq!(repository.has_blob(&orphan).await.unwrap(), None);
    assert!(repository.resolve(&target).await.is_ok());
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let e =
        repository(&client(), address, "x", &Credentials::Anonymous).resolve(&Target::Tag("v".into())).await;
    assert_eq!(
        e.unwrap_err().text(),
        format!("Get \"http://{address}/v2/\": dial tcp {address}: connect: connection refused")
    );
}

/// A server that answers each request with what `answer` makes of its head.
async fn scripted(
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let (seen, answer) = (Arc::clone(&log), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match tcp.read_u8().await {
                        Ok(b) => head.push(b),
                        Err(_) => return,
                    }
                    // A TLS hello: answered as an HTTP server does.
                    if head[0] == 0x16 {
                        let _ = tcp.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
                        return;
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let reply = answer(&head);
                seen.lock().unwrap().push(head);
                let _ = tcp.write_all(reply.as_bytes()).await;
            });
        }
    });
    (address, log)
}

fn reply(status: &str, headers: &[String], body: &str) -> String {
    let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{lines}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn bearer_tokens_are_fetched_and_kept_to_their_host() {
    let body = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let (other, other_log) =
        scripted(move |_| reply("200 OK", &["content-type: application/octet-stream".into()], "blob-bytes"))
            .await;
    let (auth, auth_log) = scripted(|head| {
        if head.starts_with("GET /token?service=svc&scope=repository%3Ax%3Apull&account=me") {
            reply("200 OK", &[], r#"{"token":"tok-1","expires_in":300}"#)
        } else {
            reply("401 Unauthorized", &[], r#"{"errors":[{"code":"UNAUTHORIZED","message":"bad"}]}"#)
        }
    })
    .await;
    let (registry, log) = scripted(move |head| {
        if !head.contains("authorization: Bearer tok-1") {
            let challenge = format!("www-authenticate: Bearer realm=\"http://{auth}/token\",service=\"svc\"");
            return reply("401 Unauthorized", &[challenge], "");
        }
        if head.contains("/blobs/") {
            return reply(
                "307 Temporary Redirect",
                &[format!("location: http://{other}/signed?secret=1")],
                "",
            );
        }
        reply("200 OK", &[format!("content-type: {OCI_MANIFEST}")], body)
    })
    .await;
    let credentials = Credentials::from_parts("me", "pw", "", "", "");
    let repository = repository(&client(), registry, "x", &credentials);
    repository.resolve(&Target::Tag("v".into())).await.unwrap();
    assert_eq!(read_all(&repository, &Digest::of(b"blob-bytes"), 0).await.unwrap(), b"blob-bytes");
    assert_eq!(auth_log.lock().unwrap().len(), 1, "the token is used again");
    assert!(auth_log.lock().unwrap()[0].contains("authorization: Basic "));
    let other = other_log.lock().unwrap().concat().to_lowercase();
    assert!(!other.contains("authorization"), "credentials went to another host: {other}");
    assert!(log.lock().unwrap().iter().all(|h| !h.contains("Basic ")), "the password went to the registry");
}

#[tokio::test]
async fn a_broken_download_is_resumed() {
    let body = "0123456789";
    let first = Arc::new(Mutex::new(true));
    let (registry, log) = scripted(move |head| {
        if head.starts_with("GET /v2/ ") {
            return reply("200 OK", &[], "{}");
        }
        if std::mem::take(&mut *first.lock().unwrap()) {
            return "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123".to_owned();
        }
        assert!(head.contains("range: bytes=4-"), "{head}");
        reply("206 Partial Content", &["content-range: bytes 4-9/10".into()], "456789")
    })
    .await;
    let repository = repository(&client(), registry, "x", &Credentials::Anonymous);
    assert_eq!(read_all(&repository, &Digest::of(body.as_bytes()), 0).await.unwrap(), body.as_bytes());
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn wrong_and_oversized_answers() {
    let (registry, _) = scripted(|head| {
        if head.contains("/manifests/denied") {
            let challenge =
                "www-authenticate: Bearer realm=\"http://127.0.0.1:1/t\",error=\"insufficient_scope\""
                    .to_owned();
            return reply("403 Forbidden", &[challenge], "");
        }
        if head.contains("/manifests/huge") {
            return reply("200 OK", &[format!("content-type: {OCI_MANIFEST}")], &"x".repeat(5 << 20));
        }
        if head.contains("/manifests/") {
            return reply("200 OK", &[format!("content-type: {OCI_MANIFEST}")], "{\"config\":{}}");
        }
        reply("200 OK", &[], "longer than it should be")
    })
    .await;
    let repository = repository(&client(), registry, "x", &Credentials::Anonymous);
    let e = repository.resolve(&Target::Digest(Digest::of(b"q"))).await.unwrap_err();
    assert!(e.text().starts_with("manifest verification failed for digest sha256:"), "{}", e.text());
    assert!(
        repository.resolve(&Target::Tag("huge".into())).await.unwrap_err().text().contains("larger than")
    );
    let e = repository.resolve(&Target::Tag("denied".into())).await.unwrap_err();
    assert_eq!(
        e.text(),
        format!(
            "pull access denied for {registry}/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )
    );
    let digest = Digest::of(b"x");
    assert!(repository.blob(&digest, Some(3), 0).await.is_err());
}

fn openssl(dir: &Path, names: &str) -> bool {
    std::process::Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
            "-days", "2",
        ])
        .args(["-subj", "/CN=registry", "-addext", names])
        .current_dir(dir)
        .output()
        .is_ok_and(|o| o.status.success())
}

#[tokio::test]
async fn tls_with_and_without_trust() {
    let dir = tempfile::tempdir().unwrap();
    // 127/8 is always insecure, so this test needs another local address.
    let host = "localhost";
    if !openssl(dir.path(), "subjectAltName=DNS:localhost,IP:127.0.0.1") {
        println!("skipped: no openssl");
        return;
    }
    let files = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let server = start(|c| c.tls = Some(files.clone()), &dir.path().join("data")).await;
    let insecure = repository(&client(), server.address, "x", &Credentials::Anonymous);
    push(&insecure, b"layer", "v1").await.unwrap();

    // The pieces below the "loopback is insecure" rule, directly.
    let address = format!("{host}:{}", server.address.port());
    let certs = dir.path().join("certs.d");
    let verify = |dir: &Path| crate::client::tls::client_config(dir, &address, true).unwrap();
    let connect = async |config: Arc<rustls::ClientConfig>| {
        let tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map(|_| ())
    };
    let refused = connect(verify(&certs)).await.unwrap_err();
    let e = crate::client::tls::handshake_error(&refused, "localhost").to_string();
    assert!(e.starts_with("tls: failed to verify certificate: x509: "), "{e}");
    std::fs::create_dir_all(certs.join(&address)).unwrap();
    std::fs::copy(&files.0, certs.join(&address).join("ca.crt")).unwrap();
    let trusted = connect(verify(&certs)).await;
    assert!(trusted.is_ok(), "{trusted:?}");
    std::fs::write(certs.join(&address).join("client.cert"), "x").unwrap();
    let e = crate::client::tls::client_config(&certs, &address, true).unwrap_err();
    assert!(e.to_string().contains("missing key client.key"), "{e}");
}

#[tokio::test]
async fn plain_http_where_tls_is_required() {
    let (registry, _) = scripted(|_| reply("200 OK", &[], "")).await;
    let connector = crate::client::connect::Connector::new(Arc::new(ClientConfig::default()));
    let uri: http::Uri = format!("https://{registry}/v2/").parse().unwrap();
    let e = tower_service::Service::call(&mut connector.clone(), uri).await.map(|_| ()).unwrap_err();
    assert_eq!(e.to_string(), "http: server gave HTTP response to HTTPS client");
    assert!(InsecureRegistries::default().covers(&registry.to_string(), &[]));
}

/// One request by hand.
async fn raw(address: SocketAddr, line: &str, headers: &[&str], body: &[u8]) -> String {
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let extra: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    let head =
        format!("{line}\r\nhost: x\r\nconnection: close\r\n{extra}content-length: {}\r\n\r\n", body.len());
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn header(answer: &str, name: &str) -> String {
    let line = answer.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).split_once(": ").unwrap().1.to_owned()
}
