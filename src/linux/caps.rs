//! The capabilities of a service, set in the child between fork and exec: raw system calls only.
//!
//! A user that is not root gets nothing of the permitted set through an execve unless it is in the ambient set, and root gets what is in the
//! inheritable or the bounding set; see "Transformation of capabilities during execve()" in capabilities(7). So what is kept stays in all five sets,
//! except that root needs no ambient one, and what is not kept leaves all five.
//!
//! The order matters: the bounding set is reduced while CAP_SETPCAP is still there; the change of user needs CAP_SETUID and CAP_SETGID, and would
//! clear the permitted set unless told to keep it; the rest is dropped when everything that needs it is done.

use nix::errno::Errno;

use super::spawn::{Failure, check};
use crate::engine::Stage;
use crate::engine::capability::{Capabilities, NAMES};

/// _LINUX_CAPABILITY_VERSION_3: 64 capabilities, in two halves. See capget(2).
const VERSION_3: u32 = 0x2008_0522;

/// PR_CAP_AMBIENT_RAISE, which libc has as a number of another type; see prctl(2).
const AMBIENT_RAISE: u32 = 2;

/// What capget(2) calls cap_user_header_t.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// What capget(2) calls cap_user_data_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The system call, since the C libraries' wrapper is variadic, and what is not used must be zero in full.
fn prctl(option: i32, first: u32, second: u32) -> i64 {
    let (first, second, none) = (u64::from(first), u64::from(second), 0_u64);
    // SAFETY: numbers only for every option that is used here.
    unsafe { libc::syscall(libc::SYS_prctl, option, first, second, none, none) }
}

/// What firstmate itself may use, before anything is given up: keeping more is no drop but a wish.
pub(super) fn require(kept: Capabilities) -> Result<(), Failure<'static>> {
    let missing = kept.bits() & !permitted()?;
    let name = usize::try_from(missing.trailing_zeros()).ok().and_then(|number| NAMES.get(number));
    match name.filter(|_| missing != 0) {
        Some(name) => Err(Failure { stage: Stage::Capabilities, errno: libc::EPERM, what: name.as_bytes(), remark: "" }),
        None => Ok(()),
    }
}

fn permitted() -> Result<u64, Failure<'static>> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: a header and the two halves that go with its version.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    check(result, Stage::Capabilities, b"sets: reading them")?;
    let [low, high] = halves;
    Ok(u64::from(low.permitted) | u64::from(high.permitted).wrapping_shl(32))
}

/// Nothing that is executed from now on gains rights.
pub(super) fn set_no_new_privs() -> Result<(), Failure<'static>> {
    check(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0), Stage::NoNewPrivs, b"").map(drop)
}

/// Takes everything but `kept` out of the bounding set. Without CAP_SETPCAP that cannot be; it is not needed either where nothing can be gained by
/// executing, since no_new_privs is to be set or holds already.
pub(super) fn reduce_bounding_set(kept: Capabilities, no_new_privs: bool) -> Result<(), Failure<'static>> {
    for (number, name) in
        (0_u32..64).zip(NAMES.iter().map(|name| name.as_bytes()).chain(std::iter::repeat(b"one that firstmate does not know".as_slice())))
    {
        if kept.bits().wrapping_shr(number) & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_READ, number, 0) {
            0 => continue,
            1 => {}
            // EINVAL beyond the last capability the kernel knows.
            _ => break,
        }
        if prctl(libc::PR_CAPBSET_DROP, number, 0) == -1 {
            let errno = Errno::last_raw();
            if no_new_privs || prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0) == 1 {
                return Ok(());
            }
            return Err(Failure { stage: Stage::BoundingSet, errno, what: name, remark: "" });
        }
    }
    Ok(())
}

/// The permitted set stays when root becomes somebody else. An execve takes the flag back.
pub(super) fn outlive_the_change_of_user() -> Result<(), Failure<'static>> {
    check(prctl(libc::PR_SET_KEEPCAPS, 1, 0), Stage::Capabilities, b"sets over the change of user").map(drop)
}

/// Drops everything but `kept`, as the user the program runs as.
pub(super) fn keep_only(kept: Capabilities) -> Result<(), Failure<'static>> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    for (half, bits) in halves.iter_mut().zip([kept.bits(), kept.bits().wrapping_shr(32)]) {
        let bits = u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        *half = Half { effective: bits, permitted: bits, inheritable: bits };
    }
    // What is dropped here leaves the ambient set too.
    // SAFETY: a header and the two halves that go with its version.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) };
    check(result, Stage::Capabilities, b"sets: dropping the others")?;
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } == 0 {
        return Ok(());
    }
    for (number, name) in (0_u32..).zip(NAMES) {
        if kept.bits().wrapping_shr(number) & 1 == 1 {
            // It is permitted and inheritable by now, which is all that is asked for.
            let raised = prctl(libc::PR_CAP_AMBIENT, AMBIENT_RAISE, number);
            check(raised, Stage::Capabilities, name.as_bytes())?;
        }
    }
    Ok(())
}
