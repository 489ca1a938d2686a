//! COM1, the console.
//!
//! An update leaves the port as it is: bytes that arrive in the pause wait in its FIFO, and those that are on their way out leave it, because
//! the incoming build finds the port set up and does not do so again, which would empty both FIFOs.

use super::port;
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

/// I/O port of COM1.
const COM1: u16 = 0x3f8;

static UART: Mutex<Option<Uart16550<PioBackend>>> = Mutex::new(None);

/// Bytes that a FIFO holds.
const FIFO_LEN: usize = 16;

/// Registers of a 16550, by their distance from the port.
mod register {
    /// Divisor, low byte, while [`DIVISOR_LATCH`] is set.
    pub const DIVISOR_LOW: u16 = 0;
    /// Interrupt enables; divisor, high byte, while [`DIVISOR_LATCH`] is set.
    pub const INTERRUPTS: u16 = 1;
    /// Read: bits 7:6 are set while the FIFOs are in use.
    pub const STATUS_OF_FIFOS: u16 = 2;
    /// Line control.
    pub const LINE: u16 = 3;
    /// Modem control.
    pub const MODEM: u16 = 4;
    /// Line control: 8n1.
    pub const EIGHT_BITS: u8 = 3;
    /// Line control: the divisor is in the first two registers.
    pub const DIVISOR_LATCH: u8 = 0x80;
    /// Modem control: DTR and RTS.
    pub const READY: u8 = 3;
}

/// True if COM1 is 115200 8n1 with FIFOs and ready, as [`init`] sets it up.
fn is_set_up() -> bool {
    use register as r;
    let read = |register| port::read_u8(COM1 + register);
    if read(r::LINE) != r::EIGHT_BITS || read(r::STATUS_OF_FIFOS) & 0xc0 != 0xc0 {
        return false;
    }
    if read(r::INTERRUPTS) != 0 || read(r::MODEM) & r::READY != r::READY {
        return false;
    }
    port::write_u8(COM1 + r::LINE, r::EIGHT_BITS | r::DIVISOR_LATCH);
    let divisor = [read(r::DIVISOR_LOW), read(r::INTERRUPTS)];
    port::write_u8(COM1 + r::LINE, r::EIGHT_BITS);
    divisor == [1, 0]
}

/// Sets COM1 up as 115200 8n1 with FIFOs, unless it is.
#[expect(unsafe_code, reason = "port I/O")]
pub fn init() {
    // SAFETY: COM1's ports are this driver's alone; `UART` is the only owner.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1) }) else { return };
    let config = Config { baud_rate: BaudRate::Baud115200, ..Config::default() };
    // A machine without COM1 still boots; it has nobody to tell.
    if is_set_up() || uart.init(config).is_ok() {
        *UART.lock() = Some(uart);
    }
}

/// Writes bytes and waits until the port has taken them all.
pub fn print(bytes: &[u8]) {
    if let Some(uart) = UART.lock().as_mut() {
        uart.send_bytes_exact(bytes);
    }
}

/// Writes as many bytes as the port takes now; how many that was. Without a port all are taken.
pub fn offer(bytes: &[u8]) -> usize {
    let mut uart = UART.lock();
    let Some(uart) = uart.as_mut() else { return bytes.len() };
    let mut sent = 0;
    while sent < bytes.len() {
        match uart.send_bytes(&bytes[sent..]) {
            0 => break,
            n => sent += n,
        }
    }
    sent
}

/// Forgets what the FIFO holds: it was typed before there was a hypervisor, and meant for its boot loader.
pub fn discard_input() {
    for _ in 0..FIFO_LEN {
        if read().is_none() {
            break;
        }
    }
}

/// A byte that the operator typed, if there is one.
pub fn read() -> Option<u8> {
    UART.lock().as_mut()?.try_receive_byte().ok()
}

/// For the panic handler alone: see [`crate::log::break_lock`].
#[expect(unsafe_code, reason = "the panic handler must be able to speak")]
pub fn break_lock() {
    if UART.is_locked() {
        // SAFETY: only the panic handler calls this; whoever held the lock on this CPU does not run again.
        unsafe { UART.force_unlock() }
    }
}
