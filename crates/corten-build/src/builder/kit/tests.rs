//! Builds by BuildKit's rules, with a client in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use corten_base::Cancel;
use corten_image::LayerCompression;
use corten_wire::oci_image::Descriptor;

use super::super::tests::{Bench, NoRegistry, bench};
use super::super::{ImportedCache, LayerSource, RemoteCache};
use super::{ImageOptions, LayerForm};
use crate::error::BuildError;
use crate::solve::{
    BuildClient, ContextSource, FileSink, FileStat, FilesWanted, SolveError, SolveEvent, SolveEventKind,
    SolveRequest, Solved,
};
use crate::step::StepError;

/// Has files and secrets; knows what it was asked for.
#[derive(Default)]
struct Client {
    files: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    sent: Mutex<Vec<String>>,
}

impl BuildClient for Client {
    fn files(&self, wanted: &FilesWanted<'_>, sink: &mut dyn FileSink, _: &Cancel) -> Result<(), BuildError> {
        let ignore = corten_base::ignore::Ignore::from_patterns(wanted.exclude.iter().map(String::as_str));
        let ignore = ignore.unwrap();
        let is_wanted = |path: &str| {
            let follow = wanted.follow;
            !ignore.excludes(path)
                && (follow.is_empty() || follow.iter().any(|f| path.starts_with(f.as_str())))
        };
        for (number, (path, text)) in self.files.iter().filter(|(p, _)| is_wanted(p)).enumerate() {
            let stat = FileStat {
                path: path.clone(),
                mode: 0o100_644,
                size: text.len() as u64,
                modified_ns: 1_000_000_000,
                ..FileStat::default()
            };
            if sink.stat(stat)? {
                self.sent.lock().unwrap().push(path.clone());
                let number = u32::try_from(number).unwrap();
                sink.data(number, text.as_bytes())?;
                sink.data(number, b"")?;
            }
        }
        Ok(())
    }

    fn shared_key(&self, directory: &str) -> String {
        if directory == "context" { "key".to_owned() } else { String::new() }
    }

    fn upload(&self, _: &str, _: &mut dyn std::io::Write, _: &Cancel) -> Result<(), BuildError> {
        Err(BuildError::Client("nothing to send".into()))
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, StepError> {
        Ok(self.secrets.get(id).map(|s| s.clone().into_bytes()))
    }

    fn ssh(&self, _: &str, _: std::os::unix::net::UnixListener) -> Result<Option<Box<dyn Send>>, StepError> {
        Ok(None)
    }
}

struct Outcome {
    events: Vec<SolveEvent>,
    result: Result<Vec<Solved>, SolveError>,
}

impl Outcome {
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .events
            .iter()
            .filter_map(|e| match &e.what {
                SolveEventKind::Started { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn cached(&self) -> usize {
        self.events.iter().filter(|e| e.what == SolveEventKind::Cached).count()
    }

    fn output(&self) -> String {
        let bytes = self.events.iter().filter_map(|e| match &e.what {
            SolveEventKind::Output(_, bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        });
        bytes.collect()
    }

    fn solved(&self) -> &Solved {
        &self.result.as_ref().unwrap_or_else(|e| panic!("{}", e.text()))[0]
    }
}

fn solve(bench: &Bench, client: &Client, change: impl FnOnce(&mut SolveRequest)) -> Outcome {
    let mut request = SolveRequest {
        context: ContextSource::Local("context".into()),
        dockerfile_directory: Some("dockerfile".into()),
        ..SolveRequest::default()
    };
    change(&mut request);
    let events = Mutex::new(Vec::new());
    let say = |event| events.lock().unwrap().push(event);
    let result = bench.builder.solve(&request, client, &NoRegistry, &say, &Cancel::new());
    assert_eq!(std::fs::read_dir(bench.dir.path().join("build/work")).unwrap().count(), 0, "work stays");
    assert!(bench.images.snapshots().ids().unwrap().is_empty(), "a snapshot stays");
    assert!(bench.runner.steps.lock().unwrap().is_empty(), "a container stays");
    Outcome { events: events.into_inner().unwrap(), result }
}

fn client(files: &[(&str, &str)]) -> Client {
    let files = files.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Client { files, ..Client::default() }
}

#[test]
fn only_what_is_needed_runs_and_the_same_again_is_cached() {
    let Some(bench) = bench() else { return };
    let file = "FROM base:1 AS a\nARG X=1\nENV E=$X\nRUN write /f $X; echo ran-a\n\
                FROM base:1 AS never\nRUN exit 1\n\
                FROM base:1\nLABEL l=v\nCOPY --from=a /f /g\nCOPY x /x\nRUN cat /g\nCMD [\"c\"]\n";
    let client = client(&[("Dockerfile", file), ("x", "X"), ("unused", "u"), (".dockerignore", "nothing\n")]);
    let first = solve(&bench, &client, |_| {});
    assert_eq!(
        first.names(),
        [
            "[a 1/2] FROM docker.io/library/base:1",
            "[a 2/2] RUN write /f $X; echo ran-a",
            "[internal] load .dockerignore",
            "[internal] load build context",
            "[internal] load build definition from Dockerfile",
            "[internal] load metadata for docker.io/library/base:1",
            "[stage-2 1/4] FROM docker.io/library/base:1",
            "[stage-2 2/4] COPY --from=a /f /g",
            "[stage-2 3/4] COPY x /x",
            "[stage-2 4/4] RUN cat /g",
        ],
        "{}",
        first.solved().created
    );
    let sent = std::mem::take(&mut *client.sent.lock().unwrap());
    assert_eq!(sent, ["Dockerfile", ".dockerignore", "x"], "what no command takes is not sent");
    let by: Vec<&str> = first.solved().history.iter().map(|h| h.created_by.as_str()).collect();
    assert_eq!(
        by[1..5],
        ["LABEL l=v", "COPY /f /g # buildkit", "COPY x /x # buildkit", "RUN /bin/sh -c cat /g # buildkit"]
    );
    // A label changes nothing that a command sees; the same build is the same image.
    let again = solve(&bench, &client, |_| {});
    assert_eq!(again.cached(), first.cached() + 4);
    assert_eq!(client.sent.lock().unwrap().concat(), "Dockerfile.dockerignore", "x is here already");
    let image = |s: &Solved| {
        let options = ImageOptions { cached: true, ..ImageOptions::default() };
        bench.builder.image_of(&[Arc::new(s.clone())], options, &Cancel::new()).unwrap().id.clone()
    };
    assert_eq!(image(again.solved()), image(first.solved()));
    assert_eq!(bench.images.count(), 1, "steps are no images");
    let other = solve(&bench, &client, |r| r.build_args = [("X".to_owned(), "2".to_owned())].into());
    assert_eq!(other.cached(), first.cached() + 3, "what the command made is the same");
    assert_eq!(solve(&bench, &client, |r| r.no_cache = Some(vec!["a".into()])).cached(), first.cached() + 3);
    assert_eq!(solve(&bench, &client, |r| r.no_cache = Some(Vec::new())).cached(), first.cached());
}

#[test]
fn failures_know_their_place() {
    let Some(bench) = bench() else { return };
    for (file, text, lines) in [
        (
            "FROM base:1\nRUN exit 7\n",
            "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7",
            Some((2, 2)),
        ),
        (
            "FROM base:1\nRUN \\\n exit 7\n",
            "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7",
            Some((2, 3)),
        ),
        (
            "FROM base:1\nXYZZY x\n",
            "dockerfile parse error on line 2: unknown instruction: XYZZY",
            Some((2, 2)),
        ),
        (
            "FROM no-such:1\n",
            "docker.io/library/no-such:1: failed to resolve source metadata for docker.io/library/no-such:1: pull access denied for no-such",
            Some((1, 1)),
        ),
        (
            "FROM base:1 AS a\nRUN --mount=type=secret,id=s,required=true true\n",
            "secret s: not found",
            Some((2, 2)),
        ),
    ] {
        let failed = solve(&bench, &client(&[("Dockerfile", file)]), |_| {}).result.unwrap_err();
        assert_eq!((failed.text().as_str(), failed.place.map(|(_, l)| l)), (text, lines));
    }
    let failed = solve(&bench, &client(&[]), |_| {}).result.unwrap_err();
    assert_eq!(failed.text(), "failed to read dockerfile: open Dockerfile: no such file or directory");
}

#[test]
fn secrets_live_in_their_step() {
    let Some(bench) = bench() else { return };
    let file =
        "FROM base:1\nRUN --mount=type=secret,id=s --mount=type=secret,id=t,env=T cat /run/secrets/s; env\n";
    let mut client = client(&[("Dockerfile", file)]);
    client.secrets = [("s", "one"), ("t", "two")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let done = solve(&bench, &client, |_| {});
    assert!(done.solved().layers.len() == 1 && done.output().starts_with("one\n"), "{}", done.output());
    assert!(done.output().contains("T=two"));
    let private = bench.dir.path().join("build/private");
    assert_eq!(std::fs::read_dir(private).unwrap().count(), 0, "a secret stays");
}

#[test]
fn the_cache_is_listed_and_let_go() {
    let Some(bench) = bench() else { return };
    let file = "FROM base:1\nRUN write /f 1\nRUN --mount=type=cache,target=/c true\nCOPY x /x\n";
    let client = client(&[("Dockerfile", file), ("x", "X")]);
    let made = solve(&bench, &client, |_| {});
    let options = ImageOptions { references: vec!["kept:1".parse().unwrap()], ..ImageOptions::default() };
    let image = bench.builder.image_of(&[Arc::new(made.solved().clone())], options, &Cancel::new()).unwrap();
    let kinds = |bench: &Bench| {
        let mut kinds: Vec<_> = bench.builder.cache_entries().unwrap().into_iter().map(|e| e.kind).collect();
        kinds.sort_unstable();
        kinds
    };
    assert_eq!(kinds(&bench), ["exec.cachemount", "regular", "regular", "regular", "source.local"]);
    let young = crate::CachePrune { keep_ns: i64::MAX / 2, ..crate::CachePrune::default() };
    assert_eq!(bench.builder.prune_cache(&young, &|_| true).unwrap(), []);
    let gone = bench.builder.prune_cache(&crate::CachePrune::default(), &|e| e.kind == "regular").unwrap();
    assert_eq!((gone.len(), kinds(&bench).len()), (3, 2));
    assert_eq!(bench.file(&Arc::clone(&image), "/x"), "X", "an image keeps its layers");
    assert_eq!(solve(&bench, &client, |_| {}).cached(), 1, "the base only");
    bench.builder.prune().unwrap();
    assert_eq!(kinds(&bench), [] as [&str; 0]);
}

#[derive(Debug)]
struct Blobs(BTreeMap<corten_base::Digest, Vec<u8>>);

impl LayerSource for Blobs {
    fn open<'a>(
        &'a self,
        blob: &Descriptor,
        _: &'a Cancel,
    ) -> Result<Box<dyn std::io::Read + Send + 'a>, BuildError> {
        let bytes = self.0.get(&blob.digest).ok_or_else(|| BuildError::invalid("no such blob"))?;
        Ok(Box::new(&bytes[..]))
    }
}

#[test]
fn a_cache_elsewhere_is_as_good_as_ours() {
    use std::io::Read;
    let Some(bench) = bench() else { return };
    let file = "FROM base:1 AS a\nRUN write /f 1; echo ran-a\nFROM base:1\nCOPY --link --from=a /f /g\nRUN write /h 2; echo ran-h\nRUN true\n";
    let client = client(&[("Dockerfile", file)]);
    let first = solve(&bench, &client, |_| {});
    let steps = &first.solved().build.steps;
    assert_eq!((steps.len(), first.solved().steps.len()), (4, 3));
    for (steps, want) in [(steps, ""), (&first.solved().steps, "ran-a\n")] {
        let cache = RemoteCache::of(steps);
        let blobs = cache.layers.iter().map(|l| {
            let mut bytes = Vec::new();
            bench.images.open_blob(&l.digest).unwrap().read_to_end(&mut bytes).unwrap();
            (l.digest.clone(), bytes)
        });
        let blobs = Blobs(blobs.collect());
        let imported =
            |blobs| Arc::new(ImportedCache::parse(&cache.config, &cache.layers, Arc::new(blobs)).unwrap());
        bench.builder.prune().unwrap();
        let mut spoilt = Blobs(blobs.0.clone());
        spoilt.0.values_mut().for_each(|b| *b = b"no layer".to_vec());
        let again = solve(&bench, &client, |r| r.caches = vec![imported(spoilt), imported(blobs)]);
        assert_eq!(again.output(), want);
        assert_eq!(again.solved().layers, first.solved().layers);
    }
}

#[test]
fn several_platforms_share_what_is_the_same() {
    let Some(bench) = bench() else { return };
    let file = "FROM --platform=$BUILDPLATFORM base:1 AS a\nRUN write /f same; echo shared\nARG TARGETARCH\n\
                RUN write /g $TARGETARCH; echo for-$TARGETARCH\nFROM scratch\nCOPY --from=a /g /g\n";
    let client = client(&[("Dockerfile", file)]);
    let platforms = ["linux/amd64", "linux/arm64"].map(|p| p.parse().unwrap());
    let made = solve(&bench, &client, |r| r.platforms = platforms.to_vec());
    let all = made.result.as_ref().unwrap_or_else(|e| panic!("{}", e.text()));
    assert_eq!(all.iter().map(|s| s.platform.clone()).collect::<Vec<_>>(), platforms);
    assert_eq!(made.output().matches("shared\n").count(), 1, "{}", made.output());
    assert_eq!(made.output().matches("for-").count(), 2, "{}", made.output());
    assert!(made.names().iter().any(|n| n.starts_with("[linux/")), "{:?}", made.names());
    let options =
        ImageOptions { index: true, references: vec!["both:1".parse().unwrap()], ..ImageOptions::default() };
    let results: Vec<_> = all.iter().map(|s| Arc::new(s.clone())).collect();
    let image = bench.builder.image_of(&results, options, &Cancel::new()).unwrap();
    assert_eq!(bench.images.manifests(&image).unwrap().len(), 2);
    let options = ImageOptions { cached: true, ..ImageOptions::default() };
    let image_of_first = bench.builder.image_of(&results[..1], options, &Cancel::new()).unwrap();
    // The same in other forms.
    for (compression, end) in
        [(LayerCompression::Zstd, "zstd"), (LayerCompression::None, "tar"), (LayerCompression::Gzip, "gzip")]
    {
        let form = LayerForm {
            compression: Some(compression),
            level: Some(3),
            epoch: Some(1_000_000),
            ..LayerForm::default()
        };
        let options = ImageOptions { form, cached: true, ..ImageOptions::default() };
        let image = bench.builder.image_of(&results[..1], options, &Cancel::new()).unwrap();
        let layer = image.layers().pop().unwrap();
        assert!(layer.blob.media_type.ends_with(end), "{}", layer.blob.media_type);
        assert_ne!(layer.diff_id, all[0].layers[0].diff_id, "its files are older");
        assert_eq!(bench.file(&image, "/g"), bench.file(&image_of_first, "/g"));
    }
    let failed = solve(&bench, &client, |r| {
        r.platforms = platforms.to_vec();
        r.target = "none".into();
    });
    assert_eq!(failed.result.unwrap_err().text(), "target stage \"none\" could not be found");
}
