//! The two-level event bitmap: a selector word says which of 64 words of pending bits to look at.

use core::sync::atomic::{AtomicU64, Ordering};

/// Event channels that two levels of 64-bit words can name.
pub const NR_PORTS: usize = 4096;

/// Takes every pending, unmasked event of ports that are `mine` out of the bitmap and hands its port to `handle`, each port once. Those of other vCPUs
/// are left to them: they have selectors of their own.
///
/// The selector is cleared before the words are looked at: an event that comes in between sets it again and is found by
/// the next upcall.
pub fn take_pending(
    selector: &AtomicU64,
    pending: &[AtomicU64; 64],
    mask: &[AtomicU64; 64],
    mine: impl Fn(usize) -> bool,
    mut handle: impl FnMut(usize),
) {
    let mut words = selector.swap(0, Ordering::SeqCst);
    while words != 0 {
        let word = words.trailing_zeros() as usize;
        words &= words - 1;
        let mut ready = pending[word].load(Ordering::SeqCst) & !mask[word].load(Ordering::SeqCst);
        while ready != 0 {
            let bit = ready & ready.wrapping_neg();
            ready &= ready - 1;
            let port = word * 64 + bit.trailing_zeros() as usize;
            if mine(port) {
                pending[word].fetch_and(!bit, Ordering::SeqCst);
                handle(port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn takes_unmasked_ports_of_selected_words_once() {
        let pending = [const { AtomicU64::new(0) }; 64];
        let mask = [const { AtomicU64::new(0) }; 64];
        let selector = AtomicU64::new(1 | 1 << 63);
        pending[0].store(0b11011, Ordering::SeqCst);
        pending[1].store(1, Ordering::SeqCst);
        pending[63].store(1 << 63, Ordering::SeqCst);
        mask[0].store(0b10, Ordering::SeqCst);

        let mut seen = Vec::new();
        take_pending(&selector, &pending, &mask, |port| port != 4, |port| seen.push(port));

        assert_eq!(seen, [0, 3, 4095]);
        assert_eq!(selector.load(Ordering::SeqCst), 0);
        assert_eq!(pending[0].load(Ordering::SeqCst), 0b10010, "a masked event stays pending, and another's");
        assert_eq!(pending[1].load(Ordering::SeqCst), 1, "a word that is not selected is left alone");
    }
}
