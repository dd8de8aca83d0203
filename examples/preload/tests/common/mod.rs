//! What the tests share.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// The library, in the profile of this test; built once.
pub fn library() -> PathBuf {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(build);
    LIBRARY.clone()
}

fn build() -> PathBuf {
    let mut exe = std::env::current_exe().unwrap();
    // .../PROFILE/deps/NAME
    exe.pop();
    exe.pop();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--lib", "--package", "pagecow-preload"]);
    build.arg("--target-dir").arg(exe.parent().unwrap());
    if exe.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    exe.join("libpagecow_preload.so")
}
