//! Grants of what is not the guest's, and grant operations that are wrong. The guest grants to itself, so it needs nobody else.

use luxen_guests::abi::{Errno, hypercall as nr, op as xen};
use luxen_guests::grant::{Status, Version, op};
use luxen_guests::machine::grants::{self, Mapped, copy, granted, map, own, query_size, swap, unmap};
use luxen_guests::machine::{events, hypercall};

use super::answer::{Answer, FINE, Judge};
use super::ground::{EMPTY, Ground, NOTHING};
use super::{Attempt, attempt, call};

const SELF: u16 = xen::DOMID_SELF;
/// References: the one that attempts write, a good one, one of nothing.
const FORGED: u32 = 8;
const GOOD: u32 = 9;
const NOTHING_GRANTED: u32 = 10;
/// Frames of the table.
const FRAMES: usize = 1;
const BEYOND: u32 = FRAMES as u32 * 512;

/// The guest's table, which has its number.
pub struct Table {
    table: grants::Table,
    me: u16,
}

const ATTEMPTS: &[Attempt] = &[
    attempt("handle that is not there", Answer::Grant(Status::BAD_HANDLE), |_| taken_down(77)),
    attempt("handle -1", Answer::Grant(Status::BAD_HANDLE), |_| taken_down(u32::MAX)),
    attempt("grant of nobody", Answer::Grant(Status::BAD_DOMAIN), |_| {
        mapped(xen::DOMID_NOBODY, GOOD, op::GNTMAP_HOST_MAP, EMPTY)
    }),
    attempt("grant of the hypervisor", Answer::Grant(Status::BAD_DOMAIN), |_| {
        mapped(xen::DOMID_XEN, GOOD, op::GNTMAP_HOST_MAP, EMPTY)
    }),
    attempt("table of 65536 frames", Answer::Grant(Status::GENERAL_ERROR), |_| {
        grants::setup_table(0x1_0000, &mut [0]).into()
    }),
    attempt("table without end", Answer::Grant(Status::GENERAL_ERROR), |_| {
        grants::setup_table(u32::MAX, &mut [0]).into()
    }),
    attempt("size of nobody's table", Answer::Grant(Status::BAD_DOMAIN), |_| query_size(xen::DOMID_NOBODY).0.into()),
    attempt("swap with what is beyond", Answer::Grant(Status::BAD_GNTREF), |_| swap(NOTHING_GRANTED, BEYOND).into()),
    attempt("swap with -1", Answer::Grant(Status::BAD_GNTREF), |_| swap(u32::MAX, NOTHING_GRANTED).into()),
    attempt("version 0", Answer::No(Errno::EINVAL), |_| grants::set_version(0).0.into()),
    attempt("version 3", Answer::No(Errno::EINVAL), |_| grants::set_version(3).0.into()),
    attempt("version of nobody's table", Answer::No(Errno::ESRCH), |_| {
        grants::get_version(xen::DOMID_NOBODY).map(u64::from).into()
    }),
    attempt("copy across a page's end", Answer::Grant(Status::BAD_COPY_ARG), |g| {
        copy(own(g.loose[0], 4095), own(g.loose[1], 0), 2, 0).into()
    }),
    attempt("copy of 65535 bytes", Answer::Grant(Status::BAD_COPY_ARG), |g| {
        copy(own(g.loose[0], 0), own(g.loose[1], 0), u16::MAX, 0).into()
    }),
    attempt("copy at offset 65535", Answer::Grant(Status::BAD_COPY_ARG), |g| {
        copy(own(g.loose[0], u16::MAX), own(g.loose[1], 0), u16::MAX, 0).into()
    }),
    attempt("copy to a page table", Answer::Grant(Status::GENERAL_ERROR), |g| {
        copy(own(g.loose[0], 0), own(g.l1, 0), 8, 0).into()
    }),
    attempt("copy from a frame that nobody granted", Answer::Grant(Status::PERMISSION_DENIED), |g| {
        let foreign = luxen_guests::grant::CopySide { name: g.loose[0], domid: xen::DOMID_NOBODY, offset: 0 };
        copy(foreign, own(g.loose[1], 0), 8, 0).into()
    }),
    attempt("copy of a grant that is not there", Answer::Grant(Status::BAD_GNTREF), |g| {
        copy(granted(SELF, BEYOND, 0), own(g.loose[1], 0), 8, op::GNTCOPY_SOURCE_GREF).into()
    }),
    attempt("cache of a frame beyond all", Answer::No(Errno::EINVAL), |_| {
        grants::cache_flush(!0xfff, 0, 64, op::CACHE_CLEAN).into()
    }),
    attempt("cache across a page's end", Answer::No(Errno::EINVAL), |_| {
        grants::cache_flush(0, 4095, 2, op::CACHE_CLEAN).into()
    }),
    attempt("transfer", Answer::No(Errno::ENOSYS), |_| grants::unsupported(op::TRANSFER).into()),
    attempt("dump of a table", Answer::No(Errno::ENOSYS), |_| grants::unsupported(op::DUMP_TABLE).into()),
    attempt("grant operation that is not there", Answer::No(Errno::ENOSYS), |_| grants::unsupported(99).into()),
    attempt("grant operations of a negative number", Answer::No(Errno::EINVAL), |_| {
        call(nr::GRANT_TABLE_OP, [op::MAP_GRANT_REF, NOTHING, u32::MAX.into()])
    }),
    attempt("no grant operations", FINE, |_| call(nr::GRANT_TABLE_OP, [op::MAP_GRANT_REF, NOTHING, 0])),
    attempt("two tables at once", Answer::No(Errno::EINVAL), |_| {
        call(nr::GRANT_TABLE_OP, [op::SETUP_TABLE, NOTHING, 2])
    }),
];

fn taken_down(handle: u32) -> Answer {
    unmap(&Mapped { host_addr: EMPTY, handle, bus: 0 }).into()
}

/// Maps a grant; a success is taken back.
fn mapped(dom: u16, reference: u32, flags: u32, host_addr: u64) -> Answer {
    match map(dom, reference, flags, host_addr) {
        Ok(mapped) => unmap(&mapped).into(),
        Err(status) => Answer::Grant(status),
    }
}

/// Copies a frame by its number.
pub fn copy_frame(from: u64, to: u64) -> Answer {
    copy(own(from, 0), own(to, 0), 8, 0).into()
}

/// What the mapping of a grant comes to whose frame is not the granter's.
pub const NOT_THE_GRANTERS: Answer = Answer::Grant(Status::BAD_PAGE);

impl Table {
    /// Sets it up. There is no call that tells a domain its number: a port that waits for oneself does.
    pub fn set_up() -> Table {
        let table = grants::Table::set_up(Version::V1, 0, FRAMES);
        let port = events::alloc_unbound(SELF).unwrap_or_else(|e| panic!("alloc_unbound: {e}"));
        let mut status = [u32::from(SELF), port.0, 0, 0, 0, 0];
        hypercall::event_channel_op(xen::EVTCHN_STATUS, &mut status)
            .unwrap_or_else(|e| panic!("status of a port: {e}"));
        assert!(port.close() == Ok(()), "a port cannot be closed");
        Table { table, me: status[4] as u16 }
    }

    /// Grants a frame to itself and maps it.
    pub fn map_granted(&self, mfn: u64) -> Answer {
        self.table.grant(FORGED, self.me, mfn, 0, None);
        let found = mapped(self.me, FORGED, op::GNTMAP_HOST_MAP, EMPTY);
        self.table.revoke(FORGED);
        found
    }

    /// Tries everything.
    pub fn try_all(&self, g: &Ground, judge: &mut Judge) {
        super::try_all(g, judge, ATTEMPTS);
        let okay = Answer::Grant(Status::OKAY);
        let refused = Answer::Grant(Status::GENERAL_ERROR);
        let bad_ref = Answer::Grant(Status::BAD_GNTREF);
        let host = op::GNTMAP_HOST_MAP;
        self.table.grant(GOOD, self.me, g.loose[3], 0, None);
        let me = self.me;
        let at_entry = host | op::GNTMAP_CONTAINS_PTE;
        for (name, reference, flags, at, due) in [
            ("of a good one", GOOD, host, EMPTY, okay),
            ("of a good one at its entry", GOOD, at_entry, g.empty_entry(), okay),
            ("beyond the table", BEYOND, host, EMPTY, bad_ref),
            ("of reference -1", u32::MAX, host, EMPTY, bad_ref),
            ("that nobody granted", NOTHING_GRANTED, host, EMPTY, refused),
            ("with no flags", GOOD, 0, EMPTY, bad_ref),
            ("for a device", GOOD, host | op::GNTMAP_DEVICE_MAP, EMPTY, refused),
            ("where no tables are", GOOD, host, 0x7abc_def0_1000, refused),
            ("in the hypervisor", GOOD, host, 0xffff_8300_0000_0000, refused),
            ("where no address is", GOOD, host, 1 << 47, refused),
            ("at an entry in no table", GOOD, at_entry, g.loose[0] << 12, refused),
            ("at an entry of a level-2 table", GOOD, at_entry, g.l2 << 12 | 8, refused),
            ("at an entry of the hypervisor's slots", GOOD, at_entry, g.l4 << 12 | 262 << 3, refused),
            ("at an entry of the M2P", GOOD, at_entry, g.m2p << 12, refused),
            ("at an entry beyond all", GOOD, at_entry, !7, refused),
            ("at an entry that is not aligned", GOOD, at_entry, g.empty_entry() + 4, refused),
        ] {
            judge.check(format_args!("mapping of a grant {name}"), mapped(me, reference, flags, at), due);
        }
        self.table.revoke(GOOD);
        for (name, mfn) in [("its own table", g.l1), ("its own base", g.boot), ("its descriptor table", g.gdt)] {
            self.table.grant(FORGED, me, mfn, 0, None);
            let found = mapped(me, FORGED, host, EMPTY);
            judge.check(format_args!("writable mapping of a grant of {name}"), found, refused);
            self.table.revoke(FORGED);
        }
        let marks = self.table.marks(GOOD) | self.table.marks(FORGED);
        judge.check(format_args!("marks left on grants"), Answer::Is(marks.into()), FINE);
    }
}
