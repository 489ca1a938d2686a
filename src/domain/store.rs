//! The store of a domain that asks for one: there is nothing in it, and nothing can be put into it.
//!
//! Some kernels (GRUB's for PV) cannot go on without a store that answers. This one answers every request of the xenstore protocol
//! (public/io/xs_wire.h, docs/misc/xenstore.txt in Xen's tree) as a store without any node would:
//!
//! | request | answer |
//! |---|---|
//! | read, directory, get permissions, remove | ENOENT |
//! | write, make a directory, set permissions | EROFS |
//! | watch | OK, and the one event that every new watch has |
//! | unwatch, reset watches, end a transaction | OK |
//! | start a transaction | transaction 1: nothing in it can conflict |
//! | what only a privileged domain may | EACCES |
//! | anything else | ENOSYS |
//!
//! 1. There is no state but the ring, which is the guest's memory: it crosses an update as that does. A request that has not arrived
//!    whole, or whose answer has no room yet, stays in the ring until the guest's next event.
//! 2. The indices are the guest's to write: what cannot be is answered in the ring's error field and not looked at further.
//!
//! A request longer than the ring can never be there whole, and is an error too: names and values of an empty store are short.

use crate::frame::{Maddr, Mfn};
use crate::mm::physmem::PhysMem;
use crate::xen::layout::xenstore_interface as ring;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

/// Bytes of each ring.
const LEN: u32 = 1024;
/// Bytes in front of every message: type, request, transaction, length of what follows.
const HEADER: usize = 16;

/// Message types (public/io/xs_wire.h).
mod kind {
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;
}

/// What the ring's error field says (public/io/xs_wire.h).
mod error {
    pub const RING_INDEX: u32 = 2;
    pub const PROTOCOL: u32 = 3;
}

/// The store's end of a store ring.
#[derive(Clone, Copy, Debug)]
pub struct EmptyStore {
    ring: Mfn,
}

impl EmptyStore {
    /// The store whose ring is in this frame.
    pub const fn new(ring: Mfn) -> Self {
        Self { ring }
    }

    /// Answers what has arrived, as far as there is room for the answers. True if the guest should be told.
    pub fn serve(&self, mem: &impl PhysMem) -> bool {
        let mut has_answered = false;
        // A ring holds no more requests than this, so that a guest cannot keep the hypervisor here.
        for _ in 0..LEN as usize / HEADER {
            match self.serve_one(mem) {
                Ok(true) => has_answered = true,
                Ok(false) => break,
                Err(error) => {
                    self.set_word(mem, ring::ERROR, error);
                    return true;
                }
            }
        }
        has_answered
    }

    fn at(&self, offset: usize) -> Maddr {
        self.ring.maddr().offset(offset as u64)
    }

    fn word(&self, mem: &impl PhysMem, offset: usize) -> u32 {
        let mut b = [0; 4];
        mem.read(self.at(offset), &mut b);
        u32::from_le_bytes(b)
    }

    fn set_word(&self, mem: &impl PhysMem, offset: usize, value: u32) {
        mem.write(self.at(offset), &value.to_le_bytes());
    }

    /// Answers one request; false if there is none, or no room.
    fn serve_one(&self, mem: &impl PhysMem) -> Result<bool, u32> {
        let (cons, prod) = (self.word(mem, ring::REQ_CONS), self.word(mem, ring::REQ_PROD));
        fence(Ordering::Acquire);
        let has = prod.wrapping_sub(cons);
        let (answered, written) = (self.word(mem, ring::RSP_CONS), self.word(mem, ring::RSP_PROD));
        let unread = written.wrapping_sub(answered);
        if has > LEN || unread > LEN {
            return Err(error::RING_INDEX);
        }
        if (has as usize) < HEADER {
            return Ok(false);
        }
        let header = self.request(mem, cons, HEADER);
        let field = |n: usize| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]);
        let (kind, ids, len) = (field(0), [field(4), field(8)], field(12));
        if len > LEN - HEADER as u32 {
            return Err(error::PROTOCOL);
        }
        let whole = HEADER + len as usize;
        if (has as usize) < whole {
            return Ok(false);
        }
        let answer = answer(kind, ids, &self.request(mem, cons, whole)[HEADER..]);
        if answer.len() > (LEN - unread) as usize {
            return Ok(false);
        }
        for (i, &b) in answer.iter().enumerate() {
            let at = written.wrapping_add(i as u32) % LEN;
            mem.write(self.at(ring::RSP + at as usize), &[b]);
        }
        fence(Ordering::SeqCst);
        self.set_word(mem, ring::RSP_PROD, written.wrapping_add(answer.len() as u32));
        self.set_word(mem, ring::REQ_CONS, cons.wrapping_add(whole as u32));
        Ok(true)
    }

    /// The first `len` bytes of what has arrived.
    fn request(&self, mem: &impl PhysMem, cons: u32, len: usize) -> Vec<u8> {
        let byte = |i| {
            let mut b = [0];
            mem.read(self.at(ring::REQ + (cons.wrapping_add(i) % LEN) as usize), &mut b);
            b[0]
        };
        (0..len as u32).map(byte).collect()
    }
}

/// The messages that a request is answered with.
fn answer(kind: u32, ids: [u32; 2], body: &[u8]) -> Vec<u8> {
    use self::kind as k;
    let message = |kind: u32, ids: [u32; 2], body: &[u8]| {
        let words = [kind, ids[0], ids[1], body.len() as u32];
        let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        out.extend_from_slice(body);
        out
    };
    let error = |name: &[u8]| message(k::ERROR, ids, name);
    let done = || message(kind, ids, b"OK\0");
    match kind {
        k::READ | k::DIRECTORY | k::DIRECTORY_PART | k::GET_PERMS | k::GET_DOMAIN_PATH | k::RM => error(b"ENOENT\0"),
        k::WRITE | k::MKDIR | k::SET_PERMS => error(b"EROFS\0"),
        k::WATCH => {
            // Path and token, each with its zero: the event says both again.
            let mut out = done();
            out.extend(message(k::WATCH_EVENT, [0; 2], body));
            out
        }
        k::UNWATCH | k::RESET_WATCHES | k::TRANSACTION_END => done(),
        k::TRANSACTION_START => message(kind, ids, b"1\0"),
        k::INTRODUCE | k::RELEASE | k::RESUME | k::SET_TARGET => error(b"EACCES\0"),
        _ => error(b"ENOSYS\0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::physmem::sparse::SparseMem;
    use proptest::prelude::*;
    use std::vec;

    const RING: Mfn = Mfn::new(9);
    const STORE: EmptyStore = EmptyStore::new(RING);

    /// The guest's side, written from the protocol.
    fn send(mem: &SparseMem, bytes: &[u8]) {
        let mut prod = STORE.word(mem, ring::REQ_PROD);
        for &b in bytes {
            mem.write(RING.maddr().offset((ring::REQ + (prod % 1024) as usize) as u64), &[b]);
            prod = prod.wrapping_add(1);
        }
        STORE.set_word(mem, ring::REQ_PROD, prod);
    }

    fn request(kind: u32, id: u32, tx: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [kind, id, tx, body.len() as u32] {
            out.extend(word.to_le_bytes());
        }
        out.extend(body);
        out
    }

    fn receive(mem: &SparseMem) -> Vec<u8> {
        let (cons, prod) = (STORE.word(mem, ring::RSP_CONS), STORE.word(mem, ring::RSP_PROD));
        let mut out = Vec::new();
        for i in 0..prod.wrapping_sub(cons) {
            let mut b = [0];
            mem.read(RING.maddr().offset((ring::RSP + (cons.wrapping_add(i) % 1024) as usize) as u64), &mut b);
            out.push(b[0]);
        }
        STORE.set_word(mem, ring::RSP_CONS, prod);
        out
    }

    #[test]
    fn each_request_has_its_answer() {
        // Numbers and words of xs_wire.h.
        for (kind, body, answered, with) in [
            (1, &b"device/vbd\0"[..], 16, &b"ENOENT\0"[..]),
            (2, b"name\0", 16, b"ENOENT\0"),
            (3, b"name\0", 16, b"ENOENT\0"),
            (5, b"a\0t\0", 5, b"OK\0"),
            (6, b"\0", 6, b"1\0"),
            (7, b"T\0", 7, b"OK\0"),
            (8, b"1\0", 16, b"EACCES\0"),
            (10, b"1\0", 16, b"ENOENT\0"),
            (11, b"a\0b", 16, b"EROFS\0"),
            (13, b"a\0", 16, b"ENOENT\0"),
            (21, b"\0", 21, b"OK\0"),
            (99, b"", 16, b"ENOSYS\0"),
        ] {
            let mem = SparseMem::new();
            send(&mem, &request(kind, 7, 3, body));
            assert!(STORE.serve(&mem));
            assert_eq!(receive(&mem), request(answered, 7, 3, with), "{kind}");
            assert!(!STORE.serve(&mem));
        }
    }

    #[test]
    fn a_watch_fires_once() {
        let mem = SparseMem::new();
        send(&mem, &request(4, 5, 0, b"device\0token\0"));
        assert!(STORE.serve(&mem));
        let expected = [request(4, 5, 0, b"OK\0"), request(15, 0, 0, b"device\0token\0")].concat();
        assert_eq!(receive(&mem), expected);
    }

    #[test]
    fn a_request_waits_until_it_is_whole_and_its_answer_until_there_is_room() {
        let mem = SparseMem::new();
        let whole = request(2, 1, 0, b"name\0");
        send(&mem, &whole[..10]);
        assert!(!STORE.serve(&mem));
        send(&mem, &whole[10..20]);
        assert!(!STORE.serve(&mem));
        send(&mem, &whole[20..]);
        // 1003 bytes are unread: 21 are left, an answer has 23.
        STORE.set_word(&mem, ring::RSP_PROD, 1003);
        assert!(!STORE.serve(&mem));
        STORE.set_word(&mem, ring::RSP_CONS, 2);
        assert!(STORE.serve(&mem));
        assert_eq!(receive(&mem)[1001..], request(16, 1, 0, b"ENOENT\0"));
    }

    #[test]
    fn what_cannot_be_is_an_error_and_nothing_else() {
        let mem = SparseMem::new();
        STORE.set_word(&mem, ring::REQ_PROD, 1025);
        assert!(STORE.serve(&mem));
        assert_eq!(STORE.word(&mem, ring::ERROR), 2);
        let mem = SparseMem::new();
        send(&mem, &request(2, 1, 0, &vec![b'x'; 1009])[..16]);
        assert!(STORE.serve(&mem));
        assert_eq!((STORE.word(&mem, ring::ERROR), STORE.word(&mem, ring::REQ_CONS)), (3, 0));
    }

    proptest! {
        /// However the bytes arrive and the answers are read: one answer a request, in order, and no request lost.
        #[test]
        fn every_request_is_answered_once(
            start: u32, bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20), piece in 1usize..300,
        ) {
            let mem = SparseMem::new();
            for index in [ring::REQ_CONS, ring::REQ_PROD, ring::RSP_CONS, ring::RSP_PROD] {
                STORE.set_word(&mem, index, start);
            }
            let (mut bytes, mut expected, mut found) = (Vec::new(), Vec::new(), Vec::new());
            for (id, body) in bodies.iter().enumerate() {
                bytes.extend(request(2, id as u32, 0, body));
                expected.extend(request(16, id as u32, 0, b"ENOENT\0"));
            }
            while !bytes.is_empty() {
                let used = STORE.word(&mem, ring::REQ_PROD).wrapping_sub(STORE.word(&mem, ring::REQ_CONS)) as usize;
                let n = piece.min(bytes.len()).min(1024 - used);
                send(&mem, &bytes[..n]);
                bytes.drain(..n);
                STORE.serve(&mem);
                if n % 2 == 1 || bytes.is_empty() || n == 0 {
                    found.extend(receive(&mem));
                    STORE.serve(&mem);
                }
            }
            STORE.serve(&mem);
            found.extend(receive(&mem));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_hostile_ring_is_survived(words: [u32; 4], bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            let mem = SparseMem::new();
            send(&mem, &bytes);
            for (index, word) in [ring::REQ_CONS, ring::REQ_PROD, ring::RSP_CONS, ring::RSP_PROD].into_iter().zip(words) {
                STORE.set_word(&mem, index, word);
            }
            STORE.serve(&mem);
            let unread = STORE.word(&mem, ring::RSP_PROD).wrapping_sub(words[2]);
            prop_assert!(unread <= 1024 || STORE.word(&mem, ring::RSP_PROD) == words[3]);
        }
    }
}
