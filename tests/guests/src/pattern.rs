//! What the memory guest writes into its pages.

/// Words that are written into a page unless all are asked for: one in each eighth of it.
pub const SOME_WORDS: usize = 8;
/// Words in a page.
pub const ALL_WORDS: usize = 512;

/// Which page, where it is, and how often it has been written: together they give every word its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePattern {
    /// The domain's own name of the page.
    pub pfn: u64,
    /// The machine frame. Part of the pattern, so that a page that was moved without a word is noticed.
    pub mfn: u64,
    /// Rewrites so far.
    pub generation: u64,
}

impl PagePattern {
    /// The value of one word.
    pub fn word(&self, index: usize) -> u64 {
        let seed = mix(self.pfn ^ mix(self.mfn ^ mix(self.generation)));
        mix(seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The words of this page that are used: `count` of them, evenly spread. Which word of each stretch depends on the
    /// pfn, so that over many pages every place in a page is used.
    pub fn indices(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let count = count.clamp(1, ALL_WORDS);
        let stretch = ALL_WORDS / count;
        let offset = (self.pfn % stretch as u64) as usize;
        (0..count).map(move |i| i * stretch + offset)
    }
}

/// The finaliser of splitmix64: every bit of the input reaches every bit of the output.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn every_part_matters() {
        let page = PagePattern { pfn: 5, mfn: 9, generation: 1 };
        let others = [
            PagePattern { pfn: 9, mfn: 5, ..page },
            PagePattern { pfn: 6, ..page },
            PagePattern { mfn: 8, ..page },
            PagePattern { generation: 2, ..page },
        ];
        for other in others {
            assert_ne!(page.word(0), other.word(0), "{other:?}");
        }
        assert_ne!(page.word(0), page.word(1));
    }

    #[test]
    fn words_do_not_repeat() {
        let mut seen = BTreeSet::new();
        for pfn in 0..100 {
            for index in 0..ALL_WORDS {
                assert!(seen.insert(PagePattern { pfn, mfn: pfn + 1000, generation: 3 }.word(index)));
            }
        }
    }

    #[test]
    fn indices_stay_in_the_page() {
        for pfn in 0..200 {
            let page = PagePattern { pfn, mfn: 0, generation: 0 };
            let some: Vec<usize> = page.indices(SOME_WORDS).collect();
            assert_eq!(some.len(), SOME_WORDS);
            assert!(some.iter().all(|&index| index < ALL_WORDS));
            assert!(some.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(page.indices(ALL_WORDS).collect::<Vec<_>>(), (0..ALL_WORDS).collect::<Vec<_>>());
        }
    }
}
