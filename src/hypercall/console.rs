//! `console_io`.

use super::{Caller, Outcome};
use crate::run::console;
use crate::run::host::host;
use crate::xen::Errno;
use crate::xen::hypercall::console_io as op;

/// Bytes copied at a time.
const PIECE: usize = 256;

/// `console_io(cmd, count, buffer)`: any domain may write; only a privileged one may read, and finds nothing: keystrokes go to rings.
pub fn console_io(c: &mut Caller<'_>, cmd: u64, count: u64, buffer: u64) -> Outcome {
    // Xen takes the count as an int.
    if count > i32::MAX as u64 {
        return Outcome::Done(Errno::EINVAL.to_rax());
    }
    match cmd {
        op::WRITE => write(c, count, buffer).unwrap_or_else(|e| Outcome::Done(e.to_rax())),
        op::READ if c.vcpu.domain.privileged => Outcome::Done(0),
        op::READ => Outcome::Done(Errno::EPERM.to_rax()),
        _ => Outcome::Done(Errno::ENOSYS.to_rax()),
    }
}

/// The serial line is slow: the call gives way between pieces, and comes again as long as there is no room for one.
fn write(c: &Caller<'_>, count: u64, buffer: u64) -> Result<Outcome, Errno> {
    let domain = &c.vcpu.domain;
    let memory = c.memory()?;
    let mut done = 0;
    while done < count {
        if done > 0 && c.should_give_way() {
            return Ok(Outcome::Again([op::WRITE, count - done, buffer.wrapping_add(done), 0, 0]));
        }
        let mut piece = [0; PIECE];
        let n = (count - done).min(PIECE as u64);
        let piece = &mut piece[..n as usize];
        memory.read(buffer.wrapping_add(done), piece)?;
        if !console::write(host(), domain, piece) {
            return Ok(Outcome::Again([op::WRITE, count - done, buffer.wrapping_add(done), 0, 0]));
        }
        done += n;
    }
    Ok(Outcome::Done(0))
}
