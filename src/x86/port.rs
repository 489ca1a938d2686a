//! Port I/O, one byte or word at a time.

use x86_64::instructions::port::Port;

/// Reads a byte from a port.
#[expect(unsafe_code, reason = "port I/O")]
pub fn read_u8(port: u16) -> u8 {
    // SAFETY: the ports that this crate reads belong to devices that it drives: keyboard controller gate, PIT, CMOS clock, COM1.
    unsafe { Port::new(port).read() }
}

/// Writes a byte to a port.
#[expect(unsafe_code, reason = "port I/O")]
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: as for `read_u8`; no device behind these ports reaches memory.
    unsafe { Port::new(port).write(value) }
}

/// Writes a double word to a port.
#[expect(unsafe_code, reason = "port I/O")]
pub fn write_u32(port: u16, value: u32) {
    // SAFETY: as for `write_u8`.
    unsafe { Port::new(port).write(value) }
}
