//! The small values of the file: durations, sizes, and the nearest word to a misspelt one.
//!
//! Durations are `500ms`, `10s`, `5m`, `1h`, `1h30m`; a bare number is seconds. Sizes are binary whatever the spelling (`MB`, `MiB` and
//! `M` are all 1,048,576 bytes), as docker and supervisord read them.

use std::time::Duration;

use crate::engine::spec::Amount;

/// Longest duration a file may name: ten years, well inside every clock firstmate counts with.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Less memory than this is a number whose unit was forgotten.
pub const LEAST_MEMORY: u64 = 1 << 20;
/// More than any machine has, and little enough that sums of sizes are still numbers.
pub const MOST_MEMORY: u64 = 1 << 60;

/// Reads `500ms`, `1.5s`, `1h30m`, `10`.
///
/// # Errors
/// A short phrase that says what was expected instead.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a duration such as \"10s\", \"500ms\" or \"1h30m\"";
    let text = text.trim();
    if text.is_empty() {
        return Err(EXPECTED);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len().saturating_sub(rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len());
        let (number, after) = rest.split_at_checked(digits).ok_or(EXPECTED)?;
        let letters = after.len().saturating_sub(after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len());
        let (unit, after) = after.split_at_checked(letters).ok_or(EXPECTED)?;
        let unit_ms: u64 = match unit.to_ascii_lowercase().as_str() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            // Only a number that stands alone may do without its unit: "1h30" could be meant either way.
            "" if number.len() == text.len() => 1_000,
            _ => return Err(EXPECTED),
        };
        total = total.saturating_add(scaled(number, unit_ms).ok_or(EXPECTED)?);
        rest = after.trim_start();
    }
    if total > LONGEST { Err("a duration must not be longer than ten years") } else { Ok(total) }
}

/// `number` times `unit_ms`; digits beyond the ninth after the point are dropped.
fn scaled(number: &str, unit_ms: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    // A number too long for u64 is longer than the longest duration anyway.
    let whole = Duration::from_millis(whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit_ms));
    let nanos: u64 = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0'))));
    // Below one second before scaling, so the product stays under a day in nanoseconds.
    let part = Duration::from_nanos(nanos.saturating_mul(unit_ms) / 1_000);
    whole.checked_add(part)
}

/// Reads `64KiB`, `200MB`, `1G`, `512`: bytes.
///
/// # Errors
/// A short phrase that says what was expected instead.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "expected a size such as \"64KiB\", \"200MiB\" or \"1GiB\"";
    let text = text.trim();
    let digits = text.len().saturating_sub(text.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    let (number, unit) = text.split_at_checked(digits).ok_or(EXPECTED)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" | "ki" => 10,
        "m" | "mb" | "mib" | "mi" => 20,
        "g" | "gb" | "gib" | "gi" => 30,
        "t" | "tb" | "tib" | "ti" => 40,
        _ => return Err(EXPECTED),
    };
    let number: u64 = if number.is_empty() { return Err(EXPECTED) } else { number.parse().map_err(|_| "the size is too large")? };
    number.checked_mul(1 << shift).ok_or("the size is too large")
}

/// Reads `75%`, `92.5 %`: above 0, at most 100.
///
/// # Errors
/// A short phrase that says what was expected instead.
pub fn parse_percent(text: &str) -> Result<f64, &'static str> {
    const EXPECTED: &str = "expected a percentage such as \"75%\"";
    let number = text.trim().strip_suffix('%').ok_or(EXPECTED)?.trim_end();
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Signs, exponents and infinity are numbers for Rust, and slips here.
    if !is_number(whole) || !is_number(fraction) {
        return Err(if number.starts_with('-') { "a percentage must be above 0 and at most 100" } else { EXPECTED });
    }
    let percent: f64 = number.parse().map_err(|_| EXPECTED)?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent) } else { Err("a percentage must be above 0 and at most 100") }
}

/// `512MiB`, `1536KiB`, `75 bytes`: a size as the file would say it, exactly.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let units = [(60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None if bytes == 1 => "1 byte".to_owned(),
        None => format!("{bytes} bytes"),
    }
}

/// `75%` or `512MiB`.
#[must_use]
pub fn show_amount(amount: Amount) -> String {
    match amount {
        Amount::Percent(percent) => format!("{percent}%"),
        Amount::Bytes(bytes) => show_size(bytes),
    }
}

/// The candidate that `word` is most likely a slip of; `None` when none is near.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // The distance costs the product of both lengths, and nobody misspells a short name by a hundred letters.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    // A third of the letters may be wrong, as rustc has it.
    let allowed = (lower.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &other);
            // "stop-signal" and "signal_stop_timeout" are no slips of the finger, but a forgotten or misplaced part is likely meant.
            let same = lower.replace(['-', ' '], "_") == other.replace(['-', ' '], "_");
            (if same { 0 } else { distance }, candidate)
        })
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// `10s`, `1m30s`, `500ms`: a duration as the file would say it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    let mut rest = ms;
    for (unit_ms, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
        let count = rest / unit_ms;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
        rest %= unit_ms;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1.5s", 1_500),
            ("0.25m", 15_000),
            ("2d", 172_800_000),
            ("10", 10_000),
            ("0", 0),
            ("0s", 0),
            (" 3S ", 3_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "10x", "-1s", "1h30", "1..5s", ".5s", "5.s", "1s,2s", "99999999999999999999h", "4000d", "ten", "1e3s", "1٣s"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_back_as_shown() {
        for ms in [0, 1, 500, 1_000, 61_000, 5_400_000, 3_600_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn sizes_are_binary_whatever_the_spelling() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("64k", 65_536),
            ("200MB", 209_715_200),
            ("200 MiB", 209_715_200),
            ("200M", 209_715_200),
            ("1GiB", 1 << 30),
            ("2T", 2 << 40),
            ("512Mi", 512 << 20),
            ("1Gi", 1 << 30),
            ("512", 512),
            ("512B", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1X", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages() {
        for (text, percent) in [("75%", 75.0), ("92.5%", 92.5), (" 0.1 % ", 0.1), ("100%", 100.0), ("100.0%", 100.0), ("007%", 7.0)] {
            assert_eq!(parse_percent(text), Ok(percent), "{text}");
        }
        for text in
            ["", "%", "75", "0%", "0.0%", "100.01%", "-5%", "+5%", "1e1%", "inf%", "NaN%", ".5%", "5.%", "7 5%", "75%%", "%75", "٣%"]
        {
            assert!(parse_percent(text).is_err(), "{text}");
        }
        // A fraction too small for a float is nothing.
        assert!(parse_percent(&format!("0.{}1%", "0".repeat(400))).is_err());
    }

    #[test]
    fn sizes_are_shown_as_the_file_would_say_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (75, "75 bytes"),
            (1 << 10, "1KiB"),
            (512 << 20, "512MiB"),
            (1536 << 20, "1536MiB"),
            (1 << 30, "1GiB"),
            ((1 << 30) + 1, "1073741825 bytes"),
            (1 << 60, "1EiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(show_amount(Amount::Percent(92.5)), "92.5%");
        assert_eq!(show_amount(Amount::Percent(75.0)), "75%");
        assert_eq!(show_amount(Amount::Bytes(200 << 20)), "200MiB");
    }

    #[test]
    fn only_a_near_word_is_offered() {
        let known = ["restart", "ready", "stop_signal", "env"];
        assert_eq!(nearest("restrat", known), Some("restart"));
        assert_eq!(nearest("stop-signal", known), Some("stop_signal"));
        assert_eq!(nearest("ENV", known), Some("env"));
        assert_eq!(nearest("memory", known), None);
        assert_eq!(nearest("tty", known), None);
        assert_eq!(nearest(&"x".repeat(5_000), known), None);
    }
}
