//! Strings that are read whole, and those that are refused with what was found.

use super::*;
use proptest::prelude::*;
use std::format;
use std::string::String;

fn guest(string: &str) -> GuestSpec<'_> {
    match ModuleSpec::parse(string) {
        Ok(ModuleSpec::Guest(guest)) => guest,
        other => panic!("{string}: {other:?}"),
    }
}

#[test]
fn a_full_string_is_read_whole() {
    let g = guest(
        "/boot/pulse.elf guest name=pulse memory=64M vcpus=2 privileged count=3 create=later ramdisk=initrd \
         peer=other extents=1000 store=empty --  console=hvc0 name=x -- y ",
    );
    assert_eq!(
        g,
        GuestSpec {
            name: "pulse",
            memory_bytes: 64 << 20,
            maxmem_bytes: 64 << 20,
            vcpus: 2,
            is_privileged: true,
            count: 3,
            create: Create::Later,
            ramdisk: Some("initrd"),
            peer: Some("other"),
            extents: 1000,
            store: Store::Empty,
            command_line: "console=hvc0 name=x -- y",
        }
    );
    assert_eq!(g.nr_pages(), 16384);
}

#[test]
fn what_is_left_out_has_its_default() {
    let g = guest("guest memory=0x100000 name=a");
    assert_eq!((g.vcpus, g.is_privileged, g.count, g.create), (1, false, 1, Create::AtBoot));
    assert_eq!(g.max_pages(), g.nr_pages());
    assert_eq!((g.ramdisk, g.peer, g.extents, g.store, g.command_line), (None, None, 1, Store::None, ""));
    assert_eq!(guest("guest name=a memory=1M --").command_line, "");
    assert!(guest("guest\tname=a\nmemory=4M\u{2003}privileged").is_privileged);
}

#[test]
fn images_and_ramdisks_have_a_name() {
    assert_eq!(ModuleSpec::parse("x image name=b"), Ok(ModuleSpec::Image { name: "b" }));
    assert_eq!(ModuleSpec::parse("ramdisk name=r").unwrap().name(), "r");
}

#[test]
fn sizes() {
    for (text, size) in [
        ("64M", Some(64 << 20)),
        ("1g", Some(1 << 30)),
        ("512K", Some(512 << 10)),
        ("0x10M", Some(16 << 20)),
        ("4096", Some(4096)),
        ("", None),
        ("M", None),
        ("0x", None),
        ("+5M", None),
        ("-1", None),
        ("1.5G", None),
        ("64MB", None),
        ("f", None),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("18446744073709551615K", None),
        ("5\u{e9}", None),
    ] {
        assert_eq!(parse_size(text), size, "{text}");
    }
}

#[test]
fn each_mistake_is_told_with_what_was_found() {
    use SpecError as E;
    let long = format!("guest name={} memory=1M", "n".repeat(65));
    let cmdline = format!("guest name=a memory=1M -- {}", "x".repeat(1024));
    let range = |key, found, min, max| E::OutOfRange { key, found, min, max };
    for (string, error) in [
        ("", E::NoClass { found: "" }),
        ("guests name=a", E::NoClass { found: "guests name=a" }),
        ("guest memory=1M", E::Missing { key: Key::Name }),
        ("guest name=a", E::Missing { key: Key::Memory }),
        ("image", E::Missing { key: Key::Name }),
        ("guest name=a name=b memory=1M", E::Twice { key: Key::Name, found: "name=b" }),
        ("guest privileged privileged", E::Twice { key: Key::Privileged, found: "privileged" }),
        ("guest name=a memory=1M colour=red", E::UnknownWord { found: "colour=red" }),
        ("guest name=a memory=1M privileged=yes", E::UnknownWord { found: "privileged=yes" }),
        ("guest guest name=a", E::UnknownWord { found: "guest" }),
        ("image name=b memory=1M", E::UnknownWord { found: "memory=1M" }),
        ("ramdisk name=b -- x", E::UnknownWord { found: "--" }),
        ("guest name= memory=1M", E::NoValue { key: Key::Name }),
        ("guest name memory=1M", E::NoValue { key: Key::Name }),
        (&long, E::NameTooLong { key: Key::Name, len_bytes: 65 }),
        ("guest name=a memory=lots", E::NotASize { key: Key::Memory, found: "lots" }),
        ("guest name=a memory=1M vcpus=two", E::NotANumber { key: Key::Vcpus, found: "two" }),
        ("guest name=a memory=1020K", range(Key::Memory, 1020 << 10, 1 << 20, (1 << 52) - 4096)),
        ("guest name=a memory=0xfffffffffffff000", range(Key::Memory, !0xfff, 1 << 20, (1 << 52) - 4096)),
        ("guest name=a memory=0x100001", E::NotPages { key: Key::Memory, found: 0x100001 }),
        ("guest name=a memory=2M maxmem=1M", range(Key::Maxmem, 1 << 20, 2 << 20, (1 << 52) - 4096)),
        ("guest name=a memory=1M maxmem=0x100001", E::NotPages { key: Key::Maxmem, found: 0x100001 }),
        ("guest name=a memory=1M vcpus=0", range(Key::Vcpus, 0, 1, 32)),
        ("guest name=a memory=1M vcpus=33", range(Key::Vcpus, 33, 1, 32)),
        ("guest name=a memory=1M count=0", range(Key::Count, 0, 1, 0x7fef)),
        ("guest name=a memory=1M extents=257", range(Key::Extents, 257, 1, 256)),
        ("guest name=a memory=1M create=now", E::UnknownTime { found: "now" }),
        ("guest name=a memory=1M store=full", E::UnknownStore { found: "full" }),
        (&cmdline, E::CommandLineTooLong { len_bytes: 1024 }),
    ] {
        assert_eq!(ModuleSpec::parse(string), Err(error), "{string}");
        assert!(!format!("{error}").is_empty());
    }
    assert_eq!(
        format!("{}", E::NotPages { key: Key::Memory, found: 0x100001 }),
        "memory=0x100001 is not a whole number of pages, the nearest below is 0x100000"
    );
}

/// Writes a specification as a module string, independently of the parser's tables.
fn to_string(g: &GuestSpec<'_>) -> String {
    let mut s = format!("file guest name={} memory={} vcpus={}", g.name, g.memory_bytes, g.vcpus);
    if g.maxmem_bytes != g.memory_bytes {
        s += &format!(" maxmem={}", g.maxmem_bytes);
    }
    if g.is_privileged {
        s += " privileged";
    }
    s += &format!(" extents={} count={}", g.extents, g.count);
    if g.create == Create::Later {
        s += " create=later";
    }
    if g.store == Store::Empty {
        s += " store=empty";
    }
    if let Some(peer) = g.peer {
        s += &format!("  peer={peer}");
    }
    s + " -- " + g.command_line
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        name in "[a-z0-9-]{1,64}", pages in 256u64..1 << 30, more in 0u64..1 << 20, vcpus in 1u32..=32, is_privileged: bool,
        later: bool, peer in proptest::option::of("[a-z]{1,8}"), count in 1u32..1000, extents in 1u64..=256,
        command_line in "([a-z=-]{1,9} ){0,20}",
    ) {
        let g = GuestSpec {
            name: &name, memory_bytes: pages * PAGE_SIZE, maxmem_bytes: (pages + more) * PAGE_SIZE, vcpus, is_privileged, count,
            create: if later { Create::Later } else { Create::AtBoot },
            ramdisk: None, peer: peer.as_deref(), extents, store: if later { Store::Empty } else { Store::None },
            command_line: command_line.trim(),
        };
        let string = to_string(&g);
        prop_assert_eq!(ModuleSpec::parse(&string), Ok(ModuleSpec::Guest(g)));
    }

    #[test]
    fn nothing_panics(s in "((guest|image|name|memory|vcpus|=|--|1|K|\u{e9}|x| ){1,3} ?){0,12}") {
        let _ = ModuleSpec::parse(&s).map_err(|e| format!("{e}"));
    }
}
