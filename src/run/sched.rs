//! Which vCPU runs next, and what is due when.
//!
//! Fair by time used: the vCPU that has used the least runs next, for a slice of at most [`SLICE_NS`]. One that wakes up starts no further behind
//! the others than a slice, so that sleeping saves nothing up.

use crate::frame::DomId;
use crate::run::vcpu::Vcpu;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;

/// Longest time that a vCPU runs while others wait, in nanoseconds.
pub const SLICE_NS: u64 = 5_000_000;

type Key = (u64, DomId, u32);

/// Run queue and timers.
#[derive(Default)]
pub struct Scheduler {
    queue: BTreeMap<Key, Arc<Vcpu>>,
    queued: BTreeMap<(DomId, u32), u64>,
    used: BTreeMap<(DomId, u32), u64>,
    least: u64,
    timers: BTreeSet<Key>,
    timer_of: BTreeMap<(DomId, u32), u64>,
}

impl Scheduler {
    /// Queues a vCPU that wants to run; nothing happens if it is queued already.
    pub fn enqueue(&mut self, vcpu: Arc<Vcpu>) {
        let key = vcpu.key();
        if self.queued.contains_key(&key) {
            return;
        }
        let used = self.used.entry(key).or_insert(0);
        *used = (*used).max(self.least.saturating_sub(SLICE_NS));
        self.queued.insert(key, *used);
        self.queue.insert((*used, key.0, key.1), vcpu);
    }

    /// Takes the vCPU that is to run next.
    pub fn pick(&mut self) -> Option<Arc<Vcpu>> {
        let ((used, ..), vcpu) = self.queue.pop_first()?;
        self.queued.remove(&vcpu.key());
        self.least = self.least.max(used);
        Some(vcpu)
    }

    /// True if somebody waits for the CPU.
    pub fn is_contended(&self) -> bool {
        !self.queue.is_empty()
    }

    /// True if somebody waits who has used less time than this vCPU.
    pub fn someone_is_behind(&self, vcpu: &Vcpu) -> bool {
        let used = self.used.get(&vcpu.key()).copied().unwrap_or(0);
        self.queue.first_key_value().is_some_and(|((least, ..), _)| *least < used)
    }

    /// Charges time to a vCPU.
    pub fn charge(&mut self, vcpu: &Vcpu, ns: u64) {
        *self.used.entry(vcpu.key()).or_insert(0) += ns;
    }

    /// Forgets a vCPU.
    pub fn remove(&mut self, vcpu: &Vcpu) {
        let key = vcpu.key();
        if let Some(used) = self.queued.remove(&key) {
            self.queue.remove(&(used, key.0, key.1));
        }
        self.used.remove(&key);
        self.set_timer(key, None);
    }

    /// Sets the moment at which a vCPU's next timer is due, or none.
    pub fn set_timer(&mut self, key: (DomId, u32), at: Option<u64>) {
        if let Some(old) = self.timer_of.remove(&key) {
            self.timers.remove(&(old, key.0, key.1));
        }
        if let Some(at) = at {
            self.timer_of.insert(key, at);
            self.timers.insert((at, key.0, key.1));
        }
    }

    /// The next moment at which a timer is due.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|t| t.0)
    }

    /// Takes a timer that is due at `now`.
    pub fn take_due(&mut self, now: u64) -> Option<(DomId, u32)> {
        let &(at, dom, id) = self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        self.timer_of.remove(&(dom, id));
        Some((dom, id))
    }
}
