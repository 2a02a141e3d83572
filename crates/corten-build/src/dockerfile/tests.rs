//! What the language means, as tables, and that no input makes it panic.

use super::*;

fn one(line: &str) -> Result<Instruction, String> {
    let file = parse("Dockerfile", format!("FROM x\n{line}").as_bytes()).map_err(|e| e.to_string())?;
    Ok(file.stages[0].commands[0].instruction.clone())
}

fn text(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn errors_as_in_the_reference() {
    for (file, want) in [
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
        ("# only\n", "file with no instructions"),
        ("FROM x\nBOGUS x\n", "dockerfile parse error on line 2: unknown instruction: BOGUS"),
        (
            "FROM x\nRUNN x\n",
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
        ),
        ("RUN x\n", "no build stage in current context"),
        ("FROM\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a b\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        (
            "FROM a AS 1x\n",
            "dockerfile parse error on line 1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
        ),
        ("FROM x\nENV a\n", "failed to parse Dockerfile: ENV must have two arguments"),
        (
            "FROM x\nENV a=b c\n",
            "failed to parse Dockerfile: Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        ("FROM x\nENV\n", "dockerfile parse error on line 2: ENV requires at least one argument"),
        ("FROM x\nENV =b\n", "dockerfile parse error on line 2: ENV names can not be blank"),
        (
            "FROM x\nCOPY a\n",
            "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("FROM x\nCOPY --bogus a b\n", "dockerfile parse error on line 2: unknown flag: --bogus"),
        (
            "FROM x\nCOPY --chwn=a a b\n",
            "dockerfile parse error on line 2: unknown flag: --chwn (did you mean --chown?)",
        ),
        ("FROM x\nUSER --x\n", "dockerfile parse error on line 2: unknown flag: --x"),
        ("FROM x\nCOPY --from a b\n", "dockerfile parse error on line 2: missing a value on flag: from"),
        (
            "FROM x\nSHELL bash\n",
            "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
        ),
        (
            "FROM x\nHEALTHCHECK X\n",
            "dockerfile parse error on line 2: Unknown type \"X\" in HEALTHCHECK (try CMD)",
        ),
        (
            "FROM x\nHEALTHCHECK CMD\n",
            "dockerfile parse error on line 2: Missing command after HEALTHCHECK CMD",
        ),
        (
            "FROM x\nHEALTHCHECK --interval=1us CMD x\n",
            "dockerfile parse error on line 2: Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "FROM x\nONBUILD FROM y\n",
            "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM x\nONBUILD ONBUILD RUN x\n",
            "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FROM x\nWORKDIR\n", "dockerfile parse error on line 2: WORKDIR requires exactly one argument"),
        ("FROM x\nRUN <<E\nx\n", "failed to parse Dockerfile: unterminated heredoc"),
        (
            "# escape=x\nFROM y\n",
            "failed to parse Dockerfile: invalid ESCAPE token 'x' does not match ` or \\",
        ),
        (
            "FROM x\nCMD [1]\n",
            "failed to parse Dockerfile: When using JSON array syntax, arrays must be comprised of strings only.",
        ),
        (
            "FROM x\nRUN --mount=type=odd x\n",
            "dockerfile parse error on line 2: unsupported mount type \"odd\"",
        ),
    ] {
        assert_eq!(parse("Dockerfile", file.as_bytes()).unwrap_err().to_string(), want, "{file:?}");
    }
}

#[test]
fn forms_of_instructions() {
    use Instruction::*;
    let shell = |t: &str| CommandLine::Shell(t.into());
    for (line, want) in [
        ("CMD [\"a\", \"b c\"]", Cmd(CommandLine::Exec(text(&["a", "b c"])))),
        ("cmd a  b", Cmd(shell("a  b"))),
        ("CMD [\"a\", b]", Cmd(shell("[\"a\", b]"))),
        ("ENTRYPOINT []", Entrypoint(CommandLine::Exec(vec![]))),
        ("ENV a b c", Env(vec![("a".into(), "b c".into())])),
        ("ENV a=\"b c\" d=e\\ f", Env(vec![("a".into(), "\"b c\"".into()), ("d".into(), "e\\ f".into())])),
        ("LABEL x=y", Label(vec![("x".into(), "y".into())])),
        (
            "ARG a b=c d=",
            Arg(vec![("a".into(), None), ("b".into(), Some("c".into())), ("d".into(), Some(String::new()))]),
        ),
        ("EXPOSE 80 53/udp", Expose(text(&["53/udp", "80"]))),
        ("VOLUME /a /b", Volume(text(&["/a", "/b"]))),
        ("VOLUME [\"/a b\"]", Volume(text(&["/a b"]))),
        ("WORKDIR /a b", Workdir("/a b".into())),
        ("ONBUILD RUN a \\\n b", Onbuild("RUN a  b".into())),
        ("MAINTAINER me", Maintainer("me".into())),
        ("SHELL [\"/bin/sh\",\"-ec\"]", Shell(text(&["/bin/sh", "-ec"]))),
    ] {
        assert_eq!(one(line), Ok(want), "{line:?}");
    }
    let Copy(copy) = one("COPY --from=a --chown=1:2 --exclude=*.x --exclude=y [\"a b\", \"c\"]").unwrap()
    else {
        panic!()
    };
    assert_eq!(copy.sources, [CopySource::Path("a b".into())]);
    assert_eq!((copy.destination.as_str(), copy.from.as_str(), copy.exclude.len()), ("c", "a", 2));
    let Healthcheck(h) = one("HEALTHCHECK --interval=5s --retries=2 CMD true").unwrap() else { panic!() };
    assert_eq!((h.test, h.interval, h.retries), (text(&["CMD-SHELL", "true"]), 5_000_000_000, 2));
    let Run(run) = one("RUN --mount=type=cache,target=/c,sharing=locked --network=none make").unwrap() else {
        panic!()
    };
    assert_eq!((run.mounts[0].kind, run.mounts[0].sharing), (MountKind::Cache, Sharing::Locked));
    assert_eq!((run.network.as_str(), run.command), ("none", shell("make")));
}

#[test]
fn lines_comments_and_heredocs() {
    let file = "\u{feff}# syntax=docker/dockerfile:1\n# escape=`\n\nFROM x AS One\nRUN a `\n# comment\n\n  b `  \n && c\r\nRUN <<EOF cat <<-'TAB'\none $x\nEOF\n\ttwo\n\tTAB\nCOPY <<f.txt /d\nhi\nf.txt\n";
    let file = parse("Dockerfile", file.as_bytes()).unwrap();
    assert_eq!((file.directives.escape, file.directives.syntax.as_str()), ('`', "docker/dockerfile:1"));
    let stage = &file.stages[0];
    assert_eq!((stage.name.as_str(), stage.line, stage.source.as_str()), ("one", 4, "FROM x AS One"));
    assert_eq!(stage.commands[0].source, "RUN a   b  && c");
    let Instruction::Run(run) = &stage.commands[1].instruction else { panic!() };
    assert_eq!(run.heredocs.len(), 2);
    assert_eq!((run.heredocs[0].content.as_str(), run.heredocs[0].expand), ("one $x\n", true));
    assert_eq!((run.heredocs[1].text().as_str(), run.heredocs[1].expand), ("two\n", false));
    let Instruction::Copy(copy) = &stage.commands[2].instruction else { panic!() };
    let CopySource::Inline(inline) = &copy.sources[0] else { panic!() };
    assert_eq!((inline.name.as_str(), inline.content.as_str()), ("f.txt", "hi\n"));
    assert_eq!(stage.commands[2].line, 15);
}

#[test]
fn variables() {
    let get = |name: &str| match name {
        "v" => Some("value".to_owned()),
        "e" => Some(String::new()),
        "path" => Some("/a/b/c.tar.gz".into()),
        "two" => Some("x  y".into()),
        _ => None,
    };
    let expander = Expander { escape: '\\' };
    for (word, want) in [
        ("$v", "value"),
        ("${v}x", "valuex"),
        ("a$", "a$"),
        ("$u.", "."),
        ("\\$v", "$v"),
        ("'$v'", "$v"),
        ("\"$v\"", "value"),
        ("\"\\$v \\\" \\n\"", "$v \" \\n"),
        ("${u:-d}", "d"),
        ("${u-d}", "d"),
        ("${e:-d}", "d"),
        ("${e-d}", ""),
        ("${v:+set}", "set"),
        ("${u+set}", ""),
        ("${e+set}", "set"),
        ("${u:-${v}}", "value"),
        ("${u:-'}'}", "}"),
        ("${path##*/}", "c.tar.gz"),
        ("${path#*/}", "a/b/c.tar.gz"),
        ("${path%.*}", "/a/b/c.tar"),
        ("${path%%.*}", "/a/b/c"),
        ("${v/a/o}", "volue"),
        ("${path//\\//:}", ":a:b:c.tar.gz"),
        ("${v#?a}", "lue"),
        ("$two", "x  y"),
        ("${v:?no}", "value"),
        ("$1x", "x"),
    ] {
        assert_eq!(expander.word(word, &get).as_deref(), Ok(want), "{word}");
    }
    for (word, want) in [
        ("'x", "unexpected end of statement while looking for matching single-quote"),
        ("\"x", "unexpected end of statement while looking for matching double-quote"),
        ("${v", "syntax error: missing '}'"),
        ("${}", "bad substitution"),
        ("${v^^}", "unsupported modifier (^) in substitution"),
        ("${u:?is needed}", "u: is needed"),
        ("${e:?}", "e: not allowed to be empty"),
    ] {
        assert_eq!(expander.word(word, &get).unwrap_err().to_string(), want, "{word}");
    }
    assert_eq!(expander.words("$two 'a b' \"$two\"", &get).unwrap(), ["x", "y", "a b", "x  y"]);
    assert_eq!(expander.text("it's $v \"\\$v\"", &get).unwrap(), "it's value \"$v\"");
    assert!(expander.word(&"${u:-".repeat(1000), &get).is_err());
    let bomb = |_: &str| Some("x".repeat(600_000));
    assert_eq!(expander.word("$a$a$a$a$a", &bomb), Err(ExpandError::Limit));
}

#[test]
fn changes() {
    assert_eq!(parse_change("RUN x").unwrap_err().to_string(), "RUN is not a valid change command");
    assert_eq!(parse_change("from x").unwrap_err().to_string(), "FROM is not a valid change command");
    assert_eq!(parse_change("ENV X=1\nEXPOSE 80\nCMD [\"x\"]").unwrap().len(), 3);
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(FROM|RUN|COPY|ENV|HEALTHCHECK|ONBUILD|ARG|LABEL|VOLUME|--[a-z]+=|<<-?['\"]?E|\\[\"|\\$\\{[a-z:/#%?+-]*|[ -~]|\n|\\\\\n|\t|\u{e9}){0,60}") {
        let _ = parse("Dockerfile", format!("FROM x\n{text}").as_bytes());
        let _ = parse("Dockerfile", text.as_bytes());
        let _ = parse_change(&text);
        let _ = parse_trigger(&text);
        let get = |_: &str| Some("v a*l".to_owned());
        let _ = Expander { escape: '\\' }.word(&text, &get);
        let _ = Expander { escape: '`' }.words(&text, &get);
        let _ = Expander { escape: '\\' }.text(&text, &get);
    }

    #[test]
    fn bytes_do_not_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = parse("Dockerfile", &bytes);
    }
}
