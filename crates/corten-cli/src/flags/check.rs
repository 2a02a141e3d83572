//! Is a flag's text a value of its kind? Errors are those of Go's parsers, which docker shows.

use corten_base::units;

use super::{Flag, Kind};
use crate::opts;

/// Checks one value.
pub(crate) fn value(flag: &Flag, text: &str) -> Result<(), String> {
    if let Some(check) = flag.check {
        return check(text);
    }
    match flag.kind {
        Kind::Text | Kind::List | Kind::Strings => Ok(()),
        Kind::Pairs => match opts::csv(text)?.into_iter().find(|field| !field.contains('=')) {
            None => Ok(()),
            Some(field) => Err(format!("{field} must be formatted as key=value")),
        },
        Kind::Bool => match parse_bool(text) {
            Some(_) => Ok(()),
            None => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
        },
        Kind::Int | Kind::Int64 => integer("ParseInt", text, |t| parse_int(t).is_some()),
        Kind::Uint => integer("ParseUint", text, |t| t.parse::<u64>().is_ok()),
        Kind::Uint16 => integer("ParseUint", text, |t| t.parse::<u16>().is_ok()),
        Kind::SwapBytes if text == "-1" => Ok(()),
        Kind::Bytes | Kind::SwapBytes => match units::ram_in_bytes(text) {
            Some(_) => Ok(()),
            None => Err(format!("invalid size: '{text}'")),
        },
        Kind::Cpus => opts::cpus(text).map(drop),
        Kind::Duration => duration(text),
        Kind::Ip => match text.trim().parse::<std::net::IpAddr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("failed to parse IP: {text:?}")),
        },
        Kind::Ulimit => opts::ulimit(text).map(drop),
        Kind::Mount => opts::mount(text).map(drop),
        Kind::Network => opts::network(text).map(drop),
        Kind::Gpus => Ok(()),
        Kind::Filter => opts::filter(text).map(drop),
        Kind::Env => match text.split('=').next() {
            Some("") | None => Err(format!("invalid environment variable: {text}")),
            Some(_) => Ok(()),
        },
        Kind::Map => Ok(()),
    }
}

fn integer(parser: &str, text: &str, good: impl Fn(&str) -> bool) -> Result<(), String> {
    let digits = text.trim_start_matches(['-', '+']);
    if good(text) {
        Ok(())
    } else if !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !(parser == "ParseUint" && text.starts_with('-'))
    {
        Err(format!("strconv.{parser}: parsing {text:?}: value out of range"))
    } else {
        Err(format!("strconv.{parser}: parsing {text:?}: invalid syntax"))
    }
}

/// Go's `strconv.ParseInt` with base 0, as far as people use it.
pub(super) fn parse_int(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn duration(text: &str) -> Result<(), String> {
    if units::parse_duration(text).is_some()
        || (text.starts_with('-') && units::parse_duration(&text[1..]).is_some())
    {
        return Ok(());
    }
    let unsigned = text.trim_start_matches(['-', '+']);
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("time: missing unit in duration {text:?}"));
    }
    let unit: String = unsigned
        .chars()
        .skip_while(|c| c.is_ascii_digit() || *c == '.')
        .take_while(|c| !c.is_ascii_digit() && *c != '.')
        .collect();
    if unsigned.starts_with(|c: char| c.is_ascii_digit())
        && !["ns", "us", "µs", "ms", "s", "m", "h"].contains(&unit.as_str())
    {
        return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
    }
    Err(format!("time: invalid duration {text:?}"))
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
