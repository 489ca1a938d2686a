use super::*;
use crate::mm::physmem::sparse::SparseMem;
use crate::xen::layout::xencons_interface as at;
use proptest::prelude::*;
use std::format;
use std::string::String;
use std::vec::Vec;

const RING: Mfn = Mfn::new(5);

fn index(mem: &SparseMem, offset: usize) -> u32 {
    let mut b = [0; 4];
    mem.read(RING.maddr().offset(offset as u64), &mut b);
    u32::from_le_bytes(b)
}

fn set_index(mem: &SparseMem, offset: usize, value: u32) {
    mem.write(RING.maddr().offset(offset as u64), &value.to_le_bytes());
}

/// A guest that keeps to the rules: writes as much as there is room for.
fn guest_writes(mem: &SparseMem, text: &[u8]) -> usize {
    let (cons, mut prod) = (index(mem, at::OUT_CONS), index(mem, at::OUT_PROD));
    let n = text.len().min((OUT_LEN - prod.wrapping_sub(cons)) as usize);
    for &c in &text[..n] {
        mem.write(RING.maddr().offset((at::OUT + (prod % OUT_LEN) as usize) as u64), &[c]);
        prod = prod.wrapping_add(1);
    }
    set_index(mem, at::OUT_PROD, prod);
    n
}

/// Reads up to `limit` bytes of what was typed.
fn guest_reads(mem: &SparseMem, limit: usize) -> Vec<u8> {
    let (mut cons, prod) = (index(mem, at::IN_CONS), index(mem, at::IN_PROD));
    let mut out = Vec::new();
    while cons != prod && out.len() < limit {
        let mut b = [0];
        mem.read(RING.maddr().offset((at::IN + (cons % IN_LEN) as usize) as u64), &mut b);
        out.push(b[0]);
        cons = cons.wrapping_add(1);
    }
    set_index(mem, at::IN_CONS, cons);
    out
}

/// What an operator sees: each piece in brackets, an open one without the closing one.
fn shown(line: &mut OpenLine, bytes: &[u8], now: u64) -> String {
    let mut out = String::new();
    line.add(bytes, now, |p| {
        out += &format!("[{}{}", if p.continues.is_some() { "+" } else { "" }, String::from_utf8_lossy(p.text));
        if p.ends {
            out.push(']');
        }
        7
    });
    out
}

#[test]
fn lines_come_out_whole() {
    let mut line = OpenLine::default();
    assert_eq!(shown(&mut line, b"hal", 0), "");
    assert_eq!(shown(&mut line, b"f\r\n\nx", 0), "[half][]");
    assert_eq!(line.unseen(), b"x");
}

#[test]
fn a_long_line_is_cut() {
    let mut line = OpenLine::default();
    let text = shown(&mut line, &[b'x'; LINE_MAX + 1], 0);
    assert_eq!(text.len(), LINE_MAX + 2);
    assert_eq!(line.unseen(), b"x");
}

#[test]
fn a_prompt_is_shown_after_a_while_and_goes_on() {
    let mut line = OpenLine::default();
    shown(&mut line, b"login: ", 1_000);
    let mut parts = Vec::new();
    line.show_if_old(1_000 + 249_999_999, |p| {
        parts.push(p.text.to_vec());
        7
    });
    assert!(parts.is_empty());
    for now in [250_001_000, 999_000_000] {
        line.show_if_old(now, |p| {
            assert!(!p.ends && p.continues.is_none());
            parts.push(p.text.to_vec());
            7
        });
    }
    // Once is enough.
    assert_eq!(parts, [b"login: "]);
    assert!(line.unseen().is_empty());
    assert_eq!(shown(&mut line, b"root\n", 0), "[+root]");
    assert_eq!(shown(&mut line, b"next\n", 0), "[next]");
}

#[test]
fn what_was_shown_raw_is_there_for_who_comes_back_and_not_shown_twice() {
    let mut line = OpenLine::default();
    line.note_shown(b"one\r\n/ # ");
    assert_eq!(line.show_all(), b"/ # ");
    assert!(line.unseen().is_empty());
    assert_eq!(shown(&mut line, b"ls\n", 0), "[ls]");
    line.note_shown(b"/ # ");
    // Its end alone is no line of its own.
    assert_eq!(shown(&mut line, b"\r\n", 0), "");
    line.note_shown(&[b'x'; 3 * LINE_MAX]);
    assert_eq!(line.show_all().len(), LINE_MAX);
}

#[test]
fn a_line_that_another_build_began_is_completed() {
    let mem = SparseMem::new();
    let mut console = Console::new(RING);
    console.resume(b"half a ", &[b'k'; TYPED_MAX + 1], 5);
    assert_eq!(console.line.unseen(), b"half a ");
    assert_eq!(shown(&mut console.line, b"line\n", 6), "[half a line]");
    // Nothing of what another build had accepted is lost, and it is not taken for long unread.
    assert_eq!((console.room(), console.typed().len(), console.unread_for(6)), (0, TYPED_MAX + 1, 1));
    assert!(console.deliver(&mem, 6));
    assert_eq!(guest_reads(&mem, 5000), [b'k'; IN_LEN as usize]);
}

#[test]
fn nonsense_indices_are_survived() {
    let mem = SparseMem::new();
    let mut console = Console::new(RING);
    set_index(&mem, at::OUT_PROD, 0xffff_fff0);
    // A ring's worth, and the guest is told that all of it was taken.
    assert_eq!(console.take_output(&mem, 5000).len(), OUT_LEN as usize);
    assert_eq!(index(&mem, at::OUT_CONS), 0xffff_fff0);
    set_index(&mem, at::IN_CONS, 77);
    assert_eq!(console.type_in(b"x"), 1);
    assert!(!console.deliver(&mem, 0));
    assert_eq!(console.typed(), b"x");
}

#[test]
fn typing_stops_when_everything_is_full() {
    let mem = SparseMem::new();
    let mut console = Console::new(RING);
    assert_eq!(console.type_in(&[b'a'; 6000]), TYPED_MAX);
    assert!(console.deliver(&mem, 10));
    assert_eq!(console.type_in(&[b'b'; 6000]), IN_LEN as usize);
    assert!(!console.deliver(&mem, 60));
    assert_eq!((console.room(), console.unread_for(60)), (0, 50));
    assert_eq!(guest_reads(&mem, 10).len(), 10);
    assert!(console.deliver(&mem, 70));
    assert_eq!((console.room(), console.unread_for(70)), (10, 0));
}

#[derive(Clone, Debug)]
enum Action {
    Write(usize),
    Take(usize),
    Type(usize),
    Deliver,
    Read(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0usize..3000).prop_map(Action::Write),
        (0usize..3000).prop_map(Action::Take),
        (0usize..3000).prop_map(Action::Type),
        Just(Action::Deliver),
        (0usize..1500).prop_map(Action::Read),
    ]
}

proptest! {
    /// No byte is lost, doubled or out of order, in either direction, wherever the indices start.
    #[test]
    fn both_directions_are_queues(start: u32, actions in prop::collection::vec(action(), 0..60)) {
        let mem = SparseMem::new();
        for offset in [at::IN_CONS, at::IN_PROD, at::OUT_CONS, at::OUT_PROD] {
            set_index(&mem, offset, start);
        }
        let mut console = Console::new(RING);
        // The n-th byte of each direction is a function of n, so that any mistake shows.
        let nth = |n: usize| (n % 251) as u8;
        let text = |from: usize, len: usize| (from..from + len).map(nth).collect::<Vec<_>>();
        let (mut written, mut taken, mut typed, mut read) = (0, 0, 0, 0);
        for action in actions {
            match action {
                Action::Write(n) => written += guest_writes(&mem, &text(written, n)),
                Action::Take(n) => {
                    let got = console.take_output(&mem, n);
                    prop_assert_eq!(got.len(), n.min(written - taken));
                    prop_assert_eq!(&got, &text(taken, got.len()));
                    taken += got.len();
                }
                Action::Type(n) => {
                    let room = console.room();
                    let accepted = console.type_in(&text(typed, n));
                    prop_assert_eq!(accepted, n.min(room));
                    typed += accepted;
                }
                Action::Deliver => {
                    console.deliver(&mem, 0);
                    let in_ring = index(&mem, at::IN_PROD).wrapping_sub(index(&mem, at::IN_CONS)) as usize;
                    // As much as there is, or as fits.
                    prop_assert_eq!(in_ring, (typed - read).min(IN_LEN as usize));
                }
                Action::Read(n) => {
                    let got = guest_reads(&mem, n);
                    prop_assert_eq!(&got, &text(read, got.len()));
                    read += got.len();
                }
            }
            prop_assert_eq!(console.has_output(&mem), written != taken);
            prop_assert!(console.typed().len() <= TYPED_MAX);
        }
    }

    /// Whatever stands in the indices: the bounds hold, and nothing panics.
    #[test]
    fn a_hostile_ring_is_bounded(indices: [u32; 4], limit in 0usize..5000, text in "[a-z\r\n]{0,200}") {
        let mem = SparseMem::new();
        for (offset, value) in [at::IN_CONS, at::IN_PROD, at::OUT_CONS, at::OUT_PROD].into_iter().zip(indices) {
            set_index(&mem, offset, value);
        }
        let mut console = Console::new(RING);
        let mut left = OUT_LEN as usize;
        while left > 0 {
            let got = console.take_output(&mem, limit.max(1)).len();
            prop_assert!(got <= left && got <= limit.max(1));
            if got == 0 {
                break;
            }
            left -= got;
        }
        prop_assert!(!console.has_output(&mem));
        console.type_in(text.as_bytes());
        console.deliver(&mem, 0);
        let waiting = index(&mem, at::IN_PROD).wrapping_sub(index(&mem, at::IN_CONS));
        let before = indices[1].wrapping_sub(indices[0]);
        prop_assert!(waiting == before || waiting <= IN_LEN);
    }

    /// However a text is cut into writes, looks after a while and moments of focus: all of it is shown once, in order.
    #[test]
    fn a_line_is_shown_once(pieces in prop::collection::vec(("[a-c\n]{0,6}", 0u8..4), 0..40)) {
        let mut line = OpenLine::default();
        let (mut all, mut seen) = (String::new(), String::new());
        for (text, what) in &pieces {
            all += text;
            if *what == 3 {
                // In focus: what was not seen is shown first, then the bytes as they are.
                seen += core::str::from_utf8(line.unseen()).unwrap();
                line.show_all();
                seen += text;
                line.note_shown(text.as_bytes());
                continue;
            }
            let mut show = |p: Piece<'_>| {
                seen += core::str::from_utf8(p.text).unwrap();
                if p.ends {
                    seen.push('\n');
                }
                1
            };
            line.add(text.as_bytes(), 0, &mut show);
            if *what == 1 {
                line.show_part(&mut show);
            }
        }
        line.show_part(|p| {
            seen += core::str::from_utf8(p.text).unwrap();
            1
        });
        // The end of a line that was shown in focus may be left out; letters may not.
        let letters = |s: &str| s.chars().filter(|c| *c != '\n').collect::<String>();
        prop_assert_eq!(letters(&seen), letters(&all));
        if pieces.iter().all(|(_, what)| *what != 3) {
            prop_assert_eq!(seen, all);
        }
    }
}
