//! The PV console: whole lines out, bytes in.
//!
//! Out of the ring when the domain has a console event, by console_io when it has none.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::{events::Port, hypercall};
use crate::abi::ConsoleRing;
use crate::lines::LineOut;

static RING: AtomicPtr<ConsoleRing> = AtomicPtr::new(core::ptr::null_mut());
static EVENT: AtomicU32 = AtomicU32::new(0);

fn ring() -> Option<&'static ConsoleRing> {
    // SAFETY: null, or set by `init` to the ring page, which stays mapped for ever and is made of atomics.
    unsafe { RING.load(Ordering::Relaxed).as_ref() }
}

/// Where the ring is mapped; 0 if there is none.
pub fn ring_address() -> u64 {
    RING.load(Ordering::Relaxed) as u64
}

/// Takes the ring into use, if there is one.
pub fn init(ring: *mut ConsoleRing, event: u32) {
    if event == 0 {
        return;
    }
    RING.store(ring, Ordering::Relaxed);
    EVENT.store(event, Ordering::Relaxed);
    Port(event).unmask();
}

fn notify() {
    // Nobody listens any more: that does not concern the guest, and there is no place to say it.
    let _ = Port(EVENT.load(Ordering::Relaxed)).send();
}

/// Prints one line.
pub fn print(message: fmt::Arguments<'_>) {
    let mut line = LineOut::new();
    // A line never refuses text, it cuts it.
    let _ = line.write_fmt(message);
    let bytes = line.finish();
    match ring() {
        Some(ring) => write(ring, bytes),
        None => {
            let _ = hypercall::console_write(bytes);
        }
    }
}

/// Prints bytes as they are. There has to be a ring.
pub fn put(bytes: &[u8]) {
    if let Some(ring) = ring() {
        write(ring, bytes);
    }
}

fn write(ring: &ConsoleRing, bytes: &[u8]) {
    let size = ring.output.len() as u32;
    for &byte in bytes {
        let producer = ring.out_prod.load(Ordering::Relaxed);
        while producer.wrapping_sub(ring.out_cons.load(Ordering::Acquire)) >= size {
            // Full: the other side must hear of it, and get the processor.
            notify();
            hypercall::sched_yield();
        }
        ring.output[(producer % size) as usize].store(byte, Ordering::Relaxed);
        ring.out_prod.store(producer.wrapping_add(1), Ordering::Release);
    }
    notify();
}

/// Waits until the other side has taken all that was printed.
pub fn drain() {
    let Some(ring) = ring() else { return };
    // Bounded: a console that nobody empties must not keep the domain from its end.
    for _ in 0..10_000 {
        if ring.out_cons.load(Ordering::Acquire) == ring.out_prod.load(Ordering::Relaxed) {
            return;
        }
        notify();
        hypercall::sched_yield();
    }
}

/// Leaves nothing in the ring that would be a present entry if it were a page table: no byte, and even indices. False if that cannot
/// be, because something was typed that has not been taken.
pub fn clear() -> bool {
    let Some(ring) = ring() else { return false };
    if ring.out_prod.load(Ordering::Relaxed) % 2 == 1 {
        // The other side prints nothing for it.
        write(ring, b"\r");
    }
    drain();
    let taken = ring.in_cons.load(Ordering::Relaxed);
    if taken % 2 == 1 || ring.in_prod.load(Ordering::Acquire) != taken {
        return false;
    }
    for byte in ring.input.iter().chain(&ring.output) {
        byte.store(0, Ordering::Relaxed);
    }
    ring.out_cons.load(Ordering::Acquire) == ring.out_prod.load(Ordering::Relaxed)
}

/// Takes what was typed.
pub fn read(take: impl FnMut(u8)) {
    read_some(u32::MAX, take);
}

/// Takes up to `limit` bytes of what was typed.
pub fn read_some(limit: u32, mut take: impl FnMut(u8)) {
    let Some(ring) = ring() else { return };
    let size = ring.input.len() as u32;
    let mut consumer = ring.in_cons.load(Ordering::Relaxed);
    let producer = ring.in_prod.load(Ordering::Acquire);
    if consumer == producer {
        return;
    }
    assert!(producer.wrapping_sub(consumer) <= size, "console: input ring says {consumer}..{producer}");
    let end = consumer.wrapping_add(producer.wrapping_sub(consumer).min(limit));
    while consumer != end {
        take(ring.input[(consumer % size) as usize].load(Ordering::Relaxed));
        consumer = consumer.wrapping_add(1);
    }
    ring.in_cons.store(consumer, Ordering::Release);
    notify();
}
