//! `pagecow-run`: what it starts, and what it says cannot be served. Where it says so of a program
//! that can be started here, the program is started, and has no library.

#![allow(unsafe_code, reason = "limits and owners of programs that are started")]

mod common;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NOBODY: u32 = 65534;

fn runner() -> PathBuf {
    common::library();
    PathBuf::from(env!("CARGO_BIN_EXE_pagecow-run"))
}

/// `pagecow-run`, in an environment without settings.
fn run<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(runner());
    for name in [
        "LD_PRELOAD",
        "PAGECOW_OFF",
        "PAGECOW_GIB",
        "PAGECOW_LIBRARY",
    ] {
        command.env_remove(name);
    }
    command.args(args);
    command
}

fn text(output: &Output) -> String {
    let [out, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{errors}")
}

fn printed(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap().trim()
}

/// Checks a program, which is refused for this reason.
fn expect_refused(program: &Path, why: &str) {
    let output = run([OsStr::new("--check"), program.as_os_str()])
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("kernel: served"), "{text}");
    let begin = format!("{}: not served: ", program.display());
    let line = text.lines().find_map(|line| line.strip_prefix(&begin));
    assert!(line.is_some_and(|line| line.contains(why)), "{text}");
}

/// Whether a program that is started so has the library.
fn has_library(program: &Path) -> bool {
    let log = tempfile::NamedTempFile::new().unwrap();
    // Also for programs that another user's rights are for.
    std::fs::set_permissions(log.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = run([program])
        .env("PAGECOW_LOG", log.path())
        .output()
        .unwrap();
    assert_eq!(printed(&output), "started", "{}", text(&output));
    std::fs::read_to_string(log.path())
        .unwrap()
        .contains("serving from")
}

/// A program in a folder of its own that others may look into.
struct Program {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Of a line of Rust, with these options of the compiler.
fn program(items: &str, options: &[&str]) -> Program {
    let folder = folder();
    let source = folder.path().join("program.rs");
    let main = "fn main() { println!(\"started\"); }";
    std::fs::write(&source, format!("{items}\n{main}\n")).unwrap();
    let path = folder.path().join("program");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args(["--edition=2024", "-o"])
        .args([&path, &source])
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    Program {
        _folder: folder,
        path,
    }
}

fn script(folder: &Path, first_line: &str) -> PathBuf {
    let path = folder.join("script");
    std::fs::write(&path, format!("{first_line}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn is_root() -> bool {
    // SAFETY: a plain call.
    unsafe { libc::getuid() == 0 }
}

fn jemalloc() -> bool {
    let output = run(["--jemalloc", "true"]).output().unwrap();
    if !output.status.success() {
        println!("skipped: no libjemalloc");
    }
    output.status.success()
}

#[test]
fn arguments_environment_and_exit_code_are_the_programs() {
    let script = "echo \"$0,$1,$2,$VALUE\"; exit 7";
    let output = run(["sh", "-c", script, "--check", "a b", "-x"])
        .env("VALUE", "of its own")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert_eq!(output.stdout, b"--check,a b,-x,of its own\n");
    assert!(output.stderr.is_empty(), "{}", text(&output));
}

#[test]
fn the_library_is_before_what_is_preloaded_already() {
    let library = common::library();
    let library = library.to_str().unwrap();
    let list = |before: &str| {
        let mut command = run(["sh", "-c", "echo $LD_PRELOAD"]);
        let output = command.env("LD_PRELOAD", before).output().unwrap();
        printed(&output).to_owned()
    };
    assert_eq!(list(""), library);
    assert_eq!(list("libm.so.6"), format!("{library}:libm.so.6"));
    let both = format!("{library}:libm.so.6:libdl.so.2");
    assert_eq!(list("libm.so.6 libdl.so.2"), both);
    assert_eq!(list(&format!("libm.so.6:{library}: libdl.so.2")), both);
}

#[test]
fn jemalloc_is_behind_the_library_and_before_the_rest() {
    if !jemalloc() {
        return;
    }
    let library = common::library();
    let mut command = run(["--jemalloc", "sh", "-c", "echo $LD_PRELOAD"]);
    let output = command.env("LD_PRELOAD", "libm.so.6").output().unwrap();
    let list: Vec<&str> = printed(&output).split(':').collect();
    assert_eq!(list.len(), 3, "{list:?}");
    assert_eq!((list[0], list[2]), (library.to_str().unwrap(), "libm.so.6"));
    assert!(list[1].ends_with("/libjemalloc.so.2"), "{list:?}");
    // One that is there already is not put there again.
    let mut command = run(["--jemalloc", "sh", "-c", "echo $LD_PRELOAD"]);
    let output = command.env("LD_PRELOAD", list[1]).output().unwrap();
    assert_eq!(printed(&output), format!("{}:{}", list[0], list[1]));
}

#[test]
fn a_program_that_is_started_has_the_library() {
    let program = program("", &[]);
    assert!(has_library(&program.path));
}

#[test]
fn the_library_is_found_beside_it_in_lib_or_where_it_is_named() {
    let folder = folder();
    let bin = folder.path().join("bin");
    let lib = folder.path().join("lib");
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&lib).unwrap();
    let own = bin.join("pagecow-run");
    std::fs::copy(runner(), &own).unwrap();
    let list = |named: Option<&Path>| {
        let mut command = Command::new(&own);
        command.args(["sh", "-c", "echo $LD_PRELOAD"]);
        command
            .env_remove("LD_PRELOAD")
            .env_remove("PAGECOW_LIBRARY");
        command.envs(named.map(|path| ("PAGECOW_LIBRARY", path)));
        command.output().unwrap()
    };
    let none = list(None);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).contains("PAGECOW_LIBRARY"), "{}", text(&none));
    let named = list(Some(Path::new("/nonexistent/file")));
    assert_eq!(named.status.code(), Some(1));
    let named = common::library();
    assert_eq!(printed(&list(Some(&named))), named.to_str().unwrap());
    for place in [&lib, &bin] {
        let library = place.join("libpagecow_preload.so");
        std::fs::copy(common::library(), &library).unwrap();
        assert_eq!(printed(&list(None)), library.to_str().unwrap());
    }
}

#[test]
fn wrong_usage_and_programs_that_cannot_be_started() {
    let folder = folder();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let code = |args: &[&str]| run(args).output().unwrap().status.code();
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["--jemalloc"]), Some(2));
    assert_eq!(code(&["--unknown", "true"]), Some(2));
    assert_eq!(code(&["/nonexistent/program"]), Some(127));
    assert_eq!(code(&[plain.to_str().unwrap()]), Some(126));
    expect_refused(Path::new("/nonexistent/program"), "No such file");
    expect_refused(&plain, "cannot be executed");
    expect_refused(Path::new("no-program-of-this-name"), "there is no program");
}

#[test]
fn a_static_program() {
    let program = program("", &["-C", "target-feature=+crt-static"]);
    expect_refused(&program.path, "statically");
    assert!(!has_library(&program.path));
    // Through scripts, too.
    let folder = folder();
    let script = script(folder.path(), &format!("#! {} -x", program.path.display()));
    expect_refused(&script, "statically");
    assert!(!has_library(&script));
}

#[test]
fn a_program_in_go() {
    let item = "#[used] #[unsafe(link_section = \".go.buildinfo\")] static GO: u8 = 1;";
    let program = program(item, &[]);
    expect_refused(&program.path, "Go");
}

#[test]
fn a_program_for_musl() {
    let option = "link-arg=-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1";
    let program = program("", &["-C", option]);
    expect_refused(&program.path, "the library needs glibc");
}

#[test]
fn a_program_for_another_machine() {
    let program = program("", &[]);
    let bytes = std::fs::read(&program.path).unwrap();
    // The class, the order of bytes, and the number of the machine.
    for (place, value) in [(4, 1), (5, 2), (18, 0xf3)] {
        let mut other = bytes.clone();
        assert_ne!(other[place], value);
        other[place] = value;
        std::fs::write(&program.path, other).unwrap();
        expect_refused(&program.path, "another kind of machine");
    }
    std::fs::write(&program.path, &bytes[..64]).unwrap();
    expect_refused(&program.path, "cannot be read");
    std::fs::write(&program.path, "text").unwrap();
    expect_refused(&program.path, "neither a program nor a script");
}

#[test]
fn a_program_that_is_setuid_or_setgid() {
    if !is_root() {
        // That of another user, which each system has.
        let found = ["/usr/bin/passwd", "/usr/bin/su", "/usr/bin/mount"].map(Path::new);
        let is_setuid = |path: &&Path| {
            path.metadata()
                .is_ok_and(|found| found.mode() & 0o4000 != 0)
        };
        match found.into_iter().find(is_setuid) {
            Some(path) => expect_refused(path, "setuid"),
            None => println!("skipped: no program that is setuid"),
        }
        return;
    }
    let program = program("", &[]);
    let set = |mode, owner, group| {
        std::os::unix::fs::chown(&program.path, Some(owner), Some(group)).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&program.path, mode).unwrap();
    };
    set(0o4755, NOBODY, 0);
    expect_refused(&program.path, "setuid");
    assert!(!has_library(&program.path));
    set(0o2755, 0, NOBODY);
    expect_refused(&program.path, "setgid");
    assert!(!has_library(&program.path));
    // It gains nothing, and the loader does as it is told.
    set(0o6755, 0, 0);
    assert!(has_library(&program.path));
    expect_refused(&program.path, "malloc");
}

#[test]
fn a_program_with_capabilities() {
    if !is_root() {
        println!("skipped: only root can give a program capabilities");
        return;
    }
    let program = program("", &[]);
    // linux/capability.h: revision 2, effective; CAP_NET_RAW, permitted.
    let mut value = [0u8; 20];
    value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1u32 << 13).to_le_bytes());
    let path = std::ffi::CString::new(program.path.to_str().unwrap()).unwrap();
    let name = c"security.capability".as_ptr();
    // SAFETY: strings that end in zero, and bytes of a live array.
    let set = unsafe { libc::setxattr(path.as_ptr(), name, value.as_ptr().cast(), 20, 0) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    // Root gains nothing.
    assert!(has_library(&program.path));
    let folder = folder();
    let own = folder.path().join("pagecow-run");
    std::fs::copy(runner(), &own).unwrap();
    let library = folder.path().join("libpagecow_preload.so");
    std::fs::copy(common::library(), library).unwrap();
    let output = Command::new(own)
        .arg("--check")
        .arg(&program.path)
        .env_remove("LD_PRELOAD")
        .current_dir("/")
        .uid(NOBODY)
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("kernel: served"), "{text}");
    assert!(text.contains("has capabilities"), "{text}");
}

#[test]
fn a_program_that_uses_the_c_librarys_malloc() {
    let program = program("", &[]);
    expect_refused(&program.path, "put libjemalloc behind");
    if !jemalloc() {
        return;
    }
    let folder = folder();
    let script = script(
        folder.path(),
        &format!("#!/usr/bin/env -S A=1 {}", program.path.display()),
    );
    for path in [&program.path, &script] {
        let args = [
            OsStr::new("--check"),
            OsStr::new("--jemalloc"),
            path.as_os_str(),
        ];
        let output = run(args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("libjemalloc's"), "{}", text(&output));
    }
}

#[test]
fn a_program_that_uses_another_malloc() {
    let program = program("", &[]);
    for (name, is_served) in [("libtcmalloc.so.4", true), ("libmimalloc.so.2", false)] {
        // By its name alone.
        let library = self::program("", &["--crate-type=cdylib"]);
        let path = library.path.with_file_name(name);
        std::fs::rename(&library.path, &path).unwrap();
        for (skip, code) in [("0", 1), ("1", i32::from(!is_served))] {
            let output = run([OsStr::new("--check"), program.path.as_os_str()])
                .env("LD_PRELOAD", &path)
                .env("TCMALLOC_SKIP_SBRK", skip)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(code), "{}", text(&output));
            assert_eq!(text(&output).contains(name), code == 1, "{}", text(&output));
        }
    }
}

#[test]
fn a_library_that_the_loader_does_not_take() {
    let program = program("", &[]);
    let folder = folder();
    let library = folder.path().join("library.so");
    std::fs::write(&library, "text").unwrap();
    let args = [OsStr::new("--check"), program.path.as_os_str()];
    let output = run(args).env("PAGECOW_LIBRARY", library).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("kernel: not served: the library was not loaded"),
        "{text}"
    );
}

#[test]
fn a_kernel_that_refuses() {
    let refused = |command: &mut Command, why: &str| {
        let output = command.output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("kernel: not served: "));
        assert!(line.is_some_and(|line| line.contains(why)), "{text}");
    };
    refused(run(["--check"]).env("PAGECOW_OFF", "1"), "PAGECOW_OFF=1");
    let mut limited = run(["--check"]);
    let limit = libc::rlimit {
        rlim_cur: 1 << 30,
        rlim_max: 1 << 30,
    };
    // SAFETY: a system call, which is all that happens between fork and exec.
    unsafe {
        limited.pre_exec(
            move || match libc::setrlimit(libc::RLIMIT_AS, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        )
    };
    refused(&mut limited, "address space");
    let output = run(["--check"]).output().unwrap();
    assert!(printed(&output).contains("kernel: served: serving from"));
}
