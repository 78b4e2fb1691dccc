//! The proportional set size of a process tree, read on a thread of its own.
