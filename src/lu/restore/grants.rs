//! Grant tables out of the stream.

use crate::domain::grant::{Active, Inconsistent, Limits, Mapping, SavedTable, Version};
use crate::frame::DomId;
use crate::lu::records::{GrantInUse, GrantMap, Grants, Items};
use crate::lu::stream::{ByteSource, RecordError};
use crate::run::host::Host;
use alloc::collections::BTreeMap;
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

/// All domains' tables, before any page type is taken: a domain's leaves may be on another's frames. What does not fit, by domain.
pub fn restore(
    host: &Host,
    domains: impl Iterator<Item = (DomId, Option<SavedTable>)>,
) -> BTreeMap<DomId, Inconsistent> {
    let mut tables = host.grants.lock();
    let mut bad = BTreeMap::new();
    for (id, saved) in domains {
        match saved {
            None => tables.add_domain(id, Limits::DEFAULT),
            Some(saved) => {
                if let Err(e) = tables.restore(id, saved) {
                    bad.insert(id, e);
                }
            }
        }
    }
    for (id, e) in tables.inconsistent() {
        bad.entry(id).or_insert(e);
    }
    bad
}
