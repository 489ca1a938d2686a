//! The 8254 timer, used once: to find out how fast the TSC runs.

use super::port;

/// Input clock of the 8254 in Hz.
const PIT_HZ: u64 = 1_193_182;
/// Length of the measurement in ticks of the 8254: about 10 ms.
const TICKS: u16 = 11_932;
/// Gate and output of channel 2; bit 0 gate, bit 1 speaker, bit 5 output.
const GATE: u16 = 0x61;
const COMMAND: u16 = 0x43;
const CHANNEL_2: u16 = 0x42;
/// Interrupt masks of the two 8259s.
const MASKS: [u16; 2] = [0x21, 0xa1];

/// Ticks per second of the TSC, measured on channel 2 in mode 0 over about 10 ms.
pub fn measure_tsc_hz() -> u64 {
    let gate = port::read_u8(GATE);
    port::write_u8(GATE, (gate & !3) | 1);
    port::write_u8(COMMAND, 0xb0);
    port::write_u8(CHANNEL_2, TICKS as u8);
    port::write_u8(CHANNEL_2, (TICKS >> 8) as u8);
    let start = super::tsc::rdtsc();
    while port::read_u8(GATE) & 0x20 == 0 {
        core::hint::spin_loop();
    }
    let ticks = super::tsc::rdtsc() - start;
    ticks * PIT_HZ / u64::from(TICKS)
}

/// Masks every line of both 8259s: nothing here uses them.
pub fn quiet_legacy() {
    for mask in MASKS {
        port::write_u8(mask, 0xff);
    }
}
