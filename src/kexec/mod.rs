//! kexec: the next image, the entry list that moves it into place, and the code that obeys the list.
//!
//! ```text
//! image      a file becomes a checked NextImage, and in its slot a PlacedImage
//! mbi        what the incoming image is told by the Multiboot2 protocol
//! kimage     both become an entry list in pages outside of slot and region
//! idmap      page tables under which the list can be obeyed
//! reloc      one page of assembly that obeys it, and the registers that it is called with
//! simulate   the same in Rust: the oracle of the tests
//! ```
//!
//! Everything up to the list is pure and done while guests run; [`kimage::Kimage::append_breadcrumb`] is all that is
//! left for the pause, and it cannot fail.

pub mod idmap;
pub mod image;
pub mod kimage;
pub mod mbi;
pub mod reloc;
pub mod simulate;

#[cfg(test)]
mod testing;
