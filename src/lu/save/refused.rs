//! Domains that this build has refused are handed on: as they came, or what is left of them.

use super::super::records::{
    self, DOMAIN_END, DomainBegin, LU_EVTCHN, LU_GRANT_MAPS, LU_GRANTS_IN_USE, LU_REFUSED, OpenDomain, RefusedCause,
    SavedRecord, StreamVersion, write_refused,
};
use super::super::stream::{Dest, Writer};
use super::{SaveError, open_domain, save_channels, save_grant_uses, save_grants};
use crate::frame::Mfn;
use crate::run::domain::{Carried, Domain, Refusal};
use crate::run::host::Host;

/// Writes a refused domain.
pub(super) fn write<D: Dest>(
    host: &Host,
    version: StreamVersion,
    domain: &Domain,
    refusal: &Refusal,
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    match &refusal.carried {
        Carried::Whole { records, has_grants } => {
            write_whole(host, version, domain, &refusal.why, (records, *has_grants), out)
        }
        Carried::Memory { nr_vcpus } => write_memory(host, version, domain, &refusal.why, *nr_vcpus, out),
    }
}

/// The records as they came. What other domains may have changed since is written as it is now, if this build could take it up.
fn write_whole<D: Dest>(
    host: &Host,
    version: StreamVersion,
    domain: &Domain,
    why: &str,
    (bytes, has_grants): (&[u8], bool),
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    let unreadable = SaveError::Unrepresentable { domain: domain.id, what: "a record of the refused domain" };
    let has_channels = host.evtchn.lock().domains().any(|id| id == domain.id);
    let mut nr_vcpus = 0;
    let mut open = None;
    let mut reader = records::reader_of_domain(bytes);
    while let Some(record) = reader.next_record().map_err(|_| unreadable)? {
        let Some(open_domain) = &mut open else {
            let begin = DomainBegin::decode(record.body).map_err(|_| unreadable)?;
            open = Some(OpenDomain::begin(out, version, &begin)?);
            continue;
        };
        match record.kind {
            LU_REFUSED => {}
            LU_EVTCHN if has_channels => {}
            LU_GRANTS_IN_USE | LU_GRANT_MAPS if has_grants => {}
            // It comes again, below.
            DOMAIN_END => {}
            kind => {
                nr_vcpus += u32::from(kind == records::LU_VCPU);
                open_domain.copy(out, &record)?;
            }
        }
    }
    let open = open.ok_or(unreadable)?;
    if has_channels {
        save_channels(host, domain, out)?;
    }
    if has_grants {
        save_grant_uses(host, domain, out)?;
    }
    write_refused(out, RefusedCause::Whole, nr_vcpus, why)?;
    Ok(open.end(out)?)
}

/// What is left of a domain that is lost: its memory, and what others have of it. Without vCPUs it does not run in a build that knows nothing of this.
fn write_memory<D: Dest>(
    host: &Host,
    version: StreamVersion,
    domain: &Domain,
    why: &str,
    nr_vcpus: u32,
    out: &mut Writer<D>,
) -> Result<(), SaveError> {
    let memory = domain.memory.lock();
    let own = |mfn: Mfn| Some(mfn).filter(|mfn| host.frames.owner_of(*mfn) == Some(domain.id));
    let shared = [own(memory.shared_info), own(domain.rings.console), own(domain.rings.store)];
    let open = open_domain(version, domain, &memory, false, shared, 0, out)?;
    drop(memory);
    save_channels(host, domain, out)?;
    save_grants(host, domain, out)?;
    write_refused(out, RefusedCause::Lost, nr_vcpus, why)?;
    Ok(open.end(out)?)
}
