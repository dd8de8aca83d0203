//! The program that is executed in the end: a script names its interpreter.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// As the kernel has it.
const MOST: usize = 5;
const FIRST_LINE: u64 = 256;

/// The program behind a name, as execvp(3) finds it, and behind that the interpreter of a script,
/// until it is no script.
pub fn resolve(name: &OsStr) -> Result<PathBuf, String> {
    let mut path = find(name)?;
    for _ in 0..MOST {
        let first = first_bytes(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let Some(line) = first.strip_prefix(b"#!") else {
            return Ok(path);
        };
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        path = find(&interpreter(line).ok_or("a script without an interpreter")?)?;
    }
    Err("a script of a script of a script".to_owned())
}

/// Of the rest of a first line; `env` looks for the program that it is told.
fn interpreter(line: &[u8]) -> Option<OsString> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let mut words = line.split(is_blank).filter(|word| !word.is_empty());
    let first = OsStr::from_bytes(words.next()?);
    let is_env = Path::new(first).file_name() == Some(OsStr::new("env"));
    let told = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
    match told {
        Some(told) if is_env => Some(OsStr::from_bytes(told).to_owned()),
        _ => Some(first.to_owned()),
    }
}

fn first_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FIRST_LINE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn find(name: &OsStr) -> Result<PathBuf, String> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match path.metadata() {
            Ok(_) if is_executable(&path) => Ok(path),
            Ok(_) => Err(format!("{} cannot be executed", path.display())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(name));
    let found = paths.find(|path| is_executable(path));
    found.ok_or_else(|| format!("there is no program {}", name.display()))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters() {
        let of = |line: &str| interpreter(line.as_bytes()).map(|name| name.into_string().unwrap());
        assert_eq!(of(" /bin/sh -e").as_deref(), Some("/bin/sh"));
        assert_eq!(of("/usr/bin/env python3").as_deref(), Some("python3"));
        let long = "/usr/bin/env -S A=1 python3 -u";
        assert_eq!(of(long).as_deref(), Some("python3"));
        assert_eq!(of("/usr/bin/env").as_deref(), Some("/usr/bin/env"));
        assert_eq!(of("  "), None);
    }
}
