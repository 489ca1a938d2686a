//! Side a: grants, checks, answers.

use super::{PART, REFUSALS_EVERY, Terms, control, nap, reference};
use luxen_guests::abi::{Errno, op as xen};
use luxen_guests::clock::Seconds;
use luxen_guests::grant::{Content, Status, Version, op, word};
use luxen_guests::machine::grants::{self, Page, Table};
use luxen_guests::machine::guest::Guest;
use luxen_guests::machine::{hypercall, memory, time};
use luxen_guests::say;

const CONTROL: Page = Page::new(0);
const WRITTEN: Page = Page::new(1);
const WRITTEN_FAR: Page = Page::new(2);
const READ: Page = Page::new(3);
const COPIED_FROM: Page = Page::new(4);
const COPIED_TO: Page = Page::new(5);
const BRIEF: Page = Page::new(6);
const LOST: Page = Page::new(7);
const REVOKED: Page = Page::new(8);
const FIRST_TABLE_PAGE: usize = 10;

const BOTH: u16 = op::GTF_READING | op::GTF_WRITING;

pub fn run(guest: &mut Guest, terms: &Terms) {
    check_calls(terms);
    let table = Table::set_up(terms.version, FIRST_TABLE_PAGE, reference::TABLE_FRAMES);
    assert!(grants::query_size(xen::DOMID_SELF) == (Status::OKAY, 3, 64), "query_size of a table of 3 frames");
    // The entry of the console ring was there before, and outlives a change of version.
    let console = memory::start_info().console_mfn;
    assert!(table.frame(0) == console, "the reserved entry names frame {:#x}, not {console:#x}", table.frame(0));
    grant_all(&table, terms);
    say!("granted at {}, waits for d{}", Seconds(time::now()), terms.peer);

    let (mut answered, mut last) = (0, time::now());
    let mut report = last.saturating_add(terms.report);
    loop {
        let now = time::now();
        let is_finishing = guest.poll();
        match CONTROL.read(control::B) {
            control::DONE => break,
            asked if asked == answered => {
                if answered == 0 && is_finishing {
                    say!("finishes before the peer was there");
                    return;
                }
                if answered != 0 && table.marks(reference::CONTROL) == 0 {
                    say!("the peer is gone at {}", Seconds(now));
                    break;
                }
                assert!(
                    answered == 0 || now.saturating_sub(last) < terms.timeout,
                    "nothing heard since round {answered}"
                );
                nap(guest);
                continue;
            }
            asked => {
                assert!(asked == answered + 1, "round {asked} after round {answered}");
                if !check_round(&table, asked) {
                    say!("the peer is gone at {}, in round {asked}", Seconds(now));
                    break;
                }
                if asked % REFUSALS_EVERY == 1 {
                    check_refusals(&table, terms);
                }
                answer(terms, asked);
                (answered, last) = (asked, now);
            }
        }
        if terms.leave_after == answered {
            CONTROL.write(control::A, control::LEFT);
            say!("leaves after {answered} rounds at {}", Seconds(time::now()));
            return;
        }
        CONTROL.write(control::A, answered);
        if now >= report {
            say!("{answered} rounds at {}", Seconds(now));
            report = now.saturating_add(terms.report);
        }
    }
    wait_for_marks(guest, &table, terms);
    change_version(&table, terms.version);
    say!("{answered} rounds answered");
}

/// What is refused, or answered, before there is a table.
fn check_calls(terms: &Terms) {
    assert!(grants::query_size(xen::DOMID_SELF) == (Status::OKAY, 1, 64), "a table has one frame at first");
    assert!(grants::query_size(xen::DOMID_NOBODY).0 == Status::BAD_DOMAIN, "query_size of nobody");
    assert!(grants::get_version(xen::DOMID_SELF) == Ok(1), "a table has version 1 at first");
    assert!(grants::get_version(xen::DOMID_NOBODY) == Err(Errno::ESRCH), "get_version of nobody");
    assert!(grants::set_version(3) == (Err(Errno::EINVAL), 1), "set_version 3");
    assert!(grants::get_status_frames(1, &mut [0]) == Status::GENERAL_ERROR, "status frames in version 1");
    assert!(grants::setup_table(65, &mut []) == Status::GENERAL_ERROR, "more frames than the limit");
    assert!(grants::swap(0, 1 << 20) == Status::BAD_GNTREF, "swap beyond the table");
    for cmd in [op::DUMP_TABLE, op::TRANSFER, 13] {
        assert!(grants::unsupported(cmd) == Err(Errno::ENOSYS), "grant_table_op {cmd}");
    }
    let nowhere = hypercall::grant_table_op_nowhere;
    assert!(nowhere(op::MAP_GRANT_REF, 1) == Err(Errno::EFAULT), "a list that is nowhere");
    assert!(nowhere(op::MAP_GRANT_REF, 0) == Ok(0), "an empty list");
    assert!(nowhere(op::MAP_GRANT_REF, 1 << 31) == Err(Errno::EINVAL), "a list with a negative length");
    assert!(nowhere(op::QUERY_SIZE, 2) == Err(Errno::EINVAL), "a list of what takes no list");
    // To version 2 and back, with nothing in it.
    if terms.version == Version::V1 {
        assert!(grants::set_version(2) == (Ok(0), 2) && grants::set_version(1) == (Ok(0), 1), "there and back");
    }
}

fn grant_all(table: &Table, terms: &Terms) {
    use reference as r;
    for page in [CONTROL, WRITTEN, WRITTEN_FAR, READ, COPIED_FROM, COPIED_TO, BRIEF, LOST, REVOKED] {
        page.fill(|_| 0);
    }
    let to = terms.peer;
    let all = |reference, page: Page, flags| table.grant(reference, to, page.own_frame(), flags, None);
    all(r::WRITTEN, WRITTEN, 0);
    all(r::WRITTEN_FAR, WRITTEN_FAR, 0);
    all(r::READ, READ, op::GTF_READONLY);
    all(r::COPIED_FROM, COPIED_FROM, op::GTF_READONLY);
    all(r::COPIED_TO, COPIED_TO, 0);
    all(r::BRIEF, BRIEF, 0);
    all(r::LOST, LOST, 0);
    all(r::REVOKED, REVOKED, 0);
    if terms.version == Version::V2 {
        table.grant(r::PART, to, COPIED_FROM.own_frame(), op::GTF_SUB_PAGE | op::GTF_READONLY, Some(PART));
    }
    table.grant(r::OTHERS, xen::DOMID_NOBODY, READ.own_frame(), 0, None);
    table.grant(r::PAGE_TABLE, to, memory::mfn_of(memory::start_info().pt_base), 0, None);
    table.grant(r::SWAPPED[0], xen::DOMID_NOBODY, 0x1111, 0, None);
    table.grant(r::SWAPPED[1], xen::DOMID_NOBODY, 0x2222, 0, None);
    // The last one: with it b begins.
    all(r::CONTROL, CONTROL, 0);
}

/// What b has done in a round; false if b was found to be gone.
fn check_round(table: &Table, round: u64) -> bool {
    use reference as r;
    let contents = [(WRITTEN, Content::Written), (WRITTEN_FAR, Content::WrittenFar), (COPIED_TO, Content::CopiedTo)];
    for (page, content) in contents {
        if let Some((index, found, expected)) = page.differs(|index| word(content, round, index)) {
            panic!("round {round}: {content:?} word {index} is {found:#x}, not {expected:#x}");
        }
    }
    let revoked = if round < 3 { op::GTF_READING } else { 0 };
    let marks = [
        (r::CONTROL, BOTH),
        (r::WRITTEN, BOTH),
        (r::WRITTEN_FAR, BOTH),
        (r::READ, op::GTF_READING),
        (r::COPIED_FROM, 0),
        (r::COPIED_TO, 0),
        (r::BRIEF, 0),
        (r::LOST, BOTH),
        (r::PART, 0),
        (r::OTHERS, 0),
        (r::PAGE_TABLE, 0),
        (r::REVOKED, revoked),
    ];
    for (reference, expected) in marks {
        let found = table.marks(reference);
        if found != expected && table.marks(r::CONTROL) == 0 {
            return false;
        }
        assert!(found == expected, "round {round}: grant {reference} has marks {found:#x}, not {expected:#x}");
    }
    if round == 1 {
        table.revoke(r::REVOKED);
    }
    true
}

fn answer(terms: &Terms, round: u64) {
    READ.fill(|index| word(Content::Read, round, index));
    COPIED_FROM.fill(|index| word(Content::CopiedFrom, round, index));
    if round == terms.spoil {
        say!("spoils round {round}");
        READ.write(300, !word(Content::Read, round, 300));
    }
}

/// What a cannot do while b uses its grants.
fn check_refusals(table: &Table, terms: &Terms) {
    use reference as r;
    let (current, other) = if terms.version == Version::V1 { (1, 2) } else { (2, 1) };
    assert!(grants::set_version(other) == (Err(Errno::EBUSY), current), "set_version while grants are in use");
    assert!(grants::set_version(current) == (Ok(0), current), "set_version to what it is");
    assert!(grants::get_version(terms.peer) == Err(Errno::EPERM), "get_version of the peer");
    assert!(grants::query_size(terms.peer).0 == Status::PERMISSION_DENIED, "query_size of the peer");
    assert!(grants::swap(r::WRITTEN, r::NOTHING) == Status::EAGAIN, "swap of a grant in use");
    assert!(grants::swap(r::NOTHING, r::READ) == Status::EAGAIN, "swap with a grant in use");
    let [a, b] = r::SWAPPED;
    let before = (table.frame(a), table.frame(b));
    assert!(grants::swap(a, b) == Status::OKAY, "swap");
    assert!((table.frame(b), table.frame(a)) == before, "swap has not swapped");
    assert!(grants::setup_table(65, &mut []) == Status::GENERAL_ERROR, "more frames than the limit");
}

/// b is done: what it unmaps, and what goes with its end, is not in use any more.
fn wait_for_marks(guest: &mut Guest, table: &Table, terms: &Terms) {
    use reference as r;
    let end = time::now().saturating_add(terms.timeout);
    let all = [r::CONTROL, r::WRITTEN, r::WRITTEN_FAR, r::READ, r::LOST];
    while let Some(reference) = all.into_iter().find(|&reference| table.marks(reference) != 0) {
        assert!(time::now() < end, "grant {reference} still has marks {:#x}", table.marks(reference));
        guest.poll();
        nap(guest);
    }
}

/// Nothing is in use: the version changes, but not while the marks' frame is mapped.
fn change_version(table: &Table, version: Version) {
    if version == Version::V1 {
        assert!(grants::set_version(2) == (Ok(0), 2), "set_version 2 at the end");
    } else {
        assert!(grants::set_version(1) == (Err(Errno::EBUSY), 2), "set_version 1 with the marks' frame mapped");
        table.hide_marks();
    }
    assert!(grants::set_version(1) == (Ok(0), 1), "set_version 1 at the end");
}
