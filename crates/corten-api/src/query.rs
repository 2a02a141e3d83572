//! The query string, read as Docker reads it.

use corten_base::units;
use corten_wire::api::Filters;

use crate::error::ApiError;

/// Decoded pairs in the order they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads the part after `?`.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Self {
        Self { pairs: form_urlencoded::parse(text.as_bytes()).into_owned().collect() }
    }

    /// First value of a name.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// First value of a name, empty where it is not there.
    #[must_use]
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All values of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Replaces all values of a name by one.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.pairs.retain(|(n, _)| n != name);
        self.pairs.push((name.to_owned(), value.to_owned()));
    }

    /// Docker's truth: everything but nothing, `0`, `no`, `false` and `none`.
    #[must_use]
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// As [`Query::flag`], with a default where the name is not there.
    #[must_use]
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |v| {
            !matches!(v.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
        })
    }

    /// A number; `None` where the name is not there or empty.
    ///
    /// # Errors
    /// Not a number, in the words of Go's `strconv.Atoi`.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => go_number(text, "Atoi").map(Some).map_err(ApiError::invalid),
        }
    }

    /// The filters.
    ///
    /// # Errors
    /// They are malformed.
    pub(crate) fn filters(&self) -> Result<Filters, ApiError> {
        Ok(Filters::parse(self.text("filters"))?)
    }
}

/// Go's `strconv.<function>` with its error text.
pub(crate) fn go_number(text: &str, function: &str) -> Result<i64, String> {
    text.parse().map_err(|e: std::num::ParseIntError| {
        let why = match e.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.{function}: parsing {text:?}: {why}")
    })
}

/// A point in time as clients write it: seconds with a fraction, RFC 3339 (with or without a zone), or a duration
/// before `now`. Nanoseconds since the epoch; the error is the part of Docker's text after `invalid value for 'x': `.
pub(crate) fn timestamp(text: &str, now_ns: i128) -> Result<i128, String> {
    if let Some(ago) = units::parse_duration(text) {
        return Ok(now_ns - i128::try_from(ago.as_nanos()).unwrap_or_default());
    }
    if text.contains('-') && !text.starts_with('-') {
        return date(text).ok_or_else(|| format!("invalid timestamp {text:?}"));
    }
    seconds(text).map_err(|why| format!("invalid timestamp {text:?}: {why}"))
}

/// `1700000000.123456789`.
pub(crate) fn seconds(text: &str) -> Result<i128, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| format!("invalid seconds {whole:?}: invalid syntax"))?;
    let mut nanos = 0i128;
    if !fraction.is_empty() {
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("invalid nanoseconds {fraction:?}: invalid syntax"));
        }
        let padded = format!("{fraction:0<9}");
        nanos = padded[..9].parse().unwrap_or_default();
    }
    Ok(i128::from(seconds) * 1_000_000_000 + nanos)
}

fn date(text: &str) -> Option<i128> {
    let (day, time) = text.split_once('T').unwrap_or((text, ""));
    let zoned = time.ends_with('Z') || time.contains(['+', '-']);
    let clock = match time {
        "" => "00:00:00".to_owned(),
        t if zoned => t.to_owned(),
        t => match t.matches(':').count() {
            0 => format!("{t}:00:00"),
            1 => format!("{t}:00"),
            _ => t.to_owned(),
        },
    };
    let full = if zoned { format!("{day}T{clock}") } else { format!("{day}T{clock}Z") };
    corten_base::time::parse_rfc3339(&full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_and_numbers() {
        let q = Query::parse("a=1&b=False&c=&d=x%20y&n=abc&d=z");
        assert!(q.flag("a") && !q.flag("b") && !q.flag("c") && !q.flag("missing") && q.flag("d"));
        assert_eq!(q.all("d").collect::<Vec<_>>(), ["x y", "z"]);
        assert_eq!(q.number("n").unwrap_err().message, "strconv.Atoi: parsing \"abc\": invalid syntax");
        assert_eq!(q.number("c").unwrap(), None);
    }

    #[test]
    fn times() {
        let now = 1_000_000_000_000;
        assert_eq!(timestamp("10m", now), Ok(now - 600_000_000_000));
        assert_eq!(timestamp("5.5", now), Ok(5_500_000_000));
        assert_eq!(timestamp("1970-01-01T00:00:01", now), Ok(1_000_000_000));
        assert_eq!(timestamp("1970-01-02", now), Ok(86_400_000_000_000));
        assert_eq!(
            timestamp("garbage", now),
            Err("invalid timestamp \"garbage\": invalid seconds \"garbage\": invalid syntax".into())
        );
    }
}
