//! `XENMEMF_*`: where the memory that a guest asks for is to be (public/memory.h).
//!
//! | bits | meaning |
//! |---|---|
//! | 0 to 7 | how many bits its machine addresses may have; 0 = any |
//! | 8 to 15 | node + 1; 0 = any |
//! | 16 | populated on demand |
//! | 17 | from that node and no other |
//! | 18 | the node is one of the guest's own |

use crate::frame::PAGE_SHIFT;
use crate::xen::Errno;

const POPULATE_ON_DEMAND: u32 = 1 << 16;
const EXACT_NODE: u32 = 1 << 17;
const VIRTUAL_NODE: u32 = 1 << 18;

/// The flags of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemFlags(u32);

impl MemFlags {
    /// The flags as a guest gave them.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    const fn address_bits(self) -> u32 {
        self.0 & 0xff
    }

    /// True if the memory is to come when it is used first.
    pub const fn is_populate_on_demand(self) -> bool {
        self.0 & POPULATE_ON_DEMAND != 0
    }

    /// Domains without privilege may wish for a node of the machine, but not insist on one. A guest without nodes of its own says nothing by naming one.
    fn check_node(self) -> Result<(), Errno> {
        let names_node = self.0 >> 8 & 0xff != 0;
        let insists = self.0 & (EXACT_NODE | VIRTUAL_NODE) == EXACT_NODE;
        if names_node && insists { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// The frame number below which memory for a reservation has to be, if all of the machine's will not do, where frames end at `end`.
    pub fn reservation_limit(self, end: u64) -> Result<Option<u64>, Errno> {
        let bits = self.address_bits();
        self.check_node()?;
        let all = end.next_power_of_two().trailing_zeros() + PAGE_SHIFT;
        match bits.checked_sub(PAGE_SHIFT) {
            _ if bits == 0 || bits >= all => Ok(None),
            None | Some(0) => Err(Errno::EINVAL),
            Some(frame_bits) => Ok(Some(1 << frame_bits)),
        }
    }

    /// The same for an exchange, for which no memory is low enough if the bits are too few.
    pub fn exchange_limit(self) -> Result<Option<u64>, Errno> {
        self.check_node()?;
        match self.address_bits() {
            0 => Ok(None),
            bits if bits <= PAGE_SHIFT => Err(Errno::ENOMEM),
            bits => Ok(1u64.checked_shl(bits - PAGE_SHIFT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 GiB and a frame: addresses have 33 bits.
    const END: u64 = (1 << 20) + 1;

    #[test]
    fn address_bits_are_a_limit_in_frames() {
        let limit = |bits| MemFlags::new(bits).reservation_limit(END);
        for all in [0, 33, 64, 255] {
            assert_eq!(limit(all), Ok(None), "{all}");
        }
        assert_eq!(limit(32), Ok(Some(1 << 20)));
        assert_eq!(limit(24), Ok(Some(1 << 12)));
        assert_eq!(limit(13), Ok(Some(2)));
        for few in [1, 11, 12] {
            assert_eq!(limit(few), Err(Errno::EINVAL), "{few}");
        }
        assert_eq!(MemFlags::new(32).reservation_limit(1 << 20), Ok(None), "all addresses have 32 bits");
    }

    #[test]
    fn an_exchange_finds_no_memory_below_a_page() {
        let limit = |bits| MemFlags::new(bits).exchange_limit();
        assert_eq!(limit(0), Ok(None));
        assert_eq!(limit(12), Err(Errno::ENOMEM));
        assert_eq!(limit(32), Ok(Some(1 << 20)));
        assert_eq!(limit(75), Ok(Some(1 << 63)));
        assert_eq!(limit(76), Ok(None), "no frame number has more than 64 bits");
        assert_eq!(limit(255), Ok(None));
    }

    #[test]
    fn a_node_may_be_wished_for_but_not_insisted_on() {
        let check = |raw| MemFlags::new(raw).reservation_limit(END).map(|_| ());
        let node = 1 << 8;
        assert_eq!(check(node), Ok(()));
        assert_eq!(check(node | EXACT_NODE), Err(Errno::EINVAL));
        assert_eq!(MemFlags::new(node | EXACT_NODE).exchange_limit(), Err(Errno::EINVAL));
        assert_eq!(check(EXACT_NODE), Ok(()), "no node is named");
        assert_eq!(check(node | EXACT_NODE | VIRTUAL_NODE), Ok(()), "there are no virtual nodes");
        assert!(MemFlags::new(POPULATE_ON_DEMAND).is_populate_on_demand());
        assert!(!MemFlags::new(!POPULATE_ON_DEMAND).is_populate_on_demand());
    }
}
