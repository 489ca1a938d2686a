//! Which vCPU runs next, and what is due when.
//!
//! Fair by time used: the vCPU that has used the least runs next, for a slice of at most [`SLICE_NS`]. One that wakes up starts no further behind
//! the others than a slice, so that sleeping saves nothing up.
//!
//! One that yields waits for something that another vCPU has to do, mostly of its own domain (a lock's holder that was put off the CPU). So it goes
//! behind all vCPUs of its domain that wait, and at least behind the one that would be next: however little time it has used, it does not run again
//! before each of them has. Its time counts as before.
//!
//! `V` is what is queued; a vCPU is known by its domain and number, [`Key`].

use crate::frame::DomId;
use alloc::collections::{BTreeMap, BTreeSet};

/// Longest time that a vCPU runs while others wait, in nanoseconds.
pub const SLICE_NS: u64 = 5_000_000;

/// Domain and number of a vCPU, or domain and [`WATCHDOGS`].
pub type Key = (DomId, u32);

/// Stands for a domain's watchdogs among the timers: no vCPU has this number.
pub const WATCHDOGS: u32 = u32::MAX;

/// Run queue and timers.
#[derive(Debug)]
pub struct Scheduler<V> {
    /// By place: a time used, which for one that yielded is another's.
    queue: BTreeMap<(u64, Key), V>,
    queued: BTreeMap<Key, u64>,
    used: BTreeMap<Key, u64>,
    least: u64,
    timers: BTreeSet<(u64, Key)>,
    timer_of: BTreeMap<Key, u64>,
}

impl<V> Default for Scheduler<V> {
    fn default() -> Self {
        Self {
            queue: BTreeMap::new(),
            queued: BTreeMap::new(),
            used: BTreeMap::new(),
            least: 0,
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
        }
    }
}

impl<V> Scheduler<V> {
    /// Queues a vCPU that wants to run; nothing happens if it is queued already.
    pub fn enqueue(&mut self, key: Key, vcpu: V) {
        let place = self.catch_up(key);
        self.insert(key, place, vcpu);
    }

    /// Queues a vCPU that gives its turn to others, behind them.
    pub fn enqueue_yielded(&mut self, key: Key, vcpu: V) {
        let first = self.queue.keys().next().map(|(place, _)| *place);
        let siblings = self.queued.iter().filter(|((domain, _), _)| *domain == key.0).map(|(_, place)| *place);
        let behind = siblings.chain(first).max().map_or(0, |place| place.saturating_add(1));
        let place = self.catch_up(key).max(behind);
        self.insert(key, place, vcpu);
    }

    /// What a vCPU has used, no further behind the others than a slice.
    fn catch_up(&mut self, key: Key) -> u64 {
        let used = self.used.entry(key).or_insert(0);
        *used = (*used).max(self.least.saturating_sub(SLICE_NS));
        *used
    }

    fn insert(&mut self, key: Key, place: u64, vcpu: V) {
        if self.queued.contains_key(&key) {
            return;
        }
        self.queued.insert(key, place);
        self.queue.insert((place, key), vcpu);
    }

    /// Takes the vCPU that is to run next.
    pub fn pick(&mut self) -> Option<V> {
        let ((_, key), vcpu) = self.queue.pop_first()?;
        self.queued.remove(&key);
        self.least = self.least.max(self.used.get(&key).copied().unwrap_or(0));
        Some(vcpu)
    }

    /// True if somebody waits for the CPU.
    pub fn is_contended(&self) -> bool {
        !self.queue.is_empty()
    }

    /// True if somebody waits who has used less time than the vCPU that runs, which has run for `ran_ns` since it was charged last.
    pub fn someone_is_behind(&self, running: Key, ran_ns: u64) -> bool {
        let used = self.used.get(&running).copied().unwrap_or(0).saturating_add(ran_ns);
        self.queue.first_key_value().is_some_and(|((least, _), _)| *least < used)
    }

    /// Charges time to a vCPU.
    pub fn charge(&mut self, key: Key, ns: u64) {
        let used = self.used.entry(key).or_insert(0);
        *used = used.saturating_add(ns);
    }

    /// Forgets a vCPU.
    pub fn remove(&mut self, key: Key) {
        if let Some(place) = self.queued.remove(&key) {
            self.queue.remove(&(place, key));
        }
        self.used.remove(&key);
        self.set_timer(key, None);
    }

    /// Sets the moment at which a vCPU's next timer is due, or none.
    pub fn set_timer(&mut self, key: Key, at: Option<u64>) {
        if let Some(old) = self.timer_of.remove(&key) {
            self.timers.remove(&(old, key));
        }
        if let Some(at) = at {
            self.timer_of.insert(key, at);
            self.timers.insert((at, key));
        }
    }

    /// The next moment at which a timer is due.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|t| t.0)
    }

    /// Takes a timer that is due at `now`.
    pub fn take_due(&mut self, now: u64) -> Option<Key> {
        let &(at, key) = self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        self.timer_of.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const fn key(domain: u16, vcpu: u32) -> Key {
        (DomId::new(domain), vcpu)
    }

    fn queue(keys: &[(Key, u64)]) -> Scheduler<Key> {
        let mut s = Scheduler::default();
        for &(key, used) in keys {
            s.charge(key, used);
            s.enqueue(key, key);
        }
        s
    }

    #[test]
    fn who_has_used_the_least_runs_next() {
        let mut s = queue(&[(key(1, 0), 30), (key(2, 0), 10), (key(1, 1), 20)]);
        s.enqueue(key(2, 0), key(2, 0));
        assert_eq!([s.pick(), s.pick(), s.pick(), s.pick()], [Some(key(2, 0)), Some(key(1, 1)), Some(key(1, 0)), None]);
    }

    #[test]
    fn a_sleeper_saves_no_more_than_a_slice_up() {
        let mut s = queue(&[(key(1, 0), 10 * SLICE_NS)]);
        assert_eq!(s.pick(), Some(key(1, 0)));
        s.enqueue(key(2, 0), key(2, 0));
        assert!(s.someone_is_behind(key(1, 0), 0));
        assert_eq!(s.pick(), Some(key(2, 0)));
        s.charge(key(2, 0), SLICE_NS + 1);
        s.enqueue(key(2, 0), key(2, 0));
        s.enqueue(key(1, 0), key(1, 0));
        assert_eq!(s.pick(), Some(key(1, 0)));
    }

    #[test]
    fn time_that_runs_counts_before_it_is_charged() {
        let s = queue(&[(key(1, 1), 100)]);
        assert!(!s.someone_is_behind(key(1, 0), 100));
        assert!(s.someone_is_behind(key(1, 0), 101));
    }

    #[test]
    fn a_yielder_waits_for_its_siblings_and_for_one_of_the_others() {
        // It has used nothing, they have used a lot.
        let mut s = queue(&[(key(1, 1), 4000), (key(1, 2), 2000), (key(2, 0), 3000), (key(3, 0), 9000)]);
        s.enqueue_yielded(key(1, 0), key(1, 0));
        let order: Vec<_> = core::iter::from_fn(|| s.pick()).collect();
        assert_eq!(order, [key(1, 2), key(2, 0), key(1, 1), key(1, 0), key(3, 0)]);

        let mut s = queue(&[(key(2, 0), 3000), (key(3, 0), 9000)]);
        s.enqueue_yielded(key(1, 0), key(1, 0));
        let order: Vec<_> = core::iter::from_fn(|| s.pick()).collect();
        assert_eq!(order, [key(2, 0), key(1, 0), key(3, 0)]);
    }

    #[test]
    fn yielding_costs_no_time() {
        let mut s = queue(&[(key(1, 1), 1_000_000)]);
        s.enqueue_yielded(key(1, 0), key(1, 0));
        assert_eq!([s.pick(), s.pick()], [Some(key(1, 1)), Some(key(1, 0))]);
        s.enqueue(key(1, 1), key(1, 1));
        s.enqueue(key(1, 0), key(1, 0));
        assert_eq!(s.pick(), Some(key(1, 0)));
    }

    #[test]
    fn timers_come_in_their_order_and_once() {
        let mut s = Scheduler::<Key>::default();
        s.set_timer(key(1, 0), Some(20));
        s.set_timer(key(1, WATCHDOGS), Some(10));
        s.set_timer(key(1, 0), Some(5));
        assert_eq!(s.next_timer(), Some(5));
        assert_eq!([s.take_due(9), s.take_due(9)], [Some(key(1, 0)), None]);
        s.remove(key(1, WATCHDOGS));
        assert_eq!(s.next_timer(), None);
    }

    proptest! {
        /// All that wait spin by yielding, but for the holder of their lock, which needs some turns. It gets them, whatever each has used before
        /// and however little a turn of a yielder takes.
        #[test]
        fn a_lock_holder_gets_its_turns(used in prop::collection::vec(0u64..10 * SLICE_NS, 2..9), holder: prop::sample::Index, turns in 1usize..5) {
            let n = used.len();
            let keys: Vec<_> = (0..n as u32).map(|i| key(1, i)).collect();
            let holder = holder.index(n);
            let mut s = queue(&keys.iter().copied().zip(used).collect::<Vec<_>>());
            let mut left = turns;
            for _ in 0..(turns + 1) * n {
                let Some(next) = s.pick() else { break };
                s.charge(next, 1);
                if next == keys[holder] {
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                }
                s.enqueue_yielded(next, next);
            }
            prop_assert_eq!(left, 0);
        }
    }
}
