//! The prefix format: `TIME NAME STREAM | text`.
//!
//! For a terminal: local time to the second, names padded, colours in the order foreman gives them. For anything else: UTC to the
//! millisecond (RFC 3339), one blank between words, no escape sequence of ours. `|` becomes `+` where a line goes on that was
//! too long to be kept whole.
//!
//! A line is rendered into a buffer that the caller reuses; the time's text is made once a second. Nothing is allocated per line.

use std::ffi::OsStr;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::harmless;
use crate::engine::text::is_active;
use serde::{Deserialize, Serialize};

/// Which of a service's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How much a line of firstmate's own matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As expected. Not named in the line.
    Info,
    /// Something went wrong and is being dealt with.
    Warn,
    /// Something is beyond repair.
    Error,
}

/// firstmate's own name in the second column. An instance's always has a dot, so nobody else has it.
const OWN_NAME: &str = "firstmate";
/// What it is called in development, as foreman and its family have it.
const SYSTEM: &str = "system";

/// What foreman uses, in its order: cyan yellow green magenta red blue, then the same bright.
const COLOURS: [&[u8]; 12] = [
    b"\x1b[36m",
    b"\x1b[33m",
    b"\x1b[32m",
    b"\x1b[35m",
    b"\x1b[31m",
    b"\x1b[34m",
    b"\x1b[36;1m",
    b"\x1b[33;1m",
    b"\x1b[32;1m",
    b"\x1b[35;1m",
    b"\x1b[31;1m",
    b"\x1b[34;1m",
];
const BOLD: &[u8] = b"\x1b[1m";
const RESET: &[u8] = b"\x1b[0m";
/// Width of the third column on a terminal: that of `error`.
const STREAM_WIDTH: usize = 5;

/// What the way firstmate is run changes about its lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// firstmate's own lines are named `system`, and a terminal shows `TIME NAME | text`, without the stream.
    pub development: bool,
    /// There is no time.
    pub no_timestamp: bool,
}

/// How lines look, with the text of the present second.
#[derive(Debug, Clone)]
pub struct Format {
    terminal: bool,
    colour: bool,
    look: Look,
    name_width: usize,
    /// Seconds since 1970 that `text` stands for.
    second: Option<u64>,
    /// `2026-01-02T03:04:05` or `03:04:05`.
    text: Vec<u8>,
}

/// Whether the environment asks for no colour: NO_COLOR is set and not empty (no-color.org), or TERM is `dumb`.
#[must_use]
pub fn no_colour_wanted(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_some_and(|value| !value.is_empty()) || term.is_some_and(|value| value == "dumb")
}

impl Format {
    /// The format for where the lines go: a terminal or not, and whether colour is unwanted there.
    #[must_use]
    pub fn detect(is_terminal: bool, no_colour: bool) -> Self {
        let look = Look::default();
        Self { terminal: is_terminal, colour: is_terminal && !no_colour, look, name_width: OWN_NAME.len(), second: None, text: Vec::new() }
    }

    /// The same as it looks when firstmate is run this way.
    #[must_use]
    pub fn look(self, look: Look) -> Self {
        let format = Self { look, ..self };
        Self { name_width: format.own_name().len(), ..format }
    }

    const fn own_name(&self) -> &'static str {
        if self.look.development { SYSTEM } else { OWN_NAME }
    }

    /// Whether lines have a column of the stream, or of what is wrong.
    const fn has_words(&self) -> bool {
        !(self.terminal && self.look.development)
    }

    /// Pads every name to the longest of `names` (in bytes; names are ASCII). Only a terminal's lines are padded.
    pub fn fit_names<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.name_width = names.into_iter().map(str::len).fold(self.own_name().len(), usize::max);
    }

    /// Appends a line a service wrote, line feed included. `order` is the service's place in the file, for its colour.
    /// `continued`: it goes on where the stream's last line was cut.
    #[expect(clippy::too_many_arguments, reason = "one line is made of these and nothing keeps them together")]
    pub fn service_line(
        &mut self,
        out: &mut Vec<u8>,
        now: SystemTime,
        name: &str,
        order: usize,
        stream: Stream,
        text: &[u8],
        continued: bool,
    ) {
        let colour = COLOURS.get(order % COLOURS.len()).copied().unwrap_or_default();
        let stream: &[u8] = match stream {
            Stream::Out => b"out",
            Stream::Err => b"err",
        };
        self.prefix(out, now, name, stream, if continued { b'+' } else { b'|' }, colour);
        if self.terminal {
            harmless::append(out, text);
        } else {
            out.extend_from_slice(text);
        }
        out.push(b'\n');
    }

    /// Appends a line of firstmate's own, line feed included. What in `text`, which may quote what others said, could
    /// disturb more than itself is shown escaped, so that it stays one line.
    pub fn own_line(&mut self, out: &mut Vec<u8>, now: SystemTime, level: Level, text: &str) {
        let (word, colour): (&[u8], &[u8]) = match level {
            Level::Info => (b"", BOLD),
            Level::Warn => (b"warn", b"\x1b[33;1m"),
            Level::Error => (b"error", b"\x1b[31;1m"),
        };
        self.prefix(out, now, self.own_name(), word, b'|', colour);
        if !self.has_words() && !word.is_empty() {
            out.extend_from_slice(word);
            out.extend_from_slice(b": ");
        }
        for character in text.chars() {
            if is_active(character) {
                out.extend(character.escape_default().map(|escaped| u8::try_from(escaped).unwrap_or(b'?')));
            } else {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        out.push(b'\n');
    }

    fn prefix(&mut self, out: &mut Vec<u8>, now: SystemTime, name: &str, word: &[u8], bar: u8, colour: &[u8]) {
        if self.colour {
            out.extend_from_slice(colour);
        }
        if !self.look.no_timestamp {
            self.time(out, now);
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
        if self.terminal {
            pad(out, self.name_width.saturating_sub(name.len()));
        }
        if self.has_words() {
            if self.terminal || !word.is_empty() {
                out.push(b' ');
            }
            out.extend_from_slice(word);
            if self.terminal {
                pad(out, STREAM_WIDTH.saturating_sub(word.len()));
            }
        }
        out.extend_from_slice(&[b' ', bar]);
        if self.colour {
            out.extend_from_slice(RESET);
        }
        out.push(b' ');
    }

    fn time(&mut self, out: &mut Vec<u8>, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.tell_second(since.as_secs());
        out.extend_from_slice(&self.text);
        if !self.terminal {
            let millis = since.subsec_millis();
            out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
        }
    }

    fn tell_second(&mut self, second: u64) {
        if self.second == Some(second) {
            return;
        }
        self.second = Some(second);
        self.text.clear();
        // Writing to a Vec cannot fail.
        let _written = if self.terminal {
            let (hour, minute, second) = local_time(second);
            write!(self.text, "{hour:02}:{minute:02}:{second:02}")
        } else {
            let (year, month, day) = civil_from_days(second / 86_400);
            let (hour, minute, second) = clock(second);
            write!(self.text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
        };
    }
}

fn pad(out: &mut Vec<u8>, count: usize) {
    out.resize(out.len().saturating_add(count), b' ');
}

fn digit(number: u32) -> u8 {
    b'0'.saturating_add(u8::try_from(number % 10).unwrap_or_default())
}

fn clock(second: u64) -> (u64, u64, u64) {
    (second / 3600 % 24, second / 60 % 60, second % 60)
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar: Howard Hinnant's `civil_from_days`
/// ("chrono-Compatible Low-Level Date Algorithms"), for days that are not negative.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // The year begins in March here, so that a leap day is its last.
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + year, month, day)
}

/// A moment as it stands in a line that is not for a terminal: `2026-01-02T03:04:05.678Z`. In milliseconds since 1970.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let second = unix_ms / 1000;
    let (year, month, day) = civil_from_days(second / 86_400);
    let (hour, minute, second) = clock(second);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", unix_ms % 1000)
}

/// A moment as [`utc`] writes it, in milliseconds since 1970; `None` when it is not one.
#[must_use]
pub fn parse_utc(text: &str) -> Option<u64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: Option<&str>| text?.parse::<u64>().ok();
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next())?, number(date.next())?, number(date.next())?);
    let mut clock = clock.split([':', '.']);
    let (hour, minute) = (number(clock.next())?, number(clock.next())?);
    let (second, millis) = (number(clock.next())?, number(clock.next())?);
    let fits = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || hour > 23 || minute > 59 || second > 60 || millis > 999 {
        return None;
    }
    // The way back of `civil_from_days`: the year begins in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = (year * 365 + year / 4 - year / 100 + year / 400 + day_of_year).checked_sub(719_468)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

/// Hour, minute and second by the time zone of the environment (TZ, /etc/localtime); UTC where there is none.
fn local_time(second: u64) -> (u64, u64, u64) {
    // The type is left to inference: libc calls the name `time_t` deprecated on musl.
    let Ok(time) = second.try_into() else { return clock(second) };
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right types, and localtime_r(3) keeps neither.
    let filled = unsafe { !libc::localtime_r(&raw const time, parts.as_mut_ptr()).is_null() };
    if !filled {
        return clock(second);
    }
    // SAFETY: zeroed is a valid `tm`, and localtime_r has filled it.
    let parts = unsafe { parts.assume_init() };
    let part = |number: libc::c_int| u64::try_from(number).unwrap_or_default();
    (part(parts.tm_hour), part(parts.tm_min), part(parts.tm_sec))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(second: u64, millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(second * 1000 + millis)
    }

    const NEW_YEARS_EVE: u64 = 1_798_761_599; // 2026-12-31T23:59:59Z, as `date -u -d @1798761599` has it

    fn plain() -> Format {
        Format::detect(false, false)
    }

    fn service(format: &mut Format, text: &[u8], continued: bool) -> String {
        let mut out = Vec::new();
        format.service_line(&mut out, at(NEW_YEARS_EVE, 7), "web.1", 0, Stream::Out, text, continued);
        String::from_utf8(out).unwrap()
    }

    fn own(format: &mut Format, level: Level, text: &str) -> String {
        let mut out = Vec::new();
        format.own_line(&mut out, at(NEW_YEARS_EVE, 999), level, text);
        String::from_utf8(out).unwrap()
    }

    /// The local clock text of that second, as the C library's strftime has it.
    fn local_text() -> String {
        let (hour, minute, second) = local_time(NEW_YEARS_EVE);
        format!("{hour:02}:{minute:02}:{second:02}")
    }

    #[test]
    fn a_line_not_for_a_terminal_is_utc_and_bare() {
        let mut format = plain();
        format.fit_names(["a-very-long-name.1"]);
        assert_eq!(service(&mut format, b"hello", false), "2026-12-31T23:59:59.007Z web.1 out | hello\n");
        assert_eq!(service(&mut format, b"", false), "2026-12-31T23:59:59.007Z web.1 out | \n");
        assert_eq!(service(&mut format, b"rest", true), "2026-12-31T23:59:59.007Z web.1 out + rest\n");
        assert_eq!(service(&mut format, b"\x1b[31mred", false), "2026-12-31T23:59:59.007Z web.1 out | \x1b[31mred\n");
        let mut out = Vec::new();
        format.service_line(&mut out, at(NEW_YEARS_EVE + 1, 120), "db.12", 3, Stream::Err, b"\xff\0", false);
        assert_eq!(out, b"2027-01-01T00:00:00.120Z db.12 err | \xff\0\n");
    }

    #[test]
    fn a_moment_reads_as_it_does_in_a_line() {
        assert_eq!(utc(NEW_YEARS_EVE * 1000 + 7), "2026-12-31T23:59:59.007Z");
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        for wrong in ["", "Z", "2026-12-31", "2026-13-01T00:00:00.000Z", "1969-12-31T23:59:59.000Z", "2026-12-31T23:59:59Z", "web.1"] {
            assert_eq!(parse_utc(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn own_lines_name_only_what_is_wrong() {
        let mut format = plain();
        assert_eq!(own(&mut format, Level::Info, "hello"), "2026-12-31T23:59:59.999Z firstmate | hello\n");
        assert_eq!(own(&mut format, Level::Warn, "hello"), "2026-12-31T23:59:59.999Z firstmate warn | hello\n");
        assert_eq!(own(&mut format, Level::Error, "hello"), "2026-12-31T23:59:59.999Z firstmate error | hello\n");
    }

    #[test]
    fn own_lines_stay_one_line_whatever_they_quote() {
        let text = "probe said: 500\r\n\u{1b}[2J\u{9b}1A\0 \u{e4}\u{1f6a2}\t.";
        assert_eq!(
            own(&mut plain(), Level::Info, text),
            "2026-12-31T23:59:59.999Z firstmate | probe said: 500\\r\\n\\u{1b}[2J\\u{9b}1A\\u{0} \u{e4}\u{1f6a2}\\t.\n"
        );
    }

    #[test]
    fn a_terminal_gets_local_time_columns_and_foremans_colours() {
        let time = local_text();
        let mut format = Format::detect(true, false);
        format.fit_names(["web.1", "php-fpm.10"]);
        assert_eq!(service(&mut format, b"hello", false), format!("\x1b[36m{time} web.1      out   |\x1b[0m hello\n"));
        assert_eq!(own(&mut format, Level::Info, "hello"), format!("\x1b[1m{time} firstmate        |\x1b[0m hello\n"));
        assert_eq!(own(&mut format, Level::Error, "hello"), format!("\x1b[31;1m{time} firstmate  error |\x1b[0m hello\n"));
        let colours: Vec<String> = (0..13)
            .map(|order| {
                let mut out = Vec::new();
                format.service_line(&mut out, at(0, 0), "web.1", order, Stream::Out, b"", false);
                let text = String::from_utf8(out).unwrap();
                text[2..text.find('m').unwrap()].to_owned()
            })
            .collect();
        assert_eq!(colours, ["36", "33", "32", "35", "31", "34", "36;1", "33;1", "32;1", "35;1", "31;1", "34;1", "36"]);
    }

    #[test]
    fn development_looks_as_foremans_users_know_it() {
        let time = local_text();
        let look = Look { development: true, no_timestamp: false };
        let mut format = Format::detect(true, false).look(look);
        format.fit_names(["web.1", "js.1"]);
        assert_eq!(service(&mut format, b"hello", false), format!("\x1b[36m{time} web.1  |\x1b[0m hello\n"));
        assert_eq!(service(&mut format, b"rest", true), format!("\x1b[36m{time} web.1  +\x1b[0m rest\n"));
        assert_eq!(own(&mut format, Level::Info, "hello"), format!("\x1b[1m{time} system |\x1b[0m hello\n"));
        assert_eq!(own(&mut format, Level::Warn, "hello"), format!("\x1b[33;1m{time} system |\x1b[0m warn: hello\n"));
        format.fit_names(["worker.10"]);
        assert_eq!(own(&mut format, Level::Error, "hello"), format!("\x1b[31;1m{time} system    |\x1b[0m error: hello\n"));
        // Whoever reads a file or a pipe finds the columns where they always are.
        let mut format = Format::detect(false, false).look(look);
        format.fit_names(["worker.10"]);
        assert_eq!(service(&mut format, b"hello", false), "2026-12-31T23:59:59.007Z web.1 out | hello\n");
        assert_eq!(own(&mut format, Level::Warn, "hello"), "2026-12-31T23:59:59.999Z system warn | hello\n");
    }

    #[test]
    fn a_line_may_do_without_its_time() {
        for development in [false, true] {
            let mut format = Format::detect(false, false).look(Look { development, no_timestamp: true });
            assert_eq!(service(&mut format, b"hello", false), "web.1 out | hello\n");
        }
        let mut format = Format::detect(true, true).look(Look { development: true, no_timestamp: true });
        assert_eq!(service(&mut format, b"hello", false), "web.1  | hello\n");
        assert_eq!(own(&mut format, Level::Error, "hello"), "system | error: hello\n");
        let mut format = Format::detect(true, true).look(Look { development: false, no_timestamp: true });
        assert_eq!(own(&mut format, Level::Error, "hello"), "firstmate error | hello\n");
    }

    #[test]
    fn no_colour_leaves_time_and_columns() {
        let time = local_text();
        let mut format = Format::detect(true, true);
        assert_eq!(service(&mut format, b"hello", false), format!("{time} web.1     out   | hello\n"));
        assert_eq!(own(&mut format, Level::Warn, "hello"), format!("{time} firstmate warn  | hello\n"));
        let env = |text: &'static str| Some(OsStr::new(text));
        assert!(no_colour_wanted(env("1"), env("xterm")));
        assert!(!no_colour_wanted(env(""), env("xterm")));
        assert!(!no_colour_wanted(None, None));
        assert!(no_colour_wanted(None, env("dumb")));
    }

    #[test]
    fn what_a_line_does_to_a_terminal_ends_with_it() {
        let mut format = Format::detect(true, true);
        let text = |format: &mut Format, text: &[u8]| service(format, text, false).split_once("| ").unwrap().1.to_owned();
        assert_eq!(text(&mut format, b"plain"), "plain\n");
        assert_eq!(text(&mut format, b"\x1b[31mred"), "\x1b[31mred\x1b[0m\n");
        assert_eq!(text(&mut format, b"cut off \x1b["), "cut off \n");
        assert_eq!(text(&mut format, b"\x1b[2J\x1b[1A\rforged"), " forged\n");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @... +%F` has them.
        for (second, date) in [
            (0, (1970, 1, 1)),
            (68_169_600, (1972, 2, 29)),
            (951_782_400, (2000, 2, 29)),
            (951_868_800, (2000, 3, 1)),
            (1_709_164_800, (2024, 2, 29)),
            (4_107_456_000, (2100, 2, 28)),
            (4_107_542_400, (2100, 3, 1)),
            (253_402_214_400, (9999, 12, 31)),
        ] {
            assert_eq!(civil_from_days(second / 86_400), date);
        }
    }

    proptest! {
        #[test]
        fn a_moment_is_read_as_it_is_written(unix_ms in 0..253_402_300_800_000_u64) {
            prop_assert_eq!(parse_utc(&utc(unix_ms)), Some(unix_ms));
        }

        #[test]
        fn utc_is_what_the_c_library_says(second in 0..253_402_300_800_u64) {
            let time = second.try_into().unwrap();
            let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
            // SAFETY: both pointers are to live values, and zeroed is a valid `tm`.
            let parts = unsafe { libc::gmtime_r(&raw const time, parts.as_mut_ptr()); parts.assume_init() };
            let expected = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000Z firstmate | x\n",
                parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec
            );
            let mut out = Vec::new();
            plain().own_line(&mut out, at(second, 0), Level::Info, "x");
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
