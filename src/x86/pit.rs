//! The 8254 timer, used once: to find out how fast the TSC runs.

use x86_64::instructions::port::Port;

/// Input clock of the 8254 in Hz.
const PIT_HZ: u64 = 1_193_182;
/// Length of the measurement in ticks of the 8254: about 10 ms.
const TICKS: u16 = 11_932;

/// Ticks per second of the TSC, measured on channel 2 in mode 0 over about 10 ms.
#[expect(unsafe_code, reason = "port I/O")]
pub fn measure_tsc_hz() -> u64 {
    let mut gate: Port<u8> = Port::new(0x61);
    let mut command: Port<u8> = Port::new(0x43);
    let mut channel2: Port<u8> = Port::new(0x42);
    // SAFETY: channel 2 and its gate drive the speaker and nothing else; the speaker bit is cleared.
    unsafe {
        let g = gate.read();
        gate.write((g & !3) | 1);
        command.write(0xb0);
        channel2.write(TICKS as u8);
        channel2.write((TICKS >> 8) as u8);
    }
    let start = super::tsc::rdtsc();
    // SAFETY: reads the output of channel 2.
    while unsafe { gate.read() } & 0x20 == 0 {
        core::hint::spin_loop();
    }
    let ticks = super::tsc::rdtsc() - start;
    ticks * PIT_HZ / u64::from(TICKS)
}

/// Silences the 8259s and the periodic timer of the firmware.
#[expect(unsafe_code, reason = "port I/O")]
pub fn quiet_legacy() {
    let mut pic1: Port<u8> = Port::new(0x21);
    let mut pic2: Port<u8> = Port::new(0xa1);
    // SAFETY: masks every line of both interrupt controllers; nothing here uses them.
    unsafe {
        pic1.write(0xff);
        pic2.write(0xff);
    }
}
