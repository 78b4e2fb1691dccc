//! Sorts the shipped binary's code; see `src/start.ld`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/start.ld");
    // What is built for tests against the system's library is linked as usual.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bin=firstmate=-Wl,-T,{directory}/src/start.ld");
    }
}
