//! A record's body, by its layout.

use super::layout::{Field, Item, Items, Kind, Layout, MFN_END, TEXT_MAX, Tail, kind};
use super::rule::RecordRule;
use super::value::{Extent, Map, Value};

/// What is wrong with a body: the rule, and where and why.
pub type Fault = (RecordRule, String);

/// A body that was taken apart as far as it can be.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Its fields.
    pub fields: Map,
    /// Rules that it breaks.
    pub faults: Vec<Fault>,
}

/// Takes a body apart.
pub fn decode(layout: &Layout, body: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let Some((head, tail)) = body.split_at_checked(layout.head_len) else {
        decoded.fault(RecordRule::Short, format!("{} bytes of {}", body.len(), layout.head_len));
        // The fields that are there are looked at all the same.
        let whole = layout.fields.iter().take_while(|field| field.at + field.len <= body.len()).count();
        decode_fields(&layout.fields[..whole], body, 0, &mut decoded.fields, &mut decoded.faults);
        return decoded;
    };
    decode_fields(layout.fields, head, 0, &mut decoded.fields, &mut decoded.faults);
    decode_tail(layout, tail, &mut decoded);
    check_across(layout, &mut decoded);
    decoded
}

impl Decoded {
    fn fault(&mut self, rule: RecordRule, detail: impl Into<String>) {
        self.faults.push((rule, detail.into()));
    }

    /// A field's number; 0 if it has none.
    pub fn number(&self, name: &str) -> u64 {
        number(&self.fields, name)
    }

    /// The list of that name; empty if there is none.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.fields.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }
}

/// A field's number; 0 if it has none.
pub fn number(fields: &Map, name: &str) -> u64 {
    fields.get(name).and_then(Value::number).unwrap_or(0)
}

fn has_flag(fields: &Map, name: &str) -> bool {
    matches!(fields.get("flags"), Some(Value::Flags(flags)) if flags.iter().any(|flag| flag == name))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Fields of a head or an item that begins at `base` in the body.
fn decode_fields(fields: &[Field], bytes: &[u8], base: usize, into: &mut Map, faults: &mut Vec<Fault>) {
    for field in fields {
        let raw = &bytes[field.at..field.at + field.len];
        match decode_field(field.kind, raw) {
            Ok(Some(value)) => {
                into.insert(field.name, value);
            }
            Ok(None) => {}
            Err((rule, what)) => {
                faults.push((rule, format!("{} at {} of the body: {what}", field.name, base + field.at)));
                into.insert(field.name, Value::Hex(little_endian(&raw[..raw.len().min(8)])));
            }
        }
    }
}

fn decode_field(kind: Kind, raw: &[u8]) -> Result<Option<Value>, Fault> {
    let bad = |what: String| Err((RecordRule::BadValue, what));
    let number = little_endian(&raw[..raw.len().min(8)]);
    let value = match kind {
        Kind::Num => Value::Num(number),
        Kind::Hex => Value::Hex(number),
        Kind::Signed => Value::Signed(number.cast_signed()),
        Kind::Range(first, last) if (first..=last).contains(&number) => Value::Num(number),
        Kind::Range(first, last) => return bad(format!("{number:#x} is not from {first:#x} to {last:#x}")),
        Kind::Multiple(of, last) if number.is_multiple_of(of) && number <= last => Value::Num(number),
        Kind::Multiple(of, last) => return bad(format!("{number:#x} is no multiple of {of:#x} up to {last:#x}")),
        Kind::Choice(choices) => match choices.iter().find(|(choice, _)| *choice == number) {
            Some((_, name)) => Value::Text((*name).to_owned()),
            None => return bad(format!("{number} is none of those that there are")),
        },
        Kind::Flags(known) => decode_flags(known, 0, number)?,
        Kind::FlagsAnd(known, more) => {
            if number & known[0].0 == 0 {
                return bad(format!("{number:#x} lacks {:#x}", known[0].0));
            }
            decode_flags(known, more, number)?
        }
        Kind::OptMfn if number == u64::MAX => Value::None,
        Kind::OptMfn if number < MFN_END => Value::Num(number),
        Kind::OptMfn => return bad(format!("{number:#x} is no frame")),
        Kind::Zero(rule) => {
            return match raw.iter().position(|byte| *byte != 0) {
                None => Ok(None),
                Some(at) => Err((rule, format!("byte {at} of it is {:#x}", raw[at]))),
            };
        }
        Kind::Name => {
            let len = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
            if raw[len..].iter().any(|byte| *byte != 0) {
                return bad("there is something behind a NUL".to_owned());
            }
            if !raw[..len].iter().all(|byte| (0x20..=0x7e).contains(byte)) {
                return bad("not all of it is printable ASCII".to_owned());
            }
            Value::Text(String::from_utf8_lossy(&raw[..len]).into_owned())
        }
        Kind::Hexes => Value::Text(raw.iter().map(|byte| format!("{byte:02x}")).collect()),
        Kind::Opaque => bytes(raw),
    };
    Ok(Some(value))
}

fn decode_flags(known: &[(u64, &str)], more: u64, number: u64) -> Result<Value, Fault> {
    let named = known.iter().fold(0, |all, (bit, _)| all | bit);
    if number & !(named | more) != 0 {
        return Err((RecordRule::BadValue, format!("{number:#x} has bits that mean nothing")));
    }
    let mut names: Vec<String> =
        known.iter().filter(|(bit, _)| number & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    if number & more != 0 {
        names.push(format!("{:#x}", number & more));
    }
    Ok(Value::Flags(names))
}

fn bytes(raw: &[u8]) -> Value {
    Value::Bytes { len: raw.len() as u64, crc32c: super::crc32c(raw) }
}

fn decode_tail(layout: &Layout, tail: &[u8], decoded: &mut Decoded) {
    match layout.tail {
        Tail::None => {
            if !tail.is_empty() {
                decoded.fault(RecordRule::Long, format!("{} bytes behind its fields", tail.len()));
            }
        }
        Tail::Text => {
            if tail.len() > TEXT_MAX {
                decoded.fault(RecordRule::Long, format!("a text of {} bytes", tail.len()));
            }
            if let Some(at) = tail.iter().position(|byte| *byte == 0) {
                let at = layout.head_len + at;
                decoded.fault(RecordRule::BadValue, format!("text: a NUL at {at} of the body"));
            }
            decoded.fields.insert("text", Value::Text(String::from_utf8_lossy(tail).into_owned()));
        }
        Tail::Bytes(name, max) => {
            if tail.len() > max {
                decoded.fault(RecordRule::Long, format!("{name} of {} bytes", tail.len()));
            }
            decoded.fields.insert(name, bytes(tail));
        }
        Tail::Printable(name, max) => {
            if tail.len() > max {
                decoded.fault(RecordRule::Long, format!("{name} of {} bytes", tail.len()));
            } else if let Some(at) = tail.iter().position(|byte| !(0x20..0x7f).contains(byte)) {
                let at = layout.head_len + at;
                decoded.fault(RecordRule::BadValue, format!("{name}: a byte at {at} of the body is not printable"));
            }
            decoded.fields.insert(name, Value::Text(String::from_utf8_lossy(tail).into_owned()));
        }
        Tail::Items(name, items) => decode_items(name, items, layout.head_len, tail, decoded),
        Tail::Counted(name) => decode_counted(layout.kind, name, tail, decoded),
    }
}

fn decode_items(name: &'static str, items: Items, base: usize, tail: &[u8], decoded: &mut Decoded) {
    if !tail.len().is_multiple_of(items.len) {
        decoded.fault(RecordRule::NotWhole, format!("{} bytes are no number of {} bytes", tail.len(), items.len));
    }
    if tail.is_empty() && !items.may_be_empty {
        decoded.fault(RecordRule::NotWhole, format!("no {name}"));
    }
    let mut list = Vec::with_capacity(tail.len() / items.len);
    for (index, raw) in tail.chunks_exact(items.len).enumerate() {
        let at = base + index * items.len;
        let value = match items.item {
            Item::Extent => extent(raw).map(Value::Extent),
            Item::HostExtent => extent(raw).and_then(|extent| match extent.pfn {
                None => Ok(Value::Extent(extent)),
                Some(pfn) => Err(format!("pfn {pfn:#x} of a frame that is no guest's")),
            }),
            Item::Pin => pin(raw),
            Item::Fields(fields) => {
                let mut map = Map::new();
                decode_fields(fields, raw, at, &mut map, &mut decoded.faults);
                Ok(Value::Map(map))
            }
        };
        match value {
            Ok(value) => list.push(value),
            Err(what) => decoded.fault(RecordRule::BadValue, format!("{name}[{index}] at {at} of the body: {what}")),
        }
    }
    decoded.fields.insert(name, Value::List(list));
}

/// An extent has 24 bits of its count beside each of the two frame numbers of 40 bits.
fn extent(raw: &[u8]) -> Result<Extent, String> {
    let (first, second) = (little_endian(&raw[..8]), little_endian(&raw[8..]));
    let mask = MFN_END - 1;
    let (mfn, pfn) = (first & mask, second & mask);
    let count = first >> 40 | (second >> 40) << 24;
    let pfn = (pfn != mask).then_some(pfn);
    if count == 0 {
        return Err("its count is 0".to_owned());
    }
    if mfn + count > MFN_END {
        return Err(format!("mfn {mfn:#x} and count {count:#x} go beyond 2^40"));
    }
    if pfn.is_some_and(|pfn| pfn + count > mask) {
        return Err(format!("pfn {:#x} and count {count:#x} go beyond 2^40 - 1", pfn.unwrap_or(0)));
    }
    Ok(Extent { mfn, pfn, count })
}

fn pin(raw: &[u8]) -> Result<Value, String> {
    let number = little_endian(raw);
    let level = (number >> 60) as u8;
    if !(1..=4).contains(&level) {
        return Err(format!("level {level}"));
    }
    if number >> 40 & 0xf_ffff != 0 {
        return Err(format!("bits 59 to 40 of {number:#x} are not zero"));
    }
    Ok(Value::Pin { level, mfn: number & (MFN_END - 1) })
}

/// Frames of a grant table, or of a P2M: the fields say how many.
fn decode_counted(which: u32, name: &'static str, tail: &[u8], decoded: &mut Decoded) {
    let wanted = if which == kind::LU_GRANTS {
        decoded.number("nr_frames").saturating_add(decoded.number("nr_status"))
    } else {
        let (first, last) = (decoded.number("first"), decoded.number("last"));
        if last < first {
            decoded.fault(RecordRule::BadValue, format!("last at 4 of the body: {last} is below the first, {first}"));
            return;
        }
        last / 512 - first / 512 + 1
    };
    let wanted_bytes = wanted.saturating_mul(8);
    if (tail.len() as u64) < wanted_bytes {
        decoded.fault(RecordRule::Short, format!("{} bytes of {name}, {wanted_bytes} are due", tail.len()));
    }
    if tail.len() as u64 > wanted_bytes {
        decoded.fault(RecordRule::Long, format!("{} bytes of {name}, {wanted_bytes} are due", tail.len()));
    }
    let list: Vec<u64> = tail.chunks_exact(8).map(little_endian).collect();
    for (index, number) in list.iter().enumerate().filter(|(_, number)| **number >= MFN_END) {
        decoded.fault(RecordRule::BadValue, format!("{name}[{index}]: {number:#x} is 2^40 or more"));
    }
    decoded.fields.insert(name, Value::List(list.into_iter().map(Value::Num).collect()));
}

/// Rules about several fields of one record, or one item.
fn check_across(layout: &Layout, decoded: &mut Decoded) {
    let bad = |decoded: &mut Decoded, what: String| decoded.fault(RecordRule::BadValue, what);
    match layout.kind {
        kind::LU_MODULE => {
            let (mfn, len) = (decoded.number("mfn"), decoded.number("len_bytes"));
            if mfn.saturating_add(len.div_ceil(4096)) > MFN_END {
                bad(decoded, format!("len_bytes at 8 of the body: {len:#x} bytes from mfn {mfn:#x} go beyond 2^40"));
            }
        }
        kind::LU_LOG => {
            let (mfn, nr) = (decoded.number("mfn"), decoded.number("nr_frames"));
            if mfn.saturating_add(nr) > MFN_END {
                bad(decoded, format!("nr_frames at 8 of the body: {nr:#x} frames from mfn {mfn:#x} go beyond 2^40"));
            }
        }
        kind::LU_GRANTS => {
            let (nr, max, status) =
                (decoded.number("nr_frames"), decoded.number("max_frames"), decoded.number("nr_status"));
            if nr > max {
                bad(decoded, format!("nr_frames at 12 of the body: {nr} are more than {max}"));
            }
            let due = if decoded.number("version") == 2 { nr.div_ceil(8) } else { 0 };
            if status != due {
                bad(decoded, format!("nr_status at 16 of the body: {status}, {due} are due"));
            }
        }
        kind::LU_EVTCHN => check_items(decoded, "channels", check_channel),
        kind::LU_GRANTS_IN_USE => check_items(decoded, "grants", |grant| {
            let unused = number(grant, "reads") == 0 && number(grant, "writes") == 0;
            unused.then(|| "no mapping".to_owned())
        }),
        _ => {}
    }
}

fn check_items(decoded: &mut Decoded, name: &str, fault: impl Fn(&Map) -> Option<String>) {
    let mut faults = Vec::new();
    for (index, item) in decoded.list(name).iter().enumerate() {
        if let Value::Map(item) = item
            && let Some(what) = fault(item)
        {
            faults.push((RecordRule::BadValue, format!("{name}[{index}]: {what}")));
        }
    }
    decoded.faults.extend(faults);
}

/// The domain number that stands for the hypervisor at the other end of an event channel.
const DOMID_HYPERVISOR: u64 = 0x7ff2;

fn check_channel(channel: &Map) -> Option<String> {
    let Some(Value::Text(state)) = channel.get("state") else { return None };
    let (domain, remote) = (number(channel, "remote_domain"), number(channel, "remote"));
    if has_flag(channel, "hypervisor") {
        let fits = state == "interdomain" && domain == DOMID_HYPERVISOR && matches!(remote, 1 | 2);
        return (!fits).then(|| format!("{state}, domain {domain:#x}, port {remote}: the hypervisor's end is another"));
    }
    match state.as_str() {
        "interdomain" if !(1..=super::layout::PORT_MAX).contains(&remote) => Some(format!("remote port {remote}")),
        "unbound" | "ipi" if remote != 0 => Some(format!("{state} with {remote} at the other end")),
        "pirq" | "virq" | "ipi" if domain != 0 => Some(format!("{state} with the domain {domain:#x}")),
        _ => None,
    }
}
