//! Two domains, `role=a` and `role=b`: a grants pages, b maps and copies them.
//!
//! There is no xenstore, so references are agreed beforehand (the constants below). One of the grants is a control page, in which both write how far they are.
//! b maps it as soon as a has granted it, and then asks in rounds: it writes into pages that it keeps mapped, copies to another, tries what
//! must be refused, and says so; a checks what arrived and what marks its entries have, writes pages for b to read and to copy, and answers. Three mappings
//! live as long as b does, through every update: one to be written, one to be read, and one made by the machine address of its entry. Of a
//! fourth one b loses the leaf: that grant stays in use until b is gone.
//!
//! The end: b that is told to finish unmaps everything; a that is told to goes on answering until b has said that it is done, sees all marks go, and
//! changes its table's version. It does so too when b is gone without a word.
//!
//! Options: `peer=<domid>`, `version=<1|2>` (1; the same on both sides), `timeout-ms=<n>` (5000: nothing heard by then is a failure),
//! `leave-after=<n>` (0: never; a shuts down after so many rounds, and b goes on with what it has mapped), `spoil=<n>` (0: never; in that round a
//! writes something else than it should, so b has to fail), `report-ms=<n>` (5000).

mod granter;
mod mapper;

use luxen_guests::clock::MS;
use luxen_guests::grant::Version;
use luxen_guests::kernel;
use luxen_guests::machine::guest::{Guest, Setup};
use luxen_guests::machine::traps::{CallbackInterface, not_mine};
use luxen_guests::machine::{events, time};

kernel!(
    name: "grants",
    run: run,
    traps: not_mine,
    setup: Setup { callbacks: CallbackInterface::CallbackOp, moves_vcpu_info: false },
    calls: hypercall_page
);

/// What a grants to b, by reference.
pub mod reference {
    /// The control page.
    pub const CONTROL: u32 = 8;
    /// Mapped to be written, always.
    pub const WRITTEN: u32 = 9;
    /// Read-only; mapped always.
    pub const READ: u32 = 10;
    /// Read-only; copied from.
    pub const COPIED_FROM: u32 = 11;
    /// Copied to.
    pub const COPIED_TO: u32 = 12;
    /// Mapped and unmapped in every round.
    pub const BRIEF: u32 = 13;
    /// Mapped, and the leaf overwritten.
    pub const LOST: u32 = 14;
    /// In version 2 a part of a page, [`super::PART`].
    pub const PART: u32 = 15;
    /// Granted to somebody else.
    pub const OTHERS: u32 = 16;
    /// Revoked while it is mapped.
    pub const REVOKED: u32 = 17;
    /// A page table of a's.
    pub const PAGE_TABLE: u32 = 18;
    /// These two are swapped, and of no use otherwise.
    pub const SWAPPED: [u32; 2] = [19, 20];
    /// Nothing is granted here.
    pub const NOTHING: u32 = 21;
    /// Mapped to be written, always; in the second frame of a table of version 1, in the third of version 2.
    pub const WRITTEN_FAR: u32 = 600;
    /// Behind the end of the table.
    pub const BEYOND: u32 = TABLE_FRAMES as u32 * 512;
    /// Frames of the table.
    pub const TABLE_FRAMES: usize = 3;
}

/// First byte and number of bytes of the part that is granted in version 2.
pub const PART: (u16, u16) = (104, 48);

/// Words of the control page.
pub mod control {
    /// The last round that a has answered, or [`LEFT`].
    pub const A: usize = 0;
    /// The round that b has asked, or [`DONE`].
    pub const B: usize = 1;
    /// b unmaps everything and ends.
    pub const DONE: u64 = u64::MAX;
    /// a ends, and leaves b with what it has mapped.
    pub const LEFT: u64 = u64::MAX - 1;
}

/// Rounds from one look at what must be refused to the next.
pub const REFUSALS_EVERY: u64 = 16;

/// What both were told.
pub struct Terms {
    pub peer: u16,
    pub version: Version,
    pub timeout: u64,
    pub report: u64,
    pub leave_after: u64,
    pub spoil: u64,
}

fn run(guest: &mut Guest) {
    let options = guest.options();
    let peer = guest.number("peer", 0);
    let terms = Terms {
        peer: u16::try_from(peer)
            .ok()
            .filter(|&peer| peer != 0)
            .unwrap_or_else(|| panic!("option peer=<domid> is missing")),
        version: match guest.number("version", 1) {
            1 => Version::V1,
            2 => Version::V2,
            other => panic!("option version={other}: 1 or 2"),
        },
        timeout: guest.number("timeout-ms", 5000).saturating_mul(MS),
        report: guest.number("report-ms", 5000).saturating_mul(MS),
        leave_after: guest.number("leave-after", 0),
        spoil: guest.number("spoil", 0),
    };
    match options.value("role") {
        Some("a") => granter::run(guest, &terms),
        Some("b") => mapper::run(guest, &terms),
        _ => panic!("option role=a or role=b is missing"),
    }
}

/// Sleeps a moment.
pub fn nap(guest: &Guest) {
    guest.sleep(events::total(), time::now() + MS / 2);
}
