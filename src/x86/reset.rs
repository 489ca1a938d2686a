//! A reset of the whole machine.

use super::debug_exit;
use super::port;

/// The reset control register of Intel's chipsets (PIIX3 and later).
const RESET_CONTROL: u16 = 0xcf9;
/// Status and commands of the keyboard controller.
const KEYBOARD: u16 = 0x64;
/// Its input buffer is full.
const INPUT_FULL: u8 = 1 << 1;

/// Resets the machine; if neither way works, the CPU stops.
pub fn machine() -> ! {
    // Bit 1: a hard reset, bit 2: now.
    port::write_u8(RESET_CONTROL, 1 << 1);
    port::write_u8(RESET_CONTROL, 1 << 1 | 1 << 2);
    for _ in 0..100_000 {
        if port::read_u8(KEYBOARD) & INPUT_FULL == 0 {
            break;
        }
    }
    // Pulses the reset line.
    port::write_u8(KEYBOARD, 0xfe);
    debug_exit::stop()
}
