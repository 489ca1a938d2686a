//! `grant_table_op`: the structures of public/grant_table.h around [`crate::domain::grant`] and the leaves of [`crate::mm::types`].
//!
//! A mapping is made in this order: a handle is reserved, the grant is acquired, the references on the granter's frame are taken, the leaf is
//! written. What fails gives back what was taken before it. Batches give way between two operations, with the rest of the list as arguments.
//!
//! Not here: transfers (the operation does not exist, as far as a guest can tell), mappings for devices, tables of other domains.

use super::{Caller, Outcome};
use crate::domain::grant::{Access, GrantError, Mapping, OKAY, Use, Version, leaf};
use crate::frame::{DomId, Maddr, Mfn, PAGE_SIZE};
use crate::mm::frametable::Frames;
use crate::mm::physmem::PhysMem;
use crate::mm::types::{LeafPlace, LooseLeaf, PageTypes, TypeError};
use crate::run::domain::Domain;
use crate::run::guest_mem::{GuestMem, field_u16, field_u32, field_u64};
use crate::run::host::{Host, host};
use crate::run::{grants, teardown};
use crate::x86::directmap::DirectMap;
use crate::x86::paging;
use crate::xen::Errno;
use crate::xen::grant::{
    cache, cache_flush, copy, get_status_frames, get_version, gntcopy, gntmap, map, query_size, setup_table, swap,
    unmap,
};
use crate::xen::hypercall::grant_table_op as op;

/// Operations between two looks at the clock.
const BATCH: u64 = 8;

/// The caller, at work on a batch.
struct Work<'a> {
    host: &'a Host,
    domain: &'a Domain,
    memory: GuestMem<'static, DirectMap>,
    types: PageTypes<'a, Frames, DirectMap>,
    l4: Mfn,
}

/// `grant_table_op(cmd, list, count)`.
pub fn grant_table_op(c: &mut Caller<'_>, cmd: u64, list: u64, count: u64) -> Outcome {
    // 32 bits, and no more of them than a signed number has.
    let count = u64::from(count as u32);
    if count > i32::MAX as u64 {
        return Outcome::Done(Errno::EINVAL.to_rax());
    }
    let domain = c.vcpu.domain.clone();
    let l4 = c.vcpu.state.lock().kernel_l4;
    let (Ok(memory), Some(l4)) = (c.memory(), l4) else { return Outcome::Done(Errno::EFAULT.to_rax()) };
    let host = host();
    let work = Work { host, domain: &domain, memory, types: host.types(&domain), l4 };
    let batch = Batch { c, cmd, list, count };
    let outcome = match cmd {
        op::MAP_GRANT_REF => batch.each::<{ map::SIZE }>(&work, |b| {
            status_to(b, map::STATUS, |b| work.map(b));
            Ok(())
        }),
        op::UNMAP_GRANT_REF => batch.each::<{ unmap::SIZE }>(&work, |b| {
            status_to(b, unmap::STATUS, |b| work.unmap(b, None));
            Ok(())
        }),
        op::UNMAP_AND_REPLACE => batch.each::<{ unmap::SIZE }>(&work, |b| {
            let new = field_u64(b, unmap::NEW_ADDR);
            status_to(b, unmap::STATUS, |b| work.unmap(b, (new != 0).then_some(new)));
            Ok(())
        }),
        op::COPY => batch.each::<{ copy::SIZE }>(&work, |b| {
            status_to(b, copy::STATUS, |b| work.copy(b));
            Ok(())
        }),
        op::SWAP_GRANT_REF => batch.each::<{ swap::SIZE }>(&work, |b| {
            let (a, with) = (field_u32(b, swap::REF_A), field_u32(b, swap::REF_B));
            status_to(b, swap::STATUS, |_| host.grants.lock().swap(&DirectMap, domain.id, a, with));
            Ok(())
        }),
        op::CACHE_FLUSH => batch.each::<{ cache_flush::SIZE }>(&work, |b| work.cache_flush(b)),
        op::SETUP_TABLE => batch.one::<{ setup_table::SIZE }>(&work, |b| {
            status_to(b, setup_table::STATUS, |b| work.setup_table(b));
        }),
        op::QUERY_SIZE => batch.one::<{ query_size::SIZE }>(&work, |b| {
            status_to(b, query_size::STATUS, |b| work.query_size(b));
        }),
        op::GET_STATUS_FRAMES => batch.one::<{ get_status_frames::SIZE }>(&work, |b| {
            status_to(b, get_status_frames::STATUS, |b| work.get_status_frames(b));
        }),
        op::SET_VERSION => work.set_version(list).into(),
        op::GET_VERSION => work.get_version(list).into(),
        _ => Outcome::Done(Errno::ENOSYS.to_rax()),
    };
    host.settle(&work.types, &domain);
    if cmd == op::UNMAP_GRANT_REF || cmd == op::UNMAP_AND_REPLACE {
        // A translation that was taken down must not be used again.
        paging::flush_all();
        teardown::bury(host);
    }
    outcome
}

/// The list that a call works on.
struct Batch<'c, 'v> {
    c: &'c Caller<'v>,
    cmd: u64,
    list: u64,
    count: u64,
}

impl Batch<'_, '_> {
    /// Does each operation on its structure of `N` bytes, and writes it back.
    fn each<const N: usize>(self, work: &Work<'_>, mut one: impl FnMut(&mut [u8; N]) -> Result<(), Errno>) -> Outcome {
        for i in 0..self.count {
            let at = self.list.wrapping_add(i.wrapping_mul(N as u64));
            if i > 0 && i.is_multiple_of(BATCH) && self.c.should_give_way() {
                return Outcome::Again([self.cmd, at, self.count - i, 0, 0]);
            }
            let done = work.memory.read_array::<N>(at).map_err(Errno::from).and_then(|mut bytes| {
                one(&mut bytes)?;
                Ok(work.memory.write(at, &bytes)?)
            });
            if let Err(e) = done {
                return Outcome::Done(e.to_rax());
            }
        }
        Outcome::Done(0)
    }

    /// For what is not done in lists.
    fn one<const N: usize>(self, work: &Work<'_>, mut one: impl FnMut(&mut [u8; N])) -> Outcome {
        if self.count != 1 {
            return Outcome::Done(Errno::EINVAL.to_rax());
        }
        self.each(work, |b| {
            one(b);
            Ok(())
        })
    }
}

fn put<const N: usize>(b: &mut [u8], offset: usize, value: [u8; N]) {
    b[offset..offset + N].copy_from_slice(&value);
}

/// Does an operation and writes its status into its structure.
fn status_to(b: &mut [u8], offset: usize, operation: impl FnOnce(&mut [u8]) -> Result<(), GrantError>) {
    let status = operation(b).map_or_else(GrantError::status, |()| OKAY);
    put(b, offset, status.to_le_bytes());
}

/// What a guest is told when a frame cannot be had.
fn refused(e: TypeError) -> GrantError {
    match e {
        TypeError::NoFrame { .. } | TypeError::NoReference { .. } | TypeError::LeafForeign { .. } => {
            GrantError::BadPage
        }
        _ => GrantError::General,
    }
}

/// One side of a copy, as the guest describes it.
struct Side {
    name: u64,
    domid: DomId,
    offset: u16,
    is_grant: bool,
    access: Access,
}

/// One side of a copy, with all references taken.
struct Claimed {
    frame: Mfn,
    start: u16,
    len: u16,
    grant: Option<(DomId, u32)>,
    access: Access,
}

impl Work<'_> {
    fn me(&self) -> DomId {
        self.domain.id
    }

    /// A domain whose grants can be taken into use.
    fn granter(&self, id: DomId) -> Result<DomId, GrantError> {
        let lives = id == self.me() || self.host.domain(id).is_some_and(|domain| domain.is_alive());
        if lives { Ok(id) } else { Err(GrantError::BadDomain) }
    }

    /// The domain whose table an operation is about: the caller's own.
    fn own(&self, b: &[u8], offset: usize) -> Result<DomId, GrantError> {
        match DomId::new(field_u16(b, offset)) {
            DomId::SELF => Ok(self.me()),
            id if id == self.me() => Ok(id),
            id if self.host.domain(id).is_some() => Err(GrantError::PermissionDenied),
            _ => Err(GrantError::BadDomain),
        }
    }

    fn place(&self, address: u64, flags: u32) -> LeafPlace {
        match flags & gntmap::CONTAINS_PTE {
            0 => LeafPlace::Address { l4: self.l4, va: address },
            _ => LeafPlace::Entry(address),
        }
    }

    fn map(&self, b: &mut [u8]) -> Result<(), GrantError> {
        let (flags, reference) = (field_u32(b, map::FLAGS), field_u32(b, map::REF));
        if flags & (gntmap::HOST_MAP | gntmap::DEVICE_MAP) == 0 {
            return Err(GrantError::BadRef);
        }
        if flags & gntmap::DEVICE_MAP != 0 {
            return Err(GrantError::General);
        }
        const KEPT: u32 = gntmap::HOST_MAP | gntmap::READONLY | gntmap::APPLICATION_MAP | gntmap::CONTAINS_PTE;
        let flags = flags & (KEPT | !0 << gntmap::GUEST_AVAIL_SHIFT);
        let granter = self.granter(DomId::new(field_u16(b, map::DOM)))?;
        let mapping = Mapping { granter, reference, flags };
        let access = mapping.access();
        let place = self.place(field_u64(b, map::HOST_ADDR), flags);
        let mut tables = self.host.grants.lock();
        tables.reserve_map(self.me())?;
        let frame = tables.acquire(&DirectMap, granter, reference, self.me(), access, Use::Map)?.frame;
        let installed = self.types.get_granted(frame, granter, access).map_err(refused).and_then(|()| {
            let leaf = LooseLeaf::holding(leaf(frame, flags));
            self.types.install_leaf(place, leaf).map_err(|_| {
                self.types.put_granted(frame, access);
                GrantError::General
            })
        });
        match installed {
            Ok(translated) => {
                if translated {
                    paging::flush_all();
                }
                let handle = tables.add_map(self.me(), mapping)?;
                put(b, map::HANDLE, handle.to_le_bytes());
                put(b, map::DEV_BUS_ADDR, frame.maddr().get().to_le_bytes());
                Ok(())
            }
            Err(e) => {
                tables.release(&DirectMap, granter, reference, access);
                Err(e)
            }
        }
    }

    /// `unmap_grant_ref`; with an address whose mapping takes the place, `unmap_and_replace`.
    fn unmap(&self, b: &mut [u8], new: Option<u64>) -> Result<(), GrantError> {
        let (address, handle) = (field_u64(b, unmap::HOST_ADDR), field_u32(b, unmap::HANDLE));
        let mut tables = self.host.grants.lock();
        let (mapping, frame) = tables.map(self.me(), handle)?;
        let bus = field_u64(b, unmap::DEV_BUS_ADDR);
        if new.is_none() && bus != 0 && bus != frame.maddr().get() {
            return Err(GrantError::BadDevAddr);
        }
        if address == 0 {
            return Ok(());
        }
        let place = self.place(address, mapping.flags);
        let by = match new {
            None => LooseLeaf::NONE,
            Some(_) if mapping.flags & gntmap::CONTAINS_PTE != 0 => return Err(GrantError::General),
            Some(va) => {
                self.types.take_leaf(LeafPlace::Address { l4: self.l4, va }).map_err(|_| GrantError::General)?
            }
        };
        if self.types.replace_leaf(place, frame, mapping.access(), by).is_err() {
            self.types.drop_leaf(by);
            return Err(GrantError::General);
        }
        tables.end_map(&DirectMap, self.me(), handle);
        Ok(())
    }

    fn copy(&self, b: &mut [u8]) -> Result<(), GrantError> {
        let flags = field_u16(b, copy::FLAGS);
        let side = |at: usize, flag: u16, access| Side {
            name: field_u64(b, at + copy::U),
            domid: DomId::new(field_u16(b, at + copy::DOMID)),
            offset: field_u16(b, at + copy::OFFSET),
            is_grant: flags & flag != 0,
            access,
        };
        let source = side(copy::SOURCE, gntcopy::SOURCE_GREF, Access::Read);
        let dest = side(copy::DEST, gntcopy::DEST_GREF, Access::Write);
        let owners = (self.copy_domain(&source)?, self.copy_domain(&dest)?);
        let from = self.claim(&source, owners.0)?;
        let result = self.claim(&dest, owners.1).and_then(|to| {
            let done = copy_bytes((&from, source.offset), (&to, dest.offset), field_u16(b, copy::LEN));
            self.unclaim(&to);
            done
        });
        self.unclaim(&from);
        result
    }

    fn copy_domain(&self, side: &Side) -> Result<DomId, GrantError> {
        match side.domid {
            DomId::SELF => Ok(self.me()),
            _ if !side.is_grant => Err(GrantError::PermissionDenied),
            id => self.granter(id),
        }
    }

    /// Takes the references for one side of a copy.
    fn claim(&self, side: &Side, owner: DomId) -> Result<Claimed, GrantError> {
        let access = side.access;
        if !side.is_grant {
            let frame = Mfn::try_new(side.name).map_err(|_| GrantError::BadPage)?;
            self.types.get_granted(frame, owner, access).map_err(refused)?;
            return Ok(Claimed { frame, start: 0, len: PAGE_SIZE as u16, grant: None, access });
        }
        let reference = side.name as u32;
        let mut tables = self.host.grants.lock();
        let part = tables.acquire(&DirectMap, owner, reference, self.me(), access, Use::Copy)?;
        if let Err(e) = self.types.get_granted(part.frame, owner, access) {
            tables.release(&DirectMap, owner, reference, access);
            return Err(refused(e));
        }
        Ok(Claimed { frame: part.frame, start: part.start, len: part.len, grant: Some((owner, reference)), access })
    }

    fn unclaim(&self, side: &Claimed) {
        self.types.put_granted(side.frame, side.access);
        if let Some((granter, reference)) = side.grant {
            self.host.grants.lock().release(&DirectMap, granter, reference, side.access);
        }
    }

    fn setup_table(&self, b: &mut [u8]) -> Result<(), GrantError> {
        let id = self.own(b, setup_table::DOM)?;
        let nr = field_u32(b, setup_table::NR_FRAMES);
        grants::grow(self.host, self.domain, nr)?;
        let tables = self.host.grants.lock();
        let frames = tables.shared_frames(id).get(..nr as usize).ok_or(GrantError::General)?;
        self.list(field_u64(b, setup_table::FRAME_LIST), frames)
    }

    fn get_status_frames(&self, b: &mut [u8]) -> Result<(), GrantError> {
        let id = self.own(b, get_status_frames::DOM)?;
        let nr = field_u32(b, get_status_frames::NR_FRAMES);
        let tables = self.host.grants.lock();
        let frames = tables.status_frames(id).get(..nr as usize);
        let frames = frames.filter(|_| tables.version(id) == Ok(Version::V2)).ok_or(GrantError::General)?;
        self.list(field_u64(b, get_status_frames::FRAME_LIST), frames)
    }

    fn list(&self, at: u64, frames: &[Mfn]) -> Result<(), GrantError> {
        for (i, mfn) in (0u64..).zip(frames) {
            self.memory.write_u64(at.wrapping_add(i * 8), mfn.get()).map_err(|_| GrantError::BadVirtAddr)?;
        }
        Ok(())
    }

    fn query_size(&self, b: &mut [u8]) -> Result<(), GrantError> {
        let id = self.own(b, query_size::DOM)?;
        let tables = self.host.grants.lock();
        put(b, query_size::NR_FRAMES, (tables.shared_frames(id).len() as u32).to_le_bytes());
        put(b, query_size::MAX_NR_FRAMES, tables.limits(id)?.max_frames.to_le_bytes());
        Ok(())
    }

    fn set_version(&self, at: u64) -> Result<u64, Errno> {
        let wanted = self.memory.read_u32(at)?;
        let result = Version::try_new(wanted).ok_or(Errno::EINVAL).and_then(|version| self.change_version(version));
        let version = self.host.grants.lock().version(self.me()).map_err(|_| Errno::ESRCH)?;
        self.memory.write_u32(at, version as u32)?;
        result.map(|()| 0)
    }

    fn change_version(&self, version: Version) -> Result<(), Errno> {
        let (host, me) = (self.host, self.me());
        let mut tables = host.grants.lock();
        if tables.version(me) == Ok(version) {
            return Ok(());
        }
        let wanting = tables.prepare_version(me, version).map_err(|_| Errno::EBUSY)?;
        if version == Version::V1 && !grants::are_unmapped(host, tables.status_frames(me)) {
            return Err(Errno::EBUSY);
        }
        let fresh = grants::take(host, self.domain, wanting).ok_or(Errno::ENOMEM)?;
        let gone = tables.set_version(&DirectMap, me, version, fresh.frames()).map_err(|_| Errno::ENOMEM)?;
        fresh.keep();
        grants::give(host, self.domain, &gone);
        Ok(())
    }

    fn get_version(&self, at: u64) -> Result<u64, Errno> {
        let b = self.memory.read_array::<{ get_version::SIZE }>(at)?;
        let id = self.own(&b, get_version::DOM).map_err(|e| match e {
            GrantError::PermissionDenied => Errno::EPERM,
            _ => Errno::ESRCH,
        })?;
        let version = self.host.grants.lock().version(id).map_err(|_| Errno::ESRCH)?;
        self.memory.write_u32(at.wrapping_add(get_version::VERSION as u64), version as u32)?;
        Ok(0)
    }

    /// There are no devices that do not see what processors write, so there is nothing to be flushed; the arguments are checked.
    fn cache_flush(&self, b: &[u8]) -> Result<(), Errno> {
        let (offset, length) = (field_u16(b, cache_flush::OFFSET), field_u16(b, cache_flush::LENGTH));
        let operation = field_u32(b, cache_flush::OP);
        let page = PAGE_SIZE as u32;
        let is_inside = u32::from(offset) < page && u32::from(offset) + u32::from(length) <= page;
        if !is_inside || operation & !(cache::CLEAN | cache::INVAL) != 0 {
            return Err(Errno::EINVAL);
        }
        if length == 0 || operation == 0 {
            return Ok(());
        }
        let mfn = Maddr::try_new(field_u64(b, cache_flush::DEV_BUS_ADDR)).map_err(|_| Errno::EINVAL)?.mfn_containing();
        let owner = self.host.frames.owner_of(mfn).filter(|owner| owner.is_domain()).ok_or(Errno::EINVAL)?;
        if owner != self.me() && !self.host.grants.lock().maps_frame(self.me(), owner, mfn) {
            return Err(Errno::EINVAL);
        }
        // Forgetting what was written is not to be had on this processor.
        if operation == cache::INVAL { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }
}

/// Copies, if both parts lie in what may be accessed.
fn copy_bytes(from: (&Claimed, u16), to: (&Claimed, u16), len: u16) -> Result<(), GrantError> {
    let len = u32::from(len);
    for (_, offset) in [from, to] {
        if u32::from(offset) + len > PAGE_SIZE as u32 {
            return Err(GrantError::BadCopyArg);
        }
    }
    for (side, offset) in [from, to] {
        let (start, end) = (u32::from(side.start), u32::from(side.start) + u32::from(side.len));
        if u32::from(offset) < start || u32::from(offset) + len > end {
            return Err(GrantError::General);
        }
    }
    let at = |(side, offset): (&Claimed, u16)| side.frame.maddr().offset(offset.into());
    let mut buf = [0u8; 512];
    let mut done = 0;
    while done < u64::from(len) {
        let part = (u64::from(len) - done).min(buf.len() as u64) as usize;
        DirectMap.read(at(from).offset(done), &mut buf[..part]);
        DirectMap.write(at(to).offset(done), &buf[..part]);
        done += part as u64;
    }
    Ok(())
}
