//! Says every byte that it hears, as it is and without waiting for the end of a line; a return begins a new line. Whoever types knows what has to come
//! back, so a byte that was lost, doubled or changed on its way, in either direction, shows. The line `finish` ends it, when all is said.
//!
//! Options: `pace=<n>` (no limit: bytes that are read in a millisecond, so that a fast typist fills every buffer), `flood=<n>` (0: numbers
//! of four digits that are said after the first byte was heard, as fast as the console takes them).

use luxen_guests::clock::MS;
use luxen_guests::kernel;
use luxen_guests::lines::LineIn;
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::machine::{console, events, time};

kernel!(
    name: "echo",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::SetCallbacks, moves_vcpu_info: false },
    calls: syscall
);

fn run(guest: &mut Guest) {
    let pace = guest.number("pace", u32::MAX.into());
    let limit = u32::try_from(pace).unwrap_or_else(|_| panic!("pace={pace}: more than a ring can hold"));
    let mut flood = guest.number("flood", 0);
    let mut line = LineIn::new();
    let mut is_finishing = false;
    console::put(b"> ");
    while !is_finishing {
        let seen = events::total();
        let mut has_heard = false;
        console::read_some(limit, |byte| {
            has_heard = true;
            match byte {
                b'\r' => console::put(b"\r\n> "),
                byte => console::put(&[byte]),
            }
            is_finishing |= line.push(byte) == Some("finish");
        });
        if has_heard {
            (0..core::mem::take(&mut flood)).for_each(say_number);
        }
        if !is_finishing {
            // A pace is kept by not looking sooner, whatever happens.
            let until = time::now().saturating_add(MS);
            if pace == u64::from(u32::MAX) {
                guest.sleep(seen, until);
            } else {
                while time::now() < until {
                    guest.sleep(events::total(), until);
                }
            }
        }
    }
    // What is said at the end begins on a line of its own.
    console::put(b"\r\n");
}

/// A number of four digits and a space.
fn say_number(number: u64) {
    let mut text = *b"0000 ";
    let mut rest = number;
    for digit in text[..4].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    console::put(&text);
}
