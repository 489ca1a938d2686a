//! `sysctl`: what a privileged domain may do to the machine. Of Xen's operations there is one, the report of faulty frames.

use super::{Caller, refused};
use crate::domain::page_offline::{Request, Tally};
use crate::run::bad;
use crate::run::guest_mem::{GuestMem, field_u32};
use crate::run::host::host;
use crate::x86::directmap::DirectMap;
use crate::xen::Errno;
use crate::xen::hypercall::{interface_version as version, page_offline as op, sysctl};
use crate::xen::layout::sysctl_page_offline as layout;

/// `sysctl(arg)`.
pub fn sysctl(c: &Caller<'_>, arg: u64) -> Result<u64, Errno> {
    let memory = c.memory()?;
    let b = memory.read_array::<{ layout::SIZE }>(arg)?;
    refused::check_version(field_u32(&b, layout::INTERFACE_VERSION), version::SYSCTL)?;
    if !c.vcpu.domain.privileged {
        return Err(Errno::EPERM);
    }
    match field_u32(&b, layout::SYSCTL) {
        sysctl::PAGE_OFFLINE_OP => page_offline(c, &memory, &Request::decode(&b)?),
        _ => Err(Errno::ENOSYS),
    }
}

/// As in Xen, the first frame that is refused ends the call with its errno, and those behind it are said to be not looked at.
fn page_offline(c: &Caller<'_>, memory: &GuestMem<'_, DirectMap>, request: &Request) -> Result<u64, Errno> {
    let word = |n: u64| request.status.wrapping_add(n * 4);
    // Before anything is changed it is certain that the answers have a place.
    for n in 0..request.frames.nr_frames() {
        memory.write_u32(word(n), op::STATUS_INVALID)?;
    }
    let host = host();
    let mut tally = Tally::default();
    let mut written = Ok(());
    for (mfn, n) in request.frames.iter().zip(0..) {
        let answer = bad::ask(host, request.command, mfn);
        tally.add(mfn, answer);
        written = memory.write_u32(word(n), answer.status);
        if written.is_err() || answer.result.is_err() {
            break;
        }
    }
    bad::tell(c.vcpu.domain.id, request, &tally);
    written?;
    tally.refused.map_or(Ok(0), |(_, errno)| Err(errno))
}
