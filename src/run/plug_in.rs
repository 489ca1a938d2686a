//! Free memory after an update: the restore has taken what it needs, the rest is plugged in when guests run again.

use crate::lu::report;
use crate::run::host::Host;
use crate::start::print_ledger;
use core::sync::atomic::{AtomicBool, Ordering};

/// Some of the memory may be missing yet.
static PENDING: AtomicBool = AtomicBool::new(false);

/// The heap was told to plug in later.
pub fn expect() {
    PENDING.store(true, Ordering::Release);
}

/// True if there is something to do now.
pub fn is_busy() -> bool {
    PENDING.load(Ordering::Acquire) && !report::is_awaited()
}

/// Plugs in one more block of the largest order. The ledger (I8) follows the last.
pub fn step(host: &Host) {
    if is_busy() && !host.frames.plug_in_more() {
        finish(host);
    }
}

/// Plugs in all that is left: nobody can wait for it any more.
pub fn finish(host: &Host) {
    if PENDING.swap(false, Ordering::AcqRel) {
        print_ledger(host.frames);
    }
}
