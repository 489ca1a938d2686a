//! Event channels of all domains, in the two-level ABI: who may send to whom, and what the sending changes.
//!
//! One [`EventChannels`] holds every domain's ports, because most operations touch two domains. Its operations are
//! Xen's (`event_channel_op`), with Xen's checks in Xen's order; the bits in guest memory are the business of
//! [`two_level`]. Nothing here runs or wakes a vCPU: an operation returns an [`Event`] that says which one must be.
//!
//! Invariants:
//!
//! 1. The two ends of an interdomain channel name each other. [`EventChannels::mismatches`] checks it after a restore.
//! 2. A VIRQ is bound to at most one port a vCPU, a global one to at most one port of the domain.
//! 3. Port 0 is never in use; every port in use notifies a vCPU that the domain has.
//! 4. A domain's vcpu_info areas are 8-byte aligned and do not cross a frame.
//!
//! Some ports have the hypervisor at the other end ([`PortState::Hypervisor`]), where Xen would have a back-end
//! domain: those of the console and store rings. The guest sends to them and closes them like any other.
//!
//! Not here: the FIFO ABI (guests fall back to this one), PIRQs (no domain has the machine's interrupts).

pub mod two_level;

mod restore;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

pub use restore::{Mismatch, OtherEnd, PortRecord, RestoreError};
pub use two_level::{Effect, NR_PORTS};

use crate::frame::{DomId, Maddr, Mfn, PAGE_SIZE};
use crate::mm::physmem::PhysMem;
use crate::xen::Errno;
use crate::xen::hypercall::{evtchn_status as status_number, pv::LEGACY_MAX_VCPUS, virq};
use crate::xen::layout::{evtchn_status, shared_info, vcpu_info};

/// What a port is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Waiting for `remote` to bind to it.
    Unbound {
        /// The only domain that may; not necessarily one that exists.
        remote: DomId,
    },
    /// Bound to a port of a domain.
    Interdomain {
        /// The other domain, or the same.
        remote: DomId,
        /// Its port.
        remote_port: u32,
    },
    /// Receives a virtual interrupt.
    Virq {
        /// Its number, [`crate::xen::hypercall::virq`].
        virq: u32,
    },
    /// For the vCPUs of the domain to notify each other.
    Ipi,
    /// Bound to the hypervisor itself.
    Hypervisor {
        /// What serves it.
        service: Service,
    },
}

/// What in the hypervisor is at the other end of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Service {
    /// The console ring.
    Console = 1,
    /// The store ring.
    Store = 2,
}

impl Service {
    /// The one that has a number as the hypervisor's port.
    pub const fn of(port: u32) -> Option<Self> {
        match port {
            1 => Some(Self::Console),
            2 => Some(Self::Store),
            _ => None,
        }
    }
}

const _: () = assert!(Service::Console as u32 == 1 && Service::Store as u32 == 2);

/// What a domain needs for its events to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// Its shared_info page.
    pub shared_info: Mfn,
    /// Its vCPUs, 1 to 32.
    pub nr_vcpus: u32,
    /// May act on the ports of other domains.
    pub is_privileged: bool,
}

/// An event that arrived at a port.
#[must_use = "a vCPU may have to be woken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The receiving domain.
    pub domain: DomId,
    /// Its port.
    pub port: u32,
    /// The vCPU that the port notifies.
    pub vcpu: u32,
    /// What is to be done: [`Effect::Upcall`] wakes that vCPU, and unless it is [`Effect::AlreadyPending`] any vCPU of
    /// the domain that polls the port.
    pub effect: Effect,
}

/// Where a sent event went.
#[must_use = "a vCPU may have to be woken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nobody is bound to the other end.
    Nowhere,
    /// To a port.
    Event(Event),
    /// To the hypervisor.
    Hypervisor(Service),
}

/// A new interdomain channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The caller's end.
    pub port: u32,
    /// The event that is always raised there: the peer may have sent before it was bound.
    pub event: Event,
}

/// Answer of `event_channel_op` status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the port is bound to; none if it is not in use.
    pub state: Option<PortState>,
    /// The vCPU that it notifies.
    pub vcpu: u32,
}

/// The ports of all domains.
#[derive(Debug, Default)]
pub struct EventChannels {
    domains: BTreeMap<DomId, Domain>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel {
    state: PortState,
    notify_vcpu: u32,
}

#[derive(Debug)]
struct Domain {
    shared: Maddr,
    is_privileged: bool,
    /// By port; grows as ports come into use.
    ports: Vec<Option<Channel>>,
    /// No port from 1 up to here is free.
    lowest_free: u32,
    vcpus: Vec<Vcpu>,
}

#[derive(Debug)]
struct Vcpu {
    info: Maddr,
    /// Port of each VIRQ, 0 for none. Global ones are at vCPU 0.
    virqs: [u16; virq::COUNT as usize],
}

/// True for a VIRQ that a domain has once, and not once a vCPU.
pub const fn is_global_virq(number: u32) -> bool {
    !matches!(number, virq::TIMER | virq::DEBUG | virq::XENOPROF | virq::XENPMU)
}

impl Domain {
    fn try_new(config: DomainConfig) -> Result<Self, Errno> {
        if config.nr_vcpus == 0 || u64::from(config.nr_vcpus) > LEGACY_MAX_VCPUS {
            return Err(Errno::EINVAL);
        }
        let shared = config.shared_info.maddr();
        let mut vcpus = Vec::new();
        vcpus.try_reserve_exact(config.nr_vcpus as usize).map_err(|_| Errno::ENOMEM)?;
        vcpus.extend(
            (0..config.nr_vcpus)
                .map(|vcpu| Vcpu { info: default_info(shared, vcpu), virqs: [0; virq::COUNT as usize] }),
        );
        Ok(Self { shared, is_privileged: config.is_privileged, ports: Vec::new(), lowest_free: 1, vcpus })
    }

    /// The port in use, if it is one.
    fn channel(&self, port: u32) -> Result<&Channel, Errno> {
        self.ports.get(port as usize).and_then(Option::as_ref).ok_or(Errno::EINVAL)
    }

    fn channel_mut(&mut self, port: u32) -> Result<&mut Channel, Errno> {
        self.ports.get_mut(port as usize).and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }

    fn check_vcpu(&self, vcpu: u32) -> Result<(), Errno> {
        if (vcpu as usize) < self.vcpus.len() { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// The lowest free port, with room made for it.
    fn find_free(&mut self) -> Result<u32, Errno> {
        let port = (self.lowest_free..)
            .find(|&port| self.ports.get(port as usize).is_none_or(Option::is_none))
            .filter(|&port| port < NR_PORTS)
            .ok_or(Errno::ENOSPC)?;
        self.lowest_free = port;
        self.make_room(port)?;
        Ok(port)
    }

    fn make_room(&mut self, port: u32) -> Result<(), Errno> {
        let len = port as usize + 1;
        if self.ports.len() < len {
            self.ports.try_reserve(len - self.ports.len()).map_err(|_| Errno::ENOMEM)?;
            self.ports.resize(len, None);
        }
        Ok(())
    }

    /// Takes a port that is free and has room, from `find_free` or `make_room`.
    fn occupy(&mut self, port: u32, channel: Channel) {
        debug_assert!(self.ports[port as usize].is_none());
        self.ports[port as usize] = Some(channel);
    }

    fn allocate(&mut self, state: PortState, notify_vcpu: u32) -> Result<u32, Errno> {
        let port = self.find_free()?;
        self.occupy(port, Channel { state, notify_vcpu });
        Ok(port)
    }

    /// Where the port of a VIRQ is kept; `number` is below `virq::COUNT` and `vcpu` one that exists.
    fn virq_slot(&mut self, number: u32, vcpu: u32) -> &mut u16 {
        let vcpu = if is_global_virq(number) { 0 } else { vcpu };
        &mut self.vcpus[vcpu as usize].virqs[number as usize]
    }

    /// Frees a port and tells what it was.
    fn release(&mut self, mem: &impl PhysMem, port: u32) -> Result<PortState, Errno> {
        let channel = *self.channel(port)?;
        self.ports[port as usize] = None;
        self.lowest_free = self.lowest_free.min(port);
        if let PortState::Virq { virq } = channel.state {
            *self.virq_slot(virq, channel.notify_vcpu) = 0;
        }
        two_level::clear_pending(mem, self.shared, port);
        Ok(channel.state)
    }

    /// Makes a port that is in use pending.
    fn raise(&self, mem: &impl PhysMem, domain: DomId, port: u32) -> Result<Event, Errno> {
        let vcpu = self.channel(port)?.notify_vcpu;
        let effect = two_level::set_pending(mem, self.shared, self.vcpus[vcpu as usize].info, port);
        Ok(Event { domain, port, vcpu, effect })
    }
}

fn default_info(shared: Maddr, vcpu: u32) -> Maddr {
    shared.offset(shared_info::VCPU_INFO as u64 + u64::from(vcpu) * vcpu_info::SIZE as u64)
}

impl EventChannels {
    /// No domains.
    pub const fn new() -> Self {
        Self { domains: BTreeMap::new() }
    }

    fn domain(&self, id: DomId) -> Result<&Domain, Errno> {
        self.domains.get(&id).ok_or(Errno::ESRCH)
    }

    fn domain_mut(&mut self, id: DomId) -> Result<&mut Domain, Errno> {
        self.domains.get_mut(&id).ok_or(Errno::ESRCH)
    }

    /// The domain that `dom` names, if `caller` may act on it: on itself, or on any if it is privileged.
    fn target(&self, caller: DomId, dom: DomId) -> Result<DomId, Errno> {
        let dom = resolve(caller, dom);
        self.domain(dom)?;
        if dom == caller || self.domain(caller)?.is_privileged { Ok(dom) } else { Err(Errno::EPERM) }
    }

    /// Lets a new domain have event channels.
    ///
    /// Errors: `EINVAL` for a reserved number or a number of vCPUs that cannot be, `EEXIST`, `ENOMEM`.
    pub fn add_domain(&mut self, id: DomId, config: DomainConfig) -> Result<(), Errno> {
        if !id.is_domain() {
            return Err(Errno::EINVAL);
        }
        if self.domains.contains_key(&id) {
            return Err(Errno::EEXIST);
        }
        self.domains.insert(id, Domain::try_new(config)?);
        Ok(())
    }

    /// Closes all ports of a domain that ends, and forgets it. Its peers' ports become unbound again.
    ///
    /// Its shared page is not touched: it may be freed before or after. Errors: `ESRCH`.
    pub fn remove_domain(&mut self, id: DomId) -> Result<(), Errno> {
        let gone = self.domains.remove(&id).ok_or(Errno::ESRCH)?;
        for (channel, port) in gone.ports.into_iter().zip(0..) {
            if let Some(Channel { state: PortState::Interdomain { remote, remote_port }, .. }) = channel {
                self.unbind(remote, remote_port, id, port);
            }
        }
        Ok(())
    }

    /// `alloc_unbound`: a port of `dom` that `remote` may bind to.
    ///
    /// Errors: `ESRCH` no such domain, `EPERM` not the caller's and it is not privileged, `ENOSPC`, `ENOMEM`.
    pub fn alloc_unbound(&mut self, caller: DomId, dom: DomId, remote: DomId) -> Result<u32, Errno> {
        let dom = self.target(caller, dom)?;
        self.domain_mut(dom)?.allocate(PortState::Unbound { remote: resolve(caller, remote) }, 0)
    }

    /// `bind_interdomain`: a port of the caller, bound to a port of `remote` that waits for the caller.
    ///
    /// Errors: `ESRCH` no such domain, `ENOSPC`, `ENOMEM`, `EINVAL` the port does not wait for the caller.
    pub fn bind_interdomain(
        &mut self,
        mem: &impl PhysMem,
        caller: DomId,
        remote: DomId,
        remote_port: u32,
    ) -> Result<Bound, Errno> {
        let remote = resolve(caller, remote);
        self.domain(remote)?;
        let port = self.domain_mut(caller)?.find_free()?;
        let peer = self.domain_mut(remote)?.channel_mut(remote_port)?;
        if peer.state != (PortState::Unbound { remote: caller }) {
            return Err(Errno::EINVAL);
        }
        peer.state = PortState::Interdomain { remote: caller, remote_port: port };
        let local = self.domain_mut(caller)?;
        local.occupy(port, Channel { state: PortState::Interdomain { remote, remote_port }, notify_vcpu: 0 });
        Ok(Bound { port, event: local.raise(mem, caller, port)? })
    }

    /// `bind_virq`: a port of the caller that receives a virtual interrupt.
    ///
    /// Errors: `EINVAL` no such VIRQ, or a global one not at vCPU 0, `ENOENT` no such vCPU, `EEXIST` bound already,
    /// `ENOSPC`, `ENOMEM`.
    pub fn bind_virq(&mut self, caller: DomId, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        if virq >= virq::COUNT || (is_global_virq(virq) && vcpu != 0) {
            return Err(Errno::EINVAL);
        }
        let domain = self.domain_mut(caller)?;
        domain.check_vcpu(vcpu)?;
        if *domain.virq_slot(virq, vcpu) != 0 {
            return Err(Errno::EEXIST);
        }
        let port = domain.allocate(PortState::Virq { virq }, vcpu)?;
        *domain.virq_slot(virq, vcpu) = port as u16;
        Ok(port)
    }

    /// `bind_ipi`: a port of the caller that it notifies a vCPU of its own by.
    ///
    /// Errors: `ENOENT` no such vCPU, `ENOSPC`, `ENOMEM`.
    pub fn bind_ipi(&mut self, caller: DomId, vcpu: u32) -> Result<u32, Errno> {
        let domain = self.domain_mut(caller)?;
        domain.check_vcpu(vcpu)?;
        domain.allocate(PortState::Ipi, vcpu)
    }

    /// A port of `dom` whose other end is in the hypervisor: sending to it yields [`Sent::Hypervisor`], and
    /// [`Self::raise`] is the way back.
    ///
    /// Errors: `ESRCH`, `ENOSPC`, `ENOMEM`.
    pub fn bind_hypervisor(&mut self, dom: DomId, service: Service) -> Result<u32, Errno> {
        self.domain_mut(dom)?.allocate(PortState::Hypervisor { service }, 0)
    }

    /// `bind_vcpu`: which vCPU a port of the caller notifies. VIRQs of a vCPU and IPIs keep theirs.
    ///
    /// Errors: `ENOENT` no such vCPU, `EINVAL` the port is not in use or keeps its vCPU.
    pub fn bind_vcpu(&mut self, caller: DomId, port: u32, vcpu: u32) -> Result<(), Errno> {
        let domain = self.domain_mut(caller)?;
        domain.check_vcpu(vcpu)?;
        let channel = domain.channel_mut(port)?;
        match channel.state {
            PortState::Ipi => return Err(Errno::EINVAL),
            PortState::Virq { virq } if !is_global_virq(virq) => return Err(Errno::EINVAL),
            _ => channel.notify_vcpu = vcpu,
        }
        Ok(())
    }

    /// `close`: frees a port of the caller. The other end becomes unbound again, waiting for the caller.
    ///
    /// Errors: `EINVAL` the port is not in use.
    pub fn close(&mut self, mem: &impl PhysMem, caller: DomId, port: u32) -> Result<(), Errno> {
        if let PortState::Interdomain { remote, remote_port } = self.domain_mut(caller)?.release(mem, port)? {
            self.unbind(remote, remote_port, caller, port);
        }
        Ok(())
    }

    /// Makes a port wait for `closer`, whose end is gone.
    fn unbind(&mut self, domain: DomId, port: u32, closer: DomId, closed: u32) {
        // By invariant 1 it is bound to what was closed, unless a domain goes because its restored ports did not fit:
        // then somebody else's end must stay as it is.
        if let Some(channel) = self.domains.get_mut(&domain).and_then(|d| d.channel_mut(port).ok())
            && channel.state == (PortState::Interdomain { remote: closer, remote_port: closed })
        {
            channel.state = PortState::Unbound { remote: closer };
        }
    }

    /// `send`: an event to whatever is at the other end of the caller's port.
    ///
    /// Errors: `EINVAL` the port is not in use or only receives.
    pub fn send(&self, mem: &impl PhysMem, caller: DomId, port: u32) -> Result<Sent, Errno> {
        let local = self.domain(caller)?;
        match local.channel(port)?.state {
            PortState::Interdomain { remote, remote_port } => {
                self.domain(remote)?.raise(mem, remote, remote_port).map(Sent::Event)
            }
            PortState::Ipi => local.raise(mem, caller, port).map(Sent::Event),
            PortState::Unbound { .. } => Ok(Sent::Nowhere),
            PortState::Hypervisor { service } => Ok(Sent::Hypervisor(service)),
            PortState::Virq { .. } => Err(Errno::EINVAL),
        }
    }

    /// `status`: what a port of `dom` is bound to.
    ///
    /// Errors: `ESRCH` no such domain, `EINVAL` no such port, `EPERM` not the caller's and it is not privileged.
    pub fn status(&self, caller: DomId, dom: DomId, port: u32) -> Result<Status, Errno> {
        let domain = self.domain(resolve(caller, dom))?;
        if port >= NR_PORTS {
            return Err(Errno::EINVAL);
        }
        self.target(caller, dom)?;
        Ok(match domain.channel(port) {
            Ok(channel) => Status { state: Some(channel.state), vcpu: channel.notify_vcpu },
            Err(_) => Status { state: None, vcpu: 0 },
        })
    }

    /// `unmask`: clears the mask of the caller's port; the vCPU that must be woken, if any.
    ///
    /// Errors: `EINVAL` no such port.
    pub fn unmask(&self, mem: &impl PhysMem, caller: DomId, port: u32) -> Result<Option<u32>, Errno> {
        let domain = self.domain(caller)?;
        if port >= NR_PORTS {
            return Err(Errno::EINVAL);
        }
        // A port that is not in use has its bits all the same; the first vCPU stands in, as in Xen.
        let vcpu = domain.channel(port).map_or(0, |channel| channel.notify_vcpu);
        let info = domain.vcpus[vcpu as usize].info;
        Ok(two_level::unmask(mem, domain.shared, info, port).then_some(vcpu))
    }

    /// `reset`: closes all ports of `dom`, except those that lead to the hypervisor: nobody could open them again.
    ///
    /// Another domain than the caller must be paused, which is for whoever runs it to check. Errors: `ESRCH` no such
    /// domain, `EPERM` not the caller's and it is not privileged.
    pub fn reset(&mut self, mem: &impl PhysMem, caller: DomId, dom: DomId) -> Result<(), Errno> {
        let dom = self.target(caller, dom)?;
        for port in 1..self.domain(dom)?.ports.len() as u32 {
            match self.domain(dom)?.channel(port).map(|channel| channel.state) {
                Err(_) | Ok(PortState::Hypervisor { .. }) => {}
                Ok(_) => self.close(mem, dom, port)?,
            }
        }
        Ok(())
    }

    /// An event from the hypervisor at a port in use, whatever it is bound to.
    ///
    /// Errors: `ESRCH` no such domain, `EINVAL` the port is not in use: the guest may have closed it.
    pub fn raise(&self, mem: &impl PhysMem, dom: DomId, port: u32) -> Result<Event, Errno> {
        self.domain(dom)?.raise(mem, dom, port)
    }

    /// A VIRQ of one vCPU; nothing if it is not bound, or there is no such vCPU.
    pub fn raise_virq(&self, mem: &impl PhysMem, dom: DomId, vcpu: u32, virq: u32) -> Option<Event> {
        let domain = self.domains.get(&dom)?;
        let port = *domain.vcpus.get(vcpu as usize)?.virqs.get(virq as usize)?;
        domain.raise(mem, dom, port.into()).ok()
    }

    /// A global VIRQ, to the vCPU that its port notifies; nothing if it is not bound.
    pub fn raise_global_virq(&self, mem: &impl PhysMem, dom: DomId, virq: u32) -> Option<Event> {
        self.raise_virq(mem, dom, 0, virq)
    }

    /// True if a port is pending, masked or not: what `sched_op` poll asks.
    ///
    /// Errors: `ESRCH` no such domain, `EINVAL` no such port.
    pub fn is_pending(&self, mem: &impl PhysMem, dom: DomId, port: u32) -> Result<bool, Errno> {
        let domain = self.domain(dom)?;
        if port < NR_PORTS { Ok(two_level::is_pending(mem, domain.shared, port)) } else { Err(Errno::EINVAL) }
    }

    /// `register_vcpu_info`: moves a vCPU's vcpu_info to its own place, for good. What it held is copied, and
    /// everything is marked pending, so that no event is lost between the two places.
    ///
    /// The caller holds the frame for the domain, and the vCPU is either the one calling or down. Errors: `ESRCH`,
    /// `ENOENT` no such vCPU, `EINVAL` it would cross the frame's end or is not aligned to 8, or was moved before.
    pub fn move_vcpu_info(
        &mut self,
        mem: &impl PhysMem,
        dom: DomId,
        vcpu: u32,
        mfn: Mfn,
        offset: u32,
    ) -> Result<(), Errno> {
        let from = self.vcpu_info(dom, vcpu);
        let to = self.place_vcpu_info(dom, vcpu, mfn, offset)?;
        if let Some(from) = from {
            two_level::move_info(mem, from, to);
        }
        Ok(())
    }

    /// Says where a restored vCPU's vcpu_info is, and touches nothing there. Errors as [`Self::move_vcpu_info`].
    pub fn place_vcpu_info(&mut self, dom: DomId, vcpu: u32, mfn: Mfn, offset: u32) -> Result<Maddr, Errno> {
        if u64::from(offset) > PAGE_SIZE - vcpu_info::SIZE as u64 || !offset.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let domain = self.domain_mut(dom)?;
        let shared = domain.shared;
        let info = &mut domain.vcpus.get_mut(vcpu as usize).ok_or(Errno::ENOENT)?.info;
        if *info != default_info(shared, vcpu) {
            return Err(Errno::EINVAL);
        }
        *info = mfn.maddr().offset(offset.into());
        Ok(*info)
    }

    /// Where a vCPU's vcpu_info is.
    pub fn vcpu_info(&self, dom: DomId, vcpu: u32) -> Option<Maddr> {
        Some(self.domains.get(&dom)?.vcpus.get(vcpu as usize)?.info)
    }

    /// Where a vCPU's vcpu_info was moved to; none if it is in the shared page.
    pub fn moved_vcpu_info(&self, dom: DomId, vcpu: u32) -> Option<Maddr> {
        let domain = self.domains.get(&dom)?;
        let info = domain.vcpus.get(vcpu as usize)?.info;
        (info != default_info(domain.shared, vcpu)).then_some(info)
    }
}

/// The domain that a number in a hypercall's argument names.
fn resolve(caller: DomId, dom: DomId) -> DomId {
    if dom == DomId::SELF { caller } else { dom }
}

impl Status {
    /// EVTCHNSTAT_*. A port that leads to the hypervisor is shown as bound to port 0 of DOMID_XEN.
    pub const fn number(&self) -> u32 {
        match self.state {
            None => status_number::CLOSED,
            Some(PortState::Unbound { .. }) => status_number::UNBOUND,
            Some(PortState::Interdomain { .. } | PortState::Hypervisor { .. }) => status_number::INTERDOMAIN,
            Some(PortState::Virq { .. }) => status_number::VIRQ,
            Some(PortState::Ipi) => status_number::IPI,
        }
    }

    /// Writes the answer into the guest's argument (`evtchn_status`), leaving its question alone.
    pub fn encode(&self, into: &mut [u8; evtchn_status::SIZE]) {
        let mut put = |at: usize, bytes: &[u8]| into[at..at + bytes.len()].copy_from_slice(bytes);
        put(evtchn_status::STATUS, &self.number().to_le_bytes());
        put(evtchn_status::VCPU, &self.vcpu.to_le_bytes());
        let mut put_end = |remote: DomId, port: u32| {
            put(evtchn_status::U, &remote.get().to_le_bytes());
            put(evtchn_status::U + 4, &port.to_le_bytes());
        };
        match self.state {
            Some(PortState::Unbound { remote }) => put(evtchn_status::U, &remote.get().to_le_bytes()),
            Some(PortState::Interdomain { remote, remote_port }) => put_end(remote, remote_port),
            Some(PortState::Hypervisor { .. }) => put_end(DomId::XEN, 0),
            Some(PortState::Virq { virq }) => put(evtchn_status::U, &virq.to_le_bytes()),
            None | Some(PortState::Ipi) => {}
        }
    }
}
