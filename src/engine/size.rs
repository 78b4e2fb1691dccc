//! Sizes and shares as people read them: the same in the log, in the table and on the page.

use std::fmt::{self, Display};

/// A size for people, cut off rather than rounded: `312 KiB`, `412.3 MiB`, `1.25 GiB`.
#[must_use]
pub fn size(bytes: u64) -> impl Display {
    SizeText(bytes)
}

struct SizeText(u64);

impl Display for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let (shift, unit) = match bytes {
            0..0x400 => return write!(f, "{bytes} bytes"),
            0x400..0x10_0000 => (10, "KiB"),
            0x10_0000..0x4000_0000 => (20, "MiB"),
            0x4000_0000.. => (30, "GiB"),
        };
        let whole = bytes >> shift;
        let rest = bytes & ((1_u64 << shift) - 1);
        // Below one unit, so that a hundred times it is far below the largest number.
        let hundredths = rest.saturating_mul(100) >> shift;
        match (unit, hundredths / 10, hundredths % 10) {
            ("GiB", _, 1..) => write!(f, "{whole}.{hundredths:02} {unit}"),
            ("KiB", _, _) | (_, 0, _) => write!(f, "{whole} {unit}"),
            (_, tenths, _) => write!(f, "{whole}.{tenths} {unit}"),
        }
    }
}

/// A share for people, to the nearest tenth: `75%`, `78.3%`.
#[must_use]
pub fn percent(part: u64, whole: u64) -> impl Display {
    PercentText(part, whole)
}

struct PercentText(u64, u64);

impl Display for PercentText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = u128::from(self.1.max(1));
        let tenths = u128::from(self.0).saturating_mul(1_000).saturating_add(whole / 2) / whole;
        match tenths % 10 {
            0 => write!(f, "{}%", tenths / 10),
            tenth => write!(f, "{}.{tenth}%", tenths / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_more_than_there_is() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_024, "1 KiB"),
            (320_000, "312 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (1 << 20, "1 MiB"),
            (432_400_000, "412.3 MiB"),
            ((512 << 20) - 1, "511.9 MiB"),
            (512 << 20, "512 MiB"),
            (1 << 30, "1 GiB"),
            ((1 << 30) + (1 << 28), "1.25 GiB"),
            ((1 << 30) + (1 << 26), "1.06 GiB"),
            (u64::MAX, "17179869183.99 GiB"),
        ] {
            assert_eq!(size(bytes).to_string(), text);
        }
    }

    #[test]
    fn shares_are_to_the_nearest_tenth() {
        for (part, whole, text) in [
            (0, 100, "0%"),
            (75, 100, "75%"),
            // Three quarters of a limit are cut off to whole bytes.
            (402_653_183, 536_870_912, "75%"),
            (1, 3, "33.3%"),
            (2, 3, "66.7%"),
            (300, 200, "150%"),
            (5, 0, "500%"),
            (u64::MAX, u64::MAX, "100%"),
        ] {
            assert_eq!(percent(part, whole).to_string(), text);
        }
    }
}
