//! The operator's console: guests' lines into the log, keystrokes to whom they are meant for.
//!
//! Ctrl-A moves the focus: the hypervisor first, then each domain in turn. Keys for the hypervisor are single letters; `?` lists them.

use crate::frame::DomId;
use crate::log;
use crate::lu::update;
use crate::run::create;
use crate::run::domain::Domain;
use crate::run::host::Host;
use crate::x86::directmap::DirectMap;
use crate::x86::{heap, serial};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How often the serial port is looked at, in nanoseconds.
const POLL_NS: u64 = 10_000_000;
const CTRL_A: u8 = 1;

/// Who is being typed to, and when the serial port is looked at next.
#[derive(Default)]
pub struct ConsoleState {
    /// The domain in focus; none for the hypervisor.
    pub focus: Option<DomId>,
    next_poll_ns: u64,
}

/// When [`poll`] is due next.
pub fn next_poll(host: &Host) -> u64 {
    host.console.lock().next_poll_ns
}

/// Logs a line of a guest.
pub fn guest_line(id: DomId, line: &[u8]) {
    let mut text = alloc::format!("(d{}) ", id.get()).into_bytes();
    // The console is a terminal: what could steer it is shown as a dot.
    text.extend(line.iter().map(|&b| if (0x20..0x7f).contains(&b) || b >= 0x80 || b == b'\t' { b } else { b'.' }));
    text.push(b'\n');
    log::raw(&text);
}

/// Takes what a domain has written to its console ring; tells it that there is room again.
pub fn drain(host: &Host, domain: &Domain) {
    let drained = domain.console.lock().drain(&DirectMap, |line| guest_line(domain.id, line));
    if drained {
        notify(host, domain);
    }
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

/// Types into a domain's console.
pub fn type_to(host: &Host, domain: &Domain, bytes: &[u8]) {
    // The ring of a domain that has stopped may be somebody else's memory by now.
    if domain.shutdown().is_some() {
        return;
    }
    let typed = domain.console.lock().type_in(&DirectMap, bytes);
    if typed < bytes.len() {
        log!("console", "{} {} does not read: {} keystrokes lost", domain.id, domain.name, bytes.len() - typed);
    }
    notify(host, domain);
}

fn all_domains(host: &Host) -> Vec<Arc<Domain>> {
    host.domains.lock().values().cloned().collect()
}

/// Types the line `finish` into every guest's console.
pub fn finish_all(host: &Host) {
    for domain in all_domains(host) {
        if domain.shutdown().is_none() {
            type_to(host, &domain, b"finish\n");
        }
    }
}

/// Looks at the serial port, and at rings whose owners did not say anything.
pub fn poll(host: &Host, now: u64) {
    {
        let mut console = host.console.lock();
        if now < console.next_poll_ns {
            return;
        }
        console.next_poll_ns = now + POLL_NS;
    }
    for domain in all_domains(host) {
        if domain.shutdown().is_none() {
            drain(host, &domain);
        }
    }
    while let Some(key) = serial::read() {
        if key == CTRL_A {
            next_focus(host);
            continue;
        }
        let focus = host.console.lock().focus;
        match focus.and_then(|id| host.domain(id)) {
            Some(domain) => type_to(host, &domain, &[if key == b'\r' { b'\n' } else { key }]),
            None => command(host, key),
        }
    }
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
    host.console.lock().focus = next;
    match next.and_then(|id| host.domain(id)) {
        Some(domain) => log!("console", "input goes to {} {} (Ctrl-A for the next)", domain.id, domain.name),
        None => log!("console", "input goes to the hypervisor (? for help, Ctrl-A for the next)"),
    }
}

fn command(host: &Host, key: u8) {
    match key {
        b'?' | b'h' => {
            log!("console", "u update  p plan an update  c create the domains marked create=later");
            log!("console", "d domains  l ledger  f type finish to every domain  q end this run  Ctrl-A next focus");
        }
        b'u' => update::request(host),
        b'p' => update::plan_only(host),
        b'c' => create::create_later_domains(host),
        b'd' => domains(host),
        b'l' => {
            crate::start::print_ledger(host.frames);
            let (used, free) = heap::usage();
            log!("heap", "{used} bytes of small objects, {free} free; {:?}", host.frames.stats());
        }
        b'f' => finish_all(host),
        b'q' => crate::x86::traps::finish(crate::verdict::worst()),
        b'\r' | b'\n' => {}
        other => log!("console", "no command {:?} (? for help)", char::from(other)),
    }
}

fn domains(host: &Host) {
    for domain in all_domains(host) {
        let (frames, extents) = {
            let mut memory = domain.memory.lock();
            (memory.nr_frames(host.frames, domain.id), memory.extents.nr_extents())
        };
        let state = domain.shutdown().map_or("running", |s| s.name());
        let vcpus = domain.vcpus.lock().len();
        log!(
            "domain",
            "{} {}: {state}, {vcpus} vCPU, {frames} frames in {extents} extents{}",
            domain.id,
            domain.name,
            if domain.privileged { ", privileged" } else { "" }
        );
    }
}
