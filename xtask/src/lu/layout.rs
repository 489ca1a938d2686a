//! The layouts of the records as docs/handover.md §5 has them: tables of fields.

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
    /// Text without a NUL.
    Text,
    /// Up to so many bytes.
    Bytes(&'static str, usize),
    /// Up to so many bytes of printable ASCII.
    Printable(&'static str, usize),
    /// Items of so many bytes.
    Items(&'static str, Items),
    /// Frames, or pfns, 8 bytes each; how many, the fields say.
    Counted(&'static str),
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
    /// An extent that no guest sees: without a pfn.
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
    /// Exactly one.
    Must,
}

/// Frames end here, and lengths of a stream.
pub const MFN_END: u64 = 1 << 40;
/// The first number that is no domain's.
pub const DOMID_END: u64 = 0x7ff0;
/// The greatest port.
pub const PORT_MAX: u64 = (1 << 17) - 1;
/// The most LU_HISTORY records.
pub const HISTORY_MAX: usize = 64;
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
    pub const DOMAIN_BEGIN: u32 = 0x4000_0010;
    pub const LU_EXTENTS: u32 = 0x4000_0011;
    pub const LU_EVTCHN: u32 = 0x4000_0013;
    pub const LU_VCPU: u32 = 0x4000_0014;
    pub const LU_GRANTS: u32 = 0x4000_0016;
    pub const LU_LINGERING: u32 = 0x4000_0019;
    pub const LU_GRANTS_IN_USE: u32 = 0x4000_001a;
    pub const LU_GRANT_MAPS: u32 = 0x4000_001b;
    pub const LU_DOMAIN_SUM: u32 = 0x4000_001e;
    pub const DOMAIN_END: u32 = 0x4000_001f;
}

/// The layout of a type in a stream of that version; none if the type is unknown there.
pub fn layout_of(kind: u32, version: u32) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.kind == kind && layout.since <= version)
}

const fn f(at: usize, len: usize, name: &'static str, kind: Kind) -> Field {
    Field { at, len, name, kind }
}
const fn reserved(at: usize, len: usize) -> Field {
    f(at, len, "reserved", Kind::Zero(RecordRule::Reserved))
}
const fn mfn(at: usize, name: &'static str) -> Field {
    f(at, 8, name, Kind::Range(0, MFN_END - 1))
}
const fn host(kind: u32, name: &'static str, count: Count, head_len: usize, fields: &'static [Field]) -> Layout {
    Layout { kind, name, place: Place::Host, count, since: 1, head_len, fields, tail: Tail::None }
}
const fn domain(kind: u32, name: &'static str, count: Count, head_len: usize, fields: &'static [Field]) -> Layout {
    Layout { kind, name, place: Place::Domain, count, since: 1, head_len, fields, tail: Tail::None }
}
const fn with(layout: Layout, tail: Tail) -> Layout {
    Layout { tail, ..layout }
}
const fn items(len: usize, fields: &'static [Field]) -> Items {
    Items { len, item: Item::Fields(fields), may_be_empty: false }
}

const EXTENTS: Tail = Tail::Items("extents", Items { len: 16, item: Item::Extent, may_be_empty: false });
const HOST_EXTENTS: Tail = Tail::Items("extents", Items { len: 16, item: Item::HostExtent, may_be_empty: false });
const PINS: Tail = Tail::Items("tables", Items { len: 8, item: Item::Pin, may_be_empty: false });

/// Every record, in the order of the specification's table.
pub const LAYOUTS: &[Layout] = &[
    host(
        kind::LU_VERSION,
        "LU_VERSION",
        Count::Must,
        64,
        &[
            f(0, 4, "version", Kind::Range(1, 2)),
            reserved(4, 4),
            f(8, 8, "update", Kind::Range(1, u64::MAX)),
            f(16, 48, "build", Kind::Name),
        ],
    ),
    host(
        kind::LU_TIME,
        "LU_TIME",
        Count::Must,
        48,
        &[
            f(0, 8, "tsc", Kind::Num),
            f(8, 8, "system_time_ns", Kind::Num),
            f(16, 8, "tsc_hz", Kind::Range(1, u64::MAX)),
            f(24, 8, "apic_hz", Kind::Num),
            f(32, 8, "wallclock_s", Kind::Num),
            f(40, 4, "wallclock_ns", Kind::Range(0, 999_999_999)),
            reserved(44, 4),
        ],
    ),
    with(
        host(0x4000_0002, "LU_STAGES", Count::Once, 0, &[]),
        Tail::Items(
            "stages",
            Items {
                len: 16,
                item: Item::Fields(&[
                    f(0, 4, "stage", Kind::Num),
                    f(4, 4, "reserved", Kind::Zero(RecordRule::BadValue)),
                    f(8, 8, "tsc", Kind::Num),
                ]),
                may_be_empty: true,
            },
        ),
    ),
    with(host(0x4000_0003, "LU_CMDLINE", Count::Once, 0, &[]), Tail::Text),
    with(
        host(kind::LU_MODULE, "LU_MODULE", Count::Any, 16, &[mfn(0, "mfn"), f(8, 8, "len_bytes", Kind::Num)]),
        Tail::Text,
    ),
    with(
        host(
            kind::LU_XEN_PAGES,
            "LU_XEN_PAGES",
            Count::Any,
            8,
            &[
                f(
                    0,
                    4,
                    "kind",
                    Kind::Choice(&[(1, "M2P"), (2, "log"), (3, "modules"), (4, "staged image"), (5, "other")]),
                ),
                reserved(4, 4),
            ],
        ),
        HOST_EXTENTS,
    ),
    with(
        host(kind::LU_M2P, "LU_M2P", Count::Once, 0, &[]),
        Tail::Items(
            "blocks",
            items(
                16,
                &[
                    f(0, 8, "first", Kind::Multiple(0x40000, MFN_END - 1)),
                    f(8, 8, "mfn", Kind::Multiple(512, MFN_END - 1)),
                ],
            ),
        ),
    ),
    host(
        kind::LU_LOG,
        "LU_LOG",
        Count::Once,
        32,
        &[
            mfn(0, "mfn"),
            f(8, 8, "nr_frames", Kind::Range(1, MFN_END)),
            f(16, 8, "head", Kind::Num),
            f(24, 8, "tail", Kind::Num),
        ],
    ),
    host(
        0x4000_0008,
        "LU_HOST",
        Count::Once,
        80,
        &[
            f(0, 8, "automatic_updates", Kind::Num),
            f(8, 8, "next_update_ns", Kind::Num),
            f(
                16,
                8,
                "flags",
                Kind::Flags(&[(1, "finish typed"), (2, "domain failed"), (4, "ledger mismatch"), (8, "refused")]),
            ),
            f(24, 8, "refusals", Kind::Num),
            f(32, 2, "keyboard", Kind::Num),
            f(34, 2, "next_domain", Kind::Num),
            reserved(36, 4),
            f(40, 8, "finish_ns", Kind::Num),
            f(48, 8, "domains_ended", Kind::Num),
            reserved(56, 24),
        ],
    ),
    Layout { since: 2, ..with(host(0x4000_000a, "LU_BAD_FRAMES", Count::Any, 0, &[]), HOST_EXTENTS) },
    with(
        host(
            kind::LU_HISTORY,
            "LU_HISTORY",
            Count::Any,
            200,
            &[
                f(0, 8, "entry", Kind::Range(1, u64::MAX)),
                f(8, 8, "update", Kind::Range(1, u64::MAX)),
                f(16, 4, "outcome", Kind::Choice(&[(1, "came about"), (2, "refused"), (3, "given up")])),
                f(20, 4, "domains", Kind::Num),
                f(24, 8, "at_ns", Kind::Num),
                f(32, 8, "pause_ns", Kind::Num),
                f(40, 8, "save_ns", Kind::Num),
                f(48, 8, "relocate_ns", Kind::Num),
                f(56, 8, "boot_ns", Kind::Num),
                f(64, 8, "restore_ns", Kind::Num),
                f(72, 8, "resume_ns", Kind::Num),
                f(80, 8, "extents", Kind::Num),
                f(88, 8, "frames", Kind::Num),
                f(96, 8, "stream_bytes", Kind::Num),
                f(104, 48, "from", Kind::Name),
                f(152, 48, "to", Kind::Name),
            ],
        ),
        Tail::Printable("reason", 256),
    ),
    // One a domain, and it opens the domain that its own rules are about: the order of records sees to that.
    host(
        kind::DOMAIN_BEGIN,
        "DOMAIN_BEGIN",
        Count::Any,
        144,
        &[
            f(0, 2, "domain", Kind::Range(0, DOMID_END - 1)),
            f(
                2,
                2,
                "flags",
                Kind::Flags(&[(1, "privileged"), (2, "dying"), (4, "shut down"), (8, "paused"), (16, "being built")]),
            ),
            f(4, 4, "shutdown_reason", Kind::Num),
            f(8, 8, "max_frames", Kind::Num),
            f(16, 8, "shared_info", Kind::OptMfn),
            f(24, 8, "console_ring", Kind::OptMfn),
            f(32, 4, "console_port", Kind::Num),
            f(36, 4, "store_port", Kind::Num),
            f(40, 8, "store_ring", Kind::OptMfn),
            f(48, 4, "nr_vcpus", Kind::Num),
            f(52, 4, "pauses", Kind::Num),
            f(56, 16, "handle", Kind::Hexes),
            f(72, 32, "name", Kind::Name),
            f(104, 8, "wallclock_ahead_s", Kind::Signed),
            f(112, 8, "vm_assist", Kind::Hex),
            reserved(120, 24),
        ],
    ),
    with(domain(kind::LU_EXTENTS, "LU_EXTENTS", Count::Any, 0, &[]), EXTENTS),
    with(domain(0x4000_0012, "LU_PINNED", Count::Any, 0, &[]), PINS),
    with(
        domain(kind::LU_EVTCHN, "LU_EVTCHN", Count::Any, 0, &[]),
        Tail::Items(
            "channels",
            items(
                16,
                &[
                    f(0, 4, "port", Kind::Range(1, PORT_MAX)),
                    f(
                        4,
                        1,
                        "state",
                        Kind::Choice(&[(1, "unbound"), (2, "interdomain"), (3, "pirq"), (4, "virq"), (5, "ipi")]),
                    ),
                    f(5, 1, "flags", Kind::Flags(&[(1, "hypervisor")])),
                    f(6, 2, "remote_domain", Kind::Num),
                    f(8, 4, "remote", Kind::Num),
                    f(12, 4, "vcpu", Kind::Num),
                ],
            ),
        ),
    ),
    domain(kind::LU_VCPU, "LU_VCPU", Count::Any, 256, VCPU),
    with(domain(0x4000_0015, "LU_CMDLINE_MODULE", Count::Once, 0, &[]), Tail::Text),
    with(
        domain(
            kind::LU_GRANTS,
            "LU_GRANTS",
            Count::Once,
            24,
            &[
                f(0, 4, "version", Kind::Range(1, 2)),
                f(4, 4, "max_frames", Kind::Range(0, 4096)),
                f(8, 4, "max_maps", Kind::Range(0, 1 << 20)),
                f(12, 4, "nr_frames", Kind::Num),
                f(16, 4, "nr_status", Kind::Num),
                reserved(20, 4),
            ],
        ),
        Tail::Counted("frames"),
    ),
    with(domain(0x4000_0017, "LU_LINEAR", Count::Any, 0, &[]), PINS),
    with(domain(0x4000_0018, "LU_CONSOLE", Count::Once, 0, &[]), Tail::Bytes("bytes", TEXT_MAX)),
    with(
        domain(kind::LU_LINGERING, "LU_LINGERING", Count::Any, 0, &[]),
        Tail::Items("frames", items(8, &[mfn(0, "mfn")])),
    ),
    with(
        domain(kind::LU_GRANTS_IN_USE, "LU_GRANTS_IN_USE", Count::Any, 0, &[]),
        Tail::Items(
            "grants",
            items(
                16,
                &[
                    f(0, 4, "entry", Kind::Num),
                    f(4, 2, "domain", Kind::Range(0, DOMID_END - 1)),
                    f(6, 1, "reads", Kind::Range(0, 128)),
                    f(7, 1, "writes", Kind::Range(0, 128)),
                    mfn(8, "mfn"),
                ],
            ),
        ),
    ),
    with(
        domain(kind::LU_GRANT_MAPS, "LU_GRANT_MAPS", Count::Any, 0, &[]),
        Tail::Items(
            "maps",
            items(
                16,
                &[
                    f(0, 4, "handle", Kind::Num),
                    f(4, 4, "entry", Kind::Num),
                    f(8, 2, "granter", Kind::Range(0, DOMID_END - 1)),
                    f(10, 2, "reserved", Kind::Zero(RecordRule::BadValue)),
                    f(
                        12,
                        4,
                        "flags",
                        Kind::FlagsAnd(&[(2, "host"), (4, "read-only"), (8, "application"), (16, "pte")], 0xffff_0000),
                    ),
                ],
            ),
        ),
    ),
    with(domain(0x4000_001c, "LU_TYPED", Count::Once, 0, &[]), Tail::Bytes("bytes", TEXT_MAX)),
    domain(
        0x4000_001d,
        "LU_WATCHDOGS",
        Count::Once,
        16,
        &[f(0, 8, "first_ns", Kind::Num), f(8, 8, "second_ns", Kind::Num)],
    ),
    with(
        domain(
            0xc000_0010,
            "LU_REFUSED",
            Count::Once,
            8,
            &[f(0, 4, "goes_on", Kind::Choice(&[(1, "as it came"), (2, "lost")])), f(4, 4, "nr_vcpus", Kind::Num)],
        ),
        Tail::Bytes("why", 512),
    ),
    Layout {
        since: 2,
        ..domain(
            kind::LU_DOMAIN_SUM,
            "LU_DOMAIN_SUM",
            Count::Must,
            32,
            &[
                f(0, 8, "frames", Kind::Num),
                f(8, 8, "extents", Kind::Num),
                f(16, 8, "records", Kind::Num),
                f(24, 4, "crc32c", Kind::Hex),
                reserved(28, 4),
            ],
        )
    },
    domain(kind::DOMAIN_END, "DOMAIN_END", Count::Must, 0, &[]),
    domain(
        kind::X86_PV_INFO,
        "X86_PV_INFO",
        Count::Must,
        8,
        &[f(0, 1, "width", Kind::Range(8, 8)), f(1, 1, "levels", Kind::Range(4, 4)), reserved(2, 6)],
    ),
    with(
        domain(
            kind::X86_PV_P2M_FRAMES,
            "X86_PV_P2M_FRAMES",
            Count::Once,
            8,
            &[f(0, 4, "first", Kind::Num), f(4, 4, "last", Kind::Num)],
        ),
        Tail::Counted("pfns"),
    ),
    domain(
        kind::X86_PV_VCPU_BASIC,
        "X86_PV_VCPU_BASIC",
        Count::Any,
        5176,
        &[f(0, 4, "vcpu", Kind::Num), reserved(4, 4), f(8, 5168, "context", Kind::Opaque)],
    ),
    with(
        domain(
            kind::X86_PV_VCPU_XSAVE,
            "X86_PV_VCPU_XSAVE",
            Count::Any,
            24,
            &[f(0, 4, "vcpu", Kind::Num), reserved(4, 4), f(8, 8, "xcr0", Kind::Hex), f(16, 8, "xcr0_ever", Kind::Hex)],
        ),
        Tail::Bytes("area", TEXT_MAX),
    ),
    domain(7, "SHARED_INFO", Count::Once, 4096, &[f(0, 4096, "page", Kind::Opaque)]),
    domain(
        8,
        "X86_TSC_INFO",
        Count::Once,
        24,
        &[
            f(0, 4, "mode", Kind::Num),
            f(4, 4, "khz", Kind::Num),
            f(8, 8, "ns", Kind::Num),
            f(16, 4, "incarnation", Kind::Num),
            reserved(20, 4),
        ],
    ),
    domain(kind::STATIC_DATA_END, "STATIC_DATA_END", Count::Must, 0, &[]),
];

const VCPU: &[Field] = &[
    f(0, 4, "vcpu", Kind::Num),
    f(
        4,
        4,
        "flags",
        Kind::Flags(&[(1, "kernel"), (2, "context"), (4, "up"), (8, "blocked"), (16, "polling"), (32, "yielded")]),
    ),
    f(8, 8, "user_table", Kind::OptMfn),
    f(16, 8, "kernel_table", Kind::OptMfn),
    f(24, 8, "vcpu_info", Kind::OptMfn),
    f(32, 4, "vcpu_info_offset", Kind::Multiple(8, 4032)),
    f(36, 4, "polled_port", Kind::Num),
    f(40, 8, "runstate_area", Kind::Hex),
    f(48, 4, "runstate", Kind::Choice(&[(0, "running"), (1, "runnable"), (2, "blocked"), (3, "offline")])),
    reserved(52, 4),
    f(56, 8, "runstate_entered_ns", Kind::Num),
    f(64, 8, "running_ns", Kind::Num),
    f(72, 8, "runnable_ns", Kind::Num),
    f(80, 8, "blocked_ns", Kind::Num),
    f(88, 8, "offline_ns", Kind::Num),
    f(96, 8, "time_area", Kind::Hex),
    f(104, 8, "singleshot_ns", Kind::Num),
    f(112, 8, "period_ns", Kind::Num),
    f(120, 8, "periodic_ns", Kind::Num),
    f(128, 8, "event_callback", Kind::Hex),
    f(136, 8, "failsafe_callback", Kind::Hex),
    f(144, 8, "syscall_callback", Kind::Hex),
    f(152, 8, "syscall32_callback", Kind::Hex),
    f(160, 8, "sysenter_callback", Kind::Hex),
    f(168, 8, "nmi_callback", Kind::Hex),
    f(
        176,
        4,
        "masking",
        Kind::Flags(&[(1, "event"), (2, "failsafe"), (4, "syscall"), (8, "syscall32"), (16, "sysenter"), (32, "nmi")]),
    ),
    f(180, 4, "iopl", Kind::Range(0, 3)),
    f(184, 4, "pending", Kind::Flags(&[(1, "nmi"), (2, "machine check"), (4, "nmi kept back")])),
    reserved(188, 4),
    f(192, 8, "poll_until_ns", Kind::Num),
    f(200, 8, "io_bitmap", Kind::Hex),
    f(208, 4, "io_ports", Kind::Range(0, 65536)),
    reserved(212, 44),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fill_their_heads_without_gap_or_overlap() {
        let check = |name: &str, fields: &[Field], len: usize| {
            let end = fields.iter().fold(0, |end, field| {
                assert_eq!(field.at, end, "{name}: {}", field.name);
                end + field.len
            });
            assert_eq!(end, len, "{name}");
        };
        for layout in LAYOUTS {
            check(layout.name, layout.fields, layout.head_len);
            if let Tail::Items(_, Items { len, item: Item::Fields(fields), .. }) = layout.tail {
                check(layout.name, fields, len);
            }
        }
    }

    #[test]
    fn types_are_there_once_and_follow_the_versions() {
        for (index, layout) in LAYOUTS.iter().enumerate() {
            assert!(LAYOUTS[..index].iter().all(|other| other.kind != layout.kind && other.name != layout.name));
            assert!(layout_of(layout.kind, 2).is_some());
        }
        assert!(layout_of(kind::LU_DOMAIN_SUM, 1).is_none());
        assert_eq!(layout_of(kind::LU_VERSION, 1).map(|l| l.name), Some("LU_VERSION"));
    }
}
