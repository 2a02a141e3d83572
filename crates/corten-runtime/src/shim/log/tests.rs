//! Records, cuts, escapes and rotation.

use std::collections::BTreeMap;

use super::*;

const NOW: i128 = 1_700_000_000_000_000_000;

fn logging(path: PathBuf) -> Logging {
    Logging { path, max_file: 1, ..Logging::default() }
}

fn recorded(f: impl FnOnce(&mut LogWriter)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.log");
    let mut writer = LogWriter::open(&logging(path.clone())).unwrap().unwrap();
    f(&mut writer);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn lines_and_their_ends() {
    let text = recorded(|w| {
        w.write(Stream::Stdout, b"one\ntw", NOW).unwrap();
        w.write(Stream::Stderr, b"bad\n", NOW).unwrap();
        w.write(Stream::Stdout, b"o\nlast", NOW).unwrap();
        w.finish(Stream::Stdout, NOW).unwrap();
        w.finish(Stream::Stderr, NOW).unwrap();
    });
    let time = "2023-11-14T22:13:20Z";
    let want = [("one\\n", "stdout"), ("bad\\n", "stderr"), ("two\\n", "stdout"), ("last", "stdout")]
        .map(|(log, stream)| format!("{{\"log\":\"{log}\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n"));
    assert_eq!(text, want.concat());
}

#[test]
fn long_lines_are_cut_at_16_kib() {
    let text = recorded(|w| {
        w.write(Stream::Stdout, &[b'a'; 10_000], NOW).unwrap();
        w.write(Stream::Stdout, &[b'a'; 10_000], NOW).unwrap();
        w.write(Stream::Stdout, b"\n", NOW).unwrap();
    });
    let lengths: Vec<usize> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["log"].as_str().unwrap().len())
        .collect();
    assert_eq!(lengths, [16_384, 20_000 - 16_384 + 1]);
}

#[test]
fn escapes() {
    let mut out = Vec::new();
    escape("q\" b\\ t\t <&> \u{1} ü € \u{2028}".as_bytes(), &mut out);
    escape(b"\xff\xc3", &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, r#"q\" b\\ t\t \u003c\u0026\u003e \u0001 ü € \u2028\ufffd\ufffd"#);
}

#[test]
fn attributes_come_before_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.log");
    let attrs = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let mut writer = LogWriter::open(&Logging { attrs, ..logging(path.clone()) }).unwrap().unwrap();
    writer.write(Stream::Stdout, b"x\n", NOW).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(r#""stream":"stdout","attrs":{"k":"v"},"time""#), "{text}");
}

#[test]
fn rotation_keeps_the_newest_and_compresses_older_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.log");
    let rotating = Logging { max_size: Some(1000), max_file: 3, compress: true, ..logging(path.clone()) };
    let mut writer = LogWriter::open(&rotating).unwrap().unwrap();
    for i in 0..100 {
        writer.write(Stream::Stdout, format!("line {i}\n").as_bytes(), NOW).unwrap();
    }
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["x.log", "x.log.1", "x.log.2.gz"]);
    assert!(std::fs::read_to_string(&path).unwrap().contains("line 99\\n"));
    assert!(std::fs::metadata(dir.path().join("x.log.1")).unwrap().len() < 1100);
}

#[test]
fn one_file_is_emptied_when_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.log");
    let mut writer =
        LogWriter::open(&Logging { max_size: Some(500), ..logging(path.clone()) }).unwrap().unwrap();
    for i in 0..100 {
        writer.write(Stream::Stdout, format!("line {i}\n").as_bytes(), NOW).unwrap();
    }
    assert!(std::fs::metadata(&path).unwrap().len() < 600);
}
