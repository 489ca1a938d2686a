//! The operator's console: guests' output into the log, keystrokes to whom they are meant for.
//!
//! Nobody is in focus at first: keys are the hypervisor's commands, single letters (`?` lists them), and each guest's output comes line by line
//! behind a mark, `(d3) `. The switch key (Ctrl-A, or what `conswitch=` says) gives the focus to each guest in turn and then back to the
//! hypervisor. The guest in focus has the console as if it were its own: keys reach it as they are, its bytes reach the terminal as they are.
//!
//! Neither direction loses anything. A guest's output waits in its ring until the log has room, which it has as fast as the serial line
//! takes what it holds; guests that wait take turns. Keys wait in a queue until the guest has read those before, and when that is full they
//! wait in the serial port. A guest that has not read for [`PATIENCE_NS`] loses what is typed from then on, or the switch key would be stuck too.

use crate::domain::console::{Console, Piece};
use crate::frame::DomId;
use crate::log;
use crate::run::domain::Domain;
use crate::run::host::Host;
use crate::run::keys;
use crate::x86::directmap::DirectMap;
use crate::x86::{serial, tsc};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How often the serial port is looked at, in nanoseconds.
const POLL_NS: u64 = 10_000_000;
/// The same while a guest is in focus: a serial line of 115200 baud fills the port's FIFO in 1.4 ms.
const POLL_IN_FOCUS_NS: u64 = 1_000_000;
/// How long the serial port is left alone when it takes nothing more: 16 bytes leave it in 1.4 ms.
const PUMP_NS: u64 = 700_000;
/// How long a guest may leave everything unread before what is typed to it is lost.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Bytes that a guest may print before the next one has its turn.
const TURN_LEN: usize = 512;

/// Who is being typed to, whose output waits, and what is due when.
#[derive(Default)]
pub struct ConsoleState {
    /// The domain in focus; none for the hypervisor.
    pub focus: Option<DomId>,
    /// The domain that was in focus last.
    pub last_focus: Option<DomId>,
    /// Domains whose rings hold output that the log had no room for, in the order of their turns.
    waiting: VecDeque<DomId>,
    next_poll_ns: u64,
    next_pump_ns: u64,
    /// What is typed is being lost, which has been said.
    is_losing: bool,
}

/// When [`poll`] is due next.
pub fn next_poll(host: &Host) -> u64 {
    let console = host.console.lock();
    let pump = match (log::is_behind(), console.waiting.is_empty()) {
        (true, _) => console.next_pump_ns,
        (false, false) => 0,
        (false, true) => u64::MAX,
    };
    console.next_poll_ns.min(pump)
}

/// Shows a guest's line, or a part of one.
fn show(id: DomId, piece: Piece<'_>) -> u64 {
    // The console is a terminal: what could steer it is shown as a dot.
    let show = |&b: &u8| if (0x20..0x7f).contains(&b) || b >= 0x80 || b == b'\t' { b } else { b'.' };
    let text: Vec<u8> = piece.text.iter().map(show).collect();
    log::guest(alloc::format!("(d{}) ", id.get()).as_bytes(), &text, piece.ends, piece.continues)
}

/// Shows bytes of a guest, in the way that is due for who is in focus.
fn show_output(host: &Host, id: DomId, console: &mut Console, bytes: &[u8]) {
    if host.console.lock().focus == Some(id) {
        log::raw(bytes);
        console.line.note_shown(bytes);
    } else {
        console.line.add(bytes, tsc::now_ns(), |piece| show(id, piece));
    }
}

/// Shows bytes that a guest wrote with console_io. False if the log has no room for them: later.
pub fn write(host: &Host, domain: &Domain, bytes: &[u8]) -> bool {
    if log::room() == 0 {
        return false;
    }
    show_output(host, domain.id, &mut domain.console.lock(), bytes);
    true
}

/// Does what a domain's event on its console port asks for: takes its output, as far as there is room and it is its turn, and hands it what was typed.
pub fn serve(host: &Host, domain: &Domain) {
    deliver(host, domain, tsc::now_ns());
    // Lock order: a domain's console before the host's.
    let has_output = domain.console.lock().has_output(&DirectMap);
    let is_first_in_line = {
        let mut state = host.console.lock();
        if has_output && !state.waiting.is_empty() && !state.waiting.contains(&domain.id) {
            state.waiting.push_back(domain.id);
        }
        state.waiting.is_empty()
    };
    if is_first_in_line && take_output(host, domain) {
        host.console.lock().waiting.push_back(domain.id);
    }
}

/// Takes a turn's worth of what a domain has written; true if there is more.
fn take_output(host: &Host, domain: &Domain) -> bool {
    let limit = log::room().min(TURN_LEN);
    let mut console = domain.console.lock();
    let bytes = console.take_output(&DirectMap, limit);
    if !bytes.is_empty() {
        show_output(host, domain.id, &mut console, &bytes);
    }
    let has_more = console.has_output(&DirectMap);
    drop(console);
    if !bytes.is_empty() {
        notify(host, domain);
    }
    has_more
}

/// Takes all that a domain that ends has written, and shows its last line even if it has no end.
pub fn last_words(host: &Host, domain: &Domain) {
    let mut console = domain.console.lock();
    let bytes = console.take_output(&DirectMap, crate::domain::console::OUT_LEN as usize);
    show_output(host, domain.id, &mut console, &bytes);
    console.line.show_part(|piece| show(domain.id, piece));
}

fn notify(host: &Host, domain: &Domain) {
    if domain.rings.console_port == 0 {
        return;
    }
    let event = host.evtchn.lock().raise(&DirectMap, domain.id, domain.rings.console_port);
    if let Ok(event) = event {
        host.wake_for(event);
    }
}

fn deliver(host: &Host, domain: &Domain, now: u64) {
    // The ring of a domain that has stopped may be somebody else's memory by now.
    if !domain.is_alive() {
        return;
    }
    let delivered = domain.console.lock().deliver(&DirectMap, now);
    if delivered {
        notify(host, domain);
    }
}

/// Types into a domain's console.
pub fn type_to(host: &Host, domain: &Domain, bytes: &[u8]) {
    if !domain.is_alive() {
        return;
    }
    let typed = domain.console.lock().type_in(bytes);
    if typed < bytes.len() {
        log!("console", "{} {} does not read: {} keystrokes lost", domain.id, domain.name, bytes.len() - typed);
    }
    deliver(host, domain, tsc::now_ns());
}

pub(super) fn all_domains(host: &Host) -> Vec<Arc<Domain>> {
    host.domains.lock().values().cloned().collect()
}

/// Types the line `finish` into every guest's console.
pub fn finish_all(host: &Host) {
    for domain in all_domains(host) {
        if domain.is_alive() {
            type_to(host, &domain, b"finish\r");
        }
    }
}

/// Feeds the serial port and whose output waits for it; looks at the keys, and at rings whose owners did not say anything.
pub fn poll(host: &Host, now: u64) {
    pump(host, now);
    {
        let mut console = host.console.lock();
        if now < console.next_poll_ns {
            return;
        }
        console.next_poll_ns = now + if console.focus.is_some() { POLL_IN_FOCUS_NS } else { POLL_NS };
    }
    for domain in all_domains(host) {
        if domain.is_alive() {
            serve(host, &domain);
            domain.console.lock().line.show_if_old(now, |piece| show(domain.id, piece));
        }
    }
    read_keys(host, now);
}

fn pump(host: &Host, now: u64) {
    {
        let mut console = host.console.lock();
        if now < console.next_pump_ns {
            return;
        }
        console.next_pump_ns = if log::pump() { now + PUMP_NS } else { 0 };
    }
    // Each that waits has a turn at most, so that this ends.
    let turns = host.console.lock().waiting.len();
    for _ in 0..turns {
        if log::room() == 0 {
            break;
        }
        let Some(id) = host.console.lock().waiting.pop_front() else { break };
        if let Some(domain) = host.domain(id).filter(|d| d.is_alive())
            && take_output(host, &domain)
        {
            host.console.lock().waiting.push_back(id);
        }
    }
}

/// Takes keys out of the serial port as long as there is a place for them.
fn read_keys(host: &Host, now: u64) {
    let switch = host.options.switch_key;
    loop {
        let focus = host.console.lock().focus;
        let domain = focus.and_then(|id| host.domain(id));
        if domain.as_ref().is_some_and(|d| !accepts(host, d, now)) {
            break;
        }
        let Some(key) = serial::read() else { break };
        match domain {
            _ if key == switch => next_focus(host),
            // Nobody reads it, and its ring is not touched.
            Some(domain) if domain.refusal().is_some() => {}
            Some(domain) => {
                domain.console.lock().type_in(&[key]);
                deliver(host, &domain, now);
            }
            None => keys::command(host, key),
        }
    }
}

/// True if a key for the domain may be read: there is room for it, or there has been none for so long that it is lost.
fn accepts(host: &Host, domain: &Domain, now: u64) -> bool {
    let (has_room, unread_ns) = {
        let console = domain.console.lock();
        (console.room() != 0, console.unread_for(now))
    };
    let mut state = host.console.lock();
    if has_room {
        state.is_losing = false;
        return true;
    }
    let loses = unread_ns >= PATIENCE_NS;
    if loses && !state.is_losing {
        state.is_losing = true;
        log!("console", "{} {} has long not read anything: what is typed is lost", domain.id, domain.name);
    }
    loses
}

fn next_focus(host: &Host) {
    let focus = host.console.lock().focus;
    let next = {
        let domains = host.domains.lock();
        match focus {
            None => domains.keys().next().copied(),
            Some(id) => domains.keys().find(|&&d| d > id).copied(),
        }
    };
    set_focus(host, next);
}

/// Gives the focus to a domain, or back to the hypervisor. The line that the domain has left open, its prompt perhaps, is shown to who comes.
pub fn set_focus(host: &Host, focus: Option<DomId>) {
    {
        let mut console = host.console.lock();
        console.last_focus = console.focus.or(console.last_focus);
        console.focus = focus;
        console.is_losing = false;
        console.next_poll_ns = 0;
    }
    let key = char::from(host.options.switch_key | 0x40);
    match focus.and_then(|id| host.domain(id)) {
        Some(domain) => {
            log!("console", "input goes to {} {} (Ctrl-{key} for the next)", domain.id, domain.name);
            log::raw(domain.console.lock().line.show_all());
        }
        None => log!("console", "input goes to the hypervisor (? for help, Ctrl-{key} for the next)"),
    }
}

/// A domain is no more: if it was in focus, the hypervisor is.
pub fn forget(host: &Host, id: DomId) {
    let had_focus = host.console.lock().focus == Some(id);
    if had_focus {
        set_focus(host, None);
    }
}
