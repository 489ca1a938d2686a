//! `console_io`.

use super::Caller;
use crate::run::console;
use crate::xen::Errno;
use crate::xen::hypercall::console_io as op;

/// Bytes copied at a time.
const PIECE: usize = 256;

/// `console_io(cmd, count, buffer)`: any domain may write; only a privileged one may read, and finds nothing: keystrokes go to rings.
pub fn console_io(c: &mut Caller<'_>, cmd: u64, count: u64, buffer: u64) -> Result<u64, Errno> {
    // Xen takes the count as an int.
    let count = i32::try_from(count).map_err(|_| Errno::EINVAL)? as u64;
    let domain = &c.vcpu.domain;
    match cmd {
        op::WRITE => {
            let memory = c.memory()?;
            let mut done = 0;
            while done < count {
                let mut piece = [0; PIECE];
                let n = ((count - done) as usize).min(PIECE);
                memory.read(buffer.wrapping_add(done), &mut piece[..n])?;
                domain.console.lock().write(&piece[..n], |line| console::guest_line(domain.id, line));
                done += n as u64;
            }
            Ok(0)
        }
        op::READ if domain.privileged => Ok(0),
        op::READ => Err(Errno::EPERM),
        _ => Err(Errno::ENOSYS),
    }
}
