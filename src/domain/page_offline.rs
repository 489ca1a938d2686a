//! `sysctl` page_offline_op: frames reported as faulty, put back, and asked about (public/sysctl.h).
//!
//! What is answered follows Xen's offline_page, online_page and query_page_offline. A frame that is reported so can be put back, as nobody but the one who
//! reported it says that it is faulty; one that `badpage=` names cannot.

use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::buddy::Retired;
use crate::mm::frametable::FrameState;
use crate::mm::guest_mem::{field_u32, field_u64};
use crate::xen::Errno;
use crate::xen::hypercall::page_offline as op;
use crate::xen::layout::sysctl_page_offline as layout;

/// Most frames of a call: those of 2 MiB. A call is carried out in one go, as it has no place of its own to go on from.
pub const MAX_FRAMES: u64 = 512;
/// Most ranges of faulty frames on the list before reports are refused: the list crosses updates.
pub const MAX_RANGES: usize = 4096;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take out of use.
    Offline,
    /// Put back.
    Online,
    /// Say how it is.
    Query,
}

/// What a domain asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub command: Command,
    /// Of which frames: one at least, and [`MAX_FRAMES`] at most.
    pub frames: MfnRange,
    /// Guest address of a u32 for each of them.
    pub status: u64,
}

impl Request {
    /// Reads the structure that `bytes` begin with. EINVAL for a command that is none and for a range that ends before it begins, E2BIG for one of more
    /// than [`MAX_FRAMES`] frames.
    ///
    /// # Panics
    /// If there are fewer bytes than it has.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let command = match field_u32(bytes, layout::CMD) {
            op::PAGE_OFFLINE => Command::Offline,
            op::PAGE_ONLINE => Command::Online,
            op::QUERY_PAGE_OFFLINE => Command::Query,
            _ => return Err(Errno::EINVAL),
        };
        let (first, last) = (u64::from(field_u32(bytes, layout::START)), u64::from(field_u32(bytes, layout::END)));
        let frames = MfnRange::between(first, last + 1).filter(|range| !range.is_empty()).ok_or(Errno::EINVAL)?;
        if frames.nr_frames() > MAX_FRAMES {
            return Err(Errno::E2BIG);
        }
        Ok(Self { command, frames, status: field_u64(bytes, layout::STATUS) })
    }
}

/// What is known of a frame before anything is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it is.
    pub state: FrameState,
    /// Firmware calls it RAM.
    pub is_ram: bool,
    /// `badpage=` names it.
    pub is_named: bool,
    /// It is on the list of faulty frames.
    pub is_listed: bool,
    /// Nobody may have it for another reason than a fault.
    pub is_withheld: bool,
}

/// The answer about one frame. The call ends at the first that is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bits of [`op`], and the owner.
    pub status: u32,
    /// What the call ends with, if it ends here.
    pub result: Result<(), Errno>,
}

impl Answer {
    const fn fine(status: u32) -> Self {
        Self { status, result: Ok(()) }
    }

    const fn error(status: u32, errno: Errno) -> Self {
        Self { status: op::STATUS_FAILED | status, result: Err(errno) }
    }

    /// There was no memory for what has to be noted.
    pub const NO_MEMORY: Self = Self::error(op::STATUS_AGAIN, Errno::ENOMEM);
    /// The list of faulty frames has no room.
    pub const NO_ROOM: Self = Self::error(op::STATUS_AGAIN, Errno::ENOSPC);
    /// It is back in use.
    pub const BACK: Self = Self::fine(op::STATUS_DONE);
}

const fn owned_by(owner: DomId) -> u32 {
    (owner.get() as u32) << op::STATUS_OWNER_SHIFT
}

impl Known {
    const fn broken(&self) -> u32 {
        if self.is_named { op::STATUS_BROKEN } else { 0 }
    }

    fn is_memory(&self) -> bool {
        self.is_ram && self.state != FrameState::NotRam
    }

    /// The answer to a report if nothing is to be done about it.
    pub fn answer_to_offline(&self) -> Option<Answer> {
        match self.state {
            _ if !self.is_memory() && self.is_named => Some(Answer::fine(op::STATUS_DONE | op::STATUS_BROKEN)),
            _ if !self.is_memory() => Some(Answer::error(op::STATUS_NOT_CONV_RAM, Errno::EINVAL)),
            // These stay what they are from update to update, so they would never be out of use.
            FrameState::Region | FrameState::Image | FrameState::Owned { owner: DomId::XEN } => {
                Some(Answer::error(op::STATUS_XENPAGE | owned_by(DomId::XEN), Errno::EPERM))
            }
            _ => None,
        }
    }

    /// The answer to a report that came to this.
    pub fn answer_to_retired(&self, retired: Retired) -> Answer {
        let status = match retired {
            Retired::Gone => op::STATUS_DONE,
            Retired::WhenFreed { owner } if owner.is_domain() => {
                op::STATUS_OWNED | op::STATUS_PENDING | owned_by(owner)
            }
            Retired::WhenFreed { .. } | Retired::Stays { .. } => {
                op::STATUS_XENPAGE | op::STATUS_PENDING | owned_by(DomId::XEN)
            }
            Retired::NoMemory => return Answer::NO_MEMORY,
        };
        Answer::fine(status | self.broken())
    }

    /// The answer to a demand to put the frame back if nothing is to be done about it.
    pub fn answer_to_online(&self) -> Option<Answer> {
        if self.is_named {
            return Some(Answer::error(op::STATUS_BROKEN, Errno::EINVAL));
        }
        if !self.is_memory() {
            return Some(Answer::error(op::STATUS_NOT_CONV_RAM, Errno::EINVAL));
        }
        if self.is_withheld {
            return Some(Answer::error(0, Errno::EPERM));
        }
        (!self.is_listed).then_some(Answer::fine(0))
    }

    /// How the frame is.
    pub fn answer_to_query(&self) -> Answer {
        let broken = if self.is_named { op::QUERY_STATUS_BROKEN } else { 0 };
        let is_out = !self.is_memory() || self.state == FrameState::Owned { owner: DomId::IO };
        if !self.is_memory() && !self.is_named {
            return Answer { status: op::STATUS_INVALID, result: Err(Errno::EINVAL) };
        }
        let status = match (is_out, self.is_listed) {
            (true, _) => op::QUERY_STATUS_OFFLINED,
            (false, true) => op::QUERY_STATUS_PENDING,
            (false, false) => 0,
        };
        Answer::fine(status | broken)
    }
}

/// What became of a call's frames, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Out of use, or back in use.
    pub nr_done: u64,
    /// Still in use.
    pub nr_pending: u64,
    /// The first that was refused.
    pub refused: Option<(Mfn, Errno)>,
}

impl Tally {
    /// Counts one frame.
    pub fn add(&mut self, mfn: Mfn, answer: Answer) {
        self.nr_done += u64::from(answer.status & op::STATUS_DONE != 0);
        self.nr_pending += u64::from(answer.status & op::STATUS_PENDING != 0);
        if let (None, Err(errno)) = (self.refused, answer.result) {
            self.refused = Some((mfn, errno));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const FREE: Known =
        Known { state: FrameState::Free, is_ram: true, is_named: false, is_listed: false, is_withheld: false };
    const D7: DomId = DomId::new(7);

    fn owned(owner: DomId) -> Known {
        Known { state: FrameState::Owned { owner }, ..FREE }
    }

    /// The structure, written by hand from the header: cmd and version, then {cmd, start, end, padding, status}.
    fn bytes(cmd: u32, start: u32, end: u32, status: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> = [14, 0x15, cmd, start, end, 0].into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(status.to_le_bytes());
        bytes.resize(8 + 128, 0);
        bytes
    }

    #[test]
    fn a_request_is_read() {
        let frames = MfnRange::between(0x100, 0x300).unwrap();
        for (cmd, command) in [(1, Command::Offline), (2, Command::Online), (3, Command::Query)] {
            let found = Request::decode(&bytes(cmd, 0x100, 0x2ff, 0x1234_5678_9abc));
            assert_eq!(found, Ok(Request { command, frames, status: 0x1234_5678_9abc }));
        }
        let last = Request::decode(&bytes(3, u32::MAX, u32::MAX, 0)).unwrap();
        assert_eq!((last.frames.start(), last.frames.nr_frames()), (0xffff_ffff, 1));
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        for (cmd, start, end, errno) in [
            (0, 1, 1, Errno::EINVAL),
            (4, 1, 1, Errno::EINVAL),
            (u32::MAX, 1, 1, Errno::EINVAL),
            (1, 2, 0, Errno::EINVAL),
            // Nothing at all cannot be said: the last frame is one of them.
            (1, 2, 1, Errno::EINVAL),
            (1, u32::MAX, 0, Errno::EINVAL),
            (1, 0x100, 0x300, Errno::E2BIG),
            (3, 0, u32::MAX, Errno::E2BIG),
        ] {
            assert_eq!(Request::decode(&bytes(cmd, start, end, 0)), Err(errno), "{cmd} {start:#x} {end:#x}");
        }
    }

    #[test]
    fn what_is_not_memory_or_the_hypervisors_for_good_is_not_taken_out_of_use() {
        let not_ram = Answer { status: 0x808, result: Err(Errno::EINVAL) };
        assert_eq!(Known { state: FrameState::NotRam, ..FREE }.answer_to_offline(), Some(not_ram));
        assert_eq!(Known { is_ram: false, ..owned(DomId::IO) }.answer_to_offline(), Some(not_ram));
        let xen = Answer { status: 0x7ff2_0108, result: Err(Errno::EPERM) };
        for known in
            [Known { state: FrameState::Region, ..FREE }, Known { state: FrameState::Image, ..FREE }, owned(DomId::XEN)]
        {
            assert_eq!(known.answer_to_offline(), Some(xen), "{known:?}");
        }
        for known in
            [FREE, owned(D7), owned(DomId::STREAM), owned(DomId::IO), Known { state: FrameState::Private, ..FREE }]
        {
            assert_eq!(known.answer_to_offline(), None, "{known:?}");
        }
    }

    #[test]
    fn a_report_says_whose_the_frame_is() {
        let private = Retired::Stays { found: FrameState::Private };
        for (retired, status) in [
            (Retired::Gone, 0x2),
            (Retired::WhenFreed { owner: D7 }, 0x0007_1004),
            (Retired::WhenFreed { owner: DomId::STREAM }, 0x7ff2_0104),
            (private, 0x7ff2_0104),
        ] {
            assert_eq!(FREE.answer_to_retired(retired), Answer { status, result: Ok(()) });
            let named = Known { is_named: true, ..FREE };
            assert_eq!(named.answer_to_retired(retired), Answer { status: status | 0x2000, result: Ok(()) });
        }
        let again = Answer { status: 0x18, result: Err(Errno::ENOMEM) };
        assert_eq!(FREE.answer_to_retired(Retired::NoMemory), again);
    }

    #[test]
    fn only_what_was_reported_is_put_back() {
        let listed = Known { is_listed: true, ..owned(DomId::IO) };
        assert_eq!(listed.answer_to_online(), None);
        assert_eq!(Known { is_listed: true, ..owned(D7) }.answer_to_online(), None);
        for known in [FREE, owned(D7), Known { state: FrameState::Region, ..FREE }] {
            assert_eq!(known.answer_to_online(), Some(Answer { status: 0, result: Ok(()) }), "{known:?}");
        }
        for (known, status, errno) in [
            (Known { is_named: true, ..listed }, 0x2008, Errno::EINVAL),
            (Known { is_named: true, state: FrameState::NotRam, ..listed }, 0x2008, Errno::EINVAL),
            (Known { state: FrameState::NotRam, ..FREE }, 0x808, Errno::EINVAL),
            (Known { is_withheld: true, ..listed }, 0x8, Errno::EPERM),
            (Known { is_withheld: true, ..owned(DomId::IO) }, 0x8, Errno::EPERM),
        ] {
            assert_eq!(known.answer_to_online(), Some(Answer { status, result: Err(errno) }), "{known:?}");
        }
    }

    #[test]
    fn a_query_tells_how_it_is() {
        for (known, status) in [
            (FREE, 0),
            (owned(D7), 0),
            (Known { is_listed: true, ..owned(D7) }, 0x8),
            (Known { is_listed: true, ..owned(DomId::IO) }, 0x2),
            (Known { is_withheld: true, ..owned(DomId::IO) }, 0x2),
            (Known { is_listed: true, is_named: true, ..owned(D7) }, 0x18),
            (Known { is_listed: true, is_named: true, state: FrameState::NotRam, ..FREE }, 0x12),
        ] {
            assert_eq!(known.answer_to_query(), Answer { status, result: Ok(()) }, "{known:?}");
        }
        let nothing = Known { state: FrameState::NotRam, ..FREE }.answer_to_query();
        assert_eq!(nothing, Answer { status: 1, result: Err(Errno::EINVAL) });
    }

    #[test]
    fn a_call_is_added_up() {
        let mut tally = Tally::default();
        tally.add(Mfn::new(1), FREE.answer_to_retired(Retired::Gone));
        tally.add(Mfn::new(2), FREE.answer_to_retired(Retired::WhenFreed { owner: D7 }));
        tally.add(Mfn::new(3), Answer::NO_ROOM);
        tally.add(Mfn::new(4), Answer::NO_MEMORY);
        assert_eq!(tally, Tally { nr_done: 1, nr_pending: 1, refused: Some((Mfn::new(3), Errno::ENOSPC)) });
    }
}
