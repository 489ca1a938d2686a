//! Table and heap beside a model that knows each frame's state, through random operations.

use super::*;

const NR_CHUNKS: u64 = 12;
const NR_FRAMES: u64 = NR_CHUNKS * 512;

#[derive(Clone, Debug)]
enum Action {
    PlugIn,
    Insert(u64, u64),
    Claim(u64, u64, u16),
    Alloc(u8),
    AllocBelow(u8, u64),
    Free(usize),
    Split(usize),
    IntoDomain(usize, u16, bool),
    Release(u64, u64),
    Relinquish(u64, u64),
    Page(u64),
    PutPage(u64),
}

/// Starts and lengths that often are whole chunks.
fn some_range() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (0..NR_FRAMES, 0u64..40).prop_map(|(at, n)| (at, (at + n).min(NR_FRAMES))),
        (0..NR_FRAMES, 0u64..1500).prop_map(|(at, n)| (at, (at + n).min(NR_FRAMES))),
        (0..NR_CHUNKS, 1u64..4).prop_map(|(at, n)| (at * 512, ((at + n) * 512).min(NR_FRAMES))),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        1 => Just(Action::PlugIn),
        1 => some_range().prop_map(|(a, b)| Action::Insert(a, b)),
        4 => (some_range(), 1u16..4).prop_map(|((a, b), d)| Action::Claim(a, b, d)),
        4 => (0u8..12).prop_map(Action::Alloc),
        4 => Just(Action::Alloc(0)),
        2 => (0u8..11, 0..NR_FRAMES + 9).prop_map(|(o, l)| Action::AllocBelow(o, l)),
        5 => any::<usize>().prop_map(Action::Free),
        2 => any::<usize>().prop_map(Action::Split),
        3 => (any::<usize>(), 1u16..4, proptest::bool::weighted(0.1)).prop_map(|(i, d, f)| Action::IntoDomain(i, d, f)),
        3 => some_range().prop_map(|(a, b)| Action::Release(a, b)),
        1 => some_range().prop_map(|(a, b)| Action::Relinquish(a, b)),
        2 => (0..NR_FRAMES).prop_map(Action::Page),
        2 => (0..NR_FRAMES).prop_map(Action::PutPage),
    ]
}

/// A state for each frame, and the blocks that were taken.
struct Model {
    frames: Frames,
    states: Vec<FrameState>,
    blocks: Vec<Block>,
    /// Frames that page records were made of.
    nr_mapped: u64,
}

impl Model {
    fn new(pieces: &[(u64, u64)], nr_slabs: usize) -> Self {
        let frames = machine(NR_CHUNKS as usize, nr_slabs);
        let mut states = vec![FrameState::NotRam; NR_FRAMES as usize];
        let mut ram = pieces.to_vec();
        ram.push((2 * 512, 4 * 512));
        for &(start, end) in &ram {
            frames.lock().init_ram(range(start, end)).unwrap();
            states[start.max(1) as usize..end.max(1) as usize].fill(FrameState::Unclaimed);
        }
        frames.lock().init_region(range(2 * 512, 3 * 512)).unwrap();
        states[2 * 512..3 * 512].fill(FrameState::Region);
        frames.lock().init_image(range(3 * 512, 4 * 512)).unwrap();
        states[3 * 512..4 * 512].fill(FrameState::Image);
        for chunk in states.chunks_mut(512) {
            if chunk.iter().any(|&s| s != FrameState::NotRam) {
                let holes = chunk.iter_mut().filter(|s| **s == FrameState::NotRam);
                holes.for_each(|s| *s = FrameState::Owned { owner: DomId::IO });
            }
        }
        Self { frames, states, blocks: Vec::new(), nr_mapped: 0 }
    }

    fn fill(&mut self, range: MfnRange, state: FrameState) {
        self.states[range.start() as usize..range.end() as usize].fill(state);
    }

    /// The heap may have made page records of its own memory.
    fn see_mapped(&mut self) {
        for (mfn, n) in take_mapped() {
            let range = MfnRange::new(mfn, n);
            assert!(range.iter().all(|mfn| self.states[mfn.get() as usize] == FrameState::Free));
            self.fill(range, FrameState::Private);
            self.nr_mapped += n;
        }
    }

    /// The highest aligned run of free frames that ends at or below `limit`.
    fn has_free(&self, order: Order, limit: u64) -> bool {
        let n = order.nr_frames() as usize;
        let whole = self.states.chunks_exact(n).take(usize::try_from(limit).unwrap_or(usize::MAX) / n);
        whole.into_iter().any(|block| block.iter().all(|&s| s == FrameState::Free))
    }

    fn took(&mut self, block: Option<Block>, order: Order, limit: u64) {
        self.see_mapped();
        match block {
            Some(block) => {
                assert_eq!(block.order(), order);
                assert!(block.mfn().is_aligned(order) && block.range().end() <= limit);
                for mfn in block.range().iter() {
                    assert_eq!(self.states[mfn.get() as usize], FrameState::Free, "{mfn} in {block:?}");
                }
                self.fill(block.range(), FrameState::Private);
                self.blocks.push(block);
            }
            None => assert!(
                !self.has_free(order, limit) || (order < Order::CHUNK && self.out_of_records()),
                "order {order} below {limit:#x} is there"
            ),
        }
    }

    /// True if no chunk can be split any more.
    fn out_of_records(&self) -> bool {
        self.frames.stats().nr_unused_splits == 0
    }

    fn pick(&mut self, i: usize) -> Option<Block> {
        (!self.blocks.is_empty()).then(|| self.blocks.swap_remove(i % self.blocks.len()))
    }

    fn owner(&self, mfn: u64) -> Option<DomId> {
        match self.states.get(mfn as usize) {
            Some(&FrameState::Owned { owner }) => Some(owner),
            _ => None,
        }
    }

    fn step(&mut self, action: Action) {
        use crate::mm::frametable::{ClaimError, ReleaseError};
        match action {
            Action::PlugIn => {
                let unclaimed = self.states.iter_mut().filter(|s| **s == FrameState::Unclaimed);
                let n = unclaimed.map(|s| *s = FrameState::Free).count() as u64;
                assert_eq!(self.frames.plug_in(map), n);
            }
            Action::Insert(a, b) => {
                let result = self.frames.lock().insert(range(a, b));
                let bad = (a..b).find(|&i| self.states[i as usize] != FrameState::Unclaimed);
                match (result, bad) {
                    (Ok(()), None) => self.fill(range(a, b), FrameState::Free),
                    (Err(InsertError::Conflict { mfn, found }), Some(bad)) => {
                        assert_eq!((mfn.get(), found), (bad, self.states[bad as usize]));
                    }
                    (Err(InsertError::NoMemory), None) => {}
                    other => panic!("{other:?}"),
                }
            }
            Action::Claim(a, b, owner) => {
                let result = self.frames.claim(range(a, b), d(owner));
                let bad = (a..b).find(|&i| self.states[i as usize] != FrameState::Unclaimed);
                match (result, bad) {
                    (Ok(()), None) => self.fill(range(a, b), FrameState::Owned { owner: d(owner) }),
                    (Err(ClaimError::Conflict { mfn, wanted, found }), Some(bad)) => {
                        assert_eq!((mfn.get(), wanted, found), (bad, d(owner), self.states[bad as usize]));
                    }
                    (Err(ClaimError::NoRecords { .. }), None) => assert!(self.frames.stats().nr_unused_splits < 2),
                    other => panic!("{other:?}"),
                }
            }
            Action::Alloc(order) => {
                let block = self.frames.alloc(Order::new(order));
                self.took(block, Order::new(order), u64::MAX);
            }
            Action::AllocBelow(order, limit) => {
                let block = self.frames.alloc_below(Order::new(order), limit);
                self.took(block, Order::new(order), limit);
            }
            Action::Free(i) => {
                let Some(block) = self.pick(i) else { return };
                self.fill(block.range(), FrameState::Free);
                self.frames.free(block);
            }
            Action::Split(i) => {
                let Some(block) = self.pick(i) else { return };
                let order = block.order();
                match self.frames.split(block) {
                    Ok((low, high)) => self.blocks.extend([low, high]),
                    Err(block) => {
                        assert!(order == Order::PAGE || (order == Order::CHUNK && self.out_of_records()));
                        self.blocks.push(block);
                    }
                }
            }
            Action::IntoDomain(i, owner, has_flags) => {
                let Some(block) = self.pick(i) else { return };
                let range = block.range();
                let flags = if has_flags { CountFlags::EXTRA } else { CountFlags::empty() };
                match self.frames.into_domain_with(clean(block), d(owner), flags) {
                    Ok(given) => {
                        assert_eq!((given.range(), given.owner()), (range, d(owner)));
                        self.see_mapped();
                        self.fill(range, FrameState::Owned { owner: d(owner) });
                    }
                    Err(refused) => {
                        assert_eq!(refused.why, IntoDomainError::NoMemory);
                        self.blocks.push(refused.block);
                    }
                }
            }
            Action::Release(a, b) => {
                let Some(owner) = self.owner(a) else { return };
                if owner == DomId::IO {
                    return;
                }
                let result = self.frames.release(range(a, b), owner);
                self.see_mapped();
                let bad = (a..b).find(|&i| self.owner(i) != Some(owner));
                match (result, bad) {
                    (Ok(()), None) => self.fill(range(a, b), FrameState::Free),
                    (Err(ReleaseError::NotOwned { mfn, owner: o, found }), Some(bad)) => {
                        assert_eq!((mfn.get(), o, found), (bad, owner, self.states[bad as usize]));
                    }
                    (Err(ReleaseError::NoMemory), None) => assert!(self.frames.stats().nr_unused_splits < 2),
                    other => panic!("{other:?}"),
                }
            }
            Action::Relinquish(a, b) => {
                let result = self.frames.relinquish(range(a, b), d(1));
                self.see_mapped();
                let Ok(n) = result else {
                    assert!(self.frames.stats().nr_unused_splits < 2);
                    return;
                };
                let mut expected = 0;
                for i in a..b {
                    if self.owner(i) == Some(d(1)) {
                        self.states[i as usize] = FrameState::Free;
                        expected += 1;
                    }
                }
                assert_eq!(n, expected);
            }
            Action::Page(i) => {
                let result = self.frames.page(Mfn::new(i)).map(|page| (page.owner(), page.count()));
                self.see_mapped();
                let expected = match self.states[i as usize] {
                    FrameState::Owned { owner } if owner != DomId::IO => Ok((Some(owner), 1)),
                    FrameState::Owned { .. } | FrameState::NotRam => Err(NoPage::NotRam),
                    _ => Err(NoPage::NotOwned),
                };
                if result != Err(NoPage::NoMemory) {
                    assert_eq!(result, expected);
                } else {
                    assert!(expected.is_ok() && self.out_of_records());
                }
            }
            Action::PutPage(i) => {
                let Some(owner) = self.owner(i).filter(|&o| o != DomId::IO) else { return };
                let result = self.frames.get_page(Mfn::new(i), owner).map(|page| {
                    assert!(!page.put_page() && page.clear_allocated() && page.put_page());
                });
                self.see_mapped();
                if result.is_ok() {
                    self.frames.free_page(Mfn::new(i));
                    self.states[i as usize] = FrameState::Free;
                }
            }
        }
        self.see_mapped();
    }

    fn check(&self) {
        if let Err(error) = self.frames.validate() {
            panic!("{error:?}");
        }
        for (i, &state) in self.states.iter().enumerate() {
            let found = self.frames.state_of(Mfn::new(i as u64));
            assert_eq!(found, state, "frame {i:#x}");
        }
        let count = |wanted: fn(FrameState) -> bool| self.states.iter().filter(|&&s| wanted(s)).count() as u64;
        let ledger = self.frames.ledger();
        let is_hole =
            |s| matches!(s, FrameState::NotRam) || matches!(s, FrameState::Owned { owner } if owner == DomId::IO);
        assert_eq!(ledger.total, NR_FRAMES);
        assert_eq!(ledger.sum() + ledger.unclaimed, ledger.total);
        assert_eq!(ledger.free, count(|s| s == FrameState::Free));
        assert_eq!(ledger.free, self.frames.stats().nr_free);
        assert_eq!(ledger.heap, count(|s| s == FrameState::Private));
        assert_eq!(ledger.region, 512);
        assert_eq!(ledger.image, 512);
        assert_eq!(ledger.holes, count(is_hole));
        assert_eq!(ledger.unclaimed, count(|s| s == FrameState::Unclaimed));
    }

    /// Everything is given back: all splits but those of chunks with holes are unused.
    fn end(mut self) {
        self.step(Action::PlugIn);
        while !self.blocks.is_empty() {
            self.step(Action::Free(0));
        }
        for owner in 1..4 {
            self.frames.relinquish(range(0, NR_FRAMES), d(owner)).unwrap();
        }
        for state in &mut self.states {
            if matches!(*state, FrameState::Owned { owner } if owner != DomId::IO) {
                *state = FrameState::Free;
            }
        }
        self.frames.lock().drain();
        self.check();
        let is_split = |&c: &u64| matches!(self.frames.table().chunk(c), Chunk::Split { .. });
        let nr_split = (0..NR_CHUNKS).filter(is_split).count() as u64;
        let io = FrameState::Owned { owner: DomId::IO };
        let nr_holed = self.states.chunks(512).filter(|c| c.contains(&io)).count() as u64;
        assert_eq!(nr_split, nr_holed);
        let stats = self.frames.stats();
        assert_eq!(stats.nr_splits - stats.nr_unused_splits, nr_split);
        let private = self.states.iter().filter(|&&s| s == FrameState::Private).count() as u64;
        assert_eq!(private, self.nr_mapped);
    }
}

fn pieces() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let piece = |from: u64, to: u64| {
        prop_oneof![
            1 => Just((from, to)),
            2 => (from..to, from..to).prop_map(|(a, b)| (a.min(b), a.max(b))),
            1 => Just((from, from)),
        ]
    };
    (piece(0, 700), piece(700, 1024), piece(4 * 512, 7 * 512), piece(7 * 512, NR_FRAMES))
        .prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn table_and_heap_are_their_model(
        pieces in pieces(),
        early in proptest::collection::vec(action(), 0..12),
        late in proptest::collection::vec(action(), 1..90),
    ) {
        let mut model = Model::new(&pieces, 2);
        for action in early {
            model.step(action);
        }
        model.check();
        model.step(Action::PlugIn);
        for action in late {
            model.step(action);
            model.check();
        }
        model.end();
    }

    /// Blocks of all orders on a machine of 4 GiB, taken and given back in any order.
    #[test]
    fn blocks_never_overlap_and_always_merge(
        actions in proptest::collection::vec((0u8..19, any::<usize>(), any::<bool>()), 1..300)
    ) {
        let frames = plugged(2048);
        let before = frames.stats();
        let mut held = Vec::<Block>::new();
        let mut taken = std::collections::BTreeMap::<u64, u64>::new();
        for (order, pick, is_alloc) in actions {
            if is_alloc {
                let order = Order::new(order);
                let Some(block) = frames.alloc(order) else { continue };
                let (start, end) = (block.range().start(), block.range().end());
                prop_assert!(block.mfn().is_aligned(order));
                prop_assert!(taken.range(..end).next_back().is_none_or(|(_, &e)| e <= start));
                taken.insert(start, end);
                held.push(block);
            } else if !held.is_empty() {
                let block = held.swap_remove(pick % held.len());
                taken.remove(&block.mfn().get());
                frames.free(block);
            }
            let nr_taken: u64 = held.iter().map(|b| b.order().nr_frames()).sum();
            let nr_mapped = before.nr_free - frames.stats().nr_free - nr_taken;
            prop_assert_eq!(nr_mapped % 512, 0);
            prop_assert_eq!(frames.ledger().heap, nr_taken + nr_mapped);
        }
        if let Err(error) = frames.validate() {
            panic!("{error:?}");
        }
        held.into_iter().for_each(|b| frames.free(b));
        frames.lock().drain();
        if let Err(error) = frames.validate() {
            panic!("{error:?}");
        }
        let stats = frames.stats();
        prop_assert_eq!(&stats.nr_blocks[..9], &[0; 9]);
        if stats.nr_slabs == before.nr_slabs {
            prop_assert_eq!(stats, before);
        }
    }
}
