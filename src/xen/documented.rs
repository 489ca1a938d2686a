//! docs/hypercalls.md names every number of [`super::hypercall`]: what is added there has to say what it does.

use std::collections::BTreeSet;
use std::string::String;
use std::vec::Vec;

const SOURCE: &str = concat!(
    include_str!("hypercall/mod.rs"),
    include_str!("hypercall/machine.rs"),
    include_str!("hypercall/memory.rs")
);
const DOCUMENT: &str = include_str!("../../docs/hypercalls.md");

/// Modules of operations, and the section of the document that has their numbers; the hypercalls themselves stand before all sections.
const SECTIONS: [(&str, &str); 7] = [
    ("nr", ""),
    ("memory_op", "memory_op (12)"),
    ("grant_table_op", "grant_table_op (20)"),
    ("vcpu_op", "vcpu_op (24)"),
    ("mmuext", "mmuext_op (26)"),
    ("sched_op", "sched_op (29)"),
    ("evtchn_op", "event_channel_op (32)"),
];
/// Modules of which the document has the names, somewhere.
const NAMED: [&str; 8] =
    ["xen_version", "callback", "physdev_op", "vm_assist", "console_io", "kexec", "sysctl", "page_offline"];
/// Constants in these modules that are no operations, by the beginning of their names.
const NO_OPERATIONS: [&str; 10] = [
    "SLOTS",
    "CMD_MASK",
    "SSHOTTMR_",
    "FLAG_",
    "TYPE_DEFAULT",
    "TYPE_CRASH",
    "TYPE_LIVE_",
    "RANGE_",
    "SEGMENT_",
    "STATUS_",
];

/// Names and values of a module's constants.
fn constants(module: &str) -> Vec<(&'static str, u64)> {
    let start = SOURCE.split_once(&std::format!("\npub mod {module} {{\n")).expect("the module is there").1;
    let body = start.split_once("\n}\n").expect("a module ends").0;
    let lines = body.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    let constants = lines.filter_map(|line| {
        let (name, rest) = line.split_once(": ")?;
        let value = rest.split_once("= ")?.1.trim_end_matches(';');
        let is_operation = !NO_OPERATIONS.iter().any(|prefix| name.starts_with(prefix));
        is_operation.then(|| value.parse().ok()).flatten().map(|value| (name, value))
    });
    constants.collect()
}

/// Numbers in the first column of a section's tables: `3`, `0, 1, 6`, `0 to 4`.
fn numbers(section: &str) -> BTreeSet<u64> {
    let mut sections = DOCUMENT.split("\n## ");
    let text = match section {
        "" => sections.next(),
        name => sections.find(|text| text.starts_with(name)),
    };
    let rows = text.expect("the section is there").lines().filter_map(|line| line.strip_prefix("| "));
    let mut found = BTreeSet::new();
    for column in rows.filter_map(|row| row.split_once(" |")).map(|(column, _)| column) {
        for part in column.split(", ") {
            let ends: Vec<u64> = part.split(" to ").filter_map(|number| number.parse().ok()).collect();
            if let (Some(&first), Some(&last)) = (ends.first(), ends.last()) {
                found.extend(first..=last);
            }
        }
    }
    found
}

#[test]
fn every_number_is_in_the_table() {
    for (module, section) in SECTIONS {
        let (constants, numbers) = (constants(module), numbers(section));
        assert!(constants.len() > 5 && numbers.len() > 5, "{module}: {} and {}", constants.len(), numbers.len());
        let missing: Vec<_> = constants.into_iter().filter(|(_, value)| !numbers.contains(value)).collect();
        assert!(missing.is_empty(), "docs/hypercalls.md, {section:?} does not have {missing:?}");
    }
}

#[test]
fn every_name_is_in_the_document() {
    for module in NAMED {
        let constants = constants(module);
        assert!(!constants.is_empty(), "{module}");
        for (name, _) in constants {
            let name = name.trim_start_matches("TYPE_").to_lowercase();
            let name = String::from(name.trim_end_matches("_deprecated"));
            assert!(DOCUMENT.contains(&name), "docs/hypercalls.md says nothing of {module} {name}");
        }
    }
}
