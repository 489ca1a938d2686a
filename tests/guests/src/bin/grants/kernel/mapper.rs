//! Side b: maps, copies, asks.

use super::{PART, REFUSALS_EVERY, Terms, control, nap, reference};
use luxen_guests::abi::{Errno, PAGE_SIZE, op as xen};
use luxen_guests::clock::Seconds;
use luxen_guests::grant::{Content, Status, Version, op, word};
use luxen_guests::machine::grants::{self, Mapped, Page, granted, own};
use luxen_guests::machine::guest::Guest;
use luxen_guests::machine::{hypercall, memory, time};
use luxen_guests::{pte, say};

const CONTROL: Page = Page::new(0);
const WRITTEN: Page = Page::new(1);
const WRITTEN_FAR: Page = Page::new(2);
const READ: Page = Page::new(3);
/// b's own.
const BUFFER: Page = Page::new(4);
const BRIEF: Page = Page::new(5);
const LOST: Page = Page::new(6);
const REVOKED: Page = Page::new(7);
/// b's own, but for moments in which it is mapped elsewhere.
const MOVED: Page = Page::new(8);
const REPLACED: Page = Page::new(9);
/// For many mappings at a time.
const FIRST_OF_MANY: usize = 10;
const MANY: usize = 14;

const RW: u32 = op::GNTMAP_HOST_MAP;
const RO: u32 = op::GNTMAP_HOST_MAP | op::GNTMAP_READONLY;
const RETRY_MS: u64 = 20;

/// Mappings that live as long as the guest.
struct Kept {
    control: Mapped,
    written: Mapped,
    written_far: Mapped,
    read: Mapped,
}

pub fn run(guest: &mut Guest, terms: &Terms) {
    let peer = terms.peer;
    let control = loop {
        match grants::map(peer, reference::CONTROL, RW, CONTROL.va()) {
            Ok(mapped) => break mapped,
            // Not there yet, whatever the reason.
            Err(_) if guest.poll() => {
                say!("finishes before the peer was there");
                return;
            }
            Err(_) => guest.sleep(luxen_guests::machine::events::total(), time::now() + RETRY_MS * 1_000_000),
        }
    };
    let map = |reference, flags, page: Page| {
        grants::map(peer, reference, flags, page.va()).unwrap_or_else(|e| panic!("mapping of grant {reference}: {e}"))
    };
    let far = op::GNTMAP_CONTAINS_PTE | RW;
    let far = grants::map(peer, reference::WRITTEN_FAR, far, memory::boot_l1_entry(WRITTEN_FAR.va()));
    let kept = Kept {
        control,
        written: map(reference::WRITTEN, RW, WRITTEN),
        written_far: far.unwrap_or_else(|e| panic!("mapping by the entry's address: {e}")),
        read: map(reference::READ, RO, READ),
    };
    lose(terms);
    let revoked = map(reference::REVOKED, RO, REVOKED);
    say!("connected to d{peer} at {}", Seconds(time::now()));

    let mut report = time::now().saturating_add(terms.report);
    let mut round = 0;
    loop {
        round += 1;
        ask(terms, &kept, round);
        if round == 3 {
            check_revoked(terms, &revoked);
        }
        CONTROL.write(control::B, round);
        let end = time::now().saturating_add(terms.timeout);
        loop {
            match CONTROL.read(control::A) {
                control::LEFT => return alone(guest, terms, &kept, round),
                answered if answered == round => break,
                answered => assert!(answered == round - 1, "answer {answered} to round {round}"),
            }
            assert!(time::now() < end, "no answer to round {round}");
            guest.poll();
            nap(guest);
        }
        check_answer(terms, round);
        let now = time::now();
        if now >= report {
            say!("{round} rounds at {}", Seconds(now));
            report = now.saturating_add(terms.report);
        }
        if guest.poll() {
            break;
        }
    }
    CONTROL.write(control::B, control::DONE);
    unmap_kept(&kept);
    say!("{round} rounds asked");
}

fn unmap_kept(kept: &Kept) {
    for mapped in [kept.written, kept.written_far, kept.read, kept.control] {
        let status = grants::unmap(&mapped);
        assert!(status == Status::OKAY, "unmapping handle {}: {status}", mapped.handle);
    }
    assert!(!WRITTEN.probe_write(0, 0), "what was unmapped can be written");
}

/// Maps a grant and overwrites the leaf: the mapping cannot be taken down any more.
fn lose(terms: &Terms) {
    let lost = grants::map(terms.peer, reference::LOST, RW, LOST.va()).unwrap_or_else(|e| panic!("a mapping: {e}"));
    LOST.write(0, 1);
    LOST.show(BUFFER.own_frame());
    let status = grants::unmap(&lost);
    assert!(status == Status::GENERAL_ERROR, "unmapping where something else is: {status}");
}

/// b's part of a round.
fn ask(terms: &Terms, kept: &Kept, round: u64) {
    let peer = terms.peer;
    WRITTEN.fill(|index| word(Content::Written, round, index));
    WRITTEN_FAR.fill(|index| word(Content::WrittenFar, round, index));

    // In three parts, which meet inside words.
    BUFFER.fill(|index| word(Content::CopiedTo, round, index));
    for (start, end) in [(0, 1001), (1001, 1003), (1003, PAGE_SIZE as u16)] {
        let to = granted(peer, reference::COPIED_TO, start);
        let status = grants::copy(own(BUFFER.own_frame(), start), to, end - start, op::GNTCOPY_DEST_GREF);
        assert!(status == Status::OKAY, "round {round}: copying to a grant: {status}");
    }

    let brief = grants::map(peer, reference::BRIEF, RW, BRIEF.va()).unwrap_or_else(|e| panic!("round {round}: {e}"));
    BRIEF.write(7, round);
    let again = grants::map(peer, reference::BRIEF, RO, REPLACED.va()).unwrap_or_else(|e| panic!("round {round}: {e}"));
    assert!(REPLACED.read(7) == round && brief.bus == again.bus, "two mappings of a grant are of one frame");
    assert!(!REPLACED.probe_write(7, 0), "a read-only mapping can be written");
    MOVED.write(3, !round);
    let status = grants::unmap_and_replace(&again, MOVED.va());
    assert!(status == Status::OKAY, "round {round}: unmap_and_replace: {status}");
    assert!(REPLACED.read(3) == !round && !MOVED.probe_write(3, 0), "the mapping has not moved");
    MOVED.show(MOVED.own_frame());
    let status = grants::unmap(&brief);
    assert!(status == Status::OKAY, "round {round}: unmapping: {status}");
    assert!(!BRIEF.probe_write(7, 0), "round {round}: what was unmapped can be written");

    if round % REFUSALS_EVERY == 1 {
        many(terms);
        check_map_refusals(terms, kept);
        check_copy_refusals(terms);
    }
}

fn check_answer(terms: &Terms, round: u64) {
    let differs = |page: Page, content| {
        if let Some((index, found, expected)) = page.differs(|index| word(content, round, index)) {
            panic!("round {round}: {content:?} word {index} is {found:#x}, not {expected:#x}");
        }
    };
    differs(READ, Content::Read);
    BUFFER.fill(|_| 0);
    let from = granted(terms.peer, reference::COPIED_FROM, 0);
    let status = grants::copy(from, own(BUFFER.own_frame(), 0), PAGE_SIZE as u16, op::GNTCOPY_SOURCE_GREF);
    assert!(status == Status::OKAY, "round {round}: copying from a grant: {status}");
    differs(BUFFER, Content::CopiedFrom);
}

/// Many mappings in one call, of which one is refused.
fn many(terms: &Terms) {
    let page = |i: usize| Page::new(FIRST_OF_MANY + i);
    let mut list = [grants::request(0, 0, 0, 0); MANY];
    for (i, request) in list.iter_mut().enumerate() {
        let which = if i == 5 { reference::NOTHING } else { reference::READ };
        *request = grants::request(terms.peer, which, RO, page(i).va());
    }
    grants::map_all(&mut list);
    let mut down = [grants::taking_down(&Mapped { host_addr: 0, handle: u32::MAX, bus: 0 }); MANY];
    for (i, request) in list.iter().enumerate() {
        match grants::mapped(request) {
            Ok(mapped) if i != 5 => {
                assert!(page(i).read(9) == READ.read(9), "mapping {i} of many shows something else");
                down[i] = grants::taking_down(&mapped);
            }
            result => assert!(i == 5 && result.is_err(), "mapping {i} of many: {result:?}"),
        }
    }
    grants::unmap_all(&mut down);
    for (i, done) in down.iter().enumerate() {
        let expected = if i == 5 { Status::BAD_HANDLE } else { Status::OKAY };
        assert!(Status(done.status) == expected, "unmapping {i} of many: {}", Status(done.status));
    }
}

fn check_map_refusals(terms: &Terms, kept: &Kept) {
    use reference as r;
    let at = BRIEF.va();
    let cases = [
        (terms.peer, r::READ, RW, at, Status::GENERAL_ERROR, "a read-only grant, to be written"),
        (terms.peer, r::NOTHING, RO, at, Status::GENERAL_ERROR, "an entry that grants nothing"),
        (terms.peer, r::OTHERS, RO, at, Status::GENERAL_ERROR, "another domain's grant"),
        (terms.peer, r::PART, RO, at, Status::GENERAL_ERROR, "a part of a page"),
        (terms.peer, r::PAGE_TABLE, RW, at, Status::GENERAL_ERROR, "a page table, to be written"),
        (terms.peer, r::BEYOND, RO, at, Status::BAD_GNTREF, "an entry beyond the table"),
        (terms.peer, u32::MAX, RO, at, Status::BAD_GNTREF, "the last entry of all"),
        (terms.peer, r::READ, op::GNTMAP_READONLY, at, Status::BAD_GNTREF, "neither for the host nor for devices"),
        (terms.peer, r::READ, RO | op::GNTMAP_DEVICE_MAP, at, Status::GENERAL_ERROR, "for devices"),
        (xen::DOMID_NOBODY, r::READ, RO, at, Status::BAD_DOMAIN, "nobody's grant"),
        (xen::DOMID_SELF, r::READ, RO, at, Status::BAD_DOMAIN, "DOMID_SELF"),
        (terms.peer, r::READ, RO, 0x7abc_def0_1000, Status::GENERAL_ERROR, "an address without a table"),
        (terms.peer, r::READ, RO, xen_address(), Status::GENERAL_ERROR, "an address of the hypervisor's"),
        (
            terms.peer,
            r::READ,
            RO | op::GNTMAP_CONTAINS_PTE,
            kept.read.bus,
            Status::GENERAL_ERROR,
            "into another's page",
        ),
        (
            terms.peer,
            r::READ,
            RO | op::GNTMAP_CONTAINS_PTE,
            BUFFER.own_frame() * PAGE_SIZE,
            Status::GENERAL_ERROR,
            "into a page that is no table",
        ),
    ];
    for (dom, reference, flags, host_addr, expected, what) in cases {
        match grants::map(dom, reference, flags, host_addr) {
            Ok(_) => panic!("mapping of {what} succeeded"),
            Err(status) => assert!(status == expected, "mapping of {what}: {status}, {expected} is due"),
        }
    }
    let cases = [
        (Mapped { handle: u32::MAX, ..kept.read }, Status::BAD_HANDLE, "no handle"),
        (Mapped { handle: 1000, ..kept.read }, Status::BAD_HANDLE, "an unused handle"),
        (Mapped { host_addr: BUFFER.va(), ..kept.read }, Status::GENERAL_ERROR, "an address of another mapping"),
        (Mapped { host_addr: WRITTEN.va(), ..kept.read }, Status::GENERAL_ERROR, "another grant's address"),
        (Mapped { host_addr: 0, ..kept.read }, Status::OKAY, "no address, which changes nothing"),
    ];
    for (mapped, expected, what) in cases {
        let status = grants::unmap(&mapped);
        assert!(status == expected, "unmapping by {what}: {status}, {expected} is due");
    }
    let mut wrong_bus = [grants::taking_down(&kept.read)];
    wrong_bus[0].dev_bus_addr = kept.written.bus;
    grants::unmap_all(&mut wrong_bus);
    assert!(Status(wrong_bus[0].status) == Status::BAD_DEV_ADDR, "unmapping by another machine address");
    assert!(!READ.probe_write(0, 0), "the read-only mapping can be written");

    // A leaf on another domain's frame is not the guest's to write.
    for flags in [pte::DATA, pte::READ_ONLY] {
        let entry = pte::entry(kept.written.bus / PAGE_SIZE, flags);
        let result = hypercall::update_va_mapping(BRIEF.va(), entry);
        assert!(result == Err(Errno::EBUSY), "writing a leaf on another's frame: {result:?}");
    }
    let flush = grants::cache_flush;
    assert!(flush(kept.written.bus, 64, 64, op::CACHE_CLEAN) == Ok(0), "cache_flush");
    assert!(flush(kept.written.bus, 64, 64, op::CACHE_INVAL) == Err(Errno::EOPNOTSUPP), "cache_flush, forgetting");
    assert!(flush(kept.written.bus, 4000, 97, op::CACHE_CLEAN) == Err(Errno::EINVAL), "cache_flush over the end");
    assert!(flush(0, 0, 64, op::CACHE_CLEAN) == Err(Errno::EINVAL), "cache_flush of what is not mapped");
}

fn xen_address() -> u64 {
    luxen_guests::abi::M2P
}

fn check_copy_refusals(terms: &Terms) {
    use reference as r;
    let peer = terms.peer;
    let (source, dest) = (op::GNTCOPY_SOURCE_GREF, op::GNTCOPY_DEST_GREF);
    let buffer = |offset| own(BUFFER.own_frame(), offset);
    let mut cases = [
        (granted(peer, r::COPIED_FROM, 4000), buffer(0), 97, source, Status::BAD_COPY_ARG, "over the end"),
        (granted(peer, r::COPIED_FROM, 0), buffer(4095), 2, source, Status::BAD_COPY_ARG, "to over the end"),
        (buffer(0), granted(peer, r::COPIED_FROM, 0), 8, dest, Status::GENERAL_ERROR, "to a read-only grant"),
        (granted(peer, r::NOTHING, 0), buffer(0), 8, source, Status::GENERAL_ERROR, "from nothing"),
        (granted(peer, r::OTHERS, 0), buffer(0), 8, source, Status::GENERAL_ERROR, "from another's grant"),
        (granted(peer, r::BEYOND, 0), buffer(0), 8, source, Status::BAD_GNTREF, "from beyond the table"),
        (granted(xen::DOMID_NOBODY, r::READ, 0), buffer(0), 8, source, Status::BAD_DOMAIN, "from nobody"),
        (granted(peer, 1, 0), buffer(0), 8, 0, Status::PERMISSION_DENIED, "from another's frame"),
        (own(1 << 39, 0), buffer(0), 8, 0, Status::BAD_PAGE, "from a frame that is none"),
        (buffer(0), granted(peer, r::PAGE_TABLE, 0), 8, dest, Status::GENERAL_ERROR, "to a page table"),
        (granted(peer, r::PART, PART.0), buffer(0), PART.1, source, Status::GENERAL_ERROR, "from a part"),
        (granted(peer, r::PART, PART.0 - 1), buffer(0), 8, source, Status::GENERAL_ERROR, "from before the part"),
        (granted(peer, r::PART, PART.0 + 1), buffer(0), PART.1, source, Status::GENERAL_ERROR, "from behind the part"),
    ];
    // In version 1 there is nothing in that entry.
    if terms.version == Version::V2 {
        cases[10].4 = Status::OKAY;
    }
    for (from, to, len, flags, expected, what) in cases {
        let status = grants::copy(from, to, len, flags);
        assert!(status == expected, "copy {what}: {status}, {expected} is due");
    }
}

/// The grant was taken back while it was mapped: what is there stays, what is new is refused once it is gone.
fn check_revoked(terms: &Terms, revoked: &Mapped) {
    let map = |flags| grants::map(terms.peer, reference::REVOKED, flags, BRIEF.va());
    assert!(REVOKED.read(0) == 0, "a revoked grant's frame is still mapped");
    let second = map(RO).unwrap_or_else(|e| panic!("a revoked grant that is in use: {e}"));
    assert!(grants::unmap(&second) == Status::OKAY, "unmapping a revoked grant");
    let writing = map(RW).map(|_| ());
    assert!(writing == Err(Status::GENERAL_ERROR), "a revoked grant, to be written: {writing:?}");
    assert!(grants::unmap(revoked) == Status::OKAY, "unmapping a revoked grant");
    assert!(grants::unmap(revoked) == Status::BAD_HANDLE, "unmapping it twice");
    let reading = map(RO).map(|_| ());
    assert!(reading == Err(Status::GENERAL_ERROR), "a revoked grant that is not in use: {reading:?}");
}

/// The granter is gone: what is mapped stays, with all that is in it, until it is unmapped.
fn alone(guest: &mut Guest, terms: &Terms, kept: &Kept, last: u64) {
    say!("left alone at {}", Seconds(time::now()));
    let end = time::now().saturating_add(terms.timeout);
    while let Ok(brief) = grants::map(terms.peer, reference::BRIEF, RO, BRIEF.va()) {
        assert!(grants::unmap(&brief) == Status::OKAY, "unmapping while the granter leaves");
        assert!(time::now() < end, "the granter has left, and its grants can still be mapped");
        nap(guest);
    }
    let mapping = grants::map(terms.peer, reference::BRIEF, RO, BRIEF.va()).map(|_| ());
    assert!(mapping == Err(Status::BAD_DOMAIN), "mapping a grant of a domain that is gone: {mapping:?}");
    let from = granted(terms.peer, reference::COPIED_FROM, 0);
    let status = grants::copy(from, own(BUFFER.own_frame(), 0), 8, op::GNTCOPY_SOURCE_GREF);
    assert!(status == Status::BAD_DOMAIN, "copying from a domain that is gone: {status}");
    let mut round = last;
    while !guest.poll() {
        let pages = [(READ, Content::Read, last), (WRITTEN, Content::Written, round)];
        for (page, content, round) in pages {
            if let Some((index, found, expected)) = page.differs(|index| word(content, round, index)) {
                panic!("alone, round {round}: {content:?} word {index} is {found:#x}, not {expected:#x}");
            }
        }
        round += 1;
        WRITTEN.fill(|index| word(Content::Written, round, index));
        nap(guest);
    }
    unmap_kept(kept);
    say!("{last} rounds asked, {} alone", round - last);
}
