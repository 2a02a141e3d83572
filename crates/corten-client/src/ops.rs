//! One function per API operation the command line needs.
//!
//! Lists and inspections come back as JSON: what the command line shows is the daemon's own text, and fields that
//! one version omits and another sends as `null` are then a matter of the formatter alone.

use bytes::Bytes;
use http::Method;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Body, ByteStream, Client, Error, Filters, Hijacked, JsonLines, Query, Request};

/// What may not stand in a path segment; `/` stays, image names have it.
const SEGMENT: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn container(id: &str, action: &str) -> String {
    format!("/containers/{}{action}", segment(id))
}

/// Which streams `attach` carries.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Send our input.
    pub stdin: bool,
    /// Receive output.
    pub stdout: bool,
    /// Receive errors.
    pub stderr: bool,
    /// Output from the log first.
    pub logs: bool,
    /// Detach keys.
    pub detach_keys: String,
}

/// What `logs` asks for.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Keep following.
    pub follow: bool,
    /// Begin here.
    pub since: String,
    /// End here.
    pub until: String,
    /// Last lines.
    pub tail: String,
    /// Times in front.
    pub timestamps: bool,
    /// Attributes in front.
    pub details: bool,
}

#[expect(clippy::missing_errors_doc, reason = "each fails as `Client::send` does and says nothing more")]
impl Client {
    // System.

    /// `GET /version`.
    pub async fn version(&self) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, "/version")).await
    }

    /// `GET /info`.
    pub async fn info(&self) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, "/info")).await
    }

    /// `GET /info`, untouched.
    pub async fn info_raw(&self) -> Result<Bytes, Error> {
        self.bytes(Request::new(Method::GET, "/info")).await
    }

    /// `GET /events`.
    pub async fn events(&self, since: &str, until: &str, filters: &Filters) -> Result<JsonLines, Error> {
        let query = Query::new().with_text("since", since).with_text("until", until).with_filters(filters);
        self.json_lines(Request::new(Method::GET, "/events").query(query)).await
    }

    /// `GET /system/df`.
    pub async fn disk_usage(&self) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, "/system/df")).await
    }

    /// `POST /auth`.
    pub async fn auth(&self, body: &Value) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, "/auth").body(Body::json(body))).await
    }

    // Containers.

    /// `GET /containers/json`; of ten thousand containers a caller may want to keep but a part.
    pub async fn container_list<T: DeserializeOwned>(&self, query: Query) -> Result<Vec<T>, Error> {
        self.json(Request::new(Method::GET, "/containers/json").query(query)).await
    }

    /// `POST /containers/create`.
    pub async fn container_create(&self, name: &str, platform: &str, body: &Value) -> Result<Value, Error> {
        let query = Query::new().with_text("name", name).with_text("platform", platform);
        self.json(Request::new(Method::POST, "/containers/create").query(query).body(Body::json(body))).await
    }

    /// `GET /containers/{id}/json`, untouched.
    pub async fn container_inspect_raw(&self, id: &str, size: bool) -> Result<Bytes, Error> {
        let query = Query::new().with_flag("size", size);
        self.bytes(Request::new(Method::GET, container(id, "/json")).query(query)).await
    }

    /// `GET /containers/{id}/json`.
    pub async fn container_inspect(&self, id: &str) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, container(id, "/json"))).await
    }

    /// `POST /containers/{id}/start`.
    pub async fn container_start(&self, id: &str, query: Query) -> Result<(), Error> {
        self.unit(Request::new(Method::POST, container(id, "/start")).query(query)).await
    }

    /// `POST /containers/{id}/checkpoints`.
    pub async fn checkpoint_create(&self, id: &str, body: &Value) -> Result<(), Error> {
        self.unit(Request::new(Method::POST, container(id, "/checkpoints")).body(Body::json(body))).await
    }

    /// `GET /containers/{id}/checkpoints`.
    pub async fn checkpoint_list(&self, id: &str, dir: &str) -> Result<Value, Error> {
        let query = Query::new().with_text("dir", dir);
        self.json(Request::new(Method::GET, container(id, "/checkpoints")).query(query)).await
    }

    /// `DELETE /containers/{id}/checkpoints/{name}`.
    pub async fn checkpoint_remove(&self, id: &str, name: &str, dir: &str) -> Result<(), Error> {
        let path = container(id, &format!("/checkpoints/{}", segment(name)));
        self.unit(Request::new(Method::DELETE, path).query(Query::new().with_text("dir", dir))).await
    }

    /// `POST /containers/{id}/{stop|restart|kill|pause|unpause}` and `rename`, `resize`.
    pub async fn container_action(&self, id: &str, action: &str, query: Query) -> Result<(), Error> {
        self.unit(Request::new(Method::POST, container(id, &format!("/{action}"))).query(query)).await
    }

    /// `POST /containers/{id}/wait`: the answer's head has arrived when this returns, so the wait is registered.
    pub async fn container_wait(&self, id: &str, condition: &str) -> Result<JsonLines, Error> {
        let query = Query::new().with_text("condition", condition);
        self.json_lines(Request::new(Method::POST, container(id, "/wait")).query(query)).await
    }

    /// `POST /containers/{id}/attach`.
    pub async fn container_attach(&self, id: &str, options: &AttachOptions) -> Result<Hijacked, Error> {
        let query = Query::new()
            .with("stream", "1")
            .with_flag("stdin", options.stdin)
            .with_flag("stdout", options.stdout)
            .with_flag("stderr", options.stderr)
            .with_flag("logs", options.logs)
            .with_text("detachKeys", &options.detach_keys);
        self.hijack(Request::new(Method::POST, container(id, "/attach")).query(query)).await
    }

    /// `GET /containers/{id}/logs`.
    pub async fn container_logs(&self, id: &str, options: &LogOptions) -> Result<ByteStream, Error> {
        let query = Query::new()
            .with("stdout", "1")
            .with("stderr", "1")
            .with_flag("follow", options.follow)
            .with_flag("timestamps", options.timestamps)
            .with_flag("details", options.details)
            .with_text("since", &options.since)
            .with_text("until", &options.until)
            .with_text("tail", &options.tail);
        self.stream(Request::new(Method::GET, container(id, "/logs")).query(query)).await
    }

    /// `GET /containers/{id}/stats`.
    pub async fn container_stats(&self, id: &str, stream: bool) -> Result<JsonLines, Error> {
        let query = Query::new().with("stream", if stream { "1" } else { "0" });
        self.json_lines(Request::new(Method::GET, container(id, "/stats")).query(query)).await
    }

    /// `GET /containers/{id}/top`.
    pub async fn container_top(&self, id: &str, ps_args: &str) -> Result<Value, Error> {
        let query = Query::new().with_text("ps_args", ps_args);
        self.json(Request::new(Method::GET, container(id, "/top")).query(query)).await
    }

    /// `GET /containers/{id}/changes`.
    pub async fn container_changes(&self, id: &str) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, container(id, "/changes"))).await
    }

    /// `GET /containers/{id}/export`.
    pub async fn container_export(&self, id: &str) -> Result<ByteStream, Error> {
        self.stream(Request::new(Method::GET, container(id, "/export"))).await
    }

    /// `POST /containers/{id}/update`.
    pub async fn container_update(&self, id: &str, body: &Value) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, container(id, "/update")).body(Body::json(body))).await
    }

    /// `DELETE /containers/{id}`.
    pub async fn container_remove(&self, id: &str, query: Query) -> Result<(), Error> {
        self.unit(Request::new(Method::DELETE, container(id, "")).query(query)).await
    }

    /// `HEAD /containers/{id}/archive`: the decoded `X-Docker-Container-Path-Stat`.
    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<Value, Error> {
        let query = Query::new().with("path", path);
        let answer = self.send(Request::new(Method::HEAD, container(id, "/archive")).query(query)).await?;
        path_stat(answer.headers())
    }

    /// `GET /containers/{id}/archive`: the stat and the tar stream.
    pub async fn archive_get(&self, id: &str, path: &str) -> Result<(Value, ByteStream), Error> {
        let query = Query::new().with("path", path);
        let answer = self.send(Request::new(Method::GET, container(id, "/archive")).query(query)).await?;
        let stat = path_stat(answer.headers())?;
        Ok((stat, ByteStream::from_answer(answer)))
    }

    /// `PUT /containers/{id}/archive`.
    pub async fn archive_put(&self, id: &str, query: Query, tar: Body) -> Result<(), Error> {
        self.unit(Request::new(Method::PUT, container(id, "/archive")).query(query).body(tar)).await
    }

    /// `POST /containers/{id}/exec`.
    pub async fn exec_create(&self, id: &str, body: &Value) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, container(id, "/exec")).body(Body::json(body))).await
    }

    /// `POST /exec/{id}/start`, detached.
    pub async fn exec_start(&self, id: &str, body: &Value) -> Result<(), Error> {
        self.unit(Request::new(Method::POST, format!("/exec/{id}/start")).body(Body::json(body))).await
    }

    /// `POST /exec/{id}/start`, attached.
    pub async fn exec_attach(&self, id: &str, body: &Value) -> Result<Hijacked, Error> {
        self.hijack(Request::new(Method::POST, format!("/exec/{id}/start")).body(Body::json(body))).await
    }

    /// `GET /exec/{id}/json`.
    pub async fn exec_inspect(&self, id: &str) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, format!("/exec/{id}/json"))).await
    }

    /// `POST /exec/{id}/resize`.
    pub async fn exec_resize(&self, id: &str, query: Query) -> Result<(), Error> {
        self.unit(Request::new(Method::POST, format!("/exec/{id}/resize")).query(query)).await
    }

    /// `POST /commit`.
    pub async fn commit(&self, query: Query, body: &Value) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, "/commit").query(query).body(Body::json(body))).await
    }

    /// `POST /{containers|images|networks|volumes|build}/prune`.
    pub async fn prune(&self, what: &str, query: Query) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, format!("/{what}/prune")).query(query)).await
    }

    // Images.

    /// `GET /images/json`.
    pub async fn image_list(&self, query: Query) -> Result<Vec<Value>, Error> {
        self.json(Request::new(Method::GET, "/images/json").query(query)).await
    }

    /// `GET /images/{name}/json`, untouched.
    pub async fn image_inspect_raw(&self, name: &str, query: Query) -> Result<Bytes, Error> {
        self.bytes(Request::new(Method::GET, format!("/images/{}/json", segment(name))).query(query)).await
    }

    /// `GET /images/{name}/history`.
    pub async fn image_history(&self, name: &str, query: Query) -> Result<Vec<Value>, Error> {
        self.json(Request::new(Method::GET, format!("/images/{}/history", segment(name))).query(query)).await
    }

    /// `POST /images/create` from a registry.
    pub async fn image_pull(&self, query: Query, auth: &str) -> Result<JsonLines, Error> {
        let request =
            Request::new(Method::POST, "/images/create").query(query).header("x-registry-auth", auth);
        self.json_lines(request).await
    }

    /// `POST /images/create` from a tar archive.
    pub async fn image_import(&self, query: Query, tar: Body) -> Result<JsonLines, Error> {
        self.json_lines(Request::new(Method::POST, "/images/create").query(query).body(tar)).await
    }

    /// `POST /images/{name}/push`.
    pub async fn image_push(&self, name: &str, query: Query, auth: &str) -> Result<JsonLines, Error> {
        let path = format!("/images/{}/push", segment(name));
        self.json_lines(Request::new(Method::POST, path).query(query).header("x-registry-auth", auth)).await
    }

    /// `POST /images/{name}/tag`.
    pub async fn image_tag(&self, name: &str, repo: &str, tag: &str) -> Result<(), Error> {
        let query = Query::new().with("repo", repo).with_text("tag", tag);
        self.unit(Request::new(Method::POST, format!("/images/{}/tag", segment(name))).query(query)).await
    }

    /// `DELETE /images/{name}`.
    pub async fn image_remove(&self, name: &str, query: Query) -> Result<Vec<Value>, Error> {
        self.json(Request::new(Method::DELETE, format!("/images/{}", segment(name))).query(query)).await
    }

    /// `GET /images/get`.
    pub async fn image_save(&self, query: Query) -> Result<ByteStream, Error> {
        self.stream(Request::new(Method::GET, "/images/get").query(query)).await
    }

    /// `POST /images/load`.
    pub async fn image_load(&self, query: Query, tar: Body) -> Result<JsonLines, Error> {
        self.json_lines(Request::new(Method::POST, "/images/load").query(query).body(tar)).await
    }

    /// `GET /images/search`.
    pub async fn image_search(&self, query: Query, auth: &str) -> Result<Vec<Value>, Error> {
        self.json(Request::new(Method::GET, "/images/search").query(query).header("x-registry-auth", auth))
            .await
    }

    /// `POST /build`.
    pub async fn build(
        &self,
        query: Query,
        registry_config: &str,
        context: Body,
    ) -> Result<JsonLines, Error> {
        let request = Request::new(Method::POST, "/build")
            .query(query)
            .header("x-registry-config", registry_config)
            .body(context);
        self.json_lines(request).await
    }

    // Networks.

    /// `GET /networks`.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Value>, Error> {
        self.json(Request::new(Method::GET, "/networks").query(Query::new().with_filters(filters))).await
    }

    /// `GET /networks/{id}`, untouched.
    pub async fn network_inspect_raw(&self, id: &str, verbose: bool) -> Result<Bytes, Error> {
        let query = if verbose { Query::new().with("verbose", "true") } else { Query::new() };
        self.bytes(Request::new(Method::GET, format!("/networks/{}", segment(id))).query(query)).await
    }

    /// `POST /networks/create`.
    pub async fn network_create(&self, body: &Value) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, "/networks/create").body(Body::json(body))).await
    }

    /// `POST /networks/{id}/{connect|disconnect}`.
    pub async fn network_action(&self, id: &str, action: &str, body: &Value) -> Result<(), Error> {
        let path = format!("/networks/{}/{action}", segment(id));
        self.unit(Request::new(Method::POST, path).body(Body::json(body))).await
    }

    /// `DELETE /networks/{id}`.
    pub async fn network_remove(&self, id: &str) -> Result<(), Error> {
        self.unit(Request::new(Method::DELETE, format!("/networks/{}", segment(id)))).await
    }

    // Volumes.

    /// `GET /volumes`.
    pub async fn volume_list(&self, filters: &Filters) -> Result<Value, Error> {
        self.json(Request::new(Method::GET, "/volumes").query(Query::new().with_filters(filters))).await
    }

    /// `GET /volumes/{name}`, untouched.
    pub async fn volume_inspect_raw(&self, name: &str) -> Result<Bytes, Error> {
        self.bytes(Request::new(Method::GET, format!("/volumes/{}", segment(name)))).await
    }

    /// `POST /volumes/create`.
    pub async fn volume_create(&self, body: &Value) -> Result<Value, Error> {
        self.json(Request::new(Method::POST, "/volumes/create").body(Body::json(body))).await
    }

    /// `DELETE /volumes/{name}`.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), Error> {
        let query = Query::new().with_flag("force", force);
        self.unit(Request::new(Method::DELETE, format!("/volumes/{}", segment(name))).query(query)).await
    }
}

fn path_stat(headers: &http::HeaderMap) -> Result<Value, Error> {
    use base64::Engine as _;
    let bad = || Error::Answer("unable to decode container path stat header".into());
    let text = headers.get("x-docker-container-path-stat").and_then(|v| v.to_str().ok()).ok_or_else(bad)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
}
