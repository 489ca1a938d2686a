//! Grant tables out of the stream.

use super::domain::SavedDomain;
use crate::domain::grant::{Active, Limits, Mapping, SavedTable, Version};
use crate::frame::{DomId, Mfn};
use crate::lu::records::{GrantInUse, GrantMap, Grants, Items};
use crate::lu::stream::{ByteSource, RecordError};
use crate::run::host::Host;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// A domain's table, of which nothing is in use yet.
pub fn table_of<S: ByteSource + ?Sized>(grants: &Grants<'_, S>) -> Result<SavedTable, RecordError> {
    let head = grants.head;
    let mut shared = Vec::new();
    for mfn in grants.frames.iter() {
        shared.push(mfn?);
    }
    let status = shared.split_off(shared.len().min(head.nr_shared as usize));
    let version = if head.version == Version::V2 as u32 { Version::V2 } else { Version::V1 };
    let limits = Limits { max_frames: head.max_frames, max_maps: head.max_maps };
    Ok(SavedTable { version, limits, shared, status, active: Vec::new(), maps: Vec::new() })
}

/// Adds entries in use. The stream was checked: the table stands before them.
pub fn take_in_use<S: ByteSource + ?Sized>(
    table: &mut Option<SavedTable>,
    list: &Items<'_, S, GrantInUse, 2>,
) -> Result<(), RecordError> {
    for used in list.iter() {
        let GrantInUse { reference, to, readers, writers, frame } = used?;
        let active = Active { to, frame, readers, writers };
        table.iter_mut().for_each(|table| table.active.push((reference, active)));
    }
    Ok(())
}

/// Adds mappings of others' grants, as [`take_in_use`].
pub fn take_maps<S: ByteSource + ?Sized>(
    table: &mut Option<SavedTable>,
    list: &Items<'_, S, GrantMap, 2>,
) -> Result<(), RecordError> {
    for map in list.iter() {
        let GrantMap { handle, granter, reference, flags } = map?;
        let mapping = Mapping { granter, reference, flags };
        table.iter_mut().for_each(|table| table.maps.push((handle, mapping)));
    }
    Ok(())
}

/// All domains' tables, before any page type is taken: a domain's leaves may be on another's frames. What does not fit is refused. A domain that has
/// lost its table is no reason to refuse the others, which cannot know what it used.
pub fn restore(host: &Host, domains: &mut [SavedDomain<'_>]) {
    let mut tables = host.grants.lock();
    let mut without: BTreeSet<DomId> = BTreeSet::new();
    for saved in domains.iter_mut() {
        let id = saved.begin.domid;
        let is_own = |mfn: &Mfn| host.frames.owner_of(*mfn) == Some(id);
        let restored = match saved.grants.take() {
            // What is written to when a grant is used has to be its own.
            Some(table) if saved.unfit.is_some() && !table.shared.iter().chain(&table.status).all(is_own) => {
                table.shared.iter().chain(&table.status).copied().filter(is_own).for_each(|mfn| saved.keep_frame(mfn));
                saved.extract.has_grants = false;
                without.insert(id);
                tables.add_domain(id, Limits::DEFAULT);
                Ok(())
            }
            None => {
                tables.add_domain(id, Limits::DEFAULT);
                Ok(())
            }
            Some(table) => tables.restore(id, table),
        };
        if let Err(e) = restored {
            without.insert(id);
            saved.extract.has_grants = false;
            saved.refuse(e);
        }
    }
    let unfit = tables.inconsistent(|id| without.contains(&id));
    for saved in domains {
        if let Some(e) = unfit.get(&saved.begin.domid) {
            saved.refuse(e);
        }
    }
}
