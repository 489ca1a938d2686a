//! What a machine can do, as far as a build can need it: the bits of `Needs::features`.
//!
//! An incoming build that finds something missing has nobody left to tell. So it says beforehand what it cannot do without, and the
//! outgoing side, which runs on the very machine, compares.

use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// Features of the machine. A bit that no build has given a meaning is one that no machine has.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MachineFeatures: u64 {
        /// No-execute pages.
        const NX = 1 << 0;
        /// Pages of 1 GiB.
        const GIB_PAGES = 1 << 1;
        /// XSAVE and its relatives.
        const XSAVE = 1 << 2;
        /// Instructions for the bases of FS and GS.
        const FSGSBASE = 1 << 3;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 4;
        /// The local APIC's x2APIC mode.
        const X2APIC = 1 << 5;
    }
}

impl MachineFeatures {
    /// Those of a note, whatever bits it has.
    pub const fn of_note(bits: u64) -> Self {
        Self::from_bits_retain(bits)
    }
}

/// `nx, xsave`; a bit without a name as its value, no bit as `none`.
impl fmt::Display for MachineFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut gap = "";
        for (name, _) in self.iter_names() {
            f.write_str(gap)?;
            name.chars().try_for_each(|c| write!(f, "{}", c.to_ascii_lowercase()))?;
            gap = ", ";
        }
        match self.bits() & !Self::all().bits() {
            0 => Ok(()),
            unnamed => write!(f, "{gap}{unnamed:#x}"),
        }
    }
}

const _: () = assert!(MachineFeatures::NX.bits() == 1 && MachineFeatures::X2APIC.bits() == 0x20);

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn features_have_names_and_those_without_a_name_are_numbers() {
        assert_eq!(MachineFeatures::empty().to_string(), "none");
        assert_eq!(MachineFeatures::of_note(5).to_string(), "nx, xsave");
        assert_eq!(MachineFeatures::of_note(1 << 63 | 2).to_string(), "gib_pages, 0x8000000000000000");
        assert_eq!(MachineFeatures::of_note(1 << 40).to_string(), "0x10000000000");
    }
}
