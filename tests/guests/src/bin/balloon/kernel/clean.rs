//! Memory that somebody else had: what the domain gets is all zeros, whoever used it before, and what it gives up is full of a secret.
//!
//! It takes a number of pages, looks at every word of each, fills them, and gives them all back: single pages that were just freed
//! go out first, so that the next one to ask gets them, be it this domain or another.

use luxen_guests::abi::PAGE_SIZE;
use luxen_guests::pte;

use super::{Area, BATCH, MAX_KEPT, decrease, populate};

/// Most pages that are looked at in one go.
pub const MAX_LOOKED_AT: usize = 256;
/// Where they are mapped, one after the other: behind all kept pages.
const PLACE: usize = 2 * MAX_KEPT;
const WORDS_PER_PAGE: usize = PAGE_SIZE as usize / 8;
/// What pages that are given up are full of.
const SECRET: u64 = 0x5ec2_e7ba_1100_0000;

/// What the pages are looked at with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// As they come.
    Fresh,
    /// After a word was written to each, which is wrong: the guest has to fail.
    Soiled,
}

/// Takes `nr` pages from pfn `first` on, looks at them and gives them back.
pub fn look(area: &Area, first: u64, nr: usize, look: Look) {
    let mut frames = [0; MAX_LOOKED_AT];
    for (frame, pfn) in frames.iter_mut().zip(first..).take(nr) {
        *frame = populate(pfn);
        area.set(PLACE, pte::entry(*frame, pte::DATA));
        if look == Look::Soiled {
            Area::put(PLACE, WORDS_PER_PAGE - 1, SECRET);
        }
        for word in 0..WORDS_PER_PAGE {
            let found = Area::read(PLACE, word);
            assert!(
                found == 0,
                "a new page, frame {frame:#x}: word {word} is {found:#x}, which somebody else has left"
            );
            Area::put(PLACE, word, SECRET | word as u64);
        }
    }
    area.set(PLACE, 0);
    frames[..nr].chunks_mut(BATCH).for_each(decrease);
}
