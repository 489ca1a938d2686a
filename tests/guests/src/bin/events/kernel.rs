//! Two domains, `role=a` and `role=b`, and 16 channels between them that carry tokens (`luxen_guests::tokens`).
//!
//! There is no xenstore, so the ports are agreed beforehand: role a takes unbound ports for `peer=<domid>` until it has
//! the ports 20 to 35, which are channels 0 to 15, and gives the lower ones back. Role b binds to them; as long as that is
//! refused it tries again every 20 ms. A bind leaves its own port pending (Xen does so, as a notification may have been
//! lost before): b forgets that, then sends one event on every channel. When a has them all, it starts with token 0.
//!
//! The end: a that is told to finish sends no more, waits for the open answers, and closes. b that is told to finish goes
//! on answering until a has closed, or nothing came for the time limit. A side that finds the other gone waits
//! `linger-ms` (10000) for its own `finish`; without it, that is a failure.
//!
//! Options: `timeout-ms=<n>` (2000: a token not answered by then is lost), `window=<n>` (4, at most 8: tokens on the way;
//! the same on both sides), `rest-ms=<n>` (1: pause of a after every 64 tokens), `report-ms=<n>` (5000).

use luxen_guests::clock::{MS, Seconds};
use luxen_guests::machine::events::{self, Port};
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::time;
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::tokens::{Answerer, CHANNELS, Sender};
use luxen_guests::{kernel, say};

kernel!(
    name: "events",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::CallbackOp, moves_vcpu_info: true },
    calls: syscall
);

/// The port of channel 0 on side a.
const FIRST_PORT: u32 = 20;
/// Ports below it that a may meet before; a guard against a loop, not a rule.
const MAX_TRIES: usize = 64;
const RETRY: u64 = 20 * MS;
const TOKENS_PER_REST: u64 = 64;

/// The channels, and how many of their events were dealt with.
struct Bank {
    ports: [Port; CHANNELS],
    seen: [u64; CHANNELS],
}

/// What both sides were told.
struct Terms {
    timeout: u64,
    window: u64,
    rest: u64,
    report: u64,
    linger: u64,
}

fn run(guest: &mut Guest) {
    let options = guest.options();
    let terms = Terms {
        timeout: guest.number("timeout-ms", 2000).saturating_mul(MS),
        window: guest.number("window", 4),
        rest: guest.number("rest-ms", 1).saturating_mul(MS),
        report: guest.number("report-ms", 5000).saturating_mul(MS),
        linger: guest.number("linger-ms", 10_000).saturating_mul(MS),
    };
    let peer = options.number("peer").unwrap_or_else(|e| panic!("{e}"));
    let peer =
        peer.and_then(|peer| u16::try_from(peer).ok()).unwrap_or_else(|| panic!("option peer=<domid> is missing"));
    match options.value("role") {
        Some("a") => send(guest, peer, &terms),
        Some("b") => answer(guest, peer, &terms),
        _ => panic!("option role=a or role=b is missing"),
    }
}

impl Bank {
    /// Side a: opens ports 20 to 35 for the peer.
    fn open(peer: u16) -> Bank {
        let mut ports = [Port(0); CHANNELS];
        let mut found = 0;
        let mut lower = [Port(0); MAX_TRIES];
        let mut tries = 0;
        while found < CHANNELS {
            let port = events::alloc_unbound(peer).unwrap_or_else(|e| panic!("alloc_unbound for d{peer}: {e}"));
            if port.0 < FIRST_PORT {
                assert!(tries < MAX_TRIES, "alloc_unbound gives no port from {FIRST_PORT} on");
                lower[tries] = port;
                tries += 1;
                continue;
            }
            let expected = FIRST_PORT + found as u32;
            assert!(port.0 == expected, "alloc_unbound gave port {}, the lowest free one is {expected}", port.0);
            ports[found] = port;
            found += 1;
        }
        for port in &lower[..tries] {
            port.close().unwrap_or_else(|e| panic!("close of port {}: {e}", port.0));
        }
        Bank::listening(ports)
    }

    /// Side b: binds to the peer's ports; `None` when it is time to finish before the peer is there.
    fn bind(guest: &mut Guest, peer: u16) -> Option<Bank> {
        let mut ports = [Port(0); CHANNELS];
        for (port, remote) in ports.iter_mut().zip(FIRST_PORT..) {
            *port = loop {
                let seen = events::total();
                match events::bind_interdomain(peer, remote) {
                    Ok(port) => break port,
                    // Not there yet, whatever the reason: the peer has not been created, or has not got so far.
                    Err(_) if guest.poll() => return None,
                    Err(_) => guest.sleep(seen, time::now() + RETRY),
                }
            };
        }
        for port in &ports {
            port.clear_pending();
        }
        Some(Bank::listening(ports))
    }

    fn listening(ports: [Port; CHANNELS]) -> Bank {
        let seen = ports.map(Port::count);
        for port in &ports {
            port.unmask();
        }
        Bank { ports, seen }
    }

    /// The channel of an event that was not dealt with yet.
    fn next(&mut self) -> Option<usize> {
        let channel = (0..CHANNELS).find(|&channel| self.ports[channel].count() != self.seen[channel])?;
        self.seen[channel] += 1;
        Some(channel)
    }

    fn send(&self, channel: usize) {
        let port = self.ports[channel];
        port.send().unwrap_or_else(|e| panic!("send on port {}: {e}", port.0));
    }

    fn is_connected(&self) -> bool {
        self.ports.iter().all(|port| port.is_connected())
    }

    fn close(self) {
        for port in self.ports {
            port.close().unwrap_or_else(|e| panic!("close of port {}: {e}", port.0));
        }
    }
}

/// The other side is gone. Fine if this side is about to end too, or will hear so soon.
fn peer_is_gone(guest: &mut Guest, linger: u64) {
    let end = time::now().saturating_add(linger);
    loop {
        let seen = events::total();
        if guest.poll() {
            return;
        }
        assert!(time::now() < end, "the peer closed its channels, and nobody said finish");
        guest.sleep(seen, end);
    }
}

fn send(guest: &mut Guest, peer: u16, terms: &Terms) {
    let mut bank = Bank::open(peer);
    say!("waits on ports {FIRST_PORT} to {} for d{peer}", FIRST_PORT + CHANNELS as u32 - 1);

    let mut is_ready = [false; CHANNELS];
    while is_ready != [true; CHANNELS] {
        let seen = events::total();
        while let Some(channel) = bank.next() {
            assert!(!is_ready[channel], "channel {channel} said hello twice");
            is_ready[channel] = true;
        }
        if guest.poll() {
            say!("finishes before the peer was there");
            return bank.close();
        }
        if is_ready != [true; CHANNELS] {
            events::block_unless_after(seen);
        }
    }
    say!("connected at {}", Seconds(time::now()));

    let mut sender = Sender::new(terms.window);
    let mut report = time::now().saturating_add(terms.report);
    let mut not_before = 0;
    loop {
        let seen = events::total();
        while let Some(channel) = bank.next() {
            sender.answered(channel).unwrap_or_else(|violation| panic!("{violation}"));
        }
        let now = time::now();
        let is_finishing = guest.poll();
        if is_finishing && sender.sent() == sender.answers() {
            break;
        }
        if let Err(violation) = sender.check(now, terms.timeout) {
            // The peer may have been told to finish a moment earlier than this side.
            assert!(!bank.is_connected(), "{violation}");
            say!("peer gone at {} with {} answers open", Seconds(now), sender.sent() - sender.answers());
            peer_is_gone(guest, terms.linger);
            break;
        }
        if now >= report {
            say!("{} tokens, {} answers at {}", sender.sent(), sender.answers(), Seconds(now));
            report = now.saturating_add(terms.report);
        }
        if !is_finishing
            && now >= not_before
            && let Some(channel) = sender.send(now)
        {
            bank.send(channel);
            if sender.sent().is_multiple_of(TOKENS_PER_REST) {
                not_before = now.saturating_add(terms.rest);
            }
            continue;
        }
        let wake = if now < not_before { not_before } else { now.saturating_add(terms.timeout / 4) };
        guest.sleep(seen, wake);
    }
    say!("{} tokens sent, {} answered", sender.sent(), sender.answers());
    bank.close();
}

fn answer(guest: &mut Guest, peer: u16, terms: &Terms) {
    let Some(mut bank) = Bank::bind(guest, peer) else {
        say!("finishes before the peer was there");
        return;
    };
    for channel in 0..CHANNELS {
        bank.send(channel);
    }
    say!("connected to d{peer} at {}", Seconds(time::now()));

    let mut answerer = Answerer::new(terms.window);
    let mut report = time::now().saturating_add(terms.report);
    let mut last = time::now();
    loop {
        let seen = events::total();
        let now = time::now();
        while let Some(channel) = bank.next() {
            answerer.arrived(channel).unwrap_or_else(|violation| panic!("{violation}"));
            bank.send(channel);
            last = now;
        }
        let is_finishing = guest.poll();
        let idle = now.saturating_sub(last);
        if is_finishing && (idle > terms.timeout || !bank.is_connected()) {
            break;
        }
        if idle > terms.timeout && !bank.is_connected() {
            say!("peer gone at {}", Seconds(now));
            peer_is_gone(guest, terms.linger);
            break;
        }
        if now >= report {
            say!("{} tokens answered at {}", answerer.tokens(), Seconds(now));
            report = now.saturating_add(terms.report);
        }
        // While it finishes it looks often whether the other side is still there.
        let nap = if is_finishing { RETRY } else { terms.timeout / 4 };
        guest.sleep(seen, now.saturating_add(nap));
    }
    say!("{} tokens answered", answerer.tokens());
    bank.close();
}
