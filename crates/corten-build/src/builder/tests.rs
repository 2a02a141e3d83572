//! Whole builds on a real image store; the containers of steps are played by a small interpreter.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use corten_base::db::Db;
use corten_base::event::Bus;
use corten_base::{Cancel, Id, Kind, Platform, Reference};
use corten_image::{Image, Images, ImportRequest, Progress};
use rustix::fs::{Mode, OFlags};

use super::{Builder, tree};
use crate::error::BuildError;
use crate::request::{BuildEvent, BuildRequest};
use crate::step::{Puller, StepError, StepMount, StepRunner, StepSpec, StepStream};

/// Understands `write PATH TEXT`, `cat PATH`, `echo TEXT`, `env`, `mode PATH`, `exit N`, separated by `;`.
pub(super) struct Interpreter {
    images: Images,
    pub(super) steps: Mutex<BTreeMap<String, StepSpec>>,
    /// Every step that ran, for what the builder asked for.
    ran: Mutex<Vec<StepSpec>>,
}

impl Interpreter {
    fn interpret(&self, root: &OwnedFd, spec: &StepSpec, out: &mut dyn FnMut(StepStream, &[u8])) -> i64 {
        let words = spec.config.cmd.clone().unwrap();
        let script = words.last().unwrap().clone();
        for line in script.split([';', '\n']).map(str::trim) {
            let parts: Vec<&str> = line.splitn(3, ' ').collect();
            match parts[..] {
                ["write", path, text] => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                    let fd = rustix::fs::openat(root, &path[1..], flags, Mode::from_raw_mode(0o644)).unwrap();
                    std::fs::File::from(fd).write_all(text.as_bytes()).unwrap();
                }
                ["cat", path] => {
                    out(StepStream::Stdout, &read(root, path, &spec.mounts));
                    out(StepStream::Stdout, b"\n");
                }
                ["/dev/pipes/script"] => {
                    out(StepStream::Stdout, &read(root, "/dev/pipes/script", &spec.mounts));
                }
                ["mode", path] => {
                    let stat = tree::stat(root.as_fd(), &path[1..]).unwrap().unwrap();
                    let text = format!("{:o} {}:{}\n", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
                    out(StepStream::Stdout, text.as_bytes());
                }
                ["env"] => {
                    let env = spec.config.env.clone().unwrap_or_default().join("\n");
                    out(StepStream::Stdout, env.as_bytes());
                }
                ["exit", code] => return code.parse().unwrap(),
                ["true"] | [""] => {}
                _ if line.starts_with("echo ") => {
                    out(StepStream::Stdout, format!("{}\n", &line[5..]).as_bytes())
                }
                _ if line.starts_with("warn ") => {
                    out(StepStream::Stderr, format!("{}\n", &line[5..]).as_bytes())
                }
                _ => panic!("{line:?}"),
            }
        }
        0
    }
}

fn read(root: &OwnedFd, path: &str, mounts: &[StepMount]) -> Vec<u8> {
    for mount in mounts {
        if let StepMount::Bind { source, target, .. } = mount
            && let Some(rest) = path.strip_prefix(target.as_str())
        {
            let rest = rest.trim_start_matches('/');
            let file = if rest.is_empty() { source.clone() } else { source.join(rest) };
            return std::fs::read(file).unwrap();
        }
    }
    let mut bytes = Vec::new();
    let fd = tree::open(root.as_fd(), &path[1..], OFlags::RDONLY).unwrap_or_else(|e| panic!("{path}: {e}"));
    std::fs::File::from(fd).read_to_end(&mut bytes).unwrap();
    bytes
}

impl StepRunner for Interpreter {
    fn create(&self, spec: &StepSpec) -> Result<String, StepError> {
        let id = Id::random();
        self.images.snapshots().prepare(id.as_str(), &spec.image).unwrap();
        self.steps.lock().unwrap().insert(id.to_string(), spec.clone());
        self.ran.lock().unwrap().push(spec.clone());
        Ok(id.to_string())
    }

    fn run(&self, id: &str, out: &mut dyn FnMut(StepStream, &[u8]), _: &Cancel) -> Result<i64, StepError> {
        let spec = self.steps.lock().unwrap()[id].clone();
        let overlay = self.images.snapshots().prepare(id, &spec.image).unwrap();
        let root = self.images.snapshots().mount_detached(&overlay, false).unwrap();
        Ok(self.interpret(&root, &spec, out))
    }

    fn remove(&self, id: &str) -> Result<(), StepError> {
        self.images.snapshots().remove(id).unwrap();
        self.steps.lock().unwrap().remove(id);
        Ok(())
    }
}

pub(super) struct NoRegistry;

impl Puller for NoRegistry {
    fn pull(
        &self,
        r: &Reference,
        _: Option<&Platform>,
        _: &Progress,
        _: &Cancel,
    ) -> Result<Arc<Image>, StepError> {
        Err(StepError::Failed {
            kind: Kind::NotFound,
            message: format!("pull access denied for {}", r.familiar_name()),
        })
    }
}

pub(super) struct Bench {
    pub(super) images: Images,
    pub(super) runner: Arc<Interpreter>,
    pub(super) builder: Builder,
    _runtime: tokio::runtime::Runtime,
    pub(super) dir: tempfile::TempDir,
}

/// What a build said and made.
struct Outcome {
    said: String,
    result: Result<Arc<Image>, BuildError>,
}

impl Outcome {
    fn error(&self) -> String {
        let e = self.result.as_ref().unwrap_err();
        let mut text = e.to_string();
        let mut source = std::error::Error::source(e);
        while let Some(s) = source {
            text = format!("{text}: {s}");
            source = s.source();
        }
        text
    }

    /// As the recorded answers are compared: without the lines that begin with ` ---> `.
    fn tidy(&self) -> String {
        self.said.split_inclusive('\n').filter(|l| !l.starts_with(" ---> ")).collect()
    }
}

/// `None` where we may not mount.
pub(super) fn bench() -> Option<Bench> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("meta.db")).unwrap();
    let images = Images::open(dir.path(), db.clone(), Bus::new()).unwrap();
    let runner =
        Arc::new(Interpreter { images: images.clone(), steps: Mutex::default(), ran: Mutex::default() });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = corten_registry::Client::new(corten_registry::ClientConfig::default());
    let steps: Arc<dyn StepRunner> = runner.clone();
    let root = dir.path().join("build");
    let builder = Builder::new(
        images.clone(),
        db,
        steps,
        client,
        runtime.handle().clone(),
        &root,
        &root.join("private"),
    )
    .unwrap();
    let bench = Bench { images, runner, builder, _runtime: runtime, dir };
    let base = context(&[
        ("etc/passwd", "root:x:0:0::/:\nalice:x:1000:1000::/:\n"),
        ("etc/group", "wheel:x:10:\n"),
        ("lib/x", "x"),
    ]);
    let request = ImportRequest {
        config: Default::default(),
        comment: String::new(),
        reference: Some("base:1".parse().unwrap()),
        platform: None,
    };
    bench.images.import(&mut &base[..], request, &Cancel::new()).unwrap();
    Some(bench)
}

fn context(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_size(text.len() as u64);
        header.set_mtime(1_000_000);
        if let Some(target) = text.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        } else {
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

impl Bench {
    fn build(&self, files: &[(&str, &str)], change: impl FnOnce(&mut BuildRequest)) -> Outcome {
        let mut request = BuildRequest { rm: true, force_rm: true, ..BuildRequest::default() };
        change(&mut request);
        let mut said = String::new();
        let mut say = |event| match event {
            BuildEvent::Stream(text) => said.push_str(&text),
            BuildEvent::Image(_) => said.push_str("<aux>"),
            BuildEvent::Progress(_) => {}
        };
        let result =
            self.builder.build(&mut &context(files)[..], request, &NoRegistry, &mut say, &Cancel::new());
        assert_eq!(
            std::fs::read_dir(self.dir.path().join("build/work")).unwrap().count(),
            0,
            "a context stays"
        );
        assert!(self.images.snapshots().ids().unwrap().is_empty(), "a snapshot stays");
        if let Ok(image) = &result {
            said = said.replace(image.short_id(), "<sid>");
        }
        Outcome { said, result }
    }

    pub(super) fn file(&self, image: &Image, path: &str) -> String {
        let overlay = self.images.snapshots().prepare("look", image).unwrap();
        let root = self.images.snapshots().mount_detached(&overlay, true).unwrap();
        let text = String::from_utf8(read(&root, path, &[])).unwrap();
        drop(root);
        self.images.snapshots().remove("look").unwrap();
        text
    }
}

fn created_by(image: &Image) -> Vec<String> {
    image.config.history.iter().rev().map(|h| h.created_by.clone()).collect()
}

#[test]
fn a_whole_build_reads_as_in_the_reference() {
    let Some(bench) = bench() else { return };
    let file = "FROM base:1\nRUN write /f hi\nENV A=1 B=\"two words\"\nLABEL l=v\nEXPOSE 80 53/udp\nWORKDIR /w\nUSER alice\nVOLUME /data\nSHELL [\"/bin/sh\",\"-ec\"]\nENTRYPOINT [\"echo\"]\nCMD [\"x\"]\n";
    let built = bench.build(&[("Dockerfile", file)], |r| r.tags = vec!["built:1".parse().unwrap()]);
    let image = built.result.as_ref().unwrap();
    assert_eq!(
        built.tidy(),
        "Step 1/11 : FROM base:1\nStep 2/11 : RUN write /f hi\nStep 3/11 : ENV A=1 B=\"two words\"\nStep 4/11 : LABEL l=v\nStep 5/11 : EXPOSE 80 53/udp\nStep 6/11 : WORKDIR /w\nStep 7/11 : USER alice\nStep 8/11 : VOLUME /data\nStep 9/11 : SHELL [\"/bin/sh\",\"-ec\"]\nStep 10/11 : ENTRYPOINT [\"echo\"]\nStep 11/11 : CMD [\"x\"]\n<aux>Successfully built <sid>\nSuccessfully tagged built:1\n"
    );
    assert_eq!(
        created_by(image)[..2],
        ["/bin/sh -ec #(nop)  CMD [\"x\"]", "/bin/sh -ec #(nop)  ENTRYPOINT [\"echo\"]"]
    );
    assert_eq!(created_by(image)[5], "/bin/sh -c #(nop) WORKDIR /w");
    assert_eq!(created_by(image)[9..], ["/bin/sh -c write /f hi", ""]);
    assert_eq!(image.repo_tags(), ["built:1"]);
    assert_eq!(image.layers().len(), 3, "base, RUN and WORKDIR");
    assert_eq!(bench.file(image, "/f"), "hi");
    assert!(
        built.said.contains(" ---> Running in ")
            && built.said.contains(" ---> Removed intermediate container ")
    );

    let again = bench.build(&[("Dockerfile", file)], |_| {});
    assert_eq!(again.said.matches(" ---> Using cache\n").count(), 10, "{}", again.said);
    assert_eq!(again.result.unwrap().id, image.id);
    let fresh = bench.build(&[("Dockerfile", file)], |r| r.no_cache = true);
    assert!(!fresh.said.contains("Using cache"));
    bench.builder.sweep().unwrap();
    bench.builder.prune().unwrap();
    assert!(!bench.build(&[("Dockerfile", file)], |_| {}).said.contains("Using cache"));
}

#[test]
fn arguments_stages_and_triggers() {
    let Some(bench) = bench() else { return };
    let file = "ARG V=1\nFROM base:$V\nARG X=d\nARG Y\nRUN echo X=$X Y=$Y\n";
    let args = |r: &mut BuildRequest| {
        r.build_args = [("Y".into(), Some("yy".into())), ("NOPE".into(), Some("1".into()))].into();
    };
    let built = bench.build(&[("Dockerfile", file)], args);
    assert!(
        built.said.contains("[Warning] One or more build-args [NOPE] were not consumed\n"),
        "{}",
        built.said
    );
    let history = created_by(built.result.as_ref().unwrap());
    assert_eq!(history[0], "|2 X=d Y=yy /bin/sh -c echo X=$X Y=$Y");
    assert!(bench.runner.ran.lock().unwrap()[0].config.env.clone().unwrap().contains(&"Y=yy".to_owned()));

    let file = "FROM base:1 AS one\nRUN write /o from-one\nFROM base:1\nCOPY --from=one /o /p\nCOPY --from=0 /o /q/\nRUN cat /p\n";
    let built = bench.build(&[("Dockerfile", file)], |_| {});
    assert_eq!(
        built.tidy(),
        "Step 1/6 : FROM base:1 AS one\nStep 2/6 : RUN write /o from-one\n<aux>Step 3/6 : FROM base:1\nStep 4/6 : COPY --from=one /o /p\nStep 5/6 : COPY --from=0 /o /q/\nStep 6/6 : RUN cat /p\nfrom-one\n<aux>Successfully built <sid>\n"
    );
    assert_eq!(bench.file(built.result.as_ref().unwrap(), "/q/o"), "from-one");
    let target = bench.build(&[("Dockerfile", file)], |r| r.target = "ONE".into());
    assert!(!target.said.contains("Step 3"));
    assert_eq!(
        bench.build(&[("Dockerfile", file)], |r| r.target = "x".into()).error(),
        "failed to reach build target x in Dockerfile"
    );

    let trigger = "FROM base:1\nONBUILD RUN echo triggered\nONBUILD COPY f /f\n";
    let built = bench.build(&[("Dockerfile", trigger)], |r| r.tags = vec!["trig:1".parse().unwrap()]);
    assert_eq!(built.result.unwrap().config.config.on_build.clone().unwrap().len(), 2);
    let used = bench.build(&[("Dockerfile", "FROM trig:1\n"), ("f", "file")], |_| {});
    assert_eq!(
        used.tidy(),
        "Step 1/1 : FROM trig:1\n# Executing 2 build triggers\ntriggered\n<aux>Successfully built <sid>\n"
    );
    let image = used.result.unwrap();
    assert_eq!(image.config.config.on_build, None);
    assert_eq!(bench.file(&image, "/f"), "file");
}

#[test]
fn copies() {
    let Some(bench) = bench() else { return };
    let archive = context(&[("in/side", "packed")]);
    let archive = String::from_utf8(archive).unwrap();
    let files = [
        (
            "Dockerfile",
            "FROM base:1\nWORKDIR /w\nCOPY a b /dst/\nADD c.tar /unpacked/\nCOPY --chown=alice:wheel --chmod=u=rwx,go= a own\nCOPY d /all\nCOPY --exclude=*.log d /some\nCOPY --parents d/./e/*.txt /tree/\nCOPY *.md /docs/\nCOPY <<E /inline/\nhi $HOME\nE\nCOPY --link a /linked\nCOPY link /through\nRUN mode /w/own; mode /dst/a; mode /dst\n",
        ),
        ("a", "A"),
        ("b", "B"),
        ("c.tar", &archive),
        ("d/x.log", "log"),
        ("d/e/t.txt", "deep"),
        ("d/esc", "-> ../../../../etc/passwd"),
        ("one.md", "1"),
        ("two.md", "2"),
        ("link", "-> /d/e/t.txt"),
    ];
    let built = bench.build(&files, |_| {});
    let image = built.result.as_ref().unwrap_or_else(|_| panic!("{}", built.error()));
    for (path, want) in [
        ("/dst/a", "A"),
        ("/dst/b", "B"),
        ("/unpacked/in/side", "packed"),
        ("/w/own", "A"),
        ("/all/e/t.txt", "deep"),
        ("/tree/e/t.txt", "deep"),
        ("/docs/two.md", "2"),
        ("/inline/E", "hi \n"),
        ("/linked", "A"),
        ("/through", "deep"),
        ("/lib/x", "x"),
    ] {
        assert_eq!(bench.file(image, path), want, "{path}");
    }
    assert!(built.said.contains("700 1000:10\n640 0:0\n755 0:0\n"), "{}", built.said);

    // The same tree at another time is a hit, another content is not.
    let again = bench.build(&files, |_| {});
    assert_eq!(again.said.matches("Using cache").count(), 12, "{}", again.said);
    let mut changed = files;
    changed[2].1 = "B2";
    let miss = bench.build(&changed, |_| {});
    assert_eq!(miss.said.matches("Using cache").count(), 1, "{}", miss.said);
}

#[test]
fn failures_leave_nothing() {
    let Some(bench) = bench() else { return };
    for (lines, want, kind) in [
        ("RUN exit 9", "The command '/bin/sh -c exit 9' returned a non-zero code: 9", Kind::Internal),
        (
            "COPY nope /x",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
            Kind::Internal,
        ),
        ("COPY ../x /x", "COPY failed: forbidden path outside the build context: ../x ()", Kind::Internal),
        (
            "COPY f Dockerfile /x",
            "COPY failed: When using COPY with more than one source file, the destination must be a directory and end with a /",
            Kind::InvalidArgument,
        ),
        ("COPY nothing* /x/", "COPY failed: no source files were specified", Kind::Internal),
        (
            "COPY --from=nope:1 /a /b",
            "invalid from flag value nope:1: pull access denied for nope",
            Kind::NotFound,
        ),
        (
            "COPY --chown=bob f /f",
            "COPY failed: unable to convert uid/gid chown string to host mapping: can't find uid for user bob: no such user: bob",
            Kind::InvalidArgument,
        ),
        ("RUN --mount=type=secret,id=s,required=true true", "secret s: not found", Kind::InvalidArgument),
        (
            "RUN --security=insecure true",
            "RUN --security=insecure is not allowed by this daemon",
            Kind::Unsupported,
        ),
        (
            "ADD git@a.test:x#-y /x",
            "ADD failed: invalid git address \"git@a.test:x#-y\"",
            Kind::InvalidArgument,
        ),
    ] {
        let file = format!("FROM base:1\n{lines}\n");
        let failed = bench.build(&[("Dockerfile", &file), ("f", "f")], |_| {});
        assert_eq!(
            (failed.error().as_str(), failed.result.as_ref().unwrap_err().kind()),
            (want, kind),
            "{lines}"
        );
        assert!(bench.runner.steps.lock().unwrap().is_empty());
    }
    let base = bench.build(&[("Dockerfile", "FROM no-such:1\n")], |_| {});
    assert_eq!(base.error(), "pull access denied for no-such");
    let code =
        bench.build(&[("Dockerfile", "FROM base:1\nRUN exit 7\n")], |_| {}).result.unwrap_err().exit_code();
    assert_eq!(code, Some(7));
    for (files, name, want) in [
        (&[("x", "y")][..], "", "Cannot locate specified Dockerfile: Dockerfile"),
        (&[("Dockerfile", "")], "", "the Dockerfile (Dockerfile) cannot be empty"),
        (&[("Dockerfile", "FROM x")], "../D", "forbidden path outside the build context: ../D ()"),
        (&[("Dockerfile", "RUN x")], "", "no build stage in current context"),
        (&[("Dockerfile", "FROM scratch")], "", "No image was generated. Is your Dockerfile empty?"),
    ] {
        let failed = bench.build(files, |r| r.dockerfile = name.into());
        assert_eq!(failed.error(), want);
    }
}

#[test]
fn mounts_quiet_and_scratch() {
    let Some(bench) = bench() else { return };
    let file = "FROM base:1\nRUN --mount=type=bind,source=d,target=/m --mount=type=tmpfs,target=/t --mount=type=cache,target=/c --mount=type=secret,id=x cat /m/f\nRUN <<EOF\necho a\necho b\nEOF\nRUN <<S\n#!/bin/sh\necho c\nS\n";
    let built = bench.build(&[("Dockerfile", file), ("d/f", "bound\n")], |r| r.network = "none".into());
    assert!(built.result.is_ok() && built.said.contains("#!/bin/sh\necho c\n"), "{}", built.said);
    assert!(built.said.contains("bound\n") && built.said.contains("a\nb\n"), "{}", built.said);
    let ran = bench.runner.ran.lock().unwrap().clone();
    assert_eq!(ran[0].mounts.len(), 3);
    assert_eq!(ran[0].network, "none");
    assert!(matches!(&ran[2].mounts[0], StepMount::Bind { target, .. } if target == "/dev/pipes"));

    // The classic builder shows what a step writes to standard error in red.
    let red = bench.build(&[("Dockerfile", "FROM base:1\nRUN warn careful\n")], |_| {});
    assert!(red.said.contains("\u{1b}[91mcareful\n\u{1b}[0m"), "{}", red.said);
    let quiet = bench.build(&[("Dockerfile", "FROM base:1\nRUN echo x\n")], |r| r.quiet = true);
    let id = quiet.result.unwrap().id.to_string();
    assert_eq!(quiet.said.replace("<sid>", &id["sha256:".len()..][..12]), format!("{id}\n"));
    let failed = bench.build(&[("Dockerfile", "FROM base:1\nRUN exit 3\n")], |r| r.quiet = true);
    assert!(failed.said.contains("Step 2/2"));

    let scratch = bench.build(&[("Dockerfile", "FROM scratch\nCOPY f /\nCMD [\"/f\"]\n"), ("f", "F")], |r| {
        r.labels = [("q".into(), "r'$x".into())].into();
    });
    let image = scratch.result.as_ref().unwrap_or_else(|_| panic!("{}", scratch.error()));
    assert_eq!(image.layers().len(), 1);
    assert_eq!(image.labels().get("q").map(String::as_str), Some("r'$x"));
    assert!(scratch.said.contains("Step 4/4 : LABEL \"q\"='r'$x'\n"), "{}", scratch.said);
}

#[test]
fn links_lead_nowhere_outside() {
    let Some(bench) = bench() else { return };
    let outside = bench.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let link = format!("-> {}", outside.display());
    let climbing = format!("-> ../../../../../../../..{}", outside.display());
    let files = |dockerfile: &'static str| {
        [
            ("Dockerfile", dockerfile),
            ("a", "A"),
            ("esc", link.as_str()),
            ("climb", climbing.as_str()),
            ("evil/out", link.as_str()),
        ]
    };
    // Links of the context are resolved within the context, and there is no such thing there.
    for source in ["COPY esc /x", "COPY esc/secret /x", "COPY climb/secret /x", "ADD esc/secret /x"] {
        let file: &'static str = Box::leak(format!("FROM base:1\n{source}\n").into_boxed_str());
        let failed = bench.build(&files(file), |_| {});
        assert!(failed.error().contains("file does not exist"), "{source}: {}", failed.error());
    }
    let bind = "FROM base:1\nRUN --mount=type=bind,source=esc,target=/m cat /m/secret\n";
    assert!(bench.build(&files(bind), |_| {}).error().contains("not found"));
    // Links of the image are resolved within the image: what is copied through them stays in it.
    let into = "FROM base:1\nCOPY evil /\nCOPY a /out/made\nWORKDIR /out/dir\n";
    let made = bench.build(&files(into), |_| {});
    assert_eq!(
        bench.file(made.result.as_ref().unwrap_or_else(|_| panic!("{}", made.error())), "/out/made"),
        "A"
    );
    let names: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"], "something was written outside");
}

/// CVE-2024-24557: an image that claims in its history to be the result of a step is no cache hit.
#[test]
fn claims_of_images_are_not_believed() {
    let Some(bench) = bench() else { return };
    let base = bench.images.resolve("base:1").unwrap();
    let mut config = (*base.config).clone();
    config.history.push(corten_wire::oci_image::History {
        created_by: "/bin/sh -c write /f good".into(),
        empty_layer: true,
        ..Default::default()
    });
    config.config.labels = Some([("poisoned".to_owned(), "yes".to_owned())].into());
    let claim = corten_image::NewImage {
        config,
        layers: base.layers(),
        parent: Some(base.id.clone()),
        references: vec!["poison:1".parse().unwrap()],
        ..corten_image::NewImage::default()
    };
    bench.images.create_image(claim).unwrap();
    let built = bench.build(&[("Dockerfile", "FROM base:1\nRUN write /f good\n")], |_| {});
    assert!(!built.said.contains("Using cache"), "{}", built.said);
    assert!(!built.result.unwrap().labels().contains_key("poisoned"));
}
