//! Pass 1 of a restore: who owns which frame (I6, I7), and what becomes of frames that cannot be had.
//!
//! The claims are the second half of the check of a stream, the half that takes the memory map and all domains together: a frame is RAM, outside the
//! region and the image, and has one claimant. They write to the frametable alone, which is in the region (I2); no byte of a guest has been
//! touched, and nothing has become free, when the last claim is made. So a stream that the host cannot take up is found out in time, and
//! the check costs nothing beside the claims themselves.
//!
//! 1. What the hypervisor needs for itself (stream, modules, M2P, log, withheld frames) is claimed first. If that is not to be had, nothing can go on:
//!    [`HostClaim`] says why.
//! 2. A domain that claims a frame which is not RAM, in the region or the image, or the hypervisor's, is refused alone. The frame stays what it is.
//! 3. If two domains claim a frame, nobody can say whose it is: both are refused. The frame is withheld ([`DomId::IO`] owns it): neither has it, and
//!    nobody else ever gets it.
//! 4. A frame of the stream that a domain claims is withheld too, or it would be free when the stream is.
//! 5. What a refused domain claims beside that is its own, as any other domain's frames are.
//!
//! Without disputes a claim costs what [`Frames::claim`] costs, and many together take the lock once. With them, it costs a step for each frame in dispute.

use crate::frame::{DomId, Mfn, MfnRange};
use crate::mm::frametable::{ClaimError, FrameState, Frames};
use alloc::vec::Vec;
use core::fmt;

/// Why a domain does not have all frames that it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// The first such frame.
    pub mfn: Mfn,
    /// What it is, or who else claims it.
    pub found: FrameState,
    /// Frames in dispute.
    pub nr_frames: u64,
}

impl fmt::Display for Dispute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mfn, found, nr_frames } = self;
        match found {
            FrameState::Owned { owner } if owner.is_domain() => {
                write!(f, "it claims frame {mfn}, and so does {owner}")?
            }
            FrameState::Owned { owner: DomId::IO } => {
                write!(f, "it claims frame {mfn}, which is reserved or withheld")?
            }
            found => write!(f, "it claims frame {mfn}, which {found}")?,
        }
        match nr_frames {
            1 => Ok(()),
            n => write!(f, " ({n} frames in all)"),
        }
    }
}

/// A claim that was not met and stops the restore.
#[derive(Debug)]
pub enum HostClaim<E> {
    /// A frame that the hypervisor itself needs is not to be had.
    Conflict(ClaimError),
    /// Page records, or memory to note disputes, ran out.
    NoRoom(E),
}

/// No memory to note who is in dispute with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What came of all claims.
#[derive(Debug, Default)]
pub struct Disputes {
    domains: Vec<(DomId, Dispute)>,
    withheld: Vec<MfnRange>,
}

impl Disputes {
    /// A domain's dispute, if it has one.
    pub fn of(&self, domain: DomId) -> Option<&Dispute> {
        self.domains.iter().find(|(id, _)| *id == domain).map(|(_, dispute)| dispute)
    }

    /// True if every claim was met.
    pub const fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Frames that nobody is to have from now on.
    pub fn withheld(&self) -> &[MfnRange] {
        &self.withheld
    }

    fn add(&mut self, domain: DomId, run: MfnRange, found: FrameState) -> Result<(), NoRoom> {
        if let Some((_, dispute)) = self.domains.iter_mut().find(|(id, _)| *id == domain) {
            dispute.nr_frames = dispute.nr_frames.saturating_add(run.nr_frames());
            return Ok(());
        }
        let Some(mfn) = run.first() else { return Ok(()) };
        self.domains.try_reserve(1).map_err(|_| NoRoom)?;
        self.domains.push((domain, Dispute { mfn, found, nr_frames: run.nr_frames() }));
        Ok(())
    }

    fn withhold(&mut self, run: MfnRange) -> Result<(), NoRoom> {
        if let Some(last) = self.withheld.last_mut()
            && last.end() == run.start()
            && let Some(longer) = MfnRange::between(last.start(), run.end())
        {
            *last = longer;
            return Ok(());
        }
        self.withheld.try_reserve(1).map_err(|_| NoRoom)?;
        self.withheld.push(run);
        Ok(())
    }
}

/// The claims, as they are made. `feed` provides for at least so many page records, or says why it cannot.
pub struct Claims<'a, F> {
    frames: &'a Frames,
    feed: F,
    disputes: Disputes,
}

impl<'a, E: From<NoRoom>, F: FnMut(u64) -> Result<(), E>> Claims<'a, F> {
    /// No claims yet.
    pub fn new(frames: &'a Frames, feed: F) -> Self {
        Self { frames, feed, disputes: Disputes::default() }
    }

    /// Claims frames that the hypervisor cannot do without.
    pub fn host(&mut self, range: MfnRange, owner: DomId) -> Result<(), HostClaim<E>> {
        self.claim(range, owner).map_err(HostClaim::NoRoom)?.map_err(HostClaim::Conflict)
    }

    /// Claims a domain's frames, all that are to be had.
    #[inline]
    pub fn domain(&mut self, range: MfnRange, owner: DomId) -> Result<(), E> {
        match self.claim(range, owner)? {
            Ok(()) => Ok(()),
            Err(_) => self.disputed(range, owner),
        }
    }

    /// Claims the frames of many of a domain's ranges, all that are to be had. The lock of the frames is held from one range to the next, so `ranges` must not
    /// take it, nor allocate. Ends with the first range that cannot be told: the inner error.
    pub fn domain_all<X>(
        &mut self,
        mut ranges: impl Iterator<Item = Result<MfnRange, X>>,
        owner: DomId,
    ) -> Result<Result<(), X>, E> {
        loop {
            let mut locked = self.frames.lock();
            let mut claimer = locked.claimer(owner);
            let other = ranges.find(|range| !range.as_ref().is_ok_and(|range| claimer.claim(*range)));
            drop(claimer);
            drop(locked);
            match other {
                None => return Ok(Ok(())),
                // Nothing has changed. What it takes, records or a judgement, takes the lock itself.
                Some(Ok(range)) => self.domain(range, owner)?,
                Some(Err(error)) => return Ok(Err(error)),
            }
        }
    }

    /// Takes what nobody has claimed of a range out of use: faulty frames, when all claims are made. Others are left to who has them.
    pub fn set_aside(&mut self, range: MfnRange) -> Result<(), E> {
        let mut left = range;
        while let Some((run, found)) = self.frames.table().run_of(left) {
            left = MfnRange::between(run.end(), range.end()).unwrap_or(MfnRange::EMPTY);
            if found == FrameState::Unclaimed {
                let claimed = self.claim(run, DomId::IO)?;
                assert!(claimed.is_ok(), "all of a run is in one state, as was just looked up");
            }
        }
        Ok(())
    }

    /// What came of it.
    pub fn finish(self) -> Disputes {
        self.disputes
    }

    /// Makes a claim; an outer error is a lack of page records, an inner one a conflict.
    fn claim(&mut self, range: MfnRange, owner: DomId) -> Result<Result<(), ClaimError>, E> {
        loop {
            match self.frames.claim(range, owner) {
                Err(ClaimError::NoRecords { needed, .. }) => (self.feed)(needed)?,
                done => return Ok(done),
            }
        }
    }

    #[cold]
    fn disputed(&mut self, range: MfnRange, owner: DomId) -> Result<(), E> {
        let mut left = range;
        while let Some((run, found)) = self.frames.table().run_of(left) {
            left = MfnRange::between(run.end(), range.end()).unwrap_or(MfnRange::EMPTY);
            if found == FrameState::Unclaimed {
                // One run is in one chunk and all of it is unclaimed, so the claim is met.
                if self.claim(run, owner)?.is_ok() {
                    continue;
                }
            }
            self.disputes.add(owner, run, found)?;
            let FrameState::Owned { owner: other } = found else { continue };
            let is_domain = other.is_domain() && other != owner;
            if is_domain {
                self.disputes.add(other, run, FrameState::Owned { owner })?;
            }
            if is_domain || other == DomId::STREAM {
                self.withhold(run, other)?;
            }
        }
        Ok(())
    }

    fn withhold(&mut self, run: MfnRange, owner: DomId) -> Result<(), E> {
        loop {
            match self.frames.withhold(run, Some(owner)) {
                Err(ClaimError::NoRecords { needed, .. }) => (self.feed)(needed)?,
                done => {
                    assert!(done.is_ok(), "a run has one owner, as was just looked up (I6)");
                    return Ok(self.disputes.withhold(run)?);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
