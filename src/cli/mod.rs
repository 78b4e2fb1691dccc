//! Arguments to exit code: one file a subcommand, rendering of tables and errors.
