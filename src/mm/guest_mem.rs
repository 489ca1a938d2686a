//! Copies between the hypervisor and a guest's virtual memory.
//!
//! Addresses are translated by the guest's own page tables, in software, and the copy goes through the direct map: the hypervisor never touches
//! a guest address itself, so no such access can fault in it. A guest's pointer is an allegation until it is translated.

use crate::frame::{Mfn, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use crate::mm::types::{WalkFault, walk};
use crate::xen::errno::Errno;

/// A guest pointer does not lead to memory that allows the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No translation.
    NotMapped(WalkFault),
    /// The translation is read-only.
    ReadOnly {
        /// The address.
        va: u64,
    },
    /// The address wraps around.
    Wraps {
        /// The address.
        va: u64,
    },
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Errno::EFAULT
    }
}

/// A guest's virtual memory, by the L4 that translates it.
pub struct GuestMem<'m, M> {
    mem: &'m M,
    l4: Mfn,
}

impl<'m, M: PhysMem> GuestMem<'m, M> {
    /// The address space of an L4 on which the caller holds a type reference.
    pub const fn new(mem: &'m M, l4: Mfn) -> Self {
        Self { mem, l4 }
    }

    fn pieces(
        &self,
        va: u64,
        len: usize,
        write: bool,
        mut each: impl FnMut(crate::frame::Maddr, core::ops::Range<usize>),
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.checked_add(done as u64).ok_or(Fault::Wraps { va })?;
            let leaf = walk(self.mem, self.l4, at).map_err(Fault::NotMapped)?;
            if write && !leaf.is_writable() {
                return Err(Fault::ReadOnly { va: at });
            }
            let offset = at % PAGE_SIZE;
            let n = ((PAGE_SIZE - offset) as usize).min(len - done);
            each(leaf.mfn.maddr().offset(offset), done..done + n);
            done += n;
        }
        Ok(())
    }

    /// Reads bytes.
    pub fn read(&self, va: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.pieces(va, into.len(), false, |at, part| self.mem.read(at, &mut into[part]))
    }

    /// Writes bytes. On a fault, what lies before it has been written, as with Xen's copy_to_guest.
    pub fn write(&self, va: u64, from: &[u8]) -> Result<(), Fault> {
        self.pieces(va, from.len(), true, |at, part| self.mem.write(at, &from[part]))
    }

    /// Reads an array of bytes.
    pub fn read_array<const N: usize>(&self, va: u64) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.read(va, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a 64-bit word.
    pub fn read_u64(&self, va: u64) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.read_array(va)?))
    }

    /// Reads a 32-bit word.
    pub fn read_u32(&self, va: u64) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.read_array(va)?))
    }

    /// Writes a 64-bit word.
    pub fn write_u64(&self, va: u64, value: u64) -> Result<(), Fault> {
        self.write(va, &value.to_le_bytes())
    }

    /// Writes a 32-bit word.
    pub fn write_u32(&self, va: u64, value: u32) -> Result<(), Fault> {
        self.write(va, &value.to_le_bytes())
    }
}

/// The field of `N` bytes at `offset` of a structure that was copied in.
///
/// # Panics
/// If it does not lie inside: offsets are constants of the interface.
pub fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

/// A 64-bit field.
pub fn field_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(field(bytes, offset))
}

/// A 32-bit field.
pub fn field_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(bytes, offset))
}

/// A 16-bit field.
pub fn field_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(field(bytes, offset))
}
