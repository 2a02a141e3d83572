//! Builds that are over: `docker buildx history`.
//!
//! ```text
//!   <data root>/build/history/<ref>.record          BuildHistoryRecord
//!                             <ref>.log             StatusResponse…, each after its length
//!                             <ref>.<hex>.blob      what the record points to (provenance)
//! ```
//! On disk only, so that a daemon that rests keeps nothing of it in memory. The last fifty builds of a week are kept,
//! and those that are pinned. Traces are not taken; `export` has nothing to write.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, BuildResultInfo,
    Descriptor, SolveRequest, StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse,
};
use corten_base::Digest;
use corten_base::fs::{Durability, ensure_absent, replace};
use prost::Message;

use super::export;
use super::job::Job;
use super::progress::{Summary, now, timestamp};
use crate::grpc::{Code, Status};
use crate::services::Services;

/// Builds that are kept, and for how long.
const BUILDS: usize = 50;
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Largest file that is read.
const LARGEST: u64 = 64 << 20;

fn unknown(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

/// The records of one daemon.
#[derive(Debug, Clone)]
pub(super) struct History {
    directory: PathBuf,
}

/// A reference that is a file's name: clients make them of letters and digits.
fn file_name(reference: &str) -> Option<&str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    (!reference.is_empty() && reference.len() <= 128 && reference.bytes().all(fits)).then_some(reference)
}

impl History {
    pub(super) fn of(services: &Services) -> Self {
        Self { directory: services.builder.root().join("history") }
    }

    fn path(&self, reference: &str, end: &str) -> Option<PathBuf> {
        Some(self.directory.join(format!("{}.{end}", file_name(reference)?)))
    }

    /// Keeps a build. Blocks.
    fn keep(
        &self,
        record: &BuildHistoryRecord,
        log: &[Arc<StatusResponse>],
        blob: Option<&[u8]>,
    ) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |e: corten_base::fs::FileError| io::Error::other(e);
        let Some(path) = self.path(&record.r#ref, "record") else { return Ok(()) };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        if let Some(blob) = blob {
            let end = format!("{}.blob", Digest::of(blob).hex());
            let path = self.path(&record.r#ref, &end).unwrap_or_else(|| path.clone());
            replace(&path, blob, 0o600, Durability::Process).map_err(failed)?;
        }
        let mut bytes = Vec::new();
        for message in log {
            message.encode_length_delimited(&mut bytes).map_err(io::Error::other)?;
        }
        replace(&path.with_extension("log"), &bytes, 0o600, Durability::Process).map_err(failed)?;
        replace(&path, &record.encode_to_vec(), 0o600, Durability::Process).map_err(failed)?;
        self.forget_old()
    }

    /// All records, the youngest first. What cannot be read is none.
    fn all(&self) -> Vec<BuildHistoryRecord> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let paths = entries.filter_map(Result::ok).map(|e| e.path());
        let records = paths.filter(|p| p.extension().is_some_and(|e| e == "record"));
        let mut all: Vec<BuildHistoryRecord> = records.filter_map(|p| read(&p)).collect();
        all.sort_by_key(|r| std::cmp::Reverse(r.created_at.map(|t| (t.seconds, t.nanos))));
        all
    }

    fn get(&self, reference: &str) -> Option<BuildHistoryRecord> {
        read(&self.path(reference, "record")?)
    }

    fn forget_old(&self) -> io::Result<()> {
        let oldest = SystemTime::now().checked_sub(AGE).unwrap_or(SystemTime::UNIX_EPOCH);
        let oldest = oldest.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let free = self.all().into_iter().filter(|r| !r.pinned).enumerate();
        for (place, record) in free {
            let at = record.created_at.map_or(0, |t| u64::try_from(t.seconds).unwrap_or_default());
            if place >= BUILDS || at < oldest {
                self.forget(&record.r#ref)?;
            }
        }
        Ok(())
    }

    /// Removes a build; says whether there was one.
    fn forget(&self, reference: &str) -> io::Result<bool> {
        let Some(name) = file_name(reference) else { return Ok(false) };
        let mut any = false;
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
                ensure_absent(&path).map_err(io::Error::other)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// What a build said, if it is here. Blocks.
    pub(super) fn log(&self, reference: &str) -> Option<Vec<StatusResponse>> {
        let bytes = read_file(&self.path(reference, "log")?)?;
        let (mut rest, mut out) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            out.push(StatusResponse::decode_length_delimited(&mut rest).ok()?);
        }
        Some(out)
    }

    /// What a record points to. Blocks.
    pub(super) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let end = format!(".{}.blob", digest.parse::<Digest>().ok()?.hex());
        let entries = std::fs::read_dir(&self.directory).ok()?;
        let mut paths = entries.filter_map(Result::ok).map(|e| e.path());
        read_file(&paths.find(|p| p.to_string_lossy().ends_with(&end))?)
    }
}

fn read_file(path: &Path) -> Option<Vec<u8>> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.len() > LARGEST { None } else { std::fs::read(path).ok() }
}

fn read(path: &Path) -> Option<BuildHistoryRecord> {
    BuildHistoryRecord::decode(&read_file(path)?[..]).ok()
}

/// Keeps a build that is over.
pub(super) async fn keep(
    services: &Services,
    job: &Job,
    request: &SolveRequest,
    outcome: Result<&std::collections::HashMap<String, String>, &Status>,
    provenance: Option<(String, Vec<u8>)>,
) {
    let Summary { messages, total, cached, completed, warnings } = job.progress.summary();
    let mut attributes = job.attributes();
    if attributes.is_empty() {
        attributes.clone_from(&request.frontend_attrs);
    }
    let result = provenance.as_ref().map(|(kind, blob)| BuildResultInfo {
        attestations: vec![Descriptor {
            media_type: "application/vnd.in-toto+json".into(),
            digest: Digest::of(blob).to_string(),
            size: i64::try_from(blob.len()).unwrap_or(i64::MAX),
            annotations: [("in-toto.io/predicate-type".to_owned(), kind.clone())].into(),
        }],
        ..BuildResultInfo::default()
    });
    let record = BuildHistoryRecord {
        r#ref: job.reference.clone(),
        frontend: "dockerfile.v0".into(),
        frontend_attrs: attributes,
        exporters: export::exporters(request),
        error: outcome.err().map(|e| rpc::Status {
            code: e.code,
            message: e.message.clone(),
            details: e.details.clone(),
        }),
        created_at: Some(timestamp(job.started_ns)),
        completed_at: Some(now()),
        exporter_response: outcome.ok().cloned().unwrap_or_default(),
        result,
        generation: 1,
        num_cached_steps: cached,
        num_total_steps: total,
        num_completed_steps: completed,
        num_warnings: warnings,
        ..BuildHistoryRecord::default()
    };
    let history = History::of(services);
    let kept = tokio::task::spawn_blocking(move || {
        history.keep(&record, &messages, provenance.as_ref().map(|(_, blob)| &blob[..]))
    });
    match kept.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "could not keep the record of a build"),
        Err(error) => tracing::warn!(%error, "could not keep the record of a build"),
    }
}

/// `ListenBuildHistory`: the builds there are. Nobody is told of those to come: clients that want that ask again.
pub(super) async fn list(
    services: &Services,
    request: BuildHistoryRequest,
) -> Result<Vec<BuildHistoryEvent>, Status> {
    let conditions = conditions(&request.filter)?;
    let history = History::of(services);
    let records = tokio::task::spawn_blocking(move || match request.r#ref.as_str() {
        "" => history.all(),
        one => history.get(one).into_iter().collect(),
    });
    let records = records.await.map_err(Status::protocol)?;
    let limit = usize::try_from(request.limit).ok().filter(|l| *l > 0).unwrap_or(usize::MAX);
    let wanted = |r: &BuildHistoryRecord| !request.active_only && conditions.iter().all(|c| c.fits(r));
    let event =
        |record| BuildHistoryEvent { r#type: BuildHistoryEventType::Complete as i32, record: Some(record) };
    Ok(records.into_iter().filter(wanted).take(limit).map(event).collect())
}

/// One condition of a filter.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Status(String, bool),
    Reference(String),
}

/// `status==error,ref==…`, as clients translate `--filter`.
fn conditions(filters: &[String]) -> Result<Vec<Condition>, Status> {
    let parts =
        filters.iter().flat_map(|f| f.split(',')).map(|p| p.trim_matches('"')).filter(|p| !p.is_empty());
    parts
        .map(|part| {
            let equal = part.split_once("==").map(|(n, v)| (n, v, true));
            match equal.or_else(|| part.split_once("!=").map(|(n, v)| (n, v, false))) {
                Some(("status", value, equal)) => Ok(Condition::Status(value.to_owned(), equal)),
                Some(("ref", value, true)) => Ok(Condition::Reference(value.to_owned())),
                _ => Err(unknown(format!("history filter {part:?} is not supported by this daemon"))),
            }
        })
        .collect()
}

impl Condition {
    fn fits(&self, record: &BuildHistoryRecord) -> bool {
        match self {
            Self::Status(value, equal) => {
                let status = match &record.error {
                    None => "completed",
                    Some(e) if e.code == Code::Cancelled as i32 => "canceled",
                    Some(_) => "error",
                };
                (status == value) == *equal
            }
            Self::Reference(value) => record.r#ref == *value,
        }
    }
}

/// `UpdateBuildHistory`.
pub(super) async fn update(
    services: &Services,
    request: UpdateBuildHistoryRequest,
) -> Result<UpdateBuildHistoryResponse, Status> {
    let history = History::of(services);
    let updated = tokio::task::spawn_blocking(move || {
        let missing = || {
            Status::new(Code::NotFound, format!("failed to retrieve bucket for {}: not found", request.r#ref))
        };
        if request.delete {
            return match history.forget(&request.r#ref) {
                Ok(true) => Ok(()),
                Ok(false) => Err(missing()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing()),
                Err(e) => Err(unknown(e.to_string())),
            };
        }
        // There is no trace that would have to be completed.
        if request.finalize {
            return Ok(());
        }
        let mut record = history.get(&request.r#ref).ok_or_else(missing)?;
        record.pinned = request.pinned;
        record.generation += 1;
        let path = history.path(&request.r#ref, "record").ok_or_else(missing)?;
        replace(&path, &record.encode_to_vec(), 0o600, Durability::Process)
            .map_err(|e| unknown(e.to_string()))
    });
    updated.await.map_err(Status::protocol)?.map(|()| UpdateBuildHistoryResponse {})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reference: &str, seconds: i64) -> BuildHistoryRecord {
        BuildHistoryRecord {
            r#ref: reference.to_owned(),
            created_at: Some(timestamp(i128::from(seconds) * 1_000_000_000)),
            ..BuildHistoryRecord::default()
        }
    }

    #[test]
    fn builds_are_kept_and_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let history = History { directory: dir.path().join("history") };
        assert!(history.all().is_empty());
        let today = now().seconds;
        let log = [Arc::new(StatusResponse::default()), Arc::new(StatusResponse::default())];
        history.keep(&record("old", 1000), &log, None).unwrap();
        assert!(history.all().is_empty(), "older than a week");
        for n in 0..i64::try_from(BUILDS).unwrap() + 2 {
            history
                .keep(&record(&format!("b{n}"), today + n), &log, Some(format!("{n}").as_bytes()))
                .unwrap();
        }
        let all = history.all();
        assert_eq!((all.len(), all[0].r#ref.as_str()), (BUILDS, "b51"));
        assert_eq!(history.log("b51").unwrap().len(), 2);
        assert_eq!(history.blob(Digest::of(b"51").as_str()).unwrap(), b"51");
        assert!(history.get("b0").is_none() && history.blob(Digest::of(b"0").as_str()).is_none());
        assert!(history.forget("b51").unwrap() && !history.forget("b51").unwrap());
        assert!(history.get("b5").is_some(), "the beginning of a name is not the name");
        for bad in ["", "../x", "a/b", "a.b"] {
            assert_eq!(file_name(bad), None);
        }
    }

    #[test]
    fn filters() {
        let mut failed = record("a", 1);
        failed.error = Some(rpc::Status { code: 2, ..rpc::Status::default() });
        for (filter, want) in [
            ("status==error", true),
            ("status!=error", false),
            ("status==completed", false),
            ("ref==a", true),
        ] {
            let conditions = conditions(&[filter.to_owned()]).unwrap();
            assert_eq!(conditions.iter().all(|c| c.fits(&failed)), want, "{filter}");
        }
        assert!(conditions(&["repository==x".to_owned()]).is_err());
    }
}
