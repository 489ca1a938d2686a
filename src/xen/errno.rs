//! Xen's error numbers (public/errno.h).

use core::fmt;

/// Why a hypercall was refused. A guest sees [`Errno::to_rax`] of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Errno {
    /// Not permitted.
    EPERM = 1,
    /// No such thing.
    ENOENT = 2,
    /// No such domain.
    ESRCH = 3,
    /// Interrupted.
    EINTR = 4,
    /// Input or output failed.
    EIO = 5,
    /// No such address.
    ENXIO = 6,
    /// A list is too long.
    E2BIG = 7,
    /// Not a format that can be executed.
    ENOEXEC = 8,
    /// A bad handle.
    EBADF = 9,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Permission denied.
    EACCES = 13,
    /// A guest address that cannot be read or written.
    EFAULT = 14,
    /// Busy.
    EBUSY = 16,
    /// Exists already.
    EEXIST = 17,
    /// Belongs to somebody else.
    EXDEV = 18,
    /// No such device.
    ENODEV = 19,
    /// An argument makes no sense.
    EINVAL = 22,
    /// No room left.
    ENOSPC = 28,
    /// Read-only.
    EROFS = 30,
    /// A number is out of a function's domain.
    EDOM = 33,
    /// A number is out of range.
    ERANGE = 34,
    /// Would wait for ever.
    EDEADLK = 35,
    /// No such hypercall or sub-operation.
    ENOSYS = 38,
    /// No data.
    ENODATA = 61,
    /// The time is past.
    ETIME = 62,
    /// A number does not fit.
    EOVERFLOW = 75,
    /// An illegal sequence of bytes.
    EILSEQ = 84,
    /// To be continued: internal, a guest never sees it.
    ERESTART = 85,
    /// A message is too long.
    EMSGSIZE = 90,
    /// Not supported.
    EOPNOTSUPP = 95,
    /// The address is taken.
    EADDRINUSE = 98,
    /// The address is not there.
    EADDRNOTAVAIL = 99,
    /// No buffer space.
    ENOBUFS = 105,
    /// Connected already.
    EISCONN = 106,
    /// Not connected.
    ENOTCONN = 107,
    /// Took too long.
    ETIMEDOUT = 110,
    /// The other end refuses.
    ECONNREFUSED = 111,
}

impl Errno {
    /// Every error, ascending.
    pub const ALL: &[Self] = &[
        Self::EPERM,
        Self::ENOENT,
        Self::ESRCH,
        Self::EINTR,
        Self::EIO,
        Self::ENXIO,
        Self::E2BIG,
        Self::ENOEXEC,
        Self::EBADF,
        Self::EAGAIN,
        Self::ENOMEM,
        Self::EACCES,
        Self::EFAULT,
        Self::EBUSY,
        Self::EEXIST,
        Self::EXDEV,
        Self::ENODEV,
        Self::EINVAL,
        Self::ENOSPC,
        Self::EROFS,
        Self::EDOM,
        Self::ERANGE,
        Self::EDEADLK,
        Self::ENOSYS,
        Self::ENODATA,
        Self::ETIME,
        Self::EOVERFLOW,
        Self::EILSEQ,
        Self::ERESTART,
        Self::EMSGSIZE,
        Self::EOPNOTSUPP,
        Self::EADDRINUSE,
        Self::EADDRNOTAVAIL,
        Self::ENOBUFS,
        Self::EISCONN,
        Self::ENOTCONN,
        Self::ETIMEDOUT,
        Self::ECONNREFUSED,
    ];

    /// The positive number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What a failed hypercall leaves in rax: the negated number.
    pub const fn to_rax(self) -> u64 {
        (self as u64).wrapping_neg()
    }

    /// The error that a hypercall's result stands for, if it is one of ours.
    pub fn from_rax(rax: u64) -> Option<Self> {
        let number = rax.wrapping_neg();
        Self::ALL.iter().copied().find(|e| u64::from(e.number()) == number)
    }
}

/// What a hypercall leaves in rax.
pub const fn result_to_rax(result: Result<u64, Errno>) -> u64 {
    match result {
        Ok(value) => value,
        Err(e) => e.to_rax(),
    }
}

/// Prints as `-EINVAL (-22)`.
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-{self:?} (-{})", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn rax_holds_the_negated_number_and_comes_back() {
        assert_eq!(Errno::ENOSYS.to_rax(), -38i64 as u64);
        assert_eq!(result_to_rax(Err(Errno::EPERM)), u64::MAX);
        assert_eq!(result_to_rax(Ok(7)), 7);
        for &e in Errno::ALL {
            assert_eq!(Errno::from_rax(e.to_rax()), Some(e));
        }
        assert_eq!(Errno::from_rax(0), None);
        assert_eq!(Errno::from_rax(1), None);
        assert_eq!(format!("{}", Errno::EINVAL), "-EINVAL (-22)");
    }

    #[test]
    fn numbers_ascend_so_none_is_there_twice() {
        assert!(Errno::ALL.is_sorted_by(|a, b| a.number() < b.number()));
    }
}
