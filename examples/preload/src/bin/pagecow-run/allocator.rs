//! Whose `malloc` a program calls. The C library's maps memory by calls of its own, which the
//! library does not see.

use std::path::Path;
use std::process::Command;

use crate::library::Preload;

/// What jemalloc prints before its messages: a program that has it inside has this text, too.
const JEMALLOC: &[u8] = b"<jemalloc>";
const TCMALLOC: &str = "libtcmalloc";
/// Of the second nothing is served: it says where its memory is to be.
const OTHERS: [&str; 2] = [TCMALLOC, "libmimalloc"];

/// How the program's memory is served, or why it is not.
pub fn check(
    program: &Path,
    bytes: &[u8],
    loader: &Path,
    preload: &Preload,
) -> Result<String, String> {
    let output = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env("LD_PRELOAD", preload.list())
        .output()
        .map_err(|error| format!("its loader {}: {error}", loader.display()))?;
    let list = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = || errors.lines().next().unwrap_or("nothing").to_owned();
    if !output.status.success() {
        return Err(format!("its loader says: {}", first()));
    }
    // "NAME => PATH (ADDRESS)", or "PATH (ADDRESS)".
    let names = || {
        list.lines()
            .filter_map(|line| line.split_whitespace().next())
    };
    let library = preload.library();
    if !names().any(|name| Path::new(name) == library) {
        return Err(format!("its loader leaves the library out: {}", first()));
    }
    let mut files = names().filter_map(|name| Path::new(name).file_name()?.to_str());
    if files.any(|file| file.starts_with("libjemalloc.")) {
        return Ok("malloc is libjemalloc's".to_owned());
    }
    if bytes.windows(JEMALLOC.len()).any(|part| part == JEMALLOC) {
        return Ok("it has jemalloc inside".to_owned());
    }
    let mut files = names().filter_map(|name| Path::new(name).file_name()?.to_str());
    let is_other = |file: &&str| OTHERS.iter().any(|other| file.starts_with(other));
    let other = files.find(is_other);
    if other.is_some_and(|file| file.starts_with(TCMALLOC)) && takes_no_heap() {
        return Ok("malloc is libtcmalloc's".to_owned());
    }
    Err(format!(
        "malloc is that of {}, whose memory is not served: put libjemalloc behind the library \
         (pagecow-run --jemalloc)",
        other.unwrap_or("the C library")
    ))
}

/// Without this variable tcmalloc takes memory by `sbrk`, as long as there is any.
fn takes_no_heap() -> bool {
    let value = std::env::var_os("TCMALLOC_SKIP_SBRK");
    value.is_some_and(|value| value == "1" || value == "true")
}
