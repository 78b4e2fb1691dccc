//! Capabilities by name and number, and what a service may keep of them. See capabilities(7).

use std::fmt;

/// Every capability of Linux, by number, without `CAP_`; see linux/capability.h.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities: bit n for the one numbered n, as the kernel has them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None at all.
    pub const NONE: Self = Self(0);

    /// The bits as the kernel has them.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The one that `NET_ADMIN`, `CAP_NET_ADMIN` or `net_admin` names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == name)?;
        Some(Self(1_u64.wrapping_shl(u32::try_from(number).ok()?)))
    }

    /// Those of either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMES.iter().enumerate().filter(|&(number, _)| self.0 & 1_u64.checked_shl(number as u32).unwrap_or(0) != 0);
        f.debug_set().entries(named.map(|(_, name)| name)).finish()
    }
}

/// What a service may do beyond its user's rights: `capabilities` and `no_new_privs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Only these; `None` is what becomes of firstmate's own.
    pub capabilities: Option<Capabilities>,
    /// Nothing that it executes gives it more; see PR_SET_NO_NEW_PRIVS in prctl(2). Inherited where firstmate has it.
    pub no_new_privs: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_form() {
        for (text, bit) in
            [("NET_BIND_SERVICE", 10), ("CAP_NET_BIND_SERVICE", 10), ("cap_net_raw", 13), ("chown", 0), ("CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(Capabilities::parse(text).map(Capabilities::bits), Some(1 << bit), "{text}");
        }
        for text in ["", "ALL", "CAP_", "NET", "NET_BIND_SERVICES", "10"] {
            assert_eq!(Capabilities::parse(text), None, "{text}");
        }
        let two = Capabilities::parse("KILL").unwrap().with(Capabilities::parse("CHOWN").unwrap());
        assert_eq!((two.bits(), format!("{two:?}").as_str()), (0b10_0001, "{\"CHOWN\", \"KILL\"}"));
    }
}
