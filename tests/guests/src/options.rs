//! The guest command line: words, each `key` or `key=value`.

use core::fmt;

/// An option that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption<'a> {
    /// Its key.
    pub key: &'a str,
    /// What stood there.
    pub value: &'a str,
}

impl fmt::Display for BadOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option {}: `{}` is not a number", self.key, self.value)
    }
}

/// A parsed view of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    line: &'a str,
}

impl<'a> Options<'a> {
    /// Looks at a command line.
    pub const fn new(line: &'a str) -> Self {
        Options { line }
    }

    /// The whole line.
    pub const fn line(&self) -> &'a str {
        self.line
    }

    /// The value of a key; the last one counts. A word without `=` has an empty value.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        let words = self.line.split_ascii_whitespace();
        let mut pairs = words.map(|word| word.split_once('=').unwrap_or((word, "")));
        pairs.rfind(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Whether the word stands there (`quiet`, `quiet=1`); `quiet=0` says no.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| value != "0")
    }

    /// A number, decimal or with `0x`; `None` when the key is absent.
    pub fn number(&self, key: &'static str) -> Result<Option<u64>, BadOption<'a>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let parsed = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        parsed.map(Some).map_err(|_| BadOption { key, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_words_and_values() {
        let options = Options::new("quiet run=500 role=a  peer=0x2 late-ms=1 late-ms=2 loud=0");
        assert!(options.has("quiet"));
        assert!(!options.has("loud"));
        assert!(!options.has("ru"));
        assert_eq!(options.value("role"), Some("a"));
        assert_eq!(options.number("run"), Ok(Some(500)));
        assert_eq!(options.number("peer"), Ok(Some(2)));
        assert_eq!(options.number("late-ms"), Ok(Some(2)), "the last one counts");
        assert_eq!(options.number("absent"), Ok(None));
    }

    #[test]
    fn names_what_is_not_a_number() {
        for value in ["", "x", "-1", "99999999999999999999", "0x"] {
            let line = std::format!("run={value}");
            assert_eq!(Options::new(&line).number("run"), Err(BadOption { key: "run", value }));
        }
    }
}
