//! Names and numbers of signals, as `--stop-signal` and `kill -s` take them.

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// SIGTERM, what `stop` sends where nothing else is said.
pub const TERM: i32 = 15;
/// SIGKILL.
pub const KILL: i32 = 9;

/// The number of `15`, `TERM`, `SIGTERM`, `rtmin+3`; `None` where it is no signal.
#[must_use]
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset.parse::<i32>().ok().filter(|n| (1..=15).contains(n)).map(|n| 34 + n);
    }
    if let Some(offset) = name.strip_prefix("RTMAX-") {
        return offset.parse::<i32>().ok().filter(|n| (1..=14).contains(n)).map(|n| 64 - n);
    }
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("9", Some(9)),
            ("sigterm", Some(15)),
            ("RTMIN+3", Some(37)),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
        ] {
            assert_eq!(super::parse(text), want, "{text}");
        }
    }
}
