//! The limit in force, and what the container uses of it.
