//! The life of a guest: start, options, console lines, verdict, end.
//!
//! Console lines that every guest understands:
//!
//! | line | what happens |
//! |---|---|
//! | `finish` | the guest checks up, says its verdict and shuts down (poweroff) |
//! | `crash` | shutdown with reason crash, at once |
//! | `reboot` | shutdown with reason reboot, at once |
//! | `hang` | an endless loop; events are still counted, nothing else is done |
//! | `fault` | an endless page fault: the handler goes back to the faulting instruction |
//! | `fault-bare` | a page fault when no handler is installed: the hypervisor has to end the domain |
//! | `spin-hypercall` | from now on long multicalls, again and again, between the other work |
//!
//! Command line options that every guest understands: `run=<ms>` (after that much guest time the guest finishes by
//! itself).

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::events::Port;
use super::traps::CallbackInterface;
use super::{console, events, hypercall, memory, time, traps};
use crate::abi::{Errno, MulticallEntry, Shutdown, StartInfo, hypercall as nr, op};
use crate::clock::MS;
use crate::lines::LineIn;
use crate::options::Options;

unsafe extern "Rust" {
    safe static GUEST_NAME: &'static str;
}

static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// In which of the possible ways a guest uses the interface: so that among the guests all are used.
pub struct Setup {
    /// How callbacks are registered.
    pub callbacks: CallbackInterface,
    /// Whether vcpu_info is moved out of the shared page.
    pub moves_vcpu_info: bool,
}

/// What every guest has at hand.
pub struct Guest {
    options: Options<'static>,
    timer: Port,
    input: LineIn,
    end: Option<u64>,
    is_finishing: bool,
    is_spinning: bool,
}

/// Prints one line that begins with the guest's name.
#[macro_export]
macro_rules! say {
    ($($message:tt)*) => { $crate::machine::guest::say(format_args!($($message)*)) };
}

/// What `say!` does.
pub fn say(message: fmt::Arguments<'_>) {
    console::print(format_args!("{GUEST_NAME}: {message}"));
}

/// From the entry code to the guest's own `run`; when that comes back, all is well.
pub fn start(setup: Setup, start_info: usize, boot_stack_end: usize, run: fn(&mut Guest)) -> ! {
    memory::init(start_info, boot_stack_end);
    let info = memory::start_info();
    events::init(memory::map_shared_info());
    traps::init(setup.callbacks);
    if setup.moves_vcpu_info {
        events::move_vcpu_info(0, memory::mfn_of);
    }
    if info.console_evtchn != 0 {
        console::init(memory::boot_va(info.console_mfn) as *mut _, info.console_evtchn);
    }
    events::enable();
    match hypercall::stop_periodic_timer() {
        Ok(_) | Err(Errno::ENOSYS) => {}
        Err(e) => panic!("stop_periodic_timer: {e}"),
    }

    let options = Options::new(command_line(info));
    let mut guest = Guest {
        options,
        timer: events::bind_virq(op::VIRQ_TIMER),
        input: LineIn::new(),
        end: None,
        is_finishing: false,
        is_spinning: false,
    };
    let run_ms = guest.number("run", 0);
    if run_ms != 0 {
        guest.end = Some(time::now().saturating_add(run_ms.saturating_mul(MS)));
    }
    let version = hypercall::xen_version().unwrap_or_else(|e| panic!("xen_version: {e}"));
    say!(
        "starts with {} pages under interface {}.{}: {}",
        info.nr_pages,
        version >> 16,
        version & 0xffff,
        options.line()
    );
    run(&mut guest);

    say!("verdict SUCCESS");
    console::drain();
    hypercall::shutdown(Shutdown::Poweroff)
}

fn command_line(info: &'static StartInfo) -> &'static str {
    let bytes = info.cmd_line.split(|&byte| byte == 0).next().unwrap_or(&[]);
    core::str::from_utf8(bytes).unwrap_or_else(|_| panic!("the command line is not text"))
}

impl Guest {
    /// The command line.
    pub fn options(&self) -> Options<'static> {
        self.options
    }

    /// An option that is a number. Fails if it is something else.
    pub fn number(&self, key: &'static str, default: u64) -> u64 {
        self.options.number(key).unwrap_or_else(|e| panic!("{e}")).unwrap_or(default)
    }

    /// The port of VIRQ_TIMER.
    pub fn timer(&self) -> Port {
        self.timer
    }

    /// Whether somebody said `finish`, or the guest's time is over. Also does what else was typed.
    pub fn poll(&mut self) -> bool {
        let Guest { input, is_finishing, is_spinning, .. } = self;
        console::read(|byte| match input.push(byte) {
            None => {}
            Some("finish") => *is_finishing = true,
            Some("spin-hypercall") => *is_spinning = true,
            Some("crash") => hypercall::shutdown(Shutdown::Crash),
            Some("reboot") => hypercall::shutdown(Shutdown::Reboot),
            // Without a pause instruction: an emulator takes each for a reason to look round, and a second lasts minutes.
            Some("hang") => loop {
                core::hint::black_box(());
            },
            Some("fault") => traps::fault_for_ever(),
            Some("fault-bare") => traps::fault_without_handler(),
            Some(other) => say!("does not know the line `{other}`"),
        });
        if self.end.is_some_and(|end| time::now() >= end) {
            self.is_finishing = true;
        }
        if self.is_spinning {
            spin();
        }
        self.is_finishing
    }

    /// Sleeps until a system time, unless an event came since [`events::total`] was `seen`; any event ends the sleep. Who
    /// calls it looks at his events and at [`Guest::poll`] after taking `seen`, so none is slept over.
    pub fn sleep(&self, seen: u64, at: u64) {
        let now = time::now();
        if at <= now {
            return;
        }
        // The guest's own end must wake it too, but only once: afterwards it is finishing, and may still have to wait.
        let at = self.end.filter(|&end| end > now).map_or(at, |end| at.min(end));
        hypercall::set_timer_op(at).unwrap_or_else(|e| panic!("set_timer_op: {e}"));
        events::block_unless_after(seen);
    }
}

/// A multicall that is long enough to be preempted, of calls whose results are known.
fn spin() {
    const CALLS: usize = 512;
    let mut entries = [MulticallEntry::default(); CALLS];
    let flush = [u64::from(op::MMUEXT_TLB_FLUSH_LOCAL), 0, 0];
    let version = hypercall::xen_version().unwrap_or_else(|e| panic!("xen_version: {e}")) as i64;
    for (index, entry) in entries.iter_mut().enumerate() {
        *entry = match index % 3 {
            0 => MulticallEntry { op: nr::XEN_VERSION, result: -1, args: [op::XEN_VERSION_VERSION, 0, 0, 0, 0, 0] },
            1 => {
                let args = [flush.as_ptr() as u64, 1, 0, u64::from(op::DOMID_SELF), 0, 0];
                MulticallEntry { op: nr::MMUEXT_OP, result: -1, args }
            }
            _ => MulticallEntry { op: nr::NONE, result: -1, args: [0; 6] },
        };
    }
    // SAFETY: the only addresses are the flush operation's, which lives here, and null, which says "none".
    unsafe { hypercall::multicall(&mut entries) }.unwrap_or_else(|e| panic!("multicall: {e}"));
    for (index, entry) in entries.iter().enumerate() {
        let expected = [version, 0, -38][index % 3];
        assert!(entry.result == expected, "multicall: entry {index} gave {}, not {expected}", entry.result);
    }
}

/// Any failed check ends here.
#[panic_handler]
fn failed(info: &PanicInfo<'_>) -> ! {
    if !HAS_FAILED.swap(true, Ordering::Relaxed) {
        say!("verdict FAILURE: {}", info.message());
        console::drain();
    }
    hypercall::shutdown(Shutdown::Crash)
}
