//! Memory that changes hands: nobody sees what another had (rule 8).

use super::*;
use crate::mm::physmem::sparse::SparseMem;

/// True if every byte of a block is zero.
fn is_zero(mem: &SparseMem, range: MfnRange) -> bool {
    let mut page = [0; 4096];
    range.iter().all(|mfn| {
        mem.read(mfn.maddr(), &mut page);
        page == [0; 4096]
    })
}

#[test]
fn nobody_sees_what_another_had() {
    let frames = plugged(2);
    let mem = SparseMem::new();
    // Everything has been somebody's before: an earlier hypervisor's, for instance.
    let fill = |range: MfnRange, with: u8| range.iter().for_each(|mfn| mem.write(mfn.maddr(), &[with; 4096]));
    fill(range(512, 3 * 512), 0xa5);
    for order in [0, 3, 9].map(Order::new) {
        let block = frames.alloc(order).unwrap().scrub(&mem);
        let given = frames.into_domain(block, d(1)).unwrap();
        assert!(is_zero(&mem, given.range()), "{order:?}");
        fill(given.range(), 0x5a);
        frames.release(given.range(), d(1)).unwrap();
        // What the hypervisor takes for itself is as it was left, what the next guest gets is not.
        let dirty = frames.alloc(order).unwrap();
        assert!(!is_zero(&mem, dirty.range()));
        frames.free(dirty);
        let next = frames.into_domain(frames.alloc(order).unwrap().scrub(&mem), d(2)).unwrap();
        assert!(is_zero(&mem, next.range()));
        frames.release(next.range(), d(2)).unwrap();
    }
}

proptest! {
    #[test]
    fn guests_that_take_and_give_see_zeros(actions in prop::collection::vec((0..6u8, any::<prop::sample::Index>(), any::<bool>()), 1..60)) {
        let frames = plugged(1);
        let mem = SparseMem::new();
        let mut taken: Vec<MfnRange> = Vec::new();
        for (n, (order, pick, takes)) in actions.into_iter().enumerate() {
            if takes || taken.is_empty() {
                let Some(block) = frames.alloc(Order::new(order)) else { continue };
                let given = frames.into_domain(block.scrub(&mem), d(1)).unwrap();
                prop_assert!(is_zero(&mem, given.range()));
                given.range().iter().for_each(|mfn| mem.write(mfn.maddr(), &[n as u8 | 1; 4096]));
                taken.push(given.range());
            } else {
                frames.release(taken.swap_remove(pick.index(taken.len())), d(1)).unwrap();
            }
        }
        frames.validate().unwrap();
    }
}
