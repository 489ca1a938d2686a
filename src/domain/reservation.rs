//! `xen_memory_reservation`: extents that a guest wants to have, or to give up (public/memory.h).

use super::memflags::MemFlags;
use crate::frame::{DomId, Order};
use crate::mm::guest_mem::{field_u16, field_u32, field_u64};
use crate::xen::Errno;
use crate::xen::layout::memory_reservation as layout;

/// Largest block that a guest without hardware may ask for: 2 MiB, as Xen's domU limit.
const MAX_ORDER: u32 = 9;

/// A reservation as a guest describes it. Nothing of it has been checked but the extents' size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Guest address of the list of extents.
    pub list: u64,
    /// How many there are.
    pub nr: u64,
    /// The size of each.
    pub order: Order,
    /// Where they are to be.
    pub flags: MemFlags,
    /// Whose they are.
    pub domid: DomId,
}

impl Reservation {
    /// Reads the structure that `bytes` begin with. EPERM for extents that are too large.
    ///
    /// # Panics
    /// If there are fewer bytes than it has.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let order = field_u32(bytes, layout::EXTENT_ORDER);
        if order > MAX_ORDER {
            return Err(Errno::EPERM);
        }
        Ok(Self {
            list: field_u64(bytes, layout::EXTENT_START),
            nr: field_u64(bytes, layout::NR_EXTENTS),
            order: Order::new(order as u8),
            flags: MemFlags::new(field_u32(bytes, layout::MEM_FLAGS)),
            domid: DomId::new(field_u16(bytes, layout::DOMID)),
        })
    }
}
