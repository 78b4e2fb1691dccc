//! /proc/PID/mountinfo as proc_pid_mountinfo(5) describes it. Any bytes are taken: a line that is none of the format is passed over.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    /// The mount it is mounted on; the root's own is not in the list.
    pub(super) parent: u64,
    /// Of the file system, as `st_dev` has it: several mounts of one file system share it.
    pub(super) device: (u32, u32),
    /// The directory of the file system that is seen at `point`.
    pub(super) root: Vec<u8>,
    pub(super) point: PathBuf,
    pub(super) kind: Vec<u8>,
    super_options: Vec<u8>,
}

impl Mount {
    pub(super) fn has_super_option(&self, name: &[u8]) -> bool {
        self.super_options.split(|&byte| byte == b',').any(|option| option == name)
    }
}

/// In the order of the text: of two at the same place the later one is seen.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&byte| byte == b' ');
    let id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let mut device = words.next()?.splitn(2, |&byte| byte == b':');
    let device = (number(device.next()?)?.try_into().ok()?, number(device.next()?)?.try_into().ok()?);
    let root = unescape(words.next()?);
    let point = PathBuf::from(OsString::from_vec(unescape(words.next()?)));
    let _options = words.next()?;
    // Any number of optional fields, ended by a hyphen.
    words.by_ref().find(|word| *word == b"-")?;
    let kind = unescape(words.next()?);
    let _source = words.next()?;
    let super_options = words.next().unwrap_or_default().to_vec();
    (root.starts_with(b"/") && point.is_absolute()).then_some(Mount { id, parent, device, root, point, kind, super_options })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Blanks, tabs, line feeds and backslashes are written as a backslash and three octal digits; see `seq_path` of the kernel.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped =
            if first == b'\\' { after.split_at_checked(3).and_then(|(digits, after)| Some((octal(digits)?, after))) } else { None };
        let (byte, after) = escaped.unwrap_or((first, after));
        plain.push(byte);
        rest = after;
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit.saturating_sub(b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn a_line_is_read_with_any_number_of_optional_fields() {
        for optional in ["", "shared:1 ", "shared:1 master:7 propagate_from:2 "] {
            let text = format!("36 35 98:0 /mnt1 /mnt2 rw,noatime {optional}- ext3 /dev/root rw,errors=continue\n");
            let mounts = parse(text.as_bytes());
            assert_eq!(mounts.len(), 1, "{text}");
            assert_eq!((mounts[0].id, mounts[0].parent, mounts[0].device), (36, 35, (98, 0)));
            assert_eq!((mounts[0].root.as_slice(), mounts[0].point.as_path()), (&b"/mnt1"[..], Path::new("/mnt2")));
            assert_eq!(mounts[0].kind, b"ext3");
            assert!(mounts[0].has_super_option(b"errors=continue") && !mounts[0].has_super_option(b"noatime"));
        }
    }

    #[test]
    fn escapes_are_undone_and_half_ones_left_alone() {
        let text = br"40 35 0:5 /a\040b\134c /x\011y\012z\04 rw - tmpfs no\040one rw";
        let mounts = parse(text);
        assert_eq!(mounts[0].root, br"/a b\c");
        assert_eq!(mounts[0].point, Path::new("/x\ty\nz\\04"));
        assert_eq!(unescape(br"\400\999\1"), br"\400\999\1", "no byte is that large");
    }

    #[test]
    fn lines_of_another_format_are_passed_over() {
        for line in [
            "",
            "x",
            "1 2 3:4 / / rw",
            "1 2 3:4 / / rw - tmpfs",
            "1 2 3 / / rw - a b c",
            "1 2 3:4 a b rw - a b c",
            "-1 2 3:4 / / rw - a b c",
        ] {
            assert_eq!(parse(line.as_bytes()), [], "{line}");
        }
        assert_eq!(parse(b"1 2 3:4 / / rw - tmpfs none").len(), 1, "old kernels leave the last field out when it is empty");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nothing_like_mountinfo_panics(text in r"([0-9:/\\ a-z,-]{0,40}( - )?[a-z0-9/, \\]{0,20}\n){0,5}") {
            let _ = parse(text.as_bytes());
        }
    }
}
