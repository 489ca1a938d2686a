//! A vCPU, as far as its guest context does not say it.

use super::super::stream::{Fields, RecordError, Sink};
use super::{LU_VCPU, NO_MFN, SavedRecord};
use crate::frame::{Mfn, PAGE_SIZE};
use bitflags::bitflags;

bitflags! {
    /// What a vCPU is doing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VcpuFlags: u32 {
        /// It is in guest kernel mode, on the kernel's page table.
        const KERNEL_MODE = 1;
        /// It was given a context: an X86_PV_VCPU_BASIC record follows.
        const INITIALISED = 2;
        /// It is up; otherwise it stays off until the guest starts it.
        const UP = 4;
        /// It waits for an event.
        const BLOCKED = 8;
        /// It waits for an event on `poll_port` or, if that is 0, on several.
        const POLLING = 16;
        /// It gave its time slice away.
        const YIELDED = 32;
    }
}

bitflags! {
    /// What waits to be delivered to a vCPU besides events, and what keeps it back.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VcpuPending: u32 {
        /// A non-maskable interrupt.
        const NMI = 1;
        /// A machine check.
        const MCE = 2;
        /// Not itself pending: the handler of an NMI has not ended, so that the next one waits.
        const NMI_MASKED = 4;
    }
}

bitflags! {
    /// Callbacks at whose entry events become masked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CallbackMasks: u32 {
        /// The event callback.
        const EVENT = 1;
        /// The failsafe callback.
        const FAILSAFE = 2;
        /// The syscall callback.
        const SYSCALL = 4;
        /// The callback of syscall from compatibility mode.
        const SYSCALL32 = 8;
        /// The sysenter callback.
        const SYSENTER = 16;
        /// The NMI callback.
        const NMI = 32;
    }
}

/// Where the guest is entered; 0 for a callback that is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callbacks {
    /// For events.
    pub event: u64,
    /// When a segment cannot be loaded on the way back to the guest.
    pub failsafe: u64,
    /// For syscall from user mode.
    pub syscall: u64,
    /// For syscall from compatibility mode.
    pub syscall32: u64,
    /// For sysenter.
    pub sysenter: u64,
    /// For NMIs; 0 if the trap table says it.
    pub nmi: u64,
    /// Which of them mask events.
    pub masks: CallbackMasks,
}

/// A vCPU's times in its four states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runstate {
    /// Guest virtual address of the area that is kept up to date, 0 for none.
    pub area: u64,
    /// The state: running 0, runnable 1, blocked 2, offline 3.
    pub state: u32,
    /// System time at which it was entered.
    pub entry_ns: u64,
    /// Nanoseconds spent in each.
    pub times_ns: [u64; 4],
}

/// A vCPU, as far as its guest context does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuVcpu {
    /// Its number.
    pub vcpu: u32,
    /// What it is doing.
    pub flags: VcpuFlags,
    /// Its page table for user mode.
    pub user_cr3: Option<Mfn>,
    /// Its page table for kernel mode.
    pub kernel_cr3: Option<Mfn>,
    /// The frame of its vcpu_info.
    pub vcpu_info: Option<Mfn>,
    /// The offset of its vcpu_info in that frame.
    pub vcpu_info_offset: u32,
    /// The port that it polls.
    pub poll_port: u32,
    /// Its times.
    pub runstate: Runstate,
    /// Guest virtual address of a copy of its time info, 0 for none.
    pub time_area: u64,
    /// System time at which its one-shot timer is due, 0 if it is not set.
    pub singleshot_ns: u64,
    /// Period of its periodic timer in nanoseconds, 0 for none.
    pub period_ns: u64,
    /// System time at which that is due next.
    pub periodic_next_ns: u64,
    /// Where it is entered.
    pub callbacks: Callbacks,
    /// I/O privilege level of its kernel, 0 to 3.
    pub iopl: u32,
    /// What waits to be delivered.
    pub pending: VcpuPending,
    /// System time at which its poll ends, 0 for never.
    pub poll_until_ns: u64,
    /// Guest virtual address of its I/O bitmap, 0 for none.
    pub iobmp: u64,
    /// Ports that the bitmap covers.
    pub iobmp_nr_ports: u32,
}

/// The vcpu_info's size: it lies in one frame, 8-byte aligned.
const VCPU_INFO_LEN: u32 = 64;

impl SavedRecord for LuVcpu {
    const KIND: u32 = LU_VCPU;
    const LEN_BYTES: u64 = 256;

    fn encode(&self, out: &mut impl Sink) {
        let mfn = |mfn: Option<Mfn>| mfn.map_or(NO_MFN, Mfn::get);
        out.put_u32(self.vcpu);
        out.put_u32(self.flags.bits());
        out.put_u64(mfn(self.user_cr3));
        out.put_u64(mfn(self.kernel_cr3));
        out.put_u64(mfn(self.vcpu_info));
        out.put_u32(self.vcpu_info_offset);
        out.put_u32(self.poll_port);
        out.put_u64(self.runstate.area);
        out.put_u32(self.runstate.state);
        out.put_u32(0);
        out.put_u64(self.runstate.entry_ns);
        for time in self.runstate.times_ns {
            out.put_u64(time);
        }
        out.put_u64(self.time_area);
        out.put_u64(self.singleshot_ns);
        out.put_u64(self.period_ns);
        out.put_u64(self.periodic_next_ns);
        out.put_u64(self.callbacks.event);
        out.put_u64(self.callbacks.failsafe);
        out.put_u64(self.callbacks.syscall);
        out.put_u64(self.callbacks.syscall32);
        out.put_u64(self.callbacks.sysenter);
        out.put_u64(self.callbacks.nmi);
        out.put_u32(self.callbacks.masks.bits());
        out.put_u32(self.iopl);
        out.put_u32(self.pending.bits());
        out.put_u32(0);
        out.put_u64(self.poll_until_ns);
        out.put_u64(self.iobmp);
        out.put_u32(self.iobmp_nr_ports);
        out.put_zeros(44);
    }

    fn decode_fields(from: &mut Fields<'_>) -> Result<Self, RecordError> {
        let vcpu = from.u32()?;
        let flags = from.checked_u32(VcpuFlags::from_bits)?;
        let user_cr3 = from.optional_mfn()?;
        let kernel_cr3 = from.optional_mfn()?;
        let vcpu_info = from.optional_mfn()?;
        let vcpu_info_offset = from.checked_u32(|offset| {
            Some(offset).filter(|&o| o.is_multiple_of(8) && u64::from(o) <= PAGE_SIZE - u64::from(VCPU_INFO_LEN))
        })?;
        let poll_port = from.u32()?;
        let area = from.u64()?;
        let state = from.checked_u32(|state| (state <= 3).then_some(state))?;
        from.reserved(4)?;
        let entry_ns = from.u64()?;
        let times_ns = [from.u64()?, from.u64()?, from.u64()?, from.u64()?];
        let saved = Self {
            vcpu,
            flags,
            user_cr3,
            kernel_cr3,
            vcpu_info,
            vcpu_info_offset,
            poll_port,
            runstate: Runstate { area, state, entry_ns, times_ns },
            time_area: from.u64()?,
            singleshot_ns: from.u64()?,
            period_ns: from.u64()?,
            periodic_next_ns: from.u64()?,
            callbacks: Callbacks {
                event: from.u64()?,
                failsafe: from.u64()?,
                syscall: from.u64()?,
                syscall32: from.u64()?,
                sysenter: from.u64()?,
                nmi: from.u64()?,
                masks: from.checked_u32(CallbackMasks::from_bits)?,
            },
            iopl: from.checked_u32(|iopl| (iopl <= 3).then_some(iopl))?,
            pending: from.checked_u32(VcpuPending::from_bits)?,
            poll_until_ns: {
                from.reserved(4)?;
                from.u64()?
            },
            iobmp: from.u64()?,
            iobmp_nr_ports: from.checked_u32(|ports| (ports <= 0x1_0000).then_some(ports))?,
        };
        from.reserved(44)?;
        Ok(saved)
    }
}
