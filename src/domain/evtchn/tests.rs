//! Errnos by table, then random operations against rules that are written a second time, on bytes.

use super::*;
use crate::mm::physmem::sparse::SparseMem;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const A: DomId = DomId::new(1);
const B: DomId = DomId::new(2);
const ROOT: DomId = DomId::new(0);
const NOBODY: DomId = DomId::new(77);

fn config(id: DomId, nr_vcpus: u32) -> DomainConfig {
    DomainConfig { shared_info: Mfn::new(0x100 + u64::from(id.get())), nr_vcpus, is_privileged: id == ROOT }
}

/// ROOT is privileged, A has two vCPUs, B has one.
fn three() -> (EventChannels, SparseMem) {
    let mut e = EventChannels::new();
    for (id, nr_vcpus) in [(ROOT, 1), (A, 2), (B, 1)] {
        e.add_domain(id, config(id, nr_vcpus)).unwrap();
    }
    (e, SparseMem::new())
}

/// As [`three`], with a channel from A's port 1 to B's port 1.
fn connected() -> (EventChannels, SparseMem) {
    let (mut e, mem) = three();
    assert_eq!(e.alloc_unbound(A, DomId::SELF, B), Ok(1));
    assert_eq!(e.bind_interdomain(&mem, B, A, 1).unwrap().port, 1);
    (e, mem)
}

fn fill(e: &mut EventChannels, id: DomId) {
    while e.bind_ipi(id, 0).is_ok() {}
}

#[test]
fn domains_come_and_go() {
    let (mut e, _) = three();
    assert_eq!(e.add_domain(A, config(A, 1)), Err(Errno::EEXIST));
    assert_eq!(e.add_domain(DomId::SELF, config(A, 1)), Err(Errno::EINVAL));
    assert_eq!(e.add_domain(NOBODY, config(NOBODY, 0)), Err(Errno::EINVAL));
    assert_eq!(e.add_domain(NOBODY, config(NOBODY, 33)), Err(Errno::EINVAL));
    assert_eq!(e.remove_domain(NOBODY), Err(Errno::ESRCH));
    assert_eq!(e.remove_domain(A), Ok(()));
    assert_eq!(e.bind_ipi(A, 0), Err(Errno::ESRCH));
}

#[test]
fn alloc_unbound_errnos() {
    let (mut e, _) = three();
    for (caller, dom, remote, result) in [
        (A, DomId::SELF, B, Ok(1)),
        (A, A, DomId::SELF, Ok(2)),
        (A, B, A, Err(Errno::EPERM)),
        (ROOT, A, B, Ok(3)),
        (A, NOBODY, B, Err(Errno::ESRCH)),
        (A, DomId::XEN, B, Err(Errno::ESRCH)),
        (A, A, NOBODY, Ok(4)),
    ] {
        assert_eq!(e.alloc_unbound(caller, dom, remote), result, "{caller} {dom} {remote}");
    }
    assert_eq!(e.status(A, A, 2).unwrap().state, Some(PortState::Unbound { remote: A }));
    fill(&mut e, B);
    assert_eq!(e.alloc_unbound(B, B, A), Err(Errno::ENOSPC));
}

#[test]
fn bind_interdomain_errnos() {
    let (mut e, mem) = three();
    e.alloc_unbound(A, A, B).unwrap();
    e.bind_ipi(A, 0).unwrap();
    for (caller, remote, port, errno) in [
        (B, NOBODY, 1, Errno::ESRCH),
        (B, A, 0, Errno::EINVAL),
        (B, A, 2, Errno::EINVAL),
        (B, A, 3, Errno::EINVAL),
        (B, A, 4095, Errno::EINVAL),
        (B, A, 4096, Errno::EINVAL),
        (B, A, u32::MAX, Errno::EINVAL),
        (ROOT, A, 1, Errno::EINVAL),
        (A, A, 1, Errno::EINVAL),
    ] {
        assert_eq!(e.bind_interdomain(&mem, caller, remote, port), Err(errno), "{caller} {remote} {port}");
    }
    let bound = e.bind_interdomain(&mem, B, A, 1).unwrap();
    // The local end is pending from the start.
    assert_eq!(bound.event, Event { domain: B, port: 1, vcpu: 0, effect: Effect::Upcall });
    assert_eq!(e.is_pending(&mem, B, 1), Ok(true));
    assert_eq!(e.bind_interdomain(&mem, B, A, 1), Err(Errno::EINVAL), "it is taken");
    e.alloc_unbound(A, A, B).unwrap();
    fill(&mut e, B);
    assert_eq!(e.bind_interdomain(&mem, B, A, 3), Err(Errno::ENOSPC));
    assert_eq!(e.bind_interdomain(&mem, B, NOBODY, 3), Err(Errno::ESRCH));
    assert_eq!(e.mismatches().count(), 0);
}

#[test]
fn a_domain_may_bind_to_itself() {
    let (mut e, mem) = three();
    assert_eq!(e.alloc_unbound(A, DomId::SELF, DomId::SELF), Ok(1));
    assert_eq!(e.bind_interdomain(&mem, A, DomId::SELF, 1).unwrap().port, 2);
    assert_eq!(e.send(&mem, A, 2), Ok(Sent::Event(Event { domain: A, port: 1, vcpu: 0, effect: Effect::Pending })));
    assert_eq!(e.mismatches().count(), 0);
    e.close(&mem, A, 2).unwrap();
    assert_eq!(e.status(A, A, 1).unwrap().state, Some(PortState::Unbound { remote: A }));
}

#[test]
fn bind_virq_errnos() {
    let (mut e, _) = three();
    for (virq, vcpu, result) in [
        (virq::COUNT, 0, Err(Errno::EINVAL)),
        (u32::MAX, 0, Err(Errno::EINVAL)),
        (virq::CONSOLE, 1, Err(Errno::EINVAL)),
        (virq::TIMER, 2, Err(Errno::ENOENT)),
        (virq::TIMER, u32::MAX, Err(Errno::ENOENT)),
        (virq::TIMER, 0, Ok(1)),
        (virq::TIMER, 1, Ok(2)),
        (virq::TIMER, 1, Err(Errno::EEXIST)),
        (virq::CONSOLE, 0, Ok(3)),
        (virq::CONSOLE, 0, Err(Errno::EEXIST)),
        (virq::COUNT - 1, 0, Ok(4)),
    ] {
        assert_eq!(e.bind_virq(A, virq, vcpu), result, "{virq} {vcpu}");
    }
    fill(&mut e, A);
    assert_eq!(e.bind_virq(A, virq::DEBUG, 0), Err(Errno::ENOSPC));
    assert_eq!(e.bind_virq(A, virq::TIMER, 0), Err(Errno::EEXIST));
}

#[test]
fn bind_ipi_and_bind_vcpu_errnos() {
    let (mut e, mem) = connected();
    assert_eq!(e.bind_ipi(A, 2), Err(Errno::ENOENT));
    assert_eq!(e.bind_ipi(A, 1), Ok(2));
    e.bind_virq(A, virq::TIMER, 0).unwrap();
    e.bind_virq(A, virq::CONSOLE, 0).unwrap();
    e.alloc_unbound(A, A, B).unwrap();
    for (port, vcpu, result) in [
        (1, 1, Ok(())),
        (1, 2, Err(Errno::ENOENT)),
        (0, 2, Err(Errno::ENOENT)),
        (0, 0, Err(Errno::EINVAL)),
        (4096, 0, Err(Errno::EINVAL)),
        (2, 0, Err(Errno::EINVAL)),
        (3, 1, Err(Errno::EINVAL)),
        (4, 1, Ok(())),
        (5, 1, Ok(())),
        (6, 0, Err(Errno::EINVAL)),
    ] {
        assert_eq!(e.bind_vcpu(A, port, vcpu), result, "{port} {vcpu}");
    }
    assert_eq!(e.raise_global_virq(&mem, A, virq::CONSOLE).unwrap().vcpu, 1);
    assert_eq!(e.status(A, A, 1).unwrap().vcpu, 1);
    // Closing a global VIRQ that moved frees the right slot, and a new port starts at vCPU 0.
    e.close(&mem, A, 4).unwrap();
    assert_eq!(e.bind_virq(A, virq::CONSOLE, 0), Ok(4));
    assert_eq!(e.raise_global_virq(&mem, A, virq::CONSOLE).unwrap().vcpu, 0);
}

#[test]
fn close_errnos_and_what_is_left() {
    let (mut e, mem) = connected();
    for port in [0, 2, 4095, 4096, u32::MAX] {
        assert_eq!(e.close(&mem, A, port), Err(Errno::EINVAL), "{port}");
    }
    let _ = e.send(&mem, B, 1).unwrap();
    assert_eq!(e.is_pending(&mem, A, 1), Ok(true));
    assert_eq!(e.close(&mem, A, 1), Ok(()));
    assert_eq!(e.is_pending(&mem, A, 1), Ok(false));
    assert_eq!(e.status(B, B, 1).unwrap().state, Some(PortState::Unbound { remote: A }));
    assert_eq!(e.send(&mem, B, 1), Ok(Sent::Nowhere));
    assert_eq!(e.close(&mem, A, 1), Err(Errno::EINVAL));
    // The lowest free port is used again, and the peer accepts the closer.
    assert_eq!(e.bind_interdomain(&mem, A, B, 1).unwrap().port, 1);
}

#[test]
fn send_goes_where_the_port_leads() {
    let (mut e, mem) = connected();
    e.bind_vcpu(A, 1, 1).unwrap();
    assert_eq!(e.send(&mem, B, 1), Ok(Sent::Event(Event { domain: A, port: 1, vcpu: 1, effect: Effect::Upcall })));
    assert_eq!(
        e.send(&mem, B, 1),
        Ok(Sent::Event(Event { domain: A, port: 1, vcpu: 1, effect: Effect::AlreadyPending }))
    );
    let ipi = e.bind_ipi(A, 0).unwrap();
    assert_eq!(e.send(&mem, A, ipi), Ok(Sent::Event(Event { domain: A, port: ipi, vcpu: 0, effect: Effect::Upcall })));
    let virq = e.bind_virq(A, virq::TIMER, 0).unwrap();
    assert_eq!(e.send(&mem, A, virq), Err(Errno::EINVAL));
    let console = e.bind_hypervisor(A, Service::Console).unwrap();
    assert_eq!(e.send(&mem, A, console), Ok(Sent::Hypervisor(Service::Console)));
    assert_eq!(e.raise(&mem, A, console).unwrap().port, console);
    for port in [0, 50, 4096, u32::MAX] {
        assert_eq!(e.send(&mem, A, port), Err(Errno::EINVAL), "{port}");
        assert_eq!(e.raise(&mem, A, port), Err(Errno::EINVAL), "{port}");
    }
    assert_eq!(e.raise(&mem, NOBODY, 1), Err(Errno::ESRCH));
}

#[test]
fn virqs_reach_their_port_if_they_have_one() {
    let (mut e, mem) = three();
    assert_eq!(e.raise_virq(&mem, A, 1, virq::TIMER), None);
    e.bind_virq(A, virq::TIMER, 1).unwrap();
    assert_eq!(
        e.raise_virq(&mem, A, 1, virq::TIMER),
        Some(Event { domain: A, port: 1, vcpu: 1, effect: Effect::Upcall })
    );
    assert_eq!(e.raise_virq(&mem, A, 0, virq::TIMER), None);
    assert_eq!(e.raise_virq(&mem, A, 9, virq::TIMER), None);
    assert_eq!(e.raise_virq(&mem, A, 1, 99), None);
    assert_eq!(e.raise_virq(&mem, NOBODY, 1, virq::TIMER), None);
    e.close(&mem, A, 1).unwrap();
    assert_eq!(e.raise_virq(&mem, A, 1, virq::TIMER), None);
}

#[test]
fn status_errnos_and_answers() {
    let (mut e, mem) = connected();
    e.bind_hypervisor(A, Service::Console).unwrap();
    e.bind_virq(A, virq::DEBUG, 1).unwrap();
    e.bind_ipi(A, 1).unwrap();
    e.alloc_unbound(A, A, NOBODY).unwrap();
    for (caller, dom, port, errno) in [
        (A, NOBODY, 1, Errno::ESRCH),
        (A, A, 4096, Errno::EINVAL),
        (A, B, 4096, Errno::EINVAL),
        (A, B, 1, Errno::EPERM),
    ] {
        assert_eq!(e.status(caller, dom, port), Err(errno), "{caller} {dom} {port}");
    }
    for (port, status, vcpu, union) in [
        (0, 0, 0, 0u64),
        (1, 2, 0, 2 | 1 << 32),
        (2, 2, 0, 0x7ff2),
        (3, 4, 1, 1),
        (4, 5, 1, 0),
        (5, 1, 0, 77),
        (6, 0, 0, 0),
        (4095, 0, 0, 0),
    ] {
        let mut bytes = [0u8; evtchn_status::SIZE];
        e.status(ROOT, A, port).unwrap().encode(&mut bytes);
        assert_eq!(bytes[8..12], u32::to_le_bytes(status), "{port}");
        assert_eq!(bytes[12..16], u32::to_le_bytes(vcpu), "{port}");
        assert_eq!(bytes[16..24], union.to_le_bytes(), "{port}");
    }
    let _ = mem;
}

#[test]
fn unmask_and_is_pending_errnos() {
    let (e, mem) = connected();
    assert_eq!(e.unmask(&mem, A, 4096), Err(Errno::EINVAL));
    assert_eq!(e.is_pending(&mem, A, 4096), Err(Errno::EINVAL));
    assert_eq!(e.unmask(&mem, A, 100), Ok(None));
    let shared = config(A, 2).shared_info.maddr();
    mem.write_u64(shared.offset(2560), 2);
    let _ = e.send(&mem, B, 1).unwrap();
    assert_eq!(e.unmask(&mem, A, 1), Ok(Some(0)));
    assert_eq!(e.unmask(&mem, A, 1), Ok(None));
}

#[test]
fn reset_keeps_what_leads_to_the_hypervisor() {
    let (mut e, mem) = connected();
    let console = e.bind_hypervisor(A, Service::Console).unwrap();
    e.bind_virq(A, virq::TIMER, 1).unwrap();
    assert_eq!(e.reset(&mem, A, B), Err(Errno::EPERM));
    assert_eq!(e.reset(&mem, A, NOBODY), Err(Errno::ESRCH));
    assert_eq!(e.reset(&mem, ROOT, A), Ok(()));
    assert_eq!(e.ports(A).map(|p| p.port).collect::<Vec<_>>(), [console]);
    assert_eq!(e.status(B, B, 1).unwrap().state, Some(PortState::Unbound { remote: A }));
    assert_eq!(e.bind_virq(A, virq::TIMER, 1), Ok(1));
}

#[test]
fn a_domain_that_ends_leaves_unbound_ends() {
    let (mut e, mem) = connected();
    e.remove_domain(A).unwrap();
    assert_eq!(e.status(B, B, 1).unwrap().state, Some(PortState::Unbound { remote: A }));
    assert_eq!(e.send(&mem, B, 1), Ok(Sent::Nowhere));
    // A namesake may bind to it.
    e.add_domain(A, config(A, 1)).unwrap();
    assert!(e.bind_interdomain(&mem, A, B, 1).is_ok());
}

#[test]
fn a_moved_vcpu_info_takes_over_and_looks_at_everything() {
    let (mut e, mem) = connected();
    let old = config(A, 2).shared_info.maddr();
    mem.write_u64(old, 0x100);
    mem.write_u64(old.offset(16), 0xdead_beef);
    let to = Mfn::new(0x500);
    for (dom, vcpu, offset, errno) in [
        (NOBODY, 0, 0, Errno::ESRCH),
        (A, 2, 0, Errno::ENOENT),
        (A, 0, 4096 - 63, Errno::EINVAL),
        (A, 0, 4096 - 56, Errno::EINVAL),
        (A, 0, 4, Errno::EINVAL),
        (A, 0, u32::MAX, Errno::EINVAL),
    ] {
        assert_eq!(e.move_vcpu_info(&mem, dom, vcpu, to, offset), Err(errno), "{dom} {vcpu} {offset}");
    }
    assert_eq!(e.moved_vcpu_info(A, 0), None);
    assert_eq!(e.move_vcpu_info(&mem, A, 0, to, 4096 - 64), Ok(()));
    let new = to.maddr().offset(4096 - 64);
    assert_eq!((e.vcpu_info(A, 0), e.moved_vcpu_info(A, 0)), (Some(new), Some(new)));
    assert_eq!(mem.read_u64(new), 0x101);
    assert_eq!(mem.read_u64(new.offset(8)), u64::MAX);
    assert_eq!(mem.read_u64(new.offset(16)), 0xdead_beef);
    assert_eq!(e.move_vcpu_info(&mem, A, 0, to, 0), Err(Errno::EINVAL), "only once");
    // Events go to the new place from now on.
    mem.write_u64(new, 0);
    mem.write_u64(new.offset(8), 0);
    mem.write_u64(old, 0);
    let _ = e.send(&mem, B, 1).unwrap();
    assert_eq!((mem.read_u64(new), mem.read_u64(old)), (1, 0));
}

#[test]
fn a_save_that_does_not_fit_is_told() {
    let record = |port, state, notify_vcpu| PortRecord { port, state, notify_vcpu };
    let ipi = |port, vcpu| record(port, PortState::Ipi, vcpu);
    let virq = |port, virq, vcpu| record(port, PortState::Virq { virq }, vcpu);
    for (ports, error) in [
        (vec![ipi(0, 0)], RestoreError::Port { domain: A, port: 0 }),
        (vec![ipi(4096, 0)], RestoreError::Port { domain: A, port: 4096 }),
        (vec![ipi(5, 0), ipi(5, 0)], RestoreError::PortTwice { domain: A, port: 5 }),
        (vec![ipi(5, 2)], RestoreError::Vcpu { domain: A, port: 5, vcpu: 2 }),
        (vec![virq(5, 24, 0)], RestoreError::Virq { domain: A, port: 5, virq: 24 }),
        (vec![virq(5, 0, 1), virq(6, 0, 1)], RestoreError::VirqTwice { domain: A, port: 6, virq: 0 }),
        (vec![virq(5, 2, 0), virq(6, 2, 1)], RestoreError::VirqTwice { domain: A, port: 6, virq: 2 }),
    ] {
        let mut e = EventChannels::new();
        assert_eq!(e.restore_domain(A, config(A, 2), ports), Err(error));
        assert_eq!(e.domains().count(), 0);
        assert!(!std::format!("{error}").is_empty());
    }
    let mut e = EventChannels::new();
    e.restore_domain(A, config(A, 2), []).unwrap();
    assert_eq!(e.restore_domain(A, config(A, 2), []), Err(RestoreError::Domain { domain: A, errno: Errno::EEXIST }));
}

#[test]
fn ends_that_do_not_meet_are_told_and_can_be_removed() {
    let to = |port, remote, remote_port| PortRecord {
        port,
        state: PortState::Interdomain { remote, remote_port },
        notify_vcpu: 0,
    };
    let mut e = EventChannels::new();
    // B 1 and ROOT 1 are a pair; A's ports all lead nowhere.
    let bad = [to(1, B, 1), to(2, NOBODY, 1), to(3, A, 3), to(4, B, 9)];
    e.restore_domain(A, config(A, 1), bad).unwrap();
    e.restore_domain(B, config(B, 1), [to(1, ROOT, 1)]).unwrap();
    e.restore_domain(ROOT, config(ROOT, 1), [to(1, B, 1)]).unwrap();
    let found: Vec<_> = e.mismatches().map(|m| (m.domain, m.port, m.found)).collect();
    let bound = PortState::Interdomain { remote: ROOT, remote_port: 1 };
    assert_eq!(
        found,
        [
            (A, 1, OtherEnd::Bound(bound)),
            (A, 2, OtherEnd::NoDomain),
            (A, 3, OtherEnd::Itself),
            (A, 4, OtherEnd::NotInUse)
        ]
    );
    e.remove_domain(A).unwrap();
    assert_eq!(e.mismatches().count(), 0);
    assert_eq!(e.status(ROOT, B, 1).unwrap().state, Some(bound), "the pair is whole");
}

#[derive(Clone, Copy, Debug)]
enum Action {
    AllocUnbound(u16, u16, u16),
    BindInterdomain(u16, u16, u32),
    BindVirq(u16, u32, u32),
    BindIpi(u16, u32),
    BindHypervisor(u16),
    BindVcpu(u16, u32, u32),
    Close(u16, u32),
    Send(u16, u32),
    Virq(u16, u32, u32),
    Raise(u16, u32),
    Unmask(u16, u32),
    Reset(u16, u16),
    Restart(u16),
    MoveInfo(u16, u32),
    /// The guest masks a port.
    Mask(u16, u32),
    /// The guest handles everything of a vCPU.
    Handle(u16, u32),
}

fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    let d = || prop_oneof![9 => 0u16..4, 1 => Just(DomId::SELF.get())];
    let p = || prop_oneof![9 => 0u32..8, 1 => Just(4095), 1 => Just(4096)];
    let v = || 0u32..3;
    prop_oneof![
        4 => (d(), d(), d()).prop_map(|(a, b, c)| AllocUnbound(a, b, c)),
        8 => (d(), d(), p()).prop_map(|(a, b, c)| BindInterdomain(a, b, c)),
        2 => (d(), 0u32..4, v()).prop_map(|(a, b, c)| BindVirq(a, b, c)),
        2 => (d(), v()).prop_map(|(a, b)| BindIpi(a, b)),
        1 => d().prop_map(BindHypervisor),
        2 => (d(), p(), v()).prop_map(|(a, b, c)| BindVcpu(a, b, c)),
        3 => (d(), p()).prop_map(|(a, b)| Close(a, b)),
        9 => (d(), p()).prop_map(|(a, b)| Send(a, b)),
        3 => (d(), v(), 0u32..4).prop_map(|(a, b, c)| Virq(a, b, c)),
        3 => (d(), p()).prop_map(|(a, b)| Raise(a, b)),
        2 => (d(), p()).prop_map(|(a, b)| Unmask(a, b)),
        1 => (d(), d()).prop_map(|(a, b)| Reset(a, b)),
        1 => d().prop_map(Restart),
        1 => (d(), v()).prop_map(|(a, b)| MoveInfo(a, b)),
        3 => (d(), 0u32..8).prop_map(|(a, b)| Mask(a, b)),
        3 => (d(), v()).prop_map(|(a, b)| Handle(a, b)),
    ]
}

/// All that a domain shares, as bytes: its page, then the page that its vcpu_infos may be moved to.
fn snapshot(mem: &SparseMem, id: DomId) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    mem.read(config(id, 1).shared_info.maddr(), &mut bytes[..4096]);
    mem.read(moved_frame(id).maddr(), &mut bytes[4096..]);
    bytes
}

fn moved_frame(id: DomId) -> Mfn {
    Mfn::new(0x900 + u64::from(id.get()))
}

/// The delivery rule of public/xen.h, on bytes: what an event at `port` for the vcpu_info at `info` leaves behind.
fn deliver(bytes: &mut [u8], info: usize, port: u32) -> Effect {
    let (byte, bit) = (port as usize / 8, 1u8 << (port % 8));
    if bytes[2048 + byte] & bit != 0 {
        return Effect::AlreadyPending;
    }
    bytes[2048 + byte] |= bit;
    let (sel, sel_bit) = (info + 8 + port as usize / 64 / 8, 1u8 << (port / 64 % 8));
    if bytes[2560 + byte] & bit != 0 || bytes[sel] & sel_bit != 0 {
        return Effect::Pending;
    }
    bytes[sel] |= sel_bit;
    if bytes[info] != 0 {
        return Effect::Pending;
    }
    bytes[info] = 1;
    Effect::Upcall
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn ends_match_and_events_set_the_right_bits(actions in proptest::collection::vec(action(), 1..80)) {
        let (mut e, mem) = three();
        for action in actions {
            let before: Vec<_> = (0..3).map(|id| snapshot(&mem, DomId::new(id))).collect();
            let infos: Vec<Vec<usize>> = (0..3u16).map(|id| (0..2).map(|v| {
                match e.moved_vcpu_info(DomId::new(id), v) {
                    Some(_) => 4096 + v as usize * 64,
                    None => v as usize * 64,
                }
            }).collect()).collect();
            let d = DomId::new;
            let shared = |id: u16| config(d(id), 1).shared_info.maddr();
            let mut event = None;
            match action {
                Action::AllocUnbound(a, b, c) => drop(e.alloc_unbound(d(a), d(b), d(c))),
                Action::BindInterdomain(a, b, p) => {
                    if let Ok(bound) = e.bind_interdomain(&mem, d(a), d(b), p) {
                        prop_assert_eq!((bound.event.domain, bound.event.port), (d(a), bound.port));
                        event = Some(bound.event);
                    }
                }
                Action::BindVirq(a, virq, v) => drop(e.bind_virq(d(a), virq, v)),
                Action::BindIpi(a, v) => drop(e.bind_ipi(d(a), v)),
                Action::BindHypervisor(a) => drop(e.bind_hypervisor(d(a), Service::Store)),
                Action::BindVcpu(a, p, v) => drop(e.bind_vcpu(d(a), p, v)),
                Action::Close(a, p) => drop(e.close(&mem, d(a), p)),
                Action::Send(a, p) => if let Ok(Sent::Event(sent)) = e.send(&mem, d(a), p) {
                    event = Some(sent);
                },
                Action::Virq(a, v, virq) => event = e.raise_virq(&mem, d(a), v, virq),
                Action::Raise(a, p) => event = e.raise(&mem, d(a), p).ok(),
                Action::Unmask(a, p) => drop(e.unmask(&mem, d(a), p)),
                Action::Reset(a, b) => drop(e.reset(&mem, d(a), d(b))),
                Action::Restart(a) => if e.remove_domain(d(a)).is_ok() {
                    mem.zero(shared(a), 4096);
                    e.add_domain(d(a), config(d(a), 2)).unwrap();
                },
                Action::MoveInfo(a, v) => drop(e.move_vcpu_info(&mem, d(a), v, moved_frame(d(a)), v * 64)),
                Action::Mask(a, p) if a < 3 => {
                    let word = shared(a).offset(2560);
                    mem.write_u64(word, mem.read_u64(word) | 1 << p);
                }
                Action::Handle(a, v) => if let Some(info) = e.vcpu_info(d(a), v) {
                    mem.zero(info, 16);
                    mem.zero(shared(a).offset(2048), 512);
                },
                Action::Mask(..) => {}
            }
            if let Some(event) = event {
                let status = e.status(event.domain, event.domain, event.port).unwrap();
                prop_assert_eq!(status.vcpu, event.vcpu);
                for (id, mut expected) in before.into_iter().enumerate() {
                    if usize::from(event.domain.get()) == id {
                        let effect = deliver(&mut expected, infos[id][event.vcpu as usize], event.port);
                        prop_assert_eq!(effect, event.effect);
                    }
                    prop_assert!(expected == snapshot(&mem, d(id as u16)), "bits of d{} after {:?}", id, event);
                }
            }
            // Invariants 1 to 3, from the outside.
            prop_assert_eq!(e.mismatches().next(), None);
            for id in e.domains() {
                let mut virqs = std::collections::BTreeSet::new();
                for record in e.ports(id) {
                    prop_assert!((1..NR_PORTS).contains(&record.port));
                    prop_assert!(e.vcpu_info(id, record.notify_vcpu).is_some());
                    if let PortState::Virq { virq } = record.state {
                        let vcpu = if matches!(virq, 0 | 1) { record.notify_vcpu } else { 0 };
                        prop_assert!(virqs.insert((virq, vcpu)));
                    }
                }
            }
        }
        // A save read back is the same, and goes on the same.
        let mut again = EventChannels::new();
        for id in e.domains() {
            let nr_vcpus = (0..).find(|&v| e.vcpu_info(id, v).is_none()).unwrap();
            again.restore_domain(id, config(id, nr_vcpus), e.ports(id)).unwrap();
        }
        prop_assert_eq!(again.mismatches().next(), None);
        for id in e.domains().collect::<Vec<_>>() {
            prop_assert!(e.ports(id).eq(again.ports(id)));
            prop_assert_eq!(e.bind_virq(id, 0, 0), again.bind_virq(id, 0, 0));
            prop_assert_eq!(e.bind_ipi(id, 0), again.bind_ipi(id, 0));
        }
    }
}
