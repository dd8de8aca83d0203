//! Forked processes that live beside the model: each must find at its end what was at the fork.

use std::io::{PipeWriter, Read, Write};

use super::super::processes::{Forked, end_of_fork, expect_child_ended_well, fork};

#[derive(Default)]
pub struct Children {
    living: Vec<(libc::pid_t, PipeWriter)>,
}

impl Children {
    /// Forks a process that acts once now, and once when it is told to end.
    pub fn fork(&mut self, mut act: impl FnMut()) {
        let (mut told, tell) = std::io::pipe().unwrap();
        match fork() {
            Forked::Child => end_of_fork(|| {
                act();
                told.read_exact(&mut [0]).unwrap();
                act();
            }),
            Forked::Parent(child) => self.living.push((child, tell)),
        }
    }

    pub fn end_one(&mut self, which: usize) {
        if !self.living.is_empty() {
            let which = which % self.living.len();
            let (child, mut tell) = self.living.swap_remove(which);
            tell.write_all(&[0]).unwrap();
            expect_child_ended_well(child);
        }
    }

    pub fn end_all(&mut self) {
        while !self.living.is_empty() {
            self.end_one(0);
        }
    }
}
