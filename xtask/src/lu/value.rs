//! What a record says, as a tree that can be printed.

use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use std::fmt;

/// A part of a record's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Num(u64),
    /// A number with a sign.
    Signed(i64),
    /// A number that is shown in hexadecimal, a string in JSON.
    Hex(u64),
    /// No frame.
    None,
    /// Text.
    Text(String),
    /// Names of bits, and the bits that have none as one number.
    Flags(Vec<String>),
    /// Bytes, of which length and CRC-32C are shown.
    Bytes {
        /// How many.
        len: u64,
        /// Their CRC-32C.
        crc32c: u32,
    },
    /// Frames of a domain, or of the hypervisor.
    Extent(Extent),
    /// A page table.
    Pin {
        /// 1 to 4.
        level: u8,
        /// Its frame.
        mfn: u64,
    },
    /// Several by their names.
    Map(Map),
    /// Several in a row.
    List(Vec<Value>),
}

/// Fields by their names, in their order.
pub type Map = IndexMap<&'static str, Value>;

/// Frames that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The first frame.
    pub mfn: u64,
    /// Where the guest sees it.
    pub pfn: Option<u64>,
    /// How many.
    pub count: u64,
}

impl Value {
    /// The number in it.
    pub fn number(&self) -> Option<u64> {
        match *self {
            Self::Num(number) | Self::Hex(number) => Some(number),
            _ => None,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Bytes {
            len: u64,
            crc32c: String,
        }
        #[derive(Serialize)]
        struct Pin {
            level: u8,
            mfn: u64,
        }
        match self {
            Self::Num(number) => number.serialize(serializer),
            Self::Signed(number) => number.serialize(serializer),
            Self::Hex(number) => format!("{number:#x}").serialize(serializer),
            Self::None => serializer.serialize_none(),
            Self::Text(text) => text.serialize(serializer),
            Self::Flags(names) => names.serialize(serializer),
            Self::Bytes { len, crc32c } => Bytes { len: *len, crc32c: format!("{crc32c:#010x}") }.serialize(serializer),
            Self::Extent(extent) => extent.serialize(serializer),
            Self::Pin { level, mfn } => Pin { level: *level, mfn: *mfn }.serialize(serializer),
            Self::Map(map) => map.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

/// On one line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => write!(f, "{number}"),
            Self::Signed(number) => write!(f, "{number}"),
            Self::Hex(number) => write!(f, "{number:#x}"),
            Self::None => f.write_str("none"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Flags(names) if names.is_empty() => f.write_str("none"),
            Self::Flags(names) => f.write_str(&names.join(", ")),
            Self::Bytes { len, crc32c } => write!(f, "{len} bytes, CRC-32C {crc32c:#010x}"),
            Self::Extent(Extent { mfn, pfn, count }) => {
                write!(f, "mfn {mfn:#x} count {count}")?;
                pfn.map_or(f.write_str(" no pfn"), |pfn| write!(f, " pfn {pfn:#x}"))
            }
            Self::Pin { level, mfn } => write!(f, "L{level} mfn {mfn:#x}"),
            Self::Map(map) => {
                for (index, (name, value)) in map.iter().enumerate() {
                    write!(f, "{}{name} {value}", if index == 0 { "" } else { " " })?;
                }
                Ok(())
            }
            Self::List(list) => write!(f, "{} items", list.len()),
        }
    }
}
