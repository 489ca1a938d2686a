//! The store of the domains that have one: see [`crate::domain::store`].

use crate::domain::store::EmptyStore;
use crate::run::domain::Domain;
use crate::run::host::Host;
use crate::x86::directmap::DirectMap;

/// Does what a domain's event on its store port asks for.
pub fn serve(host: &Host, domain: &Domain) {
    if domain.rings.store_port == 0 || !EmptyStore::new(domain.rings.store).serve(&DirectMap) {
        return;
    }
    let event = host.evtchn.lock().raise(&DirectMap, domain.id, domain.rings.store_port);
    if let Ok(event) = event {
        host.wake_for(event);
    }
}
