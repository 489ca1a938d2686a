//! Xen's ELF notes (public/elfnote.h): what a kernel says of itself.
//!
//! A note is {u32 name length, u32 description length, u32 type, name, description}, name and description padded to 4
//! bytes. Numbers are 4 or 8 bytes long, strings end with a zero.

use super::KernelError;
use crate::xen::hypercall::feature;

/// Note types, by their names in public/elfnote.h.
mod number {
    pub const ENTRY: u32 = 1;
    pub const HYPERCALL_PAGE: u32 = 2;
    pub const VIRT_BASE: u32 = 3;
    pub const PADDR_OFFSET: u32 = 4;
    pub const XEN_VERSION: u32 = 5;
    pub const GUEST_OS: u32 = 6;
    pub const GUEST_VERSION: u32 = 7;
    pub const LOADER: u32 = 8;
    pub const PAE_MODE: u32 = 9;
    pub const FEATURES: u32 = 10;
    pub const HV_START_LOW: u32 = 12;
    pub const L1_MFN_VALID: u32 = 13;
    pub const SUSPEND_CANCEL: u32 = 14;
    pub const INIT_P2M: u32 = 15;
    pub const MOD_START_PFN: u32 = 16;
    pub const SUPPORTED_FEATURES: u32 = 17;
    pub const PHYS32_ENTRY: u32 = 18;
}

/// Feature bits and the names that the FEATURES note has for them (features.h, without `XENFEAT_`).
const FEATURE_NAMES: &[(&str, u32)] = &[
    ("writable_page_tables", feature::WRITABLE_PAGE_TABLES),
    ("writable_descriptor_tables", feature::WRITABLE_DESCRIPTOR_TABLES),
    ("auto_translated_physmap", feature::AUTO_TRANSLATED_PHYSMAP),
    ("supervisor_mode_kernel", feature::SUPERVISOR_MODE_KERNEL),
    ("pae_pgdir_above_4gb", feature::PAE_PGDIR_ABOVE_4GB),
    ("mmu_pt_update_preserve_ad", feature::MMU_PT_UPDATE_PRESERVE_AD),
    ("highmem_assist", feature::HIGHMEM_ASSIST),
    ("gnttab_map_avail_bits", feature::GNTTAB_MAP_AVAIL_BITS),
    ("hvm_callback_vector", feature::HVM_CALLBACK_VECTOR),
    ("hvm_safe_pvclock", feature::HVM_SAFE_PVCLOCK),
    ("hvm_pirqs", feature::HVM_PIRQS),
    ("dom0", feature::DOM0),
    ("grant_map_identity", feature::GRANT_MAP_IDENTITY),
    ("memory_op_vnode_supported", feature::MEMORY_OP_VNODE_SUPPORTED),
    ("linux_rsdp_unrestricted", feature::LINUX_RSDP_UNRESTRICTED),
    ("not_direct_mapped", feature::NOT_DIRECT_MAPPED),
    ("direct_mapped", feature::DIRECT_MAPPED),
];

/// Features that a 64-bit PV guest cannot be given.
const IMPOSSIBLE: u32 = 1 << feature::AUTO_TRANSLATED_PHYSMAP | 1 << feature::SUPERVISOR_MODE_KERNEL;

/// The notes of a kernel, each as it stands there. What is absent keeps its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes<'a> {
    /// Notes of Xen's found, of whatever type.
    pub nr_found: usize,
    /// ENTRY: virtual address to start at.
    pub entry: Option<u64>,
    /// HYPERCALL_PAGE: virtual address of the page to fill with hypercall entries.
    pub hypercall_page: Option<u64>,
    /// VIRT_BASE: virtual address that pseudo-physical address 0 is mapped at.
    pub virt_base: Option<u64>,
    /// PADDR_OFFSET: what to subtract from a segment's physical address.
    pub paddr_offset: Option<u64>,
    /// XEN_VERSION: the interface that the kernel was written for.
    pub xen_version: Option<&'a str>,
    /// GUEST_OS: the kernel's name.
    pub guest_os: Option<&'a str>,
    /// GUEST_VERSION: its version.
    pub guest_version: Option<&'a str>,
    /// LOADER: the loader that it wants.
    pub loader: Option<&'a str>,
    /// PAE_MODE: of meaning to 32-bit kernels.
    pub pae_mode: Option<&'a str>,
    /// FEATURES: bits that the kernel cannot do without.
    pub required_features: u32,
    /// FEATURES and SUPPORTED_FEATURES: bits that it knows.
    pub supported_features: u32,
    /// HV_START_LOW: the lowest address at which it lets the hypervisor begin.
    pub hv_start_low: Option<u64>,
    /// L1_MFN_VALID: mask and value of non-present L1 entries that hold a frame; the first pair.
    pub l1_mfn_valid: Option<(u64, u64)>,
    /// SUSPEND_CANCEL: a suspend may be called off.
    pub can_cancel_suspend: bool,
    /// INIT_P2M: virtual address at which to map the p2m list.
    pub init_p2m: Option<u64>,
    /// MOD_START_PFN: the ramdisk need not be mapped.
    pub takes_ramdisk_by_pfn: bool,
    /// PHYS32_ENTRY: where to start without paging, as a PVH guest.
    pub phys32_entry: Option<u64>,
}

impl<'a> Notes<'a> {
    /// Adds the notes of a segment or section, `data`, which starts at `offset` in the file.
    pub(super) fn read(&mut self, data: &'a [u8], offset: u64) -> Result<(), KernelError<'a>> {
        let mut rest = data;
        while let Some((header, behind)) = rest.split_first_chunk::<12>() {
            let at = offset.saturating_add((data.len() - rest.len()) as u64);
            let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
            let (name_len, desc_len, kind) = (word(0), word(4), word(8));
            let parts =
                split_padded(behind, name_len).and_then(|(name, behind)| Some((name, split_padded(behind, desc_len)?)));
            let Some((name, (desc, behind))) = parts else {
                return Err(KernelError::NoteTruncated { offset: at, name_len, desc_len });
            };
            rest = behind;
            if name == b"Xen\0" {
                self.nr_found += 1;
                self.take(kind, desc)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, kind: u32, desc: &'a [u8]) -> Result<(), KernelError<'a>> {
        let number = || match *desc {
            [a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => Err(KernelError::NoteNotANumber { kind, len_bytes: desc.len() }),
        };
        let string = || {
            let end = desc.iter().position(|&b| b == 0).unwrap_or(desc.len());
            core::str::from_utf8(&desc[..end]).map_err(|_| KernelError::NoteNotAString { kind })
        };
        match kind {
            number::ENTRY => self.entry = Some(number()?),
            number::HYPERCALL_PAGE => self.hypercall_page = Some(number()?),
            number::VIRT_BASE => self.virt_base = Some(number()?),
            number::PADDR_OFFSET => self.paddr_offset = Some(number()?),
            number::XEN_VERSION => self.xen_version = Some(string()?),
            number::GUEST_OS => self.guest_os = Some(string()?),
            number::GUEST_VERSION => self.guest_version = Some(string()?),
            number::LOADER => self.loader = Some(string()?),
            number::PAE_MODE => self.pae_mode = Some(string()?),
            number::FEATURES => self.take_features(string()?)?,
            number::HV_START_LOW => self.hv_start_low = Some(number()?),
            number::L1_MFN_VALID => {
                let ([mask, value, ..], []) = desc.as_chunks::<8>() else {
                    return Err(KernelError::NoteNotANumber { kind, len_bytes: desc.len() });
                };
                self.l1_mfn_valid = Some((u64::from_le_bytes(*mask), u64::from_le_bytes(*value)));
            }
            number::SUSPEND_CANCEL => self.can_cancel_suspend = number()? != 0,
            number::INIT_P2M => self.init_p2m = Some(number()?),
            number::MOD_START_PFN => self.takes_ramdisk_by_pfn = number()? != 0,
            // Only the first 32 feature bits have a meaning.
            number::SUPPORTED_FEATURES => self.supported_features |= number()? as u32,
            number::PHYS32_ENTRY => self.phys32_entry = Some(number()?),
            _ => {}
        }
        Ok(())
    }

    /// Reads a list such as `!writable_page_tables|pae_pgdir_above_4gb`, where `!` means required.
    fn take_features(&mut self, list: &'a str) -> Result<(), KernelError<'a>> {
        for item in list.split('|').filter(|item| !item.is_empty()) {
            let (name, is_required) = match item.strip_prefix('!') {
                Some(name) => (name, true),
                None => (item, false),
            };
            let bit = FEATURE_NAMES.iter().find(|(known, _)| *known == name).map_or(0, |(_, bit)| 1u32 << bit);
            if is_required && (bit == 0 || bit & IMPOSSIBLE != 0) {
                return Err(KernelError::NeedsFeature { found: name });
            }
            self.supported_features |= bit;
            if is_required {
                self.required_features |= bit;
            }
        }
        Ok(())
    }
}

/// Splits `len` bytes off, and the padding to 4 behind them; padding may be missing at the very end.
fn split_padded(data: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = len as usize;
    let part = data.get(..len)?;
    Some((part, &data[len.next_multiple_of(4).min(data.len())..]))
}
