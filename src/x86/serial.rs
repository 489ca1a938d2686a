//! COM1, the console.

use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// I/O port of COM1.
const COM1: u16 = 0x3f8;

static UART: Mutex<Option<Uart16550<PioBackend>>> = Mutex::new(None);

/// Sets COM1 up as 115200 8n1 with FIFOs.
#[expect(unsafe_code, reason = "port I/O")]
pub fn init() {
    // SAFETY: COM1's ports are this driver's alone; `UART` is the only owner.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1) }) else { return };
    // A machine without COM1 still boots; it has nobody to tell.
    if uart.init(Config::default()).is_ok() {
        *UART.lock() = Some(uart);
    }
}

/// Writes bytes, `\n` as `\r\n`.
pub fn print(bytes: &[u8]) {
    let mut uart = UART.lock();
    let Some(uart) = uart.as_mut() else { return };
    for piece in bytes.split_inclusive(|&b| b == b'\n') {
        match piece.strip_suffix(b"\n") {
            Some(text) => {
                uart.send_bytes_exact(text);
                uart.send_bytes_exact(b"\r\n");
            }
            None => uart.send_bytes_exact(piece),
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
