//! Structures that guests pass to hypercalls: they are read without a panic, mean what they say, and no arithmetic on them goes astray.
//!
//! The first byte says which; the rest is the structure.

use arbitrary::Unstructured;
use luxen::domain::exchange::{Chunks, Extents};
use luxen::domain::memflags::MemFlags;
use luxen::domain::reservation::Reservation;
use luxen::frame::{Maddr, Mfn, Order, Pfn};
use luxen::mm::extents::has_numbers;
use luxen::mm::guest_mem::GuestMem;
use luxen::mm::physmem::PhysMem;
use luxen::mm::physmem::sparse::SparseMem;
use luxen::mm::types::check_descriptor;
use luxen::xen::layout::{memory_reservation, vcpu_guest_context};
use luxen::xen::vcpu::{TrapInfo, VcpuGuestContext};

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    match which % 6 {
        0 => context(rest),
        1 => trap(rest),
        2 => reservation(rest),
        3 => exchange(rest),
        4 => descriptor(rest),
        _ => pointers(rest),
    }
}

/// The bytes that there are, and zeros behind them.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    let len = bytes.len().min(N);
    all[..len].copy_from_slice(&bytes[..len]);
    all
}

fn context(bytes: &[u8]) {
    let bytes = padded::<{ vcpu_guest_context::SIZE }>(bytes);
    let (read, traps) = (VcpuGuestContext::decode(&bytes), VcpuGuestContext::decode_traps(&bytes));
    let mut again = [0; vcpu_guest_context::SIZE];
    read.encode(&traps, &mut again);
    assert_eq!((VcpuGuestContext::decode(&again), VcpuGuestContext::decode_traps(&again)), (read, traps));
}

fn trap(bytes: &[u8]) {
    let read = TrapInfo::decode(&padded::<{ TrapInfo::SIZE }>(bytes));
    assert!(read.dpl() <= 3);
    let mut written = [0xff; TrapInfo::SIZE];
    read.encode(&mut written);
    assert_eq!(TrapInfo::decode(&written), read);
}

fn reservation(bytes: &[u8]) {
    let Ok(read) = Reservation::decode(&padded::<{ memory_reservation::SIZE }>(bytes)) else { return };
    let end = u64::from_le_bytes(padded(bytes.get(memory_reservation::SIZE..).unwrap_or_default())) % (Mfn::LIMIT + 1);
    if let Ok(Some(limit)) = read.flags.reservation_limit(end) {
        assert!(limit > 1 && limit < end, "a limit of {limit:#x} where all end at {end:#x}");
    }
    check_exchange_limit(read.flags);
    if let Ok(pfn) = Pfn::try_new(read.list)
        && has_numbers(pfn, read.order.nr_frames())
    {
        assert!(pfn.checked_add(read.order.nr_frames() - 1).is_some());
    }
}

fn check_exchange_limit(flags: MemFlags) {
    if let Ok(Some(limit)) = flags.exchange_limit() {
        assert!(limit > 1 && limit.is_power_of_two());
    }
}

fn exchange(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut side = || {
        let nr = input.arbitrary().unwrap_or(0);
        Extents { nr, order: Order::new(input.arbitrary::<u8>().unwrap_or(0) % 19) }
    };
    let (give, get) = (side(), side());
    let frames = |extents: Extents| u128::from(extents.nr) * u128::from(extents.order.nr_frames());
    match Chunks::of(give, get) {
        Some(Chunks { nr, give: given, get: got }) => {
            assert_eq!(u128::from(nr) * u128::from(given), u128::from(give.nr));
            assert_eq!(u128::from(nr) * u128::from(got), u128::from(get.nr));
        }
        None => assert!(frames(give) != frames(get) || frames(give) > u128::from(u64::MAX)),
    }
}

fn descriptor(bytes: &[u8]) {
    let given = u64::from_le_bytes(padded(bytes));
    if let Some(checked) = check_descriptor(given) {
        assert_eq!(check_descriptor(checked), Some(checked), "what was made right is not right");
        // A gate is of ring 0, so that its use faults, and leads to ring 3; everything else that is present is of ring 3.
        let is_gate = checked >> 44 & 1 == 0 && checked >> 40 & 0xf != 0;
        let level = if is_gate { checked >> 16 & 3 } else { checked >> 45 & 3 };
        assert!(checked & 1 << 47 == 0 || level == 3, "{checked:#x}");
    }
}

/// Memory of whatever contents is walked from whatever address: copies end, and end at the first page that is not there.
fn pointers(bytes: &[u8]) {
    const TABLES: u64 = 8;
    let mem = SparseMem::new();
    let (head, rest) = bytes.split_at(bytes.len().min(9));
    let va = u64::from_le_bytes(padded(head));
    let len = usize::from(head.get(8).copied().unwrap_or(0)) * 64;
    // Entries for the slots that the address uses, and the next one of each, so that walks get somewhere.
    for (n, entry) in rest.as_chunks::<8>().0.iter().take(4 * 2 * TABLES as usize).enumerate() {
        let n = n as u64;
        let level = n % 4;
        let slot = ((va >> (12 + 9 * level)) + n / 4 % 2) % 512;
        let table = n / TABLES;
        let entry = u64::from_le_bytes(*entry);
        // Mostly the next table, so that one byte of the input is enough.
        let entry = if entry < 0x100 { (entry >> 3 & 7) << 12 | entry & 7 } else { entry };
        mem.write_u64(Maddr::new(table * 4096 + slot * 8), entry);
    }
    let guest = GuestMem::new(&mem, Mfn::new(0));
    let mut found = vec![0; len];
    let is_read = guest.read(va, &mut found).is_ok();
    if guest.write(va, &found).is_ok() {
        assert!(is_read, "what can be written can be read");
    }
    let _ = guest.read_u32(va);
}
