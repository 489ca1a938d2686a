//! Grant tables on the machine: the frames that they lie in, which a domain shares with the hypervisor, and their beginning.
//!
//! Lock order: whoever holds the grant tables' lock takes no other than that of the frames.

use crate::domain::grant::{GrantError, Limits, Wanting};
use crate::frame::{DomId, Mfn, Order};
use crate::log;
use crate::mm::m2p;
use crate::mm::page_info::{CountFlags, PageLookup, PageType};
use crate::run::domain::Domain;
use crate::run::host::Host;
use crate::verdict::{self, Verdict};
use crate::x86::directmap::DirectMap;
use crate::xen::grant::{RESERVED_CONSOLE, RESERVED_XENSTORE};
use alloc::vec::Vec;

/// Frames that a table has from the beginning, as with Xen.
const INITIAL_FRAMES: u32 = 1;
/// Who has the rings in a system with a toolstack: its domain 0. Here nobody has that number.
const TOOLSTACK: DomId = DomId::new(0);

/// Gives a new domain its table, with the entries for its rings that a toolstack would make.
pub fn create(host: &Host, domain: &Domain) -> Result<(), GrantError> {
    host.grants.lock().add_domain(domain.id, Limits::DEFAULT);
    grow(host, domain, INITIAL_FRAMES)?;
    let tables = host.grants.lock();
    tables.seed(&DirectMap, domain.id, RESERVED_CONSOLE, TOOLSTACK, domain.rings.console);
    tables.seed(&DirectMap, domain.id, RESERVED_XENSTORE, TOOLSTACK, domain.rings.store);
    Ok(())
}

/// Makes a table at least so large.
pub fn grow(host: &Host, domain: &Domain, nr_frames: u32) -> Result<(), GrantError> {
    let mut tables = host.grants.lock();
    let Wanting { shared, status } = tables.wanting(domain.id, nr_frames)?;
    let (Some(shared), Some(status)) = (take(host, domain, shared), take(host, domain, status)) else {
        return Err(GrantError::General);
    };
    tables.grow(domain.id, &shared.frames, &status.frames)?;
    shared.keep();
    status.keep();
    Ok(())
}

/// Frames on their way into a table; given back when they do not get there.
pub struct Fresh<'h> {
    host: &'h Host,
    domain: &'h Domain,
    frames: Vec<Mfn>,
}

impl Fresh<'_> {
    /// The frames.
    pub fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    /// They are a table's from here on.
    pub fn keep(mut self) {
        self.frames.clear();
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        give(self.host, self.domain, &self.frames);
    }
}

/// Zeroed frames that the hypervisor shares with a domain: the domain's, marked as the hypervisor's own, and held as writable pages, as
/// [`Host::hold_shared`] says why. `None` without memory.
pub fn take<'h>(host: &'h Host, domain: &'h Domain, nr: u32) -> Option<Fresh<'h>> {
    let mut fresh = Fresh { host, domain, frames: Vec::new() };
    fresh.frames.try_reserve_exact(nr as usize).ok()?;
    let types = host.types(domain);
    for _ in 0..nr {
        let block = host.alloc_scrubbed(Order::PAGE)?;
        let block = match host.frames.into_domain_with(block, domain.id, CountFlags::XEN_HEAP) {
            Ok(block) => block,
            Err(refused) => {
                host.frames.free(refused.block);
                return None;
            }
        };
        host.m2p.set(&DirectMap, block.mfn(), m2p::INVALID);
        let held = types.get_page_and_type(block.mfn(), PageType::Writable);
        assert!(held.is_ok(), "a fresh frame of the domain's can be held (T1)");
        fresh.frames.push(block.mfn());
    }
    Some(fresh)
}

/// Frees frames of a table; what the guest still maps of them goes with its last mapping.
pub fn give(host: &Host, domain: &Domain, frames: &[Mfn]) {
    let types = host.types(domain);
    for &mfn in frames {
        types.put_page_and_type(mfn);
        if let Err(e) = types.relinquish_page(mfn) {
            log!("grant", "{} frame {mfn}: {e}", domain.id);
            verdict::note(Verdict::Error);
        }
    }
    host.settle_without_ldt(&types);
}

/// True if only the hypervisor refers to these frames of a table.
pub fn are_unmapped(host: &Host, frames: &[Mfn]) -> bool {
    // The owner's reference, and the one that holds the frame as writable.
    frames.iter().all(|&mfn| host.frames.page(mfn).is_ok_and(|page| page.count() == 2 && page.type_count() == 1))
}

/// The frames of a domain's table.
pub fn frames(host: &Host, id: DomId) -> Vec<Mfn> {
    let tables = host.grants.lock();
    [tables.shared_frames(id), tables.status_frames(id)].concat()
}
