//! Programs that get privileges when they are executed: the loader leaves `LD_PRELOAD` out then.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The user and the group of the process that would execute it.
#[derive(Clone, Copy)]
struct Caller {
    user: u32,
    group: u32,
}

/// Why the loader would leave the library out, if it would.
pub fn why_left_out(path: &Path, metadata: &Metadata) -> Option<&'static str> {
    // SAFETY: plain calls.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    let caller = Caller { user, group };
    let owner = (metadata.uid(), metadata.gid());
    gains(caller, metadata.mode(), owner, has_capabilities(path))
}

fn gains(caller: Caller, mode: u32, owner: (u32, u32), capable: bool) -> Option<&'static str> {
    if mode & libc::S_ISUID != 0 && owner.0 != caller.user {
        return Some("it is setuid, so the loader ignores LD_PRELOAD");
    }
    // Without the group's permission to execute, the bit means something else.
    let is_setgid = mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0;
    if is_setgid && owner.1 != caller.group {
        return Some("it is setgid, so the loader ignores LD_PRELOAD");
    }
    if capable && caller.user != 0 {
        return Some("it has capabilities of its own, so the loader ignores LD_PRELOAD");
    }
    None
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let name = c"security.capability".as_ptr();
    // SAFETY: strings that end in zero; asks for the length alone.
    unsafe { libc::getxattr(path.as_ptr(), name, std::ptr::null_mut(), 0) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Caller = Caller {
        user: 1000,
        group: 100,
    };
    const ROOT: Caller = Caller { user: 0, group: 0 };

    #[test]
    fn only_what_gains_something_is_left_out() {
        let has = |caller, mode, owner, capable| gains(caller, mode, owner, capable).is_some();
        assert!(!has(USER, 0o755, (0, 0), false));
        assert!(has(USER, 0o4755, (0, 0), false));
        assert!(!has(USER, 0o4755, (1000, 0), false));
        assert!(has(USER, 0o2755, (0, 0), false));
        assert!(!has(USER, 0o2745, (0, 0), false));
        assert!(!has(USER, 0o2755, (0, 100), false));
        assert!(has(USER, 0o755, (0, 0), true));
        assert!(!has(ROOT, 0o755, (0, 0), true));
        assert!(!has(ROOT, 0o6755, (0, 0), false));
        assert!(has(ROOT, 0o4755, (1000, 0), false));
    }
}
