//! What an update was to use of the region, and what it used: the outgoing build says the one, the incoming build the other.

use regex::Regex;
use std::sync::LazyLock;

static FIGURES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"of the region: (\d+) KiB fixed, (\d+) KiB frametable, (\d+) KiB page tables, (\d+) KiB page records")
        .expect("the pattern is well-formed")
});
/// What the items are called, in their order.
const ITEMS: [&str; 4] = ["fixed", "frametable", "page tables", "page records"];
/// KiB that may be planned beyond one and a half times what is used: the fixed part has a mebibyte for what cannot be foreseen, and some chunks are spare.
const SLACK_KIB: u64 = 2048;

/// Kibibytes of the region by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region([u64; 4]);

impl Region {
    /// Reads either side's sentence.
    pub fn parse(text: &str) -> Option<Self> {
        let (_, figures) = FIGURES.captures(text)?.extract::<4>();
        let mut kib = [0; 4];
        for (place, figure) in kib.iter_mut().zip(figures) {
            *place = figure.parse().ok()?;
        }
        Some(Self(kib))
    }

    fn total(self) -> u64 {
        self.0.iter().sum()
    }

    /// What is wrong with this plan, as `used` shows.
    pub fn faults(self, used: Self) -> Vec<String> {
        let items = ITEMS.iter().zip(self.0.iter().zip(used.0));
        let mut faults: Vec<String> = items
            .filter(|(_, (planned, used))| *planned < used)
            .map(|(item, (planned, used))| format!("{item}: {planned} KiB of the region were planned, {used} used"))
            .collect();
        if self.total() > used.total() * 3 / 2 + SLACK_KIB {
            faults.push(format!("{} KiB of the region were planned, no more than {} used", self.total(), used.total()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANNED: &str =
        "planned of the region: 3076 KiB fixed, 4 KiB frametable, 48 KiB page tables, 320 KiB page records";

    #[test]
    fn less_than_planned_is_good_and_more_is_not() {
        let planned = Region::parse(PLANNED).unwrap();
        assert_eq!(planned, Region([3076, 4, 48, 320]));
        assert_eq!(planned.faults(planned), Vec::<String>::new());
        assert!(planned.faults(Region([2100, 4, 48, 0])).is_empty());
        assert_eq!(planned.faults(Region([3077, 4, 49, 320])).len(), 2);
    }

    #[test]
    fn far_more_planned_than_used_is_not_good() {
        let planned = Region::parse(PLANNED).unwrap();
        assert_eq!(planned.faults(Region([500, 4, 28, 20])).len(), 1);
    }

    #[test]
    fn other_sentences_are_none() {
        assert_eq!(Region::parse("report {}"), None);
    }
}
