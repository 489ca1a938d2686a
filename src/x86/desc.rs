//! GDT, TSS and IDT.
//!
//! The selectors are Xen's (public/arch-x86/xen-x86_64.h): the hypervisor's descriptors stand in page 14 of every guest's GDT, entries from 7168 on.
//! The page is the CPU's own; while no guest runs the GDT register points 14 pages below it, so that the same selectors work.

use crate::frame::PAGE_SIZE;
use crate::x86::{apic, traps};
use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::model_specific;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;

/// First GDT entry that is the hypervisor's.
pub const FIRST_RESERVED_ENTRY: u64 = 7168;
/// First selector that is the hypervisor's.
pub const RESERVED_SELECTOR: u16 = (FIRST_RESERVED_ENTRY * 8) as u16;
/// The hypervisor's code segment.
pub const HYPERVISOR_CS: u16 = 0xe008;
/// The hypervisor's data segment.
pub const HYPERVISOR_DS: u16 = 0xe010;
/// 32-bit code for guests.
pub const GUEST_CS32: u16 = 0xe023;
/// Data and stack for guests.
pub const GUEST_DS: u16 = 0xe02b;
/// 64-bit code for guests.
pub const GUEST_CS64: u16 = 0xe033;
const TSS_SELECTOR: u16 = 0xe040;
const LDT_SELECTOR: u16 = 0xe050;
/// Limit of a GDT that holds the hypervisor's page.
pub const GDT_LIMIT: u16 = 0xefff;

const ENTRIES: usize = (PAGE_SIZE / 8) as usize;

#[repr(C, align(4096))]
struct GdtPage(UnsafeCell<[u64; ENTRIES]>);

#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; 8192]; NR_STACKS]>);

struct Tables {
    tss: UnsafeCell<TaskStateSegment>,
    idt: UnsafeCell<[[u64; 2]; 256]>,
}

#[expect(unsafe_code, reason = "CPU 0's own tables")]
// SAFETY: written by `init` on CPU 0 before guests run, afterwards only by CPU 0 (`set_ldt`).
unsafe impl Sync for GdtPage {}
#[expect(unsafe_code, reason = "CPU 0's own stacks")]
// SAFETY: used by the CPU for exceptions only.
unsafe impl Sync for Stacks {}
#[expect(unsafe_code, reason = "CPU 0's own tables")]
// SAFETY: written by `init` only.
unsafe impl Sync for Tables {}

static GDT_PAGE: GdtPage = GdtPage(UnsafeCell::new([0; ENTRIES]));
/// Exceptions that have a stack of their own.
const NR_STACKS: usize = 4;

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; 8192]; NR_STACKS]));
static TABLES: Tables = Tables { tss: UnsafeCell::new(TaskStateSegment::new()), idt: UnsafeCell::new([[0; 2]; 256]) };

/// Address of the page with the hypervisor's descriptors, to be mapped as page 14 of guests' GDTs.
pub fn gdt_page_va() -> u64 {
    GDT_PAGE.0.get() as u64
}

/// Sets up this CPU's descriptor tables.
#[expect(unsafe_code, reason = "loads descriptor tables")]
pub fn init(stack_top: u64) {
    // SAFETY: CPU 0, before anything else uses the tables.
    let tss = unsafe { &mut *TABLES.tss.get() };
    // SAFETY: as above.
    let idt = unsafe { &mut *TABLES.idt.get() };
    // SAFETY: as above.
    let gdt = unsafe { &mut *GDT_PAGE.0.get() };
    tss.privilege_stack_table[0] = VirtAddr::new(stack_top);
    for i in 0..NR_STACKS {
        let top = STACKS.0.get() as u64 + (i as u64 + 1) * 8192;
        tss.interrupt_stack_table[i] = VirtAddr::new(top);
    }
    tss.iomap_base = size_of::<TaskStateSegment>() as u16;

    gdt[1] = 0x00af_9b00_0000_ffff; // 0xe008: ring 0, 64-bit code
    gdt[2] = 0x00cf_9300_0000_ffff; // 0xe010: ring 0, data
    gdt[4] = 0x00cf_fb00_0000_ffff; // 0xe020: ring 3, 32-bit code
    gdt[5] = 0x00cf_f300_0000_ffff; // 0xe028: ring 3, data
    gdt[6] = 0x00af_fb00_0000_ffff; // 0xe030: ring 3, 64-bit code
    let tss_at = tss as *const TaskStateSegment as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    (gdt[8], gdt[9]) = system_descriptor(tss_at, limit, 0x9);

    load_gdt(gdt_page_va() - u64::from(RESERVED_SELECTOR));
    // SAFETY: the selectors are those just written, in the tables just loaded.
    unsafe { CS::set_reg(SegmentSelector(HYPERVISOR_CS)) };
    // SAFETY: as above.
    unsafe { SS::set_reg(SegmentSelector(HYPERVISOR_DS)) };
    // SAFETY: as above; a null selector is good for DS in long mode.
    unsafe { DS::set_reg(SegmentSelector(0)) };
    // SAFETY: as above.
    unsafe { ES::set_reg(SegmentSelector(0)) };
    // SAFETY: the TSS descriptor is valid and not busy.
    unsafe { load_tss(SegmentSelector(TSS_SELECTOR)) };

    for vector in 0..=255u8 {
        idt[usize::from(vector)] = gate(vector);
    }
    let pointer = DescriptorTablePointer { limit: (size_of_val(idt) - 1) as u16, base: VirtAddr::from_ptr(idt) };
    // SAFETY: the table is a static, with a gate for every vector.
    unsafe { lidt(&pointer) };

    let stub = traps::syscall_entry_va();
    model_specific::LStar::write(VirtAddr::new(stub));
    let mut cstar = x86_64::registers::model_specific::Msr::new(0xc000_0083);
    // SAFETY: the stub for `syscall` from 32-bit code.
    unsafe { cstar.write(traps::syscall32_entry_va()) };
    let mut star = x86_64::registers::model_specific::Msr::new(0xc000_0081);
    // `syscall` takes CS and SS = +8; guests return by `iretq`, so the `sysret` half only has to be sane.
    // SAFETY: the selectors are those of the GDT above.
    unsafe { star.write((0xe023_u64 << 48) | (u64::from(HYPERVISOR_CS) << 32)) };
    let mut fmask = x86_64::registers::model_specific::Msr::new(0xc000_0084);
    // SAFETY: clears IF, TF, DF, IOPL, NT, RF, VM, AC on `syscall`.
    unsafe { fmask.write(0x0007_7700) };
}

fn system_descriptor(base: u64, limit: u64, kind: u64) -> (u64, u64) {
    let low = (limit & 0xffff)
        | ((base & 0xff_ffff) << 16)
        | (kind << 40)
        | (1 << 47)
        | ((limit >> 16 & 0xf) << 48)
        | ((base >> 24 & 0xff) << 56);
    (low, base >> 32)
}

/// A gate to the stub of a vector (SDM vol. 3A §6.14.1): the hypervisor's code segment, interrupts off.
fn gate(vector: u8) -> [u64; 2] {
    const PRESENT: u64 = 1 << 47;
    const INTERRUPT_GATE: u64 = 0xe << 40;
    // Debug exception, NMI, double fault and machine check have stacks of their own: they come where the stack may be anybody's. Guests may raise #BP and #OF by `int3` and `into`, and every vector
    // that is neither an exception nor this CPU's own by `int n`: their own trap table then decides.
    let ist = match vector {
        1 => 4,
        2 => 1,
        8 => 2,
        18 => 3,
        _ => 0,
    };
    let is_own = matches!(vector, apic::TIMER_VECTOR | apic::SPURIOUS_VECTOR);
    let dpl: u64 = if matches!(vector, 3 | 4) || (vector >= 32 && !is_own) { 3 } else { 0 };
    let at = traps::stub_va(vector);
    let low = (at & 0xffff)
        | u64::from(HYPERVISOR_CS) << 16
        | ist << 32
        | INTERRUPT_GATE
        | dpl << 45
        | PRESENT
        | (at >> 16 & 0xffff) << 48;
    [low, at >> 32]
}

/// Loads the GDT register: a guest's GDT area, or the boot alias of the hypervisor's page.
#[expect(unsafe_code, reason = "loads a descriptor table")]
pub fn load_gdt(base: u64) {
    let pointer = DescriptorTablePointer { limit: GDT_LIMIT, base: VirtAddr::new_truncate(base) };
    // SAFETY: page 14 behind `base` is this CPU's page with valid descriptors for every selector the hypervisor uses.
    unsafe { lgdt(&pointer) };
}

/// Loads the GDT that serves while no guest runs.
pub fn load_idle_gdt() {
    load_gdt(gdt_page_va() - u64::from(RESERVED_SELECTOR));
}

/// Loads an LDT of `entries` descriptors at `base`, or none.
#[expect(unsafe_code, reason = "loads a descriptor table")]
pub fn load_ldt(base: u64, entries: u32) {
    let selector = if entries == 0 {
        0
    } else {
        // SAFETY: CPU 0 writes its own GDT page; entries 10 and 11 are the LDT's.
        let gdt = unsafe { &mut *GDT_PAGE.0.get() };
        (gdt[10], gdt[11]) = system_descriptor(base, u64::from(entries) * 8 - 1, 0x2);
        LDT_SELECTOR
    };
    // SAFETY: the selector is 0 or names the descriptor just written.
    unsafe { core::arch::asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
}
