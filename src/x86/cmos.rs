//! The battery-backed clock: wall-clock time at the cold boot.

use super::port;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;

fn register(index: u8) -> u8 {
    port::write_u8(INDEX, index);
    port::read_u8(DATA)
}

fn reading() -> [u8; 6] {
    [0, 2, 4, 7, 8, 9].map(register)
}

/// Seconds since 1970-01-01 00:00:00 UTC. Two equal readings in a row make it sure that no update of the clock fell in between; there is no
/// waiting for a second to end.
pub fn unix_seconds() -> u64 {
    let mut last = reading();
    for _ in 0..1000 {
        let now = reading();
        if now == last {
            break;
        }
        last = now;
    }
    let status_b = register(0xb);
    let number = |v: u8| if status_b & 4 != 0 { u64::from(v) } else { u64::from(v >> 4) * 10 + u64::from(v & 15) };
    let [sec, min, hour, day, month, year] = last;
    let (sec, min, day, month, year) = (number(sec), number(min), number(day), number(month), 2000 + number(year));
    let hour = if status_b & 2 == 0 {
        let pm = hour & 0x80 != 0;
        number(hour & 0x7f) % 12 + if pm { 12 } else { 0 }
    } else {
        number(hour)
    };
    // Days since the epoch of a Gregorian date, months counted from March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day.saturating_sub(1) - 719_468;
    days * 86_400 + hour * 3600 + min * 60 + sec
}
