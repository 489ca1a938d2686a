//! The hypervisor's own commands: single keys, while no guest is in focus.

use crate::frame::DomId;
use crate::log;
use crate::lu::update;
use crate::run::console::{all_domains, finish_all, set_focus, type_to};
use crate::run::create;
use crate::run::host::Host;
use crate::x86::heap;

/// Does what a key asks for.
pub fn command(host: &Host, key: u8) {
    match key {
        b'?' => help(host),
        b'u' => update::request(host),
        b'p' => update::plan_only(host),
        b'y' => update::request_dry_run(host),
        b'h' => update::print_history(host),
        b'c' => create::create_later_domains(host),
        b'd' => domains(host),
        b'l' => log::list(),
        b'm' => {
            crate::start::print_ledger(host.frames);
            let (used, free) = heap::usage();
            log!("heap", "{used} bytes of small objects, {free} free; {:?}", host.frames.stats());
        }
        b'f' => finish_all(host),
        b'q' => crate::x86::traps::finish(crate::verdict::worst()),
        b'1'..=b'9' => go_to(host, DomId::new((key - b'0').into())),
        b'a' => literal(host),
        b'\r' | b'\n' => {}
        other => log!("console", "no command {:?} (? for help)", char::from(other)),
    }
}

fn help(host: &Host) {
    let key = char::from(host.options.switch_key | 0x40);
    log!("console", "u update  p plan an update  y dry run of an update  h history of updates");
    log!("console", "l the hypervisor's lines so far  d domains  m memory  ? these lines");
    log!("console", "c create the domains marked create=later  f type finish to every domain  q end this run");
    log!("console", "Ctrl-{key} types to each domain in turn, then here again; 1 to 9 type to d1 to d9");
    log!(
        "console",
        "a goes back to the last domain and types it a Ctrl-{key}; conswitch=<letter> makes it another key"
    );
}

fn go_to(host: &Host, id: DomId) {
    match host.domain(id) {
        Some(_) => set_focus(host, Some(id)),
        None => log!("console", "there is no {id}"),
    }
}

/// The switch key itself, for the guest that was in focus last.
fn literal(host: &Host) {
    let last = host.console.lock().last_focus.and_then(|id| host.domain(id));
    match last {
        Some(domain) => {
            set_focus(host, Some(domain.id));
            type_to(host, &domain, &[host.options.switch_key]);
        }
        None => log!("console", "no domain was typed to before"),
    }
}

fn domains(host: &Host) {
    for domain in all_domains(host) {
        let (frames, extents) = {
            let mut memory = domain.memory.lock();
            (memory.nr_frames(host.frames, domain.id), memory.extents.nr_extents())
        };
        let state = match (domain.shutdown(), domain.refusal()) {
            (Some(reason), _) => reason.name(),
            (None, Some(_)) => "refused",
            (None, None) => "running",
        };
        let vcpus = domain.vcpus.lock().len();
        log!(
            "domain",
            "{} {}: {state}, {vcpus} vCPU, {frames} frames in {extents} extents{}",
            domain.id,
            domain.name,
            if domain.privileged { ", privileged" } else { "" }
        );
        if let Some(refusal) = domain.refusal() {
            log!("domain", "{} was refused: {}", domain.id, refusal.why);
        }
    }
}
