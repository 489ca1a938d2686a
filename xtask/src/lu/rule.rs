//! What can be wrong with a handover, by the names that docs/handover.md gives it.

use serde::{Serialize, Serializer};
use std::fmt;

/// A rule of the specification, which says what the names mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    List(ListRule),
    Stream(StreamRule),
    Record(RecordRule),
    Order(OrderRule),
}

macro_rules! rules {
    ($(#[$doc:meta])* $name:ident: $($rule:ident)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($rule),* }
    };
}

rules! {
    /// §3, the MFN list.
    ListRule: Magic Version HeaderLen StreamLen PageCount Checksum Number InRegion NotRam ListPageCount Reserved Twice NextMagic Index
        ChainShort ChainLong StreamVersion
}
rules! {
    /// §3 and §4, the stream and its framing.
    StreamRule: Checksum Page TooLong PastEnd Padding Unknown MissingEnd EndNotEmpty AfterEnd Sum
}
rules! {
    /// §4, a record's body.
    RecordRule: Short Long NotWhole Reserved BadValue
}
rules! {
    /// §6, the order of the records.
    OrderRule: VersionFirst Twice Missing OutsideDomain InsideDomain DomidTaken Before VcpuNumber VcpuForeign VcpusMissing PortOrder
        GrantOrder M2pOrder AfterSum HistoryOrder TooMany
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(rule) => write!(f, "list {rule:?}"),
            Self::Stream(rule) => write!(f, "stream {rule:?}"),
            Self::Record(rule) => write!(f, "record {rule:?}"),
            Self::Order(rule) => write!(f, "order {rule:?}"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A rule that is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Of the record's header in the stream; in the list, of the field in the list pages as they follow each other.
    pub offset: u64,
    /// The rule.
    pub rule: Rule,
    /// What was found, and what should be there.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#08x}: {}: {}", self.offset, self.rule, self.detail)
    }
}

/// All that is not kept, in the order in which it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Adds one.
    pub fn add(&mut self, offset: u64, rule: Rule, detail: impl Into<String>) {
        self.0.push(Violation { offset, rule, detail: detail.into() });
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }

    /// Adds those of another.
    pub fn extend(&mut self, others: Violations) {
        self.0.extend(others.0);
    }
}
