//! The heap against a list of what is in use.

use super::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::vec;

fn heap_of(len_bytes: usize) -> Objects {
    let mut heap = Objects::new();
    assert!(heap.add(Box::leak(vec![0u8; len_bytes].into_boxed_slice())));
    heap
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

struct Object {
    at: *mut u8,
    layout: Layout,
    mark: u8,
}

impl Object {
    #[expect(unsafe_code, reason = "the object is the test's own")]
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the allocator gave it for this layout, and whether nobody else has it is what the test asks.
        unsafe { core::slice::from_raw_parts_mut(self.at, self.layout.size()) }
    }
}

fn take(heap: &mut Objects, layout: Layout, mark: u8) -> Option<Object> {
    let at = heap.alloc(layout)?.as_ptr();
    assert_eq!(at as usize % layout.align(), 0);
    let mut object = Object { at, layout, mark };
    object.bytes().fill(mark);
    Some(object)
}

#[expect(unsafe_code, reason = "an allocator is called")]
fn give_back(heap: &mut Objects, mut object: Object) {
    let mark = object.mark;
    assert!(object.bytes().iter().all(|&byte| byte == mark), "an object was written to by another's owner");
    // SAFETY: it came from there, with this layout, and is consumed.
    unsafe { heap.dealloc(NonNull::new(object.at).unwrap(), object.layout) };
}

#[test]
fn sizes_up_to_the_largest_have_lists_and_others_do_not() {
    assert_eq!(Class::of(layout(1, 1)), Class::of(layout(32, 16)));
    assert_ne!(Class::of(layout(32, 8)), Class::of(layout(33, 8)));
    assert!(Class::of(layout(1024, 16)).is_some());
    assert_eq!((Class::of(layout(1025, 8)), Class::of(layout(64, 32))), (None, None));
    for size in 1..=1024 {
        let class = Class::of(layout(size, 8)).unwrap();
        assert!((size..size + 32).contains(&class.layout().size()) && class.layout().align() == 16);
    }
}

#[test]
fn an_object_given_back_is_the_next_of_its_size() {
    let mut heap = heap_of(1 << 16);
    let first = take(&mut heap, layout(100, 8), 1).unwrap();
    let at = first.at;
    give_back(&mut heap, first);
    let other = take(&mut heap, layout(160, 8), 2).unwrap();
    let again = take(&mut heap, layout(128, 16), 3).unwrap();
    assert!(other.at != at && again.at == at);
}

#[test]
fn a_slab_serves_many_objects_and_its_rest_counts_as_free() {
    let mut heap = heap_of(1 << 16);
    let (_, free) = heap.usage();
    let objects: Vec<_> = (0..128).map(|_| take(&mut heap, layout(32, 8), 4).unwrap()).collect();
    assert_eq!(heap.arenas[0].used(), 4096);
    assert_eq!(heap.usage().0, 4096);
    objects.into_iter().for_each(|object| give_back(&mut heap, object));
    assert_eq!(heap.usage(), (0, free));
}

#[test]
fn the_last_memory_goes_out_object_by_object() {
    let mut heap = heap_of(4096);
    // No slab fits beside this.
    let large = take(&mut heap, layout(2048, 16), 1).unwrap();
    let small: Vec<_> = core::iter::from_fn(|| take(&mut heap, layout(512, 16), 2)).collect();
    assert!((2..=4).contains(&small.len()));
    small.into_iter().for_each(|object| give_back(&mut heap, object));
    assert!(take(&mut heap, layout(512, 16), 3).is_some(), "what was given back serves again");
    give_back(&mut heap, large);
}

proptest! {
    /// No two objects overlap, whatever comes and goes; when all is given back, nothing is in use.
    #[test]
    fn objects_are_their_owners_alone(steps: Vec<(u8, usize, u8, usize)>) {
        let mut heap = heap_of(1 << 18);
        let (_, all) = heap.usage();
        let mut objects = Vec::new();
        for (mark, size, align, which) in steps {
            if mark.is_multiple_of(3) && !objects.is_empty() {
                give_back(&mut heap, objects.swap_remove(which % objects.len()));
            }
            objects.extend(take(&mut heap, layout(size % 1500 + 1, 1 << (align % 7)), mark));
        }
        objects.into_iter().for_each(|object| give_back(&mut heap, object));
        prop_assert_eq!(heap.usage(), (0, all));
    }
}
