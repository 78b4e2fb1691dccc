//! A cgroup for each run, where cgroup v2 is writable and it was asked for.
