//! Leaves on another domain's frames: whoever removes them, the counts are what the tables say.

use super::*;
use crate::mm::types::{LeafPlace, LooseLeaf, entry};
use std::cell::Cell;

const EBUSY: i64 = -16;
const FRAME: Mfn = Mfn::new(FOREIGN);

fn place(slot: u64) -> LeafPlace {
    LeafPlace::Entry(slot * 8)
}

fn leaf(flags: u64) -> u64 {
    FOREIGN << 12 | P | flags
}

/// Maps the foreign frame in a slot of table 0, as a grant's mapping.
fn map(guest: &Guest, slot: u64, access: Access) {
    let flags = if access == Access::Write { W } else { 0 };
    guest.types().get_granted(FRAME, D2, access).unwrap();
    assert_eq!(guest.types().install_leaf(place(slot), LooseLeaf::holding(leaf(flags))), Ok(false));
}

fn mapped() -> Guest {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    map(&guest, 3, Access::Write);
    map(&guest, 4, Access::Read);
    map(&guest, 5, Access::Write);
    guest.check();
    guest
}

fn counts(guest: &Guest) -> (u64, u64) {
    (guest.frames.infos[FOREIGN as usize].count(), guest.type_of(FOREIGN).1)
}

#[test]
fn a_leaf_holds_what_it_maps_and_gives_it_back_when_it_is_taken_down() {
    let guest = mapped();
    assert_eq!(counts(&guest), (4, 2));
    let types = guest.types();
    // Not by the wrong frame, not with other rights, not where nothing is.
    for (slot, mfn, access) in [(3, Mfn::new(20), Access::Write), (3, FRAME, Access::Read), (6, FRAME, Access::Read)] {
        assert!(types.replace_leaf(place(slot), mfn, access, LooseLeaf::NONE).is_err());
    }
    guest.check();
    types.replace_leaf(place(3), FRAME, Access::Write, LooseLeaf::NONE).unwrap();
    let by_address = LeafPlace::Address { l4: Mfn::new(10), va: 4 << 12 };
    types.replace_leaf(by_address, FRAME, Access::Read, LooseLeaf::NONE).unwrap();
    guest.check();
    assert_eq!(counts(&guest), (2, 1));
    // Another leaf moves to its place.
    guest.update(0, 7, 20 << 12 | P | W).unwrap();
    let moved = types.take_leaf(place(7)).unwrap();
    types.replace_leaf(place(5), FRAME, Access::Write, moved).unwrap();
    guest.check();
    assert_eq!((counts(&guest), guest.peek(0, 7), entry::frame_of(guest.peek(0, 5))), ((1, 0), 0, Mfn::new(20)));
}

#[test]
fn a_leaf_takes_the_place_of_another_or_none_at_all() {
    let guest = mapped();
    let types = guest.types();
    guest.update(0, 6, 20 << 12 | P | W).unwrap();
    types.get_granted(FRAME, D2, Access::Read).unwrap();
    let loose = || LooseLeaf::holding(leaf(0));
    // A table of level 2, a frame without a type, a writable one, another domain's, none at all, and between two entries.
    for at in [4 << 12, 21 << 12, 20 << 12, FOREIGN << 12, NO_RAM << 12, 4] {
        assert!(types.install_leaf(LeafPlace::Entry(at), loose()).is_err(), "{at:#x}");
    }
    for va in [1 << 30, 1 << 47, 0xffff_8000_0000_0000] {
        assert!(types.install_leaf(LeafPlace::Address { l4: Mfn::new(10), va }, loose()).is_err(), "{va:#x}");
    }
    assert_eq!(types.install_leaf(place(6), loose()), Ok(true));
    assert_eq!(guest.type_of(20).1, 0);
    guest.check();
}

#[test]
fn only_the_granters_ordinary_frames_are_given() {
    let guest = mapped();
    let types = guest.types();
    let refused = [(FOREIGN, D1), (20, D2), (SHARED_RO, D1), (M2P, DomId::XEN), (REGION, D2), (NO_RAM, D2)];
    for (mfn, owner) in refused {
        assert!(types.get_granted(Mfn::new(mfn), owner, Access::Read).is_err(), "{mfn:#x} of {owner}");
    }
    assert!(types.get_granted(Mfn::new(0), D1, Access::Write).is_err(), "a page table");
    types.get_granted(Mfn::new(0), D1, Access::Read).unwrap();
    types.put_granted(Mfn::new(0), Access::Read);
    guest.check();
}

#[test]
fn the_guest_drops_a_leaf_and_cannot_write_one() {
    let guest = mapped();
    guest.update(0, 3, 0).unwrap();
    guest.update(0, 4, 20 << 12 | P | W).unwrap();
    guest.check();
    assert_eq!(counts(&guest), (2, 1));
    assert_eq!(guest.update(0, 3, leaf(0)).unwrap_err().errno(), EBUSY);
    assert_eq!(guest.update(0, 5, leaf(0)).unwrap_err().errno(), EBUSY, "not even with less");
    guest.update(0, 5, leaf(W | 1 << 9)).unwrap();
    guest.check();
}

#[test]
fn a_table_that_is_one_no_more_drops_its_leaves_and_is_not_one_again() {
    let mut guest = mapped();
    guest.unpin(10).unwrap();
    guest.check();
    assert_eq!(counts(&guest), (1, 0));
    assert!(guest.types().replace_leaf(place(3), FRAME, Access::Write, LooseLeaf::NONE).is_err());
    assert_eq!(guest.types().pin(Mfn::new(10), 4).unwrap_err().errno(), EBUSY);
    guest.check();
}

#[test]
fn a_replay_lets_as_many_leaves_through_as_there_are_mappings() {
    for (writers, readers) in [(2, 1), (3, 2), (1, 1), (2, 0), (0, 3)] {
        let before = mapped();
        let mut guest = Guest::with_tree();
        for slot in 3..6 {
            guest.poke(0, slot, before.peek(0, slot));
        }
        let left = Cell::new((writers, readers));
        let may_map = |mfn, owner, access| {
            let (w, r) = left.get();
            left.set(if access == Access::Write { (w - 1, r) } else { (w, r - 1) });
            mfn == FRAME && owner == D2 && left.get().0 >= 0 && left.get().1 >= 0
        };
        let view = DomainView { id: D1, hypervisor_slots: &TEMPLATE, may_map: &may_map, has_hardware: false };
        let types = PageTypes::new(&guest.frames, &guest.mem, view);
        types.announce(Mfn::new(10), 4).unwrap();
        let result = types.replay_pin(Mfn::new(10), 4);
        assert_eq!(result.is_ok(), writers >= 2 && readers >= 1, "{writers} writers, {readers} readers");
        if result.is_ok() {
            guest.pins.insert(10, 4);
            guest.check();
            guest.unpin(10).unwrap();
        }
        assert_eq!(counts(&guest), (1, 0), "nothing is lost or kept");
    }
}

#[test]
fn either_domain_may_end_first() {
    // The mapper first: what it maps is the granter's again.
    let mut guest = mapped();
    guest.relinquish(&(0..NR_OWN).collect::<Vec<_>>());
    // The granter first: its frame stays until the mapper's leaves are gone.
    let guest = mapped();
    let view = DomainView { id: D2, hypervisor_slots: &TEMPLATE, may_map: &may_map, has_hardware: false };
    PageTypes::new(&guest.frames, &guest.mem, view).relinquish_page(FRAME).unwrap();
    assert_eq!(counts(&guest), (3, 2));
    assert!(guest.types().get_granted(FRAME, D2, Access::Read).is_ok(), "it is still its frame");
    guest.types().put_granted(FRAME, Access::Read);
    guest.update(0, 3, 0).unwrap();
    guest.types().replace_leaf(place(4), FRAME, Access::Read, LooseLeaf::NONE).unwrap();
    assert!(!guest.frames.is_freed(FOREIGN));
    guest.update(0, 5, 0).unwrap();
    assert!(guest.frames.is_freed(FOREIGN));
}
