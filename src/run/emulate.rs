//! Carries out what a guest's instruction asked for when it faulted: privileged instructions and writes to live page tables.
//!
//! The rules of what a PV guest may do are Xen's (XEN.md §5.4). What is refused here is delivered to the guest as the fault that it was.

use crate::emulate::privileged::{Privileged, StringIo, decode_privileged};
use crate::emulate::write::MemoryWrite;
use crate::emulate::{MAX_LEN, RAX, RDX, Registers};
use crate::frame::{Mfn, PAGE_SIZE};
use crate::hypercall::{mmuext, tables};
use crate::mm::page_info::{PageLookup, PageType};
use crate::mm::physmem::PhysMem;
use crate::mm::types::{Preserve, walk};
use crate::run::guest_mem::GuestMem;
use crate::run::host::host;
use crate::run::msr;
use crate::run::vcpu::{Vcpu, VcpuState};
use crate::x86::directmap::DirectMap;
use crate::x86::traps::{self, Frame};
use crate::x86::{cpu, fpu, paging, tsc};
use crate::xen::hypercall::vm_assist;
use crate::xen::layout::vcpu_info;
use alloc::sync::Arc;
use x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// CR0 of a PV guest but for TS: PG, AM, WP, NE, ET, MP, PE.
const CR0: u64 = 0x8005_0033;
const CR0_TS: u64 = 1 << 3;
/// Elements of a string instruction that are done before the guest is entered again.
const STRING_BATCH: u64 = 256;
/// Error-code bits of a page fault: present, write; reserved bit, instruction fetch.
const PF_PRESENT_WRITE: u64 = 3;
const PF_RESERVED_FETCH: u64 = 1 << 3 | 1 << 4;

fn registers(frame: &Frame) -> Registers {
    Registers {
        gprs: [
            frame.rax, frame.rcx, frame.rdx, frame.rbx, frame.rsp, frame.rbp, frame.rsi, frame.rdi, frame.r8, frame.r9,
            frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
        ],
        rip: frame.rip,
        rflags: frame.rflags,
        fs_base: FsBase::read().as_u64(),
        // While the hypervisor runs, the guest's own base is here.
        gs_base: KernelGsBase::read().as_u64(),
    }
}

/// The guest goes on with these registers; the arithmetic flags are the only ones that an instruction emulated here changes.
fn put_back(frame: &mut Frame, r: &Registers) {
    [
        frame.rax, frame.rcx, frame.rdx, frame.rbx, frame.rsp, frame.rbp, frame.rsi, frame.rdi, frame.r8, frame.r9,
        frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
    ] = r.gprs;
    frame.rip = r.rip;
    const ARITHMETIC: u64 = 0x8d5;
    // RF is cleared by every instruction that completes.
    frame.rflags = frame.rflags & !(ARITHMETIC | 1 << 16) | r.rflags & ARITHMETIC;
}

/// The bytes at rip, as many as are mapped; empty if the guest is not in 64-bit code.
fn fetch<'b>(v: &VcpuState, frame: &Frame, buf: &'b mut [u8; MAX_LEN]) -> &'b [u8] {
    let Some(l4) = v.active_l4() else { return &[] };
    if !traps::is_64_bit_code(frame.cs as u16) {
        return &[];
    }
    let memory = GuestMem::new(&DirectMap, l4);
    if memory.read(frame.rip, &mut buf[..]).is_ok() {
        return buf;
    }
    let on_page = (PAGE_SIZE - frame.rip % PAGE_SIZE) as usize;
    let n = on_page.min(MAX_LEN);
    if memory.read(frame.rip, &mut buf[..n]).is_ok() { &buf[..n] } else { &[] }
}

/// A #GP: true if the instruction was carried out.
pub fn privileged(vcpu: &Arc<Vcpu>, frame: &mut Frame) -> bool {
    let mut r = registers(frame);
    let decoded = {
        let v = vcpu.state.lock();
        let mut buf = [0; MAX_LEN];
        decode_privileged(fetch(&v, frame, &mut buf), &r)
    };
    let Some(decoded) = decoded else { return false };
    let mut is_complete = true;
    let is_kernel = vcpu.state.lock().kernel_mode;
    let is_done = match decoded.what {
        Privileged::In { port, size } => {
            may_use_ports(vcpu, port, size) && {
                // There is nothing at any port: all lines are high.
                let ones = u64::MAX >> (64 - u32::from(size) * 8);
                r.gprs[RAX] = if size == 4 { ones } else { r.gprs[RAX] | ones };
                true
            }
        }
        Privileged::Out { port, size } => may_use_ports(vcpu, port, size),
        Privileged::String(s) => {
            may_use_ports(vcpu, s.port, s.size) && {
                let done = string_io(vcpu, &s);
                is_complete = done.is_some_and(|done| s.advance(&mut r, done));
                done.is_some()
            }
        }
        Privileged::InterruptFlag => has_iopl(vcpu),
        Privileged::Rdtsc => {
            let is_allowed = is_kernel || vcpu.state.lock().cr4 & cpu::CR4_TSD == 0;
            let now = tsc::rdtsc();
            (r.gprs[RAX], r.gprs[RDX]) = (now & 0xffff_ffff, now >> 32);
            is_allowed
        }
        _ if !is_kernel => false,
        Privileged::ReadCr { cr, to } => read_cr(vcpu, cr).map(|value| r.gprs[usize::from(to)] = value).is_some(),
        Privileged::WriteCr { cr, value } => write_cr(vcpu, cr, value),
        Privileged::ReadDr { dr, to } => {
            let value = tables::debugreg(&vcpu.state.lock(), dr.into());
            value.map(|value| r.gprs[usize::from(to)] = value).is_ok()
        }
        Privileged::WriteDr { dr, value } => tables::write_debugreg(vcpu, dr.into(), value).is_ok(),
        Privileged::ClearTs => {
            set_task_switched(vcpu, false);
            true
        }
        Privileged::Rdmsr { msr } => msr::read(&vcpu.state.lock(), msr)
            .map(|value| (r.gprs[RAX], r.gprs[RDX]) = (value & 0xffff_ffff, value >> 32))
            .is_some(),
        Privileged::Wrmsr { msr, value } => msr::write(&mut vcpu.state.lock(), msr, value),
        Privileged::Xsetbv { index, value } => index == 0 && set_xcr0(vcpu, value),
        Privileged::CacheFlush => true,
    };
    if is_done {
        if is_complete {
            r.rip = decoded.next_rip;
        }
        put_back(frame, &r);
    }
    is_done
}

/// True if the guest's I/O privilege level covers the mode that it is in.
fn has_iopl(vcpu: &Vcpu) -> bool {
    let v = vcpu.state.lock();
    let is_architectural = vcpu.domain.has_assist(vm_assist::TYPE_ARCHITECTURAL_IOPL);
    let ring = match (v.kernel_mode, is_architectural) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 3,
    };
    ring <= v.iopl
}

/// True if the guest has given itself these ports, by its I/O privilege level or its I/O bitmap.
fn may_use_ports(vcpu: &Vcpu, port: u16, size: u8) -> bool {
    if has_iopl(vcpu) {
        return true;
    }
    let v = vcpu.state.lock();
    let (first, end) = (u32::from(port), u32::from(port) + u32::from(size));
    let (true, true, Some(l4)) = (v.iobmp != 0, end <= v.iobmp_nr_ports, v.kernel_l4) else { return false };
    let mut bits = [0; 2];
    // The second byte may lie behind the bitmap's end; then no bit of it is asked for.
    let n = if first / 8 == (end - 1) / 8 { 1 } else { 2 };
    let at = v.iobmp.wrapping_add(u64::from(first / 8));
    if GuestMem::new(&DirectMap, l4).read(at, &mut bits[..n]).is_err() {
        return false;
    }
    let mask = ((1u16 << size) - 1) << (first % 8);
    u16::from_le_bytes(bits) & mask == 0
}

/// Elements of a string instruction that were done; `None` if the first of them faults. What is read is all ones, what is written goes nowhere.
fn string_io(vcpu: &Vcpu, s: &StringIo) -> Option<u64> {
    let l4 = vcpu.state.lock().active_l4()?;
    let memory = GuestMem::new(&DirectMap, l4);
    let size = usize::from(s.size);
    let mut at = s.address;
    let mut done = 0;
    while done < s.count.min(STRING_BATCH) {
        let mut element = [0xff; 4];
        let moved = if s.is_input { memory.write(at, &element[..size]) } else { memory.read(at, &mut element[..size]) };
        if moved.is_err() {
            // What came before is done; the guest faults when it comes back here.
            return (done != 0).then_some(done);
        }
        at = if s.is_downward { at.wrapping_sub(size as u64) } else { at.wrapping_add(size as u64) };
        done += 1;
    }
    Some(done)
}

fn set_task_switched(vcpu: &Vcpu, ts: bool) {
    vcpu.state.lock().task_switched = ts;
    fpu::set_ts(ts);
}

fn read_cr(vcpu: &Vcpu, cr: u8) -> Option<u64> {
    let v = vcpu.state.lock();
    match cr {
        0 => Some(CR0 | if v.task_switched { CR0_TS } else { 0 }),
        2 => Some(DirectMap.read_u64(v.info.offset(vcpu_info::ARCH_CR2 as u64))),
        3 => v.kernel_l4.map(|l4| l4.maddr().get()),
        4 => Some(v.cr4),
        _ => None,
    }
}

fn write_cr(vcpu: &Arc<Vcpu>, cr: u8, value: u64) -> bool {
    match cr {
        // Only TS is the guest's.
        0 if (value ^ CR0) & !CR0_TS == 0 => {
            set_task_switched(vcpu, value & CR0_TS != 0);
            true
        }
        2 => {
            let v = vcpu.state.lock();
            DirectMap.write_u64(v.info.offset(vcpu_info::ARCH_CR2 as u64), value);
            true
        }
        3 => Mfn::try_new(value >> 12).is_ok_and(|l4| mmuext::new_base(vcpu, l4).is_ok()),
        4 => {
            let mut v = vcpu.state.lock();
            v.cr4 = cpu::guest_cr4(&host().features, value);
            cpu::load_guest_cr4(v.cr4);
            true
        }
        _ => false,
    }
}

/// Takes the state components that the guest wants to use, if they are some that go together.
fn set_xcr0(vcpu: &Vcpu, value: u64) -> bool {
    let mut v = vcpu.state.lock();
    if v.cr4 & cpu::CR4_OSXSAVE == 0 || !cpu::is_valid_xcr0(&host().features, value) {
        return false;
    }
    v.xcr0 = value;
    fpu::set_xcr0(value);
    true
}

/// A page fault of a guest's kernel that writes to an entry of a live level-1 table, which is mapped read-only: true if the write was carried out.
pub fn table_write(vcpu: &Arc<Vcpu>, frame: &mut Frame, cr2: u64) -> bool {
    let is_enabled = vcpu.domain.has_assist(vm_assist::TYPE_WRITABLE_PAGETABLES);
    let is_write = frame.error & PF_PRESENT_WRITE == PF_PRESENT_WRITE && frame.error & PF_RESERVED_FETCH == 0;
    if !is_enabled || !is_write {
        return false;
    }
    let host = host();
    let r = registers(frame);
    let (write, leaf) = {
        let v = vcpu.state.lock();
        let (true, Some(l4)) = (v.kernel_mode, v.kernel_l4) else { return false };
        let Ok(leaf) = walk(&DirectMap, l4, cr2) else { return false };
        let mut buf = [0; MAX_LEN];
        let Some(write) = MemoryWrite::decode(fetch(&v, frame, &mut buf), &r) else { return false };
        (write, leaf)
    };
    let is_in_one_word = write.address == cr2 && cr2 % 8 + write.size as u64 <= 8;
    let is_table = host.frames.owner_of(leaf.mfn) == Some(vcpu.domain.id)
        && host.frames.page(leaf.mfn).is_ok_and(|page| page.type_count() != 0 && page.page_type() == PageType::L1);
    if !is_in_one_word || !is_table {
        return false;
    }
    let entry = leaf.mfn.maddr().offset((cr2 % PAGE_SIZE) & !7);
    let shift = cr2 % 8 * 8;
    let old = DirectMap.read_u64(entry);
    let Some(written) = write.apply(old >> shift, &r) else { return false };
    if let Some(value) = written.value {
        let bits = (u64::MAX >> (64 - write.size as u32 * 8)) << shift;
        let new = old & !bits | value << shift & bits;
        let types = host.types(&vcpu.domain);
        let changed = types.mod_entry(1, entry, new, Preserve::Nothing);
        host.settle(&types, &vcpu.domain);
        match changed {
            // The guest flushes what it has to by itself, as after a write on a bare machine; what it lost must not stay reachable.
            Ok(true) => paging::flush_all(),
            Ok(false) => {}
            Err(_) => return false,
        }
    }
    put_back(frame, &written.registers);
    true
}
