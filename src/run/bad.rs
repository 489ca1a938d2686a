//! Frames found to be faulty (XEN.md §1.10): by `badpage=`, by a report while the machine runs, or by the build before.

use crate::domain::page_offline::{Answer, Command, Known, MAX_RANGES, Request, Tally};
use crate::frame::{DomId, Mfn, MfnRange};
use crate::log;
use crate::mm::buddy::Retired;
use crate::ranges;
use crate::run::host::Host;

/// Frames still in use that are named one by one.
const NR_NAMED: u64 = 8;

/// Takes note of frames that are faulty: nobody is given one from now on. Who has one keeps it, and when it is given up it is gone.
pub fn retire(host: &Host, faulty: &[MfnRange]) {
    let (mut nr_gone, mut nr_used) = (0u64, 0u64);
    let ram = || host.memmap.ram_as_given();
    for range in faulty.iter().flat_map(|&range| ram().map(move |ram| ram.intersection(range))) {
        for mfn in range.iter() {
            let retired = host.frames.retire(mfn);
            if retired == Retired::Gone {
                nr_gone += 1;
                continue;
            }
            nr_used += 1;
            match retired {
                _ if nr_used > NR_NAMED => {}
                Retired::WhenFreed { owner } => {
                    log!("memory", "faulty frame {mfn} is in use by {owner}: it stays, and nobody else gets it");
                }
                Retired::NoMemory => {
                    log!("memory", "faulty frame {mfn}: no memory to take it out of use; it is at the next update");
                }
                Retired::Stays { found } => log!("memory", "faulty frame {mfn} {found}: it stays in use"),
                Retired::Gone => {}
            }
        }
        if ranges::add(&mut host.bad_frames.lock(), range).is_err() {
            log!(
                "memory",
                "faulty frames {range}: no memory to take note of them; the next build does not know of them"
            );
        }
    }
    if nr_gone + nr_used != 0 {
        log!("memory", "{nr_gone} faulty frames are out of use, {nr_used} still in use");
    }
}

/// What a privileged domain says or asks of a frame.
pub fn ask(host: &Host, command: Command, mfn: Mfn) -> Answer {
    let known = Known {
        state: host.frames.state_of(mfn),
        is_ram: mfn != Mfn::ZERO && host.memmap.ram_as_given().any(|ram| ram.contains(mfn)),
        is_named: host.options.badpage.ranges().iter().any(|range| range.contains(mfn)),
        is_listed: is_in(&host.bad_frames.lock(), mfn),
        is_withheld: host.withheld.lock().iter().any(|range| range.contains(mfn)),
    };
    match command {
        Command::Offline => known.answer_to_offline().unwrap_or_else(|| take_out(host, known, mfn)),
        Command::Online => known.answer_to_online().unwrap_or_else(|| put_back(host, mfn)),
        Command::Query => known.answer_to_query(),
    }
}

fn is_in(sorted: &[MfnRange], mfn: Mfn) -> bool {
    let at = sorted.partition_point(|range| range.end() <= mfn.get());
    sorted.get(at).is_some_and(|range| range.contains(mfn))
}

fn take_out(host: &Host, known: Known, mfn: Mfn) -> Answer {
    let frame = MfnRange::new(mfn, 1);
    let mut list = host.bad_frames.lock();
    if list.len() >= MAX_RANGES && !known.is_listed {
        return Answer::NO_ROOM;
    }
    // One for the frame, one to take it off the list again.
    if list.try_reserve(2).is_err() || ranges::add(&mut list, frame).is_err() {
        return Answer::NO_MEMORY;
    }
    let answer = known.answer_to_retired(host.frames.retire(mfn));
    if answer.result.is_err() && !known.is_listed && ranges::take(&mut list, frame).is_err() {
        log!(
            "memory",
            "faulty frame {mfn}: no memory to take it off the list; it is out of use behind the next update"
        );
    }
    answer
}

fn put_back(host: &Host, mfn: Mfn) -> Answer {
    let mut list = host.bad_frames.lock();
    if list.try_reserve(1).is_err()
        || !host.frames.reinstate(mfn)
        || ranges::take(&mut list, MfnRange::new(mfn, 1)).is_err()
    {
        return Answer::NO_MEMORY;
    }
    Answer::BACK
}

/// Tells the operator what a domain has said, in one line.
pub fn tell(who: DomId, request: &Request, tally: &Tally) {
    let Tally { nr_done, nr_pending, refused } = tally;
    let frames = request.frames;
    match request.command {
        Command::Offline => {
            log!("memory", "{who} reports faulty frames {frames}: {nr_done} out of use, {nr_pending} still in use");
        }
        Command::Online => {
            log!("memory", "{who} takes back that frames {frames} are faulty: {nr_done} are as they were")
        }
        Command::Query => return,
    }
    if let Some((mfn, errno)) = refused {
        log!("memory", "{who}: frame {mfn} is refused with {errno}, and those behind it are not looked at");
    }
}

/// For tests: a free frame and one of the first domain are reported.
pub fn report_two(host: &Host) {
    let free = host.alloc_private(crate::frame::Order::PAGE).map(|block| {
        let mfn = block.mfn();
        host.frames.free(block);
        mfn
    });
    let domain = host.domains.lock().values().next().cloned();
    let used: Option<Mfn> = domain.and_then(|domain| {
        let last = domain.memory.lock().extents.iter().next_back()?;
        Some(Mfn::new(last.range().end() - 1))
    });
    for mfn in [free, used].into_iter().flatten() {
        log!("memory", "test: frame {mfn} is reported faulty");
        retire(host, &[MfnRange::new(mfn, 1)]);
    }
}
