//! Where in its page the relocation code of a build leaves for the image.

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use std::fs;
use std::path::Path;

/// The relocation code of one build.
pub struct Relocation {
    /// Bytes from the start of the page to the instruction behind the last entry of the list.
    pub leave_offset: u64,
    /// The code up to there.
    code: Vec<u8>,
}

impl Relocation {
    /// Takes it from a build's file with symbols.
    pub fn of_file(path: &Path) -> Result<Self> {
        let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::of_elf(&file).with_context(|| format!("{} has no relocation code", path.display()))
    }

    fn of_elf(file: &[u8]) -> Result<Self> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("not an ELF file")?;
        let (symbols, names) = elf.symbol_table()?.context("it has no symbols")?;
        let value_of = |wanted: &str| {
            let named = |symbol: &elf::symbol::Symbol| names.get(symbol.st_name as usize).is_ok_and(|n| n == wanted);
            symbols.iter().find(named).map(|symbol| symbol.st_value).with_context(|| format!("no symbol {wanted}"))
        };
        let (start, leave) = (value_of("reloc_start")?, value_of("reloc_leave")?);
        ensure!((start + 1..start + super::FRAME_BYTES).contains(&leave), "reloc_leave is not in the page");
        let segments = elf.segments().context("no program headers")?;
        let segment = segments
            .iter()
            .find(|s| s.p_type == PT_LOAD && (s.p_vaddr..s.p_vaddr + s.p_filesz).contains(&start))
            .context("no segment has it")?;
        let from = usize::try_from(segment.p_offset + (start - segment.p_vaddr))?;
        let leave_offset = leave - start;
        let code = file.get(from..from + leave_offset as usize).context("it is cut off")?.to_vec();
        Ok(Self { leave_offset, code })
    }

    /// True if this is the code in that page. It has written nothing to itself up to where it leaves.
    pub fn is_in(&self, page: &[u8]) -> bool {
        page.starts_with(&self.code)
    }
}
