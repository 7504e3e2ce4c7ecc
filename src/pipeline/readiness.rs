//! Whether new calls are taken, and how many run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether new paid calls are taken, and how many run.
#[derive(Debug, Default)]
pub struct Readiness {
    is_draining: AtomicBool,
    running: AtomicUsize,
}

/// One running call.
#[derive(Debug)]
pub struct Running(Arc<Readiness>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Readiness {
    /// Counts a call in; `None` while the server drains.
    pub fn enter(self: &Arc<Self>) -> Option<Running> {
        self.running.fetch_add(1, Ordering::AcqRel);
        let running = Running(Arc::clone(self));
        (!self.is_draining.load(Ordering::Acquire)).then_some(running)
    }

    /// Takes no new calls from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Are new calls taken?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining.load(Ordering::Acquire)
    }

    /// How many calls run, streams included.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}
