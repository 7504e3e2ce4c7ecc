//! One lane of the writer: the current batch, its step, and the parts of a refused batch.

use std::collections::VecDeque;
use std::sync::Arc;

use super::protocol::{Checkpoint, CommitOutcome, Lane, Pending, Target, Task};
use crate::batch::Batch;

/// The first pause before a retry, in microseconds. It doubles up to `PAUSE_MAX_MICROS`.
const PAUSE_MIN_MICROS: u64 = 20_000;
const PAUSE_MAX_MICROS: u64 = 500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Commit,
    LookUp,
    Flush,
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    Write(Target, Arc<Batch>),
    Checkpoint(Checkpoint),
}

impl Work {
    /// Says whether a look-up can find out later whether this was written.
    pub(super) fn leaves_trace(&self) -> bool {
        match self {
            Work::Write(_, batch) => batch.leaves_trace(),
            Work::Checkpoint(_) => true,
        }
    }
}

/// The batch or checkpoint that is being written.
#[derive(Debug)]
pub(super) struct Current<T> {
    pub(super) work: Work,
    pub(super) writes: Vec<Pending<T>>,
    pub(super) step: Step,
    /// Whether there is a pause before the step.
    pub(super) is_pausing: bool,
    /// Whether the driver has been asked for the step.
    pub(super) is_asked: bool,
    /// The outcome of the last attempt, if it failed.
    pub(super) fault: Option<CommitOutcome>,
    /// Whether any attempt had an unknown outcome.
    pub(super) may_be_there: bool,
    pub(super) pause_micros: u64,
}

/// The work of a lane: what it does now, and what it does next.
#[derive(Debug)]
pub(super) struct LaneWork<T> {
    pub(super) current: Option<Current<T>>,
    /// The parts of a refused batch, one for each account.
    pub(super) apart: VecDeque<Vec<Pending<T>>>,
    pub(super) is_unavailable: bool,
}

impl<T> LaneWork<T> {
    pub(super) fn idle() -> Self {
        LaneWork { current: None, apart: VecDeque::new(), is_unavailable: false }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.apart.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        let current = self.current.as_ref().map_or(0, |current| current.writes.len());
        self.apart.iter().map(Vec::len).fold(current, usize::saturating_add)
    }

    /// The first write of the current batch, and of each part that follows it.
    pub(super) fn first(&self) -> impl Iterator<Item = &Pending<T>> {
        let current = self.current.iter().filter_map(|current| current.writes.first());
        current.chain(self.apart.iter().filter_map(|writes| writes.first()))
    }

    /// Returns the task that is due. `None` if the driver has been asked for it already.
    pub(super) fn ask(&mut self, lane: Lane) -> Option<Task> {
        let current = self.current.as_mut()?;
        if std::mem::replace(&mut current.is_asked, true) {
            return None;
        }
        if current.is_pausing {
            return Some(Task::Pause(lane, current.pause_micros));
        }
        Some(match (current.step, &current.work) {
            (Step::Commit, Work::Write(target, batch)) => Task::Commit(Arc::clone(batch), *target),
            (Step::LookUp, Work::Write(target, batch)) => Task::LookUp(Arc::clone(batch), *target),
            (Step::Commit, Work::Checkpoint(checkpoint)) => Task::Checkpoint(checkpoint.clone()),
            (Step::LookUp, Work::Checkpoint(checkpoint)) => Task::LookUpCheckpoint(checkpoint.last),
            (Step::Flush, _) => Task::Flush(lane),
        })
    }

    pub(super) fn asked(&mut self, step: Step) -> Option<&mut Current<T>> {
        self.current
            .as_mut()
            .filter(|current| current.step == step && current.is_asked && !current.is_pausing)
    }
}

impl<T> Current<T> {
    pub(super) fn of(work: Work, writes: Vec<Pending<T>>) -> Self {
        Current {
            work,
            writes,
            step: Step::Commit,
            is_pausing: false,
            is_asked: false,
            fault: None,
            may_be_there: false,
            pause_micros: PAUSE_MIN_MICROS,
        }
    }

    pub(super) fn go(&mut self, step: Step) {
        (self.step, self.is_pausing, self.is_asked) = (step, false, false);
    }

    /// Ends the pause: the step is due. The next pause is twice as long, up to the longest.
    pub(super) fn end_pause(&mut self) {
        self.pause_micros = self.pause_micros.saturating_mul(2).min(PAUSE_MAX_MICROS);
        self.go(self.step);
    }

    pub(super) fn pause_before(&mut self, step: Step) {
        (self.step, self.is_pausing, self.is_asked) = (step, true, false);
    }
}
