//! Domains that do not fit: refused alone, kept paused with what is theirs, and handed on at the next update.
//!
//! A domain that this build cannot take up is handed on as it came: all of its records, but for what other domains may have changed since (event channels,
//! grants). A build that finds nothing wrong with them runs it. A domain whose state or memory is not complete is *lost*: what is left of its memory
//! goes on, so that it can be looked at, and it never runs again.

use super::domain::{Extract, SavedDomain, Unfit};
use crate::domain::evtchn::OtherEnd;
use crate::log;
use crate::lu::stream::ByteSource;
use crate::run::domain::{Carried, Domain, Refusal};
use crate::run::host::Host;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// Refuses the domains with an event channel whose other end does not lead back. Against a domain whose peer has lost its channels nothing can be said.
pub(super) fn unfit_channels(host: &Host, domains: &mut [(Arc<Domain>, SavedDomain<'_>)]) {
    let events = host.evtchn.lock();
    for mismatch in events.mismatches() {
        let is_there = domains.iter().any(|(domain, _)| domain.id == mismatch.remote);
        if is_there && mismatch.found == OtherEnd::NoDomain {
            continue;
        }
        if let Some((_, saved)) = domains.iter_mut().find(|(domain, _)| domain.id == mismatch.domain) {
            saved.refuse(mismatch);
        }
    }
}

/// Keeps a domain that is refused, and says why.
pub(super) fn keep<S: ByteSource + ?Sized>(domain: &Domain, unfit: Unfit, whole: &Extract, stream: &S) {
    let Unfit { why, is_lost } = unfit;
    let records = if is_lost { None } else { copy(stream, whole.span.clone()) };
    let fate = match &records {
        Some(_) => "it stays paused, its memory and its state are kept",
        None => "it never runs again, what is its memory is kept",
    };
    log!("lu", "{} {} is refused: {why}; {fate}", domain.id, domain.name);
    let carried = match records {
        Some(records) => Carried::Whole { records, has_grants: whole.has_grants },
        None => Carried::Memory { nr_vcpus: whole.nr_vcpus },
    };
    domain.refuse(Refusal { why, carried });
}

/// The records, and an END behind them so that they can be read as a stream.
fn copy<S: ByteSource + ?Sized>(stream: &S, span: Range<u64>) -> Option<Vec<u8>> {
    let len = usize::try_from(span.end.checked_sub(span.start)?).ok()?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len + END.len()).ok()?;
    bytes.resize(len, 0);
    if !stream.read_at(span.start, &mut bytes) {
        return None;
    }
    bytes.extend_from_slice(&END);
    Some(bytes)
}

/// An END record.
const END: [u8; 8] = [0; 8];
