//! A thread that forks, with up to two children at a time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::World;
use crate::child::{self, Act};

pub struct Forker {
    world: &'static World,
    state: u64,
    children: Vec<libc::pid_t>,
    /// A child that stays, and the pipe that it waits at.
    staying: Option<(libc::pid_t, i32)>,
}

impl Forker {
    pub fn new(world: &'static World, number: u64) -> Self {
        Self {
            world,
            state: number,
            children: Vec::new(),
            staying: None,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(3);
        (self.state >> 33) % below
    }

    pub fn fork_while(mut self, goes_on: impl Fn() -> bool) {
        while goes_on() {
            match self.random(10) {
                0 if self.staying.is_none() && self.children.is_empty() => self.have_one_stay(),
                1 | 2 if self.staying.is_some() => self.end_staying(),
                3 | 4 => self.fork(Act::Forks),
                5 | 6 => self.fork(Act::Executes),
                _ => self.fork(Act::Ends),
            }
            let most = if self.staying.is_some() { 1 } else { 2 };
            while self.children.len() >= most {
                let child = self.children.remove(0);
                self.expect_ended_well(child);
            }
            if self.world.quiet.load(Ordering::SeqCst) {
                self.end_all();
                self.world.resting.fetch_add(1, Ordering::SeqCst);
                while self.world.quiet.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.world.resting.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.end_all();
    }

    pub fn fork_once(mut self) {
        self.fork(Act::Ends);
        self.end_all();
    }

    fn end_all(&mut self) {
        while let Some(child) = self.children.pop() {
            self.expect_ended_well(child);
        }
        if self.random(4) != 0 {
            self.end_staying();
        }
    }

    fn fork(&mut self, act: Act) {
        let child = self.forked(act);
        self.children.push(child);
    }

    fn forked(&mut self, act: Act) -> libc::pid_t {
        let world = self.world;
        // SAFETY: the child allocates nothing, and takes no lock.
        let child = unsafe { libc::fork() };
        if child == 0 {
            child::live(world, act);
        }
        assert!(child > 0, "{}", std::io::Error::last_os_error());
        world.forks.fetch_add(1, Ordering::SeqCst);
        child
    }

    fn have_one_stay(&mut self) {
        let mut pipe = [0; 2];
        // SAFETY: room for two descriptors.
        let result = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
        assert_eq!(result, 0);
        let [told, tell] = pipe;
        let child = self.forked(Act::Stays { told, tell });
        // SAFETY: the child's end.
        unsafe { libc::close(told) };
        self.staying = Some((child, tell));
    }

    fn end_staying(&mut self) {
        if let Some((child, tell)) = self.staying.take() {
            // SAFETY: a live byte, and the pipe's own descriptor, which is not used any more.
            unsafe {
                libc::write(tell, c"x".as_ptr().cast(), 1);
                libc::close(tell);
            }
            self.expect_ended_well(child);
        }
    }

    fn expect_ended_well(&self, child: libc::pid_t) {
        let mut status = 0;
        // SAFETY: a live variable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        if status == 0 {
            return;
        }
        let report = self.world.report.text();
        eprintln!("a child ended with status {status:#x}: {report}");
        // Threads that hold on to each other would wait for this one.
        std::process::exit(1);
    }
}

impl Drop for Forker {
    fn drop(&mut self) {
        if let Some((child, tell)) = self.staying.take() {
            // SAFETY: the pipe's own descriptor.
            unsafe { libc::close(tell) };
            self.expect_ended_well(child);
        }
    }
}
