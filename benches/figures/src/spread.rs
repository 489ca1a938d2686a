//! What several rounds came to.

/// What the rounds came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (middle, odd) = (sorted.len() / 2, !sorted.len().is_multiple_of(2));
        let median = if odd { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { median, low: sorted[0], high: sorted[sorted.len() - 1] }
    }

    /// A figure that is computed or the same in every round.
    pub const fn exact(value: f64) -> Self {
        Self { median: value, low: value, high: value }
    }

    /// True if no round differs from another.
    pub fn is_exact(self) -> bool {
        self.low == self.high
    }

    /// Everything multiplied.
    pub fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, low: self.low * factor, high: self.high * factor }
    }

    /// A rate out of a time: `amount` for each unit of it.
    pub fn rate_of(self, amount: f64) -> Self {
        Self { median: amount / self.median, low: amount / self.high, high: amount / self.low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_and_both_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]), Spread { median: 2.5, low: 1.0, high: 4.0 });
        assert_eq!(
            Spread { median: 2.0, low: 1.0, high: 4.0 }.rate_of(8.0),
            Spread { median: 4.0, low: 2.0, high: 8.0 }
        );
        assert!(Spread::exact(1.0).is_exact() && !Spread::of(&[1.0, 2.0]).is_exact());
    }
}
