//! Refused after the program has started, when it is served already.

use crate::program::{await_merged, is_served, preloaded};
use crate::refuse::Argument::{Has, Is};
use crate::refuse::{limit, refuse};
use crate::scenario::{await_logged, fork, live, map};

/// Nothing is refused at the start.
fn served(name: &str, scenario: impl FnOnce(&'static mut [u8])) -> Option<String> {
    preloaded(name, || {
        let bytes = map();
        assert!(is_served(bytes.as_ptr()));
        scenario(bytes);
    })
}

/// `fork()` says so, and the parent goes on.
fn expect_no_memory(bytes: &mut [u8]) {
    let error = fork(bytes).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
}

/// A limit is lowered, so that a fork is refused, and raised again.
fn refuse_one(what: libc::__rlimit_resource_t) {
    limit(what, 1 << 20).unwrap();
    let result = fork_alone();
    limit(what, u64::MAX).unwrap();
    assert_eq!(result, Err(libc::ENOMEM));
}

#[test]
fn a_limit_of_data_that_is_lowered_and_raised_again() {
    let name = "at_fork::a_limit_of_data_that_is_lowered_and_raised_again";
    let log = served(name, |bytes| {
        for _ in 0..2 {
            refuse_one(libc::RLIMIT_DATA);
            fork(bytes).unwrap();
            await_merged();
        }
        live();
    });
    assert!(log.is_none_or(|log| log.contains("fork refused: ")));
}

#[test]
fn a_limit_of_address_space_that_is_lowered_and_raised_again() {
    let name = "at_fork::a_limit_of_address_space_that_is_lowered_and_raised_again";
    let log = served(name, |bytes| {
        refuse_one(libc::RLIMIT_AS);
        fork(bytes).unwrap();
        live();
    });
    assert!(log.is_none_or(|log| log.contains("fork refused: ")));
}

#[test]
fn after_a_refused_fork_what_is_frozen_is_merged() {
    let name = "at_fork::after_a_refused_fork_what_is_frozen_is_merged";
    let log = served(name, |bytes| {
        refuse_one(libc::RLIMIT_AS);
        fork(bytes).unwrap();
        await_merged();
    });
    assert!(log.is_none_or(|log| log.contains("merged: ")));
}

/// A fork that allocates nothing, whose child ends. An error is its number.
fn fork_alone() -> Result<(), i32> {
    // SAFETY: the child ends.
    match unsafe { libc::fork() } {
        // SAFETY: ends the process.
        0 => unsafe { libc::_exit(0) },
        // SAFETY: the thread's own.
        -1 => Err(unsafe { *libc::__errno_location() }),
        child => {
            // SAFETY: the kernel may say nothing of the status.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            Ok(())
        }
    }
}

#[test]
fn page_tables_cannot_be_moved_any_more() {
    let name = "at_fork::page_tables_cannot_be_moved_any_more";
    let log = served(name, |bytes| {
        let flag = libc::MREMAP_DONTUNMAP as u32;
        refuse(libc::SYS_mremap, libc::EPERM, &[Has(3, flag)]).unwrap();
        expect_no_memory(bytes);
        expect_no_memory(bytes);
        // Memory is served all the same.
        assert!(map().iter().all(|byte| *byte == 0));
    });
    assert!(log.is_none_or(|log| log.contains("fork refused: ")));
}

#[test]
fn memory_cannot_be_given_to_children() {
    let name = "at_fork::memory_cannot_be_given_to_children";
    let log = served(name, |bytes| {
        let advice = libc::MADV_DOFORK as u32;
        refuse(libc::SYS_madvise, libc::EINVAL, &[Is(2, advice)]).unwrap();
        expect_no_memory(bytes);
        expect_no_memory(bytes);
    });
    assert!(log.is_none_or(|log| log.contains("fork refused: ")));
}

#[test]
fn the_kernels_own_fork_is_refused() {
    let name = "at_fork::the_kernels_own_fork_is_refused";
    served(name, |bytes| {
        fork(bytes).unwrap();
        let signal = libc::SIGCHLD as u32;
        // The C library's fork, and no thread.
        refuse(libc::SYS_clone, libc::EAGAIN, &[Has(0, signal)]).unwrap();
        let error = fork(bytes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
        await_merged();
        assert!(map().iter().all(|byte| *byte == 0));
    });
}

/// Then later forks take longer, and are right.
fn expect_right(name: &str, refused: fn() -> std::io::Result<()>) -> Option<String> {
    served(name, |bytes| {
        refused().unwrap();
        for _ in 0..3 {
            fork(bytes).unwrap();
        }
        live();
    })
}

#[test]
fn no_thread_to_merge_with() {
    let name = "at_fork::no_thread_to_merge_with";
    let log = expect_right(name, || {
        let thread = libc::CLONE_VM as u32;
        refuse(libc::SYS_clone3, libc::ENOSYS, &[])?;
        refuse(libc::SYS_clone, libc::EAGAIN, &[Has(0, thread)])
    });
    let log = log.unwrap_or_default();
    assert!(
        log.is_empty() || log.contains("no thread to merge with"),
        "{log}"
    );
    assert!(!log.contains("merged:"), "{log}");
}

#[test]
fn nobody_knows_when_children_are_gone() {
    let name = "at_fork::nobody_knows_when_children_are_gone";
    let log = expect_right(name, || {
        let sealing = libc::MFD_ALLOW_SEALING;
        refuse(libc::SYS_memfd_create, libc::EMFILE, &[Has(1, sealing)])
    });
    assert!(log.is_none_or(|log| !log.contains("merged:")));
}

#[test]
fn marks_of_children_cannot_be_sealed() {
    let name = "at_fork::marks_of_children_cannot_be_sealed";
    let log = expect_right(name, || {
        let seal = libc::F_ADD_SEALS as u32;
        refuse(libc::SYS_fcntl, libc::EPERM, &[Is(1, seal)])
    });
    assert!(log.is_none_or(|log| !log.contains("merged:")));
}

/// Before Linux 6.7.
#[test]
fn page_maps_cannot_be_scanned() {
    const SCAN: u32 = 0xc060_6610;
    let name = "at_fork::page_maps_cannot_be_scanned";
    let log = served(name, |bytes| {
        refuse(libc::SYS_ioctl, libc::ENOTTY, &[Is(1, SCAN)]).unwrap();
        fork(bytes).unwrap();
        await_merged();
        live();
    });
    assert!(log.is_none_or(|log| log.contains(" 512 pages")));
}

#[test]
fn slices_cannot_be_made_read_only() {
    let name = "at_fork::slices_cannot_be_made_read_only";
    let log = served(name, |bytes| {
        let access = libc::PROT_READ as u32;
        refuse(libc::SYS_mprotect, libc::EPERM, &[Is(2, access)]).unwrap();
        fork(bytes).unwrap();
        await_logged("merging is refused");
        live();
    });
    assert!(log.is_none_or(|log| !log.contains("merged:")));
}

#[test]
fn memory_cannot_be_given_back() {
    let name = "at_fork::memory_cannot_be_given_back";
    let log = served(name, |_| {
        let advice = libc::MADV_REMOVE as u32;
        refuse(libc::SYS_madvise, libc::EOPNOTSUPP, &[Is(2, advice)]).unwrap();
        live();
        await_merged();
    });
    assert!(log.is_none_or(|log| log.contains("fork: ")));
}
