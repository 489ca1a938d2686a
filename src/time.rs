//! System time: nanoseconds that never run back, also across updates.
//!
//! Time is an anchor (TSC, nanoseconds) and a scale. The anchor is set once at the cold boot and travels in the stream;
//! the TSC is not reset by an update, so the incoming build goes on from the same anchor and no guest sees a step.
//! The scale is what guests get in `vcpu_time_info`, so that guest and hypervisor compute the same nanoseconds.

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;

/// TSC ticks to nanoseconds as `vcpu_time_info` has it: `((ticks << shift) * mul) >> 32`, a negative shift to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Multiplier, a 32-bit binary fraction.
    pub mul: u32,
    /// Shift before the multiplication.
    pub shift: i8,
}

impl Scale {
    /// The scale of a TSC of `hz` ticks per second, with the multiplier's top bit set for precision.
    pub const fn for_hz(hz: u64) -> Self {
        // Nanoseconds per tick as a fraction: 10^9 / hz, normalised into [1/2, 1).
        let mut num = NS_PER_SEC;
        let mut den = if hz == 0 { 1 } else { hz };
        let mut shift = 0i8;
        while num >= den && shift < 31 {
            den <<= 1;
            shift += 1;
        }
        while num * 2 < den && shift > -31 {
            num <<= 1;
            shift -= 1;
        }
        let mul = ((num as u128) << 32) / den as u128;
        Self { mul: if mul > u32::MAX as u128 { u32::MAX } else { mul as u32 }, shift }
    }

    /// Nanoseconds of `ticks`.
    pub const fn ns(self, ticks: u64) -> u64 {
        let shifted = if self.shift >= 0 { (ticks as u128) << self.shift } else { (ticks as u128) >> -self.shift };
        ((shifted * self.mul as u128) >> 32) as u64
    }

    /// The least number of ticks whose [`Scale::ns`] is at least `ns`, but for rounding of a few ticks upwards.
    pub const fn ticks(self, ns: u64) -> u64 {
        let scaled = (((ns as u128) << 32) / self.mul as u128) + 1;
        (if self.shift >= 0 { scaled >> self.shift } else { scaled << -self.shift }) as u64 + 1
    }
}

/// An anchor with its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// TSC at the anchor.
    pub anchor_tsc: u64,
    /// System time at the anchor in nanoseconds.
    pub anchor_ns: u64,
    /// Ticks per second of the TSC.
    pub tsc_hz: u64,
    /// The scale that follows from it.
    pub scale: Scale,
}

impl Clock {
    /// A clock that shows `ns` when the TSC shows `tsc`.
    pub const fn new(tsc: u64, ns: u64, tsc_hz: u64) -> Self {
        Self { anchor_tsc: tsc, anchor_ns: ns, tsc_hz, scale: Scale::for_hz(tsc_hz) }
    }

    /// System time at a TSC value; before the anchor it is the anchor's.
    pub const fn ns_at(&self, tsc: u64) -> u64 {
        self.anchor_ns + self.scale.ns(tsc.saturating_sub(self.anchor_tsc))
    }

    /// The TSC value at which system time reaches `ns`.
    pub const fn tsc_at(&self, ns: u64) -> u64 {
        self.anchor_tsc.saturating_add(self.scale.ticks(ns.saturating_sub(self.anchor_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_gigahertz_is_one_to_one() {
        let s = Scale::for_hz(NS_PER_SEC);
        assert_eq!((s.mul, s.shift), (0x8000_0000, 1));
        assert_eq!(s.ns(123_456_789), 123_456_789);
    }

    proptest! {
        #[test]
        fn a_second_is_a_second(hz in 1_000_000u64..20_000_000_000) {
            let s = Scale::for_hz(hz);
            let ns = s.ns(hz);
            prop_assert!(ns.abs_diff(NS_PER_SEC) <= 2, "{ns}");
            prop_assert!(s.mul >= 1 << 31);
        }

        #[test]
        fn a_deadline_is_never_early(hz in 100_000_000u64..8_000_000_000, tsc in 0u64..1 << 60, ns in 0u64..1 << 60, d in 0u64..1 << 40) {
            let c = Clock::new(tsc, ns, hz);
            let at = c.tsc_at(ns + d);
            prop_assert!(c.ns_at(at) >= ns + d);
            prop_assert!(c.ns_at(at) - (ns + d) < 64 + d / 1_000_000);
        }
    }
}
