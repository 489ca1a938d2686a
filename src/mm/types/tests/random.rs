//! Random sequences of what a guest may ask for, on a small guest: after each step every count must be what the oracle says.

use super::*;
use crate::mm::types::Stats;
use proptest::prelude::*;
use std::vec;

#[derive(Clone, Debug)]
enum Action {
    Pin { mfn: u64, level: u8 },
    Unpin { mfn: u64 },
    Base { mfn: u64 },
    Unbase { nth: usize },
    Update { table: u64, slot: u64, entry: u64, command: u64 },
    UpdateVa { nth: usize, va: u64, entry: u64 },
    Descriptors { mfn: u64 },
    Undescriptors { nth: usize },
    Release { mfn: u64 },
}

/// The level that a frame is meant for, 0 for data.
fn role(mfn: u64) -> u8 {
    match mfn {
        0..4 => 1,
        4..7 => 2,
        7..10 => 3,
        10..14 => 4,
        _ => 0,
    }
}

fn frame_for(level: u8) -> BoxedStrategy<u64> {
    match level {
        1 => (0u64..4).boxed(),
        2 => (4u64..7).boxed(),
        3 => (7u64..10).boxed(),
        4 => (10u64..14).boxed(),
        _ => (14u64..NR_OWN).boxed(),
    }
}

fn any_frame() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..NO_RAM + 1, 1 => Just(Mfn::LIMIT - 1)]
}

/// The frame that an entry of a table of the level names: mostly of the right kind, sometimes its own level or anything.
fn target(level: u8) -> impl Strategy<Value = u64> {
    let below = if level == 0 { 0 } else { level - 1 };
    prop_oneof![10 => frame_for(below), 2 => frame_for(level), 2 => any_frame()]
}

fn flags() -> impl Strategy<Value = u64> {
    // Present mostly; writable, user and what is free often; what is refused seldom.
    let refused = prop_oneof![16 => Just(0u64), 1 => Just(1 << 3), 1 => Just(1 << 7), 1 => Just(1 << 8)];
    (prop::bool::weighted(0.85), prop::bool::weighted(0.5), any::<u64>(), refused).prop_map(
        |(present, writable, other, refused)| {
            (other & 0xfff0_0000_0000_0e64) | u64::from(present) | u64::from(writable) << 1 | refused
        },
    )
}

fn entry_for(table: u64) -> impl Strategy<Value = u64> {
    (target(role(table)), flags()).prop_map(|(mfn, flags)| mfn << 12 | flags)
}

fn slot() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..4, 1 => Just(255u64), 1 => Just(256u64), 1 => Just(271u64), 1 => Just(272u64), 2 => Just(511u64)]
}

fn located_entry() -> impl Strategy<Value = (u64, u64, u64)> {
    prop_oneof![8 => 0u64..14, 1 => 14..NR_OWN, 1 => any_frame()]
        .prop_flat_map(|table| (Just(table), slot(), entry_for(table)))
}

fn action() -> impl Strategy<Value = Action> {
    let with_role = (0u64..14).prop_map(|mfn| (mfn, role(mfn)));
    let pinnable = prop_oneof![8 => with_role, 1 => (any_frame(), 0u8..6)];
    prop_oneof![
        6 => pinnable.prop_map(|(mfn, level)| Action::Pin { mfn, level }),
        4 => (0u64..14).prop_map(|mfn| Action::Unpin { mfn }),
        3 => frame_for(4).prop_map(|mfn| Action::Base { mfn }),
        2 => any::<usize>().prop_map(|nth| Action::Unbase { nth }),
        20 => (located_entry(), prop_oneof![3 => Just(0u64), 3 => Just(2u64), 1 => Just(3u64), 1 => Just(1u64)])
            .prop_map(|((table, slot, entry), command)| Action::Update { table, slot, entry, command }),
        12 => (any::<usize>(), prop_oneof![6 => Just(0u64), 1 => slot()], slot(), entry_for(0)).prop_map(|(nth, high, low, entry)| {
            let va = high << 39 | low << 12;
            Action::UpdateVa { nth, va: if high & 256 != 0 { va | 0xffff << 48 } else { va }, entry }
        }),
        1 => (0..NR_OWN).prop_map(|mfn| Action::Descriptors { mfn }),
        1 => any::<usize>().prop_map(|nth| Action::Undescriptors { nth }),
        1 => (0..NR_OWN).prop_map(|mfn| Action::Release { mfn }),
    ]
}

/// Does it; true if it was allowed.
fn apply(guest: &mut Guest, action: &Action) -> bool {
    match *action {
        Action::Pin { mfn, level } => guest.pin(mfn, level).is_ok(),
        Action::Unpin { mfn } => guest.unpin(mfn).is_ok(),
        Action::Base { mfn } => guest.base(mfn).is_ok(),
        Action::Unbase { nth } => {
            let Some(nth) = nth.checked_rem(guest.bases.len()) else { return false };
            let mfn = guest.bases.swap_remove(nth);
            guest.types().put_base(Mfn::new(mfn));
            true
        }
        Action::Update { table, slot, entry, command } => {
            let before = guest.peek(table, slot);
            let result = guest.types().mmu_update((table << 12) + slot * 8 + command, entry);
            if result.is_err() {
                assert_eq!(guest.peek(table, slot), before, "a refused update changed the entry");
            }
            result.is_ok()
        }
        Action::UpdateVa { nth, va, entry } => {
            let Some(nth) = nth.checked_rem(guest.bases.len()) else { return false };
            guest.types().update_va_mapping(Mfn::new(guest.bases[nth]), va, entry).is_ok()
        }
        Action::Descriptors { mfn } => {
            let done = guest.types().get_page_and_type(Mfn::new(mfn), PageType::SegDesc).is_ok();
            guest.descriptors.extend(done.then_some(mfn));
            done
        }
        Action::Undescriptors { nth } => {
            let Some(nth) = nth.checked_rem(guest.descriptors.len()) else { return false };
            let mfn = guest.descriptors.swap_remove(nth);
            guest.types().put_page_and_type(Mfn::new(mfn));
            true
        }
        Action::Release { mfn } => {
            let Ok(is_free) = guest.types().release_page(Mfn::new(mfn)) else { return false };
            guest.released.insert(mfn);
            assert_eq!(is_free, guest.frames.is_freed(mfn));
            true
        }
    }
}

/// A second machine with the same memory and fresh records must come to the same counts.
fn replayed(guest: &Guest) -> Guest {
    let mut again = Guest::new();
    for frame in guest.mem.written() {
        for slot in 0..512 {
            let value = guest.peek(frame, slot);
            if value != 0 {
                again.poke(frame, slot, value);
            }
        }
    }
    let types = again.types();
    let saved: Vec<(u64, crate::mm::types::Root)> =
        (0..NR_OWN).filter_map(|mfn| Some((mfn, guest.root_of(Mfn::new(mfn))?))).collect();
    for (mfn, root) in &saved {
        types.announce(Mfn::new(*mfn), root.level).expect("fresh records");
    }
    for mfn in &guest.bases {
        types.announce(Mfn::new(*mfn), 4).expect("fresh records");
    }
    let mut sum = Stats::default();
    for (mfn, root) in saved.iter().filter(|(_, root)| root.is_pinned) {
        let stats = types.replay_pin(Mfn::new(*mfn), root.level).expect("it was pinned before");
        sum.tables += stats.tables;
        sum.leaves += stats.leaves;
    }
    for mfn in &guest.bases {
        let stats = types.replay_base(Mfn::new(*mfn)).expect("it was a base before");
        sum.tables += stats.tables;
        sum.leaves += stats.leaves;
    }
    for mfn in &guest.descriptors {
        types.get_page_and_type(Mfn::new(*mfn), PageType::SegDesc).expect("it was a descriptor table before");
    }
    assert_eq!(types.stats(), sum);
    // What was given up is given up again when all references are back, and is free or not as before.
    for mfn in &guest.released {
        assert_eq!(types.release_page(Mfn::new(*mfn)), Ok(guest.frames.is_freed(*mfn)), "frame {mfn:#x}");
        assert_eq!(again.frames.infos[*mfn as usize].is_lingering(D1), !guest.frames.is_freed(*mfn));
    }
    again.released = guest.released.clone();
    again.pins = guest.pins.clone();
    again.bases = guest.bases.clone();
    again.descriptors = guest.descriptors.clone();
    again
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_are_what_the_tables_say(
        contents in prop::collection::vec(located_entry(), 0..60),
        actions in prop::collection::vec(action(), 1..120),
        order in Just((0..NR_OWN).collect::<Vec<u64>>()).prop_shuffle(),
    ) {
        let mut guest = Guest::with_tree();
        for (table, slot, entry) in contents {
            if table < NR_OWN {
                guest.poke(table, slot, entry);
            }
        }
        for action in &actions {
            apply(&mut guest, action);
            guest.check();
        }
        let again = replayed(&guest);
        again.check();
        for (a, b) in guest.frames.infos.iter().zip(&again.frames.infos) {
            prop_assert_eq!(a.count(), b.count());
            prop_assert_eq!(a.type_count(), b.type_count());
            if a.count() != 0 {
                prop_assert_eq!(a.linear_count(), b.linear_count());
            }
            if a.type_count() != 0 {
                prop_assert_eq!(a.page_type(), b.page_type());
            }
        }
        guest.relinquish(&order);
    }

    #[test]
    fn a_walk_finds_what_the_entries_say(
        contents in prop::collection::vec(located_entry(), 0..60),
        va in any::<u64>(),
    ) {
        let guest = Guest::with_tree();
        for (table, slot, entry) in contents {
            guest.poke(table, slot, entry);
        }
        // Whatever memory holds, a walk ends.
        let _ = super::super::walk(&guest.mem, Mfn::new(10), va);
        let _ = super::super::walk(&guest.mem, Mfn::new(10), va & 0x1fff);
    }
}

#[test]
fn the_random_sequences_reach_what_they_should() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut done = vec![0u32; 9];
    let (mut linear, mut deep) = (0, 0);
    for _ in 0..60 {
        let mut guest = Guest::with_tree();
        for _ in 0..100 {
            let action = action().new_tree(&mut runner).unwrap().current();
            let kind = match action {
                Action::Pin { .. } => 0,
                Action::Unpin { .. } => 1,
                Action::Base { .. } => 2,
                Action::Unbase { .. } => 3,
                Action::Update { .. } => 4,
                Action::UpdateVa { .. } => 5,
                Action::Descriptors { .. } => 6,
                Action::Undescriptors { .. } => 7,
                Action::Release { .. } => 8,
            };
            done[kind] += u32::from(apply(&mut guest, &action));
            linear += u32::from(guest.frames.infos.iter().any(|info| info.linear_count() != 0));
            deep += u32::from(guest.type_of(10) == (PageType::L4, 1) && guest.type_of(0).1 != 0);
        }
    }
    assert!(done.iter().all(|n| *n >= 20), "too few successes of some kind: {done:?}");
    assert!(linear >= 20 && deep >= 20, "too few linear mappings ({linear}) or whole trees ({deep})");
}
