//! A domain's watchdogs (`sched_op` watchdog): if one runs out, the domain is shut down.

use crate::time::NS_PER_SEC;
use crate::xen::Errno;

/// Watchdogs that a domain may have, as in Xen.
pub const NR_WATCHDOGS: usize = 2;

/// When each of a domain's watchdogs runs out, in nanoseconds of system time; none for one that is not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watchdogs(pub [Option<u64>; NR_WATCHDOGS]);

impl Watchdogs {
    /// What the hypercall asks for: id 0 takes one that is not in use, and the answer is its id, from 1 on; another id winds that one up again, or
    /// with 0 seconds gives it back.
    ///
    /// Errors: `EINVAL` no such watchdog, or it is not in use; `ENOSPC` all are.
    pub fn set(&mut self, id: u32, seconds: u32, now_ns: u64) -> Result<u64, Errno> {
        let end = now_ns.saturating_add(u64::from(seconds) * NS_PER_SEC);
        if id == 0 {
            let free = self.0.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
            self.0[free] = Some(end);
            return Ok(free as u64 + 1);
        }
        let slot = self.0.get_mut(id as usize - 1).filter(|slot| slot.is_some()).ok_or(Errno::EINVAL)?;
        *slot = (seconds != 0).then_some(end);
        Ok(0)
    }

    /// When the first of them runs out.
    pub fn next(&self) -> Option<u64> {
        self.0.iter().flatten().copied().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two() {
        let mut w = Watchdogs::default();
        assert_eq!(w.next(), None);
        assert_eq!(w.set(1, 5, 0), Err(Errno::EINVAL));
        assert_eq!(w.set(0, 5, 7), Ok(1));
        assert_eq!(w.set(0, 3, 7), Ok(2));
        assert_eq!(w.set(0, 3, 7), Err(Errno::ENOSPC));
        assert_eq!(w.set(3, 3, 7), Err(Errno::EINVAL));
        assert_eq!(w, Watchdogs([Some(5_000_000_007), Some(3_000_000_007)]));
        assert_eq!(w.next(), Some(3_000_000_007));
        assert_eq!(w.set(2, 10, 1_000), Ok(0));
        assert_eq!(w.next(), Some(5_000_000_007));
        assert_eq!(w.set(1, 0, 1_000), Ok(0));
        assert_eq!(w.next(), Some(10_000_001_000));
        assert_eq!(w.set(1, 1, 1_000), Err(Errno::EINVAL));
        assert_eq!(w.set(2, u32::MAX, u64::MAX), Ok(0));
        assert_eq!(w.next(), Some(u64::MAX));
    }
}
