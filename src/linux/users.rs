//! /etc/passwd and /etc/group, read without NSS; see passwd(5) and group(5).
//!
//! Runs between fork and exec, so it allocates nothing, calls nothing and cannot panic: bytes come from a closure, results live on
//! the stack. Lines may be of any length, since they are looked at token by token; a malformed line is passed over, as the C
//! libraries do. The first line that fits counts.

use std::ops::ControlFlow;

/// Longest name that can be compared; LOGIN_NAME_MAX of Linux is 256 with its NUL. A longer one is equal to nothing.
const NAME_MAX: usize = 255;

/// Supplementary groups a user may have here. The kernel takes 65,536; nobody was seen with more than some dozens.
pub(crate) const GROUPS_MAX: usize = 256;

/// Some bytes between two separators.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; NAME_MAX],
    len: usize,
    overlong: bool,
}

impl Name {
    const EMPTY: Self = Self { bytes: [0; NAME_MAX], len: 0, overlong: false };

    fn push(&mut self, byte: u8) {
        match self.bytes.get_mut(self.len) {
            Some(slot) => {
                *slot = byte;
                self.len = self.len.saturating_add(1);
            }
            None => self.overlong = true,
        }
    }

    /// `None` when it is too long to be known whole.
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        if self.overlong { None } else { self.bytes.get(..self.len) }
    }

    fn is(&self, wanted: &[u8]) -> bool {
        !wanted.is_empty() && self.as_bytes() == Some(wanted)
    }

    fn number(&self) -> Option<u32> {
        self.as_bytes().and_then(parse_id)
    }
}

/// A user or group id in decimal. The largest number is none: to the kernel it means "leave as it is" (see setresuid(2)).
pub(crate) fn parse_id(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let mut id: u32 = 0;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        id = id.checked_mul(10)?.checked_add(u32::from(byte.wrapping_sub(b'0')))?;
    }
    (id != u32::MAX).then_some(id)
}

/// One line of /etc/passwd.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: Name,
}

/// A set of group ids of limited size.
pub(crate) struct Groups {
    ids: [u32; GROUPS_MAX],
    len: usize,
}

impl Groups {
    pub(crate) const fn with(id: u32) -> Self {
        let mut ids = [0; GROUPS_MAX];
        if let Some(first) = ids.first_mut() {
            *first = id;
        }
        Self { ids, len: 1 }
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        self.ids.get(..self.len).unwrap_or_default()
    }

    /// `false` when it is full.
    fn add(&mut self, id: u32) -> bool {
        if self.as_slice().contains(&id) {
            return true;
        }
        match self.ids.get_mut(self.len) {
            Some(slot) => {
                *slot = id;
                self.len = self.len.saturating_add(1);
                true
            }
            None => false,
        }
    }
}

/// The line of the user called `wanted`, or else of the one with that number, as chown(1) reads such a word.
///
/// `read` fills the buffer from the file and returns how much there was, 0 at its end; its errno is passed on.
pub(crate) fn find_user(wanted: &[u8], read: impl FnMut(&mut [u8]) -> Result<usize, i32>) -> Result<Option<User>, i32> {
    let number = parse_id(wanted);
    let mut line = (Name::EMPTY, None, None);
    let mut by_name = None;
    let mut by_number = None;
    scan(read, |field, token, end| {
        match field {
            0 => line = (*token, None, None),
            2 => line.1 = token.number(),
            3 => line.2 = token.number(),
            _ => {}
        }
        if end == End::Line
            && field >= 3
            && let (name, Some(uid), Some(gid)) = line
        {
            if name.is(wanted) {
                by_name = Some(User { uid, gid, name });
                return ControlFlow::Break(());
            }
            if number == Some(uid) && by_number.is_none() {
                by_number = Some(User { uid, gid, name });
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(by_name.or(by_number))
}

/// The id of the group called `wanted`.
pub(crate) fn find_group(wanted: &[u8], read: impl FnMut(&mut [u8]) -> Result<usize, i32>) -> Result<Option<u32>, i32> {
    let mut fits = false;
    let mut found = None;
    scan(read, |field, token, _| match field {
        0 => {
            fits = token.is(wanted);
            ControlFlow::Continue(())
        }
        2 if fits && token.number().is_some() => {
            found = token.number();
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    })?;
    Ok(found)
}

/// Adds every group that lists `user` as a member. `Ok(false)`: there are more than fit.
pub(crate) fn add_groups_of(user: &[u8], groups: &mut Groups, read: impl FnMut(&mut [u8]) -> Result<usize, i32>) -> Result<bool, i32> {
    let mut gid = None;
    let mut all_fit = true;
    scan(read, |field, token, _| {
        match field {
            0 => gid = None,
            2 => gid = token.number(),
            3 if token.is(user) => {
                if let Some(gid) = gid
                    && !groups.add(gid)
                {
                    all_fit = false;
                    return ControlFlow::Break(());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(all_fit)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// A comma in the fourth field, where /etc/group lists the members.
    Item,
    /// A colon.
    Field,
    /// A newline, or the end of the file.
    Line,
}

/// Shows every token with the number of its field, from 0.
fn scan(
    mut read: impl FnMut(&mut [u8]) -> Result<usize, i32>,
    mut see: impl FnMut(usize, &Name, End) -> ControlFlow<()>,
) -> Result<(), i32> {
    let mut buffer = [0_u8; 4096];
    let mut token = Name::EMPTY;
    let mut field = 0_usize;
    loop {
        let got = read(&mut buffer)?;
        let chunk = buffer.get(..got).unwrap_or_default();
        if chunk.is_empty() {
            if field > 0 || token.len > 0 {
                let _ = see(field, &token, End::Line);
            }
            return Ok(());
        }
        for &byte in chunk {
            let end = match byte {
                b'\n' => End::Line,
                b':' => End::Field,
                b',' if field == 3 => End::Item,
                _ => {
                    token.push(byte);
                    continue;
                }
            };
            if see(field, &token, end).is_break() {
                return Ok(());
            }
            token.len = 0;
            token.overlong = false;
            field = match end {
                End::Item => field,
                End::Field => field.saturating_add(1),
                End::Line => 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out `text` in pieces of `size`, so that every token gets cut somewhere.
    fn pieces(text: &[u8], size: usize) -> impl FnMut(&mut [u8]) -> Result<usize, i32> {
        let mut rest = text;
        move |buffer| {
            let n = rest.len().min(size).min(buffer.len());
            let (now, later) = rest.split_at(n);
            buffer[..n].copy_from_slice(now);
            rest = later;
            Ok(n)
        }
    }

    fn user(passwd: &str, wanted: &str) -> Option<(u32, u32)> {
        let whole = find_user(wanted.as_bytes(), pieces(passwd.as_bytes(), 4096)).unwrap().map(|u| (u.uid, u.gid));
        for size in 1..9 {
            let cut = find_user(wanted.as_bytes(), pieces(passwd.as_bytes(), size)).unwrap().map(|u| (u.uid, u.gid));
            assert_eq!(cut, whole, "in pieces of {size}");
        }
        whole
    }

    fn groups(group: &str, user: &str) -> Vec<u32> {
        let mut found = Groups::with(7);
        assert!(add_groups_of(user.as_bytes(), &mut found, pieces(group.as_bytes(), 5)).unwrap());
        found.as_slice().to_vec()
    }

    #[test]
    fn a_user_is_found_by_name_then_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/:\nwww-data:x:35:36:a,b,c:/:\n99:x:5:6::/:\nodd:x:99:7::/:";
        assert_eq!(user(passwd, "root"), Some((0, 0)));
        assert_eq!(user(passwd, "www"), Some((33, 34)));
        assert_eq!(user(passwd, "www-data"), Some((35, 36)));
        assert_eq!(user(passwd, "www-dat"), None);
        assert_eq!(user(passwd, "35"), Some((35, 36)));
        assert_eq!(user(passwd, "99"), Some((5, 6)), "a name of digits wins over the number");
        assert_eq!(user(passwd, "odd"), Some((99, 7)), "no newline at the end of the file");
        assert_eq!(user(passwd, "12345"), None);
        assert_eq!(user(passwd, ""), None);
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        let passwd = "web\nweb:x\nweb:x:\nweb:x:1\nweb:x:one:2:::\nweb:x:-1:2:::\nweb:x:4294967295:2:::\nweb:x:99999999999:2:::\n\n::::::\n#web:x:1:1:::\nweb:x:8:9:::\nweb:x:10:11:::\n";
        assert_eq!(user(passwd, "web"), Some((8, 9)));
        assert_eq!(user("web:x:1", "web"), None);
        assert_eq!(user("web:x:1:2", "web"), Some((1, 2)));
    }

    #[test]
    fn huge_lines_and_names_are_no_trouble() {
        let passwd = format!(
            "{}:x:1:1:::\n{}:x:2:2:::\nweb:x:3:4:{}:/:/bin/sh\nlast:x:5:6:::\n",
            "w".repeat(70_000),
            "v".repeat(255),
            "g".repeat(70_000)
        );
        assert_eq!(user(&passwd, "last"), Some((5, 6)));
        assert_eq!(user(&passwd, "web"), Some((3, 4)));
        assert_eq!(user(&passwd, &"v".repeat(255)), Some((2, 2)));
        assert_eq!(user(&passwd, &"w".repeat(255)), None);
        assert_eq!(user(&passwd, &"w".repeat(70_000)), None, "too long to be compared is equal to nothing");
    }

    #[test]
    fn groups_are_those_that_list_the_user() {
        let group = "root:x:0:\nadm:x:4:www,syslog\ntty:x:5:www-data,wwwx\nvideo:x:44:a,www\nwww:x:33:\nbad:x:nine:www\nshort:x\nvideo2:x:44:www\nlast:x:50:b,www";
        assert_eq!(groups(group, "www"), [7, 4, 44, 50]);
        assert_eq!(groups(group, "www-data"), [7, 5]);
        assert_eq!(groups(group, "ww"), [7]);
        assert_eq!(groups("many:x:3:a,,b,\n", ""), [7], "an empty item is nobody");
    }

    #[test]
    fn a_group_line_of_thousands_of_members_is_read_to_its_end() {
        let members: Vec<String> = (0..20_000).map(|n| format!("user{n}")).collect();
        let group = format!("all:x:1000:{}\n", members.join(","));
        assert_eq!(groups(&group, "user19999"), [7, 1000]);
    }

    #[test]
    fn more_groups_than_fit_are_reported() {
        let group: String = (0..300).map(|n| format!("g{n}:x:{}:web\n", 1000 + n)).collect();
        let mut found = Groups::with(7);
        assert_eq!(add_groups_of(b"web", &mut found, pieces(group.as_bytes(), 4096)), Ok(false));
        assert_eq!(found.as_slice().len(), GROUPS_MAX);
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let group = b"www:x:bad:\nwww:x:33:a\nwww-data:x:34:\n";
        assert_eq!(find_group(b"www", pieces(group, 3)), Ok(Some(33)));
        assert_eq!(find_group(b"www-data", pieces(group, 3)), Ok(Some(34)));
        assert_eq!(find_group(b"w", pieces(group, 3)), Ok(None));
        assert_eq!(find_group(b"", pieces(group, 3)), Ok(None));
    }

    #[test]
    fn a_read_error_is_passed_on() {
        assert_eq!(find_group(b"www", |_| Err(5)), Err(5));
    }
}
