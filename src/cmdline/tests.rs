use super::*;
use crate::frame::{Mfn, MfnRange};
use proptest::prelude::*;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

fn options(line: &str) -> Options {
    let (options, complaints) = parse(line);
    assert!(complaints.is_empty(), "{line}: {complaints:?}");
    options
}

fn complaints(line: &str) -> Vec<String> {
    parse(line).1.iter().map(|c| c.to_string()).collect()
}

#[test]
fn every_option_is_understood() {
    let line = " /boot/luxen.elf liveupdate=64M@0x8000000\tlu-updates=6 lu-first=1000 lu-every=0 lu-deadline=0x10 \
                lu-key=none lu-fail=reset badpage=0x100,7-0xa lu-stream=1,2 finish=200 exit=qemu expect=refuse \
                test=relocate-lists conswitch=b ";
    let expected = Options {
        liveupdate: Ok(Some(RegionSpec { len_bytes: 64 << 20, start: Some(0x800_0000) })),
        lu_updates: 6,
        lu_first_ns: 1_000_000_000,
        lu_every_ns: 0,
        lu_deadline_ns: 16_000,
        lu_key: KeyOption::None,
        lu_fail: OnFailure::Reset,
        badpage: BadPages::parse("256,7-10").unwrap(),
        lu_stream: Turns::parse("1,2"),
        finish_ns: Some(200_000_000),
        exit: Exit::Qemu,
        expect: Expect::Refuse,
        test: ShortText::whole("relocate-lists"),
        switch_key: 2,
    };
    assert_eq!(options(line), expected);
    assert_eq!(options(""), Options::DEFAULT);
    assert_eq!(options("luxen"), Options::DEFAULT);
    // The defaults of the table above.
    assert_eq!(Options::DEFAULT.lu_first_ns, 500_000_000);
    assert_eq!(Options::DEFAULT.lu_every_ns, 300_000_000);
    assert_eq!(Options::DEFAULT.lu_deadline_ns, 100_000_000);
}

#[test]
fn bad_frames_are_named_with_both_ends() {
    let ranges = |line: &str| options(line).badpage.ranges().iter().map(|r| (r.start(), r.end())).collect::<Vec<_>>();
    assert_eq!(ranges("badpage=0"), [(0, 1)]);
    assert_eq!(ranges("badpage=0x1234-0x1235,3,3-3"), [(0x1234, 0x1236), (3, 4), (3, 4)]);
    assert_eq!(ranges("badpage=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16").len(), MAX_BAD_RANGES);
}

#[test]
fn a_bad_region_is_kept_as_an_error() {
    let cases = [
        ("liveupdate=", SpecFault::SizeAbsent, ""),
        ("liveupdate", SpecFault::SizeAbsent, ""),
        ("liveupdate=@64M", SpecFault::SizeAbsent, "@64M"),
        ("liveupdate=64Q@1M", SpecFault::SizeNotANumber, "64Q"),
        ("liveupdate=9999999G", SpecFault::SizeTooLarge, "9999999G"),
        ("liveupdate=64M@", SpecFault::StartAbsent, "64M@"),
        ("liveupdate=64M@top", SpecFault::StartNotANumber, "top"),
        ("liveupdate=64M@1M@2M", SpecFault::StartNotANumber, "1M@2M"),
        ("liveupdate=64M@0x10000000000000", SpecFault::StartTooLarge, "0x10000000000000"),
    ];
    for (line, fault, found) in cases {
        let bad = options(line).liveupdate.unwrap_err();
        assert_eq!((bad.fault, bad.found.as_str()), (fault, found), "{line}");
        assert!(bad.to_string().contains("liveupdate=<size>@<start>"));
    }
    assert_eq!(
        options("liveupdate=64Q").liveupdate.unwrap_err().to_string(),
        "liveupdate=: the size `64Q` is not a number; write liveupdate=<size> or liveupdate=<size>@<start>, \
         such as 64M or 64M@0x8000000"
    );
    // The last one counts, for better or worse.
    assert!(parse("liveupdate=64M liveupdate=no").0.liveupdate.is_err());
    assert!(parse("liveupdate=no liveupdate=64M").0.liveupdate.is_ok());
}

#[test]
fn complaints_say_what_was_found_and_what_to_do() {
    let cases: Vec<(&str, Vec<&str>)> = vec![
        ("lu-frist=5", vec!["no option `lu-frist`", "lu-first"]),
        ("luxen nonsense", vec!["no option `nonsense`"]),
        ("lu-first=5 lu-first=7", vec!["lu-first= is given more than once", "`7` counts", "leave the others out"]),
        ("lu-first=soon", vec!["lu-first=", "`soon` is ignored", "a number of milliseconds"]),
        ("lu-deadline=5ms", vec!["`5ms`", "a number of microseconds"]),
        ("lu-first=86400001", vec!["`86400001` is too large", "at most 86400000 milliseconds"]),
        ("lu-deadline=99999999999999999999999", vec!["at most 86400000000 microseconds"]),
        ("lu-updates=4294967296", vec!["at most 4294967295 updates"]),
        ("lu-updates=-1", vec!["`-1`", "a number"]),
        ("lu-key=", vec!["lu-key=", "64 hexadecimal digits", "no next image is taken"]),
        ("lu-key=abc", vec!["`abc`", "`built-in`"]),
        ("lu-stream=", vec!["lu-stream= has no value", "stream versions"]),
        ("lu-stream=0", vec!["`0`", "from 1 to 255"]),
        ("lu-stream=1,256", vec!["`1,256`", "from 1 to 255"]),
        ("lu-stream=1,,2", vec!["`1,,2`", "behind commas"]),
        ("lu-stream=1,2,1,2,1,2,1,2,1", vec!["eight at the most"]),
        ("finish", vec!["finish= has no value", "milliseconds"]),
        ("exit=bochs", vec!["`bochs`", "expected qemu"]),
        ("expect=", vec!["expect= has no value", "refuse"]),
        ("test=", vec!["test= has no value"]),
        ("badpage=", vec!["badpage= has no value", "<mfn>[-<mfn>]"]),
        ("badpage=5-4", vec!["`5-4`", "<mfn>[-<mfn>]"]),
        ("badpage=5,", vec!["`5,`", "<mfn>[-<mfn>]"]),
        ("badpage=0xffffffffffffffff", vec!["<mfn>[-<mfn>]"]),
        ("badpage=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", vec!["at most 16"]),
        ("lu-fail=", vec!["lu-fail= has no value", "stop or reset"]),
        ("lu-fail=crash", vec!["`crash`", "expected stop or reset"]),
        ("conswitch=", vec!["conswitch= has no value", "letter"]),
        ("conswitch=m", vec!["`m`", "none of h, i, j and m"]),
        ("conswitch=A", vec!["`A`", "from a to z"]),
        ("test=123456789012345678901234567890123", vec!["too long", "at most 32 bytes"]),
    ];
    for (line, parts) in cases {
        let found = complaints(line);
        assert_eq!(found.len(), 1, "{line}");
        for part in parts {
            assert!(found[0].contains(part), "{line}: {}: {part}", found[0]);
        }
    }
}

#[test]
fn stream_versions_take_turns() {
    let turns = |line: &str| options(line).lu_stream.unwrap();
    assert_eq!([1, 2, 3, 4].map(|turn| turns("lu-stream=1,2").of(turn)), [1, 2, 1, 2]);
    assert_eq!([1, 2, 9].map(|turn| turns("lu-stream=2").of(turn)), [2, 2, 2]);
    assert_eq!([8, 9].map(|turn| turns("lu-stream=1,2,3,4,5,6,7,255").of(turn)), [255, 1]);
}

#[test]
fn a_bad_value_leaves_the_former_one() {
    let (found, complaints) = parse("lu-first=7 lu-first=x lu-updates=3");
    assert_eq!((found.lu_first_ns, found.lu_updates), (7_000_000, 3));
    assert_eq!(complaints.nr_found(), 1);
    assert_eq!(parse("lu-first=7 lu-first=9").0.lu_first_ns, 9_000_000);
    // A key is not guessed.
    assert_eq!(parse("lu-key=none lu-key=x").0.lu_key, KeyOption::Bad);
    assert_eq!(parse("lu-key=x lu-key=none").0.lu_key, KeyOption::None);
    assert_eq!(options("lu-first=86400000").lu_first_ns, MAX_DURATION_NS);
}

#[test]
fn complaints_beyond_the_room_are_counted() {
    let line = "a=1 ".repeat(MAX_COMPLAINTS + 5);
    let (_, complaints) = parse(&line);
    assert_eq!(complaints.iter().count(), MAX_COMPLAINTS);
    assert_eq!((complaints.nr_found(), complaints.nr_dropped()), (MAX_COMPLAINTS + 5, 5));
}

fn region() -> MfnRange {
    MfnRange::new(Mfn::new(0x8000), 0x4000)
}

#[test]
fn the_incoming_command_line_names_the_exact_region() {
    let cases = [
        ("", "liveupdate=64M@0x8000000"),
        ("  luxen.elf  exit=qemu ", "luxen.elf exit=qemu liveupdate=64M@0x8000000"),
        ("liveupdate=64M exit=qemu", "liveupdate=64M@0x8000000 exit=qemu"),
        ("a liveupdate=bad b liveupdate=1G@0 c", "a liveupdate=64M@0x8000000 b c"),
        ("liveupdate liveupdated=1", "liveupdate=64M@0x8000000 liveupdated=1"),
    ];
    for (outgoing, expected) in cases {
        let mut buffer = [0; 64];
        assert_eq!(write_incoming(outgoing, region(), &mut buffer), Ok(expected), "{outgoing}");
        let mut exact = vec![0; expected.len()];
        assert_eq!(write_incoming(outgoing, region(), &mut exact), Ok(expected));
        let mut short = vec![0; expected.len() - 1];
        let refused = DoesNotFit { needed: expected.len(), capacity: expected.len() - 1 };
        assert_eq!(write_incoming(outgoing, region(), &mut short), Err(refused));
    }
    let odd = RegionSpec::exactly(MfnRange::new(Mfn::new(1), 3));
    assert_eq!(odd.to_string(), "liveupdate=12K@0x1000");
}

fn word() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "liveupdate",
        "lu-updates",
        "lu-first",
        "lu-every",
        "lu-deadline",
        "lu-key",
        "lu-fail",
        "badpage",
        "finish",
        "exit",
        "expect",
        "test",
        "conswitch",
        "luxen",
        "",
    ]);
    let value = prop_oneof![
        "[0-9]{1,6}[KMG]?".boxed(),
        "0x[0-9a-f]{1,8}".boxed(),
        "[0-9]{1,3}M@[0-9]{1,4}M".boxed(),
        "\\PC{0,40}".boxed(),
        "[a-z]".boxed(),
        Just(String::from("qemu")).boxed(),
        "[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}-0x[0-9]{1,9}){0,17}".boxed(),
        prop::sample::select(vec!["stop", "reset"]).prop_map(String::from).boxed(),
        Just(String::from("refuse")).boxed(),
        Just(String::from("none")).boxed(),
    ];
    (name, value, any::<bool>()).prop_map(|(n, v, sign)| if sign { format!("{n}={v}") } else { format!("{n}{v}") })
}

proptest! {
    #[test]
    fn any_line_is_answered(line in "\\PC{0,200}") {
        let (options, complaints) = parse(&line);
        prop_assert!(options.lu_first_ns <= MAX_DURATION_NS);
        for complaint in complaints.iter() {
            prop_assert!(complaint.to_string().contains(complaint.option));
        }
    }

    #[test]
    fn each_word_counts_once_and_the_last_wins(words in prop::collection::vec(word(), 0..12)) {
        // The model takes the words one by one, each as a line of its own behind a file name.
        let line = format!("luxen {}", words.join(" "));
        let (all, complaints) = parse(&line);
        let mut model = Options::DEFAULT;
        let mut nr_bad = 0;
        let mut taken = Vec::new();
        for word in line.split_ascii_whitespace().skip(1) {
            let single = format!("luxen {word}");
            let (one, wrong) = parse(&single);
            if one.lu_key != KeyOption::BuiltIn {
                model.lu_key = one.lu_key;
            }
            if !wrong.is_empty() {
                nr_bad += 1;
                continue;
            }
            let name = word.split('=').next().unwrap();
            nr_bad += usize::from(taken.contains(&name));
            taken.push(name);
            match name {
                "liveupdate" => model.liveupdate = one.liveupdate,
                "lu-updates" => model.lu_updates = one.lu_updates,
                "lu-first" => model.lu_first_ns = one.lu_first_ns,
                "lu-every" => model.lu_every_ns = one.lu_every_ns,
                "lu-deadline" => model.lu_deadline_ns = one.lu_deadline_ns,
                "lu-key" => {}
                "badpage" => model.badpage = one.badpage,
                "lu-fail" => model.lu_fail = one.lu_fail,
                "finish" => model.finish_ns = one.finish_ns,
                "exit" => model.exit = one.exit,
                "expect" => model.expect = one.expect,
                "test" => model.test = one.test,
                "conswitch" => model.switch_key = one.switch_key,
                other => prop_assert!(false, "{} was taken without complaint", other),
            }
        }
        prop_assert_eq!(all, model);
        prop_assert_eq!(complaints.nr_found(), nr_bad);
    }

    #[test]
    fn the_incoming_build_reads_the_same_but_for_the_region(words in prop::collection::vec(word(), 0..12)) {
        let line = words.join(" ");
        let mut buffer = vec![0; line.len() + 64];
        let incoming = String::from(write_incoming(&line, region(), &mut buffer).unwrap());
        let expected = Options { liveupdate: Ok(Some(RegionSpec::exactly(region()))), ..parse(&line).0 };
        prop_assert_eq!(parse(&incoming).0, expected);
        // For ever: the line does not grow from update to update.
        let again = write_incoming(&incoming, region(), &mut buffer).unwrap();
        prop_assert_eq!(again, &incoming);
    }
}
