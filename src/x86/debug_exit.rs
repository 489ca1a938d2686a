//! QEMU's isa-debug-exit device: the verdict's way out of a test run.

use crate::verdict::Verdict;
use x86_64::instructions::{hlt, interrupts, port::PortWriteOnly};

const PORT: u16 = 0xf4;

/// Ends the run with a verdict; QEMU's exit status is `value * 2 + 1`. On a machine without the device the CPU stops here.
#[expect(unsafe_code, reason = "port I/O")]
pub fn exit(verdict: Verdict) -> ! {
    let mut port: PortWriteOnly<u32> = PortWriteOnly::new(PORT);
    // SAFETY: the port belongs to the debug-exit device or to nobody.
    unsafe { port.write(verdict.exit_value()) };
    stop()
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    interrupts::disable();
    loop {
        hlt();
    }
}
