//! Where the libraries are that are to be preloaded, and in which order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libpagecow_preload.so";
const VARIABLE: &str = "PAGECOW_LIBRARY";
const JEMALLOC: &str = "libjemalloc.so.2";
/// Where distributions put libraries, beside the folder that is named after the machine.
const FOLDERS: [&str; 4] = ["/usr/lib64", "/usr/lib", "/usr/local/lib", "/lib64"];

pub struct Preload {
    library: PathBuf,
    jemalloc: Option<PathBuf>,
    before: Option<OsString>,
}

impl Preload {
    /// `with_jemalloc`: with libjemalloc behind the library, unless it is there already.
    pub fn find(with_jemalloc: bool) -> Result<Self, String> {
        let library = library()?;
        expect_no_separator(&library)?;
        let before = std::env::var_os("LD_PRELOAD").filter(|list| !list.is_empty());
        let has_it = before
            .as_deref()
            .is_some_and(|list| entries(list).any(is_jemalloc));
        let jemalloc = if with_jemalloc && !has_it {
            Some(jemalloc().ok_or_else(|| {
                format!("no {JEMALLOC} (Debian has it in the package libjemalloc2)")
            })?)
        } else {
            None
        };
        Ok(Self {
            library,
            jemalloc,
            before,
        })
    }

    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The value of `LD_PRELOAD`: the library first, since the others' calls go through it.
    pub fn list(&self) -> OsString {
        let own = [Some(self.library.as_os_str()), self.jemalloc_name()];
        let before = self.before.iter().flat_map(|list| entries(list));
        let before = before.filter(|entry| *entry != self.library);
        let all: Vec<&OsStr> = own.into_iter().flatten().chain(before).collect();
        all.join(OsStr::new(":"))
    }

    fn jemalloc_name(&self) -> Option<&OsStr> {
        self.jemalloc.as_deref().map(Path::as_os_str)
    }
}

/// The loader takes spaces and colons between names.
fn entries(list: &OsStr) -> impl Iterator<Item = &OsStr> {
    let parts = list.as_bytes().split(|byte| b" :".contains(byte));
    parts.filter(|part| !part.is_empty()).map(OsStr::from_bytes)
}

fn is_jemalloc(entry: &OsStr) -> bool {
    let name = Path::new(entry).file_name().unwrap_or(entry);
    name.as_bytes().starts_with(b"libjemalloc.")
}

fn expect_no_separator(library: &Path) -> Result<(), String> {
    let bytes = library.as_os_str().as_bytes();
    if bytes.iter().any(|byte| b" :".contains(byte)) {
        return Err(format!(
            "{}: LD_PRELOAD cannot name a file with a space or a colon in its path",
            library.display()
        ));
    }
    Ok(())
}

fn library() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let path = std::path::absolute(&named).map_err(|error| format!("{VARIABLE}: {error}"))?;
        if !path.is_file() {
            return Err(format!("{VARIABLE}: there is no file {}", path.display()));
        }
        return Ok(path);
    }
    let own = std::env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let beside = folder.join(NAME);
    let places = [
        Some(beside),
        folder.parent().map(|up| up.join("lib").join(NAME)),
    ];
    let found = places.into_iter().flatten().find(|path| path.is_file());
    found.ok_or_else(|| {
        format!(
            "no {NAME} in {} or in ../lib; name it by {VARIABLE}",
            folder.display()
        )
    })
}

fn jemalloc() -> Option<PathBuf> {
    let machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = std::iter::once(machine.as_str()).chain(FOLDERS);
    let mut paths = folders.map(|folder| Path::new(folder).join(JEMALLOC));
    paths.find(|path| path.is_file())
}
