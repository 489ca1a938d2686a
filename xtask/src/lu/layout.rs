//! What the layout of a record is made of, docs/handover.md §5: fields, what follows them, where the record stands.

use super::rule::RecordRule;

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any number.
    Num,
    /// Any number, which is shown in hexadecimal.
    Hex,
    /// Any number, signed.
    Signed,
    /// From the first to the last.
    Range(u64, u64),
    /// A multiple of the number, at most the other.
    Multiple(u64, u64),
    /// One of these.
    Choice(&'static [(u64, &'static str)]),
    /// Any of these, put together.
    Flags(&'static [(u64, &'static str)]),
    /// [`Kind::Flags`], of which the first has to be there; and any of the bits of the mask beside them.
    FlagsAnd(&'static [(u64, &'static str)], u64),
    /// A frame, or none.
    OptMfn,
    /// Zero, or the rule is broken.
    Zero(RecordRule),
    /// Printable ASCII, then NULs only.
    Name,
    /// Bytes that are shown as they are.
    Hexes,
    /// Bytes that say nothing here.
    Opaque,
}

/// A field of a body or an item.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset from the start of the body, or of the item.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    /// The key under which it is shown.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
}

/// What follows the fields of a body.
#[derive(Clone, Copy, Debug)]
pub enum Tail {
    /// Nothing.
    None,
    /// Text of up to so many bytes, of those characters.
    Text(&'static str, usize, Chars),
    /// Up to so many bytes.
    Bytes(&'static str, usize),
    /// Items of so many bytes.
    Items(&'static str, Items),
    /// Frames, or pfns, 8 bytes each; how many, the fields say.
    Counted(&'static str),
}

/// What a text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chars {
    /// Any bytes.
    Any,
    /// Any but NUL.
    NoNul,
    /// Printable ASCII.
    Printable,
}

/// Items of one layout.
#[derive(Clone, Copy, Debug)]
pub struct Items {
    /// Bytes of each.
    pub len: usize,
    /// Its layout.
    pub item: Item,
    /// False if there has to be one.
    pub may_be_empty: bool,
}

/// The layout of an item.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// Fields of whole bytes.
    Fields(&'static [Field]),
    /// An extent.
    Extent,
    /// An extent that has no pfn.
    HostExtent,
    /// A page table and its level.
    Pin,
}

/// The layout of a record's body.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The record's type.
    pub kind: u32,
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// How many there are.
    pub count: Count,
    /// The first stream version that has it.
    pub since: u32,
    /// Bytes of the fields, those that are reserved included.
    pub head_len: usize,
    /// The fields.
    pub fields: &'static [Field],
    /// What follows them.
    pub tail: Tail,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Outside of domains.
    Host,
    /// Between DOMAIN_BEGIN and DOMAIN_END.
    Domain,
}

/// How many records of a type there are, in the stream or in the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// At most one.
    Once,
    /// Any number.
    Any,
    /// At most so many.
    AtMost(usize),
    /// Exactly one.
    Must,
}

/// Frames end here, and lengths of a stream.
pub const MFN_END: u64 = 1 << 40;
/// The first number that is no domain's.
pub const DOMID_END: u64 = 0x7ff0;
/// The greatest port.
pub const PORT_MAX: u64 = (1 << 17) - 1;
/// The longest text.
pub const TEXT_MAX: usize = 65536;

/// Bit 31 of a type: it may be passed over.
pub const OPTIONAL: u32 = 1 << 31;
/// Bit 30 of a type: it exists only in live-update streams.
pub const LIVE_UPDATE: u32 = 1 << 30;

/// Types that something here asks for, by the specification's names.
pub mod kind {
    pub const END: u32 = 0;
    pub const X86_PV_INFO: u32 = 2;
    pub const X86_PV_P2M_FRAMES: u32 = 3;
    pub const X86_PV_VCPU_BASIC: u32 = 4;
    pub const X86_PV_VCPU_XSAVE: u32 = 6;
    pub const STATIC_DATA_END: u32 = 0x10;
    pub const LU_VERSION: u32 = 0x4000_0000;
    pub const LU_TIME: u32 = 0x4000_0001;
    pub const LU_MODULE: u32 = 0x4000_0004;
    pub const LU_XEN_PAGES: u32 = 0x4000_0005;
    pub const LU_M2P: u32 = 0x4000_0006;
    pub const LU_LOG: u32 = 0x4000_0007;
    pub const LU_HISTORY: u32 = 0xc000_0009;
    pub const LU_BAD_FRAMES: u32 = 0x4000_000a;
    pub const DOMAIN_BEGIN: u32 = 0x4000_0010;
    pub const LU_EXTENTS: u32 = 0x4000_0011;
    pub const LU_EVTCHN: u32 = 0x4000_0013;
    pub const LU_VCPU: u32 = 0x4000_0014;
    pub const LU_GRANTS: u32 = 0x4000_0016;
    pub const LU_LINGERING: u32 = 0x4000_0019;
    pub const LU_GRANTS_IN_USE: u32 = 0x4000_001a;
    pub const LU_GRANT_MAPS: u32 = 0x4000_001b;
    pub const LU_DOMAIN_SUM: u32 = 0x4000_001e;
    pub const LU_REFUSED: u32 = 0xc000_0010;
    pub const DOMAIN_END: u32 = 0x4000_001f;
}
