//! Arithmetic of the PV clock, and how times are printed.

use core::fmt;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// One consistent reading of a vCPU's clock parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockParameters {
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// System time then, ns.
    pub system_time: u64,
    /// 32.32 multiplier.
    pub mul: u32,
    /// Shift of the difference before it is multiplied; negative shifts right.
    pub shift: i8,
}

impl ClockParameters {
    /// System time in ns at a TSC value. A TSC before the timestamp counts as the timestamp itself.
    pub fn system_time_at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc_timestamp));
        let distance = u32::from(self.shift.unsigned_abs()).min(63);
        let shifted = if self.shift < 0 { ticks >> distance } else { (ticks << distance) & u128::from(u64::MAX) };
        let ns = (shifted * u128::from(self.mul)) >> 32;
        self.system_time.wrapping_add(ns as u64)
    }
}

/// A time in ns, printed as seconds with three decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / SECOND, self.0 % SECOND / MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn scales_the_tsc() {
        // 1 GHz: one tick is one ns. mul 2^31 after a shift left by one is exactly that.
        let clock = ClockParameters { tsc_timestamp: 1000, system_time: 5, mul: 1 << 31, shift: 1 };
        assert_eq!(clock.system_time_at(1000), 5);
        assert_eq!(clock.system_time_at(1_001_000), 1_000_005);
        assert_eq!(clock.system_time_at(0), 5, "never before the timestamp");
        // 4 GHz: four ticks are one ns.
        let clock = ClockParameters { tsc_timestamp: 0, system_time: 0, mul: 1 << 31, shift: -1 };
        assert_eq!(clock.system_time_at(4_000_000_000), SECOND);
        // A day at 4 GHz does not overflow.
        assert_eq!(clock.system_time_at(4_000_000_000 * 86_400), 86_400 * SECOND);
    }

    #[test]
    fn prints_milliseconds_with_zeros() {
        assert_eq!(Seconds(0).to_string(), "0.000");
        assert_eq!(Seconds(12 * SECOND + 7 * MS + 999_999).to_string(), "12.007");
    }
}
