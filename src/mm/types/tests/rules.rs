//! The rules one by one, with Xen's errnos.

use super::*;
use crate::mm::types::{Preserve, Root, check_descriptor, entry};
use std::format;

const EPERM: i64 = -1;
const EBUSY: i64 = -16;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;

fn errno<T: core::fmt::Debug>(result: Result<T, TypeError>) -> i64 {
    let error = result.expect_err("it must be refused");
    assert!(!format!("{error}").is_empty());
    error.errno()
}

#[test]
fn pinning_a_tree_types_every_table_in_it() {
    let mut guest = Guest::with_tree();
    guest.poke(0, 5, 20 << 12 | P | W);
    guest.poke(0, 6, 20 << 12 | P | W | U);
    guest.poke(0, 7, 21 << 12 | P);
    guest.poke(0, 8, 10 << 12 | P);
    guest.pin(10, 4).unwrap();
    guest.check();
    assert_eq!(guest.type_of(10), (PageType::L4, 1));
    assert_eq!(guest.type_of(7), (PageType::L3, 1));
    assert_eq!(guest.type_of(4), (PageType::L2, 1));
    assert_eq!(guest.type_of(0), (PageType::L1, 1));
    assert_eq!(guest.type_of(20), (PageType::Writable, 2));
    assert_eq!(guest.type_of(21).1, 0, "a read-only leaf takes no type");
    assert_eq!(guest.frames.infos[10].count(), 3, "owner, pin, leaf");
    assert_eq!(guest.peek(0, 5), 20 << 12 | P | W | U | entry::GUEST_KERNEL);
    assert_eq!(guest.peek(10, 0), 7 << 12 | P | W | U | entry::ACCESSED);
    guest.unpin(10).unwrap();
    guest.check();
    assert_eq!(guest.type_of(0).1, 0);
    assert_eq!(guest.frames.infos[20].count(), 1);
}

#[test]
fn pins_are_taken_and_dropped_once() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    assert_eq!(guest.types().pin(Mfn::new(10), 4), Err(TypeError::AlreadyPinned { mfn: Mfn::new(10) }));
    assert_eq!(errno(guest.types().pin(Mfn::new(10), 4)), EINVAL);
    guest.check();
    guest.unpin(10).unwrap();
    assert_eq!(errno(guest.types().unpin(Mfn::new(10))), EINVAL);
    assert_eq!(errno(guest.types().unpin(Mfn::new(FOREIGN))), EINVAL);
    for level in [0, 5, 255] {
        assert_eq!(errno(guest.types().pin(Mfn::new(10), level)), EINVAL);
    }
    for mfn in [FOREIGN, M2P, IO, REGION, NO_RAM, Mfn::LIMIT - 1] {
        assert_eq!(errno(guest.types().pin(Mfn::new(mfn), 1)), EINVAL, "frame {mfn:#x}");
    }
    guest.check();
}

#[test]
fn a_leaf_to_what_is_not_the_domains_is_refused() {
    let table = [
        (FOREIGN, P, EBUSY),
        (FOREIGN, P | W, EBUSY),
        (M2P, P | W, EBUSY),
        (SHARED_RO, P | W, EBUSY),
        (REGION, P, EBUSY),
        (REGION, P | W, EBUSY),
        (IO, P, EPERM),
        (NO_RAM, P | W, EPERM),
        (Mfn::LIMIT - 1, P, EINVAL),
        (20, P | 1 << 3, EINVAL),
        (20, P | 1 << 4, EINVAL),
        (20, P | 1 << 7, EINVAL),
    ];
    let mut live = Guest::with_tree();
    live.pin(10, 4).unwrap();
    for (mfn, flags, wanted) in table {
        // Both as content of a table to be and as an update of a live one.
        let mut guest = Guest::with_tree();
        guest.poke(0, 3, 20 << 12 | P | W);
        guest.poke(0, 77, mfn << 12 | flags);
        assert_eq!(errno(guest.pin(10, 4)), wanted, "frame {mfn:#x}, flags {flags:#x}");
        guest.check();
        assert_eq!(errno(live.update(0, 77, mfn << 12 | flags)), wanted, "frame {mfn:#x}, flags {flags:#x}");
        live.check();
    }
    live.update(0, 77, M2P << 12 | P).unwrap();
    live.update(0, 78, SHARED_RO << 12 | P).unwrap();
    live.update(0, 79, FOREIGN << 12 | W).unwrap();
    live.check();
}

#[test]
fn hardware_is_mapped_by_leave_and_with_its_cache_attributes() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    let view = DomainView { id: D1, hypervisor_slots: &TEMPLATE, may_map: &|_, _, _| true, has_hardware: true };
    let types = PageTypes::new(&guest.frames, &guest.mem, view);
    let at = |slot: u64| slot * 8;
    types.mmu_update(at(1), IO << 12 | P | W | 1 << 4).unwrap();
    types.mmu_update(at(2), NO_RAM << 12 | P | W | 1 << 3).unwrap();
    types.mmu_update(at(3), FOREIGN << 12 | P | W).unwrap();
    assert_eq!(guest.frames.infos[IO as usize].count(), 1, "what is not RAM is not counted");
    assert_eq!(guest.type_of(FOREIGN), (PageType::Writable, 1));
    assert_eq!(errno(types.mmu_update(at(4), 20 << 12 | P | 1 << 4)), EINVAL, "RAM has one cache attribute");
    assert_eq!(errno(types.mmu_update(at(4), REGION << 12 | P)), EBUSY, "nobody may have the region");
    for slot in 1..4 {
        guest.update(0, slot, 0).unwrap();
    }
    guest.check();
}

#[test]
fn a_table_is_not_written_and_not_of_two_levels() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    for table in [0, 4, 7, 10] {
        assert_eq!(errno(guest.update(0, 9, table << 12 | P | W)), EBUSY);
        guest.update(0, 9, table << 12 | P).unwrap();
    }
    // Where an L1 belongs, any other table is refused; so on upwards.
    for (in_table, wanted) in [(4u64, 0u64), (7, 4), (10, 7)] {
        for table in [0, 4, 7, 10] {
            let result = guest.update(in_table, 1, table << 12 | P | W);
            if table == wanted {
                result.unwrap();
            } else {
                assert_eq!(errno(result), EINVAL, "frame {table} in {in_table}");
            }
            guest.check();
        }
    }
    for (mfn, level) in [(0, 2), (0, 4), (10, 1), (10, 3), (4, 1)] {
        assert_eq!(errno(guest.pin(mfn, level)), EINVAL);
    }
    guest.update(0, 10, 20 << 12 | P | W).unwrap();
    assert_eq!(errno(guest.pin(20, 1)), EINVAL, "a writable page");
    assert_eq!(errno(guest.types().get_page_and_type(Mfn::new(20), PageType::SegDesc)), EINVAL);
    guest.check();
}

#[test]
fn upper_entries_have_no_large_pages_and_no_foreign_tables() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    for (table, below) in [(4u64, 1u64), (7, 5), (10, 8)] {
        for bit in [3, 4, 7, 8] {
            assert_eq!(errno(guest.update(table, 1, below << 12 | P | W | U | 1 << bit)), EINVAL, "bit {bit}");
        }
        for mfn in [FOREIGN, M2P, IO, REGION, NO_RAM, Mfn::LIMIT - 1] {
            assert_eq!(errno(guest.update(table, 1, mfn << 12 | P)), EINVAL, "frame {mfn:#x}");
        }
        guest.update(table, 1, below << 12 | P | W | U | 1 << 63 | 7 << 9).unwrap();
        guest.check();
    }
}

#[test]
fn the_hypervisors_slots_stay_its_own() {
    let mut guest = Guest::with_tree();
    guest.poke(10, 256, FOREIGN << 12 | P | W);
    guest.poke(10, 271, 0xdead_b000);
    guest.pin(10, 4).unwrap();
    guest.check();
    for slot in 256..272 {
        assert_eq!(guest.peek(10, slot), TEMPLATE[slot as usize - 256]);
        assert_eq!(guest.update(10, slot, 0), Err(TypeError::HypervisorSlot { slot }));
        assert_eq!(errno(guest.update(10, slot, 8 << 12 | P | W)), EINVAL);
        let va = slot << 39 | 0xffff << 48;
        assert_eq!(errno(guest.types().update_va_mapping(Mfn::new(10), va, 0)), EINVAL);
    }
    guest.update(10, 255, 8 << 12 | P | W).unwrap();
    guest.update(10, 272, 8 << 12 | P | W).unwrap();
    guest.check();
    // The same slots of the levels below are the guest's.
    guest.update(7, 256, 5 << 12 | P | W).unwrap();
    guest.check();
}

#[test]
fn refilling_writes_the_slots_of_level_4_tables_only() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    let other = [0x5555_0063; 16];
    let view = DomainView { id: D1, hypervisor_slots: &other, may_map: &may_map, has_hardware: false };
    let types = PageTypes::new(&guest.frames, &guest.mem, view);
    types.refill_hypervisor_slots(Mfn::new(10)).unwrap();
    assert!((256..272).all(|slot| guest.peek(10, slot) == 0x5555_0063));
    assert_eq!((guest.peek(10, 255), guest.peek(10, 272)), (0, 0));
    for mfn in [7, 0, 20, FOREIGN, REGION] {
        assert_eq!(errno(types.refill_hypervisor_slots(Mfn::new(mfn))), EINVAL);
    }
    guest.types().refill_hypervisor_slots(Mfn::new(10)).unwrap();
    guest.check();
}

#[test]
fn a_failed_validation_gives_everything_back() {
    for bad_slot in [0, 1, 63, 64, 65, 300, 511] {
        let mut guest = Guest::with_tree();
        guest.poke(10, 1, 8 << 12 | P | W);
        for slot in 0..512 {
            guest.poke(0, slot, (14 + slot % 10) << 12 | P | (slot & W));
        }
        guest.poke(0, bad_slot, 4 << 12 | P | W);
        assert_eq!(errno(guest.pin(10, 4)), EBUSY);
        guest.check();
        for mfn in 0..NR_OWN {
            assert_eq!((guest.frames.infos[mfn as usize].count(), guest.type_of(mfn).1), (1, 0), "frame {mfn}");
        }
        assert_eq!(guest.type_of(10).0, PageType::None, "Xen clears the type");
        guest.update(0, bad_slot, 0).unwrap();
        guest.pin(10, 4).unwrap();
        guest.check();
    }
}

#[test]
fn an_update_takes_the_new_before_it_drops_the_old() {
    let mut guest = Guest::with_tree();
    guest.poke(0, 0, 20 << 12 | P | W);
    guest.pin(10, 4).unwrap();
    // Both entries name the same L1: were the old one dropped first, it would be validated anew.
    let types = guest.types();
    types.mmu_update(4 << 12, P | W | U | 1 << 9).unwrap();
    types.mmu_update(4 << 12, P | U).unwrap();
    assert_eq!(types.stats().tables, 0);
    types.mmu_update(4 << 12, 1 << 12 | P | U).unwrap();
    assert_eq!(types.stats().tables, 1);
    assert_eq!(guest.type_of(0).1, 0);
    guest.check();
}

#[test]
fn updates_say_whether_translations_went_stale() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    assert_eq!(guest.update(0, 0, 20 << 12 | P | W), Ok(false), "nothing was there");
    assert_eq!(guest.update(0, 0, 20 << 12 | P | W), Ok(false), "nothing changes");
    assert_eq!(guest.update(0, 0, 20 << 12 | P | W | 0x60), Ok(false), "the CPU's own bits");
    assert_eq!(guest.update(0, 0, 20 << 12 | P), Ok(true));
    assert_eq!(guest.update(0, 0, 20 << 12 | P | 1 << 63), Ok(true));
    assert_eq!(guest.update(0, 0, 21 << 12 | P), Ok(true));
    assert_eq!(guest.update(0, 0, 0), Ok(true));
    assert_eq!(guest.update(0, 0, 0), Ok(false));
    guest.check();
}

#[test]
fn accessed_and_dirty_are_preserved_on_demand() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    let types = guest.types();
    types.mmu_update(0, 20 << 12 | P | W | 0x60).unwrap();
    types.mmu_update(2, 20 << 12 | P | W | 1 << 9).unwrap();
    assert_eq!(guest.peek(0, 0) & 0x60, 0x60);
    types.mmu_update(2, 21 << 12 | P).unwrap();
    assert_eq!(guest.peek(0, 0) & 0x60, 0x60);
    types.mmu_update(0, 21 << 12 | P).unwrap();
    assert_eq!(guest.peek(0, 0) & 0x60, 0);
    types.mod_entry(1, Mfn::new(0).maddr(), 21 << 12 | P | 0x20, Preserve::AccessedDirty).unwrap();
    assert_eq!(guest.peek(0, 0) & 0x60, 0x20);
    guest.check();
}

#[test]
fn plain_pages_are_written_and_nothing_else() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    guest.update(20, 3, 0x1234_5678).unwrap();
    assert_eq!(guest.peek(20, 3), 0x1234_5678);
    assert_eq!(guest.type_of(20), (PageType::Writable, 0));
    guest.update(0, 0, 20 << 12 | P | W).unwrap();
    guest.update(20, 3, 0x8765_4321).unwrap();
    assert_eq!(guest.peek(20, 3), 0x8765_4321);
    guest.types().get_page_and_type(Mfn::new(21), PageType::SegDesc).unwrap();
    guest.descriptors.push(21);
    assert_eq!(errno(guest.update(21, 0, 1)), EINVAL);
    assert_eq!(errno(guest.update(SHARED_RO, 0, 1)), EINVAL);
    for mfn in [FOREIGN, M2P, IO, REGION, NO_RAM] {
        assert_eq!(errno(guest.update(mfn, 0, 1)), EINVAL);
        assert!(mfn >= NO_RAM || guest.peek(mfn, 0) == 0);
    }
    assert_eq!(errno(guest.types().mmu_update(1, 0)), ENOSYS, "MACHPHYS is not an update of tables");
    assert_eq!(errno(guest.types().mmu_update(4, 0)), EINVAL);
    assert_eq!(errno(guest.types().mmu_update(1 << 52, 0)), EINVAL);
    assert_eq!(errno(guest.types().mmu_update(!7, 0)), EINVAL);
    guest.check();
}

#[test]
fn mappings_are_updated_by_address() {
    let mut guest = Guest::with_tree();
    guest.base(10).unwrap();
    let types = guest.types();
    let l4 = Mfn::new(10);
    assert_eq!(types.update_va_mapping(l4, 0x5123, 20 << 12 | P | W), Ok(false));
    assert_eq!(guest.peek(0, 5) >> 12 & 0xff, 20);
    let leaf = crate::mm::types::walk(&guest.mem, l4, 0x5fff).unwrap();
    assert!(leaf.mfn == Mfn::new(20) && leaf.is_writable() && !leaf.is_for_user());
    assert_eq!(errno(types.update_va_mapping(l4, 0x20_0000, 20 << 12 | P)), EINVAL);
    assert_eq!(errno(types.update_va_mapping(l4, 1 << 47, 20 << 12 | P)), EINVAL);
    assert_eq!(errno(types.update_va_mapping(l4, 0x6000, FOREIGN << 12 | P)), EBUSY);
    // Through a table that maps itself the walk ends one level higher: no leaf, no update.
    guest.update(10, 9, 10 << 12 | P).unwrap();
    assert_eq!(errno(types.update_va_mapping(l4, 9 << 39, 20 << 12 | P)), EINVAL);
    guest.check();
}

#[test]
fn entries_are_modified_at_their_own_level_only() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    let types = guest.types();
    let at = |mfn: u64| Mfn::new(mfn).maddr().offset(8);
    types.mod_entry(1, at(0), 20 << 12 | P | W, Preserve::Nothing).unwrap();
    types.mod_entry(2, at(4), 1 << 12 | P | W, Preserve::Nothing).unwrap();
    types.mod_entry(3, at(7), 5 << 12 | P | W, Preserve::Nothing).unwrap();
    types.mod_entry(4, at(10), 8 << 12 | P | W, Preserve::Nothing).unwrap();
    for (level, table) in [(1, 4), (2, 0), (3, 10), (4, 7), (1, 22), (0, 0), (5, 10)] {
        assert_eq!(errno(types.mod_entry(level, at(table), 0, Preserve::Nothing)), EINVAL);
    }
    assert_eq!(errno(types.mod_entry(1, Mfn::new(0).maddr().offset(4), 0, Preserve::Nothing)), EINVAL);
    guest.check();
}

#[test]
fn a_type_change_flushes_and_a_first_type_does_not() {
    let guest = Guest::with_tree();
    let types = guest.types();
    types.pin(Mfn::new(10), 4).unwrap();
    assert_eq!(types.take_effects(), Effects::empty(), "fresh pages were reached by nobody");
    types.mmu_update(8, 20 << 12 | P | W).unwrap();
    types.mmu_update(8, 0).unwrap();
    assert_eq!(types.take_effects(), Effects::empty());
    types.pin(Mfn::new(20), 1).unwrap();
    assert_eq!(types.take_effects(), Effects::FLUSH_TLB, "a writable translation may be left");
    types.unpin(Mfn::new(20)).unwrap();
    types.pin(Mfn::new(20), 1).unwrap();
    assert_eq!(types.take_effects(), Effects::empty());
    types.unpin(Mfn::new(20)).unwrap();
    types.mmu_update(8, 20 << 12 | P | W).unwrap();
    assert_eq!(types.take_effects(), Effects::FLUSH_TLB, "the CPU may still walk through it");
    assert_eq!(types.release_page(Mfn::new(20)), Ok(false));
    assert_eq!(types.take_effects(), Effects::empty());
    types.mmu_update(8, 0).unwrap();
    assert!(guest.frames.is_freed(20));
    assert_eq!(types.take_effects(), Effects::FLUSH_TLB);
}

#[test]
fn effects_of_what_fails_are_kept() {
    let guest = Guest::with_tree();
    let types = guest.types();
    guest.update(20, 0, FOREIGN << 12 | P).unwrap();
    assert_eq!(errno(types.pin(Mfn::new(20), 1)), EBUSY);
    assert_eq!(types.take_effects(), Effects::FLUSH_TLB);
}

#[test]
fn tables_may_map_themselves_and_each_other_read_only() {
    let mut guest = Guest::with_tree();
    guest.poke(10, 300, 10 << 12 | P);
    guest.poke(7, 9, 7 << 12 | P);
    guest.poke(4, 9, 4 << 12 | P);
    guest.pin(10, 4).unwrap();
    guest.check();
    for table in [10u64, 7, 4] {
        assert_eq!(errno(guest.update(table, 20, table << 12 | P | W)), EINVAL);
    }
    guest.pin(11, 4).unwrap();
    assert_eq!(errno(guest.update(10, 301, 11 << 12 | P | W)), EINVAL);
    guest.update(10, 301, 11 << 12 | P).unwrap();
    guest.check();
    guest.pin(12, 4).unwrap();
    assert_eq!(errno(guest.update(11, 0, 12 << 12 | P)), EINVAL, "11 is mapped so itself");
    assert_eq!(errno(guest.update(12, 0, 10 << 12 | P)), EINVAL, "10 maps one so itself");
    guest.update(12, 0, 11 << 12 | P).unwrap();
    guest.check();
    // The mapping alone keeps the table.
    guest.unpin(11).unwrap();
    assert_eq!(guest.type_of(11), (PageType::L4, 2));
    assert_eq!(guest.root_of(Mfn::new(11)), Some(Root { level: 4, is_pinned: false }));
    assert_eq!(guest.root_of(Mfn::new(10)), Some(Root { level: 4, is_pinned: true }));
    assert_eq!(guest.root_of(Mfn::new(7)), None);
    guest.check();
    guest.update(12, 0, 0).unwrap();
    guest.update(10, 301, 0).unwrap();
    assert_eq!(guest.type_of(11).1, 0);
    guest.check();
}

#[test]
fn descriptors_are_checked_where_they_are_written() {
    let code = 0x00af_9b00_0000_ffff_u64;
    let tss = 0x0000_8900_0000_0067_u64;
    let mut guest = Guest::with_tree();
    guest.poke(20, 7, code);
    guest.poke(21, 511, tss);
    guest.types().get_page_and_type(Mfn::new(20), PageType::SegDesc).unwrap();
    guest.descriptors.push(20);
    assert_eq!(Some(guest.peek(20, 7)), check_descriptor(code));
    assert_eq!(errno(guest.types().get_page_and_type(Mfn::new(21), PageType::SegDesc)), EINVAL);
    guest.check();
    let types = guest.types();
    types.update_descriptor((20 << 12) + 64, code).unwrap();
    assert_eq!(guest.peek(20, 8), code | 3 << 45);
    types.update_descriptor(22 << 12, code).unwrap();
    assert_eq!(guest.peek(22, 0), code | 3 << 45);
    assert_eq!(guest.type_of(22), (PageType::Writable, 0));
    assert_eq!(errno(types.update_descriptor(20 << 12, tss)), EINVAL);
    assert_eq!(errno(types.update_descriptor((20 << 12) + 4, code)), EINVAL);
    assert_eq!(errno(types.update_descriptor(FOREIGN << 12, code)), EINVAL);
    assert_eq!(errno(types.update_descriptor(!7, code)), EINVAL);
    types.pin(Mfn::new(10), 4).unwrap();
    assert_eq!(errno(types.update_descriptor(10 << 12, code)), EINVAL, "a page table");
    assert_eq!(errno(types.get_page_and_type(Mfn::new(23), PageType::None)), EINVAL);
    assert_eq!(errno(types.get_page_and_type(Mfn::new(23), PageType::Shared)), EINVAL);
    guest.pins.insert(10, 4);
    guest.check();
}

#[test]
fn unmapping_a_descriptor_page_drops_the_ldt() {
    let guest = Guest::with_tree();
    let types = guest.types();
    types.pin(Mfn::new(10), 4).unwrap();
    types.mmu_update(8, 20 << 12 | P).unwrap();
    types.get_page_and_type(Mfn::new(20), PageType::SegDesc).unwrap();
    types.mmu_update(8, 0).unwrap();
    assert_eq!(types.take_effects(), Effects::DROP_LDT);
    types.put_page_and_type(Mfn::new(20));
    types.mmu_update(8, 20 << 12 | P | W).unwrap();
}

#[test]
fn the_m2p_is_hidden_in_level_4_tables_only_until_the_slots_are_filled_again() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    let types = guest.types();
    types.hide_m2p(Mfn::new(10)).unwrap();
    assert_eq!((guest.peek(10, 256), guest.peek(10, 257)), (0, TEMPLATE[1]));
    assert_eq!(guest.type_of(10), (PageType::L4, 1));
    assert!(guest.update(10, 256, 20 << 12 | P).is_err(), "the slot is the hypervisor's all the same");
    for mfn in [0, 20] {
        assert_eq!(errno(types.hide_m2p(Mfn::new(mfn))), EINVAL);
    }
    types.refill_hypervisor_slots(Mfn::new(10)).unwrap();
    assert_eq!(guest.peek(10, 256), TEMPLATE[0]);
}

#[test]
fn a_page_leaves_its_domain_when_the_last_mapping_is_gone() {
    let mut guest = Guest::with_tree();
    guest.pin(10, 4).unwrap();
    guest.update(0, 0, 20 << 12 | P | W).unwrap();
    let types = guest.types();
    assert_eq!(
        types.steal_page(Mfn::new(20)),
        Err(TypeError::Referenced { mfn: Mfn::new(20), count: 2, type_count: 1 })
    );
    assert_eq!(errno(types.steal_page(Mfn::new(10))), EINVAL);
    assert_eq!(errno(types.steal_page(Mfn::new(FOREIGN))), EINVAL);
    types.steal_page(Mfn::new(21)).unwrap();
    assert_eq!((guest.frames.infos[21].count(), guest.frames.infos[21].owner()), (0, None));
    assert_eq!(types.release_page(Mfn::new(22)), Ok(true));
    assert!(guest.frames.is_freed(22));
    assert_eq!(errno(types.release_page(Mfn::new(22))), EINVAL);
    // A table that is given up stays a table as long as it is used, pinned or not.
    assert_eq!(types.release_page(Mfn::new(0)), Ok(false));
    assert_eq!(guest.type_of(0), (PageType::L1, 1));
    // A pin keeps it as well, and all that it names.
    assert_eq!(types.release_page(Mfn::new(10)), Ok(false));
    assert!(guest.frames.infos[10].is_lingering(D1));
    types.unpin(Mfn::new(10)).unwrap();
    for mfn in [0, 10] {
        assert!(guest.frames.is_freed(mfn));
    }
    assert_eq!(guest.type_of(20).1, 0);
}

#[test]
fn the_end_of_a_domain_frees_every_page_once() {
    let build = || {
        let mut guest = Guest::with_tree();
        for slot in 0..512 {
            guest.poke(0, slot, (14 + slot % 11) << 12 | P | (slot & W));
        }
        guest.poke(0, 100, 10 << 12 | P);
        guest.poke(0, 101, P);
        guest.poke(0, 102, M2P << 12 | P);
        guest.pin(10, 4).unwrap();
        guest.pin(11, 4).unwrap();
        guest.pin(0, 1).unwrap();
        guest.update(10, 300, 10 << 12 | P).unwrap();
        guest.update(10, 301, 11 << 12 | P).unwrap();
        guest.base(10).unwrap();
        guest.unpin(11).unwrap();
        guest.types().get_page_and_type(Mfn::new(25), PageType::SegDesc).unwrap();
        guest.descriptors.push(25);
        guest.check();
        guest
    };
    let up: Vec<u64> = (0..NR_OWN).collect();
    build().relinquish(&up);
    let down: Vec<u64> = (0..NR_OWN).rev().collect();
    build().relinquish(&down);
}

#[test]
fn a_replay_refuses_what_does_not_fit_together() {
    // The same frame as a table below one root and written to below another.
    let guest = Guest::with_tree();
    guest.poke(1, 0, 4 << 12 | P | W | U);
    let types = guest.types();
    types.announce(Mfn::new(10), 4).unwrap();
    types.announce(Mfn::new(1), 1).unwrap();
    types.replay_pin(Mfn::new(10), 4).unwrap();
    assert_eq!(errno(types.replay_pin(Mfn::new(1), 1)), EBUSY);
    // What was announced is not made anything else.
    let guest = Guest::with_tree();
    let types = guest.types();
    types.announce(Mfn::new(7), 4).unwrap();
    assert_eq!(errno(types.announce(Mfn::new(7), 3)), EINVAL);
    assert_eq!(errno(types.announce(Mfn::new(FOREIGN), 3)), EINVAL);
    assert_eq!(errno(types.replay_pin(Mfn::new(10), 4)), EINVAL);
    guest.check();
}

#[test]
fn a_replay_ends_whatever_names_whatever() {
    // Circles of tables that no guest could have built, all announced.
    let guest = Guest::new();
    let types = guest.types();
    for level in 1..=4u64 {
        for table in 0..3 {
            let mfn = [0, 0, 4, 7, 10][level as usize] + table;
            for slot in 0..3 {
                let base = [0, 0, 4, 7, 10][level as usize];
                guest.poke(mfn, slot, (base + slot) << 12 | P);
            }
            types.announce(Mfn::new(mfn), level as u8).unwrap();
        }
    }
    for mfn in [10, 11, 12] {
        assert!(types.replay_pin(Mfn::new(mfn), 4).is_err());
        guest.check();
    }
}
