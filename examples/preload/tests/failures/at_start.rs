//! Refused when the program starts: it runs as without the library, and the log says so.

use crate::program::{is_served, started};
use crate::refuse::Argument::{Has, Is, IsHuge};
use crate::refuse::{limit, refuse};
use crate::scenario::{live, map};

const GIB: u64 = 1 << 30;

/// A program that is started so is not served, and one line says why, with this in it.
fn expect_not_served(name: &str, before: fn() -> std::io::Result<()>, why: &str) {
    let log = started(name, &[], before, || {
        assert!(!is_served(map().as_ptr()));
        live();
    });
    if let Some(log) = log {
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains("not served: "), "{log}");
        assert!(lines[0].contains(why), "{log}");
    }
}

#[test]
fn no_file_in_memory() {
    let name = "at_start::no_file_in_memory";
    let before = || refuse(libc::SYS_memfd_create, libc::ENOSYS, &[]);
    expect_not_served(name, before, "Function not implemented");
}

#[test]
fn a_file_in_memory_may_not_be_so_long() {
    let name = "at_start::a_file_in_memory_may_not_be_so_long";
    expect_not_served(name, || limit(libc::RLIMIT_FSIZE, GIB), "File too large");
}

#[test]
fn a_file_in_memory_gets_no_length() {
    let name = "at_start::a_file_in_memory_gets_no_length";
    let before = || refuse(libc::SYS_ftruncate, libc::EPERM, &[]);
    expect_not_served(name, before, "not permitted");
}

#[test]
fn a_limit_of_address_space() {
    let name = "at_start::a_limit_of_address_space";
    expect_not_served(name, || limit(libc::RLIMIT_AS, 2 * GIB), "Cannot allocate");
}

#[test]
fn no_address_space() {
    let name = "at_start::no_address_space";
    let before = || refuse(libc::SYS_mmap, libc::ENOMEM, &[IsHuge(1)]);
    expect_not_served(name, before, "Cannot allocate");
}

#[test]
fn reserved_address_space_cannot_be_protected() {
    let name = "at_start::reserved_address_space_cannot_be_protected";
    let before = || refuse(libc::SYS_mprotect, libc::ENOMEM, &[IsHuge(1)]);
    expect_not_served(name, before, "Cannot allocate");
}

/// As with `vm.overcommit_memory=2`: what is private and writable is refused where there is more of
/// it than the system promises.
#[test]
fn private_memory_is_limited() {
    let name = "at_start::private_memory_is_limited";
    expect_not_served(
        name,
        || limit(libc::RLIMIT_DATA, 2 * GIB),
        "Cannot allocate",
    );
}

#[test]
fn a_file_in_memory_cannot_be_mapped() {
    let name = "at_start::a_file_in_memory_cannot_be_mapped";
    let before = || {
        let shared = libc::MAP_SHARED as u32;
        refuse(libc::SYS_mmap, libc::EPERM, &[IsHuge(1), Has(3, shared)])
    };
    expect_not_served(name, before, "not permitted");
}

#[test]
fn memory_cannot_be_kept_out_of_children() {
    let name = "at_start::memory_cannot_be_kept_out_of_children";
    let before = || {
        let advice = libc::MADV_DONTFORK as u32;
        refuse(libc::SYS_madvise, libc::EINVAL, &[Is(2, advice)])
    };
    expect_not_served(name, before, "Invalid argument");
}

#[test]
fn no_handler_for_refused_stores() {
    let name = "at_start::no_handler_for_refused_stores";
    let before = || {
        let signal = libc::SIGSEGV as u32;
        refuse(libc::SYS_rt_sigaction, libc::EPERM, &[Is(0, signal)])
    };
    expect_not_served(name, before, "SIGSEGV");
}

/// A kernel before 5.7; before 5.13 only some mappings can be moved so.
#[test]
fn page_tables_cannot_be_moved() {
    let name = "at_start::page_tables_cannot_be_moved";
    let before = || {
        let flag = libc::MREMAP_DONTUNMAP as u32;
        refuse(libc::SYS_mremap, libc::EINVAL, &[Has(3, flag)])
    };
    expect_not_served(name, before, "Invalid argument");
}

/// Served or not, a program runs with settings that make no sense. Returns what was logged.
fn expect_runs(name: &str, variables: &[(&str, &str)]) -> Option<String> {
    started(name, variables, || Ok(()), live)
}

#[test]
fn address_space_of_nothing() {
    let name = "at_start::address_space_of_nothing";
    let log = expect_runs(name, &[("PAGECOW_GIB", "0")]);
    assert!(log.is_none_or(|log| log.lines().count() > 0));
}

#[test]
fn more_address_space_than_there_is() {
    let name = "at_start::more_address_space_than_there_is";
    let log = expect_runs(name, &[("PAGECOW_GIB", "18446744073709551615")]);
    assert!(log.is_none_or(|log| log.lines().count() == 1 && log.contains("not served: ")));
}

/// Pages have numbers of 32 bits.
#[test]
fn more_pages_than_have_numbers() {
    let name = "at_start::more_pages_than_have_numbers";
    let log = expect_runs(name, &[("PAGECOW_GIB", "16385")]);
    assert!(log.is_none_or(|log| log.lines().count() == 1 && log.contains("not served: ")));
}

/// The file that says `vm.overcommit_memory=2`, in a view of the files that only this program has.
#[test]
fn memory_has_to_be_promised() {
    use std::io::Write;
    let name = "at_start::memory_has_to_be_promised";
    let mut mode = tempfile::NamedTempFile::new().unwrap();
    mode.write_all(b"2\n").unwrap();
    let source = std::ffi::CString::new(mode.path().to_str().unwrap()).unwrap();
    // SAFETY: a plain call.
    let own = if unsafe { libc::getuid() } == 0 {
        0
    } else {
        libc::CLONE_NEWUSER
    };
    let before = move || {
        let nothing = std::ptr::null();
        let place = c"/proc/sys/vm/overcommit_memory".as_ptr();
        let kept_here = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: plain calls, and strings that end in zero.
        let _ = unsafe {
            libc::unshare(own | libc::CLONE_NEWNS) != 0
                || libc::mount(nothing, c"/".as_ptr(), nothing, kept_here, nothing.cast()) != 0
                || libc::mount(
                    source.as_ptr(),
                    place,
                    nothing,
                    libc::MS_BIND,
                    nothing.cast(),
                ) != 0
        };
        // Where that is refused the program finds another number there.
        Ok(())
    };
    let log = started(name, &[], before, || {
        let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
        if mode != "2\n" {
            println!("skipped: no mounts of its own");
        }
        assert!(is_served(map().as_ptr()));
        live();
    });
    assert!(log.is_none_or(|log| log.contains("serving from") && !log.contains("refused")));
}

#[test]
fn address_space_that_is_no_number() {
    let name = "at_start::address_space_that_is_no_number";
    for log in [
        expect_runs(name, &[("PAGECOW_GIB", "much")]),
        expect_runs(name, &[("PAGECOW_GIB", "-1")]),
        expect_runs(name, &[("PAGECOW_GIB", "")]),
        expect_runs(name, &[("PAGECOW_GIB", "\u{e4}")]),
    ] {
        // As where nothing is said.
        assert!(log.is_none_or(|log| log.contains("serving from")));
    }
}

#[test]
fn a_log_that_cannot_be_written() {
    let name = "at_start::a_log_that_cannot_be_written";
    for variables in [
        &[("PAGECOW_LOG", "/nonexistent/folder/log")],
        &[("PAGECOW_LOG", "/")],
        &[("PAGECOW_LOG", "")],
        &[("PAGECOW_LOG", "/dev/full")],
    ] {
        started(
            name,
            variables,
            || Ok(()),
            || {
                assert!(is_served(map().as_ptr()));
                live();
            },
        );
    }
}

#[test]
fn switched_off() {
    let name = "at_start::switched_off";
    let log = started(
        name,
        &[("PAGECOW_OFF", "1")],
        || Ok(()),
        || {
            assert!(!is_served(map().as_ptr()));
            live();
        },
    );
    assert!(log.is_none_or(|log| log.is_empty()));
}
