//! docs/options.md names every option, every word of a module string and every key: what is added there has to say what it does.

use super::OPTIONS;
use crate::domain::spec::{Key, ModuleSpec, SpecError};
use std::collections::BTreeSet;
use std::string::{String, ToString};

const DOCUMENT: &str = include_str!("../../docs/options.md");
const SPEC: &str = include_str!("../domain/spec.rs");
const KEYS: &str = include_str!("../run/keys.rs");

/// What stands between backquotes in the first column of a section's tables.
fn documented(section: &str) -> BTreeSet<String> {
    let text = DOCUMENT.split("\n## ").find(|text| text.starts_with(section)).expect("the section is there");
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |")).map(|(cell, _)| cell);
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(ToString::to_string).collect()
}

/// The arms of a match in a source, from the line `from` on, as far as they are written with `quote` on either side.
fn arms(source: &str, from: &str, quote: &str) -> BTreeSet<String> {
    let body = source.split_once(from).expect("the match is there").1;
    let body = body.split_once("\n}\n").expect("a function ends").0;
    let patterns = body.lines().filter_map(|line| line.split_once(" => ")).map(|(pattern, _)| pattern.trim());
    patterns.flat_map(|pattern| pattern.split(quote).skip(1).step_by(2)).map(ToString::to_string).collect()
}

fn same(documented: &BTreeSet<String>, known: &BTreeSet<String>, what: &str) {
    assert!(known.len() > 2, "{what}: {known:?}");
    let missing: BTreeSet<_> = known.difference(documented).collect();
    assert!(missing.is_empty(), "docs/options.md does not have the {what} {missing:?}");
    let gone: BTreeSet<_> = documented.difference(known).collect();
    assert!(gone.is_empty(), "docs/options.md has the {what} {gone:?}, which the code does not know");
}

#[test]
fn every_option_is_in_the_table() {
    let known = OPTIONS.iter().map(|(name, _)| std::format!("{name}=")).collect();
    // Names without `=` are of values.
    let documented = documented("The hypervisor's command line").into_iter().filter(|name| name.ends_with('='));
    same(&documented.collect(), &known, "options");
}

#[test]
fn every_word_of_a_module_string_is_in_the_tables() {
    let mut known: BTreeSet<String> = Key::GUEST
        .iter()
        .map(|key| if key.stands_alone() { key.word().to_string() } else { std::format!("{key}=") })
        .collect();
    known.insert("--".to_string());
    let classes = arms(SPEC, "pub fn parse(string: &'a str)", "\"");
    for class in &classes {
        let string = std::format!("{class} name=x");
        assert!(!matches!(ModuleSpec::parse(&string), Err(SpecError::NoClass { .. })), "{class}");
    }
    known.extend(classes);
    same(&documented("Module strings"), &known, "words");
}

#[test]
fn every_key_is_in_the_table() {
    let mut known = arms(KEYS, "match key {", "'");
    // Ends of lines do nothing, and a range is documented as its ends are.
    known.remove("\\r");
    known.remove("\\n");
    same(&documented("Keys"), &known, "keys");
}
