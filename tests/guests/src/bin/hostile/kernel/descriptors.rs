//! Descriptor tables: privilege, gates, system descriptors, tables that are too large or elsewhere, selectors that name nothing good.

use luxen_guests::abi::{Errno, PAGE_SIZE, op};
use luxen_guests::machine::hypercall::{self, mmuext_two, update_descriptor};
use luxen_guests::machine::memory::{Window, fill};

use super::answer::{Answer, FINE, Judge};
use super::catch::catch;
use super::ground::{DATA, Ground, NOTHING, READ_ONLY};
use super::{Attempt, attempt};

const INVALID: Answer = Answer::No(Errno::EINVAL);
const PRESENT: u64 = 1 << 47;
const DPL_3: u64 = 3 << 45;
/// Entry that the attempts write.
const INDEX: u64 = 9;
/// 64-bit code and flat data, both for ring 0.
const RING0_CODE: u64 = 0x00af_9b00_0000_ffff;
const RING0_DATA: u64 = 0x00cf_9300_0000_ffff;
/// Selectors of the hypervisor's own.
const HYPERVISOR_CS: u64 = 0xe008;
const HYPERVISOR_DS: u64 = 0xe010;
const HYPERVISOR_TSS: u64 = 0xe040;

/// A system descriptor.
const fn system(kind: u64) -> u64 {
    PRESENT | kind << 40 | 0x1000
}

/// A call gate.
const fn gate(selector: u64, reserved: u64) -> u64 {
    system(12) & !0xffff | DPL_3 | selector << 16 | reserved << 32
}

/// Writes the descriptor; what stands there then, or the refusal. It is taken out again.
fn write(g: &Ground, descriptor: u64) -> Answer {
    let at = g.gdt * PAGE_SIZE + INDEX * 8;
    match update_descriptor(at, descriptor) {
        Ok(_) => {
            let found = Window::open(g.gdt).read(INDEX as usize);
            assert!(update_descriptor(at, 0) == Ok(0), "a descriptor cannot be taken out");
            Answer::Is(found)
        }
        Err(errno) => Answer::No(errno),
    }
}

const fn load(selector: u64) -> Answer {
    Answer::Trap(13, selector & !3)
}

/// Loads es; a success is taken back.
fn load_es(selector: u64) -> Answer {
    let found = catch!("mov es, eax", in("eax") selector as u32);
    let _ = catch!("mov es, eax", in("eax") 0u32);
    found
}

const ATTEMPTS: &[Attempt] = &[
    attempt("code of ring 0", Answer::Is(RING0_CODE | DPL_3), |g| write(g, RING0_CODE)),
    attempt("data of ring 0", Answer::Is(RING0_DATA | DPL_3), |g| write(g, RING0_DATA)),
    attempt("conforming code of ring 0", Answer::Is(RING0_CODE | DPL_3 | 4 << 40), |g| write(g, RING0_CODE | 4 << 40)),
    attempt("absent system descriptor", Answer::Is(system(9) & !PRESENT), |g| write(g, system(9) & !PRESENT)),
    attempt("LDT", INVALID, |g| write(g, system(2))),
    attempt("TSS of 16 bits", INVALID, |g| write(g, system(1))),
    attempt("TSS", INVALID, |g| write(g, system(9))),
    attempt("busy TSS", INVALID, |g| write(g, system(11))),
    attempt("task gate", INVALID, |g| write(g, system(5))),
    attempt("interrupt gate", INVALID, |g| write(g, system(14) | DPL_3)),
    attempt("trap gate", INVALID, |g| write(g, system(15) | DPL_3)),
    attempt("call gate of 16 bits", INVALID, |g| write(g, system(4) | DPL_3)),
    attempt("call gate to the hypervisor's code", INVALID, |g| write(g, gate(HYPERVISOR_CS, 0))),
    attempt("call gate to the hypervisor's code with RPL 3", INVALID, |g| write(g, gate(HYPERVISOR_CS | 3, 0))),
    attempt("call gate to the hypervisor's TSS", INVALID, |g| write(g, gate(HYPERVISOR_TSS, 0))),
    attempt("call gate to the last reserved entry", INVALID, |g| write(g, gate(0xfff8, 0))),
    attempt("call gate with reserved bits", INVALID, |g| write(g, gate(0xe033, 1))),
    attempt("call gate of ring 3", Answer::Is(gate(0x0b, 0) & !DPL_3), |g| write(g, gate(0x08, 0))),
    attempt("descriptor that is not aligned", INVALID, |g| update_descriptor(g.gdt * PAGE_SIZE + 4, 0).into()),
    attempt("descriptor in a page table", INVALID, |g| update_descriptor(g.l1 * PAGE_SIZE + 4 * 8, 0).into()),
    attempt("descriptor beyond all", INVALID, |_| update_descriptor(1 << 60, 0).into()),
    attempt("GDT with one entry too many", INVALID, |g| hypercall::set_gdt(&[g.gdt; 16], 7169).into()),
    attempt("GDT with entries without end", INVALID, |g| hypercall::set_gdt(&[g.gdt; 16], u64::MAX).into()),
    attempt("GDT whose second page is none", INVALID, |g| hypercall::set_gdt(&[g.gdt, g.l1], 1024).into()),
    attempt("GDT of a frame beyond all", INVALID, |g| hypercall::set_gdt(&[g.gdt, u64::MAX], 1024).into()),
    attempt("GDT with a TSS in it", INVALID, |g| {
        fill(g.loose[0], |index| if index == 511 { system(9) } else { 0 });
        let found = hypercall::set_gdt(&[g.loose[0]], 512);
        fill(g.loose[0], |_| 0);
        found.into()
    }),
    attempt("LDT that is not aligned", INVALID, |_| mmuext_two(op::MMUEXT_SET_LDT, DATA + 8, 16).into()),
    attempt("LDT with one entry too many", INVALID, |_| mmuext_two(op::MMUEXT_SET_LDT, DATA, 8193).into()),
    attempt("LDT in the hypervisor", INVALID, |_| mmuext_two(op::MMUEXT_SET_LDT, 0xffff_8300_0000_0000, 512).into()),
    attempt("LDT that reaches into the hypervisor", INVALID, |_| {
        mmuext_two(op::MMUEXT_SET_LDT, 0x0000_7fff_ffff_f000, 8192).into()
    }),
    attempt("LDT that wraps around", INVALID, |_| mmuext_two(op::MMUEXT_SET_LDT, 0xffff_ffff_ffff_f000, 8192).into()),
    // Where no descriptor can be read, a selector is bad: by the LDT's own address, as it is the guest's page that is not there.
    attempt("selector of an LDT where nothing is", Answer::Trap(14, 0), |_| {
        assert!(mmuext_two(op::MMUEXT_SET_LDT, NOTHING, 512) == Ok(0), "set_ldt");
        let found = load_es(INDEX << 3 | 7);
        assert!(mmuext_two(op::MMUEXT_SET_LDT, 0, 0) == Ok(0), "set_ldt of none");
        found
    }),
    attempt("selector of an LDT in a page that is written", Answer::Trap(14, 0), |_| {
        assert!(mmuext_two(op::MMUEXT_SET_LDT, DATA, 512) == Ok(0), "set_ldt");
        let found = load_es(INDEX << 3 | 7);
        assert!(mmuext_two(op::MMUEXT_SET_LDT, 0, 0) == Ok(0), "set_ldt of none");
        found
    }),
    attempt("selector of an empty LDT entry", load(INDEX << 3 | 4), |_| {
        assert!(mmuext_two(op::MMUEXT_SET_LDT, READ_ONLY, 512) == Ok(0), "set_ldt");
        let found = load_es(INDEX << 3 | 7);
        assert!(mmuext_two(op::MMUEXT_SET_LDT, 0, 0) == Ok(0), "set_ldt of none");
        found
    }),
    attempt("selector without an LDT", load(INDEX << 3 | 4), |_| load_es(INDEX << 3 | 7)),
    attempt("selector of an empty entry", load(INDEX << 3), |_| load_es(INDEX << 3 | 3)),
    attempt("selector of a GDT page that is not there", load(600 << 3), |_| load_es(600 << 3 | 3)),
    attempt("selector of the last GDT page", load(7000 << 3), |_| load_es(7000 << 3)),
    attempt("selector of the hypervisor's code", load(HYPERVISOR_CS), |_| load_es(HYPERVISOR_CS)),
    attempt("selector of the hypervisor's data", load(HYPERVISOR_DS), |_| load_es(HYPERVISOR_DS)),
    attempt("selector of the hypervisor's TSS", load(HYPERVISOR_TSS), |_| load_es(HYPERVISOR_TSS)),
    attempt("selector behind all", load(0xfff8), |_| load_es(0xfffb)),
    attempt("far call through a gate", load(INDEX << 3), |g| {
        let at = g.gdt * PAGE_SIZE + INDEX * 8;
        let allowed = update_descriptor(at, gate(0x33, 0));
        assert!(allowed == Ok(0), "a call gate: {allowed:?}");
        let target = [0u32, (INDEX << 3 | 3) as u32];
        let found = catch!("call fword ptr [rdi]", in("rdi") target.as_ptr());
        assert!(update_descriptor(at, 0) == Ok(0), "a descriptor cannot be taken out");
        found
    }),
    attempt("far jump to the hypervisor's code", load(HYPERVISOR_CS), |_| {
        let target = [0u32, HYPERVISOR_CS as u32];
        catch!("jmp fword ptr [rdi]", in("rdi") target.as_ptr())
    }),
    // The segment's base becomes that of user mode, which is behind this register in kernel mode.
    attempt("user's base by a selector", Answer::Is(0x0012_3450), |g| {
        let at = g.gdt * PAGE_SIZE + INDEX * 8;
        assert!(update_descriptor(at, RING0_DATA | 0x12_3450 << 16) == Ok(0), "a segment with a base");
        assert!(hypercall::set_segment_base(3, INDEX << 3) == Ok(0), "user's selector");
        let base: u32;
        let found = catch!("rdmsr", in("ecx") 0xc000_0102u32, out("eax") base, out("edx") _);
        assert!(hypercall::set_segment_base(3, 0) == Ok(0), "no user's selector");
        assert!(update_descriptor(at, 0) == Ok(0), "a descriptor cannot be taken out");
        if found == FINE { Answer::Is(base.into()) } else { found }
    }),
    attempt("stack of ring 0", load(HYPERVISOR_DS), |_| catch!("mov ss, eax", in("eax") HYPERVISOR_DS as u32)),
    attempt("no stack segment", Answer::Trap(13, 0), |_| catch!("mov ss, eax", in("eax") 0u32)),
];

/// Tries everything; the table itself holds nothing afterwards.
pub fn try_all(g: &Ground, judge: &mut Judge) {
    super::try_all(g, judge, ATTEMPTS);
    let window = Window::open(g.gdt);
    let left = (0..512).filter(|&index| window.read(index) != 0).count();
    judge.check(format_args!("descriptors left"), Answer::Is(left as u64), FINE);
}
