//! `XENMEM_exchange`: how extents of one size that are given up make extents of another.

use crate::frame::Order;

/// Extents of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// How many.
    pub nr: u64,
    /// Their size.
    pub order: Order,
}

/// An exchange in chunks, each of which is done as a whole: on the side with the larger extents there is one of them in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// How many.
    pub nr: u64,
    /// Extents given up in each.
    pub give: u64,
    /// Extents got for them.
    pub get: u64,
}

impl Chunks {
    /// The chunks of an exchange; nothing if the two sides are not the same amount of memory, or more than there can be.
    pub fn of(give: Extents, get: Extents) -> Option<Self> {
        let frames = |e: Extents| e.nr.checked_mul(e.order.nr_frames());
        if frames(give)? != frames(get)? {
            return None;
        }
        let largest = give.order.max(get.order).nr_frames();
        Some(Self {
            nr: give.nr.min(get.nr),
            give: largest / give.order.nr_frames(),
            get: largest / get.order.nr_frames(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents(nr: u64, order: u8) -> Extents {
        Extents { nr, order: Order::new(order) }
    }

    #[test]
    fn both_directions_and_none() {
        let chunks = |nr, give, get| Some(Chunks { nr, give, get });
        assert_eq!(Chunks::of(extents(8, 0), extents(1, 3)), chunks(1, 8, 1));
        assert_eq!(Chunks::of(extents(2, 9), extents(1024, 0)), chunks(2, 1, 512));
        assert_eq!(Chunks::of(extents(5, 4), extents(5, 4)), chunks(5, 1, 1));
        assert_eq!(Chunks::of(extents(0, 0), extents(0, 9)), chunks(0, 512, 1));
    }

    #[test]
    fn what_does_not_come_to_the_same_is_refused() {
        assert_eq!(Chunks::of(extents(7, 0), extents(1, 3)), None);
        assert_eq!(Chunks::of(extents(513, 0), extents(1, 9)), None);
        // Shifted out of 64 bits both would be zero.
        assert_eq!(Chunks::of(extents(1 << 60, 4), extents(0, 0)), None);
    }

    proptest! {
        #[test]
        fn chunks_are_all_of_both_sides(frames in 0u64..1 << 40, a in 0u8..10, b in 0u8..10) {
            let frames = frames & !0x1ff;
            let side = |order: u8| extents(frames >> order, order);
            let chunks = Chunks::of(side(a), side(b)).unwrap();
            prop_assert_eq!(chunks.nr * chunks.give, side(a).nr);
            prop_assert_eq!(chunks.nr * chunks.get, side(b).nr);
            prop_assert!(chunks.give == 1 || chunks.get == 1);
        }
    }
}
