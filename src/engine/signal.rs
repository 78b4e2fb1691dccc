//! Signal numbers and names, as Linux and Docker number them.
//!
//! `SIGRTMIN` is 34 here whatever the C library reserves for itself (musl starts at 35), because that is what
//! `STOPSIGNAL SIGRTMIN+3`, systemd-nspawn and podman send: 37.

use std::fmt;

/// The first real-time signal as container runtimes count them.
pub const SIGRTMIN: i32 = 34;
/// The last signal of Linux on every architecture firstmate runs on; see signal(7).
pub const SIGRTMAX: i32 = 64;

const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
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
    ("PWR", 30),
    ("SYS", 31),
    ("IOT", 6),
    ("POLL", 29),
];

/// A signal number between 1 and 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

impl Signal {
    /// See signal(7).
    pub const HUP: Self = Self(1);
    /// See signal(7).
    pub const INT: Self = Self(2);
    /// See signal(7).
    pub const QUIT: Self = Self(3);
    /// See signal(7).
    pub const KILL: Self = Self(9);
    /// See signal(7).
    pub const TERM: Self = Self(15);
    /// See signal(7).
    pub const CONT: Self = Self(18);
    /// The terminal's window has another size.
    pub const WINCH: Self = Self(28);
    /// See signal(7).
    pub const STOP: Self = Self(19);

    /// The signal numbered `number`; `None` unless it is between 1 and 64.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number <= SIGRTMAX { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Reads `TERM`, `SIGTERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`, in any case; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        if let Ok(number) = upper.parse::<i32>() {
            return Self::from_number(number);
        }
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Some(Self(number));
        }
        let offset = |rest: &str, sign: char| -> Option<i32> {
            match rest.strip_prefix(sign) {
                Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
                Some(_) => None,
                None if rest.is_empty() => Some(0),
                None => None,
            }
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            SIGRTMIN.checked_add(offset(rest, '+')?)?
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            SIGRTMAX.checked_sub(offset(rest, '-')?)?
        } else {
            return None;
        };
        if number < SIGRTMIN { None } else { Self::from_number(number) }
    }

    /// The names `parse` knows, for did-you-mean: `TERM`, `HUP`...
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|&(name, _)| name)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|&&(_, number)| number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 == SIGRTMIN => write!(f, "SIGRTMIN"),
            None => write!(f, "SIGRTMIN+{}", self.0.saturating_sub(SIGRTMIN)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_offsets_are_read() {
        for (text, number) in
            [("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("15", 15), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("SIGRTMAX-1", 63), ("iot", 6)]
        {
            assert_eq!(Signal::parse(text).map(Signal::number), Some(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+31", "RTMIN+-1", "RTMAX-31", "RTMIN3", "TERM+1"] {
            assert_eq!(Signal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_signal_prints_a_name_that_reads_back() {
        for number in 1..=SIGRTMAX {
            let Some(signal) = Signal::from_number(number) else { panic!("{number}") };
            if number == 32 || number == 33 {
                continue; // reserved by every C library; they have no name to read back
            }
            assert_eq!(Signal::parse(&signal.to_string()), Some(signal));
        }
    }
}
