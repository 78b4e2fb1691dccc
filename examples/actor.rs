//! A child with scripted manners, for tests.
fn main() {}
