//! Whether a program can be served: from what its file says, without starting it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};

use crate::library::Preload;
use crate::{allocator, privileges, script};

/// Sections that Go's linker makes.
const GO: [&[u8]; 2] = [b".go.buildinfo", b".note.go.buildid"];
/// Where the kind of machine is in a file's first bytes: class and byte order, and its number.
const MACHINE: [std::ops::Range<usize>; 2] = [4..6, 18..20];

/// How it is served, or why it is not.
pub fn check(name: &OsStr, preload: &Preload) -> Result<String, String> {
    let path = script::resolve(name)?;
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let bytes = std::fs::read(&path).map_err(at)?;
    let metadata = path.metadata().map_err(at)?;
    if let Some(why) = privileges::why_left_out(&path, &metadata) {
        return Err(format!("{}: {why}", path.display()));
    }
    let loader = loader(&bytes, preload).map_err(|why| format!("{}: {why}", path.display()))?;
    let how = allocator::check(&path, &bytes, &loader, preload);
    let named = |text: String| format!("{}: {text}", path.display());
    how.map(named).map_err(named)
}

/// What loads the program: the C library's, or the program is not served.
fn loader(bytes: &[u8], preload: &Preload) -> Result<PathBuf, String> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err("it is neither a program nor a script".to_owned());
    }
    let library = std::fs::read(preload.library()).map_err(|error| error.to_string())?;
    if MACHINE
        .iter()
        .any(|part| bytes.get(part.clone()) != library.get(part.clone()))
    {
        return Err("it is for another kind of machine than the library".to_owned());
    }
    let found = Found::in_file(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    if found.is_go {
        return Err("it is in Go, which maps memory by system calls of its own".to_owned());
    }
    let Some(loader) = found.loader else {
        return Err("it is linked statically, so nothing can be preloaded".to_owned());
    };
    let name = loader.file_name().unwrap_or_default().as_bytes();
    if name.starts_with(b"ld-musl") {
        return Err("its C library is musl, and the library needs glibc".to_owned());
    }
    if !name.starts_with(b"ld-linux") && !name.starts_with(b"ld64") {
        return Err(format!("its loader is not glibc's: {}", loader.display()));
    }
    Ok(loader)
}

struct Found {
    loader: Option<PathBuf>,
    is_go: bool,
}

impl Found {
    fn in_file(bytes: &[u8]) -> object::read::Result<Self> {
        let header = FileHeader64::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        let mut loader = None;
        for segment in header.program_headers(endian, bytes)? {
            if let Some(path) = segment.interpreter(endian, bytes)? {
                loader = Some(Path::new(OsStr::from_bytes(path)).to_owned());
            }
        }
        let sections = header.sections(endian, bytes)?;
        let is_go = |name: &&[u8]| sections.section_by_name(endian, name).is_some();
        Ok(Self {
            loader,
            is_go: GO.iter().any(is_go),
        })
    }
}
